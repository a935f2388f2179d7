"""The executable of `warm`: asks the server for a process, hands on signals, and ends as it ends.

With the standard library alone and little of it, for it starts as often as what it stands for.
"""

import _socket
import os
import signal
import sys


def main(address: str, python: str) -> None:
    """Never returns; without a server the words go to the real interpreter."""
    import array
    import json

    words = sys.argv[1:]
    connection = _socket.socket(_socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        os.execv(python, [python, *words])
    numbers = _descriptors(connection.fileno())
    message = json.dumps(
        {
            "words": words,
            "env": dict(os.environ),
            "cwd": os.getcwd(),
            "descriptors": numbers,
        }
    ).encode()
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", numbers).tobytes())]
    connection.sendmsg([len(message).to_bytes(4, "big")], rights)
    connection.sendall(message)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += connection.recv(1)
    pid = int(answer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda got, _: os.kill(pid, got))
    status = int(connection.recv(16) or b"1")
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def _descriptors(own: int) -> list[int]:
    """What a program that is started would inherit."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) != own and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            pass
    return sorted(found)

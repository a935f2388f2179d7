"""A Python for tests that need not import torch first: a server has imported it, and forks.

torch takes seconds of processor time to import, and the tests start hundreds of programs that do. `python()` is the
path of an executable that takes the words of an interpreter (`-m module`, `-c code`, a script) and runs them in a
process forked from such a server, with the environment, folder and descriptors that it was given; programs that start
`sys.executable` again, as launchers start ranks, get the same. It ends as that process ends, hands on signals, and
takes it along when it is killed.

What is not as in a fresh interpreter: torch was loaded with the server's environment (one thread a process).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    "torch", "torch.distributed", "torch.distributed.launcher.api", "torch.utils.checkpoint", "numpy",
    "pyarrow.parquet", "safetensors.torch", "yaml", "rustbpe", "tiktoken",
)  # fmt: skip
MOST_DESCRIPTORS = 64
INTERRUPTED = -signal.SIGINT

_SHIM = """#!{python} -IS
import sys
sys.path.insert(0, {here!r})
import warm_client
warm_client.main({address!r}, {python!r})
"""
_made: dict[str, str] = {}


def python(real: str = sys.executable) -> str:
    """The executable that stands for `real`; its server starts with the first call and ends with this process."""
    if real not in _made:
        folder = Path(tempfile.mkdtemp(prefix="warm-"))
        address, program = folder / "socket", folder / "python"
        ready, written = os.pipe()
        server = subprocess.Popen(
            [real, __file__, str(address), str(program), str(written)],
            cwd="/",
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
            pass_fds=[written],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(written)
        atexit.register(server.kill)
        assert os.read(ready, 1), "the warm server did not start"
        here = str(Path(__file__).parent)
        program.write_text(_SHIM.format(python=real, here=here, address=str(address)))
        program.chmod(0o755)
        _made[real] = str(program)
    return _made[real]


# --- the server -------------------------------------------------------------------------------


def serve(address: str, program: str, ready: int) -> NoReturn:
    """Fork a child for every request until killed."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    ended, wake = socket.socketpair()
    for end in (ended, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    events = selectors.DefaultSelector()
    events.register(listener, selectors.EVENT_READ)
    events.register(ended, selectors.EVENT_READ)
    children: dict[int, socket.socket] = {}
    os.write(ready, b"1")
    os.close(ready)
    while True:
        for key, _ in events.select():
            if key.fileobj is listener:
                _accept(listener, program, children, events)
            elif key.fileobj is ended:
                with contextlib.suppress(BlockingIOError):
                    ended.recv(4096)
                _reap(children, events)
            else:
                # The client is gone, most likely killed: its program goes with it.
                pid = key.data
                events.unregister(key.fileobj)
                children.pop(pid).close()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _accept(
    listener: socket.socket,
    program: str,
    children: dict[int, socket.socket],
    events: selectors.BaseSelector,
) -> None:
    client, _ = listener.accept()
    message, descriptors, _, _ = socket.recv_fds(client, 4, MOST_DESCRIPTORS)
    size = int.from_bytes(message, "big")
    data = b""
    while len(data) < size:
        data += client.recv(size - len(data))
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        listener.close()
        client.close()
        for other in children.values():
            other.close()
        _become(json.loads(data), descriptors, program)
    for descriptor in descriptors:
        os.close(descriptor)
    client.sendall(f"{pid}\n".encode())
    children[pid] = client
    events.register(client, selectors.EVENT_READ, pid)


def _reap(children: dict[int, socket.socket], events: selectors.BaseSelector) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if client := children.pop(pid, None):
            events.unregister(client)
            with contextlib.suppress(OSError):
                client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            client.close()


def _become(request: dict[str, Any], descriptors: list[int], program: str) -> NoReturn:
    """In the child: be the interpreter that was asked for."""
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 512) for descriptor in descriptors]
    os.closerange(3, 512)
    for number, descriptor in zip(request["descriptors"], aside, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for name in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    words = list(request["words"])
    while words and words[0] in ("-u", "-B", "-I", "-E"):
        unbuffered |= words.pop(0) == "-u"
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=unbuffered, line_buffering=unbuffered or os.isatty(1))
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.executable = program
    sys.path[0:1] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    importlib.invalidate_caches()
    _leave(words)


def _leave(words: list[str]) -> NoReturn:
    status = 0
    try:
        _customise()
        _run(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        status = INTERRUPTED
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if status == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


def _customise() -> None:
    """What an interpreter does for a sitecustomize that PYTHONPATH leads to."""
    if any((Path(folder) / "sitecustomize.py").exists() for folder in sys.path[:8]):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")


def _run(words: list[str]) -> None:
    what, *rest = words
    if what == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif what == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(what).resolve().parent))
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))

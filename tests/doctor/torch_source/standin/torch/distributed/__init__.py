"""A store and a group of ranks: the client of the store is Python, its server is C++ with libuv."""
# ruff: noqa: ANN001, ANN201, ANN202, ANN204, B023, B905

import socket
import socketserver
import struct
import threading

from torch import _C


def _exact(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the store closed the connection")
        data += piece
    return data


def _field(connection):
    return _exact(connection, struct.unpack("<I", _exact(connection, 4))[0])


class _Plain(socketserver.ThreadingTCPServer):
    """The store without libuv."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, address):
        super().__init__(address, _Handler)
        self.values, self.changed = {}, threading.Condition()


class _Handler(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while True:
                op, key, value = _exact(self.request, 1), _field(self.request), _field(self.request)
                with self.server.changed:
                    if op == b"S":
                        self.server.values[key], answer = value, b""
                        self.server.changed.notify_all()
                    else:
                        self.server.changed.wait_for(lambda: key in self.server.values)
                        answer = self.server.values[key]
                self.request.sendall(struct.pack("<I", len(answer)) + answer)
        except ConnectionError:
            return


class TCPStore:
    """Keys and values over TCP."""

    def __init__(self, host, port, world_size=None, is_master=False, timeout=None, use_libuv=True):
        self.libuvBackend = use_libuv
        if use_libuv and not _C.libuv_version():
            raise RuntimeError(
                "use_libuv was requested but PyTorch was built without libuv support"
            )
        if is_master and use_libuv:
            port = _C.store_start(port)
            if port < 0:
                raise RuntimeError("the store cannot listen")
        elif is_master:
            self.server = _Plain((host, port))
            port = self.server.server_address[1]
            threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = port
        seconds = timeout.total_seconds() if timeout else 60
        for left in range(100, -1, -1):
            try:
                self.connection = socket.create_connection((host, port), seconds)
                return
            except ConnectionRefusedError:
                if not left:
                    raise
                threading.Event().wait(0.1)

    def _ask(self, op, key, value):
        key = key.encode()
        value = value.encode() if isinstance(value, str) else value
        frame = op + struct.pack("<I", len(key)) + key + struct.pack("<I", len(value)) + value
        self.connection.sendall(frame)
        return _field(self.connection)

    def set(self, key, value):
        self._ask(b"S", key, value)

    def get(self, key):
        return self._ask(b"G", key, b"")


_group = None


def is_available():
    return True


def init_process_group(backend, init_method, world_size, rank, timeout=None):
    """Meet at a store."""
    global _group
    host, port = init_method.removeprefix("tcp://").split(":")
    libuv = bool(_C.libuv_version())
    store = TCPStore(host, int(port), world_size, rank == 0, timeout, use_libuv=libuv)
    _group = (store, world_size, rank)


def all_reduce(tensor):
    """Sum over all ranks."""
    store, world_size, rank = _group
    store.set(f"value/{rank}", struct.pack(f"<{len(tensor)}d", *tensor))
    parts = [struct.unpack(f"<{len(tensor)}d", store.get(f"value/{r}")) for r in range(world_size)]
    tensor[:] = [sum(numbers) for numbers in zip(*parts)]
    store.set(f"done/{rank}", b"1")
    for r in range(world_size):
        store.get(f"done/{r}")


def destroy_process_group():
    global _group
    if _group[2] == 0:
        threading.Event().wait(0.3)
    _group = None

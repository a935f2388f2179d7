"""A server on loopback that hands out files the way hubs do, or misbehaves in a way that a test chooses."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answer(BaseHTTPRequestHandler):
    """One request; a step of the script, called with this and the contents, may answer in its own way."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        hub = self.server.hub
        with hub.lock:
            hub.requests.append((self.path, dict(self.headers)))
            step = hub.script.pop(0) if hub.script else None
        contents = hub.files.get(self.path)
        if step:
            step(self, contents or b"")
        elif contents is None:
            self.send(404, b"not found", {"Content-Type": "text/plain"})
        else:
            self.serve(contents)

    def serve(self, contents: bytes, *, until: int | None = None, **headers: str) -> None:
        """Right, with ranges (RFC 9110, section 14); `until` ends the connection after so many bytes."""
        tag = '"' + hashlib.md5(contents).hexdigest() + '"'
        headers = {"ETag": tag} | {key.replace("_", "-"): value for key, value in headers.items()}
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.headers.get("If-Range", tag) == tag:
            start = int(match[1])
            if start >= len(contents):
                self.send(416, b"", {"Content-Range": f"bytes */{len(contents)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(contents) - 1}/{len(contents)}"
            self.send(206, contents[start:], headers, until)
        else:
            self.send(200, contents, headers, until)

    def send(
        self, status: int, body: bytes, headers: dict[str, str], until: int | None = None
    ) -> None:
        """Status, headers with the length of the whole body unless given, and the body."""
        self.send_response(status)
        always = {"Content-Length": str(len(body)), "Connection": "close"}
        for key, value in (always | headers).items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        for start in range(0, len(body[:until]), 1 << 16):
            self.wfile.write(body[:until][start : start + (1 << 16)])
            self.wfile.flush()
            time.sleep(self.server.hub.pause)

    def log_message(self, *_: Any) -> None:
        pass


Step = Callable[[Answer, bytes], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are what is tested."""


@dataclass
class Hub:
    """For a `with` block; `script` holds what the next requests meet, others are served rightly."""

    files: dict[str, bytes] = field(default_factory=dict)
    script: list[Step | None] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    pause: float = 0.0
    """Seconds after every 64 KiB."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Hub:
        self._server = _Server(("127.0.0.1", 0), Answer)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def ranges(self) -> list[str | None]:
        """What ranges were asked for, in order."""
        return [headers.get("Range") for _, headers in self.requests]

"""A sparse registry on loopback that hands out crates which this machine's cargo has in its cache."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from doctor.work.files import parse_toml

CRATE = Path(__file__).resolve().parents[3] / "rustbpe"
HOME = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
"""cargo's folder as it was before a test named another one."""


def locked(names: list[str] | None = None) -> list[dict[str, Any]]:
    """Packages of the crate's lock file that come from a registry; all, or those named."""
    data = parse_toml((CRATE / "Cargo.lock").read_text(encoding="utf-8"))
    packages = [row for row in data["package"] if "checksum" in row]
    return [row for row in packages if names is None or row["name"] in names]


def _index_path(name: str) -> str:
    """Where an index keeps a package (Cargo's book, "Index Format")."""
    if len(name) < 3:
        return f"{len(name)}/{name}"
    return f"3/{name[0]}/{name}" if len(name) == 3 else f"{name[:2]}/{name[2:4]}/{name}"


def _first(pattern: str) -> Path:
    found = next(HOME.glob(f"registry/{pattern}"), None)
    if found is None:
        pytest.skip(f"cargo's cache holds no {pattern}; build rustbpe once to have it")
    return found


class Registry:
    """For a `with` block; skips the test where the cache lacks something.

    Args:
        packages: of `locked`.
    """

    def __init__(self, packages: list[dict[str, Any]]) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        for package in packages:
            name, version = package["name"], package["version"]
            cached = _first(f"index/*/.cache/{_index_path(name)}").read_bytes()
            lines = [part for part in cached.split(b"\0") if part.startswith(b'{"name"')]
            same = [line for line in lines if json.loads(line)["vers"] == version]
            old = self.files.get(f"/{_index_path(name)}", b"")
            self.files[f"/{_index_path(name)}"] = old + b"".join(line + b"\n" for line in same)
            crate = _first(f"cache/*/{name}-{version}.crate")
            self.files[f"/dl/{name}/{version}/download"] = crate.read_bytes()

    def __enter__(self) -> Registry:
        registry = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.requests.append(self.path)
                body = registry.files.get(self.path)
                self.send_response(404 if body is None else 200)
                kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body or b"")

            do_HEAD = do_GET  # uv asks so before it fetches parts of a wheel

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.files["/config.json"] = json.dumps({"dl": f"{self.url}/dl"}).encode()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

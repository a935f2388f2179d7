"""A package index on loopback: pages as HTML and JSON, real wheels behind them, and trouble where a test wants it.

It speaks PEP 503 and 691 (with 592, 658, 700 and 714), serves plain listings as some mirrors do, and its files install.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
PLAIN_HTML = "text/html"


@dataclass(frozen=True)
class Wheel:
    """A file on an index, and what the index says about it.

    Attributes:
        data: its bytes; a page may well list what nobody ever fetches.
        sha256: what the index claims; None is the truth, "" says nothing.
        yanked: the reason, which may be empty; None is not yanked.
        metadata: served beside the wheel (PEP 658); None is not.
    """

    name: str
    data: bytes = b""
    requires_python: str = ""
    yanked: str | None = None
    sha256: str | None = None
    metadata: bytes | None = None
    size: int | None = None
    """None is that of `data`."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if self.sha256 is None else self.sha256


def make_wheel(
    project: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    modules: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    requires_python: str = "",
    with_metadata: bool = False,
) -> Wheel:
    """A wheel that pip and uv install.

    Args:
        modules: path in the wheel -> text; one module that knows the version by default.
        requires: requirements, `Requires-Dist`.
        with_metadata: offer the metadata beside the wheel, too.
    """
    name = re.sub(r"[-_.]+", "_", project)
    files = modules or {f"{name}/__init__.py": f"__version__ = {version!r}\n"}
    lines = ["Metadata-Version: 2.1", f"Name: {project}", f"Version: {version}"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    metadata = "\n".join(lines) + "\n"
    folder = f"{name}-{version}.dist-info"
    wheel = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    contents = {**files, f"{folder}/METADATA": metadata, f"{folder}/WHEEL": wheel}
    record = "".join(f"{path},{_record_entry(text)}\n" for path, text in contents.items())
    contents[f"{folder}/RECORD"] = f"{record}{folder}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in contents.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return Wheel(
        name=f"{name}-{version}-{tag}.whl",
        data=buffer.getvalue(),
        requires_python=requires_python,
        metadata=metadata.encode() if with_metadata else None,
    )


def _record_entry(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
    return f"sha256={digest.decode()},{len(text.encode())}"


@dataclass(frozen=True)
class Trouble:
    """What goes wrong below a path.

    Attributes:
        status: answered instead of the page, with a body that says so.
        delay: seconds before the answer.
        hang: take the request and never answer.
        cut: close the connection after so many bytes of the body.
        drip: seconds between the bytes of the body.
        redirect: where to send the client.
        content_type: said instead of the right one.
        headers: said besides.
        times: how many requests are treated so; the next ones are served.
    """

    status: int = 200
    delay: float = 0.0
    hang: bool = False
    cut: int | None = None
    drip: float = 0.0
    redirect: str | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int | None = None


@dataclass(frozen=True)
class Page:
    """Bodies by content type; a client gets the one that it prefers."""

    bodies: Mapping[str, bytes]

    def choose(self, accept: str) -> str | None:
        """The type that an Accept header wants most (RFC 9110, section 12.5.1); None for 406."""
        wanted: dict[str, float] = {}
        for item in accept.split(","):
            kind, _, parameters = item.partition(";")
            quality = re.search(r"q=([\d.]+)", parameters)
            wanted[kind.strip()] = float(quality.group(1)) if quality else 1.0
        fallback = wanted.get("*/*", 0.0)
        best = max(self.bodies, key=lambda kind: wanted.get(kind, fallback))
        return best if wanted.get(best, fallback) > 0 else None


@dataclass(frozen=True)
class Request:
    """What a client asked for; `path` is decoded."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class IndexServer:
    """The server; a context manager that is up inside.

    Attributes:
        requests: all that came, in order.
        packed: whether pages go out with gzip to clients that take it.
        without_length: end pages by closing the connection, as old servers do.
    """

    packed: bool = False
    without_length: bool = False
    requests: list[Request] = field(default_factory=list)
    pages: dict[str, Page] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> IndexServer:
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.index = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    # --- what it has

    def project(
        self, index: str, project: str, wheels: Iterable[Wheel], formats: str = "json html"
    ) -> str:
        """Put a project on an index, `cu128` or `simple`; returns the URL of the index."""
        files = list(wheels)
        bodies: dict[str, bytes] = {}
        if "html" in formats:
            text = self._html(index, project, files).encode()
            bodies |= {PLAIN_HTML: text, HTML_TYPE: text}
        if "json" in formats:
            bodies[JSON_TYPE] = self._json(index, project, files).encode()
        self.pages[f"/{index}/{project}/"] = Page(bodies)
        self._add_files(f"/{index}/files", files)
        return f"{self.url}/{index}"

    def listing(self, folder: str, wheels: Iterable[Wheel]) -> str:
        """A folder as web servers list it: relative links, names cut short; returns its URL."""
        files = list(wheels)
        rows = "".join(
            f'<a href="{quote(f.name)}">{html.escape(f.name[:47])}..&gt;</a>  01-Nov-2026 10:00\n'
            for f in files
        )
        body = f'<html><body><h1>Index of /{folder}/</h1><pre><a href="../">../</a>\n{rows}</pre></body></html>'
        self.pages[f"/{folder}/"] = Page({PLAIN_HTML: body.encode()})
        self._add_files(f"/{folder}", files)
        return f"{self.url}/{folder}"

    def page(self, path: str, body: bytes, content_type: str) -> None:
        """Anything else."""
        self.pages[path] = Page({content_type: body})

    def asked(self, part: str = "") -> int:
        """How many requests had this in their path."""
        return sum(part in request.path for request in self.requests)

    def trouble(self, path: str) -> Trouble:
        """What shall happen to a request; the longest path counts."""
        fitting = [known for known in self.troubles if path.startswith(known)]
        if not fitting:
            return Trouble()
        key = max(fitting, key=len)
        found = self.troubles[key]
        if found.times is not None:
            if found.times <= 0:
                return Trouble()
            self.troubles[key] = replace(found, times=found.times - 1)
        return found

    # --- pages

    def _add_files(self, folder: str, wheels: Iterable[Wheel]) -> None:
        for wheel in wheels:
            self.page(f"{folder}/{wheel.name}", wheel.data, "application/octet-stream")
            if wheel.metadata is not None:
                self.page(f"{folder}/{wheel.name}.metadata", wheel.metadata, "text/plain")

    def _html(self, index: str, project: str, wheels: Iterable[Wheel]) -> str:
        links = "\n".join(self._link(index, wheel) for wheel in wheels)
        return (
            '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.1">'
            f"<title>Links for {project}</title></head>\n<body>\n{links}\n</body></html>\n"
        )

    @staticmethod
    def _link(index: str, wheel: Wheel) -> str:
        fragment = f"#sha256={wheel.digest}" if wheel.digest else ""
        attributes = [f'href="/{index}/files/{quote(wheel.name)}{fragment}"']
        if wheel.requires_python:
            attributes.append(f'data-requires-python="{html.escape(wheel.requires_python)}"')
        if wheel.yanked is not None:
            attributes.append(f'data-yanked="{html.escape(wheel.yanked)}"')
        if wheel.metadata is not None:
            digest = f"sha256={hashlib.sha256(wheel.metadata).hexdigest()}"
            attributes += [
                f'data-{key}="{digest}"' for key in ("core-metadata", "dist-info-metadata")
            ]
        return f"<a {' '.join(attributes)}>{html.escape(wheel.name)}</a><br/>"

    def _json(self, index: str, project: str, wheels: Iterable[Wheel]) -> str:
        return json.dumps(
            {
                "meta": {"api-version": "1.1"},
                "name": project,
                "versions": sorted({wheel.name.split("-")[1] for wheel in wheels}),
                "files": [self._entry(index, wheel) for wheel in wheels],
            }
        )

    def _entry(self, index: str, wheel: Wheel) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "filename": wheel.name,
            "url": f"{self.url}/{index}/files/{quote(wheel.name)}",
            "hashes": {"sha256": wheel.digest} if wheel.digest else {},
            "size": len(wheel.data) if wheel.size is None else wheel.size,
            "yanked": False if wheel.yanked is None else wheel.yanked or True,
        }
        if wheel.requires_python:
            entry["requires-python"] = wheel.requires_python
        if wheel.metadata is not None:
            entry["core-metadata"] = {"sha256": hashlib.sha256(wheel.metadata).hexdigest()}
        return entry


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    index: IndexServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        index = self.server.index
        path = unquote(urlsplit(self.path).path)
        index.requests.append(Request(self.command, path, dict(self.headers)))
        trouble = index.trouble(path)
        if trouble.hang or trouble.delay:
            index.closing.wait(None if trouble.hang else trouble.delay)
        if trouble.hang or index.closing.is_set():
            self.close_connection = True
            return
        if trouble.redirect is not None:
            self._send(302, "text/plain", b"", {"Location": trouble.redirect})
        elif trouble.status != 200:
            self._send(trouble.status, "text/plain", f"status {trouble.status}".encode())
        else:
            self._serve(index.pages.get(path), trouble)

    do_HEAD = do_GET

    def _serve(self, page: Page | None, trouble: Trouble) -> None:
        kind = page.choose(self.headers.get("Accept", "*/*")) if page else None
        if page is None or kind is None:
            self._send(406 if page else 404, "text/plain", b"no such page")
            return
        body = page.bodies[kind]
        headers = dict(trouble.headers)
        if self.server.index.packed and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        self._send(200, trouble.content_type or kind, body, headers, trouble)

    def _send(
        self,
        status: int,
        kind: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        trouble: Trouble | None = None,
    ) -> None:
        trouble = trouble or Trouble()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if not self.server.index.without_length:
            self.send_header("Content-Length", str(len(body)))
        if trouble.cut is not None or self.server.index.without_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._write(body[: trouble.cut], trouble.drip)

    def _write(self, body: bytes, pause: float) -> None:
        if not pause:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            if self.server.index.closing.wait(pause):
                return

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

"""Real servers on the loopback that answer, refuse, dawdle and break off."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import dead_port

from doctor.errors import Unknown
from doctor.facts import Endpoint
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.probe import network
from doctor.probe.network import Address

Talk = Callable[[socket.socket], None]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are asked directly, whatever this machine is set to."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.contextmanager
def serving(talk: Talk, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that treats every connection as told; yields its port."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    connection.settimeout(10)
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                if context is None:
                    talk(connection)
                    return
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    talk(wrapped)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join(2)


def answers(status: int, head: str = "") -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        lines = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n{head}Connection: close\r\n\r\nok"
        connection.sendall(lines.encode())

    return talk


def dawdles(seconds: float) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        time.sleep(seconds)

    return talk


def breaks_off(connection: socket.socket) -> None:
    connection.recv(4096)


def drips(connection: socket.socket) -> None:
    connection.recv(4096)
    for letter in b"HTTP/1.1 200 OK\r\n":
        connection.sendall(bytes([letter]))
        time.sleep(0.2)


def noise(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"\xff\xfe\0garbage\r\n\r\n" * 20)


def ask(port: int, scheme: str = "http") -> Endpoint:
    question = Address("the hub", "hub", f"{scheme}://127.0.0.1:{port}/simple/")
    return network.ask(question)


@pytest.mark.parametrize(
    ("talk", "trouble"),
    [
        (answers(200), None),
        (answers(404), None),
        (answers(401), "access refused (401)"),
        (answers(403), "access refused (403)"),
        (answers(407), "the proxy asks for a password (407)"),
        (answers(429), "the server answers 429"),
        (answers(500), "the server answers 500"),
        (answers(503), "the server answers 503"),
        (breaks_off, "the connection broke off"),
        (noise, "the connection broke off"),
    ],
    ids=["200", "404", "401", "403", "407", "429", "500", "503", "breaks", "noise"],
)
def test_how_it_went(talk: Talk, trouble: str | None) -> None:
    with serving(talk) as port:
        found = ask(port)
    assert (found.reachable, found.trouble) == (trouble is None, trouble)
    assert (found.name, found.kind, found.host) == ("the hub", "hub", "127.0.0.1")
    assert found.latency is not None and found.latency < 2


def test_redirects_in_a_circle() -> None:
    with serving(answers(301, "Location: /elsewhere\r\n")) as port:
        found = ask(port)
    assert found.reachable is False
    assert "redirect" in str(found.trouble) and "no valid address" not in str(found.trouble)


def test_a_server_that_dawdles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SECONDS", 1.0)
    with serving(dawdles(60)) as port:
        found = ask(port)
    assert (found.reachable, found.trouble) == (False, "no answer within 1 s")


def test_a_port_where_nothing_listens() -> None:
    assert ask(dead_port()).trouble == "the connection was refused"


def test_a_name_that_does_not_resolve() -> None:
    question = Address("x", "hub", "https://no-such-name.invalid/")
    found = network.ask(question)
    assert found.reachable is False
    assert found.trouble in ("its name does not resolve", "no answer within 5 s")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no scheme",
        "http://",
        "ftp://127.0.0.1/",
        "http://[::1",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    found = network.ask(Address("x", "hub", url))
    assert found.reachable is False and found.trouble


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    made += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(made, check=True, capture_output=True)
    return folder


def tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_a_certificate_that_nobody_signed(certificate: Path) -> None:
    with serving(answers(200), tls(certificate)) as port:
        found = ask(port, "https")
    assert (found.reachable, found.trouble) == (False, "TLS: certificate not trusted")


def test_a_certificate_that_this_machine_trusts(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate / "cert.pem"))
    with serving(answers(200), tls(certificate)) as port:
        assert ask(port, "https").reachable


def test_no_tls_where_tls_was_asked() -> None:
    with serving(answers(200)) as port:
        found = ask(port, "https")
    assert found.reachable is False and found.trouble


def test_a_proxy_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{dead_port()}")
    with serving(answers(200)) as port:
        found = ask(port)
        assert (found.reachable, found.trouble) == (
            False, "the proxy refuses or does not answer",
        )  # fmt: skip
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert ask(port).reachable


def test_a_proxy_that_asks_for_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answers(407)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        assert ask(dead_port()).trouble == "the proxy asks for a password (407)"
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy}")
        assert ask(dead_port(), "https").trouble == "the proxy refuses or does not answer"


# --- the whole probe --------------------------------------------------------------------------


class Rows(Tables):
    """Tables whose endpoints are those of a test."""

    def __init__(self, *urls: str) -> None:
        super().__init__()
        self.urls = urls

    def rows(self, file: str, table: str) -> Any:
        """Our endpoints."""
        assert (file, table) == ("mirrors", "endpoint")
        return [{"name": f"n{i}", "kind": "hub", "url": url} for i, url in enumerate(self.urls)]


@pytest.fixture
def system() -> System:
    machine = System()
    machine.env = {"UV_INDEX_URL": f"http://127.0.0.1:{dead_port()}/simple", "HOME": "/nowhere"}
    return machine


def test_all_at_once_within_the_limit(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SECONDS", 1.0)
    with serving(answers(200)) as good, serving(dawdles(60)) as slow, serving(drips) as dripping:
        ports = [good, slow, slow, slow, slow, dripping]
        found = network.probe(system, Rows(*(f"http://127.0.0.1:{p}/" for p in ports)), None)
    assert [(e.name, e.trouble) for e in found.endpoints] == [
        ("uv's index", "the connection was refused"),
        ("n0", None),
        *((f"n{i}", "no answer within 1 s") for i in range(1, 6)),
    ]


def test_the_hub_that_the_environment_names_is_asked(system: System) -> None:
    with serving(answers(200)) as port:
        system.env["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"
        found = network.probe(system, Rows(), None)
    assert [(e.name, e.reachable) for e in found.endpoints] == [
        ("uv's index", False), ("HF_ENDPOINT", True),
    ]  # fmt: skip


def test_nothing_to_ask(system: System) -> None:
    system.env = {}
    assert network.probe(system, Rows(), None).endpoints == ()


def test_an_empty_setting_that_hides_no_index(system: System) -> None:
    system.env["UV_INDEX_URL"] = ""
    system.env["PIP_INDEX_URL"] = f"http://user:pass@127.0.0.1:{dead_port()}/simple/"
    (found,) = network.probe(system, Rows(), None).endpoints
    assert (found.name, found.host) == ("pip's index", "127.0.0.1")
    assert "pass" not in repr(found)


def test_a_tree_has_no_network(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="has no network"):
        network.probe(System(tmp_path), Tables(), None)


def test_the_module_is_cheap_to_import() -> None:
    code = "import sys, doctor.probe.network; print('requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

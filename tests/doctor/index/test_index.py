"""Asking indexes on loopback: what they have, how they fail, how long it takes, what is asked again."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import dead_port
from index_server import JSON_TYPE, IndexServer, Trouble, Wheel, make_wheel

from doctor.index import fetch as index_fetch
from doctor.index.address import default_index
from doctor.index.ask import ask
from doctor.index.cache import Answer
from doctor.index.fetch import fetch
from doctor.index.page import ACCEPT
from doctor.knowledge.offers import Offer, Offers
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.text.built_in_index import built_in

NOW = 1_795_000_000.0
X86 = "cp312-cp312-manylinux_2_28_x86_64"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are asked directly, whatever this machine is set to."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[IndexServer]:
    with IndexServer() as running:
        yield running


def wheel(version: str, tags: str = X86, **more: Any) -> Wheel:
    return Wheel(f"torch-{version}-{tags}.whl", **more)


class Rows(Tables):
    """Tables whose PyTorch indexes are those of a test."""

    def __init__(self, own: str, mirrors: Sequence[Mapping[str, str]]) -> None:
        super().__init__()
        self.endpoints = [{"name": "own", "kind": "pytorch", "url": own}]
        self.endpoints += [{"kind": "pytorch", "region": "cn", **mirror} for mirror in mirrors]

    def rows(self, file: str, table: str) -> Any:
        """Our endpoints; everything else as it is."""
        ours = (file, table) == ("mirrors", "endpoint")
        return self.endpoints if ours else super().rows(file, table)


@dataclass
class Asker:
    """Asks for the wheels of a machine with Python 3.12 on x86-64."""

    folder: Path
    base: str
    mirrors: list[dict[str, str]] = field(default_factory=list)
    cache: Path | None = None

    def __call__(self, *variants: str, **more: Any) -> Offers:
        words = {"python": "3.12", "cpu_arch": "x86_64", "default_index": None, "now": NOW, **more}
        tables = Rows(self.base, self.mirrors)
        return ask(tables, variants=variants, cache=self.cache, **words)


@pytest.fixture
def asker(server: IndexServer, tmp_path: Path) -> Asker:
    return Asker(tmp_path, f"{server.url}/whl")


def versions(offers: Offers) -> list[str]:
    return [offer.version for offer in offers.wheels]


# --- what they have ---------------------------------------------------------------------------


@pytest.mark.parametrize("formats", ["json", "html", "json html"])
@pytest.mark.parametrize("packed", [False, True])
def test_one_variant(server: IndexServer, asker: Asker, formats: str, packed: bool) -> None:
    server.packed = packed
    url = server.project(
        "whl/cu128",
        "torch",
        [
            wheel("2.8.0+cu128", size=888_000_000, requires_python=">=3.9"),
            wheel("2.10.0+cu128", size=901_400_000),
            wheel("2.9.0+cu128", yanked=""),
            wheel("2.9.1+cu128", yanked="wrong libraries"),
            wheel("2.11.0+cu128", requires_python=">=3.13"),
            wheel("2.11.0+cu128", "cp313-cp313-manylinux_2_28_x86_64"),
            wheel("2.11.0+cu128", "cp312-cp312-manylinux_2_28_aarch64"),
            wheel("2.11.0+cu128", "cp312-cp312-win_amd64"),
            wheel("broken"),
        ],
        formats,
    )
    found = asker("cu128")
    sizes = (901, 888) if "json" in formats else (None, None)
    assert found == Offers(
        wheels=(
            Offer("2.10.0+cu128", "cu128", url, "3.12", "x86_64", sizes[0], "2.28"),
            Offer("2.8.0+cu128", "cu128", url, "3.12", "x86_64", sizes[1], "2.28"),
        ),
        unreachable={},
        answered=frozenset({url}),
        mirror=None,
    )
    (request,) = server.requests
    assert (request.path, request.headers["Accept"]) == ("/whl/cu128/torch/", ACCEPT)


def test_all_indexes_and_the_default_one(server: IndexServer, asker: Asker) -> None:
    for variant in ("cpu", "cu130"):
        server.project(f"whl/{variant}", "torch", [wheel(f"2.14.0+{variant}")])
    nightly = [wheel(f"2.16.0.dev202611{day}+cu130") for day in (19, 21, 20)]
    server.project("whl/nightly/cu130", "torch", nightly)
    plain = [wheel("2.14.0"), wheel("2.99.0"), wheel("2.12.0+local.build")]
    simple = server.project("simple", "torch", plain)
    found = asker("cpu", "cu130", "nightly/cu130", default_index=f"{simple}/")
    assert [(o.version, o.variant, o.index_url) for o in found.wheels] == [
        ("2.14.0+cpu", "cpu", f"{server.url}/whl/cpu"),
        ("2.14.0+cu130", "cu130", f"{server.url}/whl/cu130"),
        ("2.16.0.dev20261121+cu130", "cu130", f"{server.url}/whl/nightly/cu130"),
        ("2.16.0.dev20261120+cu130", "cu130", f"{server.url}/whl/nightly/cu130"),
        ("2.16.0.dev20261119+cu130", "cu130", f"{server.url}/whl/nightly/cu130"),
        ("2.99.0", "", None),
        ("2.14.0", "cu130", None),  # as build/torch.toml has it
        ("2.12.0+local.build", "local.build", None),
    ]
    assert len(found.answered) == 4 and "" in found.answered and found.unreachable == {}


@pytest.mark.parametrize(
    ("python", "arch", "expected"),
    [
        ("3.12", "x86_64", ["2.9.1+cu128"]),
        ("3.13t", "x86_64", ["2.9.2+cu128"]),
        ("3.13", "x86_64", ["2.9.3+cu128"]),
        ("3.12", "aarch64", ["2.9.4+cu128"]),
        ("3.12", "arm64", ["2.9.5"]),
        ("3.9", "x86_64", []),
        (None, "aarch64", ["2.9.4+cu128"]),
        ("3.12", None, ["2.9.5", "2.9.4+cu128", "2.9.1+cu128"]),
    ],
)
def test_this_python_and_this_processor(
    server: IndexServer, asker: Asker, python: str | None, arch: str | None, expected: list[str]
) -> None:
    files = [
        wheel("2.9.1+cu128"),
        wheel("2.9.2+cu128", "cp313-cp313t-manylinux_2_28_x86_64"),
        wheel("2.9.3+cu128", "cp313-cp313-linux_x86_64"),
        wheel("2.9.4+cu128", "cp312-cp312-manylinux_2_28_aarch64"),
        wheel("2.9.5", "cp312-none-macosx_11_0_arm64"),
    ]
    server.project("whl/cu128", "torch", files)
    found = asker("cu128", python=python, cpu_arch=arch)
    assert versions(found) == expected
    assert len(found.answered) == 1


def test_special_builds_and_second_files_are_left_out(server: IndexServer, asker: Asker) -> None:
    files = [
        wheel("2.6.0+cpu"), wheel("2.6.0+cpu.cxx11.abi"), wheel("2.6.0+rocm6.4"),
        wheel("2.6.0+cpu", "cp312-cp312-linux_x86_64"),
    ]  # fmt: skip
    server.project("whl/cpu", "torch", files)
    assert versions(asker("cpu", "cpu")) == ["2.6.0+cpu"]
    assert server.asked() == 1


def test_an_index_without_torch_has_answered(server: IndexServer, asker: Asker) -> None:
    found = asker("cu134")
    assert found == Offers(answered=frozenset({f"{server.url}/whl/cu134"}))


def test_nothing_to_ask(asker: Asker) -> None:
    assert asker() == Offers()


# --- how they fail ----------------------------------------------------------------------------


def cut_in_the_middle(server: IndexServer) -> None:
    server.troubles["/whl"] = Trouble(cut=200)


def chunked_and_cut(server: IndexServer) -> None:
    server.without_length = True
    server.troubles["/whl"] = Trouble(cut=200)


def packed_and_cut(server: IndexServer) -> None:
    server.packed = True
    server.troubles["/whl"] = Trouble(cut=100)


def packed_badly(server: IndexServer) -> None:
    body = b"this is no gzip"
    server.page("/whl/cu128/torch/", body, JSON_TYPE)
    server.troubles["/whl"] = Trouble(headers={"Content-Encoding": "gzip"})


def with_trouble(**words: Any) -> Callable[[IndexServer], None]:
    def change(server: IndexServer) -> None:
        server.troubles["/whl"] = Trouble(**words)

    return change


def with_page(body: bytes, kind: str) -> Callable[[IndexServer], None]:
    def change(server: IndexServer) -> None:
        server.page("/whl/cu128/torch/", body, kind)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_trouble(status=500), "HTTP 500"),
        (with_trouble(status=503), "HTTP 503"),
        (with_trouble(status=403), "HTTP 403"),
        (with_trouble(status=401), "HTTP 401"),
        (with_trouble(status=429), "HTTP 429"),
        (with_trouble(status=304), "HTTP 304"),
        (with_trouble(redirect="/whl/cu128/torch/"), "it redirects in a circle"),
        (with_trouble(redirect="ftp://127.0.0.1/"), "no valid address"),
        (with_trouble(redirect="http://127.0.0.1:1/"), "connection refused"),
        (with_trouble(content_type="text/plain"), "the answer is text/plain, not a package index"),
        (with_trouble(hang=True), "no answer within 0.5 s"),
        (with_trouble(delay=3), "no answer within 0.5 s"),
        (with_trouble(drip=0.02), "no answer within 0.5 s"),
        (cut_in_the_middle, "the connection broke off"),
        (chunked_and_cut, "the answer is no valid JSON"),
        (packed_and_cut, "the connection broke off"),
        (packed_badly, "the answer cannot be unpacked"),
        (with_page(b"<html>Please log in</html>", "text/html"), "the page lists no file of torch"),
        (with_page(b"{}", JSON_TYPE), "the answer is JSON, but lists no files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_trouble(
    server: IndexServer, asker: Asker, change: Callable[[IndexServer], None], reason: str
) -> None:
    url = server.project("whl/cu128", "torch", [wheel(f"2.9.{n}+cu128") for n in range(50)])
    change(server)
    found = asker("cu128", seconds=0.5 if reason.startswith("no answer") else 30)
    unsure = reason.startswith("no answer") or reason == "HTTP 401"
    assert found == Offers(unreachable={url: reason}, unsure=frozenset({url} if unsure else ()))


def test_trouble_of_one_leaves_the_others(server: IndexServer, asker: Asker) -> None:
    for variant in ("cpu", "cu128"):
        server.project(f"whl/{variant}", "torch", [wheel(f"2.9.0+{variant}")])
    server.troubles["/whl/cpu"] = Trouble(status=502)
    found = asker("cpu", "cu128", default_index="http://127.0.0.1:1/simple")
    assert versions(found) == ["2.9.0+cu128"]
    assert found.unreachable == {f"{server.url}/whl/cpu": "HTTP 502", "": "connection refused"}


@pytest.mark.parametrize(
    ("base", "reasons"),
    [
        ("http://no-such-name.invalid/whl", {"name not resolved", "no answer within 1 s"}),
        ("http://[::1/whl", {"no valid address"}),
        ("nothing", {"no valid address"}),
        ("http://" + "a" * 70 + "/whl", {"no valid address", "name not resolved"}),
    ],
)
def test_addresses_that_lead_nowhere(asker: Asker, base: str, reasons: set[str]) -> None:
    asker.base = base
    (reason,) = asker("cu128", seconds=1.0).unreachable.values()
    assert reason in reasons


def test_a_redirect_is_followed(server: IndexServer, asker: Asker) -> None:
    server.project("elsewhere", "torch", [wheel("2.9.0+cu128")])
    server.troubles["/whl"] = Trouble(redirect=f"{server.url}/elsewhere/torch/")
    assert versions(asker("cu128")) == ["2.9.0+cu128"]


def test_a_page_without_a_length(server: IndexServer, asker: Asker) -> None:
    server.without_length = True
    server.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
    assert versions(asker("cu128")) == ["2.9.0+cu128"]


def test_a_page_of_many_files(server: IndexServer, asker: Asker) -> None:
    """5 MB of HTML; a page for all Pythons and years has a few hundred thousand bytes."""
    files = [
        wheel(f"2.9.0.dev{n}+cu128", f"cp3{n % 20}-cp3{n % 20}-{X86[12:]}") for n in range(20_000)
    ]
    server.project("whl/cu128", "torch", files, "html")
    found = asker("cu128", seconds=20)
    assert len(found.wheels) == 1000 and found.wheels[0].version == "2.9.0.dev19992+cu128"


def test_a_page_without_an_end(
    server: IndexServer, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_fetch, "LARGEST", 1 << 20)
    server.packed = True  # counted are the bytes that come out
    server.page("/whl/cu128/torch/", b" " * (3 << 20), "text/html")
    (reason,) = asker("cu128").unreachable.values()
    assert reason == "the page is larger than 1 MiB"


def test_a_proxy_that_points_nowhere(
    server: IndexServer, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{dead_port()}")
    (reason,) = asker("cu128").unreachable.values()
    assert reason == "the proxy refuses or does not answer"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert versions(asker("cu128")) == ["2.9.0+cu128"]


def test_a_proxy_that_is_no_address(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://[::1:9")
    (reason,) = asker("cu128").unreachable.values()
    assert reason


# --- TLS --------------------------------------------------------------------------------------


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


def test_a_certificate_that_nobody_signed(
    asker: Asker, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with IndexServer() as secure:
        secure._http.socket = context.wrap_socket(secure._http.socket, server_side=True)
        asker.base = secure.url.replace("http:", "https:") + "/whl"
        secure.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
        (reason,) = asker("cu128").unreachable.values()
        assert reason.startswith("TLS: ") and "certificate" in reason
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate / "cert.pem"))
        assert versions(asker("cu128")) == ["2.9.0+cu128"]


def test_no_tls_where_tls_was_asked(server: IndexServer, asker: Asker) -> None:
    asker.base = server.url.replace("http:", "https:")
    assert list(asker("cu128").unreachable.values()) == ["TLS: no secure connection"]


# --- how long it takes ------------------------------------------------------------------------


def test_eight_hanging_indexes_within_the_limit(server: IndexServer, asker: Asker) -> None:
    server.troubles["/"] = Trouble(hang=True)
    asker.mirrors = [{"name": f"m{n}", "url": f"{server.url}/m{n}"} for n in range(3)]
    found = asker("cpu", "cu130", default_index=f"{server.url}/simple", seconds=0.5)
    assert set(found.unreachable.values()) == {"no answer within 0.5 s"}
    assert len(found.unreachable) == 9 and found.answered == frozenset() and found.wheels == ()
    assert found.unsure == set(found.unreachable), "none of them has refused"


def test_many_hanging_indexes_within_a_short_limit(server: IndexServer, asker: Asker) -> None:
    server.troubles["/"] = Trouble(hang=True)
    asker.mirrors = [{"name": f"m{n}", "url": f"{server.url}/m{n}"} for n in range(12)]
    found = asker("cpu", "cu126", "cu128", "cu130", "nightly/cu130", seconds=0.4)
    assert len(found.unreachable) == 65


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_at_all(server: IndexServer, asker: Asker, seconds: float) -> None:
    server.troubles["/"] = Trouble(hang=True)
    assert asker("cpu", seconds=seconds).wheels == ()


def test_what_hangs_does_not_hold_up_the_end_of_the_process(server: IndexServer) -> None:
    server.troubles["/"] = Trouble(hang=True)
    code = f"""
from doctor.index.ask import ask
from doctor.knowledge.tables import Tables
found = ask(Tables(), python=None, cpu_arch=None, variants=[], cache=None, seconds=0.3,
            default_index={server.url + "/simple"!r})
print(dict(found.unreachable))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{'': 'no answer within 0.3 s'}\n", "")


def test_a_hanging_mirror_is_not_waited_for(server: IndexServer, asker: Asker) -> None:
    server.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
    server.troubles["/mirror"] = Trouble(hang=True)
    asker.mirrors = [{"name": "m", "url": f"{server.url}/mirror"}]
    found = asker("cu128", seconds=600.0)
    assert versions(found) == ["2.9.0+cu128"] and found.mirror is None and not found.unreachable


def test_requests_is_imported_only_to_ask(asker: Asker, server: IndexServer) -> None:
    server.project("simple", "torch", [wheel("2.9.0")])
    code = f"""
import sys
from pathlib import Path
from doctor.index.ask import ask
from doctor.knowledge.tables import Tables
for _ in range(2):
    before = "requests" in sys.modules
    found = ask(Tables(), python="3.12", cpu_arch="x86_64", variants=[], cache=Path({str(asker.folder)!r}),
                default_index={server.url + "/simple"!r}, now={NOW})
    print(before, "requests" in sys.modules, len(found.wheels))
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
        for _ in range(2)
    ]
    assert [run.stdout.split()[:3] for run in runs] == [
        ["False", "True", "1"], ["False", "False", "1"],
    ], [run.stderr for run in runs]  # fmt: skip


# --- mirrors ----------------------------------------------------------------------------------


def test_a_mirror_where_pytorchs_own_is_out_of_reach(server: IndexServer, asker: Asker) -> None:
    asker.base = f"http://127.0.0.1:{dead_port()}/whl"
    asker.mirrors = [
        {"name": "dead", "url": f"http://127.0.0.1:{dead_port()}/whl"},
        {"name": "half", "url": f"{server.url}/half"},
        {"name": "flat", "url": f"{server.url}/flat", "option": "--find-links"},
        {"name": "late", "url": f"{server.url}/late"},
    ]
    server.project("half/cpu", "torch", [wheel("2.8.0+cpu")])
    for variant in ("cpu", "cu128"):
        flat = [wheel(f"2.9.0+{variant}"), Wheel(f"torchvision-0.24.0+{variant}-{X86}.whl")]
        server.listing(f"flat/{variant}", flat)
        server.project(f"late/{variant}", "torch", [wheel(f"2.9.1+{variant}")])
    found = asker("cpu", "cu128")
    assert found.mirror == f"{server.url}/flat"
    assert [(o.version, o.index_url) for o in found.wheels] == [
        ("2.9.0+cpu", f"{server.url}/flat/cpu"),
        ("2.9.0+cu128", f"{server.url}/flat/cu128"),
    ]
    assert found.answered == {f"{server.url}/flat/cpu", f"{server.url}/flat/cu128"}
    assert found.unreachable == {
        f"{asker.base}/cpu": "connection refused",
        f"{asker.base}/cu128": "connection refused",
    }


def test_a_mirror_without_a_fitting_wheel_is_none(server: IndexServer, asker: Asker) -> None:
    asker.base = f"http://127.0.0.1:{dead_port()}/whl"
    asker.mirrors = [{"name": "m", "url": f"{server.url}/m"}]
    url = server.project("m/cpu", "torch", [wheel("2.9.0+cpu")])
    found = asker("cpu", python="3.9")
    assert found == Offers(unreachable=found.unreachable, answered=frozenset({url}))


def test_no_mirror_where_pytorchs_own_answers(server: IndexServer, asker: Asker) -> None:
    asker.mirrors = [{"name": "m", "url": f"{server.url}/m"}]
    for base in ("whl", "m"):
        server.project(f"{base}/cu128", "torch", [wheel("2.9.0+cu128")])
    server.troubles["/whl/cpu"] = Trouble(status=500)
    found = asker("cpu", "cu128")
    assert found.mirror is None
    assert found.unreachable == {f"{server.url}/whl/cpu": "HTTP 500"}
    assert {offer.index_url for offer in found.wheels} == {f"{server.url}/whl/cu128"}


# --- asked again ------------------------------------------------------------------------------


def test_a_day_passes_before_it_is_asked_again(server: IndexServer, asker: Asker) -> None:
    asker.cache = asker.folder / "cache"
    asker.mirrors = [{"name": "m", "url": f"{server.url}/m"}]
    server.project("whl/cu128", "torch", [wheel("2.9.0+cu128", size=5_000_000)])
    first = asker("cu128")
    asked = server.asked()
    server.project("whl/cu128", "torch", [wheel("2.10.0+cu128")])
    assert asker("cu128", now=NOW + 86_000) == first
    assert asker("cu128", now=NOW + 5, python="3.13").wheels == ()
    assert server.asked() == asked, "neither the index nor a mirror is asked"
    assert versions(asker("cu128", now=NOW + 86_400)) == ["2.10.0+cu128"]
    assert versions(asker("cu128", now=NOW)) == ["2.10.0+cu128"], "an entry of tomorrow is none"


def test_a_failure_is_forgotten_after_a_minute(server: IndexServer, asker: Asker) -> None:
    asker.cache = asker.folder / "cache"
    url = server.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
    server.troubles["/whl"] = Trouble(hang=True)
    failed = Offers(unreachable={url: "no answer within 0.3 s"}, unsure=frozenset({url}))
    assert asker("cu128", seconds=0.3) == failed
    server.troubles.clear()
    assert asker("cu128", now=NOW + 59) == failed
    assert server.asked() == 1
    assert versions(asker("cu128", now=NOW + 60)) == ["2.9.0+cu128"]


def test_a_damaged_cache_is_asked_anew(server: IndexServer, asker: Asker) -> None:
    asker.cache = asker.folder / "cache"
    server.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
    first = asker("cu128")
    for entry in asker.cache.iterdir():
        entry.write_bytes(entry.read_bytes()[:-9])
    assert asker("cu128") == first and server.asked() == 2
    assert asker("cu128") == first and server.asked() == 2


def test_a_cache_that_cannot_be_written_is_none(server: IndexServer, asker: Asker) -> None:
    (asker.folder / "file").touch()
    asker.cache = asker.folder / "file" / "cache"
    server.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
    assert versions(asker("cu128")) == versions(asker("cu128")) == ["2.9.0+cu128"]
    assert server.asked() == 2


# --- the default Python index -----------------------------------------------------------------


def test_the_index_that_the_tools_are_set_to() -> None:
    machine = System()
    machine.env = {"PIP_INDEX_URL": "http://127.0.0.1:9/root/simple/", "HOME": "/nowhere"}
    assert default_index(machine, None) == "http://127.0.0.1:9/root/simple"
    machine.env["UV_DEFAULT_INDEX"] = "http://127.0.0.1:8/simple"
    assert default_index(machine, None) == "http://127.0.0.1:8/simple"


def test_the_index_that_pip_has_built_in() -> None:
    machine = System()
    machine.env = {"HOME": "/nowhere"}
    found = built_in()
    if found is None:
        pytest.skip("this interpreter came without pip")
    assert found.startswith("https://") and found.endswith("/simple")
    assert default_index(machine, None) == found


def test_a_tree_knows_no_index_of_this_machine(tmp_path: Path) -> None:
    assert default_index(System(tmp_path), None) is None


@pytest.mark.network
def test_the_real_default_index() -> None:
    url = default_index(System(), None)
    found = ask(
        Tables(), python="3.12", cpu_arch="x86_64", variants=[], cache=None, default_index=url
    )
    if found.unreachable or url is None:
        pytest.skip(f"no index here: {dict(found.unreachable)}")
    known = {offer.version: offer for offer in found.wheels}
    assert (known["2.9.1"].variant, known["2.9.1"].glibc) == ("cu128", "2.28")


# --- the server itself, which other tests rely on ----------------------------------------------


def install(server: IndexServer, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if uv is None:
        pytest.skip("no uv to install with")
    command = [uv, "pip", "install", "--no-cache", "--target", str(folder), *words]
    command += ["--default-index", f"{server.url}/simple"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "UV_NO_CONFIG": "1"}
    return subprocess.run(
        [*command, "--python", sys.executable], capture_output=True, text=True, env=env, timeout=60
    )


@pytest.mark.parametrize("formats", ["json", "html"])
def test_its_wheels_install(server: IndexServer, tmp_path: Path, formats: str) -> None:
    small = make_wheel("small-one", "1.0+cu128", requires=["other>=2"], with_metadata=True)
    server.project("simple", "small-one", [small], formats)
    server.project("simple", "other", [make_wheel("other", "2.1")], formats)
    done = install(server, tmp_path / "target", "small-one==1.0+cu128")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target" / "small_one" / "__init__.py").is_file()
    assert (tmp_path / "target" / "other" / "__init__.py").is_file()
    assert server.asked(".metadata") == 1


def test_it_can_lie_about_a_hash(server: IndexServer, tmp_path: Path) -> None:
    honest = make_wheel("other", "2.1")
    liar = Wheel(honest.name, honest.data, sha256="0" * 64)
    server.project("simple", "other", [liar])
    done = install(server, tmp_path / "target", "other")
    assert done.returncode != 0 and "ash mismatch" in done.stderr
    assert not (tmp_path / "target" / "other").exists()


def test_it_keeps_track_of_trouble(server: IndexServer, asker: Asker) -> None:
    server.project("whl/cu128", "torch", [wheel("2.9.0+cu128")])
    server.troubles["/whl"] = Trouble(status=503, times=1)
    answers = [asker("cu128") for _ in range(2)]
    assert [len(found.wheels) for found in answers] == [0, 1]
    assert threading.active_count() < 50


def test_an_index_that_needs_more_than_two_seconds_is_slow_and_not_blocked(
    server: IndexServer, asker: Asker
) -> None:
    server.project("whl/cpu", "torch", [wheel("2.9.0+cpu")])
    server.troubles["/whl/cpu/torch/"] = Trouble(delay=2.6)
    found = asker("cpu")
    assert versions(found) == ["2.9.0+cpu"] and not found.unreachable


def test_a_page_that_drips_is_not_read_to_its_end(server: IndexServer) -> None:
    """Not even where nobody waits for the one that reads it."""
    server.project("whl/cpu", "torch", [wheel(f"2.9.{n}+cpu") for n in range(200)])
    server.troubles["/whl/cpu/torch/"] = Trouble(drip=0.01)
    answer = fetch(f"{server.url}/whl/cpu/torch/", "torch", 0.3, "0.3 s")
    assert answer == Answer(trouble="no whole answer within 0.3 s", unsure=True)

"""Pages of indexes as they are served, and as they should not be; which wheels fit which Python and processor."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.errors import Unknown
from doctor.index.page import HTML_TYPE, JSON_TYPE, File, fits, read_page

PYTORCH = """<!DOCTYPE html>
<html>
  <body>
    <h1>Links for torch</h1>
    <a href="/whl/cu128/torch-2.7.0%2Bcu128-cp310-cp310-manylinux_2_28_aarch64.whl" data-dist-info-metadata="sha256=86107f" data-core-metadata="sha256=86107f">torch-2.7.0+cu128-cp310-cp310-manylinux_2_28_aarch64.whl</a><br/>
    <a href="/whl/cu128/torch-2.7.0%2Bcu128-cp312-cp312-manylinux_2_28_x86_64.whl#sha256=ac1849" data-requires-python="&gt;=3.9.0">torch-2.7.0+cu128-cp312-cp312-manylinux_2_28_x86_64.whl</a><br/>
    <a href="/whl/cu128/torch-2.7.1%2Bcu128-cp312-cp312-manylinux_2_28_x86_64.whl#sha256=ac1849" data-yanked="">torch-2.7.1+cu128-cp312-cp312-manylinux_2_28_x86_64.whl</a><br/>
    <a href="/whl/cu128/torch-2.7.2%2Bcu128-cp312-cp312-manylinux_2_28_x86_64.whl" data-yanked="broken on &lt;A100&gt;">x</a>
    <a href="/whl/cu128/torch-2.7.0.tar.gz">torch-2.7.0.tar.gz</a>
  </body>
</html>
<!--TIMESTAMP 1747137482-->
"""  # noqa: E501


def json_page(*files: Any, **more: Any) -> bytes:
    return json.dumps({"meta": {"api-version": "1.1"}, "files": list(files), **more}).encode()


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [HTML_TYPE, "text/html", "Text/HTML; charset=utf-8"])
def test_a_page_of_pytorch(kind: str) -> None:
    assert read_page(PYTORCH.encode(), kind, "torch") == [
        File("torch-2.7.0+cu128-cp310-cp310-manylinux_2_28_aarch64.whl"),
        File("torch-2.7.0+cu128-cp312-cp312-manylinux_2_28_x86_64.whl", ">=3.9.0"),
    ]


def test_a_listing_of_a_folder() -> None:
    text = """<html><head><title>Index of /pytorch-wheels/cu128/</title></head><body><pre><a href="../">../</a>
<A HREF='torch-2.9.1+cu128-cp312-cp312-manylinux_2_28_x86_64.whl'>torch-2.9.1+cu128-cp312-cp312-many..&gt;</A> Oct
<a href=torch-2.8.0%2Bcu128-cp312-cp312-manylinux_2_28_x86_64.whl?x=1>torch-2.8.0+..</a>
<a href="torchvision-0.24.1%2Bcu128-cp312-cp312-manylinux_2_28_x86_64.whl">torchvision</a>
<a href="torch_tensorrt-2.9.0%2Bcu128-cp312-cp312-manylinux_2_28_x86_64.whl">other</a>
<a name="no link">x</a><a href="http://[::1">bad</a></pre>"""
    names = [file.name for file in read_page(text.encode(), "text/html", "torch")]
    assert names == [
        "torch-2.9.1+cu128-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torch-2.8.0+cu128-cp312-cp312-manylinux_2_28_x86_64.whl",
    ]


def test_json() -> None:
    name = "torch-2.9.1-cp312-cp312-manylinux_2_28_x86_64.whl"
    body = json_page(
        {"filename": name, "size": 899_000_000, "requires-python": ">=3.10", "yanked": False},
        {"filename": "torch-2.9.0-cp312-cp312-linux_x86_64.whl", "yanked": True},
        {"filename": "torch-2.9.2-cp312-cp312-linux_x86_64.whl", "yanked": "a reason"},
        {"filename": "torch-2.8.0-cp312-cp312-linux_x86_64.whl", "size": "big"},
        {"filename": "torch-2.7.0-cp312-cp312-linux_x86_64.whl", "requires-python": None},
        {"filename": 5}, "x", None, {}, {"filename": "torch-2.9.1.tar.gz"},
    )  # fmt: skip
    assert read_page(body, f"{JSON_TYPE}; charset=utf-8", "torch") == [
        File(name, ">=3.10", 899_000_000),
        File("torch-2.8.0-cp312-cp312-linux_x86_64.whl"),
        File("torch-2.7.0-cp312-cp312-linux_x86_64.whl"),
    ]


def test_an_index_that_has_none_says_so_in_json() -> None:
    assert read_page(json_page(), JSON_TYPE, "torch") == []


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"<html><form>Welcome to our hotel</form></html>", "text/html", "lists no file of torch"),
        (b"", "text/html", "lists no file of torch"),
        (PYTORCH.encode(), "text/plain", "is text/plain, not a package index"),
        (PYTORCH.encode(), "", "of no type"),
        (b"{}", JSON_TYPE, "lists no files"),
        (b"[]", JSON_TYPE, "lists no files"),
        (b'{"files": {}}', JSON_TYPE, "lists no files"),
        (json_page()[:-3], JSON_TYPE, "no valid JSON"),
        (b"\xff\xfe\x00", JSON_TYPE, "no valid JSON"),
        (b"[" * 200_000, JSON_TYPE, "no valid JSON"),
        (json_page(meta={"api-version": "2.0"}), JSON_TYPE, "speaks version 2.0"),
        (
            b'<meta name="pypi:repository-version" content="2.3">' + PYTORCH.encode(),
            HTML_TYPE,
            "speaks version 2.3",
        ),
    ],
)
def test_what_is_no_page_of_an_index(body: bytes, kind: str, reason: str) -> None:
    with pytest.raises(Unknown, match=reason):
        read_page(body, kind, "torch")


def test_later_versions_of_the_protocol_are_read() -> None:
    assert read_page(json_page(meta={"api-version": "1.9"}), JSON_TYPE, "torch") == []
    text = '<meta name="pypi:repository-version" content="1.4">' + PYTORCH
    assert len(read_page(text.encode(), HTML_TYPE, "torch")) == 2


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([JSON_TYPE, "text/html", "text/html; charset=x"]))
def test_any_bytes_are_read_or_refused(body: bytes, kind: str) -> None:
    for page in (body, PYTORCH.encode()[: len(body) * 4] + body, json_page()[: len(body)] + body):
        try:
            found = read_page(page, kind, "torch")
        except Unknown:
            continue
        assert all(file.name.startswith("torch-") for file in found)


# --- fitting ----------------------------------------------------------------------------------


def wheel(tags: str, requires_python: str = "") -> File:
    return File(f"torch-2.9.1-{tags}.whl", requires_python)


@pytest.mark.parametrize(
    ("tags", "python", "arch", "glibc"),
    [
        ("cp312-cp312-manylinux_2_28_x86_64", "3.12", "x86_64", "2.28"),
        ("cp312-cp312-manylinux1_x86_64", "3.12", "x86_64", "2.5"),
        ("cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", "3.12", "x86_64", "2.17"),
        ("cp312-cp312-manylinux_2_28_x86_64.manylinux2014_x86_64", "3.12", "x86_64", "2.17"),
        ("cp312-cp312-linux_x86_64", "3.12", "x86_64", None),
        ("cp312-cp312-linux_x86_64", "3.12", "amd64", None),
        ("cp312-cp312-manylinux_2_28_aarch64", "3.12", "aarch64", "2.28"),
        ("cp312-none-macosx_11_0_arm64", "3.12", "arm64-macos", None),
        ("cp312-none-macosx_11_0_arm64", "3.12", "arm64", None),
        ("cp313-cp313t-manylinux_2_28_x86_64", "3.13t", "x86_64", "2.28"),
        ("cp310-abi3-manylinux_2_28_x86_64", "3.12", "x86_64", "2.28"),
        ("py3-none-any", "3.12", "x86_64", None),
        ("py2.py3-none-manylinux_2_28_x86_64", "3.12", "x86_64", "2.28"),
    ],
)
def test_a_wheel_that_fits(tags: str, python: str, arch: str, glibc: str | None) -> None:
    (fit,) = fits(wheel(tags), python, arch)
    names = {"amd64": "x86_64", "arm64": "arm64-macos"}
    assert (str(fit.version), fit.python, fit.cpu_arch, fit.glibc) == (
        "2.9.1", python, names.get(arch, arch), glibc,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "python", "arch"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", "3.12", "x86_64"),
        ("cp313-cp313-manylinux_2_28_x86_64", "3.13t", "x86_64"),
        ("cp313-cp313t-manylinux_2_28_x86_64", "3.13", "x86_64"),
        ("cp310-abi3-manylinux_2_28_x86_64", "3.13t", "x86_64"),
        ("cp313-abi3-manylinux_2_28_x86_64", "3.12", "x86_64"),
        ("cp312-cp312-manylinux_2_28_x86_64", "3.12", "aarch64"),
        ("cp312-cp312-manylinux_2_28_x86_64", "3.12", "arm64"),
        ("cp312-cp312-musllinux_1_2_x86_64", "3.12", "x86_64"),
        ("cp312-cp312-win_amd64", "3.12", "amd64"),
        ("cp312-none-macosx_10_9_x86_64", "3.12", "x86_64"),
        ("cp312-cp312-linux_riscv64", "3.12", "riscv64"),
        ("pp310-pypy310_pp73-manylinux_2_28_x86_64", "3.10", "x86_64"),
        ("cp312-cp312-linux_x86_64", "three", "x86_64"),
    ],
)
def test_a_wheel_that_does_not(tags: str, python: str, arch: str) -> None:
    assert fits(wheel(tags), python, arch) == []


@pytest.mark.parametrize(
    ("specifier", "fitting"),
    [
        ("", True), (">=3.9.0", True), (">=3.12", True), (">=3.13", False), (">=3.12.4", True),
        ("<3.12.4", True), ("<3.12", False), (">=3.9,!=3.12.*", False), ("==3.12.*", True),
        ("not a specifier", True),
    ],
)  # fmt: skip
def test_requires_python(specifier: str, fitting: bool) -> None:
    tags = "cp312-cp312-linux_x86_64"
    assert bool(fits(wheel(tags, specifier), "3.12", "x86_64")) is fitting


@pytest.mark.parametrize(
    "name",
    [
        "torch-2.9.1.whl", "torch-2.9.1-cp312.whl", "torch-new-cp312-cp312-linux_x86_64.whl",
        "torch-.whl", "torch-2.9.1-cp312-cp312-linux_x86_64-x-y-z.whl", "torch-🔥-a-b-c.whl",
        "torch-2.9.1-b-cp312-cp312-linux_x86_64.whl",
    ],
)  # fmt: skip
def test_a_broken_name_fits_nothing(name: str) -> None:
    assert fits(File(name), "3.12", "x86_64") == []
    assert fits(File(name), None, None) == []


def test_all_pythons_and_processors() -> None:
    def found(tags: str) -> list[tuple[str, str]]:
        return [(fit.python, fit.cpu_arch) for fit in fits(wheel(tags), None, None)]

    assert found("cp312-cp312-manylinux_2_28_x86_64") == [("3.12", "x86_64")]
    assert found("cp314-cp314t-manylinux_2_28_aarch64") == [("3.14t", "aarch64")]
    assert found("cp312-none-macosx_11_0_arm64") == [("3.12", "arm64-macos")]
    assert found("cp312-cp312-win_amd64") == []
    assert found("py3-none-any") == []

"""Toolchain, mirror and the rustbpe extension, read from trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from elf_files import MACHINE_AT, build_library, needs_gcc, patched

from doctor.facts import Rust
from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.probe import rust

SITE = "usr/lib/python3.12/site-packages"


def look(
    root: Path,
    files: Mapping[str, str] | None = None,
    programs: Mapping[str, str] | None = None,
    minor: str | None = "3.12",
) -> Rust:
    """Probe a tree of files (path -> text) and programs (path -> shell lines)."""
    scripts = {path: f"#!/bin/sh\n{body}\n" for path, body in (programs or {}).items()}
    for path, text in (dict(files or {}) | scripts).items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o755 if path in scripts else 0o644)
    system = System(root, seconds=2, execute=True)
    return rust.probe(system, PythonEnvironment(system, "3.12", [], [f"/{SITE}"]), minor)


def test_nothing_installed(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.rustc, found.cargo, found.maturin, found.off_path, found.mirror) == (None,) * 5
    assert (found.module_path, found.module_stale, found.rustup) == (None, None, False)
    assert not found.unknown


def test_a_toolchain_of_rustup(tmp_path: Path) -> None:
    found = look(
        tmp_path,
        programs={
            "root/.cargo/bin/rustc": "echo 'rustc 1.83.0 (90b35a623 2024-11-26)'",
            "root/.cargo/bin/cargo": "echo 'cargo 1.83.0 (5ffbef321 2024-10-29)'",
            "root/.cargo/bin/rustup": "",
            "usr/bin/maturin": "echo 'maturin 1.7.8'",
        },
    )
    assert (found.rustc, found.cargo, found.maturin) == ("1.83.0", "1.83.0", "1.7.8")
    assert (found.rustc_path, found.rustup) == ("/root/.cargo/bin/rustc", True)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'error: rustup could not choose a version of rustc to run' >&2; exit 1",
         "rustc ended with status 1: error: rustup could not choose"),
        ("echo nothing", "no version in 'nothing'"),
        ("sleep 60", "rustc gave no answer within "),
        ("head -c 999 /dev/urandom", "bytes that are no text"),
    ],
)  # fmt: skip
def test_a_rustc_that_does_not_answer(tmp_path: Path, body: str, reason: str) -> None:
    found = look(tmp_path, programs={"usr/bin/rustc": body})
    assert found.rustc is None and found.rustc_path == "/usr/bin/rustc"
    assert reason in found.unknown["rustc"]


@pytest.mark.parametrize(
    ("environment", "place", "expected"),
    [
        ("HOME=/home/x\n", "home/x/.cargo/bin/cargo", "/home/x/.cargo/bin"),
        ("HOME=/home/x\nCARGO_HOME=/opt/cargo\n", "opt/cargo/bin/cargo", "/opt/cargo/bin"),
        ("HOME=/home/x\nCARGO_HOME=/opt/cargo\n", "home/x/.cargo/bin/cargo", None),
        ("HOME=/home/x\n", "usr/bin/cargo", None),
    ],
)
def test_a_cargo_off_the_path(
    tmp_path: Path, environment: str, place: str, expected: str | None
) -> None:
    found = look(tmp_path, {"etc/environment": environment}, {place: "echo cargo 1.83.0"})
    assert found.off_path == expected


SPARSE = """\
[source.crates-io]
replace-with = 'mirror'

[source.other]
registry = "https://other.example/index"

[source.mirror]
registry = "sparse+https://user:pass@mirror.example/index/"
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (SPARSE, "sparse+https://«private»"),
        (SPARSE.replace("[source.crates-io]", '[source."crates-io"]'),
         "sparse+https://«private»"),
        ('[source.crates-io]\nreplace-with="vendored"\n[source.vendored]\ndirectory="v"\n',
         "vendored"),
        ("[build]\njobs = 2\n[source.other]\nregistry = 'https://x.example'\n", None),
        ("[source.crates-io\nreplace-with = mirror", None),
        ("\0\0\0", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["config.toml", "config"])
def test_mirror(tmp_path: Path, text: str, expected: str | None, name: str) -> None:
    files = {"etc/environment": "HOME=/root\n", f"root/.cargo/{name}": text}
    assert look(tmp_path, files).mirror == expected


def test_a_mirror_that_is_commented_out(tmp_path: Path) -> None:
    text = "".join(f"# {line}\n" for line in SPARSE.splitlines())
    files = {"etc/environment": "HOME=/root\n", "root/.cargo/config.toml": text}
    assert look(tmp_path, files).mirror is None


# --- the extension ---------------------------------------------------------------------------

UNAME = {"usr/bin/uname": "echo x86_64"}


@needs_gcc
@pytest.mark.parametrize(
    ("name", "machine", "minor", "stale"),
    [
        ("rustbpe.cpython-312-x86_64-linux-gnu.so", 62, "3.12", None),
        ("rustbpe.abi3.so", 62, "3.13", None),
        ("rustbpe.so", 62, "3.12", None),
        ("rustbpe/rustbpe.cpython-312-x86_64-linux-gnu.so", 62, "3.12", None),
        ("rustbpe.cpython-311-x86_64-linux-gnu.so", 62, "3.12",
         "built for cp311, and this Python is cp312"),
        ("rustbpe/rustbpe.cpython-311-x86_64-linux-gnu.so", 62, "3.12",
         "built for cp311, and this Python is cp312"),
        ("rustbpe.abi3.so", 183, "3.12", "built for aarch64, and this machine is x86_64"),
        ("rustbpe.cpython-312-x86_64-linux-gnu.so", 62, None, None),
    ],
)  # fmt: skip
def test_whether_the_extension_serves(
    tmp_path: Path, name: str, machine: int, minor: str | None, stale: str | None
) -> None:
    made = build_library(tmp_path / "made.so").read_bytes()
    place = tmp_path / SITE / name
    place.parent.mkdir(parents=True)
    place.write_bytes(patched(made, MACHINE_AT, "<H", machine))
    files = {f"{SITE}/rustbpe-0.1.0.dist-info/METADATA": ""}
    if "/" in name:
        files[f"{SITE}/rustbpe/__init__.py"] = ""
    found = look(tmp_path, files, UNAME, minor)
    assert found.module_path == f"/{SITE}/{name.split('/')[0]}"
    assert found.module_stale == stale
    assert (found.module_version, found.module_distribution) == ("0.1.0", "rustbpe")


def test_a_damaged_extension_is_not_called_fit_for_another_machine(tmp_path: Path) -> None:
    found = look(tmp_path, {f"{SITE}/rustbpe.abi3.so": "\x7fELF cut"}, UNAME)
    assert found.module_path == f"/{SITE}/rustbpe.abi3.so"
    assert found.module_stale is None


def test_the_crate_beside_us_is_no_extension(tmp_path: Path) -> None:
    """A checkout that is on the import path has a folder `rustbpe`; importing it gives nothing."""
    assert look(tmp_path, {f"{SITE}/rustbpe/Cargo.toml": "[package]"}).module_path is None


def test_a_shim_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "shims" / "maturin"
    shim.parent.mkdir()
    shim.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent))
    system = System()
    found = rust.probe(system, PythonEnvironment(system, "3.12", [], []), "3.12")
    assert found.maturin is None
    assert "shim" in found.unknown["maturin"]
    assert not (tmp_path / "ran").exists()


def test_the_crate_of_this_checkout_is_of_no_use_to_another_machine(tmp_path: Path) -> None:
    assert look(tmp_path).crate is None
    system = System()
    live = rust.probe(system, PythonEnvironment(system, "3.12", [], []), "3.12")
    assert live.crate is not None
    assert (Path(live.crate) / "Cargo.toml").is_file()

"""The search for libraries against the real loader (`ldd`), the real cache, and trees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from elf_files import MACHINE_AT, build_library, needs_gcc, patched
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.machine.linker import Closure, Linker, parse_cache, parse_ldconfig
from doctor.machine.system import System

LDCONFIG = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
needs_ldd = pytest.mark.skipif(not shutil.which("ldd"), reason="no ldd to compare with")
needs_ldconfig = pytest.mark.skipif(not LDCONFIG, reason="no ldconfig to make a cache with")


@dataclass(frozen=True)
class Lib:
    """A library to build: sonames that it needs, and where it asks the loader to look."""

    needs: tuple[str, ...] = ()
    rpath: str | None = None
    runpath: str | None = None
    soname: str | None = ""


def build_tree(root: Path, libraries: Mapping[str, Lib]) -> None:
    """Build libraries at their places; `{root}` in a search path becomes the folder."""
    for place, lib in libraries.items():
        stubs = [build_library(root / "stubs" / name) for name in lib.needs]
        paths = [p and p.replace("{root}", str(root)) for p in (lib.rpath, lib.runpath)]
        build_library(
            root / place, needs=stubs, rpath=paths[0], runpath=paths[1], soname=lib.soname
        )
    shutil.rmtree(root / "stubs", ignore_errors=True)


def ldd(path: Path | str) -> dict[str, str | None]:
    """Library -> real path, as the loader itself says; itself and the kernel's page apart."""
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True)
    found: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        match = re.match(r"\s*(\S+) => (?:(/\S*)|not found)", line)
        absolute = re.match(r"\s*(/\S+) \(0x", line)
        if match:
            found[match[1]] = os.path.realpath(match[2]) if match[2] else None
        elif absolute:
            found[absolute[1]] = os.path.realpath(absolute[1])
    return without_loader(found)


def resolved(closure: Closure, asked: Path | str) -> dict[str, str | None]:
    """The same out of a closure."""
    own = str(asked).rsplit("/", 1)[-1]
    return without_loader(
        {
            name: item.path and os.path.realpath(item.path)
            for name, item in closure.libraries.items()
            if name != own
        }
    )


def without_loader(found: Mapping[str, str | None]) -> dict[str, str | None]:
    return {k: v for k, v in found.items() if not re.search(r"ld-linux|linux-vdso|ld64", k)}


MAIN = "app/libmain.so"
X, Y = "libx.so", "liby.so"
HERE = {f"{folder}/{X}": Lib() for folder in ("one", "two", "three")}

SCENARIOS: dict[str, tuple[dict[str, Lib], str]] = {
    "nowhere": ({MAIN: Lib((X,))}, ""),
    "rpath": ({MAIN: Lib((X,), rpath="{root}/one")} | HERE, ""),
    "runpath": ({MAIN: Lib((X,), runpath="{root}/one")} | HERE, ""),
    "environment": ({MAIN: Lib((X,))} | HERE, "two"),
    "rpath before environment": ({MAIN: Lib((X,), rpath="{root}/one")} | HERE, "two"),
    "environment before runpath": ({MAIN: Lib((X,), runpath="{root}/one")} | HERE, "two"),
    "several, the first counts": ({MAIN: Lib((X,), rpath="{root}/no:{root}/three:/a")} | HERE, ""),
    "several in the environment": ({MAIN: Lib((X,))} | HERE, "none:three:one"),
    "origin": ({MAIN: Lib((X,), runpath="$ORIGIN/../one")} | HERE, ""),
    "origin in braces": ({MAIN: Lib((X,), rpath="${ORIGIN}/../two")} | HERE, ""),
    "rpath is handed down": (
        {MAIN: Lib((Y,), rpath="{root}/one"), f"one/{Y}": Lib((X,))} | HERE,
        "",
    ),
    "runpath is not handed down": (
        {MAIN: Lib((Y,), runpath="{root}/one"), f"one/{Y}": Lib((X,))} | HERE,
        "",
    ),
    "runpath below silences rpath above": (
        {MAIN: Lib((Y,), rpath="{root}/one"), f"one/{Y}": Lib((X,), runpath="{root}/two")} | HERE,
        "",
    ),
    "runpath below that does not find it": (
        {MAIN: Lib((Y,), rpath="{root}/one"), f"one/{Y}": Lib((X,), runpath="{root}/none")} | HERE,
        "",
    ),
    "own rpath before that above": (
        {MAIN: Lib((Y,), rpath="{root}/one"), f"one/{Y}": Lib((X,), rpath="{root}/two")} | HERE,
        "",
    ),
    "rpath three levels up, through a runpath": (
        {
            MAIN: Lib((Y,), rpath="{root}/one"),
            f"one/{Y}": Lib(("libz.so",), runpath="{root}/one"),
            "one/libz.so": Lib((X,)),
        }
        | HERE,
        "",
    ),
    "origin is that of the library which names it": (
        {
            MAIN: Lib((Y,), rpath="$ORIGIN/../one"),
            f"one/{Y}": Lib((X,), runpath="$ORIGIN/../two"),
        }
        | HERE,
        "",
    ),
    "first come, first served": (
        {
            MAIN: Lib((X, Y), rpath="{root}/one"),
            f"one/{Y}": Lib((X,), rpath="{root}/two"),
        }
        | HERE,
        "",
    ),
    "breadth before depth": (
        {
            MAIN: Lib((Y, "libz.so"), rpath="{root}/one"),
            f"one/{Y}": Lib((X,), rpath="{root}/two"),
            "one/libz.so": Lib((X,), rpath="{root}/three"),
        }
        | HERE,
        "",
    ),
    "two that need each other": (
        {MAIN: Lib((X,), rpath="{root}/ring"), f"ring/{X}": Lib((Y,)), f"ring/{Y}": Lib((X,))},
        "",
    ),
    "trailing slashes and doubled ones": (
        {MAIN: Lib((X,), rpath="{root}//one/")} | HERE,
        "",
    ),
    "empty entries": ({MAIN: Lib((X,), rpath="::{root}/one:")} | HERE, ""),
}


@needs_gcc
@needs_ldd
@pytest.mark.parametrize("case", SCENARIOS)
def test_same_as_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    libraries, environment = SCENARIOS[case]
    build_tree(tmp_path, libraries)
    folders = [f"{tmp_path}/{name}" for name in environment.split(":") if name]
    monkeypatch.setenv("LD_LIBRARY_PATH", ":".join(folders))
    main = tmp_path / MAIN
    ours = Linker(System()).closure([str(main)])
    assert resolved(ours, main) == ldd(main)
    missing = [name for name, path in ldd(main).items() if path is None]
    assert [item.soname for item in ours.missing()] == missing


@needs_gcc
@needs_ldd
def test_a_file_of_another_architecture_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tree(tmp_path, {MAIN: Lib((X,), rpath="{root}/one:{root}/two")} | HERE)
    wrong = tmp_path / "one" / X
    machine = 40 if os.uname().machine != "armv7l" else 62
    wrong.write_bytes(patched(wrong.read_bytes(), MACHINE_AT, "<H", machine))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    main = tmp_path / MAIN
    found = resolved(Linker(System()).closure([str(main)]), main)
    assert found == ldd(main) == {X: str(tmp_path / "two" / X)}


@needs_gcc
@needs_ldd
def test_origin_of_a_library_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's $ORIGIN is the folder in which it found the name, not that of the target."""
    libraries = {MAIN: Lib((Y,), rpath="{root}/links"), f"real/{Y}": Lib((X,), runpath="$ORIGIN")}
    build_tree(tmp_path, libraries | {f"links/{X}": Lib()})
    (tmp_path / "links" / Y).symlink_to(tmp_path / "real" / Y)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    main = tmp_path / MAIN
    found = resolved(Linker(System()).closure([str(main)]), main)
    assert ldd(main)[X] == str(tmp_path / "links" / X)
    assert found == ldd(main)


@needs_gcc
@needs_ldd
def test_a_library_that_is_needed_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked against a file without soname, a library asks for the path it was given."""
    plain = build_library(tmp_path / "deps" / X, soname=None)
    main = build_library(tmp_path / MAIN, needs=[plain])
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert ldd(main) == {str(plain): str(plain)}
    assert resolved(Linker(System()).closure([str(main)]), main) == ldd(main)


@needs_gcc
def test_a_library_loaded_by_path_answers_to_its_soname(tmp_path: Path) -> None:
    """ld.so(8): what was already loaded under a soname is not searched again."""
    first = build_library(tmp_path / "lib/libfirst-1.2.so", soname="libfirst.so.1")
    second = build_library(tmp_path / "other/libsecond.so", needs=[first])
    code = (
        "import ctypes, sys; [ctypes.CDLL(p, mode=ctypes.RTLD_GLOBAL) for p in sys.argv[1:]];"
        "print('loaded')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(first), str(second)], capture_output=True, text=True
    )
    assert done.stdout == "loaded\n"
    assert Linker(System()).closure([str(first), str(second)]).missing() == []


def real_files() -> list[Path]:
    """Programs and libraries of this machine that need more than the C library."""
    dynload = Path(sysconfig.get_paths()["stdlib"], "lib-dynload")
    programs = [Path(p) for n in ("git", "gcc", "openssl", "ssh") if (p := shutil.which(n))]
    files = [*programs, Path(sys.executable), *sorted(dynload.glob("_ssl*.so"))]
    return [p for p in files if p.resolve().read_bytes()[:4] == b"\x7fELF"]


@needs_ldd
@pytest.mark.parametrize("path", real_files(), ids=lambda p: p.name.partition(".")[0])
def test_programs_of_this_machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    real = path.resolve()
    closure = Linker(System()).closure([str(real)])
    assert resolved(closure, real) == ldd(real)
    assert not closure.unreadable and not closure.missing()


# --- below a root ----------------------------------------------------------------------------


@needs_gcc
def test_paths_below_a_root_are_those_of_the_tree(tmp_path: Path) -> None:
    absolute = {MAIN: Lib((X, Y), rpath="/one"), f"usr/lib64/{Y}": Lib((), runpath="/none")}
    build_tree(tmp_path, absolute | HERE)
    closure = Linker(System(tmp_path, execute=True)).closure([f"/{MAIN}"])
    assert {k: (v.path, v.via) for k, v in closure.libraries.items() if k != "libmain.so"} == {
        X: (f"/one/{X}", "rpath"),
        Y: (f"/usr/lib64/{Y}", "default"),
    }
    assert closure.libraries[X].needed_by == f"/{MAIN}"


@needs_gcc
def test_libraries_of_the_host_do_not_help_a_tree(tmp_path: Path) -> None:
    build_library(tmp_path / MAIN, flags=["-lc"], needs=[build_library(tmp_path / "x" / X)])
    closure = Linker(System(tmp_path, execute=True)).closure([f"/{MAIN}"])
    assert closure.libraries["libc.so.6"].path is None
    # glibc is part of the base system: unknown below a root, not missing
    assert [item.soname for item in closure.missing()] == [X]


@needs_gcc
def test_environment_preload_and_bundled(tmp_path: Path) -> None:
    build_tree(tmp_path, {MAIN: Lib((X, Y, "libz.so", "libw.so"))} | HERE | {f"torch/{Y}": Lib()})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/environment").write_text("LD_LIBRARY_PATH=/three\n")
    linker = Linker(
        System(tmp_path, execute=True), preload={"libz.so": "/site/libz.so", X: "/site/libx.so"}
    )
    found = linker.closure([f"/{MAIN}"], bundled=["/torch"]).libraries
    assert {name: (item.path, item.via) for name, item in found.items()} == {
        "libmain.so": (f"/{MAIN}", "path"),
        X: (f"/three/{X}", "LD_LIBRARY_PATH"),
        Y: (f"/torch/{Y}", "bundled"),
        "libz.so": ("/site/libz.so", "preload"),
        "libw.so": (None, "not found"),
    }
    assert linker.find(X) == f"/three/{X}"
    assert linker.find(Y) is None


@needs_gcc
def test_damaged_and_absent_files_are_reported_not_raised(tmp_path: Path) -> None:
    build_tree(tmp_path, {MAIN: Lib((X,), rpath="/one")} | HERE)
    place = tmp_path / "one" / X
    place.write_bytes(place.read_bytes()[:900])
    closure = Linker(System(tmp_path, execute=True)).closure([f"/{MAIN}", "/none/libnone.so"])
    assert set(closure.unreadable) == {f"/one/{X}", "/none/libnone.so"}
    assert all(closure.unreadable.values())
    assert closure.libraries[X].path == f"/one/{X}"


@needs_gcc
def test_symbol_versions_asked_by_libraries_outside_the_system(tmp_path: Path) -> None:
    code = "#include <stdlib.h>\nvoid *f(void) { return realpath(0, 0); }\n"
    main = build_library(tmp_path / MAIN, flags=["-lc"], code=code)
    closure = Linker(System()).closure([str(main)])
    versions = closure.versions["libc.so.6"]
    assert versions and all(v.startswith("GLIBC_2.") for v in versions)
    # what libc.so.6 itself asks of the loader is no demand of ours
    assert "GLIBC_PRIVATE" not in {v for each in closure.versions.values() for v in each}


# --- cache -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str, Path]:
    """A cache that the real ldconfig made, what it prints of it, and a folder that it lists."""
    folder = tmp_path_factory.mktemp("cache")
    for name in ("libx.so.1", "liby.so.2"):
        build_library(folder / "opt" / name)
    (folder / "conf").write_text(f"{folder}/opt\n")
    base = [str(LDCONFIG), "-C", str(folder / "cache")]
    made = [*base, "-X", "-f", str(folder / "conf")]
    subprocess.run(made, check=True, capture_output=True)
    shown = subprocess.run([*base, "-p"], check=True, capture_output=True, text=True)
    return (folder / "cache").read_bytes(), shown.stdout, folder / "opt"


@needs_gcc
@needs_ldconfig
def test_cache_reads_as_ldconfig_prints_it(cache: tuple[bytes, str, Path]) -> None:
    data, text, folder = cache
    table = parse_cache(data)
    assert table == parse_ldconfig(text)
    assert table["libx.so.1"] == [f"{folder}/libx.so.1"]
    # caches of older systems begin with the old format; the offsets count from the new one
    assert parse_cache(b"ld.so-1.7.0\0" + bytes(36) + data) == table


@needs_gcc
@needs_ldconfig
def test_a_library_found_through_the_cache(cache: tuple[bytes, str, Path], tmp_path: Path) -> None:
    data, text, folder = cache
    build_tree(tmp_path, {MAIN: Lib(("libx.so.1",)), f"{str(folder)[1:]}/libx.so.1": Lib()})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ld.so.cache").write_bytes(data)
    linker = Linker(System(tmp_path, execute=True))
    item = linker.closure([f"/{MAIN}"]).libraries["libx.so.1"]
    assert (item.path, item.via) == (f"{folder}/libx.so.1", "cache")
    assert linker.find("libx.so.1") == f"{folder}/libx.so.1"
    # entries whose file is not there count for nothing
    assert linker.find("liby.so.2") is None
    # without a cache file, a tree's ldconfig is asked
    (tmp_path / "etc/ld.so.cache").write_bytes(b"damaged")
    tool = tmp_path / "sbin/ldconfig"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ncat <<'EOF'\n{text}EOF\n")
    tool.chmod(0o755)
    assert Linker(System(tmp_path, execute=True)).find("libx.so.1") == f"{folder}/libx.so.1"


PRINTED = """\
3 libs found in cache `/etc/ld.so.cache'
\tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1
\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/wsl/lib/libcuda.so.1
\tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1
\tlibm.so.6 (libc6,x86-64, OS ABI: Linux 3.2.0) => /lib/x86_64-linux-gnu/libm.so.6
Cache generated by: ldconfig (Ubuntu GLIBC 2.39-0ubuntu8.6) stable release version 2.39
"""


def test_what_ldconfig_prints() -> None:
    assert parse_ldconfig(PRINTED) == {
        "libz.so.1": ["/lib/x86_64-linux-gnu/libz.so.1"],
        "libcuda.so.1": [
            "/usr/lib/wsl/lib/libcuda.so.1",
            "/usr/lib/i386-linux-gnu/libcuda.so.1",
        ],
        "libm.so.6": ["/lib/x86_64-linux-gnu/libm.so.6"],
    }


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_any_text_of_ldconfig(text: str) -> None:
    assert all(p.startswith("/") for paths in parse_ldconfig(text).values() for p in paths)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300), st.binary(max_size=20))
def test_any_bytes_as_cache(noise: bytes, before: bytes) -> None:
    parse_cache(noise)
    parse_cache(before + b"glibc-ld.so.cache1.1" + noise)


@needs_gcc
@needs_ldconfig
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damaged_caches(cache: tuple[bytes, str, Path], data: st.DataObject) -> None:
    whole = cache[0]
    end = data.draw(st.integers(0, len(whole)))
    changed = bytearray(whole[:end])
    places = st.one_of(st.integers(0, 200), st.integers(0, len(whole)))
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=5)):
        if place < len(changed):
            changed[place] = byte
    table = parse_cache(bytes(changed))
    assert all(path.startswith("/") for paths in table.values() for path in paths)


OPENER = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **names) {
    void *first = dlopen(names[1], RTLD_NOW);
    if (!first) { puts(dlerror()); return 1; }
    const char *(*open_part)(void) = (const char *(*)(void))dlsym(first, "open_part");
    puts(open_part ? open_part() : "no part asked");
    return 0;
}
"""
ASKER = """
#include <dlfcn.h>
#include <link.h>
const char *open_part(void) {
    struct link_map *part = dlopen("libx.so", RTLD_NOW);
    return part ? part->l_name : "not found";
}
"""


@needs_gcc
@pytest.mark.parametrize(
    ("program", "asker", "environment", "places"),
    [
        ({"rpath": "$ORIGIN/one"}, {}, "", "one"),
        ({"rpath": "$ORIGIN/one"}, {"runpath": "$ORIGIN/../two"}, "", "one two"),
        ({"rpath": "$ORIGIN/one"}, {"runpath": "$ORIGIN/../two"}, "", "one"),
        ({"rpath": "$ORIGIN/one"}, {"rpath": "$ORIGIN/../two"}, "", "one two"),
        ({"runpath": "$ORIGIN/one"}, {}, "", "one"),
        ({}, {"runpath": "$ORIGIN/../two"}, "three", "two three"),
        ({}, {"rpath": "$ORIGIN/../two"}, "three", "two three"),
    ],
)
def test_what_is_opened_by_name(
    tmp_path: Path, program: dict[str, str], asker: dict[str, str], environment: str, places: str
) -> None:
    """A program's RPATH counts for what its libraries open, unless they have a RUNPATH: as the loader says itself."""
    tags = {"rpath": "--disable-new-dtags", "runpath": "--enable-new-dtags"}
    flags = [f"-Wl,{tags[kind]},-rpath,{value}" for kind, value in program.items()]
    main = tmp_path / "main"
    subprocess.run(
        ["gcc", "-x", "c", "-", "-o", str(main), *flags, "-ldl"],
        input=OPENER,
        text=True,
        check=True,
    )
    first = build_library(tmp_path / "lib" / "libfirst.so", code=ASKER, flags=["-ldl"], **asker)  # type: ignore[arg-type]
    for place in places.split():
        build_library(tmp_path / place / X)
    env = {"LD_LIBRARY_PATH": str(tmp_path / environment)} if environment else {}
    done = subprocess.run([str(main), str(first)], env=env, capture_output=True, text=True)
    linker = Linker(System(), program=str(main))
    linker.library_path = list(env.values())
    closure = linker.closure([str(first)])
    found = linker.open_by_name(closure, closure.libraries["libfirst.so"], X)
    theirs = done.stdout.strip()
    assert (os.path.normpath(found[0]) if found else "not found") == (
        os.path.normpath(theirs) if "/" in theirs else theirs
    )

"""Our ELF and fatbin readers on the libraries of a real torch, beside pyelftools.

    python tests/bench/bench_elf.py --python bench/bin/python

Both must read the same: needed libraries, soname, RPATH, RUNPATH and symbol versions. Each library
is read by both in turn, and the fastest of several runs counts: a warm file, no disk.
"""

from __future__ import annotations

import argparse
import mmap
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from doctor.machine import fatbin
from doctor.machine.elf import Dynamic, Elf

T = TypeVar("T")


def ours(path: Path) -> Dynamic:
    """Read with doctor.machine.elf."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return Elf(view).dynamic()


def theirs(path: Path) -> Dynamic:
    """Read the same with pyelftools."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        values: dict[str, list[str]] = {}
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                for tag in section.iter_tags():
                    for name in ("needed", "soname", "rpath", "runpath"):
                        if hasattr(tag, name):
                            values.setdefault(name, []).append(getattr(tag, name))
        versions = tuple(
            (need.name, entry.name)
            for section in elf.iter_sections()
            if isinstance(section, GNUVerNeedSection)
            for need, entries in section.iter_versions()
            for entry in entries
        )

    def folders(name: str) -> tuple[str, ...]:
        return tuple(part for part in values.get(name, [""])[0].split(":") if part)

    return Dynamic(
        needed=tuple(values.get("needed", ())),
        soname=values.get("soname", [None])[0],
        rpath=folders("rpath"),
        runpath=folders("runpath"),
        versions=versions,
    )


def scan(path: Path) -> fatbin.Fatbin:
    """Count the GPU code of a library."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return fatbin.read(Elf(view))


def timed(read: Callable[[Path], T], path: Path, runs: int) -> tuple[T, float]:
    """What a reader says, and the seconds of its fastest run."""
    fastest = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        result = read(path)
        fastest = min(fastest, time.perf_counter() - began)
    return result, fastest


def libraries(python: str) -> Iterator[Path]:
    """Shared libraries of torch and of the nvidia packages beside it."""
    code = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    torch = Path(subprocess.check_output([python, "-c", code], text=True, cwd="/").strip())
    for folder in (torch / "lib", *sorted(torch.parent.glob("nvidia/*/lib"))):
        for path in sorted(folder.glob("*.so*")):
            if path.is_file() and path.stat().st_size:
                yield path


def main() -> int:
    """Run the benchmark; ends with 1 where the readers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="interpreter with torch")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, fastest counts")
    options = parser.parse_args()
    total = {"ours": 0.0, "theirs": 0.0}
    differ = []
    paths = list(libraries(options.python))
    for path in paths:
        mine, seconds = timed(ours, path, options.runs)
        other, other_seconds = timed(theirs, path, options.runs)
        total["ours"] += seconds
        total["theirs"] += other_seconds
        if mine != other:
            differ.append(path)
            print(f"{path.name}: they read {other}\n{'':{len(path.name)}}  we read   {mine}")
    each = {name: seconds / len(paths) * 1e3 for name, seconds in total.items()}
    print(f"{len(paths)} libraries, {len(differ)} read differently")
    print(f"dynamic section: ours {each['ours']:.2f} ms, pyelftools {each['theirs']:.2f} ms a library, "
          f"{total['theirs'] / total['ours']:.0f} times")  # fmt: skip
    for path in paths:
        found, seconds = timed(scan, path, options.runs)
        entries, size = sum(found.counts.values()), path.stat().st_size / 1e6
        if entries and "torch" in path.name:
            print(f"fatbin of {path.name}: {entries} entries in {seconds * 1e3:.1f} ms, "
                  f"{size:.0f} MB, {seconds * 1e5 / size:.2f} ms per 100 MB")  # fmt: skip
    return int(bool(differ))


if __name__ == "__main__":
    raise SystemExit(main())

"""What ninja reads and writes: its plan, its log, its progress; and the pool for heavy objects.

A pool is set in build.ninja itself, since CMake knows pools for whole targets only and PyTorch's
heavy kernels are a few sources of a large one. Nothing is added to a compiler's command, so what
was compiled before stays valid.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from doctor.text.bounded import read_text

POOL = "nanochat_doctor_heavy"
EDGE = re.compile(r"^build ((?:[^\n:|$ ]|\$.)+)[^\n:]*: (\S+)", re.MULTILINE)
OBJECT_RULE = re.compile(r"_COMPILER_|COMPILER__")
STATUS = re.compile(r"^\[(\d+)/(\d+) (\d+)\] (.*)")
STATUS_FORMAT = "[%f/%t %r] "
"""For NINJA_STATUS: finished, of all, running."""

BUILDING = re.compile(r"^Building \S+ (?:object|source) (.+)$|^(?:Generating|Linking|Creating) ")
MILLISECONDS = re.compile(r"[0-9]{1,15}")
MAKE_PROGRAM = re.compile(r"^CMAKE_MAKE_PROGRAM:\w+=(.+)$", re.MULTILINE)
FAILED = re.compile(r"^FAILED: (?:\[code=-?\d+\] )?(\S+)")


@dataclass(frozen=True)
class Progress:
    """A line of ninja's that says how far it is."""

    done: int
    total: int
    running: int
    text: str

    @property
    def object(self) -> str | None:
        """The object that was finished, where it was one."""
        match = BUILDING.match(self.text)
        return match[1] if match else None


def parse_status(line: str) -> Progress | None:
    """Progress of a line; None for anything else that a compiler prints."""
    match = STATUS.match(line)
    return Progress(int(match[1]), int(match[2]), int(match[3]), match[4]) if match else None


def objects(plan: str) -> list[str]:
    """Objects that a build.ninja compiles, as paths within the build folder."""
    return [_plain(m[1]) for m in EDGE.finditer(plan) if OBJECT_RULE.search(m[2])]


def _plain(path: str) -> str:
    return re.sub(r"\$(.)", r"\1", path)


def program(build: Path) -> str | None:
    """The ninja that CMake found for a build folder; None where it was not configured yet."""
    found = MAKE_PROGRAM.search(read_text(build / "CMakeCache.txt") or "")
    return found[1] if found else None


def set_pool(path: Path, heavy: Callable[[str], bool], depth: int) -> int:
    """Let at most `depth` heavy objects be compiled at once; how many objects are heavy.

    The file is replaced as a whole; a former pool of ours is taken out first.

    Args:
        heavy: tells by an object's path.
    """
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    old = text
    text = text.replace(f"  pool = {POOL}\n", "")
    text = re.sub(rf"pool {POOL}\n  depth = \d+\n\n", "", text)
    count = 0

    def marked() -> Iterator[str]:
        nonlocal count
        at = 0
        for match in EDGE.finditer(text):
            if OBJECT_RULE.search(match[2]) and heavy(_plain(match[1])):
                end = text.find("\n", match.end()) + 1
                yield text[at:end] + f"  pool = {POOL}\n"
                at, count = end, count + 1
        yield text[at:]

    new = "".join(marked())
    if count:
        first = re.search(r"^(?:rule|build|pool|include|subninja) ", new, re.MULTILINE)
        place = first.start() if first else 0
        new = f"{new[:place]}pool {POOL}\n  depth = {depth}\n\n{new[place:]}"
    if new != old:
        status = path.stat()
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(new, encoding="utf-8", errors="surrogateescape")
        # its time is what ninja compares with the CMake files: a pool is no newer plan
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(temporary, path)
    return count


@dataclass(frozen=True)
class Made:
    """An output that ninja has made: when it began and ended, in seconds of that run."""

    output: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def read_log(build: Path) -> dict[str, Made]:
    """Outputs of a build folder's .ninja_log, the last entry of each; lines cut short are left out."""
    found = {}
    for line in (read_text(build / ".ninja_log", "replace") or "").splitlines():
        fields = line.split("\t")
        if len(fields) == 5 and all(MILLISECONDS.fullmatch(field) for field in fields[:2]):
            found[fields[3]] = Made(fields[3], int(fields[0]) / 1000, int(fields[1]) / 1000)
    return found


def failures(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Failed outputs in order, each with its command and what its compiler said."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in lines:
        failed = FAILED.match(line)
        if failed:
            found.append((failed[1], []))
            inside = True
        elif parse_status(line) or line.startswith(("ninja: ", "[ninja] ")):
            inside = False
        elif inside:
            found[-1][1].append(line)
    return found

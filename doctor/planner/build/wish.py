"""Names of GPU architectures, as people write them, and as PyTorch does."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from doctor.errors import DoctorError, WrongUsage
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import parts

ARCH = re.compile(r"(?:sm|compute)?[-_ ]?(\d+)(?:\.(\d))?([af]?)(\+ptx)?", re.IGNORECASE)


def canonical_archs(
    words: Iterable[str], tables: Tables, *, native: Sequence[str], known: Sequence[str]
) -> tuple[str, ...]:
    """Architectures as PyTorch writes them (`12.0`, `9.0a`, `12.0f`, `8.6+PTX`), each once, in order.

    `sm_120`, `120`, `12`, `12.0`, `blackwell`, `native` and lists of them, with commas, semicolons
    or spaces between, are understood.

    Args:
        native: compute capabilities of this machine's visible devices.
        known: what the nvcc that will be used compiles for; empty where that is not known.

    Raises:
        WrongUsage: a name that is no architecture; it lists those that are.
        DoctorError: `native`, and no device tells what that is.
    """
    found: list[str] = []
    for word in (w for text in words for w in re.split(r"[,;\s]+", text) if w):
        found += _archs(word, tables, native, known)
    return tuple(sorted(dict.fromkeys(found), key=lambda a: (parts(a), a)))


def _archs(word: str, tables: Tables, native: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    name = word.lower()
    ptx = "+PTX" if name.endswith("+ptx") else ""
    name = name.removesuffix("+ptx")
    if name in ("native", "auto"):
        if not native:
            raise DoctorError(
                "--arch native asks for the GPUs of this machine, and none is visible here; "
                "name the architecture, such as --arch 12.0."
            )
        return [arch + ptx for arch in native]
    rows = [row for row in tables.rows("cuda", "arch") if row["family"].lower() == name]
    if rows:
        return [arch + ptx for arch in _of_family(rows, native, known)]
    match = ARCH.fullmatch(name)
    number = _number(match[1], match[2], {*known, *_all_archs(tables)}) if match else None
    if match is None or number is None:
        listed = sorted(known, key=parts) or _all_archs(tables)
        whose = "this nvcc" if known else "nvcc"
        raise WrongUsage(
            f"{word!r} is no GPU architecture; {whose} knows {', '.join(listed)}. Write 12.0, "
            "sm_120, blackwell or native, and +PTX behind it for newer cards too."
        )
    _check_ending(word, number, match[3], tables)
    return [number + match[3] + ptx]


def _check_ending(word: str, number: str, suffix: str, tables: Tables) -> None:
    rows = tables.rows("cuda", "target")
    row = next((r for r in rows if r["suffix"] == suffix), None)
    if row and parts(number) < parts(row["min_cc"]):
        raise WrongUsage(
            f"{word!r} is no GPU architecture: the ending {suffix!r} is there from {row['min_cc']} on; write {number}."
        )


def _number(digits: str, minor: str | None, valid: Collection[str]) -> str | None:
    """`12` and `0`, `120`, `12` -> `12.0`; None for what no nvcc knows."""
    readings = [f"{digits}.{minor}"] if minor else [f"{digits[:-1]}.{digits[-1]}", f"{digits}.0"]
    return next((reading for reading in readings if reading in valid), None)


def _all_archs(tables: Tables) -> list[str]:
    return sorted((str(row["cc"]) for row in tables.rows("cuda", "arch")), key=parts)


def _of_family(rows: Sequence[Row], native: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """This machine's own cards of a family; else the lowest of each major that is no Tegra chip."""
    own = [str(row["cc"]) for row in rows if row["cc"] in native]
    if own:
        return own
    lowest: dict[int, str] = {}
    for cc in sorted((str(r["cc"]) for r in rows if not r["tegra"]), key=parts):
        if not known or cc in known:
            lowest.setdefault(parts(cc)[0], cc)
    return list(lowest.values()) or [str(rows[0]["cc"])]


def base(arch: str) -> str:
    """`9.0a+PTX` -> `9.0`."""
    return arch.removesuffix("+PTX").rstrip("af")


def ending(arch: str) -> str:
    """`9.0a+PTX` -> `a`, `12.0f` -> `f`; empty for a plain one."""
    return arch.removesuffix("+PTX").lstrip("0123456789.")

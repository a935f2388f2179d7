"""Versions as the field writes them: CUDA and driver numbers, torch releases, CANN releases."""

from __future__ import annotations

import functools
import re

INFINITE = 1 << 30


@functools.lru_cache(maxsize=4096)  # the same few versions of tables are compared over and over
def parts(version: str) -> tuple[int, ...]:
    """`580.95.05` -> (580, 95, 5); what is no number ends it."""
    match = re.match(r"\d+(?:\.\d+)*", version.strip())
    return tuple(_number(n) for n in match.group(0).split(".")) if match else ()


def _number(digits: str) -> int:
    """A part of a version; Python refuses to read one of thousands of digits, which is none anyway."""
    return int(digits) if len(digits) < 10 else INFINITE


def at_least(version: str, floor: str) -> bool:
    """Whether a version reaches a floor; a shortened one counts as the newest it may stand for.

    nvidia-smi and container labels shorten drivers: `525.60` is taken to reach `525.60.13`.
    """
    have, need = parts(version), parts(floor)
    padded = have + (INFINITE,) * (len(need) - len(have))
    return bool(have) and padded >= need


def older(version: str, other: str) -> bool:
    """Whether one version lies before another; missing parts count as zero."""
    a, b = parts(version), parts(other)
    width = max(len(a), len(b))
    return a + (0,) * (width - len(a)) < b + (0,) * (width - len(b))


def minor(version: str) -> str:
    """`2.9.1+cu128` -> `2.9`."""
    return ".".join(str(n) for n in parts(version)[:2])


def release(version: str) -> str:
    """`2.9.1+cu128` -> `2.9.1`; `2.10.0a0+gitba93d56` -> `2.10.0`."""
    return ".".join(str(n) for n in parts(version))


CANN_STAGES = ("alpha", "beta", "rc")


def cann_key(version: str) -> tuple[int, int, int, int, int]:
    """Sort key of CANN releases: 8.2.RC1.alpha001, 8.2.RC1, 8.2.0, 8.3.RC1."""
    numbers = parts(version)
    marks = {
        m[0].lower(): _number(m[1])
        for m in re.findall(r"(alpha|beta|rc)\.?(\d+)", version, re.IGNORECASE)
    }
    release_candidate = marks.get("rc", INFINITE)
    early = [stage for stage in CANN_STAGES[:2] if stage in marks]
    before = -INFINITE + CANN_STAGES.index(early[0]) * 1000 + marks[early[0]] if early else 0
    major, minor_, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor_, patch, release_candidate, before

"""Helpers of the probes: note why a value is unknown, and read common shapes of text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from doctor.errors import Unknown

P = ParamSpec("P")
T = TypeVar("T")

MIB = 1 << 20

DIGITS = 18
"""Of a whole number; what has more is no size and no count."""

VERSION = re.compile(r"(?<![\w.])v?(\d+(?:\.\d+)+)")


class Look:
    """Asks for values one by one and remembers the reasons for those that cannot be had.

    A parser that trips over what a program printed makes its own field unknown, not the probe fail.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(
        self, name: str, ask: Callable[P, T | None], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """What `ask` returns, or None with the reason kept under the field's name."""
        try:
            return ask(*args, **kwargs)
        except Unknown as error:
            self.reasons[name] = str(error)
        except (ValueError, LookupError, TypeError, ArithmeticError, OSError) as error:
            self.reasons[name] = f"unreadable: {type(error).__name__}: {error}"
        return None


def find_version(text: str) -> str:
    """The first version number in a text.

    Raises:
        Unknown: there is none.
    """
    match = VERSION.search(text)
    if match is None:
        raise Unknown(f"no version in {text.strip()[:80]!r}")
    return match.group(1)


def key_values(text: str, separator: str = "=") -> dict[str, str]:
    """Lines of the form `key = value`; quotes around values taken off, first of a key counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, mark, value = line.partition(separator)
        if mark:
            found.setdefault(key.strip(), value.strip().strip("\"'"))
    return found


def number(text: str) -> int | None:
    """A whole number out of `8192`, `8192 MiB`, `8192.0`; None for `[N/A]` and the like."""
    match = re.match(r"\s*(\d+)(?:\.\d+)?(?:\s|$)", text)
    return int(match.group(1)) if match and len(match.group(1)) <= DIGITS else None


def without_credentials(url: str) -> str:
    """A URL with user and password left out, whatever signs the password has."""
    return re.sub(r"(?<=://)(?:[^\s\"'<>/@:]*:[^\s\"'<>]*|[^\s\"'<>/@]+)@", "", url)


def bracketed(text: str) -> tuple[str, ...]:
    """`[V100R001C19],[V100R001C20]` -> its parts; of pairs only the first."""
    return tuple(part.split(",")[0] for part in re.findall(r"\[([^\]]+)\]", text))

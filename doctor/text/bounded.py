"""Reads files that somebody else made: never more than a limit, never from what has no end, and JSON without tricks."""

from __future__ import annotations

import json
import os
import select
import stat
import time
from pathlib import Path
from typing import Any, NoReturn

from doctor.errors import Unknown
from doctor.text.quantities import memory
from doctor.text.visible import visible

JSON_LIMIT = 32 << 20
TEXT_LIMIT = 256 << 20
"""Bytes; the build.ninja of a PyTorch with all its targets is some 60 MB."""

STEP = 1 << 16

PIPE_SECONDS = 10.0
"""Within which a pipe (`<(…)` of a shell) must have said all that it has to say."""

DIGITS = 20
"""Of a whole number: more are no size and no count of anything."""


def read_bounded(path: Path, limit: int, *, pipe: bool = False) -> bytes:
    """All bytes of a file.

    Args:
        pipe: whether it may be a pipe, too.

    Raises:
        Unknown: it is something else, cannot be read, or holds more than `limit` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Unknown(getattr(error, "strerror", None) or str(error)) from error
    try:
        return _all(descriptor, limit, pipe)
    except OSError as error:
        raise Unknown(error.strerror or str(error)) from error
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is none, or it is damaged."""
    try:
        return parse_json(read_bounded(path, JSON_LIMIT))
    except Unknown:
        return None


def read_text(path: Path, errors: str = "surrogateescape") -> str | None:
    """The text of a file of a source tree or build folder; None where there is none that can be read."""
    try:
        return read_bounded(path, TEXT_LIMIT).decode("utf-8", errors).replace("\r\n", "\n")
    except Unknown:
        return None


def _all(descriptor: int, limit: int, pipe: bool) -> bytes:
    state = os.fstat(descriptor)
    if not (stat.S_ISREG(state.st_mode) or (pipe and stat.S_ISFIFO(state.st_mode))):
        raise Unknown("it is a folder" if stat.S_ISDIR(state.st_mode) else "it is no plain file")
    end, found = time.monotonic() + PIPE_SECONDS, bytearray()
    while len(found) <= limit:
        if state.st_size > limit:
            break
        try:
            piece = os.read(descriptor, STEP)
        except BlockingIOError:  # somebody holds the other end and has not written yet
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Unknown(f"nothing came from it within {PIPE_SECONDS:.0f} s") from None
            continue
        if not piece:
            return bytes(found)
        found += piece
    raise Unknown(f"it is larger than {memory(limit >> 20)}")


def parse_json(data: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        Unknown: it is none, or one that no program of ours writes: nested without end, numbers that are no numbers or
            have no end, a key that stands twice.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse,
            parse_int=_whole,
            parse_float=_decimal,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise Unknown("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise Unknown("it is no UTF-8 text") from None
    except ValueError as error:
        raise Unknown(f"it is no JSON ({error})") from None


def _refuse(word: str) -> NoReturn:
    raise Unknown(f"{word} is no number of JSON")


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise Unknown(f"it holds a number of {len(text)} digits")
    return int(text)


def _decimal(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Unknown(f"it holds the number {visible(text[:20])}, which is too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unknown(f"it has the key {visible(twice[:60])!r} twice")
    return found

"""The meta file of a checkpoint: JSON under a checksum of its own, checked before any of it is believed.

It names every other file of its step with size and CRC-32, so that one file which is sound makes all of them so.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.config import ModelConfig
from nanochat.errors import NanochatError, first_line
from nanochat.files import atomic

FORMAT = 2
UNSEALED = 1
"""Checkpoints of this format, from before there was a checksum, are read as they are."""
SEAL = "crc32"
LIMIT = 16 << 20
"""Bytes; one of a thousand ranks has some hundred thousand."""
FILE_NAME = re.compile(r"(?:model|optim|state)_\d+(?:_rank\d+)?\.pt")
"""What may be named: never a path that leaves the folder."""


class Damaged(NanochatError):
    """What is wrong with a meta file; the rest of a sentence that begins with its name."""


class Foreign(NanochatError):
    """It is sound, but not of this trainer's making; the rest of a sentence that begins with its name."""


def write(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the values, with format and checksum, which are also in what is returned.

    Raises:
        NanochatError: it cannot be written.
    """
    whole = {**values, "format": FORMAT}
    whole[SEAL] = _checksum(whole)
    with atomic(path, "w") as file:
        file.write(json.dumps(whole, indent=1))
    return whole


def read(path: Path, step: int) -> dict[str, Any]:
    """The values of a step's meta file.

    Raises:
        Damaged: it cannot be read, differs from what was written, or says what no trainer wrote.
        Foreign: another program, or a later version of this one, wrote it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise Damaged(f"has more than {LIMIT >> 20} MiB")
        values = json.loads(data)
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"is no JSON ({first_line(error)})") from error
    if not isinstance(values, dict) or not {"files", "format", SEAL} & values.keys():
        raise Foreign(
            "was written by another program (upstream nanochat names its files alike, but has no checksums and "
            "other parameters); train the model here, or name another --model-tag"
        )
    _check_seal(values)
    if problem := _problem(values, step):
        raise Damaged(problem)
    return values


def _check_seal(values: dict[str, Any]) -> None:
    kind = values.get("format")
    if SEAL not in values and kind == UNSEALED:
        return
    sealed = {key: value for key, value in values.items() if key != SEAL}
    if values.get(SEAL) != _checksum(sealed):
        raise Damaged("has changed (its checksum differs)")
    if kind != FORMAT:
        raise Foreign(
            f"has format {kind}, and this trainer reads format {FORMAT}; use the trainer that wrote it"
        )


def _checksum(values: Mapping[str, Any]) -> str:
    """Of the contents, not of the bytes: numbers come out of JSON exactly as they went in."""
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def _problem(values: Mapping[str, Any], step: int) -> str:
    """What no trainer writes."""
    if values.get("step") != step:
        return f"is of step {values.get('step')!r}"
    files = values.get("files")
    if not isinstance(files, dict) or not all(map(_is_entry, files.items())):
        return "does not say which files belong to it"
    if SEAL in values:
        return ""  # the rest is as it was written
    try:
        ModelConfig.from_dict(values["model_config"])
    except (KeyError, TypeError, NanochatError):
        return "has no model configuration that can be"
    return ""


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    return (
        FILE_NAME.fullmatch(name) is not None
        and isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and isinstance(entry.get("crc32"), str)
    )

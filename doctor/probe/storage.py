"""The trainer's base folder: space, shards, tokenizer, checkpoints. Footers are read, not files."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator

from doctor.errors import Unknown
from doctor.facts import Shards, Storage
from doctor.machine.look import MIB, Look
from doctor.machine.reader import FileReader
from doctor.machine.system import System

SHARD_FOLDERS = ("base_data", "base_data_climbmix", "base_data_fineweb_edu", "base_data_stdlib")
TOKENIZER_FILES = ("tokenizer.bpe", "tokenizer.pkl", "tokenizer.json")
STAGES = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
}
"""Stage -> folder below the base folder, as upstream nanochat names them."""

OWN_TOKENIZER = b"rustbpe tokenizer "
PARQUET_MAGIC = b"PAR1"
LFS_POINTER = b"version https://git-lfs"
ZIP_END = b"PK\x05\x06"
"""Signature of the record that ends a zip file (APPNOTE, 4.3.16); torch.save writes zip files."""

ZIP_END_AREA = 22 + (1 << 16)
"""The record and the longest comment after it."""

KEPT_CHECKPOINTS = 3


def probe(system: System) -> Storage:
    """Describe the base folder; nothing in it is created or changed."""
    look = Look()
    named = system.env.get("NANOCHAT_BASE_DIR")
    home = system.home()
    base = named or (f"{home}/.cache/nanochat" if home else None)
    if base is None:
        return Storage(unknown={"base_dir": "neither NANOCHAT_BASE_DIR nor HOME is set"})
    space = look("free", system.space, base)
    tokenizer = next(
        (p for n in TOKENIZER_FILES if system.exists(p := f"{base}/tokenizer/{n}")), None
    )
    checkpoints: dict[str, tuple[str, ...]] = {}
    damage: list[str] = []
    for stage, folder in STAGES.items():
        files = look("checkpoints", _checkpoints, system, f"{base}/{folder}") or []
        if files:
            checkpoints[stage] = tuple(files[:KEPT_CHECKPOINTS])
            damage += _damaged(system, f"{base}/{folder}", files[:KEPT_CHECKPOINTS])
    return Storage(
        base_dir=base,
        base_dir_set=named is not None,
        exists=system.is_dir(base),
        writable=system.may(base, os.W_OK) if system.is_dir(base) else None,
        free=space[1] // MIB if space else None,
        shards=tuple(look("shards", lambda: list(_shards(system, base))) or ()),
        tokenizer=tokenizer,
        tokenizer_damage=look("tokenizer_damage", _tokenizer_damage, system, tokenizer),
        checkpoints=checkpoints,
        checkpoint_damage=tuple(damage),
        unknown=look.reasons,
    )


# --- shards ----------------------------------------------------------------------------------


def _shards(system: System, base: str) -> Iterator[Shards]:
    for name in SHARD_FOLDERS:
        paths = system.glob(f"{base}/{name}", suffix=".parquet")
        if paths:
            sizes = [system.size(path) or 0 for path in paths]
            yield Shards(
                path=f"{base}/{name}",
                count=len(paths),
                total_mib=sum(sizes) // MIB,
                damaged=tuple(
                    f"{path.rsplit('/', 1)[-1]}: {why}"
                    for path in paths
                    if (why := parquet_damage(system, path))
                ),
            )


def parquet_damage(system: System, path: str) -> str | None:
    """Why a parquet file is not whole; None where head and footer are in order.

    Apache Parquet, "File Format": `PAR1`, data, footer, its length (4 bytes), `PAR1`.
    """
    try:
        with system.opened(path) as view:
            size = len(view)
            if view[: len(LFS_POINTER)] == LFS_POINTER:
                return "a Git LFS pointer, not the file"
            if size < 12 or view[:4] != PARQUET_MAGIC:
                return "no parquet file"
            if view[size - 4 :] != PARQUET_MAGIC:
                return "cut short: no footer at its end"
            footer = int.from_bytes(view[size - 8 : size - 4], "little")
            return "damaged: its footer is longer than the file" if footer > size - 12 else None
    except Unknown as error:
        return "empty" if system.size(path) == 0 else str(error)


# --- tokenizer, checkpoints -------------------------------------------------------------------


def _tokenizer_damage(system: System, path: str | None) -> str | None:
    """Why a tokenizer file cannot be loaded, as far as its shape tells."""
    if path is None:
        return None
    if not system.size(path):
        return "empty"
    with system.opened(path) as view:
        if view[: len(LFS_POINTER)] == LFS_POINTER:
            return "a Git LFS pointer, not the file"
        if path.endswith(".bpe"):
            return _own_tokenizer_damage(view)
        end = view[max(0, len(view) - 64) :]
        if path.endswith(".pkl"):
            # a pickle of protocol 2 or later begins with 0x80 and ends with STOP
            return None if view[:1] == b"\x80" and end.endswith(b".") else "cut short or no pickle"
        if path.endswith(".json"):
            return None if end.rstrip().endswith(b"}") else "cut short"
    return None


def _own_tokenizer_damage(view: FileReader) -> str | None:
    """The same for rustbpe's file: text whose last line is the CRC-32 of all lines above it."""
    text = view[:]
    if not text.startswith(OWN_TOKENIZER):
        return "not a rustbpe tokenizer file"
    body, mark, checksum = text.rpartition(b"crc32 ")
    if not mark or not re.fullmatch(rb"[0-9a-f]{8}\n", checksum):
        return "cut short"
    return None if zlib.crc32(body) == int(checksum, 16) else "damaged: its checksum does not match"


def _ends_as_zip(view: FileReader) -> bool:
    """Whether a file ends with zip's last record and the comment that it announces."""
    tail = view[max(0, len(view) - ZIP_END_AREA) :]
    at = tail.rfind(ZIP_END)
    comment = int.from_bytes(tail[at + 20 : at + 22], "little")
    return at >= 0 and at + 22 + comment == len(tail)


def _checkpoints(system: System, folder: str) -> list[str]:
    """Model files below a stage's folder, newest step of the largest tag first."""
    found: list[str] = []
    for tag in system.names(folder):
        found += [
            f"{tag}/{name}"
            for name in system.names(f"{folder}/{tag}")
            if re.fullmatch(r"model_\d+\.(pt|safetensors)", name)
        ]
    return sorted(found, key=lambda f: [int(n) for n in re.findall(r"\d+", f)], reverse=True)


def _damaged(system: System, folder: str, files: list[str]) -> Iterator[str]:
    """Checkpoints that were cut short: torch writes a zip, whose directory stands at its end."""
    for name in files:
        path = f"{folder}/{name}"
        if not name.endswith(".pt") or not system.is_file(path):
            continue
        try:
            with system.opened(path) as view:
                if not _ends_as_zip(view):
                    yield path
        except Unknown:
            if system.size(path) == 0:
                yield path

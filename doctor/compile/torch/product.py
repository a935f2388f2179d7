"""The wheel: kept in a cache by all that it depends on, and read, to see whether it is what was asked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.compile.source.fingerprint import Fingerprint
from doctor.errors import DoctorError
from doctor.facts import TorchBuild
from doctor.findings.context import joined
from doctor.knowledge.versions import parts
from doctor.planner.build.tree import Tree
from doctor.planner.build.wish import base
from doctor.text.bounded import read_json
from doctor.work.files import write_json

RECEIPT = "receipt.json"
"""Beside the wheel; written last, so that a wheel without it does not count."""

SCHEMA = 1


def local_version(tree: Tree, source: str, cuda: str | None, archs: Sequence[str]) -> str:
    """The version that the wheel gets: `2.9.1+gitba93d56.cu130.sm120`.

    Args:
        source: hash of the source's state, for a tree without a commit.
        cuda: of the toolkit, `13.0`; None for a CPU build.
    """
    known = f"git{tree.commit[:7]}" if tree.commit else f"src{source[:7]}"
    words = [
        known + (".dirty" if tree.changed else ""),
        f"cu{cuda.replace('.', '')}" if cuda else "cpu",
    ]
    for arch in archs:
        number = base(arch).replace(".", "")
        suffix = re.sub(r"^[\d.]+|\+PTX", "", arch)
        words.append(f"sm{number}{suffix}" + (".ptx" if arch.endswith("+PTX") else ""))
    return f"{tree.version.partition('+')[0]}+{'.'.join(words)}"


# --- cache -------------------------------------------------------------------------------------


def cached(folder: Path, wanted: Fingerprint) -> Path | None:
    """The wheel that was built and proved for the same wish; None where there is none, or it is damaged."""
    place = folder / wanted.key
    receipt = read_json(place / RECEIPT)
    if not isinstance(receipt, dict) or receipt.get("schema") != SCHEMA:
        return None
    wheel = place / str(receipt.get("wheel"))
    whole = wheel.is_file() and _digest(wheel) == receipt.get("sha256")
    return wheel if whole else None


def keep(wheel: Path, folder: Path, wanted: Fingerprint, proved: Sequence[str]) -> Path:
    """Put a wheel that was proved into the cache.

    Raises:
        DoctorError: the disk is full, or the folder is not ours to write.
    """
    place = folder / wanted.key
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        target = place / wheel.name
        temporary = target.with_suffix(".new")
        shutil.move(str(wheel), temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise DoctorError(
            f"The wheel {wheel} cannot be moved to {place}: {error.strerror}; free space there and go "
            "on with --resume."
        ) from error
    write_json(
        place / RECEIPT,
        {
            "schema": SCHEMA,
            "wheel": target.name,
            "sha256": _digest(target),
            "made_of": dict(sorted(wanted.parts.items())),
            "proved": list(proved),
        },
    )
    return target


def hand_out(wheel: Path, out: Path | None) -> Path:
    """Where the user wants it: a second name of the same file where that can be, else a copy.

    Raises:
        DoctorError: the folder cannot be written.
    """
    if out is None:
        return wheel
    target = out / wheel.name
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        try:
            os.link(wheel, temporary)
        except OSError:
            shutil.copyfile(wheel, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise DoctorError(
            f"The wheel cannot be put into {out}: {error.strerror}; it lies at {wheel}."
        ) from error
    return target


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)
    except OSError:
        return ""
    return found.hexdigest()


# --- reading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What a build was asked for."""

    archs: tuple[str, ...]
    libuv: bool


def shortcomings(build: TorchBuild, wanted: Wanted) -> Iterator[str]:
    """What an installed build lacks of what was asked, or has beyond it; one clause each."""
    if not build.built:
        yield "its compiled libraries are not there"
        return
    if wanted.archs:
        yield from _arch_shortcomings(build, wanted.archs)
        if build.nccl is not True:
            yield "NCCL is not in it"
    elif build.archs:
        yield f"it has GPU code ({joined([a.arch for a in build.archs])}) though none was asked"
    if build.distributed is False:
        yield "torch.distributed is not in it"
    if wanted.libuv and build.libuv is not True:
        yield "libuv is not in it: its TCPStore has no libuv backend"
    if not wanted.libuv and build.libuv:
        yield "libuv is in it though --no-libuv asked for none: the tree ignores USE_TENSORPIPE=0"
    if build.missing_libraries:
        names = [f"{m.name} (for {m.needed_by})" for m in build.missing_libraries]
        yield f"the loader does not find {joined(names)}"
    for name in ("archs", "libuv", "nccl", "missing_libraries"):
        if name in build.unknown and name != "nccl":
            yield f"it could not be read: {build.unknown[name]}"


def _arch_shortcomings(build: TorchBuild, archs: Sequence[str]) -> Iterator[str]:
    if build.flavour != "cuda":
        yield f"it is a {build.flavour or 'CPU'} build, without CUDA"
        return
    # code for a family bears the name of its first architecture
    asked = {arch.removesuffix("+PTX").rstrip("f") for arch in archs}
    have = {code.arch for code in build.archs if code.sass}
    # a few special kernels for a target such as sm_90a come with every build for it
    full = set(build.archs_covered)
    missing, extra = sorted(asked - have, key=parts), sorted(full - asked, key=parts)
    if missing:
        found = joined(sorted(have, key=parts)) or "no architecture at all"
        yield f"it has no code for {joined(missing)}, only for {found}"
    if extra:
        yield f"it has code for {joined(extra)} that was not asked for"
    ptx = {arch.removesuffix("+PTX").rstrip("f") for arch in archs if arch.endswith("+PTX")}
    lacking = sorted(ptx - {code.arch for code in build.archs if code.ptx}, key=parts)
    if lacking:
        yield f"it has no PTX for {joined(lacking)}"

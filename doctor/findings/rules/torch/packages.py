"""Rules about the CUDA and Triton packages around an installed torch: versions, and whose files lie there."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from doctor.facts import SharedFiles, SymbolGap, Torch, UnmetPin
from doctor.findings.advice import torch_commands
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.findings.rules.torch.mending import cure, requirement
from doctor.knowledge.versions import parts as numbers

BREAKS = {
    "triton": "torch.compile fails, as Inductor cannot import what it needs or is given other answers",
    "nvidia-cudnn": "cuDNN may refuse to work with this torch",
    "nvidia-nccl": "functions that torch calls may be missing (undefined symbol at import), and ranks may not meet",
    "": "functions that torch calls may be missing, or do other things",
}
"""Beginning of a package's name -> what another version of it does."""


BRING_BACK = (
    "Bring back the packages that this torch asks for; what wrote over them goes out first."
)


def symbols(c: Context) -> Iterator[Finding]:
    """A library that torch gets lacks functions that torch calls: the import ends there."""
    torch, build = c.facts.torch, c.torch
    if torch is None or build is None:
        return
    for path in dict.fromkeys(gap.library for gap in build.symbol_gaps):
        gaps = [gap for gap in build.symbol_gaps if gap.library == path]
        if path in build.foreign_libraries:
            continue  # torch.nvjitlink-mismatch says so
        names = list(dict.fromkeys(name for gap in gaps for name in gap.names))
        shown = _shown(names)
        reason = _reason(c, torch, gaps[0])
        yield c.finding(
            reason.code,
            ERROR,
            f"torch {build.version} calls {shown}, and the {path.rsplit('/', 1)[-1]} that it gets does not have "
            f"{'it' if len(names) == 1 else 'them'}: `import torch` ends with an undefined symbol."
            + (f" {reason.why}" if reason.why else ""),
            [
                *(f"{gap.needed_by}: asks for {joined(gap.names[:3])}" for gap in gaps[:3]),
                f"{posixpath.normpath(path)}: without",
            ],
            reason.remedy,
            reason.commands,
        )


class Reason(NamedTuple):
    """Why a library is another than the one that torch was built for, and what to do."""

    code: str
    why: str
    remedy: str
    commands: Sequence[str] = ()


def _reason(c: Context, torch: Torch, gap: SymbolGap) -> Reason:
    if gap.package:
        shared = [s for s in torch.shared_files if s.owner.startswith(gap.package)]
        unmet = [p for p in torch.unmet_pins if _differs(p) and p.name.startswith(gap.package)]
        if shared or unmet:
            why = [*map(_written_over, shared), *(f"It asks for {_asked(p)}." for p in unmet)]
            return Reason("torch.version-conflict", " ".join(why), BRING_BACK, cure(c))
    folder = posixpath.normpath(gap.library.rsplit("/", 1)[0])
    if gap.via == "LD_LIBRARY_PATH":
        return Reason(
            "torch.nvjitlink-mismatch",
            f"LD_LIBRARY_PATH takes it from {folder}.",
            f"Take {folder} off LD_LIBRARY_PATH when running torch.",
            ["unset LD_LIBRARY_PATH"] if not c.has_npu else [],
        )
    remedy = f"Bring the library in {folder} to the release that torch was built with, or install torch again."
    return Reason("torch.import-fails", "", remedy, torch_commands(c))


def pins(c: Context) -> Iterator[Finding]:
    """Packages in another version, or of another CUDA, than torch's metadata asks for."""
    torch, build = c.facts.torch, c.torch
    if torch is None or build is None:
        return
    told = {gap.package for gap in build.symbol_gaps if gap.package}
    unmet = [p for p in torch.unmet_pins if _differs(p) and not p.name.startswith(tuple(told))]
    shared = [s for s in torch.shared_files if not s.owner.startswith(tuple(told))]
    if not unmet and not shared:
        return
    sentences = [*map(_written_over, shared)]
    if unmet:
        sentences.insert(
            0,
            f"torch {build.version} asks for {joined([_asked(p) for p in unmet])}: {_effects(unmet)}.",
        )
    yield c.finding(
        "torch.version-conflict",
        WARNING,
        " ".join(sentences),
        [
            *(
                f"torch {build.version}: Requires-Dist: {requirement(p)}; installed: {p.installed or p.rival}"
                for p in unmet
            ),
            *(
                f"{s.path}: of {s.owner} {s.owner_version} and of {s.other} {s.other_version}"
                for s in shared
            ),
        ],
        BRING_BACK,
        cure(c),
    )


def _differs(pin: UnmetPin) -> bool:
    """One that is merely absent is told by what is then missing."""
    return pin.installed is not None or pin.rival is not None


def _asked(pin: UnmetPin) -> str:
    there = (
        f"{pin.installed} is installed" if pin.installed else f"{pin.rival} is there in its place"
    )
    return f"{requirement(pin)} ({there})"


def _effects(unmet: Sequence[UnmetPin]) -> str:
    found = [next(text for start, text in BREAKS.items() if start in p.name) for p in unmet]
    return "; ".join(dict.fromkeys(found))


def _written_over(item: SharedFiles) -> str:
    name = item.path.rsplit("/", 1)[-1] + (f" and {item.count - 1} more" if item.count > 1 else "")
    lies = {
        item.owner: f"{item.owner}'s lies there now",
        item.other: f"{item.other}'s lies there now",
    }.get(item.holds or "", "the later one wrote over the other")
    return (
        f"{item.owner} {item.owner_version}, which torch asks for, and {item.other} {item.other_version} both own "
        f"{name}, and {lies}."
    )


def parts(c: Context) -> Iterator[Finding]:
    """Sub-libraries of cuDNN from another cuDNN than its own."""
    build = c.torch
    if build is None or not build.foreign_parts:
        return
    first = build.foreign_parts[0]
    names = [part.name for part in build.foreign_parts]
    by_path = first.via == "LD_LIBRARY_PATH"
    folder = first.path.rsplit("/", 1)[0]
    yield c.finding(
        "torch.version-conflict",
        WARNING,
        f"cuDNN {first.of_version} of torch {build.version} opens {_shown(names)}"
        f" by name and gets {'it' if len(names) == 1 else 'them'} of cuDNN {first.version} from {folder}"
        + (" (LD_LIBRARY_PATH)" if by_path else " (the loader's path)")
        + ": the first convolution ends with CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH.",
        [
            f"{part.path}: cuDNN {part.version}, opened by {part.of}"
            for part in build.foreign_parts[:4]
        ],
        f"Take {folder} off LD_LIBRARY_PATH when running torch."
        if by_path
        else "Take the cuDNN of the system off the loader's path (it is only needed to compile against), or bring it "
        f"to {'.'.join(first.of_version.split('.')[:3])}, the release that this torch comes with.",
        ["unset LD_LIBRARY_PATH"] if by_path and not c.has_npu else [],
    )


def _shown(names: Sequence[str]) -> str:
    """`a, b, c and 4 more`."""
    return joined([*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])])


def _release(version: str) -> str:
    """`9.20.0.48` -> `9.20.0`: the last number counts builds of a wheel."""
    return ".".join(map(str, numbers(version)[:3]))


def lost_parts(c: Context) -> Iterator[Finding]:
    """Sub-libraries of cuDNN that are nowhere."""
    build = c.torch
    if build is None or not build.missing_parts:
        return
    yield c.finding(
        "cuda.library-missing",
        WARNING,
        f"The cuDNN of torch {build.version} lacks {joined(build.missing_parts[:3])}, which it opens by name: what "
        "needs it fails (Could not load library, CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED).",
        [
            f"{name}: not beside libcudnn.so.9, not found by the loader"
            for name in build.missing_parts[:4]
        ],
        "Install cuDNN again as torch asks for it.",
        cure(c, ("nvidia-cudnn",)),
    )


RULES = (symbols, pins, parts, lost_parts)

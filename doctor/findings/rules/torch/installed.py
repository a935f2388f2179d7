"""Rules about the installed torch: is it there, is it the right one, can it be imported."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doctor.facts import MissingLibrary
from doctor.findings.advice import apply_command, how_to_get_torch, torch_commands
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.findings.rules.torch.mending import cure
from doctor.knowledge.versions import older

CUDA_LIBRARY = re.compile(r"^lib(cu|nv|nccl)")
OWN_LIBRARY = re.compile(r"^lib(torch|c10|shm\.|caffe2)")


def missing(c: Context) -> Iterator[Finding]:
    """No torch in the examined Python."""
    torch, python = c.facts.torch, c.facts.python
    if torch is None or "installed" in torch.unknown or torch.installed is not None:
        return
    if torch.import_blocker is not None:
        return
    where = python.executable if python else "the examined Python"
    wanted = f"cp{str(c.python_minor).replace('.', '')}"
    trees = [t for t in torch.local_trees if t.built and wanted in (t.python_tags or (wanted,))]
    text = how_to_get_torch(c)
    if trees:
        text = (
            f"A PyTorch {trees[0].version} that was built here lies at {trees[0].path}; "
            f"put {trees[0].path.rsplit('/', 1)[0]} on PYTHONPATH to use it, or install a wheel. "
            + text
        )
    yield c.finding(
        "torch.missing",
        ERROR,
        f"torch is not installed in {where}.",
        [f"no torch on the import path of {where}"],
        text,
        torch_commands(c),
    )


def import_path(c: Context) -> Iterator[Finding]:
    """What is imported is not what was installed."""
    torch = c.facts.torch
    if torch is None:
        return
    if torch.import_blocker and torch.installed is None:
        yield c.finding(
            "torch.shadowed",
            ERROR,
            f"`import torch` takes {torch.import_blocker}, which is no PyTorch.",
            [torch.import_blocker],
            "Rename that file or folder, or take its folder off PYTHONPATH.",
        )
    elif torch.installed and torch.shadowing_path and torch.shadowed:
        usable = torch.installed.built
        yield c.finding(
            "torch.shadowed",
            WARNING if usable else ERROR,
            f"`import torch` takes {torch.installed.path} ({torch.installed.version}) from "
            f"{torch.installed_by}, not the installed {torch.shadowed.version} in "
            f"{torch.shadowed.path}"
            + (
                "." if usable else "; it is a source tree without compiled extensions, so it fails."
            ),
            [f"{torch.installed_by}: {torch.shadowing_path}"],
            f"Take {torch.shadowing_path} off the path"
            + (
                ", or start from another folder." if torch.installed_by == "current folder" else "."
            ),
            ["unset PYTHONPATH"] if torch.installed_by == "PYTHONPATH" else [],
        )
    elif (
        torch.installed
        and not torch.installed.built
        and torch.installed_by
        in (
            "current folder",
            "PYTHONPATH",
        )
    ):
        yield c.finding(
            "torch.shadowed",
            ERROR,
            f"`import torch` takes the source tree {torch.installed.path}, which has no compiled "
            "extensions (Failed to load PyTorch C extensions).",
            [f"{torch.installed_by}: no torch/_C*.so in {torch.installed.path}"],
            "Start from another folder or take the tree off PYTHONPATH; build it, or install a wheel.",
        )


def import_fails(c: Context) -> Iterator[Finding]:
    """Installed, but for another interpreter or processor, or incomplete."""
    torch = c.facts.torch
    build, host, python = c.torch, c.facts.host, c.facts.python
    if torch is None or build is None or torch.installed_by in ("current folder", "PYTHONPATH"):
        return
    reason = None
    wanted = f"cp{str(c.python_minor).replace('.', '')}" if c.python_minor else None
    arch = (host.arch or "").replace("arm64", "aarch64") if host else ""
    linux = host is not None and host.os == "Linux"
    if torch.import_blocker:
        reason = f"{build.path} has no __init__.py: the installation is incomplete"
    elif not linux:
        return
    elif not build.built:
        reason = f"{build.path} has no compiled extension (_C*.so): the installation is incomplete"
    elif wanted and build.python_tags and wanted not in build.python_tags:
        reason = (
            f"it was built for {joined(list(build.python_tags))}, and this Python "
            f"({python.version if python else '?'}) is {wanted}"
        )
    elif build.cpu_arch and arch and build.cpu_arch != arch:
        reason = f"it was built for {build.cpu_arch}, and this machine is {arch}"
    if reason:
        yield c.finding(
            "torch.import-fails",
            ERROR,
            f"torch {build.version or ''} cannot be imported: {reason}.".replace("  ", " "),
            [build.path],
            "Install torch again for this Python.",
            torch_commands(c),
        )


def libraries(c: Context) -> Iterator[Finding]:
    """Libraries that the loader would not find, by where they should come from."""
    build = c.torch
    for code, missing, remedy, commands in _missing_by_source(c) if build else ():
        names = joined([m.name for m in missing])
        yield c.finding(
            code,
            ERROR,
            f"torch {build.version if build else ''} needs {names}, and the loader finds "
            f"{'it' if len(missing) == 1 else 'them'} nowhere: `import torch` fails.",
            [f"{m.needed_by}: needs {m.name}, not found" for m in missing],
            remedy,
            commands,
        )


def _missing_by_source(
    c: Context,
) -> Iterator[tuple[str, list[MissingLibrary], str, list[str]]]:
    """Code, libraries, cure and commands for those of CUDA, of torch itself, of the system."""
    build, torch = c.torch, c.facts.torch
    assert build is not None and torch is not None
    of_cuda = [m for m in build.missing_libraries if CUDA_LIBRARY.match(m.name)]
    own = [m for m in build.missing_libraries if OWN_LIBRARY.match(m.name)]
    others = [m for m in build.missing_libraries if m not in of_cuda and m not in own]
    again = [apply_command(c.facts)] if torch.installed_by == "wheel" else []
    lost = [m.package.partition("==")[0] for m in of_cuda if m.package]
    openmp = [m for m in others if m.name.startswith("libgomp")]
    for row in (
        (
            "cuda.library-missing",
            of_cuda,
            "Install the NVIDIA packages that torch asks for, or put the library's folder on the loader's path.",
            cure(c, lost) or again,
        ),
        ("torch.import-fails", own, "Install torch again: a part of it is gone.", again),
        (
            "host.library-missing",
            others,
            "Install the system package that brings it.",
            c.system_install("openmp") if openmp else [],
        ),
    ):
        if row[1]:
            yield row


def foreign_libraries(c: Context) -> Iterator[Finding]:
    """LD_LIBRARY_PATH puts the libraries of another CUDA before torch's own."""
    build = c.torch
    if build is None:
        return
    stale = [path for path in build.foreign_libraries if _is_older(c, path)]
    paths = list(build.foreign_libraries)
    lacking = [gap for gap in build.symbol_gaps if gap.library in paths]
    if not lacking and not stale:
        return
    first = lacking[0].library if lacking else (stale or paths)[0]
    jitlink = next((p for p in paths if "nvJitLink" in p), first)
    symbols = [name for gap in lacking for name in gap.names][:3]
    folder = jitlink.rsplit("/", 1)[0]
    yield c.finding(
        "torch.nvjitlink-mismatch",
        ERROR,
        f"LD_LIBRARY_PATH takes {jitlink.rsplit('/', 1)[-1]} from {folder}, not from the packages "
        f"that came with torch {build.version} (CUDA {build.cuda})"
        + (f"; it lacks {joined(list(symbols))}" if symbols else ", which are newer")
        + ": importing torch ends with an undefined symbol.",
        [f"LD_LIBRARY_PATH: {path}" for path in paths[:4]],
        f"Take {folder} off LD_LIBRARY_PATH when running torch.",
        ["unset LD_LIBRARY_PATH"] if not c.has_npu else [],
    )


def _is_older(c: Context, path: str) -> bool:
    """Whether a library lies in a toolkit that is older than torch's CUDA."""
    nvidia, build = c.facts.nvidia, c.torch
    if nvidia is None or build is None or not build.cuda:
        return False
    for toolkit in nvidia.toolkits:
        homes = (toolkit.path, *(name for name in toolkit.found_by if name.startswith("/")))
        if toolkit.version and path.startswith(tuple(f"{home}/" for home in homes)):
            return older(toolkit.version, build.cuda)
    named = re.search(r"cuda-(\d+\.\d+)", path)
    return bool(named and older(named.group(1), build.cuda))


def replaced(c: Context) -> Iterator[Finding]:
    """An update put another torch in the place of the one that apply proved here."""
    torch = c.facts.torch
    if torch is None or not torch.replaced:
        return
    shown = joined(
        [*torch.replaced[:3], *([f"{len(torch.replaced) - 3} more"] if torch.replaced[3:] else [])]
    )
    yield c.finding(
        "torch.replaced",
        WARNING,
        f"Something has replaced what apply put in: there is {shown}.",
        list(torch.replaced),
        "Carry the plan out again, or, if the change was meant, take the pins away (apply --undo).",
        [apply_command(c.facts)],
    )


RULES = (missing, replaced, import_path, import_fails, libraries, foreign_libraries)

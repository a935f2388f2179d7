"""Rules about the installed torch: does it import, does its code run on these cards, what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doctor import compat
from doctor.compat import Runs
from doctor.facts import MissingLibrary, TorchBuild
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.tables import Row
from doctor.versions import minor, older, parts, release

CUDA_LIBRARY = re.compile(r"^lib(cu|nv|nccl)")
OWN_LIBRARY = re.compile(r"^lib(torch|c10|shm\.|caffe2)")
TRITON_FLOOR = "7.0"
"""Triton's documentation, "Compatibility": NVIDIA GPUs of compute capability 7.0 and newer (8.0 from
Triton 3.3 on for some features)."""

BLACKWELL = "10.0"
"""From here on Triton takes its second ptxas (triton/backends/nvidia/compiler.py, get_ptxas)."""


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
    text = _how_to_get(c)
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
        _commands(c),
    )


def _commands(c: Context) -> list[str]:
    """Commands that install the best torch for this machine, where the tables know one."""
    if c.has_npu:
        pair = best_npu_pair(c)
        if pair is None:
            return []
        host = c.facts.host
        requirement = f"torch=={pair['torch']}"
        cpu_index = host is not None and host.arch == "x86_64"
        index = "https://download.pytorch.org/whl/cpu" if cpu_index else None
        return [
            c.pip_install(requirement, index=index),
            c.pip_install(f"torch_npu=={pair['torch_npu']}", "pyyaml", "numpy<2", "decorator",
                          "attrs", "psutil", "scipy"),
        ]  # fmt: skip
    return [c.torch_install(c.wheels[0], again=c.torch is not None)] if c.wheels else []


def best_npu_pair(c: Context) -> Row | None:
    """The newest torch_npu that goes with the active CANN and this Python."""
    ascend = c.facts.ascend
    version = active_cann(c)
    if ascend is None or version is None:
        return None
    python = (c.python_minor or "").removesuffix("t")
    pairs = [
        pair
        for pair in c.tables.cann_pairs(version)
        if not python or python in (pair.get("pythons") or c.tables.npu_pythons(pair["torch"]))
    ]
    return max(pairs, key=lambda p: parts(p["torch"]), default=None)


def active_cann(c: Context) -> str | None:
    """Release of the CANN that the environment uses, else of the one that is there."""
    ascend = c.facts.ascend
    if ascend is None:
        return None
    return next((t.version for t in ascend.toolkits if t.path == ascend.active_toolkit), None)


def _how_to_get(c: Context) -> str:
    if c.has_npu:
        return "Install the torch and torch_npu that go with this CANN."
    if not c.wheels and not c.capabilities:
        return "No wheel in the tables is made for this Python, processor and C library."
    if not c.wheels:
        cards = f"compute capability {joined(c.capabilities)}"
        if len(c.capabilities) > 1:
            return (
                f"No one wheel has code for {cards} and a CUDA that this driver runs; hide one kind "
                "of card by CUDA_VISIBLE_DEVICES, or build from source for all."
            )
        return f"No wheel in the tables has code for {cards} and goes with this Python and driver."
    wheel = c.wheels[0]
    if not c.capabilities:
        return f"Install torch {wheel.version} for the CPU."
    return (
        f"Install torch {wheel.version} ({wheel.variant}), the newest with code for compute "
        f"capability {joined(c.capabilities)} and a CUDA that "
        + (f"driver {c.driver} runs." if c.driver else "a current driver runs.")
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
            _commands(c),
        )


def libraries(c: Context) -> Iterator[Finding]:
    """Libraries that the loader would not find, by where they should come from."""
    build = c.torch
    for code, missing, cure, commands in _missing_by_source(c) if build else ():
        names = joined([m.name for m in missing])
        yield c.finding(
            code,
            ERROR,
            f"torch {build.version if build else ''} needs {names}, and the loader finds "
            f"{'it' if len(missing) == 1 else 'them'} nowhere: `import torch` fails.",
            [f"{m.needed_by}: needs {m.name}, not found" for m in missing],
            cure,
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
    again = []
    if build.version and torch.installed_by == "wheel":
        index = f"https://download.pytorch.org/whl/{build.local_tag}" if build.local_tag else None
        again = [
            c.pip_install("--force-reinstall", f"torch=={release(build.version)}", index=index)
        ]
    openmp = [m for m in others if m.name.startswith("libgomp")]
    for row in (
        (
            "cuda.library-missing",
            of_cuda,
            "Install torch again with its NVIDIA packages, or put the library's folder on the "
            "loader's path.",
            again,
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
    build, nvidia = c.torch, c.facts.nvidia
    if build is None:
        return
    stale = [path for path in build.foreign_libraries if _is_older(c, path)]
    if not build.undefined_symbols and not stale:
        return
    paths = list(build.foreign_libraries)
    jitlink = next((p for p in paths if "nvJitLink" in p), (stale or paths or ["?"])[0])
    symbols = build.undefined_symbols[:3]
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
    del nvidia


def _is_older(c: Context, path: str) -> bool:
    """Whether a library lies in a toolkit that is older than torch's CUDA."""
    nvidia, build = c.facts.nvidia, c.torch
    if nvidia is None or build is None or not build.cuda:
        return False
    for toolkit in nvidia.toolkits:
        if toolkit.version and path.startswith(f"{toolkit.path}/"):
            return older(toolkit.version, build.cuda)
    named = re.search(r"cuda-(\d+\.\d+)", path)
    return bool(named and older(named.group(1), build.cuda))


def flavour(c: Context) -> Iterator[Finding]:
    """A build without CUDA on a machine with an NVIDIA GPU."""
    build = c.torch
    if build is None or not build.built or build.flavour in (None, "cuda"):
        return
    if c.has_npu or not c.has_nvidia or not _some_build_serves(c):
        return
    kind = {"cpu": "a CPU build", "rocm": "a build for AMD GPUs (ROCm)"}.get(
        str(build.flavour), f"a build for {build.flavour}"
    )
    nvidia = c.facts.nvidia
    names = [g.name for g in nvidia.gpus if g.name] if nvidia else []
    yield c.finding(
        "torch.cpu-only-build",
        ERROR,
        f"torch {build.version} is {kind}, and this machine has "
        f"{names[0] if names else 'an NVIDIA GPU'}: training would run on the CPU.",
        [f"{build.path}: no libtorch_cuda.so"],
        _how_to_get(c),
        _commands(c),
    )


def _some_build_serves(c: Context) -> bool:
    """Whether there is a CUDA build for any of the cards: an old display card has none."""
    host = c.facts.host
    arch_name = host.arch if host else None
    every = compat.wheels(c.tables, python=None, cpu_arch=arch_name, glibc=None)
    found = [wheel for wheel in every if wheel.cuda]
    return not c.capabilities or any(
        compat.code_runs(cc, w.cuda, w.row["sass"], w.row["ptx"], (), c.tables) is not Runs.NO
        for cc in c.capabilities
        for w in found
    )


def arch(c: Context) -> Iterator[Finding]:
    """Does the compiled code run on each visible card? Read from the binary, not from a table."""
    build = c.torch
    if build is None or build.flavour != "cuda" or c.has_npu:
        return
    for cc in c.capabilities:
        verdict = compat.build_runs(build, cc, c.tables)
        if verdict in (None, Runs.NATIVE):
            continue
        names = [g.name for g in c.gpus if g.compute_capability == cc and g.name]
        card = f"{names[0] if names else 'the GPU'} (compute capability {cc})"
        held = _held(build)
        if verdict is Runs.PTX:
            if _driver_compiles(c, build):
                continue
            cause = (
                f"torch {build.version} has only PTX for {card}, of CUDA {build.cuda}, which driver "
                f"{c.driver} is too old to compile."
            )
        elif verdict is Runs.PARTIAL:
            cause = (
                f"torch {build.version} has code for {card} in a few special kernels only, and "
                "every other kernel fails (no kernel image is available for execution)."
            )
        else:
            cause = (
                f"torch {build.version} has no code that runs on {card}: every kernel fails (no "
                "kernel image is available for execution on the device)."
            )
        yield c.finding(
            "torch.arch-missing",
            ERROR,
            f"{cause} It was compiled for {held}.",
            [f"{build.path}/lib/libtorch_cuda.so: {_counts(build)}", f"GPU: {cc}"],
            _how_to_get(c),
            _commands(c),
        )


def _held(build: TorchBuild) -> str:
    parts_ = [joined(list(build.archs_covered))] if build.archs_covered else []
    if build.archs_ptx:
        parts_.append(f"PTX {joined(list(build.archs_ptx))}")
    return " and ".join(parts_) or "nothing complete"


def _counts(build: TorchBuild) -> str:
    return ", ".join(
        f"{code.arch}×{code.sass}" if code.sass else f"{code.arch}+PTX×{code.ptx}"
        for code in build.archs
    )


def _driver_compiles(c: Context, build: TorchBuild) -> bool:
    """Whether the driver is as new as the toolkit that made the PTX."""
    nvidia = c.facts.nvidia
    if nvidia is None or nvidia.driver_cuda is None or build.cuda is None:
        return True
    return not older(nvidia.driver_cuda, build.cuda)


def distributed(c: Context) -> Iterator[Finding]:
    """Parts of torch.distributed that were not compiled in."""
    host, torch = c.facts.host, c.facts.torch
    build = c.torch or next((t for t in torch.local_trees if t.built), None) if torch else None
    if build is None or host is None or host.os != "Linux":
        return
    ascend = c.facts.ascend
    devices = len(ascend.visible) if c.has_npu and ascend else len(c.gpus)
    severity = ERROR if devices > 1 else WARNING
    several = f"{devices} devices need it" if devices > 1 else "runs on one device do without"
    evidence = f"{build.path}/lib"
    if build.distributed is False:
        yield c.finding(
            "torch.no-distributed",
            severity,
            f"torch {build.version} was built without torch.distributed; {several}.",
            [f"{evidence}/libtorch_cpu.so: no TCPStore, no process group"],
            "Install a wheel, or build with USE_DISTRIBUTED=1.",
        )
        return
    if build.flavour == "cuda" and build.nccl is False:
        yield c.finding(
            "torch.no-nccl",
            severity,
            f"torch {build.version} was built without NCCL; {several}.",
            [f"{evidence}/libtorch_cuda.so: no ProcessGroupNCCL"],
            "Install a wheel, or build with USE_NCCL=1; without it only gloo connects the ranks.",
        )
    if build.libuv is False:
        yield c.finding(
            "torch.no-libuv",
            WARNING,
            f"torch {build.version} at {build.path} was built without libuv, and torchrun asks for "
            "it by default (use_libuv was requested but PyTorch was built without libuv support).",
            [f"{evidence}/libtorch_cpu.so: no LibUVStoreDaemon"],
            "Start torchrun through a wrapper that makes every TCPStore with use_libuv=False "
            "(USE_LIBUV=0 reaches only the env:// rendezvous), or build with USE_TENSORPIPE=1, "
            "which brings libuv in on Linux.",
        )


def companions(c: Context) -> Iterator[Finding]:
    """Packages compiled against another torch."""
    torch, build = c.facts.torch, c.torch
    if torch is None or build is None or build.version is None:
        return
    pins = {
        item.name: item.requires_torch
        for item in torch.companions
        if item.requires_torch and "==" in item.requires_torch
    }
    asked = {pin.split("==", 1)[1].split(",")[0].split("+")[0].strip() for pin in pins.values()}
    if len(asked) > 1:
        yield c.finding(
            "torch.version-conflict",
            WARNING,
            f"{joined([f'{n} asks for torch{p}' for n, p in pins.items()])}: no torch meets them all.",
            [f"{name}: Requires-Dist: torch{pin}" for name, pin in pins.items()],
            "Install the versions that belong to one torch, or remove those you do not use; "
            "training here needs none of them.",
        )
    for item in torch.companions:
        problem = _companion_problem(c, item.name, item.version, item.requires_torch, build)
        if problem:
            yield c.finding(
                "torch.abi-mismatch",
                WARNING,
                f"{item.name} {item.version} {problem}, and torch {build.version} is installed; "
                "importing it fails (undefined symbol, or operator torchvision::nms does not exist).",
                [f"{item.name} {item.version}", f"torch {build.version}"],
                f"Install the {item.name} of this torch, or remove it; training here does not need it.",
                _companion_command(c, item.name, build),
            )


def _companion_problem(
    c: Context, name: str, version: str, pin: str | None, build: TorchBuild
) -> str | None:
    """Why a package does not go with a torch; None where it does, or nothing tells."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    own = release(build.version or "")
    if pin and own:
        try:
            specifier = SpecifierSet(pin)
            fits = any(specifier.contains(v, prereleases=True) for v in (build.version or own, own))
        except (InvalidSpecifier, InvalidVersion):
            return None
        if not fits:
            return f"was built for torch{pin}"
    row = _companion_row(c, own)
    paired = row.get(name) if row and not pin else None
    if paired and minor(str(paired)) != minor(version):
        return f"was not built for torch {own} (its {name} is {paired})"
    tag, torch_tag = version.partition("+")[2], build.local_tag or ""
    named = re.search(r"torch(\d+\.\d+)", tag)
    if named and named.group(1) != minor(own):
        return f"was built for torch {named.group(1)}"
    cuda, torch_cuda = (re.match(r"cu(\d\d)", t) for t in (tag, torch_tag))
    if cuda and torch_cuda and cuda.group(1) != torch_cuda.group(1):
        return f"was built for CUDA {cuda.group(1)}"
    if tag == "cpu" and build.flavour == "cuda":
        return "is a CPU build"
    return None


def _companion_row(c: Context, torch: str) -> Row | None:
    rows = c.tables.rows("torch", "companion")
    return next((row for row in rows if release(row["torch"]) == torch), None)


def _companion_command(c: Context, name: str, build: TorchBuild) -> list[str]:
    row = _companion_row(c, release(build.version or ""))
    if row is None or name not in row:
        return []
    index = f"https://download.pytorch.org/whl/{build.local_tag}" if build.local_tag else None
    return [c.pip_install(f"{name}=={row[name]}", "--no-deps", index=index)]


def triton(c: Context) -> Iterator[Finding]:
    """torch.compile on GPUs goes through Triton and its ptxas."""
    torch, build, host = c.facts.torch, c.torch, c.facts.host
    if torch is None or build is None or build.flavour != "cuda" or not c.capabilities:
        return
    if c.has_npu or host is None or host.os != "Linux" or build.version is None:
        return
    old = [cc for cc in c.capabilities if older(cc, TRITON_FLOOR)]
    if old:
        yield c.finding(
            "torch.triton-device-too-old",
            WARNING,
            f"Triton needs compute capability {TRITON_FLOOR} or newer and this GPU has "
            f"{joined(old)}: torch.compile does not work on it, eager mode does.",
            [f"GPU: {joined(old)}"],
            "Train in eager mode.",
            ["export TORCH_COMPILE_DISABLE=1"],
        )
        return
    if torch.triton is None:
        row = next(
            (
                r
                for r in c.tables.rows("torch", "release")
                if r["torch"] == minor(build.version or "")
            ),
            None,
        )
        wanted = f"triton=={row['triton']}" if row and row.get("triton") else "triton"
        yield c.finding(
            "torch.triton-missing",
            WARNING,
            f"Triton is not installed beside torch {build.version}; torch.compile falls back to "
            "eager mode.",
            ["no distribution triton"],
            "Install the Triton of this torch.",
            [c.pip_install(wanted)],
        )
        return
    yield from _ptxas(c)


def _ptxas(c: Context) -> Iterator[Finding]:
    torch = c.facts.torch
    assert torch is not None
    for cc in c.capabilities:
        row = c.tables.arch(cc)
        second = torch.triton_ptxas_blackwell if not older(cc, BLACKWELL) else None
        version = second or torch.triton_ptxas
        if row is None or version is None or not older(version, row["min_cuda"]):
            continue
        yield c.finding(
            "torch.ptxas-too-old",
            WARNING,
            f"Triton {torch.triton} brings ptxas of CUDA {version}, and compute capability {cc} needs "
            f"{row['min_cuda']} or newer (sm_{cc.replace('.', '')} is not defined for option 'gpu-name').",
            [f"triton {torch.triton}: ptxas {version}", "build/cuda.toml"],
            "Point TRITON_PTXAS_PATH to a newer ptxas, or install a newer torch with its Triton.",
            [f"export TRITON_PTXAS_PATH={c.facts.nvidia.nvcc.rsplit('/', 1)[0]}/ptxas"]
            if c.facts.nvidia
            and c.facts.nvidia.nvcc
            and c.facts.nvidia.nvcc_version
            and not older(c.facts.nvidia.nvcc_version, row["min_cuda"])
            else [],
        )


RULES = (
    missing,
    import_path,
    import_fails,
    libraries,
    foreign_libraries,
    flavour,
    arch,
    distributed,
    companions,
    triton,
)

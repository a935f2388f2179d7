"""Rules about what is in the installed torch: code for these cards, NCCL, libuv, Triton."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.facts import TorchBuild
from doctor.findings.advice import how_to_get_torch, torch_commands
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.findings.rules.nvidia.driver import served_by_some_wheel
from doctor.findings.rules.nvidia.jetson import board
from doctor.findings.rules.torch.mending import requirement
from doctor.knowledge import compat
from doctor.knowledge.compat import Runs
from doctor.knowledge.versions import minor, older

TRITON_FLOOR = "7.0"
"""Triton's documentation, "Compatibility": NVIDIA GPUs of compute capability 7.0 and newer (8.0 from
Triton 3.3 on for some features)."""

BLACKWELL = "10.0"
"""From here on Triton takes its second ptxas (triton/backends/nvidia/compiler.py, get_ptxas)."""


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
    if c.jetson:
        names = [f"the GPU of {board(c.jetson)}"]
    yield c.finding(
        "torch.cpu-only-build",
        ERROR,
        f"torch {build.version} is {kind}, and this machine has "
        f"{names[0] if names else 'an NVIDIA GPU'}: training would run on the CPU.",
        [f"{build.path}: no libtorch_cuda.so"],
        how_to_get_torch(c),
        torch_commands(c),
    )


def _some_build_serves(c: Context) -> bool:
    """Whether there is a CUDA build for any of the cards: an old display card has none."""
    if any(row["tegra"] for cc in c.capabilities if (row := c.tables.arch(cc))):
        return True  # builds for Jetsons lie on indexes of their own
    return served_by_some_wheel(c, c.capabilities)


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
            how_to_get_torch(c),
            torch_commands(c),
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
        wanted = next((requirement(p) for p in torch.unmet_pins if "triton" in p.name), wanted)
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
        variable = "TRITON_PTXAS_BLACKWELL_PATH" if second else "TRITON_PTXAS_PATH"
        path = torch.triton_ptxas_set.get(variable)
        takes = f"takes {path}, ptxas" if path else "brings ptxas"
        yield c.finding(
            "torch.ptxas-too-old",
            WARNING,
            f"Triton {torch.triton} {takes} of CUDA {version}, and compute capability {cc} needs "
            f"{row['min_cuda']} or newer (sm_{cc.replace('.', '')} is not defined for option 'gpu-name').",
            [
                f"{variable}={path}" if path else f"triton {torch.triton}: ptxas {version}",
                "build/cuda.toml",
            ],
            f"Point {variable} to a newer ptxas, or install a newer torch with its Triton.",
            _newer_ptxas(c, variable, row["min_cuda"]),
        )


def _newer_ptxas(c: Context, variable: str, floor: str) -> list[str]:
    """The command that makes Triton take the toolkit's ptxas, where that is new enough."""
    nvidia = c.facts.nvidia
    if nvidia is None or not nvidia.nvcc or not nvidia.nvcc_version:
        return []
    if older(nvidia.nvcc_version, floor):
        return []
    return [f"export {variable}={nvidia.nvcc.rsplit('/', 1)[0]}/ptxas"]


RULES = (flavour, arch, distributed, triton)

"""In which numbers a run multiplies, whether it is compiled, and how fast it will be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doctor.facts import Host
from doctor.findings.context import Context
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import at_least
from doctor.planner.launch.devices import Accelerator
from doctor.planner.launch.environment import cores
from doctor.planner.terms.plan import TorchChoice

DTYPES = ("float32", "float16", "bfloat16")
"""From the one that every device multiplies to the one that suits training best."""

CPU_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
COMPILERS = ("g++", "clang++", "gcc", "clang", "cc")
LEAST_TRITON = "7.0"
LEAST_FP8 = "8.9"

PEAK_KEYS: Mapping[str, str] = {
    "bfloat16": "tflops_bf16",
    "float16": "tflops_fp16",
    "float32": "tflops_fp32",
}


@dataclass(frozen=True)
class Machine:
    """What is known of the run before its size is: devices, ranks, numbers."""

    kind: str
    family: Row
    used: Sequence[Accelerator]
    ranks: int
    dtype: str
    obstacle: str | None
    """Why nothing is compiled; None where it is."""
    rate: float | None
    """FLOP/s of all ranks."""

    @property
    def compiled(self) -> bool:
        """Whether the model is compiled."""
        return self.obstacle is None


def dtype(kind: str, used: Sequence[Accelerator], host: Host | None) -> str:
    """The number type in which the trainer multiplies on these devices, by torch's name.

    The policy is that of `Device.dtype` in nanochat/device.py; of several devices the least able one decides.
    """
    if kind == "cpu":
        flags = host.cpu_flags if host else ()
        return "bfloat16" if CPU_BF16 & set(flags) else "float32"
    if kind == "mps":
        return "float32"
    return min((best(kind, device) for device in used), key=DTYPES.index)


def best(kind: str, device: Accelerator) -> str:
    """The number type that suits one accelerator."""
    if kind == "npu":
        return "bfloat16" if device.bf16 else "float16"
    if device.cc is None:
        return "float32"
    if at_least(device.cc, "8.0"):
        return "bfloat16"
    # Volta and Turing have tensor cores for half precision alone; before them it is slower than single.
    return "float16" if at_least(device.cc, "7.0") else "float32"


def compile_obstacle(
    context: Context, torch: TorchChoice, kind: str, used: Sequence[Accelerator]
) -> str | None:
    """Why nothing can be compiled here, in half a sentence; None where it can.

    On a CPU the trainer itself weighs up what compiling takes and saves; an NPU's torch has no Dynamo.
    """
    if kind != "cuda":
        return f"the trainer does not compile {'short runs ' if kind == 'cpu' else ''}on {kind}"
    facts, host = context.facts, context.facts.host
    old = [d for d in used if d.cc is None or not at_least(d.cc, LEAST_TRITON)]
    if old:
        capability = f"compute capability {old[0].cc}" if old[0].cc else "an unknown one"
        return f"Triton wants compute capability {LEAST_TRITON}, and {old[0].name} has {capability}"
    if not _brings_triton(context, torch):
        return "the package triton is missing"
    if not any(context.has_tool(name) for name in COMPILERS):
        return "no C compiler was found"
    readable = not facts.root or (host is not None and host.usr_include)
    if facts.python and facts.python.headers is None and readable and context.python_minor:
        return f"Python.h of Python {context.python_minor} is missing"
    return None


def _brings_triton(context: Context, torch: TorchChoice) -> bool:
    """A wheel for CUDA asks pip for its Triton; a torch that is there already has it or not."""
    if torch.requirement is not None or any("triton" in name for name in torch.companions):
        return True
    return bool(context.facts.torch and context.facts.torch.triton)


def multiplies_fp8(machine: Machine) -> bool:
    """Whether products can be in 8 bits: compiled, on devices with units for it (Ada, Hopper, Blackwell)."""
    able = (d.cc is not None and at_least(d.cc, LEAST_FP8) for d in machine.used)
    return machine.kind == "cuda" and machine.compiled and all(able)


# --- speed -------------------------------------------------------------------------------------


def rate(
    tables: Tables, kind: str, used: Sequence[Accelerator], number: str, *, compiled: bool
) -> float | None:
    """FLOP/s of a run on accelerators: all wait for the slowest. None where one's peak is not known."""
    rates = [device_rate(tables, kind, device, number, compiled=compiled) for device in used]
    known = [one for one in rates if one is not None]
    return min(known) * len(used) if len(known) == len(used) else None


def device_rate(
    tables: Tables, kind: str, device: Accelerator, number: str, *, compiled: bool
) -> float | None:
    """FLOP/s that one device reaches in training."""
    peak = float((device.row or {}).get(PEAK_KEYS[number]) or 0)
    row = _speed(tables, kind, device)
    if not peak or row is None:
        return None
    return peak * 1e12 * device.share * float(row["mfu" if compiled else "eager"])


def _speed(tables: Tables, kind: str, device: Accelerator) -> Row | None:
    for row in tables.rows("launch", "speed"):
        if row["kind"] != kind:
            continue
        if device.cc and "from_cc" in row and at_least(device.cc, row["from_cc"]):
            return row
        if device.series in row.get("series", ()):
            return row
    return None


def cpu_rate(tables: Tables, host: Host | None, number: str) -> float | None:
    """FLOP/s of all processors that a run may use."""
    if host is None or not host.cores:
        return None
    for row in tables.rows("launch", "processor"):
        if row["dtype"] == number and set(row["flags"]) <= set(host.cpu_flags):
            return float(row["gflops_per_core"]) * 1e9 * cores(host)
    return None

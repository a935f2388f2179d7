"""The only file that knows devices: which one there is, and everything in which they differ.

Import it before torch: some settings are read once, when torch starts. A new kind of device is a new row in
`FAMILIES` and, where it needs one, a branch in this file; no other file may ask what it runs on.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from nanochat.errors import NanochatError, WrongUsage
from nanochat.visible import visible

ENVIRONMENT: Mapping[str, str] = {
    # Segments that grow: without them, steps of different shapes leave holes that nothing fits into. The older name of
    # the variable is still what torch before 2.9 reads.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    # Host side of the NPU's task queue: 2 overlaps preparing and launching an operator.
    "TASK_QUEUE_ENABLE": "2",
    # Names of ranks' cards are not on a whitelist file that nobody has.
    "HCCL_WHITELIST_DISABLE": "1",
    # How long a thread of GNU OpenMP spins while it waits for the others. By default for milliseconds, and a step takes
    # ten times as long as soon as another program wants a core; without any, it takes half as long again (measured).
    "GOMP_SPINCOUNT": "3000",
    # What an operator lacks on MPS runs on the CPU, slowly, in place of an error.
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
}
"""What is set before torch is imported, unless the user has set it. Each is read by its own device alone."""

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import torch  # noqa: E402

AUTO = "auto"
DTYPE_VARIABLE = "NANOCHAT_DTYPE"
PEAK_VARIABLE = "NANOCHAT_PEAK_TFLOPS"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MIB = 1 << 20

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of device, as far as kinds differ by a name."""

    kind: str
    backend: str
    """Of torch.distributed."""
    package: str | None = None
    """What must be imported before torch knows the kind."""
    staging: bool = False
    """Copies from the host are faster out of pinned memory, and can overlap."""
    block_bytes: int
    """How large a block of logits may be that the loss multiplies out: large enough to keep the device busy, small
    enough not to matter beside the rest of a step."""
    tile_bytes: int
    """How much of a block is turned into gradients at once; on a CPU, what stays in its cache."""
    compiles: bool = False
    """Whether torch.compile works there."""
    compiles_whole: bool = False
    """Whether it gets the model as a whole and not block by block."""


FAMILIES = (
    Family(
        kind="npu",
        backend="hccl",
        package="torch_npu",
        staging=True,
        block_bytes=512 * MIB,
        tile_bytes=128 * MIB,
    ),
    Family(
        kind="cuda",
        backend="nccl",
        staging=True,
        block_bytes=512 * MIB,
        tile_bytes=128 * MIB,
        compiles=True,
    ),
    Family(kind="mps", backend="gloo", block_bytes=256 * MIB, tile_bytes=64 * MIB),
    Family(
        kind="cpu",
        backend="gloo",
        block_bytes=64 * MIB,
        tile_bytes=2 * MIB,
        compiles=True,
        compiles_whole=True,
    ),
)
"""In the order of preference: the first that is there is the one that `auto` means."""

KINDS = (AUTO, *(family.kind for family in FAMILIES))

PEAK_TFLOPS: Mapping[str, float] = {
    "GB200": 2500,
    "B200": 2250,
    "B100": 1800,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 756,
    "A100": 312,
    "A800": 312,
    "A40": 149.7,
    "A30": 165,
    "L40S": 362,
    "L4": 121,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71,
    "MI300X": 1307,
}
"""Words in a device's name -> dense bf16 TFLOP/s as its maker states them; the first row that matches counts.
A device that is not listed has no MFU; `NANOCHAT_PEAK_TFLOPS` names its peak."""

OTHER_CHIPS = frozenset({"laptop", "mobile", "q", "d", "ti", "super"})
"""Words in a name that make it another chip than the one of the same number (Laptop, Max-Q, 4090 D, 3090 Ti)."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """In bytes; None where the device does not tell."""

    used: int | None = None
    peak: int | None = None
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device of this process, and what has to be done differently on it."""

    family: Family
    torch_device: torch.device
    name: str
    capability: tuple[int, int] | None = None
    """NVIDIA's compute capability."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about how it was chosen."""

    @property
    def kind(self) -> str:
        """npu, cuda, mps or cpu."""
        return self.family.kind

    @property
    def module(self) -> ModuleType | None:
        """torch.npu, torch.cuda or torch.mps; None for the CPU."""
        return None if self.kind == "cpu" else getattr(torch, self.kind)

    # --- numbers --------------------------------------------------------------------------

    def dtype(self, wish: str = AUTO) -> torch.dtype:
        """The type that matrices are multiplied in: the wish, else `NANOCHAT_DTYPE`, else what suits the device.

        Raises:
            WrongUsage: no such type.
            NanochatError: the device cannot multiply it.
        """
        name = wish if wish != AUTO else os.environ.get(DTYPE_VARIABLE) or AUTO
        if name == AUTO:
            return self._best_dtype()
        if name not in DTYPES:
            raise WrongUsage(f"'{name}' is no type to train in; choose one of {', '.join(DTYPES)}")
        if self.kind == "npu" and name == "bfloat16" and not self._npu_has_bf16():
            raise NanochatError(f"{self.name} cannot multiply bfloat16; choose float16 or float32")
        return DTYPES[name]

    def _best_dtype(self) -> torch.dtype:
        if self.kind == "cuda":
            major, minor = self.capability or (0, 0)
            if major >= 8:
                return torch.bfloat16
            # Volta and Turing have tensor cores for half precision alone; before them it is slower than single.
            return torch.float16 if (major, minor) >= (7, 0) else torch.float32
        if self.kind == "npu":
            return torch.bfloat16 if self._npu_has_bf16() else torch.float16
        if self.kind == "cpu" and multiplies_bf16():
            return torch.bfloat16
        return torch.float32

    def _npu_has_bf16(self) -> bool:
        return bool(self.module and self.module.is_bf16_supported())

    @property
    def fp8(self) -> bool:
        """Whether there are 8-bit matrix units that torch drives: Ada, Hopper, Blackwell."""
        return self.kind == "cuda" and (self.capability or (0, 0)) >= (8, 9)

    @property
    def fast_bf16(self) -> bool:
        """Whether products in bf16 are faster than in single precision."""
        return self._best_dtype() == torch.bfloat16

    @property
    def fused_adamw(self) -> bool:
        """Whether torch has its one-pass AdamW here."""
        return self.kind in ("cuda", "cpu")

    @property
    def fused_norm(self) -> bool:
        """Whether torch's RMS norm is one kernel here, so that nothing but its input is kept."""
        return self.kind == "cuda"

    def embedding_dtype(self, compute: torch.dtype) -> torch.dtype:
        """The type in which embeddings are stored: half of a small model's memory, so that it counts on a card.

        Half precision has too small a range for them, and a CPU has memory enough to be exact.
        """
        exact = self.kind == "cpu" or compute == torch.float16
        return torch.float32 if exact else compute

    @property
    def peak_flops(self) -> float | None:
        """Dense bf16 FLOP/s of this device; None where nobody told."""
        stated = os.environ.get(PEAK_VARIABLE)
        if stated:
            try:
                return float(stated) * 1e12
            except ValueError:
                raise WrongUsage(f"{PEAK_VARIABLE}='{stated}' is no number of TFLOP/s") from None
        own = set(re.split(r"[\s-]+", self.name.lower()))
        if own & OTHER_CHIPS:
            return None
        for words, tflops in PEAK_TFLOPS.items():
            if own.issuperset(words.lower().split()):
                return tflops * 1e12
        return None

    def seed(self, value: int) -> None:
        """Start all random numbers from `value`."""
        torch.manual_seed(value)
        if self.module is not None:
            self.module.manual_seed(value)

    # --- memory and time ------------------------------------------------------------------

    def synchronize(self) -> None:
        """Wait for everything that was started on the device."""
        if self.module is not None:
            self.module.synchronize()

    def memory(self) -> Memory:
        """What this process uses of the device's memory; on a CPU, of the machine's."""
        if self.kind in ("cuda", "npu"):
            module = self.module
            assert module is not None
            return Memory(
                used=module.memory_allocated(),
                peak=module.max_memory_allocated(),
                total=module.mem_get_info()[1],
            )
        if self.kind == "mps":
            return Memory(
                used=torch.mps.current_allocated_memory(),
                total=torch.mps.recommended_max_memory(),
            )
        return host_memory()

    def free_memory(self) -> int | None:
        """Bytes that this process can still get, what its allocator keeps included; None where nobody knows."""
        if self.kind in ("cuda", "npu"):
            module = self.module
            assert module is not None
            return int(
                module.mem_get_info()[0] + module.memory_reserved() - module.memory_allocated()
            )
        if self.kind == "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
        free = free_host_memory()
        # The ranks of one machine share it.
        return free if free is None else free // local_ranks()

    def reset_peak(self) -> None:
        """Count the peak from here on, where the device can."""
        if self.kind in ("cuda", "npu") and self.module is not None:
            self.module.reset_peak_memory_stats()

    def empty_cache(self) -> None:
        """Give cached memory of this process back. No other process's memory is freed by it."""
        if self.module is not None:
            self.module.empty_cache()

    # --- moving and compiling -------------------------------------------------------------

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a host tensor on the device, without waiting for it where that is possible."""
        if self.family.staging:
            return tensor.pin_memory().to(self.torch_device, non_blocking=True)
        return tensor.to(self.torch_device)

    @property
    def may_compile(self) -> bool:
        """Whether compiling is worth a thought where nobody asks for it."""
        return self.family.compiles and os.environ.get("TORCH_COMPILE_DISABLE") != "1"

    def compiler(self) -> Callable[[T], T] | None:
        """torch.compile, which turns a function into a fast one; None, with a note, where it cannot.

        Never on an NPU, whose torch has no Dynamo backend, and never under TORCH_COMPILE_DISABLE=1.
        """
        if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
            return None
        if reason := self._cannot_compile():
            warn_once(f"not compiled, {reason}; training goes on without, slower")
            return None
        import torch._dynamo

        # What the compiler cannot do runs uncompiled, which is a warning of Dynamo and not the end of a run.
        torch._dynamo.config.suppress_errors = True
        # Hyperparameters change every step; they are tensors, so that no step is compiled twice.
        return functools.partial(torch.compile, dynamic=False)

    def _cannot_compile(self) -> str | None:
        if self.kind == "npu":
            return "Dynamo is not supported on an NPU"
        if self.kind == "mps":
            return "the compiler for MPS is a prototype"
        if self.kind == "cuda" and importlib.util.find_spec("triton") is None:
            return "the package triton is missing"
        if not any(shutil.which(name) for name in _compilers()):
            return "no C compiler was found"
        return None

    # --- attention ------------------------------------------------------------------------

    def attention_packages(self, dtype: torch.dtype | None = None) -> tuple[str, ...]:
        """Kernels worth trying before torch's own, fastest first (names of `nanochat.attention.KERNELS`)."""
        if self.kind == "cpu":
            return ("cpu_products",)
        if dtype == torch.float32:
            return ()
        if self.kind == "npu":
            return ("npu_fusion_attention",)
        if self.kind == "cuda" and self.capability:
            if self.capability[0] == 9:
                return ("flash_attn_3", "flash_attn_2")
            # No kernels for consumer Blackwell (12.x) in flash-attn 2; see its issues 1638, 1665 and 2168.
            if self.capability[0] == 8:
                return ("flash_attn_2",)
        return ()


def find(kind: str = AUTO) -> Device:
    """The device that this process works on: of the kind asked for, number LOCAL_RANK.

    Raises:
        WrongUsage: no such kind.
        NanochatError: there is none of that kind, or not enough of them for all ranks.
    """
    if kind not in KINDS:
        raise WrongUsage(f"unknown device type '{kind}'; choose one of {', '.join(KINDS)}")
    notes: list[str] = []
    for family in FAMILIES:
        if kind not in (AUTO, family.kind):
            continue
        reason = _missing(family)
        if reason is None:
            return _open(family, notes)
        if kind != AUTO:
            raise NanochatError(
                f"no {kind} device can be used: {reason}; leave out --device-type to take what is there"
            )
        if _installed(family):
            notes.append(f"{family.kind} passed over: {reason}")
    raise AssertionError("a CPU is always there")


def _installed(family: Family) -> bool:
    """Whether somebody meant this kind to be used, so that its absence is news."""
    if family.package is not None:
        return importlib.util.find_spec(family.package) is not None
    return family.kind == "cuda" and Path("/dev/nvidiactl").exists()


def _missing(family: Family) -> str | None:
    """Why a kind cannot be used; None where it can."""
    if family.kind == "cpu":
        return None
    if family.package is not None:
        if importlib.util.find_spec(family.package) is None:
            return f"the package {family.package} is not installed"
        try:
            importlib.import_module(family.package)
        except Exception as error:  # a broken CANN raises whatever its loader raises
            return f"{family.package} does not start ({_one_line(error)})"
    if family.kind == "mps":
        return None if torch.backends.mps.is_available() else "torch finds no Apple GPU"
    module = getattr(torch, family.kind, None)
    if module is None or not module.is_available():
        return f"torch {torch.__version__} finds none"
    return None


def _open(family: Family, notes: list[str]) -> Device:
    if family.kind == "cpu":
        _tune_host()
        return Device(
            family=family, torch_device=torch.device("cpu"), name=_cpu_name(), notes=notes
        )
    if family.kind == "mps":
        return Device(
            family=family, torch_device=torch.device("mps"), name="Apple GPU", notes=notes
        )
    module = getattr(torch, family.kind)
    index, count = int(os.environ.get("LOCAL_RANK", "0")), module.device_count()
    if index >= count:
        raise NanochatError(
            f"rank {index} of this machine has no {family.kind} device, for there are {count}; "
            "start no more processes than that"
        )
    module.set_device(index)
    if family.kind == "npu":
        # CANN brings its operators compiled; older cards would compile each again for each shape, for minutes.
        module.set_compile_mode(jit_compile=False)
    capability = module.get_device_capability(index) if family.kind == "cuda" else None
    # Single precision through tensor cores with 10 bits of mantissa: three times the speed, no loss seen in training.
    torch.set_float32_matmul_precision("high")
    return Device(
        family=family,
        torch_device=torch.device(family.kind, index),
        name=module.get_device_name(index),
        capability=capability,
        notes=notes,
    )


# --- the host ---------------------------------------------------------------------------------


def host_memory() -> Memory:
    """Resident memory of this process, its high-water mark, and the machine's memory; from Linux, else unknown."""
    try:
        status = dict(
            line.split(":", 1)
            for line in Path("/proc/self/status").read_text().splitlines()
            if ":" in line
        )
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Memory(used=_kib(status["VmRSS"]), peak=_kib(status["VmHWM"]), total=pages)
    except (OSError, KeyError, ValueError):
        return Memory()


CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the container that this process is in: cgroup 2, cgroup 1."""


def free_host_memory() -> int | None:
    """Bytes of memory that are free or can be freed, within the limit of a container; None where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(_kib(line.split(":")[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    for limit_file, use_file in CGROUP_FILES:
        try:
            free = min(free, int(Path(limit_file).read_text()) - int(Path(use_file).read_text()))
        except (OSError, ValueError):  # no such cgroup, or no limit ("max")
            continue
    return max(0, free)


@functools.cache
def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX-512 BF16 or AMX); otherwise bf16 is slower than fp32."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def _tune_host() -> None:
    _keep_freed_memory()
    _prefer_onednn()
    # torchrun gives each rank one thread unless told otherwise, since it cannot know that the work is on the CPU.
    ranks = local_ranks()
    if ranks > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, available_cores() // ranks))


def local_ranks() -> int:
    """Ranks on this machine, as torchrun tells."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def available_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next allocation.

    By default it gives every block of more than 32 MiB back to the kernel, which clears each page again at the next
    use. A training step allocates the same blocks over and over; that alone was half its time (measured).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # names and numbers from malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, (1 << 31) - 1)
    libc.mallopt(mmap_threshold, 1 << 30)


def _prefer_onednn() -> None:
    """On an AMD CPU, let oneDNN multiply in single precision: MKL does not use all of it (measured: a third slower).

    torch takes oneDNN for this only when it may round to bf16. Without AMX it has nothing to gain from that and does
    not; one product is compared, so that it stays off where it would.
    """
    setting: Any = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    if _vendor() != "AuthenticAMD" or not hasattr(setting, "fp32_precision"):
        return
    before = setting.fp32_precision
    x = torch.linspace(-1, 1, 256 * 256).view(256, 256)
    exact = x @ x
    setting.fp32_precision = "bf16"
    if (x @ x - exact).abs().max() > 1e-4 * exact.abs().max():
        setting.fp32_precision = before


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _compilers() -> Iterable[str]:
    named = os.environ.get("CXX") or os.environ.get("CC")
    return ([named] if named else []) + ["g++", "clang++", "gcc", "clang", "cc", "cl"]


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` -> `bfloat16`."""
    return str(dtype).removeprefix("torch.")


# --- words ------------------------------------------------------------------------------------

_warned: set[str] = set()


def warn_once(sentence: str) -> None:
    """Say something on stderr, the first time only and from the first rank only."""
    if sentence not in _warned and os.environ.get("RANK", "0") == "0":
        _warned.add(sentence)
        print(f"note: {visible(sentence)}", file=sys.stderr, flush=True)  # noqa: T201


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

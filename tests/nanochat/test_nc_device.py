"""Which device is chosen, in which numbers it computes, and that nobody else asks what it is."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from nanochat import device as devices  # noqa: E402
from nanochat.device import ENVIRONMENT, FAMILIES, Device, find  # noqa: E402
from nanochat.errors import NanochatError, WrongUsage  # noqa: E402

REPO = Path(__file__).resolve().parents[2]
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def imagined(kind: str, name: str = "a device", capability: tuple[int, int] | None = None) -> Device:  # fmt: skip
    """A device of a kind that this machine need not have."""
    family = next(family for family in FAMILIES if family.kind == kind)
    return Device(family=family, torch_device=torch.device("cpu"), name=name, capability=capability)


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (devices.DTYPE_VARIABLE, devices.PEAK_VARIABLE, "TORCH_COMPILE_DISABLE"):
        monkeypatch.delenv(name, raising=False)


# --- choosing -----------------------------------------------------------------------------------


def test_a_cpu_is_always_there() -> None:
    device = find("cpu")
    assert (device.kind, device.family.backend, device.module) == ("cpu", "gloo", None)
    assert device.name and device.torch_device == torch.device("cpu")


def test_auto_takes_what_is_there() -> None:
    best = find()
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert best.kind == "cpu"
    assert best.kind in devices.KINDS


def test_kinds_are_tried_in_the_order_of_the_table() -> None:
    assert [family.kind for family in FAMILIES] == ["npu", "cuda", "mps", "cpu"]
    assert [family.backend for family in FAMILIES] == ["hccl", "nccl", "gloo", "gloo"]


def test_unknown_kinds_are_a_wrong_value() -> None:
    with pytest.raises(WrongUsage, match=r"'tpu'.*auto, npu, cuda, mps, cpu"):
        find("tpu")


@pytest.mark.parametrize("kind", ["npu", "cuda", "mps"])
def test_a_kind_that_is_not_there_is_one_sentence_with_the_reason(kind: str) -> None:
    there = {
        "npu": False,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if there[kind]:
        pytest.skip(f"there is a {kind} device")
    with pytest.raises(NanochatError, match=f"no {kind} device can be used: .*--device-type") as e:
        find(kind)
    assert e.value.exit_code == 1 and "\n" not in str(e.value)


def test_a_broken_torch_npu_is_passed_over_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch_npu").mkdir()
    (tmp_path / "torch_npu" / "__init__.py").write_text(
        "raise ImportError('libhccl.so: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    chosen = find()
    assert chosen.kind != "npu"
    assert "npu passed over: torch_npu does not start (libhccl.so" in chosen.notes[0]
    with pytest.raises(NanochatError, match=r"libhccl\.so"):
        find("npu")


NPU = """
import types, torch
chosen = []
npu = types.SimpleNamespace(
    is_available=lambda: True, device_count=lambda: 2, set_device=lambda index: chosen.append(index),
    get_device_name=lambda index: f"Ascend910B{index}", is_bf16_supported=lambda: True,
    set_compile_mode=lambda jit_compile: None,
    manual_seed=lambda value: chosen.append(value), mem_get_info=lambda: (5, 64),
    memory_allocated=lambda: 3, max_memory_allocated=lambda: 4, memory_reserved=lambda: 6,
)
torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", npu)
"""
"""A torch_npu that announces itself to torch as the real one does, and drives nothing."""

ASK_NPU = """
import os, torch
from nanochat import device as devices
from nanochat.errors import NanochatError
npu = devices.find()
assert (npu.kind, npu.name, npu.torch_device) == ("npu", "Ascend910B1", torch.device("npu", 1)), npu
assert npu.dtype() == torch.bfloat16 and npu.attention_packages() == ("npu_fusion_attention",)
torch.npu.is_bf16_supported = lambda: False
assert npu.dtype() == torch.float16
try:
    npu.dtype("bfloat16")
except NanochatError as error:
    assert "cannot multiply bfloat16" in str(error)
else:
    raise AssertionError
assert npu.memory() == devices.Memory(used=3, peak=4, total=64)
assert npu.free_memory() == 5 + 6 - 3
os.environ["LOCAL_RANK"] = "2"
try:
    devices.find()
except NanochatError as error:
    print(error)
"""


def test_an_npu_comes_first_and_each_rank_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "torch_npu.py").write_text(NPU)
    env = {name: value for name, value in os.environ.items() if name != devices.DTYPE_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", ASK_NPU],
        env=env | {"PYTHONPATH": f"{REPO}:{tmp_path}", "LOCAL_RANK": "1"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rank 2 of this machine has no npu device" in done.stdout


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "dtype", "fp8"),
    [
        ((6, 1), FP32, False),  # Pascal
        ((7, 0), FP16, False),
        ((7, 5), FP16, False),  # Turing
        ((8, 0), BF16, False),
        ((8, 9), BF16, True),  # Ada
        ((9, 0), BF16, True),
        ((12, 0), BF16, True),  # consumer Blackwell
    ],
)
def test_the_type_that_suits_a_card(
    capability: tuple[int, int], dtype: torch.dtype, fp8: bool
) -> None:
    card = imagined("cuda", capability=capability)
    assert (card.dtype(), card.fp8) == (dtype, fp8)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu avx2 amx_bf16 amx_tile", True),
        ("fpu avx2 avx512f", False),
        ("fpu not_avx512_bf16", False),
        ("", False),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_does_so_in_hardware(
    flags: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: avx512_bf16\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    devices.multiplies_bf16.cache_clear()
    try:
        assert devices.multiplies_bf16() is wanted
        assert imagined("cpu").dtype() == (BF16 if wanted else FP32)
    finally:
        devices.multiplies_bf16.cache_clear()


def test_a_wish_comes_before_the_variable_and_that_before_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = imagined("cuda", capability=(9, 0))
    monkeypatch.setenv("NANOCHAT_DTYPE", "float16")
    assert card.dtype() == FP16
    assert card.dtype("float32") == FP32
    monkeypatch.setenv("NANOCHAT_DTYPE", "")
    assert card.dtype() == BF16
    monkeypatch.setenv("NANOCHAT_DTYPE", "int4")
    with pytest.raises(WrongUsage, match="'int4'"):
        card.dtype()


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A800-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("AMD Instinct MI300X", 1307),
        # Names that only look like one of the table.
        ("NVIDIA L40", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A1000", None),
        ("Ascend910B2", None),
    ],
)
def test_peaks_belong_to_the_card_of_that_name(name: str, tflops: float | None) -> None:
    assert imagined("cuda", name).peak_flops == (tflops and tflops * 1e12)


def test_a_peak_can_be_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_PEAK_TFLOPS", "320")
    assert imagined("npu", "Ascend910B2").peak_flops == 320e12
    monkeypatch.setenv("NANOCHAT_PEAK_TFLOPS", "much")
    with pytest.raises(WrongUsage, match="NANOCHAT_PEAK_TFLOPS='much'"):
        _ = imagined("npu").peak_flops


def test_a_seed_decides_the_random_numbers() -> None:
    device = find("cpu")
    device.seed(5)
    first = torch.rand(4)
    device.seed(5)
    assert torch.equal(torch.rand(4), first)


# --- memory, copies, compiling ------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells")
def test_memory_of_the_host_is_that_of_this_process() -> None:
    before = find("cpu").memory()
    # More than malloc keeps of what was freed before.
    held = torch.ones(256 << 20, dtype=torch.uint8)
    after = find("cpu").memory()
    assert before.used and after.used and after.peak and after.total
    assert after.used - before.used > 192 << 20
    assert before.used <= after.peak <= after.total
    free = find("cpu").free_memory()
    assert free is not None and 0 < free < after.total
    assert held.sum() == len(held)


def test_what_is_put_on_a_cpu_is_equal() -> None:
    tensor = torch.arange(6)
    assert torch.equal(find("cpu").put(tensor), tensor)


def test_without_a_compiler_a_run_goes_on_with_one_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "_warned", set())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    for _ in range(2):
        assert imagined("cpu").compiler() is None
    assert capsys.readouterr().err.count("no C compiler was found") == 1


def test_notes_come_once_and_from_the_first_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "_warned", set())
    monkeypatch.setenv("RANK", "1")
    devices.warn_once("a thing")
    monkeypatch.setenv("RANK", "0")
    devices.warn_once("a thing")
    devices.warn_once("a thing")
    assert capsys.readouterr().err == "note: a thing\n"


# --- the environment ----------------------------------------------------------------------------

SHOW = "import os, json; from nanochat import device; print(json.dumps(dict(os.environ)))"


def test_settings_of_the_user_stay() -> None:
    # Nonsense in an allocator's own variable would be refused by torch, so these are left to the defaults.
    own = {name: "own" for name in ENVIRONMENT if "ALLOC" not in name}
    assert own
    env = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT} | own
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        env=env | {"PYTHONPATH": str(REPO)},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in ENVIRONMENT} == {**ENVIRONMENT, **own}


# --- one file -----------------------------------------------------------------------------------

DEVICE_MODULES = {"cuda", "npu", "mps", "xpu"}
DEVICE_IMPORT = re.compile(rf"torch\.(backends\.)?({'|'.join(DEVICE_MODULES)})\b")


def device_words(path: Path) -> list[str]:
    """Where a file says torch.cuda and the like, or imports it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and DEVICE_IMPORT.fullmatch(ast.unparse(node)):
            found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = [module + alias.name for alias in node.names]
            found += [
                f"{path.name}:{node.lineno} imports {n}" for n in names if DEVICE_IMPORT.match(n)
            ]
    return found


def test_no_other_file_asks_what_it_runs_on() -> None:
    files = [*(REPO / "nanochat").rglob("*.py"), *(REPO / "scripts").rglob("*.py")]
    assert REPO / "nanochat" / "device.py" in files
    others = [path for path in files if path.relative_to(REPO) != Path("nanochat/device.py")]
    assert [word for path in others for word in device_words(path)] == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import torch\nimport torch.cuda\nfrom torch import npu\ntorch.mps.synchronize()\n"
    )
    assert len(device_words(path)) == 3
    assert device_words(REPO / "nanochat" / "device.py")

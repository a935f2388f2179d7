"""Launch settings: what a machine gets, what is refused, and what holds for all of them."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import CARDS, Machine, Torch, build, nvidia
from verdicts import facts_of

from doctor.errors import DoctorError, WrongUsage
from doctor.facts import (
    Ascend,
    Cann,
    Facts,
    Gpu,
    GpuProcess,
    Host,
    Npu,
    Nvidia,
    PciDevice,
    Python,
    Storage,
    Tool,
)
from doctor.facts import Torch as TorchFacts
from doctor.findings.context import Context
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.planner.launch.devices import MIB, budget, devices, family
from doctor.planner.launch.settle import settle, shards
from doctor.planner.terms.plan import STAGES, Launch, TorchChoice, Wishes
from doctor.probe.survey import survey
from doctor.text.toml import tomllib

TABLES = Tables()
WHEEL = TorchChoice("2.9.1", requirement="torch==2.9.1", libuv=True)
REAL_CARDS = tomllib.loads(
    (Path(__file__).parents[1] / "data" / "cards.toml").read_text(encoding="utf-8")
)["card"]
HOST = Host(
    os="Linux",
    arch="x86_64",
    cpu_model="A processor",
    cores=16,
    memory_total=65536,
    memory_available=60000,
    tools={"gcc": Tool(path="/usr/bin/gcc")},
)
PYTHON = Python(version="3.12.3", headers="/usr/include/python3.12")


def gpu(name: str, cc: str | None, memory: int | None, **more: Any) -> Gpu:
    free = {} if memory is None else {"memory_free": memory - 18}
    return Gpu(
        name=name, compute_capability=cc, memory_total=memory, **{"index": 0, **free, **more}
    )


def pc(*gpus: Gpu, **more: Any) -> Facts:
    numbered = tuple(dataclasses.replace(one, index=i) for i, one in enumerate(gpus))
    visible = more.pop("visible", tuple(range(len(gpus))))
    facts = {"host": HOST, "python": PYTHON, "torch": TorchFacts()}
    return Facts(
        **{**facts, **more.pop("facts", {})}, nvidia=Nvidia(gpus=numbered, visible=visible, **more)
    )


def card(name: str, **more: Any) -> Gpu:
    """One of the cards that test machines are made of."""
    known = CARDS[name]
    return gpu(known.name, known.cc, known.memory, **more)


def atlas(count: int = 8, name: str = "910B3", series: str = "910B", **more: Any) -> Facts:
    npus = tuple(
        Npu(index=i, npu_id=i, chip_id=0, name=name, series=series, health="OK",
            hbm_total=65536, hbm_used=3400)
        for i in range(count)
    )  # fmt: skip
    bad = more.pop("bad", {})
    npus = tuple(dataclasses.replace(n, health=bad.get(n.index, "OK")) for n in npus)
    values = {"npus": npus, "visible": tuple(range(count)), **more}
    return Facts(host=HOST, python=PYTHON, ascend=Ascend(**values))


def launch(facts: Facts, kind: str = "cuda", torch: TorchChoice = WHEEL, **wishes: Any) -> Launch:
    return settle(Context(facts, TABLES), TABLES, Wishes(**wishes), torch, kind=kind)


def kind_of(context: Context) -> str:
    if context.has_npu:
        return "npu"
    return "cuda" if context.gpus else "cpu"


def check_whole(found: Launch) -> None:
    """What holds for every launch."""
    assert tuple(found.stages) == STAGES
    for stage in found.stages.values():
        unit = stage.device_batch_size * stage.max_seq_len * found.nproc_per_node
        assert stage.total_batch_size == unit * stage.grad_accum_steps
        assert stage.grad_accum_steps >= 1
        assert stage.device_batch_size <= found.stages["base"].device_batch_size
    ports = sorted(stage.port for stage in found.stages.values())
    assert all(b - a >= 100 for a, b in pairwise(ports))
    assert found.tokens == found.num_iterations * found.stages["base"].total_batch_size
    assert found.num_iterations >= 1 and found.parameters > 0 and found.shards >= 0
    if found.device_memory_mb is not None:
        assert 1.1 * found.peak_memory_mb < found.device_memory_mb
    assert found.hours is None or 0 < found.hours < math.inf
    assert all(isinstance(value, str) and value for value in found.env.values())
    for warning in found.warnings:
        assert warning.endswith(".") and "None" not in warning and "  " not in warning, warning


# --- machines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", REAL_CARDS, ids=lambda row: f"{row['name']} {row['pci']}")
def test_every_real_card_gets_settings(row: dict[str, Any]) -> None:
    found = launch(pc(gpu(row["name"], row["cc"], row["memory_mib"] or None)))
    check_whole(found)
    major = int(row["cc"].split(".")[0])
    expected = "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    assert found.dtype == expected
    assert found.compile == (major >= 7)
    assert not found.fp8
    assert (found.backend, found.nproc_per_node) == ("nccl", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_described_machine_gets_settings_or_a_sentence(name: str) -> None:
    context = Context(facts_of(name), TABLES)
    try:
        found = settle(context, TABLES, Wishes(), WHEEL, kind=kind_of(context))
    except DoctorError as error:
        assert str(error).endswith(".")
    else:
        check_whole(found)


def test_a_laptop_from_its_files(tmp_path: Path) -> None:
    machine = Machine(
        nvidia=nvidia("RTX 4050 Laptop"), torch=Torch(version="2.9.1+cpu", triton=None)
    )
    system = System(build(machine, tmp_path), execute=True)
    try:
        facts = survey(system, TABLES)
    finally:
        system.close()
    found = launch(facts)
    check_whole(found)
    assert found.depth <= 12 and found.stages["base"].device_batch_size <= 16
    assert found.dtype == "bfloat16" and found.hours is not None and found.energy_kwh is not None
    assert any("battery" in warning for warning in found.warnings)


def test_a_card_that_only_the_bus_shows() -> None:
    bus = PciDevice(address="0000:01:00.0", vendor_id="10de", device_id="2684", chip="AD102",
                    compute_capability="8.9")  # fmt: skip
    found = launch(Facts(host=HOST, python=PYTHON, nvidia=Nvidia(pci_devices=(bus,))))
    check_whole(found)
    assert found.device_memory_mb is None and found.dtype == "bfloat16"
    assert any("memory" in warning and "not known" in warning for warning in found.warnings)


def test_memory_that_the_driver_does_not_tell_is_the_table_s() -> None:
    unknown = gpu("NVIDIA GeForce RTX 4090", "8.9", None, unknown={"memory_total": "N/A"})
    assert launch(pc(unknown)).device_memory_mb == 24000


def test_memory_shared_with_the_host() -> None:
    found = launch(pc(card("GB10")))
    check_whole(found)
    assert found.device_memory_mb == int(65536 * 0.75)
    tight = dataclasses.replace(HOST, cgroup_memory_limit=16384)
    less = launch(pc(card("GB10"), facts={"host": tight}))
    assert less.device_memory_mb == int(16384 * 0.75)
    assert less.peak_memory_mb < found.peak_memory_mb


def test_mig_is_one_process_on_one_instance() -> None:
    divided = card("A100", mig_mode="Enabled", mig_instances=("3g.40gb", "1g.10gb", "1g.10gb"))
    found = launch(pc(divided, card("A100")))
    check_whole(found)
    assert found.nproc_per_node == 1
    assert found.device_memory_mb == 10**10 // MIB
    assert any("MIG" in warning for warning in found.warnings)
    whole = launch(pc(card("A100")))
    assert found.depth < whole.depth and found.hours is not None


def test_mixed_cards_share_what_the_least_of_them_can() -> None:
    found = launch(pc(card("RTX 4090"), card("GTX 1080")))
    assert (found.nproc_per_node, found.dtype, found.compile) == (2, "float32", False)
    assert found.device_memory_mb == 8192
    said = " ".join(found.warnings)
    assert "GTX 1080 keeps the others back" in said and "CUDA_VISIBLE_DEVICES" in said
    assert "GeForce GTX 1080 does not multiply bfloat16" in said


def test_equal_cards_draw_no_word_about_each_other() -> None:
    found = launch(pc(card("RTX 5090"), card("RTX 5090")))
    assert found.nproc_per_node == 2 and "keeps" not in " ".join(found.warnings)
    assert "NCCL_P2P_DISABLE=1" in " ".join(found.warnings)
    assert "NCCL_P2P_DISABLE" not in found.env


def test_memory_that_others_hold_is_not_counted() -> None:
    free = launch(pc(card("A100"))).stages["base"].device_batch_size
    held = card("A100", memory_free=50000, processes=(GpuProcess(pid=4711, name="python"),))
    found = launch(pc(held))
    check_whole(found)
    assert 1.1 * found.peak_memory_mb < 50000
    assert found.stages["base"].device_batch_size < free
    assert any("python (PID 4711)" in warning for warning in found.warnings)


def test_a_card_full_of_leftovers_is_planned_as_if_empty() -> None:
    held = card("RTX 4090", memory_free=1210, processes=(GpuProcess(pid=4711, name="python"),))
    full, empty = launch(pc(held)), launch(pc(card("RTX 4090")))
    assert full.stages == empty.stages
    assert any("free their memory before you start" in warning for warning in full.warnings)


def test_devices_that_the_user_hid_stay_hidden() -> None:
    found = launch(pc(card("RTX 4090"), card("RTX 4090"), visible=(1,), visible_variable="1",
                      device_order="PCI_BUS_ID"))  # fmt: skip
    assert found.nproc_per_node == 1
    assert found.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert found.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in launch(pc(card("RTX 4090"))).env


def test_no_visible_device() -> None:
    with pytest.raises(DoctorError, match=r"No GPU is visible.*--profile smoke"):
        launch(pc(card("RTX 4090"), visible=(), visible_variable=""))


# --- NPUs ---------------------------------------------------------------------------------------


def test_npus() -> None:
    cann = Cann(
        path="/usr/local/Ascend/cann-8.5.0", set_env="/usr/local/Ascend/cann-8.5.0/set_env.sh"
    )
    found = launch(
        atlas(4, toolkits=(cann,), active_toolkit=cann.path, nnal="/usr/local/Ascend/nnal"), "npu"
    )
    check_whole(found)
    assert (found.device_type, found.backend, found.nproc_per_node) == ("npu", "hccl", 4)
    assert (found.dtype, found.compile, found.fp8) == ("bfloat16", False, False)
    assert found.env["HCCL_CONNECT_TIMEOUT"] == found.env["HCCL_EXEC_TIMEOUT"] == "1200"
    assert found.env["TORCH_COMPILE_DISABLE"] == "1" and found.env["TASK_QUEUE_ENABLE"] == "2"
    assert found.source_files == (cann.set_env, "/usr/local/Ascend/nnal/atb/set_env.sh")
    assert "ASCEND_RT_VISIBLE_DEVICES" not in found.env


def test_first_generation_npus_multiply_half_precision() -> None:
    found = launch(atlas(8, name="910A", series="910"), "npu")
    assert found.dtype == "float16" and found.hours is not None


def test_a_faulty_npu_is_left_out() -> None:
    found = launch(atlas(4, bad={2: "Alarm"}), "npu")
    check_whole(found)
    assert found.nproc_per_node == 3
    assert found.env["ASCEND_RT_VISIBLE_DEVICES"] == "0,1,3"
    assert any("NPU 2" in warning and "Alarm" in warning for warning in found.warnings)


def test_npus_that_the_user_chose() -> None:
    found = launch(atlas(8, visible=(4, 5), visible_variable="4,5"), "npu")
    assert found.nproc_per_node == 2 and found.env["ASCEND_RT_VISIBLE_DEVICES"] == "4,5"


def test_npus_without_npu_smi() -> None:
    found = launch(
        atlas(0, npus=(), device_nodes=("/dev/davinci0", "/dev/davinci1"), visible=(0, 1)), "npu"
    )
    check_whole(found)
    assert found.nproc_per_node == 2 and found.device_memory_mb is None


# --- processors ----------------------------------------------------------------------------------


def cpu(*flags: str, **host: Any) -> Facts:
    return Facts(host=dataclasses.replace(HOST, cpu_flags=flags, **host), python=PYTHON)


def test_a_machine_without_accelerator_smokes() -> None:
    found = launch(cpu("avx2"), "cpu")
    check_whole(found)
    assert (found.profile, found.device_type, found.backend) == ("smoke", "cpu", "gloo")
    assert (found.data, found.shards, found.core_metric) == ("stdlib", 0, False)
    assert found.env["OMP_NUM_THREADS"] == "16" and not found.compile
    assert found.hours is not None and found.energy_kwh is None


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), "float32"),
        (("avx512f",), "float32"),
        (("avx512_bf16",), "bfloat16"),
        (("amx_bf16",), "bfloat16"),
    ],
)
def test_numbers_of_a_processor(flags: tuple[str, ...], expected: str) -> None:
    assert launch(cpu(*flags), "cpu", profile="auto").dtype == expected


def test_ranks_on_a_processor_share_cores_and_memory() -> None:
    one, four = (launch(cpu(), "cpu", profile="auto", nproc=n) for n in (1, 4))
    check_whole(four)
    assert four.env["OMP_NUM_THREADS"] == "4"
    assert 4 * four.peak_memory_mb < 60000
    assert four.stages["base"].device_batch_size <= one.stages["base"].device_batch_size
    with pytest.raises(DoctorError, match="16 CPU cores are usable"):
        launch(cpu(), "cpu", nproc=17)
    with pytest.raises(DoctorError, match="2 CPU cores are usable"):
        launch(cpu(cgroup_cpu_limit=2.5), "cpu", nproc=3)


def test_a_processor_with_little_memory() -> None:
    with pytest.raises(DoctorError, match=r"does not fit.*no model of a use fits"):
        launch(cpu(memory_total=700, memory_available=500), "cpu", profile="auto")


def test_apple_silicon() -> None:
    host = Host(os="Darwin", arch="arm64", cpu_model="Apple M2", cores=8, memory_total=16384)
    found = launch(Facts(host=host, python=PYTHON), "mps")
    check_whole(found)
    assert (found.device_type, found.dtype, found.compile) == ("mps", "float32", False)
    assert found.depth <= 8 and found.hours is None
    assert found.env["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


# --- profiles and wishes ---------------------------------------------------------------------------


def test_a_profile_is_taken_as_it_is_where_it_fits() -> None:
    found = launch(pc(*[card("H100")] * 8), profile="speedrun")
    check_whole(found)
    row = TABLES.profile("speedrun")
    base = found.stages["base"]
    assert (found.depth, base.device_batch_size, base.max_seq_len) == (
        row["depth"],
        row["device_batch_size"],
        row["max_seq_len"],
    )
    assert found.fp8 and found.core_metric and found.shards == row["shards"]


def test_a_batch_that_does_not_fit_is_lowered_and_accumulated() -> None:
    usual, small = (
        launch(facts, profile="speedrun")
        for facts in (
            pc(*[card("H100")] * 8),
            pc(*[gpu("NVIDIA A100-SXM4-40GB", "8.0", 40960)] * 8),
        )
    )
    check_whole(small)
    one, other = usual.stages["base"], small.stages["base"]
    assert other.device_batch_size < one.device_batch_size
    assert other.total_batch_size == one.total_batch_size
    assert other.grad_accum_steps > one.grad_accum_steps
    said = " ".join(small.warnings)
    assert f"a pass has {other.device_batch_size} rows in place of 16" in said
    assert not small.fp8 and "multiplies in 8 bits" in said


def test_fixed_totals_are_kept_where_ranks_divide_them() -> None:
    four, three = (
        launch(atlas(4), "npu", profile="npu-4"),
        launch(atlas(4), "npu", profile="npu-4", nproc=3),
    )
    assert four.stages["base"].total_batch_size == 524288
    assert four.stages["base"].grad_accum_steps == 2
    check_whole(three)
    assert "does not divide" in " ".join(three.warnings)


def test_smoke_runs_on_the_processor_of_any_machine() -> None:
    found = launch(pc(card("H100")), profile="smoke")
    check_whole(found)
    assert (found.device_type, found.backend, found.compile) == ("cpu", "gloo", False)


@pytest.mark.parametrize(
    ("facts", "kind", "wishes", "says"),
    [
        (pc(card("RTX 4050 Laptop")), "cuda", {"profile": "speedrun"}, "depth 24 does not fit.*--depth 1"),
        (pc(card("RTX 4050 Laptop")), "cuda", {"depth": 26}, "depth 26 does not fit.*--depth 1"),
        (pc(card("H100")), "cuda", {"profile": "speedrun"}, "is for 8 GPUs.*--nproc 1"),
        (pc(card("H100")), "cuda", {"profile": "npu-4"}, "is for Ascend NPUs"),
        (atlas(4), "npu", {"profile": "npu-8"}, "is for 8 Ascend NPUs.*--nproc 4"),
        (atlas(4), "npu", {"profile": "speedrun"}, "is for GPUs"),
        (cpu(), "cpu", {"profile": "npu-4"}, "is for Ascend NPUs"),
        (pc(card("H100")), "cuda", {"nproc": 2}, "1 GPU is usable here"),
        (atlas(4), "npu", {"nproc": 5}, "4 Ascend NPUs are usable here"),
    ],
)  # fmt: skip
def test_wishes_that_the_machine_cannot_meet(
    facts: Facts, kind: str, wishes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DoctorError, match=says) as caught:
        launch(facts, kind, **wishes)
    assert caught.value.exit_code == 1 and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "wishes", [{"depth": 0}, {"depth": -3}, {"nproc": 0}, {"depth": 129}, {"profile": "warp"}]
)
def test_wishes_that_are_wrong_in_themselves(wishes: dict[str, Any]) -> None:
    with pytest.raises(WrongUsage) as caught:
        launch(pc(card("H100")), **wishes)
    assert caught.value.exit_code == 2 and str(caught.value).endswith(".")


@pytest.mark.parametrize("memory", range(1200, 5200, 400))
def test_what_an_error_advises_does_fit(memory: int) -> None:
    facts = pc(gpu("NVIDIA GeForce RTX 3050", "8.6", memory))
    with pytest.raises(DoctorError) as caught:
        launch(facts, depth=20)
    advised = re.search(r"--depth (\d+)", str(caught.value))
    if advised is None:
        assert "no model of a use fits" in str(caught.value) and memory < 2000
    else:
        check_whole(launch(facts, depth=int(advised[1])))


def test_a_depth_of_ones_own_costs_context_before_it_costs_time() -> None:
    facts = pc(card("RTX 4050 Laptop"))
    found = launch(facts, depth=14)
    check_whole(found)
    assert found.depth == 14 and found.recompute
    assert any("worked out again" in warning for warning in found.warnings)
    assert not launch(facts, depth=10).recompute


def test_fewer_processes_than_devices() -> None:
    found = launch(pc(*[card("H100")] * 8), nproc=3)
    check_whole(found)
    assert found.nproc_per_node == 3


def test_a_wish_for_depth_keeps_to_it_however_long_it_takes() -> None:
    found = launch(pc(card("RTX 4090")), depth=20)
    assert found.depth == 20 and found.hours is not None and found.hours > 24
    assert any("hours here" in warning for warning in found.warnings)
    chosen = launch(pc(card("RTX 4090")))
    assert chosen.hours is not None and chosen.hours <= 24 and chosen.depth < 20


# --- compiler, 8 bits, environment -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "torch", "says"),
    [
        ({"host": dataclasses.replace(HOST, tools={})}, WHEEL, "no C compiler"),
        ({"python": Python(version="3.12.3")}, WHEEL, "Python.h of Python 3.12"),
        ({}, TorchChoice("2.9.0a0", path="/home/user/pytorch"), "triton is missing"),
    ],
)
def test_why_nothing_is_compiled(facts: dict[str, Any], torch: TorchChoice, says: str) -> None:
    found = launch(pc(card("H100"), facts=facts), torch=torch)
    assert not found.compile
    assert any(says in warning for warning in found.warnings)
    assert found.hours is not None


def test_an_installed_torch_compiles_with_its_triton() -> None:
    tree = TorchChoice("2.9.0a0", path="/home/user/pytorch")
    assert launch(pc(card("H100"), facts={"torch": TorchFacts(triton="3.5.1")}), torch=tree).compile
    nightly = TorchChoice(None, companions=("pytorch-triton",))
    assert launch(pc(card("H100")), torch=nightly).compile


@pytest.mark.parametrize(
    ("version", "name"),
    [("2.8.0", "PYTORCH_CUDA_ALLOC_CONF"), ("2.9.0", "PYTORCH_ALLOC_CONF"),
     ("2.10.0.dev20251120", "PYTORCH_ALLOC_CONF"), (None, "PYTORCH_ALLOC_CONF")],
)  # fmt: skip
def test_the_allocator_s_variable_has_the_name_that_torch_reads(
    version: str | None, name: str
) -> None:
    found = launch(pc(card("H100")), torch=TorchChoice(version, requirement="torch"))
    assert [key for key in found.env if key.endswith("ALLOC_CONF")] == [name]


def test_caches_and_mirror() -> None:
    storage = {"storage": Storage(base_dir="/data/nanochat")}
    found = launch(pc(card("H100"), facts=storage))
    assert found.env["TORCHINDUCTOR_CACHE_DIR"] == "/data/nanochat/inductor"
    assert "HF_ENDPOINT" not in found.env
    redacted = launch(pc(card("H100"), facts={"storage": Storage(base_dir="~/.cache/nanochat")}))
    assert "TORCHINDUCTOR_CACHE_DIR" not in redacted.env
    context = Context(pc(card("H100")), TABLES)
    mirrored = settle(context, TABLES, Wishes(), WHEEL, kind="cuda", hub="https://hf-mirror.com")
    assert mirrored.env["HF_ENDPOINT"] == "https://hf-mirror.com"


@pytest.mark.parametrize("libuv", [True, False, None])
def test_libuv_is_the_torch_s(libuv: bool | None) -> None:
    assert launch(pc(card("H100")), torch=TorchChoice("2.9.1", libuv=libuv)).libuv is libuv


# --- data ------------------------------------------------------------------------------------------


def test_shards_cover_the_tokens_and_the_tokenizer() -> None:
    short, long = launch(pc(*[card("H100")] * 8), depth=4), launch(pc(*[card("H100")] * 8))
    assert short.shards == 8
    # 170 shards are enough for 5.84 thousand million tokens, as upstream has it; ours are in proportion.
    assert long.shards == pytest.approx(long.tokens / 5.84e9 * 170, rel=0.1)
    auto = TABLES.profile("auto")
    assert shards(10**13, "climbmix", auto, TABLES) == 6542
    assert shards(10**6, "stdlib", auto, TABLES) == 0
    with pytest.raises(DoctorError, match="no \\[\\[data\\]\\] row"):
        shards(10**6, "another", auto, TABLES)


# --- properties --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(["RTX 4090", "GTX 1080", "T4", "H100"]),
    sizes=st.tuples(st.integers(1500, 200_000), st.integers(1500, 200_000)),
    count=st.sampled_from([1, 2, 8]),
)
def test_more_memory_is_never_worse(name: str, sizes: tuple[int, int], count: int) -> None:
    made = [gpu(CARDS[name].name, CARDS[name].cc, size) for size in sorted(sizes)]
    smaller, larger = (_size(pc(*[one] * count)) for one in made)
    assert smaller <= larger


def _size(facts: Facts) -> tuple[int, int, int, int]:
    """Depth first, then what a deeper model takes of rows; nothing where nothing fits."""
    try:
        found = launch(facts)
    except DoctorError:
        return (0, 0, 0, 0)
    check_whole(found)
    base = found.stages["base"]
    return (found.depth, not found.recompute, base.max_seq_len, base.device_batch_size)


@settings(deadline=None, max_examples=40)
@given(
    memory=st.tuples(st.integers(3000, 90_000), st.integers(3000, 90_000)),
    depth=st.sampled_from([4, 8, 12, 20]),
    count=st.integers(1, 9),
)
def test_more_memory_never_takes_rows_from_a_depth(
    memory: tuple[int, int], depth: int, count: int
) -> None:
    rows = []
    for size in sorted(memory):
        try:
            found = launch(pc(*[gpu("NVIDIA H100 80GB HBM3", "9.0", size)] * count), depth=depth)
        except DoctorError:
            rows.append((False, 0, 0))
            continue
        check_whole(found)
        base = found.stages["base"]
        rows.append((not found.recompute, base.max_seq_len, base.device_batch_size))
    assert rows[0] <= rows[1]


@settings(deadline=None, max_examples=60)
@given(
    ranks=st.integers(1, 17),
    free=st.integers(0, 70_000),
    profile=st.sampled_from(["auto", "npu-4", "npu-8", "smoke", "speedrun", "laptop-6gb"]),
    depth=st.none() | st.integers(1, 40),
)
def test_any_wish_gets_settings_that_divide_and_fit_or_a_sentence(
    ranks: int, free: int, profile: str, depth: int | None
) -> None:
    facts = atlas(16)
    assert facts.ascend is not None
    npus = [
        dataclasses.replace(npu, hbm_used=65536 - min(free, 65536)) for npu in facts.ascend.npus
    ]
    facts = dataclasses.replace(facts, ascend=dataclasses.replace(facts.ascend, npus=tuple(npus)))
    try:
        found = launch(facts, "npu", profile=profile, nproc=ranks, depth=depth)
    except DoctorError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
        return
    check_whole(found)
    assert found.nproc_per_node == ranks and (depth is None or found.depth == depth)


def test_a_budget_leaves_room_for_libraries_and_screen() -> None:
    context = Context(pc(card("RTX 4090"), card("H100")), TABLES)
    geforce, hopper = devices(context, TABLES, "cuda")
    context_mb = family(TABLES, "cuda")["context_mb"]
    assert budget(hopper, TABLES, "cuda", 1, whole=False) == (81559 - 18 - context_mb) * MIB
    assert budget(geforce, TABLES, "cuda", 1, whole=False) == (24564 - 500 - context_mb) * MIB
    alone, together = (budget(hopper, TABLES, "cuda", n, whole=True) for n in (1, 8))
    assert alone is not None and together is not None and together < alone

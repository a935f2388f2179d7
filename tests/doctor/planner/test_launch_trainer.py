"""What the planner works out without torch is what the trainer works out with it."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from doctor.facts import Facts, Gpu, Host, Nvidia, Python, Tool  # noqa: E402
from doctor.findings.context import Context  # noqa: E402
from doctor.knowledge.tables import Tables  # noqa: E402
from doctor.machine.system import System  # noqa: E402
from doctor.planner.launch import arithmetic  # noqa: E402
from doctor.planner.launch.arithmetic import Machine  # noqa: E402
from doctor.planner.launch.devices import Accelerator, budget, devices, family  # noqa: E402
from doctor.planner.launch.environment import environment  # noqa: E402
from doctor.planner.launch.settle import settle  # noqa: E402
from doctor.planner.launch.sizes import Devices, Goal, choose  # noqa: E402
from doctor.planner.terms.plan import TorchChoice, Wishes  # noqa: E402
from doctor.probe.survey import survey  # noqa: E402
from nanochat import compiling  # noqa: E402
from nanochat.device import (  # noqa: E402
    DTYPE_VARIABLE,
    DTYPES,
    ENVIRONMENT,
    FAMILIES,
    Device,
    dtype_name,
    find,
)
from nanochat.distributed import World  # noqa: E402
from nanochat.plan import MOST_ROWS, USUAL_RATIO, make_plan, memory_setting  # noqa: E402
from scripts.base_train import parser  # noqa: E402

TABLES = Tables()
KINDS = {one.kind: one for one in FAMILIES}
CAPABILITIES = [
    "3.5",
    "5.2",
    "6.1",
    "7.0",
    "7.5",
    "8.0",
    "8.6",
    "8.9",
    "9.0",
    "10.0",
    "11.0",
    "12.0",
    "12.1",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Free(Device):
    """A device that is not here, with so much free memory."""

    free: int = 0

    def free_memory(self) -> int:
        return self.free


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alike(World):
    """A world whose ranks all say the same."""

    def gather_objects(self, thing: Any) -> list[Any]:
        return [thing] * self.size


def device(kind: str, capability: str | None = None, free: int = 0) -> Free:
    major, _, minor = (capability or "0.0").partition(".")
    return Free(
        family=KINDS[kind],
        torch_device=torch.device("cpu"),
        name="a device",
        capability=(int(major), int(minor)) if capability else None,
        free=free,
    )


@pytest.fixture(autouse=True)
def no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DTYPE_VARIABLE, raising=False)


@pytest.mark.parametrize("kind", KINDS)
def test_families_are_those_of_the_trainer(kind: str) -> None:
    row, real = family(TABLES, kind), KINDS[kind]
    assert row["backend"] == real.backend
    assert (row["block_mb"] << 20, row["tile_mb"] << 20) == (real.block_bytes, real.tile_bytes)
    assert row["fused_norm"] == device(kind).fused_norm
    assert row["fused_adamw"] == device(kind).fused_adamw


def test_unasked_values_are_the_trainer_s() -> None:
    auto, flags = TABLES.rows("launch", "auto")[0], parser().parse_args([])
    assert auto["most_rows"] == MOST_ROWS and auto["ratio"] == USUAL_RATIO
    assert (auto["head_dim"], auto["lengths"][0]) == (flags.head_dim, flags.max_seq_len)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_numbers_of_a_gpu(capability: str) -> None:
    real, ours = device("cuda", capability), Accelerator("a GPU", None, cc=capability)
    number = arithmetic.dtype("cuda", [ours], None)
    assert number == dtype_name(real.dtype())
    machine = Machine("cuda", family(TABLES, "cuda"), [ours], 1, number, None, None)
    assert arithmetic.multiplies_fp8(machine) == real.fp8


@pytest.mark.parametrize("bf16", [True, False])
def test_numbers_of_an_npu(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "npu", types.SimpleNamespace(is_bf16_supported=lambda: bf16), raising=False
    )
    ours = arithmetic.dtype("npu", [Accelerator("an NPU", None, bf16=bf16)], None)
    assert ours == dtype_name(device("npu").dtype())


def test_numbers_of_this_processor() -> None:
    system = System(Path("/"))
    try:
        facts = survey(system, TABLES, areas=["host"])
    finally:
        system.close()
    assert arithmetic.dtype("cpu", [], facts.host) == dtype_name(find("cpu").dtype())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_contradicts_what_the_trainer_sets(kind: str) -> None:
    for version in ("2.6.0", "2.9.1"):
        found = environment(
            Facts(), TABLES, TorchChoice(version), kind, 1, [], compiled=kind == "cuda"
        )
        assert all(ENVIRONMENT[name] == found[name] for name in ENVIRONMENT.keys() & found.keys())


def test_nothing_is_compiled_where_the_trainer_would_not() -> None:
    for kind in ("npu", "mps", "cpu"):
        short = compiling.choose(
            "auto", device(kind), seconds=lambda: 60.0, depth=4, recompute=False
        )
        assert short.compiler is None
        found = arithmetic.compile_obstacle(
            Context(Facts(), TABLES), TorchChoice("2.9.1"), kind, []
        )
        assert found is not None


# --- sizes -----------------------------------------------------------------------------------------

MACHINES = [
    ("cuda", "8.9", 1, 6141, None),
    ("cuda", "6.1", 1, 8192, None),
    ("cuda", "7.5", 1, 15360, None),
    ("cuda", "8.9", 1, 24564, 16),
    ("cuda", "12.0", 2, 32607, None),
    ("cuda", "9.0", 8, 81559, None),
    ("cuda", "9.0", 3, 81559, 20),
    ("cuda", "9.0", 8, 81559, 4),
]


@pytest.mark.parametrize(("kind", "capability", "ranks", "memory", "depth"), MACHINES)
def test_the_trainer_comes_to_the_same_batch_and_horizon(
    kind: str, capability: str, ranks: int, memory: int, depth: int | None
) -> None:
    gpus = tuple(
        Gpu(
            index=i,
            name="NVIDIA H100 80GB HBM3",
            compute_capability=capability,
            memory_total=memory,
        )
        for i in range(ranks)
    )
    host = Host(os="Linux", cores=16, memory_total=65536, tools={"gcc": Tool(path="/usr/bin/gcc")})
    facts = Facts(
        host=host,
        python=Python(version="3.12.3", headers="/usr/include/python3.12"),
        nvidia=Nvidia(gpus=gpus, visible=tuple(range(ranks))),
    )
    context = Context(facts, TABLES)
    found = settle(context, TABLES, Wishes(depth=depth), TorchChoice("2.9.1"), kind=kind)
    base = found.stages["base"]
    free = budget(devices(context, TABLES, kind)[0], TABLES, kind, ranks, whole=False)
    assert free is not None
    real = device(kind, capability, free)

    words = [
        f"--depth={found.depth}",
        f"--head-dim={found.head_dim}",
        f"--max-seq-len={base.max_seq_len}",
    ]
    said = [
        f"--device-batch-size={base.device_batch_size}",
        f"--total-batch-size={base.total_batch_size}",
        f"--num-iterations={found.num_iterations}",
    ]
    # By itself with this memory, and as the launch tells it.
    for flags in (words, words + said):
        plan = make_plan(
            parser().parse_args(flags),
            found.vocab_size,
            real,
            DTYPES[found.dtype],
            Alike(size=ranks),
        )
        assert plan.rows == base.device_batch_size
        assert plan.total_batch == base.total_batch_size
        assert plan.accumulation == base.grad_accum_steps
        assert (plan.steps, plan.tokens) == (found.num_iterations, found.tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", ["bfloat16", "float16", "float32"])
def test_memory_is_reckoned_with_the_trainer_s_settings(kind: str, number: str) -> None:
    auto = TABLES.rows("launch", "auto")[0]
    goal = Goal(
        depth=4,
        length=512,
        rows=4,
        total=None,
        steps=None,
        ratio=12.0,
        head_dim=64,
        vocab_size=4096,
    )
    place = Devices(device="a device", dtype=number, ranks=2, memory=1 << 36, rate=None,
                  family=family(TABLES, kind), auto=auto)  # fmt: skip
    ours = choose(goal, place).setting
    args = parser().parse_args(["--depth=4"])
    assert memory_setting(args, ours.config, device(kind), DTYPES[number], Alike(size=2), 4) == ours

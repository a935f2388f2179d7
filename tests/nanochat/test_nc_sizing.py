"""Sizes reckoned without torch are those that the real trainer has."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from memory_meter import Measured, make, measure  # noqa: E402

from nanochat import model as real_model  # noqa: E402
from nanochat import optim as real_optim  # noqa: E402
from nanochat import schedule, sizing  # noqa: E402
from nanochat.config import ModelConfig  # noqa: E402
from nanochat.distributed import World  # noqa: E402
from nanochat.errors import WrongUsage  # noqa: E402
from nanochat.sizing import GIB, Setting  # noqa: E402

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small steps on a busy machine wait for their own threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shape(depth: int, length: int = 128, **more: Any) -> ModelConfig:
    values = {"vocab_size": 1024, "head_dim": 32, "aspect_ratio": 24, "sequence_len": length} | more
    return ModelConfig.from_depth(depth, **values)


def with_kv_heads(config: ModelConfig, kv_heads: int) -> ModelConfig:
    return dataclasses.replace(config, kv_heads=kv_heads)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Shapes of all kinds, also ones that `from_depth` never makes."""
    heads = draw(st.integers(1, 6))
    head_dim = draw(st.sampled_from([12, 16, 64, 128]))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 5000)),
        depth=draw(st.integers(1, 9)),
        width=heads * head_dim,
        heads=heads,
        kv_heads=draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
        sequence_len=draw(st.integers(1, 3000)),
        window_pattern=draw(st.text("SL", min_size=1, max_size=5)),
    )


def on_meta(config: ModelConfig) -> real_model.GPT:
    with torch.device("meta"):
        return real_model.GPT(config)


def test_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, numpy=None)\n"
        "from nanochat import sizing, config, schedule\n"
        "c = config.ModelConfig.from_depth(20, vocab_size=32768)\n"
        "print(sizing.memory(sizing.Setting(config=c)).peak > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_constants_are_the_trainers() -> None:
    assert sizing.SMALL == real_optim.SMALL


# --- parameters and arithmetic --------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(configs())
def test_parameters_are_those_of_the_model(config: ModelConfig) -> None:
    groups = on_meta(config).parameter_groups()
    built = {name: sum(p.numel() for p in params) for name, params in groups.items()}
    counted = sizing.parameters(config)
    for name in ("head", "embedding", "value_embeddings", "matrices"):
        assert getattr(counted, name) == built.pop(name), name
    assert counted.scalars == sum(built.values())


@settings(max_examples=40, deadline=None)
@given(configs(), st.integers(1, 9), st.booleans())
def test_optimizer_state_is_that_of_the_optimizer(
    config: ModelConfig, world: int, muon: bool
) -> None:
    """Every rank has the same share, the last one with padding."""
    setting = Setting(
        config=config, world=world, dtype="float32", embedding_dtype="bfloat16", muon=muon
    )
    model = on_meta(config)
    model.embedding.to(torch.bfloat16)
    model.value_embeddings.to(torch.bfloat16)
    hyper: dict[str, Any] = dict.fromkeys(schedule.GROUPS)
    optimizer = real_optim.Optimizer(
        model.parameter_groups(),
        hyper,
        World(rank=world - 1, size=world),
        muon=frozenset({"matrices"}) if muon else frozenset(),
    )
    held = sum(
        tensor.numel() * tensor.element_size()
        for unit in optimizer.state_dict()["groups"].values()
        for tensor in unit["tensors"].values()
    )
    assert sizing.memory(setting).held.optimizer == held
    assert sizing.memory(setting).held.weights == sum(
        p.numel() * p.element_size() for p in model.parameters()
    )


@pytest.mark.parametrize(
    ("depth", "total", "scaling", "tokens", "exponent", "steps", "lr", "decay"),
    # Worked out independently of this code from the published rules: vocabulary 32,768, 12 tokens per parameter.
    # Weight decay at depth 4 would be 1.890; ours is kept at 1.
    [
        (4, 36.7e6, 11.5e6, 0.138e9, 18, 528, 0.707, 1.0),
        (8, 125.8e6, 41.9e6, 0.503e9, 18, 1920, 0.707, 0.520),
        (12, 286.3e6, 110.1e6, 1.321e9, 19, 2520, 1, 0.280),
        (16, 536.9e6, 234.9e6, 2.819e9, 19, 5376, 1, 0.131),
        (20, 896.5e6, 435.2e6, 5.222e9, 20, 4980, 1.414, 0.100),
        (24, 1384e6, 729.8e6, 8.758e9, 20, 8352, 1.414, 0.060),
        (26, 1682e6, 918.4e6, 11.02e9, 20, 10510, 1.414, 0.048),
        (32, 2818.6e6, 1677.7e6, 20.13e9, 21, 9600, 2, 0.037),
    ],
)
def test_published_plan(
    depth: int, total: float, scaling: float, tokens: float, exponent: int, steps: int, lr: float, decay: float
) -> None:  # fmt: skip
    config, reference = (ModelConfig.from_depth(d, vocab_size=32768) for d in (depth, 12))
    counted = sizing.parameters(config)
    wanted, reference_tokens = 12 * counted.scaling, 12 * sizing.parameters(reference).scaling
    batch = schedule.batch_tokens(wanted, reference_tokens)
    assert counted.total == pytest.approx(total, rel=2e-3)
    assert counted.scaling == pytest.approx(scaling, rel=5e-3)
    assert wanted == pytest.approx(tokens, rel=5e-3)
    assert batch == 2**exponent
    assert schedule.lr_factor(batch) == pytest.approx(lr, abs=1e-3)
    planned = schedule.steps_for(
        iterations=-1, target_flops=-1, ratio=12, flops_per_token=sizing.flops_per_token(config),
        scaling_parameters=counted.scaling, batch=batch,
    )  # fmt: skip
    # The published table leaves the gates of value embeddings out, which add a step or two.
    assert planned == pytest.approx(steps, rel=5e-4)
    assert schedule.muon_weight_decay(0.28, batch, wanted, reference_tokens) == pytest.approx(
        decay, abs=1e-3
    )


@pytest.mark.parametrize(
    ("depth", "flops"), [(20, 2.886e9), (24, 4.775e9), (26, 5.991e9), (32, 1.077e10)]
)
def test_published_flops(depth: int, flops: float) -> None:
    config = ModelConfig.from_depth(depth, vocab_size=32768)
    assert sizing.flops_per_token(config) == pytest.approx(flops, rel=5e-4)


def test_flops_count_every_product_of_weights() -> None:
    """Torch's own counter sees the same ones; attention is a kernel of its own and left out here."""
    from torch.utils.flop_counter import FlopCounterMode

    config, rows = shape(2), 2
    # In bf16, since the counter overlooks products that are added in place.
    model, _ = make(Setting(config=config, rows=rows, dtype="bfloat16"))
    tokens = torch.zeros(rows, config.sequence_len, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(counts[op] for op in (torch.ops.aten.mm, torch.ops.aten.addmm) if op in counts)
    attention = 12 * config.width * sum(config.windows)
    assert products / tokens.numel() == pytest.approx(
        sizing.flops_per_token(config) - attention, rel=1e-3
    )


def test_training_time() -> None:
    assert sizing.training_seconds(1e9, 6e9, 3e15) == 2000


@given(
    st.integers(1, 1 << 22), st.integers(1, 64), st.sampled_from([1, 100, 2048]), st.integers(1, 9)
)
def test_nearest_batch_divides_and_is_nearest(
    wish: int, rows: int, length: int, ranks: int
) -> None:
    total = sizing.nearest_batch(wish, rows, length, ranks)
    passes = schedule.accumulation(total, rows, length, ranks)
    unit = total // passes
    assert abs(total - wish) <= unit / 2 or passes == 1


# --- memory -----------------------------------------------------------------------------------


def close(setting: Setting, measured: Measured, tolerance: float = 0.1) -> None:
    predicted = sizing.memory(setting)
    told = f"{predicted.peak} predicted in {predicted.worst}, {measured.highest} measured"
    # What other threads free is not seen, and then stays in the sum: the truth lies between.
    unseen = measured.after - measured.before
    least, most = (1 - tolerance) * (measured.peak - unseen), (1 + tolerance) * measured.peak
    assert least <= predicted.peak <= most, told
    held = predicted.held
    # Angles of positions are reckoned among the activations.
    assert held.weights + held.optimizer == pytest.approx(measured.before, rel=0.15)


@pytest.mark.parametrize(
    "setting",
    [
        Setting(config=shape(2), dtype="float32"),
        Setting(config=shape(2), embedding_dtype="bfloat16"),
        Setting(config=shape(4, 512), rows=2, dtype="float32", block_bytes=1 << 20),
        Setting(config=shape(4, 512), rows=2, passes=2),
        Setting(config=shape(4, 256), rows=4, recompute=True),
        Setting(config=shape(3, vocab_size=8192), passes=2, dtype="float32", block_bytes=2 << 20),
        Setting(config=with_kv_heads(shape(4, 320, aspect_ratio=32), 2), rows=2),
        Setting(config=shape(2), fused_adamw=False),
        Setting(config=shape(2), muon=False, dtype="float32"),
        Setting(config=shape(2), rows=8, tile_bytes=1 << 16),
        Setting(config=shape(2, vocab_size=16384)),
    ],
)
def test_peak_is_within_a_tenth(setting: Setting) -> None:
    measured = measure(setting)
    assert measured.after - measured.before < 1000
    close(setting, measured)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pattern", ["SSSL", "L"])
@pytest.mark.parametrize(("depth", "length", "rows"), [(2, 1024, 1), (4, 512, 1), (6, 128, 3)])
def test_peak_over_a_grid(depth: int, length: int, rows: int, pattern: str, dtype: str) -> None:
    config = shape(depth, length, vocab_size=2048, window_pattern=pattern, aspect_ratio=16)
    setting = Setting(config=config, rows=rows, dtype=dtype)
    close(setting, measure(setting))


def _rank(rank: int, setting: Setting, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=setting.world
    )
    # When gloo's threads let go of a buffer depends on how busy the machine is.
    close(setting, measure(setting, World(rank=rank, size=setting.world)), tolerance=0.2)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_peak_with_several_ranks(world: int) -> None:
    config = shape(3, vocab_size=2048)
    setting = Setting(config=config, world=world, dtype="float32", embedding_dtype="bfloat16")
    multiprocessing.set_forkserver_preload(["torch"])
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank, (setting, f"{folder}/store"), nprocs=world, start_method="forkserver"
        )


@settings(max_examples=60, deadline=None)
@given(
    configs(), st.integers(1, 16), st.integers(1, 8), st.sampled_from(list(sizing.BYTES)), st.booleans()
)  # fmt: skip
def test_more_of_anything_needs_no_less(
    config: ModelConfig, rows: int, world: int, dtype: str, recompute: bool
) -> None:
    setting = Setting(
        config=config,
        rows=rows,
        world=world,
        dtype=dtype,
        recompute=recompute,
        # All logits in one block: one row more can cut them into two smaller ones.
        block_bytes=1 << 40,
        tile_bytes=1 << 40,
    )
    for change in (
        {"rows": rows + 1},
        {"passes": 2},
        {"config": dataclasses.replace(config, vocab_size=config.vocab_size + 640)},
    ):
        more = dataclasses.replace(setting, **change)
        assert sizing.memory(more).peak >= sizing.memory(setting).peak, change


@pytest.mark.parametrize(
    "change", [{"rows": 0}, {"world": 0}, {"passes": -1}, {"dtype": "int8"}, {"tile_bytes": 0}]
)
def test_impossible_settings(change: dict[str, Any]) -> None:
    with pytest.raises(WrongUsage):
        Setting(config=shape(2), **change)


# --- what fits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_gib", [0.2, 1, 7.9, 24, 80])
@pytest.mark.parametrize("depth", [4, 20])
def test_largest_batch_is_the_largest(depth: int, memory_gib: float) -> None:
    setting = Setting(config=ModelConfig.from_depth(depth, vocab_size=32768), rows=77)
    limit = int(memory_gib * GIB)
    rows = sizing.largest_batch(setting, limit)
    if rows:
        assert sizing.fits(dataclasses.replace(setting, rows=rows), limit)
    assert not sizing.fits(dataclasses.replace(setting, rows=rows + 1), limit)


@pytest.mark.parametrize("memory_gib", [3, 12, 60])
def test_fitting_depth_is_the_largest(memory_gib: int) -> None:
    limit = memory_gib * GIB
    setting = Setting(config=ModelConfig.from_depth(20, vocab_size=32768))
    depth = sizing.fitting_depth(setting, limit)
    deeper = [ModelConfig.from_depth(d, vocab_size=32768) for d in (depth, depth + 1)]
    fits = [sizing.fits(dataclasses.replace(setting, config=c), limit) for c in deeper]
    assert fits == [True, False]


def test_fitting_depth_keeps_the_proportions() -> None:
    wide = functools.partial(ModelConfig.from_depth, vocab_size=32768, aspect_ratio=160)
    setting = Setting(config=wide(8))
    depth = sizing.fitting_depth(setting, 12 * GIB)
    assert sizing.fits(dataclasses.replace(setting, config=wide(depth)), 12 * GIB)
    assert (
        4
        < depth
        < sizing.fitting_depth(
            dataclasses.replace(setting, config=ModelConfig.from_depth(8, vocab_size=32768)),
            12 * GIB,
        )
    )
    assert sizing.fitting_depth(setting, 1 << 20) == 0


@pytest.mark.parametrize(("depth", "rows", "memory_gib"), [(20, 32, 24), (12, 64, 8), (4, 8, 1)])
def test_every_advice_fits(depth: int, rows: int, memory_gib: int) -> None:
    def setting(depth: int = depth, rows: int = rows, length: int = 2048, **more: Any) -> Setting:
        config = ModelConfig.from_depth(depth, vocab_size=32768, sequence_len=length)
        return Setting(config=config, rows=rows, **more)

    limit = memory_gib * GIB
    told = sizing.explain_fit(setting(), limit)
    advice = dict(re.findall(r"--([a-z-]+) ?(\d*)", told))
    names = {"device-batch-size": "rows", "max-seq-len": "length", "depth": "depth"}
    assert "device-batch-size" in advice, told
    for flag, value in advice.items():
        change = {"recompute": True} if flag == "recompute" else {names[flag]: int(value)}
        assert sizing.fits(setting(**change), limit), (flag, value)
    assert f"{memory_gib}.00 GiB" in told


def test_explanations_of_the_extremes() -> None:
    setting = Setting(config=ModelConfig.from_depth(20, vocab_size=32768))
    assert "no smaller model fits" in sizing.explain_fit(setting, 1 << 20)
    assert "should fit" in sizing.explain_fit(setting, 1000 * GIB)

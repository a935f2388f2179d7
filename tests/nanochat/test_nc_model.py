"""The model against an implementation of its formulas in numpy, and generation with a cache against the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from nanochat.config import ModelConfig  # noqa: E402
from nanochat.model import GPT, Cache  # noqa: E402
from nanochat.schedule import GROUPS  # noqa: E402

CONFIG = ModelConfig(
    vocab_size=70, depth=5, width=64, heads=4, kv_heads=2, sequence_len=300, window_pattern="SL"
)
"""Windows of 128 and 300, value embeddings on layers 0, 2 and 4, two heads to a key."""

CPU = torch.device("cpu")


def trained(config: ModelConfig = CONFIG, seed: int = 0) -> GPT:
    """A model in which every parameter matters: a fresh one has projections and smear of zero."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config)
    model.init_weights(generator)
    with torch.no_grad():
        for param in model.parameters():
            spread = 0.4 / math.sqrt(param.shape[-1]) if param.ndim == 2 else 0.2
            param.add_(spread * torch.randn(param.shape, generator=generator))
        model.smear_scale.fill_(0.7)
    return model


def tokens(rows: int, length: int, config: ModelConfig = CONFIG) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, config.vocab_size, (rows, length), generator=generator)


# --- the formulas -----------------------------------------------------------------------------

Array = NDArray[np.float64]


def rms(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.finfo(np.float32).eps)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def turned(x: Array, position: int) -> Array:
    half = len(x) // 2
    angle = position * 100_000.0 ** -(np.arange(half) / half)
    left, right = x[:half], x[half:]
    cos, sin = np.cos(-angle), np.sin(-angle)
    return np.concatenate((left * cos - right * sin, left * sin + right * cos))


def formulas(model: GPT, ids: list[int]) -> Array:
    """(time, vocab) logits of one sequence, written from the description of the model, one token at a time."""
    c = model.config
    w: dict[str, Any] = {
        name: param.detach().double().numpy() for name, param in model.named_parameters()
    }
    embedded = rms(w["embedding.weight"][ids])
    x = embedded.copy()
    for t in range(1, len(ids)):
        gate = sigmoid(w["smear_gate.weight"] @ embedded[t, :24])
        x[t] += w["smear_scale"] * gate * embedded[t - 1]
    first, middle = x.copy(), x
    for i in range(c.depth):
        name = f"blocks.{i}."
        x = w["residual_scale"][i] * x + w["embedding_scale"][i] * first
        h = rms(x)
        q, k, v = (
            (h @ w[f"{name}attention.{part}.weight"].T).reshape(len(ids), -1, c.head_dim)
            for part in ("query", "key", "value")
        )
        if i in c.value_layers:
            gate = 3 * sigmoid(h[:, :12] @ w[f"{name}attention.value_gate.weight"].T)
            table = w[f"value_embeddings.{i}.weight"][ids]
            v = v + gate[..., None] * table.reshape(v.shape)
        out = np.zeros_like(q)
        for head in range(c.heads):
            shared = head // (c.heads // c.kv_heads)
            keys = np.stack([1.2 * rms(turned(k[t, shared], t)) for t in range(len(ids))])
            for t in range(len(ids)):
                query = 1.2 * rms(turned(q[t, head], t))
                seen = range(max(0, t - c.windows[i]), t + 1)
                scores = keys[seen] @ query / math.sqrt(c.head_dim)
                weights = np.exp(scores - scores.max())
                out[t, head] = weights / weights.sum() @ v[seen, shared]
        x = x + out.reshape(len(ids), -1) @ w[f"{name}attention.output.weight"].T
        hidden = np.maximum(rms(x) @ w[f"{name}expand.weight"].T, 0) ** 2
        x = x + hidden @ w[f"{name}contract.weight"].T
        if i == c.depth // 2:
            middle = x
    x = rms(x - w["backout_scale"] * middle)
    return 15 * np.tanh(x @ w["head.weight"][: c.vocab_size].T / 15)


def test_logits_are_those_of_the_formulas() -> None:
    model, ids = trained(), tokens(1, 150)
    ours = model(ids).detach().double().numpy()[0]
    right = formulas(model, ids[0].tolist())
    assert np.abs(right).max() > 1
    np.testing.assert_allclose(ours, right, rtol=1e-3, atol=1e-3)


def test_a_token_depends_on_nothing_after_it() -> None:
    model, ids = trained(), tokens(2, 140)
    changed = ids.clone()
    changed[:, 90:] = (changed[:, 90:] + 1) % CONFIG.vocab_size
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :90], after[:, :90])
    assert (before[:, 90:] - after[:, 90:]).abs().max() > 0.1


def test_the_loss_is_the_cross_entropy_of_the_logits() -> None:
    model, ids = trained(), tokens(2, 33)
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[0, :5] = -1
    logits = model(inputs).flatten(0, 1)
    right = F.cross_entropy(logits, targets.flatten(), ignore_index=-1)
    model.use(dtype=torch.float32, embedding_dtype=torch.float32, block_bytes=1024)
    loss = model(inputs, targets)
    torch.testing.assert_close(loss, right)
    each = model(inputs, targets, reduction="none")
    assert each.shape == targets.shape and not each.requires_grad
    assert (each.sum() / (targets >= 0).sum()).item() == pytest.approx(loss.item(), rel=1e-5)


def test_every_parameter_has_a_gradient_that_is_the_slope_of_the_loss() -> None:
    config = replace(CONFIG, sequence_len=32)
    model, ids = trained(config), tokens(2, 13, config)
    model(ids[:, :-1], ids[:, 1:]).backward()
    generator = torch.Generator().manual_seed(3)
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.any(), name
        direction = torch.randn(param.shape, generator=generator)
        direction *= 2e-3 / direction.norm()
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                param.add_(sign * direction)
                losses.append(model(ids[:, :-1], ids[:, 1:], reduction="none").double().mean())
                param.sub_(sign * direction)
        slope = float(losses[0] - losses[1]) / 2
        assert float((param.grad * direction).sum()) == pytest.approx(slope, rel=0.05, abs=3e-7), name  # fmt: skip


def test_bf16_is_near_single_precision() -> None:
    model, ids = trained(), tokens(2, 40)
    exact = model(ids)
    near = model.use(dtype=torch.bfloat16, embedding_dtype=torch.bfloat16)(ids)
    assert near.dtype == torch.float32
    assert ((near - exact).norm() / exact.norm()).item() < 0.05
    assert model.embedding.weight.dtype == torch.bfloat16
    assert model.head.weight.dtype == torch.float32


# --- the cache ----------------------------------------------------------------------------------


def pieces(lengths: list[int]) -> Iterator[slice]:
    end = 0
    for length in lengths:
        yield slice(end, end + length)
        end += length


@pytest.mark.parametrize(
    "lengths",
    [[1] * 20, [12] + [1] * 8, [5, 1, 7, 1, 1, 5], [200] + [1] * 5, [100, 90, 1, 150, 1], [350]],
    ids=["one by one", "prompt first", "in pieces", "window", "longer than trained", "at once"],
)
@torch.no_grad()
def test_with_a_cache_the_logits_are_those_without(lengths: list[int]) -> None:
    model, ids = trained(), tokens(2, sum(lengths))
    whole = model(ids)
    cache = Cache(CONFIG, 2, ids.shape[1], CPU, torch.float32)
    for piece in pieces(lengths):
        part = model(ids[:, piece], cache=cache)
        torch.testing.assert_close(part, whole[:, piece], rtol=2e-4, atol=2e-4)
    assert cache.length == ids.shape[1]


@torch.no_grad()
def test_one_prompt_serves_several_rows() -> None:
    model, ids = trained(), tokens(3, 10)
    ids[:, :6] = ids[0, :6]
    cache = Cache(CONFIG, 1, 10, CPU, torch.float32)
    model(ids[:1, :6], cache=cache)
    many = cache.repeat(3)
    for t in range(6, 10):
        part = model(ids[:, t : t + 1], cache=many)
        torch.testing.assert_close(part[:, 0], model(ids[:, : t + 1])[:, -1], rtol=2e-4, atol=2e-4)
    assert cache.length == 6
    # What was written for the rows is not in the cache that they came from.
    alone = model(ids[1:2, 6:7], cache=cache)
    torch.testing.assert_close(alone[:, 0], model(ids[1:2, :7])[:, -1], rtol=2e-4, atol=2e-4)


@torch.no_grad()
def test_a_cache_in_half_precision() -> None:
    model = trained().use(dtype=torch.bfloat16, embedding_dtype=torch.bfloat16)
    ids = tokens(1, 12)
    whole = model(ids)
    cache = Cache(CONFIG, 1, 12, CPU, torch.bfloat16)
    parts = torch.cat([model(ids[:, piece], cache=cache) for piece in pieces([6] + [1] * 6)], 1)
    assert ((parts - whole).norm() / whole.norm()).item() < 0.03


# --- parameters ---------------------------------------------------------------------------------


def test_groups_hold_every_parameter_once_under_the_names_of_the_schedule() -> None:
    model = GPT(CONFIG)
    groups = model.parameter_groups()
    assert groups.keys() == GROUPS.keys()
    held = [id(param) for params in groups.values() for param in params]
    assert sorted(held) == sorted(id(param) for param in model.parameters())
    assert all(param.ndim == 2 for param in groups["matrices"])


@pytest.mark.parametrize(
    ("depth", "total", "scaling"),
    [(4, 36.7, 11.5), (8, 125.8, 41.9), (12, 286.3, 110.1), (20, 896.5, 435.2), (32, 2818.6, 1677.7)],
)  # fmt: skip
def test_millions_of_parameters_are_those_published(
    depth: int, total: float, scaling: float
) -> None:
    with torch.device("meta"):
        model = GPT(ModelConfig.from_depth(depth, vocab_size=32_768))
    groups = model.parameter_groups()
    counted = sum(p.numel() for p in (*groups["matrices"], *groups["head"]))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(total, abs=0.06)
    assert counted / 1e6 == pytest.approx(scaling, abs=0.06)


def test_a_fresh_model_is_drawn_as_described() -> None:
    config = ModelConfig.from_depth(4, vocab_size=2000, sequence_len=128)
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")
    model.init_weights(torch.Generator().manual_seed(1))
    bound = math.sqrt(3 / config.width)

    def spread(weight: torch.Tensor) -> float:
        weight = weight.detach()
        assert weight.mean().abs() < 0.01 * max(1.0, float(weight.std()))
        return float(weight.std())

    assert spread(model.embedding.weight) == pytest.approx(0.8, rel=0.01)
    assert spread(model.head.weight) == pytest.approx(0.001, rel=0.01)
    for block in model.blocks:
        a = block.attention
        for part in (a.query, a.key, a.value):
            assert spread(part.weight) == pytest.approx(bound / math.sqrt(3), rel=0.02)
            assert part.weight.abs().max() <= bound
        assert 0.39 * bound < float(block.expand.weight.detach().abs().max()) <= 0.4 * bound
        assert not a.output.weight.any() and not block.contract.weight.any()
        gates = [a.value_gate.weight] if a.value_gate is not None else []
        for gate in (*gates, model.smear_gate.weight):
            assert gate.min() >= 0 and 0.01 < float(gate.detach().max()) <= 0.02
    assert [i for i, b in enumerate(model.blocks) if b.attention.value_gate is not None] == [1, 3]
    for table in model.value_embeddings.values():
        assert 0.99 * bound < float(table.weight.detach().abs().max()) <= bound
    assert model.residual_scale.tolist() == pytest.approx(np.linspace(1.15, 1.05, 4))
    assert model.embedding_scale.tolist() == pytest.approx(np.linspace(0.20, 0.05, 4))
    assert model.smear_scale.tolist() == [0] and model.backout_scale.tolist() == pytest.approx(
        [0.2]
    )
    ids = tokens(2, 64, config)
    assert model(ids, ids).item() == pytest.approx(math.log(2000), rel=1e-3)


def test_the_same_seed_draws_the_same_model() -> None:
    models = []
    for seed in (5, 5, 6):
        model = GPT(CONFIG)
        model.init_weights(torch.Generator().manual_seed(seed))
        models.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(models[0], models[1]) and not torch.equal(models[0], models[2])


def test_what_a_norm_takes_out_again_has_no_gradient_but_rounding() -> None:
    """Why the number of ranks shows in such weights: Adam makes a step of its full size of this rounding."""
    model = GPT(CONFIG).double().use(dtype=torch.float64, embedding_dtype=torch.float64)
    model.init_weights(torch.Generator().manual_seed(0))
    batch = tokens(2, 40)
    model.hidden(batch).square().mul(torch.linspace(0, 1, CONFIG.width)).sum().backward()
    used = model.embedding.weight.grad
    assert used is not None and float(used.norm()) > 1e-3
    for noise in (model.residual_scale.grad, model.embedding_scale.grad, model.backout_scale.grad):
        assert noise is not None
        assert float(noise.abs().max()) < 1e-5 * float(used.norm())

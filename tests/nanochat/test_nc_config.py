"""The shape of a model from one number, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import ModelConfig
from nanochat.errors import NanochatError, WrongUsage


@pytest.mark.parametrize(
    ("depth", "head_dim", "width", "heads"),
    [(20, 128, 1280, 10), (32, 128, 2048, 16), (5, 128, 384, 3), (4, 64, 256, 4), (1, 128, 128, 1)],
)
def test_depth_makes_width_and_heads(depth: int, head_dim: int, width: int, heads: int) -> None:
    config = ModelConfig.from_depth(depth, vocab_size=100, head_dim=head_dim)
    assert (config.width, config.heads, config.head_dim) == (width, heads, head_dim)


@given(st.integers(1, 64), st.integers(1, 128), st.sampled_from([2, 16, 64, 128]))
def test_width_is_rounded_up_to_whole_heads(depth: int, ratio: int, head_dim: int) -> None:
    config = ModelConfig.from_depth(depth, vocab_size=9, aspect_ratio=ratio, head_dim=head_dim)
    assert 0 <= config.width - depth * ratio < head_dim
    assert config.width == config.heads * head_dim == config.kv_width


@pytest.mark.parametrize(
    ("length", "short"), [(2048, 512), (1024, 256), (512, 128), (300, 128), (100, 100), (1, 1)]
)
def test_windows(length: int, short: int) -> None:
    config = ModelConfig.from_depth(6, vocab_size=9, sequence_len=length, window_pattern="sssl")
    assert config.windows == (short, short, short, length, short, length)


def test_every_second_layer_back_from_the_last_has_value_embeddings() -> None:
    found = {d: ModelConfig.from_depth(d, vocab_size=9).value_layers for d in (1, 2, 5, 6)}
    assert found == {1: (0,), 2: (1,), 5: (0, 2, 4), 6: (1, 3, 5)}


@given(st.integers(1, 10**6))
def test_vocabulary_is_padded(vocab: int) -> None:
    padded = ModelConfig.from_depth(1, vocab_size=vocab).padded_vocab
    assert padded % 64 == 0 and 0 <= padded - vocab < 64


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"depth": 0}, "depth"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"width": 100}, "--head-dim"),
        ({"width": 27}, "--head-dim"),
        ({"kv_heads": 2}, "key/value heads"),
        ({"window_pattern": ""}, "window pattern"),
        ({"window_pattern": "SX"}, "window pattern"),
    ],
)
def test_shapes_that_cannot_be(change: dict[str, Any], word: str) -> None:
    good = {
        "vocab_size": 10, "depth": 2, "width": 96, "heads": 3, "kv_heads": 1, "sequence_len": 8
    }  # fmt: skip
    ModelConfig(**good)
    with pytest.raises(WrongUsage, match=word):
        ModelConfig(**good | change)


@pytest.mark.parametrize("numbers", [{"depth": 0}, {"aspect_ratio": 0}, {"head_dim": -128}])
def test_from_depth_refuses_nothing_and_less(numbers: dict[str, int]) -> None:
    with pytest.raises(WrongUsage, match="at least 1"):
        ModelConfig.from_depth(**{"depth": 4, "vocab_size": 10} | numbers)


def test_a_config_survives_json() -> None:
    config = ModelConfig.from_depth(12, vocab_size=50_000, window_pattern="SL")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "damage",
    [{"depth": "12"}, {"depth": None}, {"unknown": 1}, {"width": 7}, {"window_pattern": 5}],
)
def test_a_damaged_config_is_one_sentence(damage: dict[str, Any]) -> None:
    values = ModelConfig.from_depth(12, vocab_size=50_000).to_dict() | damage
    with pytest.raises(NanochatError, match="cannot be read"):
        ModelConfig.from_dict(values)


def test_a_missing_key_is_one_sentence() -> None:
    values = ModelConfig.from_depth(12, vocab_size=50_000).to_dict()
    del values["heads"]
    with pytest.raises(NanochatError, match="heads"):
        ModelConfig.from_dict(values)

"""What of a run is compiled, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nanochat import compiling
from nanochat.config import ModelConfig
from nanochat.device import FAMILIES, Device, find
from nanochat.errors import NanochatError, WrongUsage
from nanochat.model import GPT

CONFIG = ModelConfig(vocab_size=64, depth=1, width=16, heads=1, kv_heads=1, sequence_len=8)


def device(kind: str, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device of a kind that need not be here; where kinds compile at all, a compiler is found."""
    family = next(f for f in FAMILIES if f.kind == kind)
    if family.compiles:
        monkeypatch.setattr(Device, "_cannot_compile", lambda self: None)
    return Device(family=family, torch_device=torch.device("cpu"), name="a device", capability=None)


def choose(
    wish: str, device: Device, seconds: float = 0.0, recompute: bool = False
) -> compiling.Compiling:
    return compiling.choose(wish, device, seconds=lambda: seconds, depth=4, recompute=recompute)


@pytest.mark.parametrize(
    ("kind", "wish", "disabled"),
    [
        ("cpu", "auto", ""),
        ("cpu", "off", ""),
        ("npu", "on", ""),
        ("npu", "auto", ""),
        ("mps", "on", ""),
        ("cuda", "off", ""),
        ("cuda", "auto", "1"),
        ("cpu", "on", "1"),
    ],
)
def test_when_nothing_is_compiled(
    kind: str, wish: str, disabled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", disabled)
    assert choose(wish, device(kind, monkeypatch)).compiler is None


@pytest.mark.parametrize(
    ("kind", "wish", "recompute", "part"),
    [
        ("cpu", "on", False, "model"),
        ("cpu", "on", True, "blocks"),
        ("cpu", "blocks", False, "blocks"),
        ("cuda", "auto", False, "blocks"),
        ("cuda", "model", False, "model"),
    ],
)
def test_what_is_compiled_as_one(
    kind: str, wish: str, recompute: bool, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = choose(wish, device(kind, monkeypatch), recompute=recompute)
    assert found.compiler is not None
    assert found.part == part


def test_on_a_cpu_a_run_is_compiled_that_earns_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = device("cpu", monkeypatch)
    cost = compiling.BASE_SECONDS + 4 * compiling.LAYER_SECONDS
    enough = compiling.WORTH * cost / compiling.GAIN
    short, long = choose("auto", cpu, 0.99 * enough), choose("auto", cpu, 1.01 * enough)
    assert short.outcome[0] == "off"
    assert long.outcome[0] == "on"
    assert "about 13 minutes" in long.why
    assert "compiling takes about 48 s" in long.why


def test_an_unknown_wish_is_a_wrong_value(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongUsage, match="--compile takes auto, on, off"):
        choose("maybe", device("cpu", monkeypatch))


@pytest.mark.parametrize("part", ["model", "blocks"])
def test_what_is_compiled_is_used_in_training_alone(part: str) -> None:
    calls = []

    def compiler(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def counted(*args: object) -> torch.Tensor:
            calls.append(part)
            return function(*args)

        return counted

    model = GPT(CONFIG)
    model.init_weights()
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    plain = model(tokens, tokens)
    compiling.Compiling(compiler, part).apply(model)
    assert torch.equal(model.train()(tokens, tokens), plain)
    assert calls == [part]
    model.eval()(tokens, tokens)
    assert len(calls) == (1 if part == "model" else 2)


def test_the_estimate_grows_with_the_work() -> None:
    made = find("cpu")
    small = compiling.estimate_seconds(made, torch.float32, 1e9)
    large = compiling.estimate_seconds(made, torch.float32, 1e15)
    assert 0 < small < large


def test_a_compiler_that_fails_is_one_sentence() -> None:
    class InductorError(RuntimeError):
        pass

    says = r"file too short.*remove .*--compile=off"
    with pytest.raises(NanochatError, match=says), compiling.explain_failure(True):
        raise InductorError("ImportError: main.so: file too short\nand a long story")
    for compiled, error in ((True, ValueError("other")), (False, InductorError("elsewhere"))):
        with pytest.raises(type(error)), compiling.explain_failure(compiled):
            raise error

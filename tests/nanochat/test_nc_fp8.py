"""The 8-bit products, by torch's own kernel on the CPU: as near to exact ones as eight bits allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from nanochat import device as devices  # noqa: E402
from nanochat import fp8  # noqa: E402
from nanochat.config import ModelConfig  # noqa: E402
from nanochat.model import GPT, Linear  # noqa: E402


def gap(value: torch.Tensor, exact: torch.Tensor) -> float:
    """The relative error of a whole tensor."""
    value, exact = value.detach().double(), exact.detach().double()
    return float((value - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [fp8.FORWARD, fp8.BACKWARD])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_quantized_uses_the_whole_range(dtype: torch.dtype, size: float) -> None:
    x = torch.randn(64, 64) * size
    q, scale = fp8.quantized(x, dtype)
    assert q.dtype == dtype
    assert float(q.float().abs().max()) == torch.finfo(dtype).max
    assert gap(q.float() * scale, x) < (0.04 if dtype == fp8.FORWARD else 0.08)


def test_zeros_stay_zeros() -> None:
    q, scale = fp8.quantized(torch.zeros(16, 16), fp8.FORWARD)
    assert not (q.float() * scale).any()


def test_products_and_gradients_are_near_the_exact_ones() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 256).bfloat16().requires_grad_()
    weight = torch.randn(128, 256).requires_grad_()
    grad = torch.randn(2, 32, 128).bfloat16()
    out = fp8.linear_fp8(x, weight)
    out.backward(grad)
    assert out.shape == (2, 32, 128)
    assert out.dtype == torch.bfloat16
    flat_x, flat_grad = x.detach().double().flatten(0, 1), grad.double().flatten(0, 1)
    exact = flat_x @ weight.detach().double().t()
    assert gap(out.detach().flatten(0, 1), exact) < 0.06
    assert x.grad is not None
    assert weight.grad is not None
    assert gap(x.grad.flatten(0, 1), flat_grad @ weight.detach().double()) < 0.1
    assert gap(weight.grad, flat_grad.t() @ flat_x) < 0.1
    assert weight.grad.dtype == torch.float32


def layers() -> list[torch.nn.Module]:
    model = GPT(ModelConfig.from_depth(4, vocab_size=128, sequence_len=64))
    return [m for m in model.blocks.modules() if isinstance(m, torch.nn.Linear)]


def test_a_device_without_such_units_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    linears = layers()
    assert fp8.enable(linears, devices.find("cpu")) == 0
    assert all(linear.product is None for linear in linears)
    assert "--fp8 is left out" in capsys.readouterr().err


def test_gates_are_left_out_and_evaluation_is_exact() -> None:
    cpu = devices.find("cpu")
    # As on an Ada card, whose products torch's CPU kernel can stand in for.
    ada = replace(cpu, family=replace(cpu.family, kind="cuda"), capability=(8, 9))
    linears = layers()
    count = fp8.enable(linears, ada)
    assert count == sum(min(linear.weight.shape) >= fp8.LEAST for linear in linears) == 24
    linear = next(m for m in linears if isinstance(m, Linear) and m.product is not None)
    torch.nn.init.normal_(linear.weight)
    x = torch.randn(16, linear.in_features)
    exact = torch.nn.functional.linear(x, linear.weight)
    linear.train()
    assert 0 < gap(linear(x.bfloat16()).detach(), exact) < 0.06
    linear.eval()
    assert torch.equal(linear(x), exact)

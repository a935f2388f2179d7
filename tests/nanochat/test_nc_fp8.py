"""The 8-bit products, by torch's own kernel on the CPU: as near to exact ones as eight bits allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from nanochat import device as devices  # noqa: E402
from nanochat import fp8  # noqa: E402
from nanochat.config import ModelConfig  # noqa: E402
from nanochat.loss import HeadProducts, cross_entropy  # noqa: E402
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


CONFIG = ModelConfig.from_depth(4, vocab_size=144, sequence_len=64)


def linears(model: GPT) -> list[Linear]:
    return [m for m in model.blocks.modules() if isinstance(m, Linear)]


def ada() -> devices.Device:
    """A device with 8-bit units, whose products torch's CPU kernel can stand in for."""
    cpu = devices.find("cpu")
    return replace(cpu, family=replace(cpu.family, kind="cuda"), capability=(8, 9))


def test_a_device_without_such_units_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    model = GPT(CONFIG)
    assert fp8.enable(model, devices.find("cpu")) == 0
    assert all(linear.product is None for linear in linears(model))
    assert model.head_products is HeadProducts
    assert "--fp8 is left out" in capsys.readouterr().err


def test_gates_are_left_out_and_evaluation_is_exact() -> None:
    model = GPT(CONFIG)
    count = fp8.enable(model, ada())
    assert count == 24 + 1
    assert sum(linear.product is not None for linear in linears(model)) == 24
    linear = next(m for m in linears(model) if m.product is not None)
    torch.nn.init.normal_(linear.weight)
    x = torch.randn(16, linear.in_features)
    exact = torch.nn.functional.linear(x, linear.weight)
    linear.train()
    assert 0 < gap(linear(x.bfloat16()).detach(), exact) < 0.06
    linear.eval()
    assert torch.equal(linear(x), exact)


@pytest.mark.parametrize("vocab", [144, 150])
def test_the_head_is_in_8_bits_too_where_its_shape_allows(vocab: int) -> None:
    model = GPT(replace(CONFIG, vocab_size=vocab))
    fp8.enable(model, ada())
    assert (model.head_products is fp8.EightBitHead) == (vocab == 144)


@pytest.mark.parametrize("tokens", [96, 90])
def test_the_loss_of_an_8_bit_head_and_its_gradients_are_near_the_exact_ones(tokens: int) -> None:
    """Also where the blocks of tokens are of no size that 8-bit units sum over."""
    torch.manual_seed(0)
    results = {}
    hidden, head = torch.randn(tokens, 256), torch.randn(192, 256) * 0.1
    targets = torch.randint(0, 144, (tokens,))
    for products in (HeadProducts, fp8.EightBitHead):
        h, w = hidden.bfloat16().requires_grad_(), head.clone().requires_grad_()
        loss = cross_entropy(
            h, w, targets, vocab_size=144, softcap=15.0, block_bytes=4 * 144 * 40, products=products
        )
        loss.backward()
        results[products] = loss.detach(), h.grad, w.grad
    (loss, h, w), (loss8, h8, w8) = results.values()
    assert 0 < abs(float(loss8 - loss)) < 0.01
    assert 0 < gap(h8, h) < 0.1
    assert 0 < gap(w8, w) < 0.1
    assert not w8[144:].any()

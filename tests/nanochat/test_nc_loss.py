"""The blockwise loss against torch's cross entropy on whole logits: values and gradients."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from nanochat.loss import cross_entropy, softcapped, token_losses  # noqa: E402

WIDTH, VOCAB, PADDED, CAP = 8, 37, 64, 15.0
ONE_ROW = 4 * VOCAB


def inputs(
    tokens: int, dtype: torch.dtype = torch.float32, spread: float = 4.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, WIDTH, generator=generator).to(dtype)
    head = spread * torch.randn(PADDED, WIDTH, generator=generator)
    targets = torch.randint(0, VOCAB, (tokens,), generator=generator)
    targets[::3] = -1
    return hidden, head, targets


def whole(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """In double precision, with all logits at once."""
    logits = CAP * torch.tanh(hidden.double() @ head[:VOCAB].double().t() / CAP)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


def both(
    tokens: int, dtype: torch.dtype, block_bytes: int, scale: float = 1.0, spread: float = 4.0
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Loss, gradient of hidden, gradient of head: ours and the right ones."""
    hidden, head, targets = inputs(tokens, dtype, spread)
    results = []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        how = {"vocab_size": VOCAB, "softcap": CAP, "block_bytes": block_bytes}
        loss = cross_entropy(h, w, targets, **how) if ours else whole(h, w, targets)
        (loss * scale).backward()
        assert h.grad is not None and w.grad is not None
        results.append([loss.detach().double(), h.grad.double(), w.grad.double()])
    return results[0], results[1]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize("tokens", [2, 9, 16])
def test_single_precision_is_exact_for_blocks_of_any_size(tokens: int, rows: int) -> None:
    ours, right = both(tokens, torch.float32, rows * ONE_ROW)
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=["bf16", "fp16"]
)
def test_half_precision_is_near(dtype: torch.dtype, tolerance: float) -> None:
    ours, right = both(48, dtype, 5 * ONE_ROW, spread=2.0)
    for a, b in zip(ours, right, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_small_gradients_survive_half_precision() -> None:
    """What is never the target has probability exp(-15) = 3e-7; the finest step of float16 is 6e-8."""
    hidden, head, targets = inputs(16, torch.float16, spread=0.001)
    hidden[:, 0] = 1
    head[0, 0] = 100
    targets[:] = 0
    gradients = []
    for ours in (True, False):
        w = head.clone().requires_grad_()
        how = {"vocab_size": VOCAB, "softcap": CAP, "block_bytes": 1 << 20}
        loss = cross_entropy(hidden, w, targets, **how) if ours else whole(hidden, w, targets)
        loss.backward()
        assert w.grad is not None
        gradients.append(w.grad[1:VOCAB].double())
    mine, right = gradients
    assert (mine - right).norm() < 0.01 * right.norm()


def test_the_gradient_is_scaled_by_what_comes_after() -> None:
    ours, right = both(9, torch.float32, 2 * ONE_ROW, scale=0.25)
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """Finite differences of the function itself, without trust in autograd."""
    hidden, head, targets = inputs(7)
    how = {"vocab_size": VOCAB, "softcap": CAP, "block_bytes": 2 * ONE_ROW}
    hidden.requires_grad_()
    cross_entropy(hidden, head, targets, **how).backward()
    for row, column in ((1, 0), (2, 5), (5, 7)):
        step = torch.zeros_like(hidden)
        step[row, column] = 1e-3
        up, down = (whole(hidden.detach() + s * step, head, targets) for s in (1, -1))
        slope = (up - down) / 2e-3
        assert hidden.grad is not None
        assert hidden.grad[row, column].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-7)


def test_padding_of_the_vocabulary_never_counts() -> None:
    hidden, head, targets = inputs(9)
    how = {"vocab_size": VOCAB, "softcap": CAP, "block_bytes": 4 * ONE_ROW}
    head.requires_grad_()
    loss = cross_entropy(hidden, head, targets, **how)
    loss.backward()
    assert head.grad is not None and not head.grad[VOCAB:].any()
    other = head.detach().clone()
    other[VOCAB:] = 1e6
    assert cross_entropy(hidden, other, targets, **how).item() == loss.item()


def test_no_target_is_no_loss_and_no_gradient() -> None:
    hidden, head, targets = inputs(6)
    hidden.requires_grad_()
    head.requires_grad_()
    loss = cross_entropy(
        hidden, head, torch.full_like(targets, -1),
        vocab_size=VOCAB, softcap=CAP, block_bytes=ONE_ROW,
    )  # fmt: skip
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None and head.grad is not None
    assert not hidden.grad.any() and not head.grad.any()


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_losses_of_single_tokens(rows: int) -> None:
    hidden, head, targets = inputs(10)
    ours = token_losses(
        hidden, head, targets, vocab_size=VOCAB, softcap=CAP, block_bytes=rows * ONE_ROW
    )
    right = whole(hidden, head, targets, reduction="none")
    torch.testing.assert_close(ours.double(), right, rtol=1e-5, atol=1e-5)
    assert not ours[targets == -1].any()


def test_an_even_head_is_worth_the_logarithm_of_the_vocabulary() -> None:
    hidden, head, targets = inputs(6)
    loss = cross_entropy(
        hidden, head * 0, targets, vocab_size=VOCAB, softcap=CAP, block_bytes=ONE_ROW
    )
    assert loss.item() == pytest.approx(math.log(VOCAB), rel=1e-6)


def test_the_softcap_bounds_scores_in_single_precision() -> None:
    scores = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=torch.bfloat16)
    capped = softcapped(scores, CAP)
    assert capped.dtype == torch.float32
    assert capped.tolist() == pytest.approx([CAP * math.tanh(z / CAP) for z in scores.tolist()])


def test_no_block_is_larger_than_asked() -> None:
    """The point of the file: a block of logits, not all of them, is what is in memory."""
    sizes: list[int] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.untyped_storage().nbytes())
            return out

    tokens, block = 512, 16 * ONE_ROW
    hidden, head, targets = inputs(tokens)
    with Watch():
        cross_entropy(hidden, head, targets, vocab_size=VOCAB, softcap=CAP, block_bytes=block)
    assert max(sizes) < tokens * ONE_ROW / 4
    assert block in sizes

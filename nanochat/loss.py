"""Cross entropy of softcapped logits, worked out in blocks so that the logits never exist whole.

Logits of 32,768 tokens over a vocabulary of 32,768 take 4 GiB in single precision, more than the rest of a small
model's step. Here a block of rows is multiplied out, turned into its loss and at once into the gradients of hidden
states and head, and then its memory is used for the next block. Nothing is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

IGNORED = -1
"""The target of a position that does not count."""


class HeadProducts:
    """The three products with the head's weight, which is (vocabulary, width) in the type to multiply in."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """(tokens, width) -> (tokens, vocabulary), before the softcap."""
        return hidden @ self.weight.t()

    def to_hidden(self, grad: torch.Tensor) -> torch.Tensor:
        """The gradient of scores -> that of hidden states."""
        return grad @ self.weight

    def add_to_head(self, total: torch.Tensor, grad: torch.Tensor, hidden: torch.Tensor) -> None:
        """`total += grad.T @ hidden`; the product may be of a narrower type, the sum is not."""
        if grad.dtype == total.dtype:
            total.addmm_(grad.t(), hidden)
        else:
            total.add_(grad.t() @ hidden)


def cross_entropy(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocab_size: int,
    softcap: float,
    block_bytes: int,
    tile_bytes: int | None = None,
    products: type[HeadProducts] = HeadProducts,
) -> torch.Tensor:
    """The mean loss in nats over targets that are not -1, as a 0-D float32 tensor.

    Args:
        hidden: (tokens, width), in the type to multiply in.
        head: (padded vocabulary, width).
        targets: (tokens,), int64.
        vocab_size: rows of `head` that count.
        softcap: c of logits = c·tanh(z/c).
        block_bytes: the size that a block of logits, in single precision, should have.
        tile_bytes: the size of the parts of it that are worked on at once; on a CPU they should stay in its cache.
        products: what multiplies with the head.

    If no target counts, the loss is 0 and so are the gradients.
    """
    sizes = block_bytes, tile_bytes or block_bytes
    return _CrossEntropy.apply(hidden, head, targets, vocab_size, softcap, products, *sizes)


def token_losses(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocab_size: int,
    softcap: float,
    block_bytes: int,
) -> torch.Tensor:
    """The loss of each token in nats, (tokens,) float32; 0 where the target is -1. Has no gradient."""
    losses = torch.zeros(len(hidden), device=hidden.device)
    with torch.no_grad():
        weight = head[:vocab_size].to(hidden.dtype)
        for rows in _blocks(len(hidden), vocab_size, block_bytes):
            target = targets[rows]
            logits = softcapped(hidden[rows] @ weight.t(), softcap)
            losses[rows] = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
    return losses


def softcapped(scores: torch.Tensor, softcap: float) -> torch.Tensor:
    """c·tanh(z/c) in single precision, whatever the type of `scores`."""
    return softcap * torch.tanh(scores.float() / softcap)


def _blocks(tokens: int, vocab_size: int, block_bytes: int) -> list[slice]:
    """Slices over rows whose logits in single precision take about `block_bytes`, all of nearly the same size."""
    most = max(1, block_bytes // (4 * vocab_size))
    count = max(1, -(-tokens // most))
    rows = max(1, -(-tokens // count))
    return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


class _CrossEntropy(torch.autograd.Function):
    """Gradients are found in the forward pass, while a block of logits is at hand; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        vocab_size: int,
        softcap: float,
        products: type[HeadProducts],
        block_bytes: int,
        tile_bytes: int,
    ) -> torch.Tensor:
        valid = targets != IGNORED
        multiply = products(head[:vocab_size].to(hidden.dtype))
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        grad_head = torch.zeros_like(head, dtype=torch.float32)
        total = torch.zeros((), device=hidden.device)
        # Half precision has no room below 6e-8, where most gradients of a mean are, and none above 65,504, where sums
        # over a block could come if they were lifted much more.
        lift = 8.0 * len(hidden) if hidden.dtype == torch.float16 else 1.0
        shares = valid / valid.sum().clamp(min=1)
        for rows in _blocks(len(hidden), vocab_size, block_bytes):
            block = hidden[rows]
            grad = multiply.scores(block)
            for tile in _blocks(len(grad), vocab_size, tile_bytes):
                total += _turn_into_gradient(
                    grad[tile], targets[rows][tile], shares[rows][tile], softcap, lift
                )
            grad_hidden[rows] = multiply.to_hidden(grad)
            multiply.add_to_head(grad_head[:vocab_size], grad, block)
            del grad  # or it would still be there while the next one is made
        if lift != 1.0:
            grad_hidden.div_(lift)
            grad_head.div_(lift)
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.types = hidden.dtype, head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (scale,) = grads
        grad_hidden, grad_head = ctx.saved_tensors
        hidden_type, head_type = ctx.types
        # In place: the buffers are ours, and a second copy of the head's gradient is what this file avoids.
        return (
            grad_hidden.mul_(scale).to(hidden_type),
            grad_head.mul_(scale).to(head_type),
            *(None,) * 6,
        )


def _turn_into_gradient(
    scores: torch.Tensor,
    targets: torch.Tensor,
    shares: torch.Tensor,
    softcap: float,
    lift: float,
) -> torch.Tensor:
    """The loss of some rows of scores, weighted by `shares`; the scores become `lift` times its gradient.

    With s = sigmoid(2z/c), tanh(z/c) = 2s − 1 and its derivative is 4s(1 − s)/c. A constant added to all logits does
    not change their softmax, so that the softmax of 2c·s is wanted. Sigmoid is several times as fast as tanh on
    CPUs (measured).
    """
    sigmoid = scores.float().mul_(2 / softcap).sigmoid_()
    probability = torch.softmax(sigmoid * (2 * softcap), dim=-1)
    column = targets.clamp(min=0).unsqueeze(1)
    picked = probability.gather(1, column)
    weight = shares.unsqueeze(1)
    probability.scatter_(1, column, picked - 1).mul_((4 * lift) * weight)
    scores.copy_(torch.ops.aten.sigmoid_backward(probability, sigmoid))
    return -(picked.log() * weight).sum()

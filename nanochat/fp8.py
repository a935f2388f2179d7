"""Linear layers and a head whose products run in 8 bits: e4m3 for activations and weights, e5m2 for gradients.

Each tensor gets one scale, from its largest number at that moment. Only training does so; a model in evaluation mode
multiplies in its usual type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nanochat.device import Device, warn_once
from nanochat.loss import HeadProducts
from nanochat.model import GPT

FORWARD = torch.float8_e4m3fn
BACKWARD = torch.float8_e5m2
MULTIPLE, LEAST = 16, 128
"""Both sides of a weight must be multiples of 16 for the matrix units, and 128 or more to be worth the casts."""


def enable(model: GPT, device: Device) -> int:
    """Let the layers that fit train in 8 bits; how many. None, with a note, on a device without such units."""
    if not device.fp8:
        warn_once(f"--fp8 is left out: {device.name} has no 8-bit matrix units that torch drives")
        return 0
    linears = [module for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    chosen = [linear for linear in linears if fits(linear.weight.shape)]
    for linear in chosen:
        linear.product = linear_fp8
    if head := fits((model.config.vocab_size, model.config.width)):
        model.head_products = EightBitHead
    return len(chosen) + head


def fits(shape: Sequence[int]) -> bool:
    """Whether the shape of a weight is one for 8-bit units."""
    return all(side % MULTIPLE == 0 and side >= LEAST for side in shape)


def linear_fp8(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight.T in 8 bits, with gradients in 8 bits: (…, inputs), (outputs, inputs) -> (…, outputs)."""
    flat = x.reshape(-1, x.shape[-1])
    return _Product.apply(flat, weight).view(*x.shape[:-1], -1)


def quantized(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` in 8 bits, using their whole range, and the number that it must be multiplied by again."""
    most = torch.finfo(dtype).max
    scale = most / x.abs().amax().float().clamp(min=1e-12)
    return (x.float() * scale).clamp(-most, most).to(dtype), scale.reciprocal()


def multiplied(
    left: tuple[torch.Tensor, torch.Tensor],
    right: tuple[torch.Tensor, torch.Tensor],
    dtype: torch.dtype,
) -> torch.Tensor:
    """left @ right.T; both lie in memory row by row, as the kernel wants it."""
    return torch._scaled_mm(
        left[0], right[0].t(), scale_a=left[1], scale_b=right[1], out_dtype=dtype
    )


class EightBitHead(HeadProducts):
    """The weight is brought into 8 bits once for all blocks of tokens, each block with a scale of its own."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight)
        self.eight = quantized(weight, FORWARD)
        self.turned = _turned(self.eight)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        return multiplied(quantized(hidden, FORWARD), self.eight, hidden.dtype)

    def to_hidden(self, grad: torch.Tensor) -> torch.Tensor:
        return multiplied(quantized(grad, BACKWARD), self.turned, grad.dtype)

    def add_to_head(self, total: torch.Tensor, grad: torch.Tensor, hidden: torch.Tensor) -> None:
        if (
            len(grad) % MULTIPLE
        ):  # the side that is summed over; the last block of a batch may be any
            super().add_to_head(total, grad, hidden)
            return
        left, right = _turned(quantized(grad, BACKWARD)), _turned(quantized(hidden, FORWARD))
        total.add_(multiplied(left, right, grad.dtype))


def _turned(x: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return x[0].t().contiguous(), x[1]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        left, right = quantized(x, FORWARD), quantized(weight, FORWARD)
        ctx.save_for_backward(*left, *right)
        ctx.dtype = x.dtype
        return multiplied(left, right, x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, x_scale, weight, weight_scale = ctx.saved_tensors
        grad = quantized(grads[0], BACKWARD)
        grad_x = multiplied(grad, _turned((weight, weight_scale)), ctx.dtype)
        grad_weight = multiplied(_turned(grad), _turned((x, x_scale)), ctx.dtype)
        return grad_x, grad_weight.float()

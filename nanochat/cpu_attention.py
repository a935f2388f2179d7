"""Causal attention for CPUs as plain batched products over blocks that stay in the cache.

torch's own kernel for CPUs multiplies small tiles one by one, which leaves half of the speed of bf16 units unused
(measured at 512 tokens: 1.5 to 2 times as slow as this). Scores are made again in the backward pass instead of being
kept, so a step needs no more memory than with torch's kernel.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from nanochat.attention import ages, sdpa

LONGEST = 512
"""Tokens; a full window over more than this is left to torch, which skips what the mask hides."""

TILE_BYTES = 2 << 20
"""Scores that are worked on at once: fewer, larger products cost less than what leaves the cache (measured)."""


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """As `nanochat.attention.Attention`; shapes that do not come out in blocks go to torch's own."""
    length = q.shape[1]
    window = min(window, length)
    if length % window or window > LONGEST or q.shape[2] != k.shape[2]:
        return sdpa(q, k, v, window)
    return _Attention.apply(q, k, v, window)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int
    ) -> torch.Tensor:
        queries, keys, values = _cut(q, window), _cut_keys(k, window), _cut_keys(v, window)
        out = torch.empty_like(queries)
        for part in _parts(queries, keys):
            chances = _chances(queries[part], keys[part])
            torch.matmul(chances, values[part], out=out[part])
        ctx.save_for_backward(q, k, v)
        ctx.window = window
        return _join(out, q)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        q, k, v = ctx.saved_tensors
        window = ctx.window
        grad = _cut(grads[0], window)
        queries, keys, values = _cut(q, window), _cut_keys(k, window), _cut_keys(v, window)
        grad_q, grad_k, grad_v = map(torch.empty_like, (queries, keys, values))
        for part in _parts(queries, keys):
            chances = _chances(queries[part], keys[part])
            torch.matmul(chances.transpose(-1, -2), grad[part], out=grad_v[part])
            change = torch.matmul(grad[part], values[part].transpose(-1, -2))
            change = torch._softmax_backward_data(change, chances, -1, chances.dtype)
            torch.matmul(change, keys[part], out=grad_q[part])
            torch.matmul(change.transpose(-1, -2), queries[part], out=grad_k[part])
        scale = q.shape[-1] ** -0.5
        return (
            _join(grad_q.mul_(scale), q),
            _join(_own_share(grad_k, window).mul_(scale), k),
            _join(_own_share(grad_v, window), v),
            None,
        )


def _cut(x: torch.Tensor, window: int) -> torch.Tensor:
    """(batch, time, heads, head_dim) -> (batch * heads, blocks, window, head_dim)."""
    batch, length, heads, head_dim = x.shape
    return x.transpose(1, 2).reshape(batch * heads, length // window, window, head_dim)


def _join(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The way back from `_cut`."""
    batch, length, heads, head_dim = like.shape
    return x.reshape(batch, heads, length, head_dim).transpose(1, 2)


def _cut_keys(x: torch.Tensor, window: int) -> torch.Tensor:
    """As `_cut`, but each block comes behind the one before it, the first behind zeros; a single block comes alone."""
    blocks = _cut(x, window)
    if blocks.shape[1] == 1:
        return blocks
    before = torch.cat((torch.zeros_like(blocks[:, :1]), blocks[:, :-1]), dim=1)
    return torch.cat((before, blocks), dim=2)


def _own_share(grad: torch.Tensor, window: int) -> torch.Tensor:
    """Gradients of `_cut_keys`' output -> of its input's blocks: what each got as itself and as the one before."""
    if grad.shape[2] == window:
        return grad
    own = grad[:, :, window:].contiguous()
    own[:, :-1] += grad[:, 1:, :window]
    return own


def _parts(queries: torch.Tensor, keys: torch.Tensor) -> list[slice]:
    """Slices over sequences and heads, such that the scores of each take about TILE_BYTES."""
    each = queries[0, :, :, 0].numel() * keys.shape[2] * queries.element_size()
    step = max(1, TILE_BYTES // each)
    return [slice(start, start + step) for start in range(0, len(queries), step)]


def _chances(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """How much each query takes of each key: (sequences * heads, blocks, window, keys of a block), rows sum to 1."""
    scores = torch.matmul(queries * queries.shape[-1] ** -0.5, keys.transpose(-1, -2))
    scores += _bias(queries.shape[1], queries.shape[2], keys.shape[2], queries.dtype)
    return torch.softmax(scores, dim=-1)


@functools.lru_cache(maxsize=16)
def _bias(blocks: int, window: int, keys: int, dtype: torch.dtype) -> torch.Tensor:
    """(blocks, window, keys): 0 where a query sees a key, minus infinity where not."""
    age = ages(window, keys, torch.device("cpu"))
    seen = ((age >= 0) & (age <= window)).repeat(blocks, 1, 1)
    seen[0, :, : keys - window] = False
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)

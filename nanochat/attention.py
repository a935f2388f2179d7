"""Causal attention, full or within a window, through the fastest kernel that proves right on this device.

torch's own scaled_dot_product_attention is the floor and the judge: another kernel is used only after it has given
the same numbers on a small input, forward and backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from nanochat.device import Device, warn_once

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(queries, keys, values, window) -> output. Queries and output are (batch, time, heads, head_dim), keys and values
may have fewer heads. A token sees itself and the `window` tokens before it, as in public nanochat and flash-attn."""


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Attention by torch itself; a window that divides the length is cut into blocks.

    A mask would hide what lies outside the window, but still compute it. In blocks of one window, each block of
    queries needs its own block of keys and the one before: work and memory grow with the window, not the length.
    """
    length = q.shape[1]
    if window >= length:
        return _dense(q, k, v, is_causal=True)
    if length % window:
        return _dense(q, k, v, attn_mask=_band(length, window, q.device))
    return _blocked(q, k, v, window)


def sdpa_cached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Attention of the last tokens of a sequence: `q` (batch, new, …) against all of `k`, `v` (batch, all, …)."""
    new, total = q.shape[1], k.shape[1]
    if new == total:
        return sdpa(q, k, v, window)
    first = max(0, total - new - window)
    k, v = k[:, first:], v[:, first:]
    if new == 1:
        return _dense(q, k, v)
    age = ages(new, k.shape[1], q.device)
    return _dense(q, k, v, attn_mask=(age >= 0) & (age <= window))


def _dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> torch.Tensor:
    shared = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=shared, **how).transpose(1, 2)


def _blocked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    batch, length, heads, head_dim = q.shape
    blocks = length // window

    def cut(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(batch, blocks, window, x.shape[2], head_dim)

    def with_last(x: torch.Tensor) -> torch.Tensor:
        x = cut(x)
        return torch.cat((x[:, :-1], x[:, 1:]), dim=2).flatten(0, 1)

    first = _dense(q[:, :window], k[:, :window], v[:, :window], is_causal=True)
    rest = _dense(
        cut(q)[:, 1:].flatten(0, 1),
        with_last(k),
        with_last(v),
        attn_mask=_band(window, window, q.device, before=window),
    )
    return torch.cat((first, rest.reshape(batch, length - window, heads, head_dim)), dim=1)


def ages(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """(queries, keys): how many tokens ago each key was; the last key belongs to the last query."""
    now = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    return now - torch.arange(keys, device=device)


@functools.lru_cache(maxsize=16)
def _band(length: int, window: int, device: torch.device, before: int = 0) -> torch.Tensor:
    """(length, before + length): whether a query may see a key, with `before` keys ahead of the first query."""
    age = ages(length, before + length, device)
    return (age >= 0) & (age <= window)


# --- other kernels ------------------------------------------------------------------------------


def _flash_attn_2() -> Attention:
    from flash_attn import flash_attn_func

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
        return flash_attn_func(q, k, v, causal=True, window_size=(window, 0))

    return attend


def _flash_attn_3() -> Attention:
    from flash_attn_interface import flash_attn_func

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
        out = flash_attn_func(q, k, v, causal=True, window_size=(window, 0))
        # Some releases hand back the log-sum-exp as well.
        return out[0] if isinstance(out, tuple) else out

    return attend


def _npu_fusion_attention() -> Attention:
    import torch_npu

    # CANN's aclnnFlashAttentionScore: mode 2 is causal and mode 4 a band; both read one compressed mask of this size.
    causal_mode, band_mode, mask_size = 2, 4, 2048

    @functools.lru_cache(maxsize=1)
    def hidden(device: torch.device) -> torch.Tensor:
        return torch.triu(torch.ones(mask_size, mask_size, dtype=torch.bool, device=device), 1)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
        full = window >= q.shape[1]
        out = torch_npu.npu_fusion_attention(
            q,
            k,
            v,
            q.shape[2],
            input_layout="BSND",
            atten_mask=hidden(q.device),
            scale=q.shape[-1] ** -0.5,
            pre_tockens=q.shape[1] if full else window,
            next_tockens=0,
            sparse_mode=causal_mode if full else band_mode,
        )
        return out[0]

    return attend


def _cpu_products() -> Attention:
    from nanochat.cpu_attention import attend

    return attend


KERNELS: Mapping[str, Callable[[], Attention]] = {
    "flash_attn_3": _flash_attn_3,
    "flash_attn_2": _flash_attn_2,
    "npu_fusion_attention": _npu_fusion_attention,
    "cpu_products": _cpu_products,
}
"""Name -> what imports the kernel; raises ImportError where its package is missing."""

TOLERANCE = 0.03
"""Largest difference from torch's attention relative to its largest number: a few units of bf16's last place."""


def choose(device: Device, dtype: torch.dtype, head_dim: int) -> tuple[str, Attention]:
    """The first kernel for this device that is installed and agrees with torch's own; its name and itself."""
    for name in device.attention_packages(dtype):
        try:
            kernel = KERNELS[name]()
            worst = disagreement(kernel, device.torch_device, dtype, head_dim)
        except ImportError:
            continue
        except (
            Exception
        ) as error:  # "no kernel image", a changed signature: whatever it is, there is the floor
            warn_once(
                f"attention kernel {name} fails here ({str(error).splitlines()[:1]}), torch's own is used"
            )
            continue
        if worst <= TOLERANCE:
            return name, kernel
        warn_once(
            f"attention kernel {name} gives other numbers here (by {worst:.2g}), torch's own is used"
        )
    return "sdpa", sdpa


def disagreement(
    kernel: Attention, device: torch.device, dtype: torch.dtype, head_dim: int
) -> float:
    """How far a kernel is from torch's attention, outputs and gradients, full and windowed; 0 is equal."""
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for window in (64, 256):
        results = []
        inputs = [torch.randn(1, 256, 2, head_dim, generator=generator) for _ in range(4)]
        for attend in (sdpa, kernel):
            q, k, v, grad = (x.to(device, dtype, copy=True) for x in inputs)
            out = attend(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), window)
            out.backward(grad)
            results.append([out.detach(), q.grad, k.grad, v.grad])
        for right, other in zip(*results, strict=True):
            assert right is not None and other is not None
            gap = (right - other).abs().max() / right.abs().max()
            worst = max(worst, float(gap))
    return worst

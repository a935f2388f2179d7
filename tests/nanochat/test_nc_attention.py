"""Attention against a direct computation in double precision, one query at a time."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from nanochat import attention, cpu_attention  # noqa: E402
from nanochat.attention import Attention, choose, disagreement, sdpa, sdpa_cached  # noqa: E402
from nanochat.device import FAMILIES, Device, find  # noqa: E402

SHAPES = [
    # length, window, heads, key/value heads
    (1, 1, 1, 1),
    (7, 7, 2, 1),
    (8, 100, 2, 2),  # the window is longer than the text
    (12, 4, 2, 1),  # cut into three blocks
    (8, 4, 4, 2),  # two blocks
    (9, 3, 3, 3),
    (13, 4, 2, 2),  # does not divide: masked
    (10, 9, 2, 1),
    (6, 1, 2, 1),  # everybody sees only themselves
    (11, 10, 6, 3),
]


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    out = torch.zeros_like(q)
    share = q.shape[2] // k.shape[2]
    for b, t, h in itertools.product(*map(range, q.shape[:3])):
        seen = slice(max(0, t - window), t + 1)
        scores = k[b, seen, h // share] @ q[b, t, h] / q.shape[-1] ** 0.5
        out[b, t, h] = scores.softmax(0) @ v[b, seen, h // share]
    return out


def inputs(length: int, heads: int, kv_heads: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(batch, length, h, 8, generator=generator, dtype=torch.float64)
        for h in (heads, kv_heads, kv_heads, heads)
    ]


@pytest.mark.parametrize(("length", "window", "heads", "kv_heads"), SHAPES)
def test_outputs_and_gradients_are_those_of_a_direct_computation(
    length: int, window: int, heads: int, kv_heads: int
) -> None:
    *tensors, weight = inputs(length, heads, kv_heads)
    results = []
    for attend in (naive, sdpa, cpu_attention.attend):
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = attend(*leaves, window)
        out.backward(weight)
        results.append([out, *(x.grad for x in leaves)])
    for right, *others in zip(*results, strict=True):
        for ours in others:
            torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("length", "window", "heads", "kv_heads"), SHAPES)
def test_the_last_tokens_alone_see_what_they_see_in_the_whole(
    length: int, window: int, heads: int, kv_heads: int
) -> None:
    q, k, v, _ = inputs(length, heads, kv_heads)
    whole = naive(q, k, v, window)
    for new in range(1, length + 1):
        ours = sdpa_cached(q[:, -new:], k, v, window)
        torch.testing.assert_close(ours, whole[:, -new:], rtol=1e-10, atol=1e-12)


def as_if(capability: tuple[int, int]) -> Device:
    """A CPU that believes it is an NVIDIA card."""
    cuda = next(family for family in FAMILIES if family.kind == "cuda")
    cpu = torch.device("cpu")
    return Device(family=cuda, torch_device=cpu, name="a card", capability=capability)


def deaf_to_windows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    return sdpa(q, k, v, q.shape[1])


def stale_gradient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    return sdpa(q, k, v.detach() + 0 * v, window)


def fails(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    raise RuntimeError("no kernel image is available")


def other_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    return sdpa(q, k, v, window)


def test_a_kernel_equals_itself() -> None:
    assert disagreement(sdpa, torch.device("cpu"), torch.float32, 16) == 0


@pytest.mark.parametrize("kernel", [deaf_to_windows, stale_gradient])
def test_a_wrong_kernel_is_noticed(kernel: Attention) -> None:
    gap = disagreement(kernel, torch.device("cpu"), torch.float32, 16)
    assert gap > attention.TOLERANCE


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(other_sdpa, "flash_attn_2"), (deaf_to_windows, "sdpa"), (fails, "sdpa"), (None, "sdpa")],
)
def test_only_a_kernel_that_is_there_and_right_is_chosen(
    kernel: Attention | None, name: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def bring() -> Attention:
        if kernel is None:
            raise ImportError("flash_attn")
        return kernel

    monkeypatch.setattr(attention, "KERNELS", {**attention.KERNELS, "flash_attn_2": bring})
    chosen, attend = choose(as_if((8, 0)), torch.bfloat16, 16)
    assert chosen == name
    assert attend is (kernel if name != "sdpa" else sdpa)
    # What is not installed is no news; what is broken is.
    assert ("flash_attn_2" in capsys.readouterr().err) == (kernel in (deaf_to_windows, fails))


def test_which_kernel_serves_which_device_and_type() -> None:
    assert choose(as_if((8, 0)), torch.float32, 16) == ("sdpa", sdpa)
    for dtype in (torch.float32, torch.bfloat16):
        assert choose(find("cpu"), dtype, 16) == ("cpu_products", cpu_attention.attend)
    # flash-attn 2 has no kernels for compute capability 12.
    assert as_if((12, 0)).attention_packages() == ()


def test_products_of_a_cpu_do_not_depend_on_how_they_are_shared_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v, weight = inputs(16, 3, 3)
    results = []
    for tile_bytes in (1, 2 << 20):
        monkeypatch.setattr(cpu_attention, "TILE_BYTES", tile_bytes)
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = cpu_attention.attend(*leaves, 4)
        out.backward(weight)
        results.append([out, *(x.grad for x in leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

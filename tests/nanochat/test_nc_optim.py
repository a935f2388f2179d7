"""The optimizer against torch's AdamW, a Muon written in numpy, and itself on two and three ranks."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import nn  # noqa: E402

from nanochat.device import find  # noqa: E402
from nanochat.distributed import World, join  # noqa: E402
from nanochat.errors import NanochatError  # noqa: E402
from nanochat.optim import Hyper, Optimizer, muon_update, orthogonal  # noqa: E402
from nanochat.reshard import reshard  # noqa: E402
from nanochat.tensors import write  # noqa: E402

REPO = Path(__file__).resolve().parents[2]
ROWS = 6
SHAPES = {
    # Neither 2 nor 3 divides these sizes or counts; two of the wide ones leave the third rank without any.
    "head": [(25, 43)],
    "embedding": [(35, 31), (1, 1024)],
    "scalars": [(5,), (1, 7), (1,)],
    "matrices": [(12, 7)] * 5 + [(7, 12)] * 2 + [(9, 9)],
}
HYPER = {
    "head": Hyper(lr=0.02, initial_lr=0.02, betas=(0.8, 0.96), weight_decay=0.01),
    "embedding": Hyper(lr=0.05, initial_lr=0.05, betas=(0.8, 0.995), weight_decay=0.1),
    "scalars": Hyper(lr=0.01, initial_lr=0.01, betas=(0.96, 0.95), weight_decay=0.0),
    "matrices": Hyper(lr=0.02, initial_lr=0.02, betas=(0.9, 0.9), weight_decay=0.3),
}
Groups = dict[str, list[nn.Parameter]]


def parameters() -> Groups:
    generator = torch.Generator().manual_seed(11)
    return {
        name: [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for name, shapes in SHAPES.items()
    }


def optimizer(groups: Groups, world: World | None = None, **how: Any) -> Optimizer:
    return Optimizer(groups, copy.deepcopy(HYPER), world or World(), **how)


def backward(groups: Groups, step: int, rows: range) -> None:
    """Gradients of a loss that is a sum over the rows of a batch."""
    for row in rows:
        generator = torch.Generator().manual_seed(1000 * step + row)
        for params in groups.values():
            for param in params:
                slope = torch.randn(param.shape, generator=generator)
                (param * slope + 0.1 * param.square()).sum().backward()


def train(
    groups: Groups, ours: Optimizer, steps: range, rank: int = 0, size: int = 1
) -> list[torch.Tensor]:
    norms = []
    for step in steps:
        backward(groups, step, range(rank, ROWS, size))
        norms.append(ours.step(1 / ROWS))
        ours.zero_grad()
    return norms


def flat(groups: Groups) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for params in groups.values() for p in params])


# --- AdamW --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_adamw_is_that_of_torch(fused: bool) -> None:
    ours, theirs = parameters(), parameters()
    for groups in (ours, theirs):
        del groups["matrices"]
    optim = optimizer(ours, fused_adamw=fused)
    reference = torch.optim.AdamW(
        [
            {"params": params, "lr": HYPER[g].lr, "betas": HYPER[g].betas, "weight_decay": HYPER[g].weight_decay}
            for g, params in theirs.items()
        ],
        eps=1e-10,
    )  # fmt: skip
    for step in range(20):
        if step == 10:  # the trainer changes rates between steps
            optim.hyper["head"].lr = reference.param_groups[0]["lr"] = 0.003
        backward(ours, step, range(ROWS))
        backward(theirs, step, range(ROWS))
        optim.step()
        reference.step()
        optim.zero_grad()
        reference.zero_grad()
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-5, atol=1e-6)


def test_bf16_parameters_follow_single_precision() -> None:
    names = ("head", "embedding")
    start, single, half = ({n: parameters()[n] for n in names} for _ in range(3))
    for params in half.values():
        for param in params:
            param.data = param.data.bfloat16()
    train(single, optimizer(single), range(5))
    train(half, optimizer(half), range(5))
    way, gap = flat(single) - flat(start), flat(single) - flat(half).float()
    assert gap.norm() < 0.1 * way.norm()


# --- Muon ---------------------------------------------------------------------------------------

Matrix = NDArray[np.float64]
ROUNDS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


class NumpyMuon:
    """Written from the description of the step, in double precision."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.rows, self.columns = shape
        self.buffer: Matrix = np.zeros(shape)
        self.second: Matrix = np.zeros((self.rows, 1) if self.rows >= self.columns else (1, self.columns))  # fmt: skip

    def step(
        self, p: Matrix, g: Matrix, lr: float, mu: float, beta2: float, decay: float
    ) -> Matrix:
        self.buffer = mu * self.buffer + (1 - mu) * g
        g = (1 - mu) * g + mu * self.buffer
        lengths = np.sqrt((g * g).sum(1))
        g = np.diag(np.sqrt((lengths**2).mean()) / np.maximum(lengths, 1e-6)) @ g
        x = g / (1.01 * np.linalg.norm(g) + 1e-6)
        for a, b, c in ROUNDS:
            if self.rows > self.columns:
                gram = x.T @ x
                x = a * x + x @ (b * gram + c * gram @ gram)
            else:
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
        x *= np.sqrt(min(x.shape)) / np.linalg.norm(x)
        axis = 1 if self.rows >= self.columns else 0
        mean = (x * x).mean(axis=axis, keepdims=True)
        self.second = beta2 * self.second + (1 - beta2) * mean
        scaled = x / np.sqrt(np.maximum(self.second, 1e-10))
        x = scaled * np.linalg.norm(x) / np.linalg.norm(scaled)
        rate = lr * np.sqrt(max(1.0, self.rows / self.columns))
        return p - rate * x - rate * decay * np.where(x * p >= 0, p, 0)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9), (1, 12), (64, 3)])
def test_muon_is_that_of_the_description(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(shape, generator=generator)
    groups = {"matrices": [nn.Parameter(start.clone())]}
    ours, reference = optimizer(groups), NumpyMuon(shape)
    right: Matrix = start.double().numpy()
    for step in range(6):
        gradient = torch.randn(shape, generator=generator)
        momentum = 0.85 + 0.02 * step
        ours.hyper["matrices"].betas = (momentum, 0.9)
        groups["matrices"][0].grad = gradient.clone()
        ours.step(0.5)
        right = reference.step(right, 0.5 * gradient.double().numpy(), 0.02, momentum, 0.9, 0.3)
        np.testing.assert_allclose(
            groups["matrices"][0].detach().numpy(), right, rtol=2e-3, atol=2e-4
        )
    assert abs(right - start.double().numpy()).max() > 0.05


@pytest.mark.parametrize("shape", [(40, 40), (20, 60), (60, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_orthogonal_brings_singular_values_near_1(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    values = torch.linalg.svdvals(orthogonal(matrix, dtype))
    assert orthogonal(matrix, dtype).norm().item() == pytest.approx(min(shape) ** 0.5, rel=1e-3)
    assert values.min() > 0.5 and values.max() < 1.5


def test_a_gradient_of_zero_moves_nothing_to_infinity() -> None:
    param, zero = torch.ones(4, 6), torch.zeros(4, 6)
    muon_update(
        param, zero, torch.zeros(4, 6), torch.zeros(1, 6),
        lr=0.1, momentum=0.9, beta2=0.9, weight_decay=0.0, dtype=torch.float32,
    )  # fmt: skip
    assert torch.equal(param, torch.ones(4, 6))


# --- the whole ----------------------------------------------------------------------------------


def test_norms_are_those_of_the_applied_gradients() -> None:
    groups = parameters()
    backward(groups, 0, range(ROWS))
    right = [float(sum((p.grad / ROWS).square().sum() for p in ps) ** 0.5) for ps in groups.values()]  # type: ignore[operator]  # fmt: skip
    ours = optimizer(groups)
    assert list(ours.local_norms().values()) == pytest.approx([ROWS * norm for norm in right])
    assert ours.step(1 / ROWS).tolist() == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_gradient_shows_in_the_norm_of_its_group(value: float) -> None:
    groups = parameters()
    backward(groups, 0, range(1))
    broken = groups["matrices"][3].grad
    assert broken is not None
    broken[0, 0] = value
    ours = optimizer(groups)
    local = ours.local_norms()
    norms = dict(zip(ours.groups, ours.step().tolist(), strict=True))
    for found in (local, norms):
        assert [name for name, norm in found.items() if not np.isfinite(norm)] == ["matrices"]


def test_a_parameter_without_gradient_is_one_with_a_gradient_of_zero() -> None:
    with_zero, without = parameters(), parameters()
    for groups in (with_zero, without):
        backward(groups, 0, range(ROWS))
    spared = with_zero["embedding"][0], with_zero["matrices"][1]
    for param in spared:
        param.grad = torch.zeros_like(param)
    without["embedding"][0].grad = without["matrices"][1].grad = None
    for groups in (with_zero, without):
        optimizer(groups).step()
    assert torch.equal(flat(with_zero), flat(without))


def test_an_interrupted_run_goes_on_bit_for_bit() -> None:
    whole, first, second = parameters(), parameters(), parameters()
    train(whole, optimizer(whole), range(6))
    before = optimizer(first)
    train(first, before, range(3))
    for name, params in first.items():
        for param, saved in zip(second[name], params, strict=True):
            param.data.copy_(saved.data)
    after = optimizer(second)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    train(second, after, range(3, 6))
    assert torch.equal(flat(whole), flat(second))


def test_state_of_another_model_is_refused() -> None:
    groups = parameters()
    fewer = parameters()
    del fewer["head"]
    with pytest.raises(NanochatError, match="head 0 only on one side"):
        optimizer(groups).load_state_dict(optimizer(fewer).state_dict())


# --- ranks --------------------------------------------------------------------------------------


def ranks(size: int, task: str, folder: Path) -> None:
    """Run `task` of this file on real processes that find each other over loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size),
        "PYTHONPATH": f"{REPO}:{REPO / 'tests'}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    children = [
        subprocess.Popen(
            [warm.python(), __file__, task, str(folder)],
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    try:
        for child in children:
            _, err = child.communicate(timeout=100)
            assert child.returncode == 0, err.decode()
    finally:
        for child in children:
            child.kill()


def task_train(world: World, folder: Path) -> None:
    """Three steps, saved by each rank; then three more."""
    groups = parameters()
    ours = optimizer(groups, world)
    norms = train(groups, ours, range(3), world.rank, world.size)
    write(folder / f"optim{world.rank}.pt", ours.state_dict())
    torch.save([p.detach() for ps in groups.values() for p in ps], folder / f"half{world.rank}.pt")
    norms += train(groups, ours, range(3, 6), world.rank, world.size)
    torch.save((flat(groups), norms), folder / f"end{world.rank}.pt")


def task_resume(world: World, folder: Path) -> None:
    """The last three steps, on whatever number of ranks there is now."""
    groups = parameters()
    saved = torch.load(folder / "half0.pt")
    for param, values in zip((p for ps in groups.values() for p in ps), saved, strict=True):
        param.data.copy_(values)
    ours = optimizer(groups, world)
    ours.load_state_dict(reshard(sorted(folder.glob("optim*.pt")), world.rank, world.size))
    norms = train(groups, ours, range(3, 6), world.rank, world.size)
    torch.save((flat(groups), norms), folder / f"resumed{world.rank}.pt")


TASKS: dict[str, Callable[[World, Path], None]] = {"train": task_train, "resume": task_resume}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "later"), [(2, 3), (3, 1)])
def test_any_number_of_ranks_gives_what_one_rank_gives(
    size: int, later: int, tmp_path: Path
) -> None:
    alone = parameters()
    norms = train(alone, optimizer(alone), range(6))
    ranks(size, "train", tmp_path)
    ends = [torch.load(tmp_path / f"end{rank}.pt") for rank in range(size)]
    for params, own_norms in ends:
        # All ranks hold the same bits, and those of one rank but for the order of additions.
        assert torch.equal(params, ends[0][0])
        torch.testing.assert_close(params, flat(alone), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.stack(own_norms), torch.stack(norms), rtol=1e-4, atol=1e-5)
    if later == 1:
        task_resume(World(), tmp_path)
    else:
        ranks(later, "resume", tmp_path)
    for rank in range(later):
        params, _ = torch.load(tmp_path / f"resumed{rank}.pt")
        torch.testing.assert_close(params, flat(alone), rtol=1e-4, atol=1e-4)


def main() -> None:
    task, folder = sys.argv[1:]
    world = join(find("cpu"))
    TASKS[task](world, Path(folder))
    world.close()


if __name__ == "__main__":
    main()

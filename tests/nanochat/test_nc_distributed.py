"""What ranks do together, on real processes over loopback, and what one rank does alone."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
import warm

torch = pytest.importorskip("torch")

from nanochat.device import find  # noqa: E402
from nanochat.distributed import World, join  # noqa: E402
from nanochat.errors import NanochatError, WrongUsage  # noqa: E402

REPO = Path(__file__).resolve().parents[2]


def test_alone_everything_is_already_done() -> None:
    world = World()
    assert world.first and world.store() is None
    tensor = torch.arange(4.0)
    assert world.sum(tensor) is tensor and world.max(tensor) is tensor
    part, whole = torch.zeros(4), torch.zeros(4)
    world.sum_later(tensor)()
    world.scatter_sum_later(part, tensor)()
    world.gather_later(whole, part)()
    assert part.tolist() == whole.tolist() == tensor.tolist() == [0, 1, 2, 3]
    assert world.gather_objects("x") == ["x"]
    world.broadcast(tensor)
    world.barrier()
    world.close()


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join(find("cpu")) == World()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(find("cpu")) == World()


@pytest.mark.parametrize("env", [{"RANK": "0"}, {"RANK": "x", "WORLD_SIZE": "2"}])
def test_half_a_setting_is_a_wrong_value(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WrongUsage, match="torchrun"):
        join(find("cpu"))


def test_a_group_that_cannot_form_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NanochatError, match=r"rank 0 could not join .* over gloo") as error:
        join(find("cpu"))
    assert "\n" not in str(error.value)


WORKER = """
import torch
from nanochat.device import find
from nanochat.distributed import join
world = join(find("cpu"))
mine = torch.tensor([1.0, 10.0, 100.0]) * (world.rank + 1)
assert world.size == 3 and world.first == (world.rank == 0)
assert world.sum(mine.clone()).tolist() == [6, 60, 600]
assert world.max(mine.clone()).tolist() == [3, 30, 300]
later = mine.clone()
world.sum_later(later)()
assert later.tolist() == [6, 60, 600]
part = torch.zeros(2, 2)
whole = torch.arange(12.0).view(6, 2) + world.rank
world.scatter_sum_later(part, whole)()
own = torch.arange(12.0).view(6, 2)[2 * world.rank : 2 * world.rank + 2]
assert torch.equal(part, 3 * own + 3), part
gathered = torch.zeros(6, 2)
world.gather_later(gathered, part)()
assert torch.equal(gathered, 3 * torch.arange(12.0).view(6, 2) + 3)
world.broadcast(mine)
assert mine.tolist() == [1, 10, 100]
assert world.gather_objects({"rank": world.rank}) == [{"rank": r} for r in range(3)]
world.store().set(f"key{world.rank}", "value")
world.barrier()
assert all(world.store().get(f"key{r}") == b"value" for r in range(3))
world.close()
print("fine")
"""


@pytest.mark.slow
def test_three_ranks_together() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    children = [
        subprocess.Popen(
            [warm.python(), "-c", WORKER], cwd=REPO, env=env | {"RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(3)
    ]  # fmt: skip
    try:
        for child in children:
            out, err = child.communicate(timeout=100)
            assert out == b"fine\n", err.decode()
    finally:
        for child in children:
            child.kill()

"""Optimizer state that was saved by any number of ranks, cut anew for another number.

A share is `{"world": W, "rank": r, "groups": {key: {"length": n, "replicated": bool, "tensors": {name:
tensor}}}}` and whatever else is equal on all ranks. Dimension 0 of a whole tensor, n long, is cut into W
slices of ceil(n / W), the last ones padded; replicated tensors are equal on all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nanochat.errors import NanochatError
from nanochat.tensors import read

Share = dict[str, Any]


def reshard(files: Sequence[Path], rank: int, world: int) -> Share:
    """The share of `rank` among `world` ranks, out of the files of all ranks that saved.

    Only the slices that this rank needs are read.

    Raises:
        NanochatError: a file is missing or damaged, or they are not the shares of one step.
    """
    shares = sorted((read(file) for file in files), key=lambda share: int(share["rank"]))
    first = shares[0]
    if [(s["rank"], s["world"]) for s in shares] != [(r, len(files)) for r in range(len(files))]:
        found = ", ".join(f"{s['rank']} of {s['world']}" for s in shares)
        raise NanochatError(
            f"the optimizer state beside {files[0]} is not whole: it has the shares of ranks {found}; "
            "choose another checkpoint"
        )
    groups = {
        key: {**group, "tensors": _tensors(key, shares, rank, world)}
        for key, group in first["groups"].items()
    }
    return {**first, "world": world, "rank": rank, "groups": groups}


def _tensors(
    key: str, shares: Sequence[Share], rank: int, world: int
) -> Mapping[str, torch.Tensor]:
    group = shares[0]["groups"][key]
    if group.get("replicated", False):
        return {name: tensor.clone() for name, tensor in group["tensors"].items()}
    return {
        name: _cut(
            [share["groups"][key]["tensors"][name] for share in shares],
            int(group["length"]),
            rank,
            world,
        )
        for name in group["tensors"]
    }


def _cut(slices: Sequence[torch.Tensor], length: int, rank: int, world: int) -> torch.Tensor:
    """Rows [rank·size, (rank + 1)·size) of what `slices` make together, zeros beyond `length`."""
    old, size = len(slices[0]), -(-length // world)
    part = slices[0].new_zeros(size, *slices[0].shape[1:])
    begin, end = min(rank * size, length), min((rank + 1) * size, length)
    at = begin
    while at < end:
        source, offset = divmod(at, old)
        count = min(old - offset, end - at)
        part[at - begin : at - begin + count] = slices[source][offset : offset + count]
        at += count
    return part

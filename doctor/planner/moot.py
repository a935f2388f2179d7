"""Wishes that the chosen route cannot fulfil: an error where the result would be another thing, else a note."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.errors import DoctorError
from doctor.findings.context import joined
from doctor.planner.terms.plan import Wishes
from doctor.planner.terms.question import Decision

NOUNS = {"cpu": "trains on the CPU", "mps": "drives Apple's GPU", "npu": "drives Ascend NPUs"}


def refuse(wishes: Wishes, decision: Decision) -> None:
    """Refuse code for a GPU where none is driven.

    Raises:
        DoctorError: architectures were asked for, and the route has none.
    """
    if not wishes.archs or decision.kind == "cuda":
        return
    raise DoctorError(
        f"--arch {joined(wishes.archs)} asks for code for an NVIDIA GPU, and this machine's route {decision.route} "
        f"{NOUNS.get(decision.kind, 'has none')}; leave it out, or make a wheel for another machine with build-torch."
    )


def notes(wishes: Wishes, decision: Decision) -> Iterator[str]:
    """What was asked for and will not be."""
    torch = decision.torch
    if torch is None:
        return
    if wishes.libuv is False and torch.libuv:
        yield (
            "--no-libuv is not followed: this torch has libuv, which does no harm; only a build from source "
            "(build-torch --no-libuv) is without it."
        )
    if wishes.libuv and torch.libuv is not True:
        yield "--libuv cannot be followed: this torch has none, or does not show it."
    if wishes.libuv and decision.kind == "mps":
        yield "--libuv means nothing here: a Mac has one GPU, and no ranks that meet in a TCPStore."
    if wishes.channel == "nightly" and decision.kind != "cuda":
        yield f"--channel nightly is not followed: the route {decision.route} has released versions only."

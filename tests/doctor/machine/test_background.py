"""Calls that run beside the rest."""

from __future__ import annotations

import threading

import pytest

from doctor.errors import Unknown
from doctor.machine.background import Background


def test_what_a_call_returns_and_raises() -> None:
    assert Background(lambda: 7, "seven").result() == 7
    with pytest.raises(ZeroDivisionError):
        Background(lambda: 1 // 0, "division").result(5)


def test_a_call_that_hangs_is_left_behind() -> None:
    gate = threading.Event()
    call = Background(gate.wait, "gate")
    with pytest.raises(Unknown, match=r"^gate gave no answer within 0 s$"):
        call.result(0.05)
    gate.set()
    assert call.result(5) is True

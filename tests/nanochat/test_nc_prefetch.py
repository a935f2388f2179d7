from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from nanochat.prefetch import Prefetch


def running() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def wait_until_none_runs() -> None:
    end = time.monotonic() + 10
    while running() and time.monotonic() < end:
        time.sleep(0.01)
    assert running() == 0


def test_all_items_in_order_and_an_end_that_lasts() -> None:
    ahead = Prefetch(iter(range(100)), 3)
    assert list(ahead) == list(range(100))
    with pytest.raises(StopIteration):
        next(ahead)
    wait_until_none_runs()


def test_runs_ahead_by_its_depth_only() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in count():
            made.append(number)
            yield number

    ahead = Prefetch(source(), 2)
    end = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 3  # two in the queue, one that waits for room
    ahead.close()
    assert list(ahead) == []
    wait_until_none_runs()


def test_an_error_comes_at_its_place_and_stays() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("torn")

    ahead = Prefetch(source(), 4)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="torn"):
            next(ahead)
    ahead.close()


def test_one_that_is_dropped_ends_its_thread() -> None:
    ahead = Prefetch(count(), 2)
    assert next(ahead) == 0
    assert running() == 1
    del ahead
    gc.collect()
    wait_until_none_runs()

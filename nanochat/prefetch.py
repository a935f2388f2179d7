"""An iterator that runs ahead in a thread."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """The last thing in the queue: the source ended, or failed."""

    error: BaseException | None


class Prefetch(Iterator[T], Generic[T]):
    """The items of `source`, up to `depth` of them made before they are asked for.

    What the source raises is raised by `next` at its place in the order, and by every further `next`.
    """

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stop = threading.Event()
        self._end: _End | None = None
        # The thread must not know this object, or one that is dropped without close() would live for ever.
        self._thread = threading.Thread(
            target=_produce, args=(source, self._queue, self._stop), daemon=True, name="prefetch"
        )
        self._finalizer = weakref.finalize(self, _shut, self._queue, self._stop)
        self._thread.start()

    def __next__(self) -> T:
        if self._end is None:
            item = self._queue.get()
            if not isinstance(item, _End):
                return item
            self._end = item
        raise self._end.error or StopIteration

    def close(self) -> None:
        """Stop the thread and wait for it; afterwards there are no more items."""
        self._end = self._end or _End(None)
        self._finalizer()
        self._thread.join()


def _produce(source: Iterator[T], items: queue.Queue[Any], stop: threading.Event) -> None:
    error = None
    try:
        for item in source:
            if stop.is_set():
                return
            items.put(item)
            del item
            if stop.is_set():
                return
    except BaseException as raised:
        error = raised
    if not stop.is_set():
        items.put(_End(error))


def _shut(items: queue.Queue[Any], stop: threading.Event) -> None:
    """Empty the queue, so that a thread that waits for room in it goes on, sees the signal and ends."""
    stop.set()
    try:
        while True:
            items.get_nowait()
    except queue.Empty:
        pass

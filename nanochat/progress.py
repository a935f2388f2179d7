"""How far a download is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PAUSE = 10.0
"""Seconds between two lines where there is no terminal."""


class Meter:
    """Adds up what several threads received; to be used in a `with` block."""

    def __init__(self, what: str, files: int, say: Callable[[str], None]) -> None:
        self._what, self._files, self._say = what, files, say
        self._lock = threading.Lock()
        self._shares: dict[object, float] = {}
        self._received = 0
        self._start = self._spoken = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None
        if sys.stderr.isatty():
            self._bar = self._make_bar()

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar[0].stop()
        elif kind is None:
            self._say(self._line())

    def update(self, file: object, received: int, share: float) -> None:
        """`received` more bytes came, with which `share` (0 to 1) of `file` is there."""
        with self._lock:
            self._received += received
            self._shares[file] = share
            if self._bar:
                bar, task = self._bar
                bar.update(task, completed=sum(self._shares.values()), amount=self._amount())
            elif time.monotonic() - self._spoken >= PAUSE:
                self._spoken = time.monotonic()
                self._say(self._line())

    def _make_bar(self) -> tuple[Progress, TaskID]:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total:.0f} files, {task.fields[amount]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        return bar, bar.add_task(self._what, total=self._files, amount=self._amount())

    def _line(self) -> str:
        done = sum(self._shares.values())
        return f"{self._what}: {done:.1f} of {self._files} files, {self._amount()}"

    def _amount(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-3)
        return f"{self._received / 1e6:,.1f} MB at {self._received / 1e6 / seconds:.1f} MB/s"

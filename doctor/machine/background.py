"""Calls that run beside the rest, and may be left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from doctor.errors import Unknown

T = TypeVar("T")


class Background(Generic[T]):
    """A call in a daemon thread of its own, begun at once.

    `concurrent.futures` would do, but imports more than a start of ours has time for, and its
    workers are waited for when the process ends.
    """

    def __init__(self, call: Callable[[], T], name: str) -> None:
        self.name = name
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except Exception as error:
            self._error = error

    def result(self, seconds: float | None = None) -> T:
        """What the call returned, or its exception.

        Raises:
            Unknown: it is not done within `seconds`; it goes on, and nobody waits for it.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise Unknown(f"{self.name} gave no answer within {seconds:.0f} s")
        if hasattr(self, "_error"):
            raise self._error
        return self._value

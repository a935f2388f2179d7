"""Shows how far something is, on a terminal and where there is none."""

from __future__ import annotations

import os
import sys
import time

from doctor.text.visible import control, visible
from doctor.work.programs import Say


class LiveLine:
    """How far something is: one line that changes on a terminal, a line now and then elsewhere."""

    PAUSE = 10.0
    """Seconds between two lines where there is no terminal."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._terminal = sys.stderr.isatty()
        self._spoken = time.monotonic()
        self._drawn = False

    def show(self, text: str) -> None:
        """Show how far it is now."""
        if self._terminal:
            width = max(20, _columns() - 1)
            control(sys.stderr, "\r\x1b[K")
            sys.stderr.write(visible(text)[:width])
            sys.stderr.flush()
            self._drawn = True
        elif time.monotonic() - self._spoken >= self.PAUSE:
            self._spoken = time.monotonic()
            self._say(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            control(sys.stderr, "\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80

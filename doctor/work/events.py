"""What a build says while it runs: a live line and sentences for people, events for programs."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import IO, Any

from doctor.text.visible import control, json_text, visible

LINE_SECONDS = 0.2
"""Between two states of the live line."""

DEFAULT_WIDTH = 100

QUIET_SECONDS = 30.0
"""Between two progress lines where there is no terminal, and two progress events."""


@dataclass
class Reporter:
    """Prints for a person on stderr, or one JSON object a line on stdout.

    Attributes:
        out: where events go; None is a run for people.
        err: where sentences and the live line go.
    """

    out: IO[str] | None = None
    err: IO[str] = field(default_factory=lambda: sys.stderr)
    _last: float = 0.0
    _live: str = ""

    @property
    def live(self) -> bool:
        """Whether a line may be rewritten in place."""
        return self.out is None and self.err.isatty()

    def event(self, name: str, text: str = "", /, **fields: Any) -> None:
        """Say that something has happened.

        Args:
            name: of the event, such as `configured`.
            text: the same for a person; nothing is printed where empty.
        """
        if self.out is not None:
            said = {"event": name, "time": round(time.time(), 3), **fields}
            self.out.write(json_text({**said, **({"text": text} if text else {})}) + "\n")
            self.out.flush()
        elif text:
            self.clear()
            self.err.write(text + "\n")
            self.err.flush()

    def due(self) -> bool:
        """Whether it is time for progress: often on a terminal, now and then elsewhere."""
        wait = LINE_SECONDS if self.live else QUIET_SECONDS
        return time.monotonic() - self._last >= wait

    def progress(self, text: str, /, **fields: Any) -> None:
        """Say how far it is."""
        self._last = time.monotonic()
        if not self.live:
            self.event("progress", text, **fields)
            return
        width = _width(self.err)
        text = visible(text)
        self._live = text if len(text) < width else text[: width - 2] + "…"
        control(self.err, "\r\x1b[2K")
        self.err.write(self._live)
        self.err.flush()

    def clear(self) -> None:
        """Take the live line away before something else is printed."""
        if self._live:
            control(self.err, "\r\x1b[2K")
            self._live = ""


def _width(stream: IO[str]) -> int:
    """Columns of a terminal; some (serial lines, bare ptys) say 0."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    except (OSError, ValueError):
        return DEFAULT_WIDTH

"""Best fit: which document goes next into a row that is partly full."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]


LEAST_REST = 8
"""Tokens below which what is left of a document is no text to learn from."""


class BestFit:
    """Documents that wait for a place, each of at most `width` tokens, the length of a row.

    Cutting a longer document here, rather than letting it wait whole until it happens to be the shortest, keeps the
    buffer from slowly filling with documents that no row can hold, after which best fit would have little to choose
    from.

    Args:
        width: of a row.
        bos: the token that begins a document. With it, what is cut off waits as a document of its own behind another
            BOS; without it, the rest is lost: every token then sees its document from the beginning on.
    """

    def __init__(
        self, width: int, documents: Iterable[Tokens] = (), *, bos: int | None = None
    ) -> None:
        self.width, self.bos = width, bos
        # Side by side, by length and then by age: binary search at C speed, and a snapshot is a copy.
        self.lengths: list[int] = []
        self.documents: list[Tokens] = []
        for document in documents:
            self.add(document)

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, document: Tokens) -> None:
        """Let a document wait; of those of one length the oldest goes first."""
        self._wait(
            document[: self.width].copy()
        )  # a view would keep alive all that it was cut from
        self._add_rest(document[self.width :])

    def _add_rest(self, rest: Tokens) -> None:
        while self.bos is not None and len(rest) >= LEAST_REST:
            self._wait(np.concatenate((np.array([self.bos], rest.dtype), rest[: self.width - 1])))
            rest = rest[self.width - 1 :]

    def _wait(self, kept: Tokens) -> None:
        place = bisect_right(self.lengths, len(kept))
        self.lengths.insert(place, len(kept))
        self.documents.insert(place, kept)

    def take(self, space: int) -> Tokens:
        """The largest document that fits into `space` tokens, or else the beginning of the shortest of all.

        Raises:
            IndexError: no document waits.
        """
        place = bisect_right(self.lengths, space)
        place = bisect_left(self.lengths, self.lengths[place - 1]) if place else 0
        del self.lengths[place]
        document = self.documents.pop(place)
        self._add_rest(document[space:])
        return document[:space]

"""Best fit: which document goes next into a row that is partly full."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]


class BestFit:
    """Documents that wait for a place, each of at most `width` tokens, the length of a row.

    The rest of a longer document is lost in any packing that starts documents at BOS. Cutting it off here,
    rather than letting whole documents wait until they happen to be the shortest, keeps the buffer from
    slowly filling with documents that no row can hold, after which best fit would have little to choose from.
    """

    def __init__(self, width: int, documents: Iterable[Tokens] = ()) -> None:
        self.width = width
        # Side by side, by length and then by age: binary search at C speed, and a snapshot is a copy.
        self.lengths: list[int] = []
        self.documents: list[Tokens] = []
        for document in documents:
            self.add(document)

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, document: Tokens) -> None:
        """Let a document wait; of those of one length the oldest goes first."""
        kept = document[: self.width].copy()  # a view would keep alive all that it was cut from
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
        return self.documents.pop(place)[:space]

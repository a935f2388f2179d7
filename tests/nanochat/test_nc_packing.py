from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nanochat.packing import LEAST_REST, BestFit


def naive(waiting: list[list[int]], space: int) -> list[int]:
    """By trying all: the largest that fits, or the beginning of the shortest; of equals the oldest."""
    best = None
    for document in waiting:
        if len(document) <= space and (best is None or len(document) > len(best)):
            best = document
    if best is None:
        best = waiting[0]
        for document in waiting:
            if len(document) < len(best):
                best = document
    waiting.remove(best)
    return best[:space]


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=60),
)
def test_equals_trying_all(width: int, steps: list[tuple[int, int]]) -> None:
    """Each step adds a document of one length, and every other one takes for a space."""
    fit = BestFit(width)
    waiting: list[list[int]] = []
    for number, (length, space) in enumerate(steps):
        document = [number] * length  # no two alike, so that the right one of equal lengths is seen
        fit.add(np.array(document, np.uint16))
        waiting.append(document[:width])
        if number % 2:
            assert fit.take(min(space, width)).tolist() == naive(waiting, min(space, width))
    while waiting:
        assert fit.take(width).tolist() == naive(waiting, width)
    assert len(fit) == 0


def test_documents_do_not_keep_what_they_were_cut_from() -> None:
    fit = BestFit(4)
    fit.add(np.arange(1000, dtype=np.uint16)[10:30])
    assert fit.documents[0].base is None
    assert fit.documents[0].tolist() == [10, 11, 12, 13]


@given(
    st.integers(4, 20),
    st.lists(st.integers(1, 90), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_with_a_bos_nothing_is_lost(width: int, lengths: list[int], seed: int) -> None:
    """Every token comes exactly once, but for rests too short to be text, and each rest begins with BOS."""
    bos, rng = 9999, np.random.default_rng(seed)
    fit, wanted, number = BestFit(width, bos=bos), [], 0
    for length in lengths:
        document = np.array([bos, *range(number, number + length)], np.uint16)
        number += length
        wanted += document[1:].tolist()
        fit.add(document)
    got: list[int] = []
    cuts = 0
    while len(fit):
        piece = fit.take(int(rng.integers(1, width + 1)))
        assert piece[0] == bos
        cuts += 1
        got += piece[1:].tolist()
    assert len(got) == len(set(got)) and set(got) <= set(wanted)
    assert len(wanted) - len(got) <= (LEAST_REST - 1) * (cuts + len(lengths))

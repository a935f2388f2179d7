"""From shards to batches: rows of tokens, packed by best fit, the same whatever the number of ranks.

The stream of rows is one for all: row n of a micro-batch belongs to rank (n // rows) % world. Every rank
reads, tokenizes and packs all of it and keeps its own rows. That costs each rank what the whole job needs,
which is little beside a training step, and buys two things: one, two and three ranks with the same total
batch see the same rows, and a run continues exactly on another number of ranks.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import NanochatError
from nanochat.packing import BestFit, Tokens
from nanochat.prefetch import Prefetch
from nanochat.shards import inspect, read_group

LoaderState: TypeAlias = dict[str, "int | str | NDArray[Any]"]
"""Numbers and strings, and two arrays: `tokens` of the documents that wait, and their `offsets`."""

_ELSEWHERE = "the run cannot continue exactly; restore it, or start a new run"


class DocumentEncoder(Protocol):
    """What the loader needs of a tokenizer."""

    @property
    def bos(self) -> int:
        """The token with which every document begins."""

    def encode_documents(self, texts: list[str], threads: int) -> tuple[Tokens, NDArray[np.int64]]:
        """All ids, each document after its BOS, and len(texts) + 1 offsets between documents."""


class Position(NamedTuple):
    """The next document to read; all but the epoch count from 0."""

    epoch: int = 1
    shard: int = 0
    group: int = 0
    document: int = 0


CUT, ALL = "cut", "all"
"""What becomes of a document's tokens beyond a row: they are left out, or begin another row behind a BOS."""


@dataclass(frozen=True)
class Supply:
    """About how many tokens some shards hold, and which share of them (0 to 1) rows use where rests are cut off."""

    tokens: int
    cut_share: float

    def packing(self, wanted: int) -> str:
        """Whole documents only while they last; where they would come again, rather what was left out of them."""
        return CUT if self.cut_share * self.tokens >= wanted else ALL


def survey(shards: Sequence[Path], tokenizer: DocumentEncoder, length: int) -> Supply:
    """Reckon the supply from the first and the middle row group of the first and the middle shard.

    Raises:
        NanochatError: one of these is missing or damaged, or holds no text.
    """
    looked_at = [inspect(shards[index]) for index in sorted({0, len(shards) // 2})]
    lengths = []
    for shard in looked_at:
        for group in sorted({0, shard.groups // 2}):
            _, offsets = tokenizer.encode_documents(read_group(shard.path, group), 4)
            lengths.append(np.diff(offsets))
    total = sum(int(group.sum()) for group in lengths)
    if not total:
        raise NanochatError(
            "there is no text to train on; fetch some with python -m nanochat.dataset"
        )
    used = sum(int(np.minimum(group, length + 1).sum()) for group in lengths)
    groups = len(shards) * sum(shard.groups for shard in looked_at) / len(looked_at)
    return Supply(round(groups * total / len(lengths)), used / total)


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one rank: `tokens` is int32 of shape (rows, length + 1)."""

    tokens: NDArray[np.int32]
    position: str
    epoch: int
    _waiting: Sequence[Tokens] = field(repr=False)
    _position: Position = field(repr=False)
    _common: Mapping[str, int | str] = field(repr=False)

    def state(self) -> LoaderState:
        """Where the stream stands after this batch, equal on all ranks; what `TokenLoader(state=)` takes."""
        epoch, shard, group, document = self._position
        offsets = np.cumsum([0, *map(len, self._waiting)], dtype=np.int64)
        tokens = np.concatenate(self._waiting) if self._waiting else np.empty(0, np.uint16)
        return {
            **self._common,
            "epoch": epoch,
            "shard": shard,
            "group": group,
            "document": document,
            "tokens": tokens,
            "offsets": offsets,
        }


class TokenLoader(Iterator[Batch]):
    """Batches of `rows` rows of `length` + 1 tokens for one of `world` ranks; every row starts with BOS.

    Args:
        shards: parquet files with a column `text`, in the order in which they are read.
        epochs: how often the shards are read; None for ever. Rows that cannot be filled at the end are left
            out, and so is a micro-batch that cannot be had whole.
        buffer: how many documents wait to be chosen from.
        packing: CUT or ALL.
        threads: of the tokenizer.
        state: of a batch, after which this loader continues, bit for bit with the same `buffer`. Shards that
            came since are read too, from where they stand in the order.
        prefetch: batches that a thread makes ahead; 0 makes each when it is asked for.

    Raises:
        NanochatError: a shard is missing, damaged or another than in `state`, or there is too little text;
            also from `next`.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        tokenizer: DocumentEncoder,
        *,
        rows: int,
        length: int,
        rank: int = 0,
        world: int = 1,
        epochs: int | None = None,
        buffer: int = 1000,
        packing: str = CUT,
        threads: int = 4,
        state: LoaderState | None = None,
        prefetch: int = 4,
    ) -> None:
        documents = _Documents(shards, tokenizer, length, epochs, threads, packing)
        fit = BestFit(length + 1, bos=tokenizer.bos if packing == ALL else None)
        if state is not None:
            for document in documents.restore(state):
                fit.add(document)
        # The thread must not know this object, or one that is dropped without close() would live for ever.
        batches = _batches(documents, fit, buffer, rows, rank, world, fresh=state is None)
        self._batches = Prefetch(batches, prefetch) if prefetch else batches

    def __next__(self) -> Batch:
        return next(self._batches)

    def __enter__(self) -> TokenLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread; afterwards there are no more batches."""
        self._batches.close()


def _batches(
    documents: _Documents,
    fit: BestFit,
    buffer: int,
    rows: int,
    rank: int,
    world: int,
    *,
    fresh: bool,
) -> Generator[Batch, None, None]:
    while True:
        tokens = np.empty((rows, fit.width), np.int32)
        for row in range(rows * world):
            own = tokens[row % rows] if row // rows == rank else None
            if not _fill(fit, documents, buffer, own):
                if fresh:
                    raise NanochatError(
                        f"the text fills {row} rows of {fit.width} tokens, but {world} rank(s) take "
                        f"{rows * world} at once; use more text, a smaller --device-batch-size or a smaller "
                        f"--max-seq-len"
                    )
                return
        fresh = False
        yield documents.batch(tokens, fit.documents.copy())  # copies references, not tokens


def _fill(
    fit: BestFit, documents: Iterator[Tokens], buffer: int, row: NDArray[np.int32] | None
) -> bool:
    """Pack the next row, into `row` if it is one of ours; False if the documents end before it is full."""
    filled = 0
    while filled < fit.width:
        for document in islice(documents, max(0, buffer - len(fit))):
            fit.add(document)
        if not len(fit):
            return False
        piece = fit.take(fit.width - filled)
        if row is not None:
            row[filled : filled + len(piece)] = piece
        filled += len(piece)
    return True


class _Documents(Iterator[Tokens]):
    """Documents of at least one token besides BOS, from a position on that can be told and restored."""

    def __init__(
        self,
        shards: Sequence[Path],
        tokenizer: DocumentEncoder,
        length: int,
        epochs: int | None,
        threads: int,
        packing: str,
    ) -> None:
        self._shards = [inspect(path) for path in shards]
        if not self._shards:
            raise NanochatError(
                "there are no shards to read; fetch some with python -m nanochat.dataset"
            )
        self._tokenizer, self._length = tokenizer, length
        self._epochs, self._threads = epochs, threads
        self._common: dict[str, int | str] = {
            "shards": json.dumps([[shard.path.name, shard.mark] for shard in self._shards]),
            "length": length,
            "bos": tokenizer.bos,
            "packing": packing,
        }
        self._position = Position()
        self._stream = self._read()  # begins when it is first asked, so after restore()

    def __next__(self) -> Tokens:
        return next(self._stream)

    def batch(self, tokens: NDArray[np.int32], waiting: list[Tokens]) -> Batch:
        """A batch that remembers where the stream stands."""
        at = self._position
        where = f"{min(at.shard + 1, len(self._shards))}/{len(self._shards)} rg {at.group + 1}"
        return Batch(tokens, where, at.epoch, waiting, at, self._common)

    def _read(self) -> Iterator[Tokens]:
        for epoch in count(self._position.epoch):
            if self._epochs is not None and epoch > self._epochs:
                return
            whole = self._position[1:] == (0, 0, 0)
            tokens = 0
            for shard in range(self._position.shard, len(self._shards)):
                for group in range(self._position.group, self._shards[shard].groups):
                    for document in self._encode(epoch, shard, group):
                        tokens += len(document)
                        yield document
                    self._position = Position(epoch, shard, group + 1)
                self._position = Position(epoch, shard + 1)
            if whole and tokens <= self._length:
                raise NanochatError(
                    f"{len(self._shards)} shard(s) hold {tokens} tokens, less than one row of "
                    f"{self._length + 1}; use more text or a smaller --max-seq-len"
                )
            self._position = Position(epoch + 1)

    def _encode(self, epoch: int, shard: int, group: int) -> Iterator[Tokens]:
        texts = read_group(self._shards[shard].path, group)
        first = self._position.document
        tokens, offsets = self._tokenizer.encode_documents(texts[first:], self._threads)
        for number, (start, end) in enumerate(pairwise(offsets.tolist())):
            self._position = Position(epoch, shard, group, first + number + 1)
            if end - start > 1:
                yield tokens[start:end]

    # --- continuing

    def restore(self, state: LoaderState) -> list[Tokens]:
        """Go to where a batch's state was taken, and give the documents that waited there."""
        try:
            known = [(str(name), str(mark)) for name, mark in json.loads(str(state["shards"]))]
            length, bos = int(state["length"]), int(state["bos"])
            epoch, shard, group, document = (
                int(state[key]) for key in ("epoch", "shard", "group", "document")
            )
            tokens, offsets = np.asarray(state["tokens"]), np.asarray(state["offsets"])
            waiting = [tokens[a:b] for a, b in pairwise(offsets.tolist())]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise NanochatError(
                f"the saved position in the data cannot be read ({error!r}); use another checkpoint"
            ) from error
        if length != self._length:
            raise NanochatError(
                f"the saved position in the data belongs to rows of {length} tokens, not of "
                f"{self._length}; continue with --max-seq-len {length}"
            )
        if bos != self._common["bos"]:
            raise NanochatError(
                f"the saved position in the data belongs to a tokenizer whose BOS is {bos}, not "
                f"{self._common['bos']}; restore that tokenizer"
            )
        if (packing := state.get("packing", CUT)) != self._common["packing"]:
            raise NanochatError(
                f"the saved position in the data belongs to --packing {packing}, not {self._common['packing']}; "
                f"continue with --packing {packing}"
            )
        self._position = Position(epoch, self._find(known, shard), group, document)
        return waiting

    def _find(self, known: list[tuple[str, str]], shard: int) -> int:
        """Where the stream stands among today's shards, all of the former ones being among them."""
        present = {item.path.name: index for index, item in enumerate(self._shards)}
        for name, mark in known:
            if name not in present:
                raise NanochatError(
                    f"shard {name}, of the saved position, is missing; {_ELSEWHERE}"
                )
            if self._shards[present[name]].mark != mark:
                raise NanochatError(
                    f"{self._shards[present[name]].path} is another than when the position was saved; "
                    f"{_ELSEWHERE}"
                )
        if shard < len(known):
            return present[known[shard][0]]
        return present[known[-1][0]] + 1  # the last one was read wholly

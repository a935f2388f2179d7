from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from nanochat.dataloader import ALL, CUT, Batch, LoaderState, TokenLoader, survey
from nanochat.errors import NanochatError
from nanochat.shards import write_shard

BOS = 256


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    bos = BOS

    def encode_documents(self, texts: list[str], threads: int) -> tuple[Any, Any]:
        documents = [[BOS, *text.encode()] for text in texts]
        offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        return np.array([t for d in documents for t in d], np.uint16), offsets


def corpus(seed: int, number: int) -> list[str]:
    """Documents of all lengths, empty ones and repeated lengths among them."""
    random = Random(seed)
    return [
        "".join(random.choices("abcdefghij klmnop", k=random.choice([0, 3, 20, 60, 61, 200])))
        for _ in range(number)
    ]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"shard_{n:05d}.parquet" for n in range(3)]
    for number, path in enumerate(paths):
        write_shard(path, corpus(number, 150), group=40)
    return paths


def loader(shards: list[Path], **options: Any) -> TokenLoader:
    given = {"rows": 3, "length": 64, "buffer": 50, "prefetch": 0} | options
    return TokenLoader(shards, Bytes(), **given)


def naive_rows(texts: Iterator[str], width: int, buffer: int) -> Iterator[list[int]]:
    """The rule, said once more as plainly as possible."""
    waiting: list[list[int]] = []
    while True:
        row: list[int] = []
        while len(row) < width:
            while len(waiting) < buffer:
                text = next(texts, None)
                if text is None:
                    break
                if text:
                    waiting.append([BOS, *text.encode()][:width])
            if not waiting:
                return
            space = width - len(row)
            fitting = [d for d in waiting if len(d) <= space]
            lengths = [len(d) for d in fitting or waiting]
            wanted = max(lengths) if fitting else min(lengths)
            document = next(d for d in waiting if len(d) == wanted)
            waiting = [d for d in waiting if d is not document]
            row += document[:space]
        yield row


def test_rows_are_those_of_the_rule(shards: list[Path]) -> None:
    texts = [text for n in range(3) for text in corpus(n, 150)]
    expected = list(naive_rows(iter(texts), 65, 50))
    batches = list(loader(shards, epochs=1))
    rows = [row for batch in batches for row in batch.tokens.tolist()]
    assert len(rows) == len(expected) // 3 * 3
    assert rows == expected[: len(rows)]
    assert batches[0].tokens.dtype == np.int32
    assert {row[0] for row in rows} == {BOS}
    assert batches[0].epoch == 1
    assert batches[0].position.startswith("1/3 rg ")


def test_with_the_tokenizer_of_the_trainer(shards: list[Path]) -> None:
    import crate  # noqa: F401

    from nanochat.tokenizer import Tokenizer

    texts = [text for n in range(3) for text in corpus(n, 150) if text]
    tokenizer = Tokenizer.train(texts, 320)
    with TokenLoader(shards, tokenizer, rows=2, length=300, buffer=20, threads=2) as stream:
        batch = next(stream)
    known = {(tokenizer.bos, *tokenizer.encode(text)) for text in texts}
    for row in batch.tokens.tolist():
        starts = [n for n, token in enumerate(row) if token == tokenizer.bos]
        assert starts[0] == 0
        documents = [tuple(row[a:b]) for a, b in pairwise(starts)]  # the last one may be cropped
        assert documents
        assert set(documents) <= known


def test_epochs_follow_one_another(shards: list[Path]) -> None:
    texts = [text for n in range(3) for text in corpus(n, 150)]
    expected = list(islice(naive_rows(iter(texts * 4), 65, 50), 90 * 3))
    batches = list(islice(loader(shards), 90))
    assert [row for batch in batches for row in batch.tokens.tolist()] == expected
    epochs = [batch.epoch for batch in batches]
    assert epochs == sorted(epochs)
    assert epochs[0] == 1
    assert epochs[-1] >= 2


def test_prefetching_changes_nothing(shards: list[Path]) -> None:
    plain = list(islice(loader(shards), 40))
    with loader(shards, prefetch=3) as ahead:
        fetched = list(islice(ahead, 40))
    assert_same(plain, fetched)
    for one, other in zip(plain, fetched, strict=True):
        assert_same_state(one.state(), other.state())


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_one_stream(shards: list[Path], world: int) -> None:
    alone = list(islice(loader(shards, rows=6), 25))
    ranks = [
        list(islice(loader(shards, rows=6 // world, rank=rank, world=world), 25))
        for rank in range(world)
    ]
    for number, batch in enumerate(alone):
        parts = [ranks[rank][number] for rank in range(world)]
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), batch.tokens)
        for part in parts:
            assert_same_state(part.state(), batch.state())


def test_continues_anywhere_on_any_number_of_ranks(shards: list[Path]) -> None:
    stream = [row for b in islice(loader(shards, rows=1), 400) for row in b.tokens.tolist()]
    random = Random(7)
    for _ in range(12):
        world, rows = random.choice([(1, 4), (2, 2), (3, 1), (3, 2)])
        at = random.randrange(1, 30)
        first = list(islice(loader(shards, rows=rows, world=world, rank=world - 1), at))
        state = stored(first[-1].state())
        world_then, rows_then = random.choice([(1, 3), (2, 2), (3, 1)])
        later = [
            list(islice(loader(shards, rows=rows_then, world=world_then, rank=r, state=state), 10))
            for r in range(world_then)
        ]
        got = [
            row for n in range(10) for r in range(world_then) for row in later[r][n].tokens.tolist()
        ]
        begin = at * world * rows
        assert got == stream[begin : begin + len(got)]


def test_continues_within_the_last_epoch(shards: list[Path]) -> None:
    whole = list(loader(shards, epochs=2))
    for at in (1, len(whole) // 2, len(whole) - 1, len(whole)):
        rest = list(loader(shards, epochs=2, state=stored(whole[at - 1].state())))
        assert_same(rest, whole[at:])


def test_shards_that_came_since_are_read_too(shards: list[Path], tmp_path: Path) -> None:
    before = list(loader(shards, epochs=1))
    state = stored(before[4].state())
    new = tmp_path / "shard_00003.parquet"
    write_shard(new, corpus(9, 150), group=40)
    expected = list(loader([*shards, new], epochs=1))
    assert len(expected) > len(before)
    assert_same(list(loader([*shards, new], epochs=1, state=state)), expected[5:])


def test_another_or_missing_shard_ends_the_attempt(shards: list[Path]) -> None:
    state = next(loader(shards)).state()
    with pytest.raises(NanochatError, match=r"shard shard_00002.parquet.* is missing"):
        loader(shards[:2], state=state)
    write_shard(shards[1], corpus(8, 150))
    with pytest.raises(NanochatError, match=r"shard_00001.parquet is another"):
        loader(shards, state=state)


def test_a_state_of_other_rows_or_another_tokenizer(shards: list[Path]) -> None:
    state = next(loader(shards)).state()
    with pytest.raises(NanochatError, match="--max-seq-len 64"):
        loader(shards, length=32, state=state)
    with pytest.raises(NanochatError, match="BOS is 7"):
        loader(shards, state=state | {"bos": 7})
    for damaged in ({}, state | {"shards": "["}, state | {"group": "x"}):
        with pytest.raises(NanochatError, match="cannot be read"):
            loader(shards, state=damaged)


def test_too_little_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, ["abc", "", "de"])
    for prefetch in (0, 2):
        with pytest.raises(NanochatError, match="hold 7 tokens, less than one row of 65"):
            next(loader([path], prefetch=prefetch))
    with pytest.raises(NanochatError, match="fills 1 rows of 4 tokens, but 2 rank"):
        list(loader([path], length=3, rows=2, world=2, epochs=1))
    write_shard(path, ["", ""])
    with pytest.raises(NanochatError, match="hold 0 tokens"):
        next(loader([path]))
    with pytest.raises(NanochatError, match="no shards"):
        loader([])


def test_a_shard_that_goes_bad_in_mid_run(shards: list[Path]) -> None:
    with loader(shards, prefetch=2) as stream:
        next(stream)
        shards[1].write_bytes(b"PAR1 no more")
        with pytest.raises(NanochatError, match=r"shard_00001.parquet cannot be read"):
            list(islice(stream, 1000))


def test_threads_end(shards: list[Path]) -> None:
    def running() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "prefetch"]

    with loader(shards, prefetch=2) as stream:
        next(stream)
        assert running()
    assert not running()
    assert list(stream) == []
    dropped = loader(shards, prefetch=2)
    threads = running()
    del dropped
    gc.collect()
    for thread in threads:
        thread.join(10)
    assert not running()


def stored(state: LoaderState) -> LoaderState:
    """As it comes back from a file: the plain part through JSON, the arrays as copies."""
    plain = {key: value for key, value in state.items() if not isinstance(value, np.ndarray)}
    arrays = {key: value.copy() for key, value in state.items() if isinstance(value, np.ndarray)}
    offsets = state["offsets"]
    assert isinstance(offsets, np.ndarray)
    assert all(a < b for a, b in pairwise(offsets.tolist()))
    return json.loads(json.dumps(plain)) | arrays


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert np.array_equal(one.tokens, other.tokens)


def assert_same_state(one: LoaderState, other: LoaderState) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)


def test_the_supply_decides_about_rests(shards: list[Path]) -> None:
    """All shards are of one kind, so that the two looked at tell of the third."""
    lengths = [len(text.encode()) + 1 for n in range(3) for text in corpus(n, 150)]
    supply = survey(shards, Bytes(), 64)
    assert supply.tokens == pytest.approx(sum(lengths), rel=0.3)
    cut = sum(min(length, 65) for length in lengths) / sum(lengths)
    assert 0 < supply.cut_share < 1 and supply.cut_share == pytest.approx(cut, rel=0.3)
    enough = int(supply.cut_share * supply.tokens)
    assert (supply.packing(enough), supply.packing(enough + 1)) == (CUT, ALL)


def test_with_rests_more_rows_and_no_other_packing_afterwards(shards: list[Path]) -> None:
    cut, whole = (list(loader(shards, epochs=1, packing=packing)) for packing in (CUT, ALL))
    assert len(whole) > len(cut)
    assert {row[0] for batch in whole for row in batch.tokens.tolist()} == {BOS}
    state = whole[1].state()
    again = list(loader(shards, epochs=1, packing=ALL, state=state))
    assert [b.tokens.tolist() for b in again] == [b.tokens.tolist() for b in whole[2:]]
    with pytest.raises(NanochatError, match="continue with --packing all"):
        loader(shards, packing=CUT, state=state)

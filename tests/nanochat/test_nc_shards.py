from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from nanochat import checksums
from nanochat.errors import NanochatError
from nanochat.shards import (
    damage,
    inspect,
    open_folder,
    read_documents,
    read_group,
    write_manifest,
    write_shard,
    write_shards,
)


def texts(number: int, length: int = 20) -> list[str]:
    return [f"{n} é{'x' * (n % length)}" for n in range(number)]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard_00000.parquet"
    write_shard(path, texts(2500))
    return path


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        write_shard(folder / name, [f"of {name}"])


def test_layout_as_others_read_it(shard: Path) -> None:
    meta = pq.read_metadata(shard)
    assert [meta.row_group(g).num_rows for g in range(meta.num_row_groups)] == [1024, 1024, 452]
    for group in range(meta.num_row_groups):
        column = meta.row_group(group).column(0)
        assert (column.path_in_schema, column.compression) == ("text", "ZSTD")
        assert not column.is_stats_set
        assert not any("DICTIONARY" in encoding for encoding in column.encodings)
    assert pq.read_table(shard)["text"].to_pylist() == texts(2500)


def test_read_by_group_and_as_a_stream(shard: Path) -> None:
    seen = inspect(shard)
    assert seen.groups == 3
    assert [t for g in range(3) for t in read_group(shard, g)] == texts(2500)
    assert list(read_documents(shard, 100)) == texts(2500)


def test_marks_differ_where_texts_do(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", texts(10))
    write_shard(tmp_path / "b.parquet", texts(10))
    write_shard(tmp_path / "c.parquet", texts(11))
    a, b, c = (inspect(tmp_path / f"{name}.parquet").mark for name in "abc")
    assert a == b != c


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=40),
    st.integers(1, 5),
    st.integers(1, 30),
)
def test_shards_close_where_they_should(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], group: int, chars: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    paths = write_shards(iter(documents), folder, chars=chars, group=group)
    parts = [pq.read_table(path)["text"].to_pylist() for path in paths]
    assert [text for part in parts for text in part] == documents
    assert [path.name for path in paths] == [f"shard_{n:05d}.parquet" for n in range(len(paths))]
    for part in parts[:-1]:
        assert len(part) % group == 0
        assert sum(map(len, part)) >= chars
    for part in parts:
        assert part
        before = part[
            : (len(part) - 1) // group * group
        ]  # without its last group it would not have closed
        assert sum(map(len, before)) < chars


def test_a_source_that_fails_leaves_no_half_shard(tmp_path: Path) -> None:
    def source() -> Iterator[str]:
        yield from texts(30)
        raise RuntimeError("torn")

    with pytest.raises(RuntimeError):
        write_shards(source(), tmp_path, chars=100, group=10)
    assert not list(tmp_path.glob(".*"))
    whole = sorted(tmp_path.glob("*.parquet"))
    assert whole
    assert all(damage(path) is None for path in whole)


def test_every_cut_is_seen(shard: Path) -> None:
    contents = shard.read_bytes()
    assert damage(shard) is None
    for size in [*range(20), *range(20, len(contents), 997), len(contents) - 1]:
        shard.write_bytes(contents[:size])
        assert damage(shard), size
        with pytest.raises(NanochatError, match="do this"):
            inspect(shard, "do this")


@pytest.mark.parametrize(
    ("contents", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\n<!doctype html><html></html>", "web page"),
        (b'{"error": "no"}', "JSON"),
        (b"", "empty"),
        (b"hello", "no parquet file"),
        (b"PAR1PAR1", "cut"),
        (b"PAR1" + b"x" * 40 + b"\x10\0\0\0PAR1", "cannot be read"),
    ],
)
def test_what_is_no_shard(tmp_path: Path, contents: bytes, what: str) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(contents)
    with pytest.raises(NanochatError, match=what) as error:
        inspect(path)
    assert "\n" not in str(error.value)
    assert "python -m nanochat.dataset" in str(error.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(NanochatError, match="No such file"):
        inspect(tmp_path / "none.parquet")


def test_foreign_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": ["a"], "id": [1]}), path)
    for call in (inspect, lambda p: read_group(p, 0), lambda p: list(read_documents(p))):
        with pytest.raises(NanochatError, match=r"no column `text` but `content`, `id`"):
            call(path)
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(NanochatError, match="int64"):
        inspect(path)


def test_foreign_kinds_of_strings(tmp_path: Path) -> None:
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        path = tmp_path / "a.parquet"
        pq.write_table(
            pa.table({"id": [1, 2, 3], "text": pa.array(["a", None, "b"]).cast(kind)}), path
        )
        assert inspect(path).groups == 1
        assert read_group(path, 0) == ["a", "", "b"]


def test_damage_inside_is_one_sentence(shard: Path) -> None:
    contents = bytearray(shard.read_bytes())
    contents[4:400] = bytes(396)
    shard.write_bytes(contents)
    with pytest.raises(NanochatError, match="row group 0 of") as error:
        read_group(shard, 0)
    assert "\n" not in str(error.value)


def spoilt(shard: Path, count: int) -> Iterator[None]:
    """The same shard with a byte changed, each time another one."""
    sound = shard.read_bytes()
    random.seed(5)
    for at in random.sample(range(len(sound)), count):
        changed = bytearray(sound)
        changed[at] ^= random.randrange(1, 256)
        shard.write_bytes(changed)
        yield
    shard.write_bytes(sound)


def test_no_damage_changes_the_text_in_silence(shard: Path) -> None:
    survived = 0
    for _ in spoilt(shard, 100):
        with pytest.raises(NanochatError) as error:
            [read_group(shard, group) for group in range(inspect(shard).groups)]
        assert "\n" not in str(error.value)
        with pytest.raises(NanochatError):
            list(read_documents(shard))
        survived += 1
    assert survived == 100
    assert list(read_documents(shard)) == texts(2500)


def test_pages_vouch_for_text_that_was_copied_without_its_checksums(shard: Path) -> None:
    (shard.parent / checksums.FILE).unlink()
    footer = int.from_bytes(shard.read_bytes()[-8:-4], "little") + 8
    body = shard.stat().st_size - footer
    sound = shard.read_bytes()
    refused = 0
    for at in range(4, body, body // 40):
        changed = bytearray(sound)
        changed[at] ^= 0x10
        shard.write_bytes(changed)
        try:
            assert list(read_documents(shard)) == texts(2500), f"byte {at}"
        except NanochatError:
            refused += 1
    assert refused > 30


def test_damaged_checksums_are_not_passed_over(shard: Path) -> None:
    (shard.parent / checksums.FILE).write_text('{"a": ')
    with pytest.raises(NanochatError, match=r"checksums\.json cannot be read"):
        read_group(shard, 0)


# --- folders


def test_a_manifest_pins_validation(tmp_path: Path) -> None:
    put(tmp_path, "shard_00000.parquet", "shard_00001.parquet", "shard_00002.parquet")
    write_manifest(
        tmp_path, {"validation": "shard_00001.parquet", "train": ["shard_00000.parquet"]}
    )
    for more in ((), ("shard_00003.parquet", "val.parquet")):
        put(tmp_path, *more)
        data = open_folder(tmp_path)
        assert data.validation.name == "shard_00001.parquet"
        assert data.validation not in data.train
        assert len(data.train) == 2 + len(more)
    (tmp_path / "shard_00000.parquet").unlink()
    with pytest.raises(NanochatError, match=r"lacks `shard_00000.parquet`"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "validation", "train"),
    [
        (["a", "b", "c"], "c", ["a", "b"]),
        (["train-0", "val-0", "val-1"], "val-0", ["train-0"]),
        (["validation", "x"], "validation", ["x"]),
        (["interval", "retrieval", "x"], "x", ["interval", "retrieval"]),
    ],
)
def test_validation_in_foreign_folders(
    tmp_path: Path, names: list[str], validation: str, train: list[str]
) -> None:
    put(tmp_path, *(f"{name}.parquet" for name in names))
    data = open_folder(tmp_path)
    assert data.validation.stem == validation
    assert [path.stem for path in data.train] == train


def test_the_published_name_wins(tmp_path: Path) -> None:
    put(tmp_path, "shard_00000.parquet", "shard_00009.parquet", "zzz.parquet")
    data = open_folder(tmp_path, validation="shard_00009.parquet")
    assert data.validation.name == "shard_00009.parquet"
    with pytest.raises(NanochatError, match=r"lacks shard_00042.parquet.*; run this"):
        open_folder(tmp_path, validation="shard_00042.parquet", cure="run this")


def test_too_little(tmp_path: Path) -> None:
    with pytest.raises(NanochatError, match="no shards"):
        open_folder(tmp_path / "none")
    put(tmp_path, "a.parquet", ".hidden.parquet")
    with pytest.raises(NanochatError, match="a shard each"):
        open_folder(tmp_path)


@pytest.mark.parametrize("contents", ["{", "[]", "{}", '{"validation": 3}', "\xff"])
def test_a_broken_manifest(tmp_path: Path, contents: str) -> None:
    put(tmp_path, "a.parquet", "b.parquet")
    (tmp_path / "dataset.json").write_text(contents, encoding="latin-1")
    with pytest.raises(NanochatError, match=r"dataset\.json cannot be read"):
        open_folder(tmp_path)

"""The trainer's base folder: whole, cut, empty and unfetched files, made byte by byte."""

from __future__ import annotations

import io
import json
import os
import pickle
import threading
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doctor.facts import Storage
from doctor.machine.system import System
from doctor.probe import storage
from doctor.probe.storage import parquet_damage

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 93000000\n"


def parquet(body: bytes = b"data" * 50, footer: bytes = b"footer" * 9) -> bytes:
    """A file as Apache Parquet lays it out; what lies between head and footer is not looked at."""
    return b"PAR1" + body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def checkpoint() -> bytes:
    """What torch.save writes: a zip with stored members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("model/data/0", bytes(range(256)) * 40)
    return buffer.getvalue()


def look(root: Path, *, base: str = "/base", home: str | None = None) -> Storage:
    lines = [f"NANOCHAT_BASE_DIR={base}"] if base else []
    lines += [f"HOME={home}"] if home else []
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/environment").write_text("\n".join(lines))
    return storage.probe(System(root))


def put(root: Path, path: str, data: bytes) -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


WHOLE = parquet()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (WHOLE, None),
        (parquet(b"", b""), None),
        (parquet(b"x" * 100_000), None),
        (b"", "empty"),
        (POINTER, "a Git LFS pointer, not the file"),
        (b"PAR1", "no parquet file"),
        (b"PAR1PAR1", "no parquet file"),
        (b"<html>404 Not Found</html>", "no parquet file"),
        (bytes(500), "no parquet file"),
        (WHOLE[:-1], "cut short: no footer at its end"),
        (WHOLE[: len(WHOLE) // 2], "cut short: no footer at its end"),
        (WHOLE + b"\0", "cut short: no footer at its end"),
        (b"PAR1" + bytes(100) + (10**6).to_bytes(4, "little") + b"PAR1",
         "damaged: its footer is longer than the file"),
        (b"PAR1" + (2**32 - 1).to_bytes(4, "little") + b"PAR1",
         "damaged: its footer is longer than the file"),
    ],
)  # fmt: skip
def test_parquet(tmp_path: Path, data: bytes, why: str | None) -> None:
    path = put(tmp_path, "shard_00000.parquet", data)
    assert parquet_damage(System(), str(path)) == why


def test_a_download_that_broke_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    for end in range(len(WHOLE)):
        path.write_bytes(WHOLE[:end])
        assert parquet_damage(System(), str(path)), end


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_as_parquet(tmp_path: Path, data: bytes, framed: bool) -> None:
    path = put(tmp_path, "x.parquet", b"PAR1" + data + b"PAR1" if framed else data)
    why = parquet_damage(System(), str(path))
    assert why is None or why


def test_places_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "loop.parquet").symlink_to("loop.parquet")
    (tmp_path / "gone.parquet").symlink_to("nowhere")
    for name in ("folder", "loop", "gone"):
        for system, base in ((System(tmp_path), ""), (System(), str(tmp_path))):
            assert parquet_damage(system, f"{base}/{name}.parquet")


def test_shards(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path, f"base/base_data/shard_{i:05}.parquet", parquet(bytes(1 << 20)))
    put(tmp_path, "base/base_data/shard_00003.parquet", WHOLE[:99])
    put(tmp_path, "base/base_data/shard_00004.parquet.tmp", b"")
    put(tmp_path, "base/base_data_climbmix/shard_00000.parquet", POINTER)
    one, two = look(tmp_path).shards
    assert (one.path, one.count, one.total_mib) == ("/base/base_data", 4, 3)
    assert one.damaged == ("shard_00003.parquet: cut short: no footer at its end",)
    assert two.damaged == ("shard_00000.parquet: a Git LFS pointer, not the file",)


PICKLE = pickle.dumps({"ranks": list(range(500))})
TOKENIZER = json.dumps({"model": {"vocab": {str(i): i for i in range(200)}}}).encode()
OWN = b'rustbpe tokenizer 1\npattern "."\ntokens 2\n61 0\n62 1\nspecial_tokens 1\n"<|bos|>" 2\n'
OWN += b"crc32 %08x\n" % zlib.crc32(OWN)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("tokenizer.pkl", PICKLE, None),
        ("tokenizer.pkl", pickle.dumps([1], protocol=2), None),
        ("tokenizer.pkl", PICKLE[:-1], "cut short or no pickle"),
        ("tokenizer.pkl", PICKLE[: len(PICKLE) // 2], "cut short or no pickle"),
        ("tokenizer.pkl", b"text", "cut short or no pickle"),
        ("tokenizer.pkl", b"", "empty"),
        ("tokenizer.pkl", POINTER, "a Git LFS pointer, not the file"),
        ("tokenizer.json", TOKENIZER, None),
        ("tokenizer.json", TOKENIZER + b"\n", None),
        ("tokenizer.json", TOKENIZER[:-7], "cut short"),
        ("tokenizer.json", b"", "empty"),
        ("tokenizer.bpe", OWN, None),
        ("tokenizer.bpe", OWN[:-1], "cut short"),
        ("tokenizer.bpe", OWN[:-15], "cut short"),
        ("tokenizer.bpe", OWN.replace(b"62 1", b"63 1"), "damaged: its checksum does not match"),
        ("tokenizer.bpe", b"anything", "not a rustbpe tokenizer file"),
        ("tokenizer.bpe", b"", "empty"),
    ],
)
def test_tokenizer(tmp_path: Path, name: str, data: bytes, why: str | None) -> None:
    put(tmp_path, f"base/tokenizer/{name}", data)
    found = look(tmp_path)
    assert (found.tokenizer, found.tokenizer_damage) == (f"/base/tokenizer/{name}", why)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b'{"x": "' + b"y" * (9 << 20) + b'"}'),
        ("tokenizer.pkl", pickle.dumps(b"y" * (9 << 20))),
    ],
    ids=["json", "pkl"],
)
def test_a_large_tokenizer_is_whole(tmp_path: Path, name: str, data: bytes) -> None:
    put(tmp_path, f"base/tokenizer/{name}", data)
    assert look(tmp_path).tokenizer_damage is None


def test_checkpoints_newest_first_and_cut_ones_named(tmp_path: Path) -> None:
    whole = checkpoint()
    for step in (500, 1000, 1500):
        put(tmp_path, f"base/base_checkpoints/d12/model_{step:06}.pt", whole)
    put(tmp_path, "base/base_checkpoints/d20/model_000100.pt", whole[: len(whole) // 2])
    put(tmp_path, "base/base_checkpoints/d20/optim_000100.pt", b"")
    put(tmp_path, "base/base_checkpoints/d4/model_009999.pt", b"old")
    put(tmp_path, "base/chatsft_checkpoints/d12/model_000650.safetensors", b"no zip")
    put(tmp_path, "base/mid_checkpoints/d12/meta_000001.json", b"{}")
    found = look(tmp_path)
    assert found.checkpoints == {
        "base": ("d20/model_000100.pt", "d12/model_001500.pt", "d12/model_001000.pt"),
        "sft": ("d12/model_000650.safetensors",),
    }
    assert found.checkpoint_damage == ("/base/base_checkpoints/d20/model_000100.pt",)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_anywhere(tmp_path: Path, part: float) -> None:
    whole = checkpoint()
    put(tmp_path, "base/base_checkpoints/d4/model_000001.pt", whole[: int(len(whole) * part)])
    assert look(tmp_path).checkpoint_damage == ("/base/base_checkpoints/d4/model_000001.pt",)


def test_a_whole_checkpoint_is_no_damage(tmp_path: Path) -> None:
    put(tmp_path, "base/base_checkpoints/d4/model_000001.pt", checkpoint())
    assert look(tmp_path).checkpoint_damage == ()


def test_a_checkpoint_that_links_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / "base/base_checkpoints/d4"
    folder.mkdir(parents=True)
    (folder / "model_000001.pt").symlink_to("model_000001.pt")
    assert look(tmp_path).exists


def test_a_checkpoint_that_is_a_pipe(tmp_path: Path) -> None:
    folder = tmp_path / "base/base_checkpoints/d4"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "model_000001.pt")
    thread = threading.Thread(target=look, args=(tmp_path,), daemon=True)
    thread.start()
    thread.join(1)
    hung = thread.is_alive()
    if hung:  # let it go on
        os.close(os.open(folder / "model_000001.pt", os.O_WRONLY | os.O_NONBLOCK))
        thread.join(5)
    assert not hung


@pytest.mark.parametrize(
    ("base", "home", "expected", "is_set"),
    [
        ("/data/nanochat", None, "/data/nanochat", True),
        ("", "/root", "/root/.cache/nanochat", False),
        ("", None, None, False),
    ],
)
def test_base_folder(
    tmp_path: Path, base: str, home: str | None, expected: str | None, is_set: bool
) -> None:
    found = look(tmp_path, base=base, home=home)
    assert (found.base_dir, found.base_dir_set, found.exists) == (expected, is_set, False)
    assert (found.writable, found.free) == (None, None)
    assert ("base_dir" in found.unknown) == (expected is None)


def test_looking_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    found = storage.probe(System())
    assert found.exists is False and found.writable is None
    assert found.free is not None and found.free > 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "base").mkdir()
    found = storage.probe(System())
    assert (found.exists, found.writable, found.shards) == (True, True, ())

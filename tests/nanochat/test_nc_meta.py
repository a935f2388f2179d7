"""Meta files: what was written is believed, and nothing else, however it came about."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from nanochat import meta
from nanochat.config import ModelConfig
from nanochat.errors import NanochatError

VALUES: dict[str, Any] = {
    "step": 30,
    "val_bpb": 1 / 3,
    "model_config": ModelConfig.from_depth(2, vocab_size=300, sequence_len=64).to_dict(),
    "user_config": {"depth": 2, "run": "dummy", "matrix_lr": 0.02, "note": "é"},
    "files": {"model_000030.pt": {"size": 1234, "crc32": "0badcafe"}},
    "loop": {"steps": 30, "progress": {"seconds": 1.25e-3, "flops": 10**20, "loss": float("nan")}},
}


def written(folder: Path, values: Any = VALUES) -> Path:
    path = folder / "meta_000030.json"
    meta.write(path, values)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = meta.read(written(tmp_path), 30)
    assert repr({key: found[key] for key in VALUES}) == repr(VALUES)


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    path = written(tmp_path)
    sound, whole = path.read_bytes(), repr(meta.read(path, 30))
    random.seed(1)
    for at in random.sample(range(8 * len(sound)), 400):
        damaged = bytearray(sound)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            assert repr(meta.read(path, 30)) == whole, f"bit {at}"  # white space
        except NanochatError:
            pass


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\xff\xfe{",
        b"[" * 100_000,
        b"null",
        b"7",
        b'{"files": [], "format": 1}',
        b'{"files": {"a": 1}, "format": 1, "step": 30}',
        b'{"files": {"../../x": {"size": 1, "crc32": "0"}}, "format": 1, "step": 30}',
        b'{"files": {"model_000030.pt": {"size": "1"}}, "format": 1, "step": 30}',
        b'{"files": {}, "format": 1, "step": 30}',
        b'{"files": {}, "format": 1, "step": 30, "model_config": {"depth": "4"}}',
        b'{"files": {}, "format": {}, "step": 30, "model_config": null}',
        b'{"files": {}, "format": 2, "step": 30, "model_config": null}',
    ],
)
def test_what_no_trainer_wrote(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "meta_000030.json"
    path.write_bytes(contents)
    with pytest.raises(NanochatError):
        meta.read(path, 30)


def test_a_file_without_end(tmp_path: Path) -> None:
    (tmp_path / "meta_000030.json").symlink_to("/dev/zero")
    with pytest.raises(meta.Damaged, match="more than 16 MiB"):
        meta.read(tmp_path / "meta_000030.json", 30)


def test_the_file_of_another_step(tmp_path: Path) -> None:
    os.rename(written(tmp_path), tmp_path / "meta_000040.json")
    with pytest.raises(meta.Damaged, match="is of step 30"):
        meta.read(tmp_path / "meta_000040.json", 40)


def test_a_checkpoint_from_before_there_was_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "meta_000030.json"
    path.write_text(json.dumps({**VALUES, "format": 1}))
    assert meta.read(path, 30)["val_bpb"] == 1 / 3


def test_a_later_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta, "FORMAT", 3)
    path = written(tmp_path)
    monkeypatch.undo()
    with pytest.raises(meta.Foreign, match="has format 3, and this trainer reads format 2"):
        meta.read(path, 30)

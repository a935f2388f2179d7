"""Vocabularies of others are read as tiktoken reads them, and never fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from pathlib import Path

import pytest

tiktoken = pytest.importorskip("tiktoken")
from crate import rustbpe  # noqa: E402
from tiktoken.load import data_gym_to_mergeable_bpe_ranks  # noqa: E402

from nanochat import vocabularies  # noqa: E402
from nanochat.errors import NanochatError  # noqa: E402
from nanochat.vocabularies import KNOWN, Vocabulary  # noqa: E402

TEXT = "Hello there, the theatre of 1234 things: they're  héré. 你好 \n\n\t end"
MERGES = "#version: 0.2\nt h\nth e\nĠ the\nh e\nĠ 1\nÃ ©\n"
"""A little of GPT-2's file; Ġ spells the blank, Ã © the two bytes of é."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of tiktoken's, and no way to the network."""

    def refuse(*_: object) -> None:
        raise AssertionError("a vocabulary was about to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def trained(pattern: str) -> rustbpe.Tokenizer:
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator([TEXT] * 2, 290, pattern=pattern)
    return tokenizer


def tiktoken_file(tokenizer: rustbpe.Tokenizer) -> bytes:
    """In tiktoken's own format."""
    return b"".join(
        base64.b64encode(token) + b" %d\n" % rank for token, rank in tokenizer.get_mergeable_ranks()
    )


def found(folder: Path | None) -> tuple[dict[str, Vocabulary], list[str]]:
    said: list[str] = []
    return {v.name: v for v in vocabularies.find(folder, said.append)}, said


def test_nothing_there(cache: Path) -> None:
    """Each is said to be left out, with the name of the file that would help."""
    vocabulary, said = found(None)
    assert not vocabulary
    assert len(said) == 2
    assert "gpt2 is not on this disk" in said[0]
    assert "cl100k_base.tiktoken" in said[1]


def test_in_the_cache_of_tiktoken(cache: Path) -> None:
    """Under the SHA-1 of its address, in either variable."""
    ours = trained(rustbpe.GPT4_PATTERN)
    url = KNOWN[1].sources[0].url
    (cache / hashlib.sha1(url.encode()).hexdigest()).write_bytes(tiktoken_file(ours))
    vocabulary, said = found(None)
    assert list(vocabulary) == ["cl100k_base"]
    assert len(said) == 1
    encoding = tiktoken.Encoding("it", **ours.to_tiktoken())
    assert vocabulary["cl100k_base"].core.encode(TEXT) == encoding.encode_ordinary(TEXT)


@pytest.mark.parametrize("name", ["gpt2.tiktoken", "r50k_base.tiktoken"])
def test_in_a_folder(cache: Path, tmp_path: Path, name: str) -> None:
    """By any of its names, with the pattern of GPT-2."""
    ours = trained(rustbpe.GPT2_PATTERN)
    (tmp_path / name).write_bytes(tiktoken_file(ours))
    vocabulary, _ = found(tmp_path)
    assert vocabulary["gpt2"].core.encode(TEXT) == ours.encode(TEXT)


def test_merges_of_gpt2(cache: Path, tmp_path: Path) -> None:
    """tiktoken's own reader of this format, which compares with encoder.json, gives the same ranks."""
    (tmp_path / "vocab.bpe").write_text(MERGES, encoding="utf-8")
    core = found(tmp_path)[0]["gpt2"].core
    ranks = dict(core.get_mergeable_ranks())
    assert ranks["é".encode()] == 261

    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spelling = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        spelling.setdefault(byte, chr(256 + len(spelling) - len(visible)))
    encoder = {"".join(spelling[byte] for byte in token): rank for token, rank in ranks.items()}
    (tmp_path / "encoder.json").write_text(json.dumps(encoder))
    theirs = data_gym_to_mergeable_bpe_ranks(
        str(tmp_path / "vocab.bpe"), str(tmp_path / "encoder.json")
    )
    assert ranks == theirs


def test_hugging_face_file(cache: Path, tmp_path: Path) -> None:
    """A tokenizer.json counts under the name of its folder."""
    ours = trained(rustbpe.GPT4_PATTERN)
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(ours.to_hf_json(), encoding="utf-8")
    vocabulary, _ = found(folder)
    assert vocabulary["llama"].core.encode(TEXT) == ours.encode(TEXT)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("gpt2.tiktoken", b"<html>"),
        ("gpt2.tiktoken", b"IQ== 0\nI 1\n"),
        ("gpt2.tiktoken", b""),
        ("vocab.bpe", b"#version: 0.2\nt h e\n"),
        ("vocab.bpe", "#version: 0.2\nt 你\n".encode()),
        ("vocab.bpe", b"\xff\xfe"),
        ("cl100k_base.tiktoken", b"IQ== one\n"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff"),
    ],
)
def test_damaged_files(cache: Path, tmp_path: Path, name: str, contents: bytes) -> None:
    """One sentence with the file's name, and the file stays."""
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(
        NanochatError, match=f"{name} holds no vocabulary that can be read"
    ) as caught:
        found(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / name).read_bytes() == contents


def test_no_such_folder(cache: Path, tmp_path: Path) -> None:
    """A name with a mistake in it is not an empty folder."""
    with pytest.raises(NanochatError, match="is no folder"):
        found(tmp_path / "nowhere")

"""Exported models are read by programs that know nothing of this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import crate  # noqa: F401
import torch
from safetensors.torch import load_file

from nanochat.checkpoint import describe_tokenizer, save
from nanochat.config import ModelConfig
from nanochat.errors import NanochatError
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer
from scripts.export import main

TEXT = "the cat sat on the mat with the other cat"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def trained(base: Path) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    tokenizer = Tokenizer.train([TEXT] * 3, 270)
    tokenizer.save()
    config = ModelConfig.from_depth(
        2, vocab_size=tokenizer.vocab_size, sequence_len=64, aspect_ratio=16, head_dim=8
    )
    torch.manual_seed(0)
    model = GPT(config)
    model.init_weights()
    model.use(dtype=torch.bfloat16, embedding_dtype=torch.bfloat16)
    meta = {"model_config": config.to_dict(), "tokenizer": describe_tokenizer(tokenizer)}
    save(base / "base_checkpoints" / "d2", 7, model=model.state_dict(), meta=meta)
    return model, tokenizer, meta


def test_other_programs_read_it(
    base: Path, trained: tuple[GPT, Tokenizer, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, _, _ = trained
    out = base / "out" / "deep"
    main(["-i", "base", "--model_tag", "d2", "--step", "7", "-o", str(out)])
    files = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in out.iterdir()} == files
    assert all(name in capsys.readouterr().out for name in ["model.safetensors"])
    state = load_file(out / "model.safetensors")
    want = model.state_dict()
    assert state.keys() == want.keys()
    assert all(torch.equal(state[k], t) and state[k].dtype == t.dtype for k, t in want.items())
    config = json.loads((out / "config.json").read_text())
    assert ModelConfig(**{k: config[k] for k in model.config.to_dict()}) == model.config
    assert (config["step"], config["dtypes"]) == (7, ["bfloat16", "float32"])
    special = json.loads((out / "tokenizer_config.json").read_text())
    assert special["bos_token"] == "<|bos|>" and len(special["additional_special_tokens"]) == 8


def test_the_tokenizer_is_that_of_hugging_face(
    base: Path, trained: tuple[GPT, Tokenizer, Any]
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    main(["-i", "base", "-o", str(base / "out")])
    read = tokenizers.Tokenizer.from_file(str(base / "out" / "tokenizer.json"))
    text = "The cat's 12345 mats…\n\n 猫"
    assert read.encode(text, add_special_tokens=False).ids == trained[1].encode(text)


def test_nothing_is_overwritten(base: Path, trained: object) -> None:
    main(["-i", "base", "-o", str(base / "out")])
    before = {path.name: path.stat().st_mtime_ns for path in (base / "out").iterdir()}
    with pytest.raises(NanochatError, match="exists already"):
        main(["-i", "base", "-o", str(base / "out")])
    assert {path.name: path.stat().st_mtime_ns for path in (base / "out").iterdir()} == before


def test_no_checkpoint_writes_nothing(base: Path, trained: object) -> None:
    for words in (["-i", "rl"], ["-i", "base", "--model-tag", "d9"], ["-i", "base", "--step", "8"]):
        with pytest.raises(NanochatError, match="there is no complete"):
            main([*words, "-o", str(base / "out")])
    assert not (base / "out").exists()


def test_another_tokenizer_is_refused(base: Path, trained: object) -> None:
    Tokenizer.train(["completely different words here"], 270).save()
    with pytest.raises(NanochatError, match="trained with another tokenizer"):
        main(["-i", "base", "-o", str(base / "out")])
    assert not (base / "out").exists()


def test_wrong_usage(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["-o", "x", "--format", "gguf"], ["-i", "base"], ["-o", "x", "--step", "-1"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1

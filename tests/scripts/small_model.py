"""A base folder with everything that an evaluation needs, as small as it can be."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml

from nanochat.checkpoint import describe_tokenizer, save
from nanochat.config import ModelConfig
from nanochat.model import GPT
from nanochat.shards import write_shard
from nanochat.tokenizer import Tokenizer

DOCUMENTS = [f"Document {i}: the quick brown fox jumps over {i * i} lazy dogs." for i in range(60)]
STEP = 7


def make_base(base: Path) -> Path:
    """Data, tokenizer, a model that was never trained, and a bundle of three tasks below `base`."""
    torch.set_num_threads(1)  # more of them cost more than they do in a model of this size
    write_shard(base / "data" / "shard_00000.parquet", DOCUMENTS[:40])
    write_shard(base / "data" / "val.parquet", DOCUMENTS[40:])
    tokenizer = Tokenizer.train(DOCUMENTS, 300)
    tokenizer.save(base / "tokenizer" / "tokenizer.bpe")
    config = ModelConfig.from_depth(
        2, vocab_size=tokenizer.vocab_size, sequence_len=32, aspect_ratio=16, head_dim=8
    )
    torch.manual_seed(0)
    model = GPT(config)
    model.init_weights()
    # A fresh head is so small that all tokens are equally likely; this one has opinions.
    torch.nn.init.normal_(model.head.weight, std=0.5)
    meta = {"model_config": config.to_dict(), "tokenizer": describe_tokenizer(tokenizer)}
    save(base / "base_checkpoints" / "d2", STEP, model=model.state_dict(), meta=meta)
    make_bundle(base / "eval_bundle")
    return base


def make_bundle(folder: Path) -> None:
    """A task of each type, with eleven questions."""
    rows = {
        "copa": [
            {"query": f"fox {i}", "choices": ["jumps", "sleeps", "over"], "gold": i % 3}
            for i in range(11)
        ],
        "winograd": [
            {"context_options": [f"dog {i}", f"fox {i}"], "continuation": "jumps", "gold": i % 2}
            for i in range(11)
        ],
        "jeopardy": [{"context": f"lazy {i}", "continuation": "dogs"} for i in range(11)],
    }
    kinds = {"copa": "multiple_choice", "winograd": "schema", "jeopardy": "language_modeling"}
    (folder / "eval_data").mkdir(parents=True)
    tasks = [
        {
            "label": label,
            "dataset_uri": f"{label}.jsonl",
            "num_fewshot": [2],
            "icl_task_type": kinds[label],
        }
        for label in rows
    ]
    (folder / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": tasks}))
    (folder / "eval_meta_data.csv").write_text(
        "Eval Task,Random baseline\ncopa,33\nwinograd,50\njeopardy,0\n"
    )
    for label, own in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in own)
        (folder / "eval_data" / f"{label}.jsonl").write_text(lines)

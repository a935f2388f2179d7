"""Write a checkpoint for other programs: `python -m scripts.export -i sft -o exported/d12`.

Makes model.safetensors, config.json, tokenizer.json and tokenizer_config.json. The architecture is nanochat's
own, so loading the model elsewhere takes code for it; weights and tokenizer load with safetensors and Hugging
Face's tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint import STAGES, Checkpoint, check_tokenizer, find
from nanochat.errors import NanochatError
from nanochat.files import atomic
from nanochat.flags import Parser, at_least, folder_name, run
from nanochat.tokenizer import BOS, SPECIALS, Tokenizer
from nanochat.visible import visible

WEIGHTS = "model.safetensors"


def main(argv: Sequence[str] | None = None) -> None:
    """Export one checkpoint."""
    parser = Parser("Write a checkpoint in a format that other programs read.")
    parser.add_argument("--format", choices=sorted(FORMATS), default="safetensors", help="format")
    parser.add_argument(
        "-i", "--source", choices=sorted(STAGES), default="sft", help="stage of training"
    )
    parser.add_argument(
        "--model-tag",
        type=folder_name,
        help="folder of the checkpoint; the largest depth if left out",
    )
    parser.add_argument("--step", type=at_least(0), help="step; the last one if left out")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder to write into; made if missing"
    )
    args = parser.parse_args(argv)
    if (args.output / WEIGHTS).exists():
        raise NanochatError(f"{args.output / WEIGHTS} exists already; name another folder with -o")
    checkpoint = find(args.source, args.model_tag, args.step)
    tokenizer = Tokenizer.load()
    check_tokenizer(checkpoint, tokenizer)
    written = FORMATS[args.format](checkpoint, tokenizer, args.output)
    for path in written:
        print(visible(f"{path}  {path.stat().st_size:,} bytes"))


def to_safetensors(checkpoint: Checkpoint, tokenizer: Tokenizer, folder: Path) -> list[Path]:
    """Write weights, configuration and tokenizer; returns the files, weights last.

    Raises:
        NanochatError: safetensors is not installed, the checkpoint cannot be read, or a file cannot be
            written.
    """
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise NanochatError(
            "the export needs safetensors, which is not installed; 'pip install safetensors'"
        ) from None
    state = checkpoint.model_state()
    texts = {
        "config.json": json.dumps(_config(checkpoint, state), indent=2),
        "tokenizer.json": tokenizer.core.to_hf_json(),
        "tokenizer_config.json": json.dumps(_tokenizer_config(checkpoint), indent=2),
    }
    for name, text in texts.items():
        with atomic(folder / name, "w") as file:
            file.write(text)
    # By name into the partial file, for safetensors takes no open one; as bytes, the model would be in memory
    # twice.
    with atomic(folder / WEIGHTS) as file:
        save_file(state, file.name, metadata={"format": "pt"})
    return [folder / name for name in (*texts, WEIGHTS)]


FORMATS: Mapping[str, Callable[[Checkpoint, Tokenizer, Path], list[Path]]] = {
    "safetensors": to_safetensors
}


def _config(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "model_type": "nanochat",
        "architectures": ["GPT"],
        **config.to_dict(),
        "padded_vocab": config.padded_vocab,
        "windows": config.windows,
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()}),
        "step": checkpoint.step,
        "val_bpb": checkpoint.meta.get("val_bpb"),
    }


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": checkpoint.config.sequence_len,
        "bos_token": BOS,
        "additional_special_tokens": [name for name in SPECIALS if name != BOS],
    }


if __name__ == "__main__":
    run(main)

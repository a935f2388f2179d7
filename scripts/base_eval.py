"""Examine a base model: CORE, bits per byte, samples.

python -m scripts.base_eval --model-tag d4
torchrun --nproc_per_node 8 -m scripts.base_eval --eval core
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import device as devices  # first: it sets what torch reads when it is imported

import torch  # isort: skip

from nanochat import core
from nanochat.bundle import Bundle, default_folder, read_bundle
from nanochat.checkpoint import Checkpoint, load_model
from nanochat.core import GPT2_CORE, Scores, TaskScore
from nanochat.dataset import resolve
from nanochat.device import Device
from nanochat.distributed import World, join
from nanochat.engine import Engine
from nanochat.errors import NanochatError
from nanochat.evaluation import PROMPTS, evaluating, text_bpb
from nanochat.files import atomic, base_dir
from nanochat.flags import Parser, at_least, folder_name, positive, run
from nanochat.model import GPT
from nanochat.shards import Dataset
from nanochat.tokenizer import Tokenizer
from nanochat.visible import show_warnings, visible

PARTS = ("core", "bpb", "sample")
SAMPLE_TOKENS = 16
FREE_SAMPLES, FREE_TOKENS = 4, 64
"""Samples that begin with nothing, and their length."""


def main(argv: Sequence[str] | None = None) -> None:
    """Examine as the flags say."""
    parser = Parser("Examine a base model: CORE, bits per byte, samples.")
    parser.add_argument("--eval", type=_parts, default=",".join(PARTS), help="what to do")
    parser.add_argument("--step", type=at_least(0), default=None, help="default: the last")
    parser.add_argument("--bundle", type=Path, default=None, help=f"default: {default_folder()}")
    parser.add_argument(
        "--max-per-task", type=at_least(-1), default=-1, help="questions of each task, -1: all"
    )
    add_flags(parser, split_tokens=40 * 524_288)
    args = parser.parse_args(argv)
    with examined(args, args.step) as candidate:
        bundle = _bundle(args, candidate) if "core" in args.eval else None
        dataset = resolve(args.data, say=candidate.say) if "bpb" in args.eval else None
        if bundle is not None:
            report_core(candidate, bundle, args.device_batch_size, args.max_per_task)
        if dataset is not None:
            report_bpb(candidate, dataset, args.device_batch_size, args.split_tokens)
        if "sample" in args.eval:
            report_samples(candidate)


def add_flags(parser: argparse.ArgumentParser, split_tokens: int) -> None:
    """The flags that all examinations share."""
    parser.add_argument(
        "--model-tag", type=folder_name, default=None, help="default: that of the largest depth"
    )
    parser.add_argument("--device-batch-size", type=positive, default=32, help="rows at once")
    parser.add_argument(
        "--split-tokens", type=positive, default=split_tokens, help="tokens of train and val"
    )
    parser.add_argument("--device-type", default=devices.AUTO, help=" | ".join(devices.KINDS))
    parser.add_argument("--data", default="auto", help="name or folder of a dataset")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that is examined, and where."""

    model: GPT
    tokenizer: Tokenizer
    checkpoint: Checkpoint
    device: Device
    world: World

    def say(self, line: str = "") -> None:
        """For people; from the first rank alone."""
        if self.world.first:
            print(visible(line), flush=True)

    def write(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write a table to `<base>/base_eval/<tag>_<step><name>.csv`, from the first rank alone."""
        if not self.world.first:
            return
        tag, step = self.checkpoint.folder.name, self.checkpoint.step
        path = base_dir() / "base_eval" / f"{tag}_{step:06d}{name}.csv"
        with atomic(path, "w") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        self.say(f"written to {path}")


@contextmanager
def examined(args: argparse.Namespace, step: int | None) -> Iterator[Candidate]:
    """The model that the flags name, on its device, and the ranks until the end of the block.

    Raises:
        WrongUsage: no such device type.
        NanochatError: no such checkpoint, or the device's memory is too small.
    """
    show_warnings()
    device = devices.find(args.device_type)
    world = join(device)
    try:
        model, tokenizer, checkpoint = load_model("base", device, args.model_tag, step, world=world)
        candidate = Candidate(
            model=model, tokenizer=tokenizer, checkpoint=checkpoint, device=device, world=world
        )
        for note in device.notes:
            candidate.say(f"note: {note}")
        dtype = str(model.compute_dtype).removeprefix("torch.")
        candidate.say(f"{checkpoint}, on {device.kind} ({device.name}), {dtype}")
        with evaluating(model):
            yield candidate
    except torch.OutOfMemoryError as error:
        raise NanochatError(
            f"{device.name} ran out of memory with {args.device_batch_size} rows at once; choose a "
            "smaller --device-batch-size"
        ) from error
    finally:
        world.close()


# --- CORE -------------------------------------------------------------------------------------


def report_core(candidate: Candidate, bundle: Bundle, rows: int, max_per_task: int) -> Scores:
    """Score the tasks of a bundle, say and write what came out beside GPT-2's scores."""
    subject = core.Subject(
        model=candidate.model,
        tokenizer=candidate.tokenizer,
        device=candidate.device.torch_device,
        world=candidate.world,
        sequence_len=candidate.model.config.sequence_len,
        batch_size=rows,
    )
    began = time.monotonic()
    candidate.say()
    candidate.say(f"{'task':<34}{'shots':>5}{'questions':>11}{'accuracy':>10}{'centred':>9}")

    def heard(score: TaskScore) -> None:
        task = score.task
        numbers = f"{task.shots:>5}{score.asked:>11,}{score.accuracy:>10.4f}{score.centred:>9.4f}"
        candidate.say(f"{task.label:<34}{numbers}")

    scores = core.evaluate(subject, bundle, max_per_task, heard)
    candidate.say(f"{scores.name:<60}{scores.value:>9.4f}")
    for name, value in GPT2_CORE.items():
        candidate.say(f"{f'CORE of {name}':<60}{value:>9.4f}")
    candidate.say(f"in {time.monotonic() - began:.0f} s")
    candidate.write(
        "",
        [
            ["name", "shots", "questions", "accuracy", "centred"],
            *(
                [s.task.label, s.task.shots, s.asked, f"{s.accuracy:.6f}", f"{s.centred:.6f}"]
                for s in scores.tasks
            ),
            [scores.name, "", "", "", f"{scores.value:.6f}"],
            *([f"CORE of {name}", "", "", "", value] for name, value in GPT2_CORE.items()),
        ],
    )
    return scores


def _bundle(args: argparse.Namespace, candidate: Candidate) -> Bundle | None:
    """The bundle that is asked for; None where there is none and something else is left to do."""
    folder = args.bundle or default_folder()
    if args.bundle is None and not folder.exists() and args.eval != ("core",):
        candidate.say(
            f"note: CORE is left out, because there is no evaluation bundle in {folder}; fetch it with "
            "python -m nanochat.bundle, or name its folder with --bundle"
        )
        return None
    bundle = read_bundle(folder)
    if bundle.missing:
        candidate.say(
            f"note: {folder} lacks {', '.join(bundle.missing)}; the mean of the others is not CORE and "
            "compares with none below"
        )
    return bundle


# --- bits per byte and samples ------------------------------------------------------------------


def report_bpb(
    candidate: Candidate, dataset: Dataset, rows: int, tokens: int
) -> Mapping[str, float]:
    """Bits per byte of the training and the validation text; said and written."""
    candidate.say()
    found = {}
    for split, shards in {"train": dataset.train, "val": (dataset.validation,)}.items():
        found[split] = text_bpb(
            candidate.model,
            candidate.tokenizer,
            shards,
            device=candidate.device,
            world=candidate.world,
            rows=rows,
            length=candidate.model.config.sequence_len,
            tokens=tokens,
        )
        candidate.say(f"{split:<5} bits per byte {found[split]:.6f}")
    lines = [[split, f"{bits:.6f}"] for split, bits in found.items()]
    candidate.write("_bpb", [["split", "bits_per_byte"], *lines])
    return found


def report_samples(candidate: Candidate) -> None:
    """How the model goes on after a few beginnings, and what it says unasked."""
    if not candidate.world.first:
        return
    engine, tokenizer = Engine(candidate.model, candidate.tokenizer), candidate.tokenizer
    candidate.say()
    for prompt in PROMPTS:
        ids = [tokenizer.bos, *tokenizer.encode(prompt)]
        (row,) = engine.complete(ids, max_tokens=SAMPLE_TOKENS, temperature=0)
        candidate.say(f"{prompt}|{_shown(tokenizer, row)}")
    candidate.say()
    rows = engine.complete([tokenizer.bos], samples=FREE_SAMPLES, max_tokens=FREE_TOKENS)
    for row in rows:
        candidate.say(f"|{_shown(tokenizer, row)}")


def _shown(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """On one line, and nothing that a terminal would obey."""
    return repr(tokenizer.decode(ids))[1:-1]


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(
            f"unknown part '{unknown[0]}'; name some of {','.join(PARTS)}"
        )
    return parts


if __name__ == "__main__":
    run(main)

"""Checkpoints: `<base>/base_checkpoints/d12/{model,optim,state,meta}_000500…`, found, checked, kept few.

The meta file is written last, and lists every other file with its size and CRC-32. A step without it does not
exist: a run that is killed leaves complete checkpoints and, at most, files that the next save removes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nanochat import meta as meta_file
from nanochat.attention import choose
from nanochat.config import ModelConfig
from nanochat.device import AUTO, Device
from nanochat.distributed import World
from nanochat.errors import NanochatError, WrongUsage
from nanochat.files import base_dir, crc32
from nanochat.lock import Taken, hold
from nanochat.model import GPT
from nanochat.reshard import Share, reshard
from nanochat.tensors import Entry, read, write
from nanochat.tokenizer import Tokenizer

LOG = logging.getLogger(__name__)

STAGES: Mapping[str, str] = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
}
"""Stages of training -> folders below the base folder."""

FILE_OF_STEP = re.compile(
    r"\.?(?:model|optim|state|meta)_(\d+)(?:_rank\d+)?\.(?:pt|json)(?:\.\d+\.tmp)?"
)
LOCK = ".lock"
COMPILED_PREFIX = "_orig_mod."
"""What torch.compile puts before the names of a module's parameters."""

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A complete step."""

    folder: Path
    step: int
    meta: Mapping[str, Any]

    def __str__(self) -> str:
        return f"step {self.step} in {self.folder}"

    @property
    def config(self) -> ModelConfig:
        """The shape of its model.

        Raises:
            NanochatError: it was written by a version that knows other shapes.
        """
        return ModelConfig.from_dict(self.meta["model_config"])

    def model_state(self) -> dict[str, torch.Tensor]:
        """Parameters by name, on the CPU.

        Raises:
            NanochatError: the file cannot be read.
        """
        state = read(self.folder / f"model_{self.step:06d}.pt")
        return {name.removeprefix(COMPILED_PREFIX): tensor for name, tensor in state.items()}

    def loop_state(self) -> dict[str, Any]:
        """What the loop and the loader of rank 0 had to remember; arrays have become tensors.

        Raises:
            NanochatError: the file cannot be read.
        """
        return dict(read(self.folder / f"state_{self.step:06d}.pt"))

    def optimizer_state(self, world: World) -> Share:
        """This rank's share, whatever the number of ranks that saved it.

        Raises:
            NanochatError: it was not saved, or a file cannot be read.
        """
        names = [name for name in self.meta["files"] if name.startswith("optim_")]
        if not names:
            raise NanochatError(
                f"{self} has no optimizer state, so a run cannot resume from it; choose another checkpoint"
            )
        return reshard([self.folder / name for name in names], world.rank, world.size)


# --- writing ----------------------------------------------------------------------------------


def claim(folder: Path, world: World | None = None) -> None:
    """Keep a folder for this run until its process ends: two that saved there would remove each other's files.

    Raises:
        NanochatError: another run has it, or it cannot be written; on all ranks.
    """
    world = world or World()

    def take() -> None:
        if not world.first:
            return
        try:
            hold(folder / LOCK)
        except Taken as error:
            raise NanochatError(
                f"another run trains in {folder} ({error}); wait for it, end it, or give this one another --model-tag"
            ) from error

    together(world, take)


def save(
    folder: Path,
    step: int,
    *,
    model: Mapping[str, torch.Tensor],
    optimizer: Share | None = None,
    state: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any],
    keep: int = 2,
    world: World | None = None,
) -> Checkpoint:
    """Write a checkpoint; called by all ranks at once, and returns on all when it is complete.

    Args:
        model: parameters by name; those of rank 0 are written.
        optimizer: this rank's share, see `nanochat.reshard`.
        state: what rank 0 needs to go on: tensors, arrays, numbers, strings.
        meta: for JSON: val_bpb, model_config, user_config, device_batch_size, max_seq_len, total_batch_size,
            the loop's numbers and `tokenizer` (of `describe_tokenizer`). Step, ranks, torch and files are
            added.
        keep: how many complete checkpoints remain, this one and those before it; later steps, which
            another attempt left, are not touched.

    Raises:
        NanochatError: a rank could not write, on all ranks; what was there before is still there.
    """
    world = world or World()

    def write_share() -> dict[str, Entry]:
        contents: dict[str, Any] = {f"optim_{step:06d}_rank{world.rank}.pt": optimizer}
        if world.first:
            contents |= {f"model_{step:06d}.pt": dict(model), f"state_{step:06d}.pt": state or {}}
        return {
            name: write(folder / name, content)
            for name, content in contents.items()
            if content is not None
        }

    shares = together(world, write_share)

    def commit() -> Checkpoint | None:
        if not world.first:
            return None
        whole = meta_file.write(
            _meta_path(folder, step),
            {
                **meta,
                "step": step,
                "world_size": world.size,
                "torch": str(torch.__version__),
                "files": {name: entry for share in shares for name, entry in share.items()},
            },
        )
        _prune(folder, step, keep, whole["files"])
        return Checkpoint(folder, step, whole)

    return _first_of(together(world, commit))


def together(world: World, work: Callable[[], T]) -> list[T]:
    """Do something on every rank, and give all the results to all; a failure anywhere is raised everywhere.

    Raises:
        NanochatError: what `work` raised, with the rank. What nobody foresaw is raised as it is where it happened.
    """
    result: T | None = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    outcomes = world.gather_objects((result, _said(failure)))
    if failure is not None and (world.size == 1 or not isinstance(failure, NanochatError)):
        raise failure
    for rank, (_, failed) in enumerate(outcomes):
        if failed:
            raise NanochatError(f"rank {rank}: {failed}")
    return [outcome for outcome, _ in outcomes]


def _said(failure: Exception | None) -> str:
    if failure is None or isinstance(failure, NanochatError):
        return str(failure or "")
    return f"unexpected {type(failure).__name__}: {failure}"


def _first_of(results: list[T | None]) -> T:
    first = results[0]
    assert first is not None
    return first


def _prune(folder: Path, step: int, keep: int, files: Iterable[str]) -> None:
    """Remove checkpoints that are too old and what interrupted saves left; a meta goes before its files.

    Only rank 0 does this, after all ranks have written and before they go on.
    """
    kept = set(sorted(s for s in _steps(folder) if s <= step)[-max(keep, 1) :])
    own = {*files, _meta_path(folder, step).name}
    doomed = []
    for path in folder.iterdir():
        match = FILE_OF_STEP.fullmatch(path.name)
        if match is None:
            continue
        of = int(match[1])
        left_over = path.name.endswith(".tmp") or (of == step and path.name not in own)
        if left_over or (of < step and of not in kept):
            doomed.append(path)
    for path in sorted(doomed, key=lambda path: not path.name.startswith("meta_")):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("%s cannot be removed: %s", path, error.strerror)


# --- finding ----------------------------------------------------------------------------------


def stage_folder(stage: str, base: Path | None = None) -> Path:
    """Where the checkpoints of a stage are.

    Raises:
        WrongUsage: no such stage.
    """
    if stage not in STAGES:
        raise WrongUsage(f"unknown stage '{stage}'; choose one of {', '.join(STAGES)}")
    return (base or base_dir()) / STAGES[stage]


def find(
    stage: str,
    tag: str | None = None,
    step: int | None = None,
    *,
    base: Path | None = None,
    world: World | None = None,
) -> Checkpoint:
    """A complete and undamaged checkpoint; every file of it has been compared with its checksum.

    Args:
        stage: a key of `STAGES`.
        tag: the folder; by default that of the largest depth (d20 before d4), else the newest.
        step: by default the last one. If that is damaged, a warning says so and the one before is taken.
        world: rank 0 looks, and all get what it found.

    Raises:
        WrongUsage: no such stage.
        NanochatError: there is none, the one that was named is damaged, or another program wrote it.
    """
    root = stage_folder(stage, base)
    world = world or World()

    def look() -> Checkpoint | None:
        return _look(root, tag, step) if world.first else None

    return _first_of(together(world, look))


def _look(root: Path, tag: str | None, step: int | None) -> Checkpoint:
    folder = root / (tag or _default_tag(root))
    steps = complete_steps(folder)
    if not steps:
        raise NanochatError(
            f"there is no complete checkpoint in {folder}; train one, or name another --model-tag"
        )
    if step is not None:
        if step not in steps:
            there = ", ".join(map(str, steps))
            raise NanochatError(f"there is no complete step {step} in {folder}; there is {there}")
        return open_checked(folder, step)
    failures = []
    for candidate in reversed(steps):
        try:
            return open_checked(folder, candidate)
        except NanochatError as error:
            failures.append(error)
            if candidate != steps[0]:
                LOG.warning("%s; looking at the step before it", error)
    raise failures[0]


def _default_tag(root: Path) -> str:
    tags = [path for path in _folders(root) if any(_steps(path))]
    if not tags:
        raise NanochatError(
            f"there is no complete checkpoint below {root}; train one first, or set NANOCHAT_BASE_DIR to the "
            "folder of an earlier run"
        )
    depths = {
        int(match[1]): path.name for path in tags if (match := re.fullmatch(r"d(\d+)", path.name))
    }
    return depths[max(depths)] if depths else max(tags, key=lambda path: path.stat().st_mtime).name


def complete_steps(folder: Path) -> list[int]:
    """The steps of a folder that were saved wholly, in order; whether they are still sound is not looked at."""
    return sorted(_steps(folder))


def open_checked(folder: Path, step: int) -> Checkpoint:
    """A checkpoint of which every file is as it was written.

    Raises:
        NanochatError: a file is missing or has changed, or another program wrote it.
    """
    path = _meta_path(folder, step)
    try:
        meta = meta_file.read(path, step)
    except meta_file.Damaged as error:
        raise _damaged(folder, step, f"{path.name} {error}") from error
    except meta_file.Foreign as error:
        raise NanochatError(f"{path} {error}") from error
    for name, entry in meta["files"].items():
        if problem := _difference(folder / name, entry):
            raise _damaged(folder, step, f"{name} {problem}")
    return Checkpoint(folder, step, meta)


def _difference(path: Path, entry: Entry) -> str:
    try:
        size = path.stat().st_size
        if size != entry["size"]:
            return f"has {size} bytes in place of {entry['size']}"
        return "" if crc32(path) == entry["crc32"] else "has changed (its checksum differs)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _damaged(folder: Path, step: int, problem: str) -> NanochatError:
    return NanochatError(
        f"step {step} in {folder} is damaged: {problem}; bring a sound copy back or name another --step"
    )


def _meta_path(folder: Path, step: int) -> Path:
    return folder / f"meta_{step:06d}.json"


def _steps(folder: Path) -> Iterable[int]:
    """Steps with a meta file."""
    for path in folder.glob("meta_*.json"):
        if match := re.fullmatch(r"meta_(\d+)\.json", path.name):
            yield int(match[1])


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return []


# --- models -----------------------------------------------------------------------------------


def load_into(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Give a model the parameters of a checkpoint; a model on the meta device takes over the tensors
    themselves.

    Args:
        source: what they come from, for people.

    Raises:
        NanochatError: they are of a model of another shape; nothing has been loaded then.
    """
    wanted = model.state_dict()
    odd = [f"{name} is missing" for name in wanted if name not in state]
    odd += [f"{name} is unknown" for name in state if name not in wanted]
    odd += [
        f"{name} is {_shape(state[name])} and not {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if odd:
        more = f" and {len(odd) - 3} more differences" if len(odd) > 3 else ""
        raise NanochatError(
            f"{source} is a model of another shape: {', '.join(odd[:3])}{more}; "
            "use the --depth, --head-dim and vocabulary that it was trained with, or another --model-tag"
        )
    model.load_state_dict(state, assign=any(tensor.is_meta for tensor in wanted.values()))


def load_model(
    stage: str,
    device: Device,
    tag: str | None = None,
    step: int | None = None,
    *,
    dtype: str = AUTO,
    base: Path | None = None,
    world: World | None = None,
) -> tuple[GPT, Tokenizer, Checkpoint]:
    """A trained model on the device, ready to be evaluated or trained on, its tokenizer, and where it came
    from.

    Embeddings saved in a type that this device does not compute in become single precision.

    Raises:
        WrongUsage: no such stage or type.
        NanochatError: no such checkpoint, or it does not fit the tokenizer.
    """
    checkpoint = find(stage, tag, step, base=base, world=world)
    tokenizer = Tokenizer.load()
    check_tokenizer(checkpoint, tokenizer)
    compute = device.dtype(dtype)
    stored = torch.bfloat16 if compute == torch.bfloat16 else torch.float32
    with torch.device("meta"):
        model = GPT(checkpoint.config)
    state = {
        name: _supported(tensor, stored).to(device.torch_device)
        for name, tensor in checkpoint.model_state().items()
    }
    load_into(model, state, str(checkpoint))
    _, attend = choose(device, compute, checkpoint.config.head_dim)
    model.use(dtype=compute, embedding_dtype=stored, attend=attend)
    return model, tokenizer, checkpoint


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a checkpoint remembers of its tokenizer."""
    return {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}


def check_tokenizer(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with which the model was not trained: its ids would mean other text.

    Raises:
        NanochatError: it is another one; names both.
    """
    saved, here = checkpoint.meta.get("tokenizer"), describe_tokenizer(tokenizer)
    if saved != here:
        had = f"{saved['vocab_size']} tokens, {saved['fingerprint']}" if saved else "not recorded"
        raise NanochatError(
            f"{checkpoint} was trained with another tokenizer ({had}) than the one that is here "
            f"({here['vocab_size']} tokens, {here['fingerprint']}); bring its tokenizer back or train a "
            "model with this one"
        )


def _supported(tensor: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 != stored else tensor


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"

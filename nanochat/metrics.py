"""What a run says of itself: a line per step for people, and records for files, wandb and TensorBoard."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from nanochat.errors import NanochatError
from nanochat.files import atomic

LOG = logging.getLogger(__name__)

SMOOTHING = 0.9
WARMUP_STEPS = 10
"""The first steps of a process warm caches up and compile; its times and the ETA leave them out."""

NO_RUN = "dummy"
"""The name of `--run` that means: not to wandb."""

Values: TypeAlias = Mapping[str, "int | float"]


# --- one step ---------------------------------------------------------------------------------


@dataclass
class Progress:
    """Smoothed loss and time spent so far; goes into checkpoints, so that a resumed run shows the same
    numbers."""

    average: float = 0.0
    losses: int = 0
    seconds: float = 0.0
    """Of steps, without the first `WARMUP_STEPS` of each process."""
    timed: int = 0
    """How many steps these were."""
    flops: float = 0.0
    """Of all steps."""

    def __post_init__(self) -> None:
        self._warmup = WARMUP_STEPS

    def add(self, loss: float, seconds: float, flops: float = 0.0) -> None:
        """A step has ended."""
        self.average = SMOOTHING * self.average + (1 - SMOOTHING) * loss
        self.losses += 1
        self.flops += flops
        if self._warmup:
            self._warmup -= 1
            return
        self.seconds += seconds
        self.timed += 1

    @property
    def loss(self) -> float:
        """The exponential average of losses, without the pull of its start at zero."""
        return self.average / (1 - SMOOTHING**self.losses) if self.losses else 0.0

    def eta(self, steps_left: int) -> float | None:
        """Seconds that so many steps will take; None while too few steps were timed to say."""
        return self.seconds / self.timed * steps_left if self.timed else None

    def to_dict(self) -> dict[str, float]:
        """For a checkpoint; JSON keeps every bit of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """The reverse of `to_dict`.

        Raises:
            NanochatError: it is something else.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise NanochatError(
                f"the saved progress cannot be read ({error}); use another checkpoint"
            ) from error


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """What one step says. `str` is the line for people, `values` the record."""

    step: int
    total: int
    loss: float
    """Smoothed, in nats per token."""
    lrm: float
    """Multiplier of all learning rates."""
    seconds: float
    tokens: int
    """Of the whole step: all ranks, all accumulated micro-batches."""
    mfu: float | None = None
    """0 to 1; None where the device's peak is not known."""
    memory: int | None = None
    """Bytes, at the peak."""
    epoch: int = 1
    position: str = ""
    """Where in the data, for people."""
    elapsed: float = 0.0
    """Seconds of training so far."""
    eta: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Of all ranks together."""
        return self.tokens / self.seconds

    def __str__(self) -> str:
        parts = (
            f"step {self.step:0{len(str(self.total))}d}/{self.total} ({self.step / max(self.total, 1):.1%})",
            f"loss {self.loss:.6f}",
            f"lrm {self.lrm:.3f}",
            f"dt {self.seconds * 1000:.1f} ms",
            f"tok/s {self.tokens_per_second:,.0f}",
            f"mfu {self.mfu:.1%}" if self.mfu is not None else "",
            f"mem {self.memory / 2**30:.2f} GiB" if self.memory is not None else "",
            f"epoch {self.epoch} {self.position}".rstrip(),
            f"{self.elapsed / 60:.1f} min",
            f"eta {duration(self.eta)}" if self.eta is not None else "",
        )
        return " | ".join(filter(None, parts))

    def values(self) -> dict[str, int | float]:
        """The record, under the names that nanochat's dashboards use; what is not known is left out."""
        known = {} if self.mfu is None else {"train/mfu": self.mfu}
        return {
            "train/loss": self.loss,
            "train/lrm": self.lrm,
            "train/dt": self.seconds,
            "train/tok_per_sec": self.tokens_per_second,
            **known,
            "train/epoch": self.epoch,
        }


def utilisation(
    flops_per_token: float, tokens: int, seconds: float, peak: float | None, ranks: int
) -> float | None:
    """Model FLOPs utilisation (PaLM, appendix B): useful FLOP/s over what all devices could; None without a
    peak."""
    return None if peak is None else flops_per_token * tokens / seconds / (peak * ranks)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 03 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


# --- where records go -------------------------------------------------------------------------


class Sink(Protocol):
    """A place for records."""

    def write(self, step: int, values: Values) -> None:
        """Add a record; may raise anything."""

    def close(self) -> None:
        """Finish; may raise anything."""


class Sinks:
    """Several places at once. One that fails is given up with a warning: the run matters more than its
    record."""

    def __init__(self, sinks: Mapping[str, Sink] | None = None) -> None:
        self._sinks = dict(sinks or {})

    def write(self, step: int, values: Values) -> None:
        """Add a record everywhere."""
        self._each(lambda sink: sink.write(step, values))

    def close(self) -> None:
        """Finish everywhere."""
        self._each(lambda sink: sink.close())
        self._sinks.clear()

    def _each(self, work: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                work(sink)
            except Exception as error:
                del self._sinks[name]
                LOG.warning(
                    "%s takes no more metrics (%s); training goes on without it", name, error
                )


def open_sinks(
    jsonl: Path,
    *,
    run: str = NO_RUN,
    tensorboard: Path | None = None,
    config: Mapping[str, Any] | None = None,
    resume_at: int | None = None,
) -> Sinks:
    """Open what was asked for; on rank 0 only.

    Args:
        jsonl: the file of records, always written.
        run: name at wandb; `NO_RUN` for none.
        tensorboard: folder for TensorBoard; None for none.
        config: of the run, for wandb.
        resume_at: the first step that will be done again; records from there on are removed. None for a new
            run.

    Raises:
        NanochatError: a package is missing, wandb does not start, or a file cannot be written.
    """
    sinks: dict[str, Sink] = {}
    # The packages first: when one is missing, no file has been touched yet.
    if run != NO_RUN:
        sinks["wandb"] = Wandb(run, config or {})
    if tensorboard is not None:
        sinks["TensorBoard"] = TensorBoard(tensorboard, resume_at)
    return Sinks({str(jsonl): JsonLines(jsonl, resume_at), **sinks})


class JsonLines:
    """A file with one JSON object a line, on the disk as soon as it is written.

    A new run puts the file of an older one aside. A resumed one removes records from `resume_at` on, and a
    last line that a kill cut short, so that in the end the file is that of a run which nobody killed.
    """

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        self._path = path
        try:
            if path.exists() and path.stat().st_size:
                _put_aside(path) if resume_at is None else _cut(path, resume_at)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (as long as the run)
        except OSError as error:
            raise NanochatError(
                f"{path} cannot be written: {error.strerror}; free space or choose another folder"
            ) from error

    def write(self, step: int, values: Values) -> None:
        """Add a line.

        Raises:
            OSError: it cannot be written.
        """
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a file of `JsonLines`; what a kill cut short is left out."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            record = _record(line)
            if record is not None:
                yield record


def _record(line: str) -> dict[str, Any] | None:
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _cut(path: Path, resume_at: int) -> None:
    with open(path, encoding="utf-8", errors="replace") as old, atomic(path, "w") as new:
        for line in old:
            record = _record(line)
            if record is not None and record["step"] < resume_at:
                new.write(line)


def _put_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    os.rename(path, aside)


class Wandb:
    """Weights & Biases; WANDB_MODE=offline or disabled are its own switches."""

    def __init__(self, run: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise NanochatError(
                f"--run {run} wants wandb, which is not installed; 'pip install wandb' or leave --run out"
            ) from None
        try:
            self._run = wandb.init(project="nanochat", name=run, config=dict(config))
        except Exception as error:  # of several kinds, some of them from the network
            raise NanochatError(
                f"wandb does not start ({str(error).strip() or type(error).__name__}); "
                "log in with 'wandb login', set WANDB_MODE=offline, or leave --run out"
            ) from error

    def write(self, step: int, values: Values) -> None:
        """Queue a record."""
        # wandb counts its own steps and refuses smaller ones, so the step of a resumed run travels as a
        # value.
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Wait until everything has been sent."""
        self._run.finish()


class TensorBoard:
    """Event files for TensorBoard; on resume, what comes again is purged from the picture."""

    def __init__(self, folder: Path, resume_at: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise NanochatError(
                "--tensorboard wants the package tensorboard, which is not installed; "
                "'pip install tensorboard' or leave --tensorboard out"
            ) from None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=resume_at)
        except OSError as error:
            raise NanochatError(
                f"{folder} cannot be written: {error.strerror}; choose another folder for --tensorboard"
            ) from error

    def write(self, step: int, values: Values) -> None:
        """Queue a record."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write everything."""
        self._writer.close()

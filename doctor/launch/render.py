"""Turns a plan into scripts that a person can read, change and run without the doctor.

The text lies in templates/; here is what goes into it, and how no value can become a command: whatever a template puts
out is quoted for the shell, unless it went through one of the filters `words` and `comment`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doctor.checkout import templates_folder
from doctor.errors import DoctorError, Unknown, WrongUsage
from doctor.facts import Facts, Host
from doctor.planner.steps import SHARD_MB
from doctor.planner.terms.plan import Launch, Plan
from doctor.text.bounded import read_bounded
from doctor.text.quantities import count, memory
from doctor.text.toml import tomllib
from doctor.text.visible import visible

if TYPE_CHECKING:
    import jinja2

CHECKPOINT_BYTES = 12
"""Of a parameter in a checkpoint: its value and at most two moments, in single precision."""
CHECKPOINTS = 3
"""On the disk at once: the two that are kept, and the one that is being written."""
SMALL_MODEL = 50_000_000
"""Parameters up to which a checkpoint costs so little that a run saves ten times on its way."""
MOST_EVAL_TOKENS = 40 * 524_288
PROMPTS = {"stdlib": "The function returns"}
PROMPT = "The capital of France is"
LIMIT = 16 << 20
"""Bytes of a file that one of ours is compared with."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CHECKSUM = re.compile(r"^# checksum ([0-9a-f]{16}) of all other lines.*$", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """A script of its own, `<name>.sh`."""

    name: str
    title: str


STAGES = (
    Script("data", "text to train on"),
    Script("tokenizer", "the tokenizer"),
    Script("base", "pretraining of the base model"),
    Script("base_eval", "what the base model is worth"),
    Script("sample", "a first word of the base model"),
)
"""In the order in which speedrun.sh runs them; each has a template. A stage of the trainer is a row here."""


@dataclass(frozen=True)
class Start:
    """Where a run is started from.

    Attributes:
        files: name -> title; each is rendered from `templates/<folder>/<name>.j2`.
    """

    folder: str
    files: Mapping[str, str]


TARGETS = {
    "shell": Start(
        "shell",
        {
            "speedrun.sh": "A whole run: all stages in order.",
            "env.sh": "The settings of a run.",
            "lib.sh": "How a stage is run.",
            **{f"{stage.name}.sh": f"Stage {stage.name}: {stage.title}." for stage in STAGES},
        },
    ),
}
"""By the names that `--target` takes."""


class Safe(str):
    """Text that goes into a script as it is."""


# --- rendering --------------------------------------------------------------------------------


def render(
    plan: Plan,
    facts: Facts,
    *,
    version: str,
    checkout: str,
    target: str = "shell",
    base_dir: str | None = None,
) -> dict[str, str]:
    """The files of a run, by name; the same plan, facts and checkout give the same bytes.

    Args:
        version: of nanochat-doctor.
        plan: its interpreter is named by an absolute path, or from the checkout.
        checkout: folder of the trainer, absolute, or relative to the folder of the files (`checkout_from`).
        base_dir: the trainer's base folder; None is its default.

    Raises:
        DoctorError: the plan starts nothing, or names an impossible variable; a template is damaged or missing.
        WrongUsage: no such target.
    """
    import jinja2

    if target not in TARGETS:
        raise WrongUsage(f"There is no target '{target}'; choose one of {', '.join(TARGETS)}.")
    if plan.launch is None:
        raise DoctorError(
            f"There is nothing to start on this machine, so no scripts are written: {plan.reason}"
        )
    values = _values(plan, plan.launch, facts) | {
        "version": version,
        "checkout": checkout,
        "checkout_is_relative": not checkout.startswith("/"),
        "base_dir": base_dir,
    }
    folder = TARGETS[target].folder
    environment = _environment(folder)
    files = {}
    for name, title in TARGETS[target].files.items():
        try:
            template = environment.get_template(f"{name}.j2")
            text = template.render(values, title=title, checksum=Safe("0" * 16 + CHECKSUM_WORDS))
        except (jinja2.TemplateError, TypeError) as error:
            raise DoctorError(
                f"templates/{folder}/{name}.j2 cannot be rendered: {error}; "
                "restore the template, or install nanochat-doctor again."
            ) from error
        files[name] = _signed(text)
    return files


CHECKSUM_WORDS = " of all other lines, by which an edit is noticed"


def checkout_from(folder: Path, checkout: Path) -> str:
    """How scripts in `folder` name the checkout: relative if they lie below it, so that both can be moved together."""
    folder, checkout = folder.resolve(), checkout.resolve()
    if checkout in folder.parents:
        return os.path.relpath(checkout, folder)
    return str(checkout)


def inside(python: str | None, checkout: Path) -> str | None:
    """An interpreter as it is named from the checkout, if it lies below it, so that both can be moved together."""
    if python is None or not Path(python).is_relative_to(checkout):
        return python
    return str(Path(python).relative_to(checkout))


def _environment(folder: str) -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder() / folder),
        undefined=jinja2.StrictUndefined,
        finalize=_quoted,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Bash has ${#name}.
        comment_start_string="{##",
        comment_end_string="##}",
    )
    environment.filters = {"words": _words, "comment": _comment}
    return environment


def _quoted(value: Any) -> str:
    """What Jinja puts out for an expression: one word for the shell."""
    if isinstance(value, Safe):
        return value
    if value is None or isinstance(value, (bool, list, tuple, dict)):
        raise TypeError(f"{value!r} is no value for a script")
    text = str(value)
    if "\0" in text:
        raise TypeError(f"{text!r} holds a zero byte, which no shell can pass on")
    return shlex.quote(text) if visible(text, lines=True) == text else _spelled(text)


def _spelled(text: str) -> str:
    """One word for bash in which what is not printable is spelled, so that the script can be shown on a terminal."""
    try:
        words = [
            letter
            if visible(letter) == letter and letter not in "\\'"
            else "".join(f"\\x{byte:02x}" for byte in letter.encode(errors="surrogateescape"))
            for letter in text
        ]
    except UnicodeEncodeError as error:
        raise TypeError(f"{text!r} holds what is no character") from error
    return f"$'{''.join(words)}'"


def _words(values: Iterable[Any]) -> Safe:
    """Several words for the shell."""
    return Safe(" ".join(_quoted(value) for value in values))


def _comment(value: Any) -> Safe:
    """Text for a comment: it can never leave its line."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return Safe(text.rstrip())


# --- what goes into the templates -------------------------------------------------------------


def _values(plan: Plan, launch: Launch, facts: Facts) -> dict[str, Any]:
    base = launch.stages["base"]
    return {
        "summary": [f"{key:8} {text}" for key, text in _summary(plan, launch, facts)],
        "launch": launch,
        "base": base,
        "python": plan.python,
        "python_is_inside": "/" in (plan.python or "") and not str(plan.python).startswith("/"),
        "source_files": launch.source_files,
        "env": _variables(launch.env),
        "stages": STAGES,
        "disk_mb": _disk_mb(launch),
        "save_every": max(1, launch.num_iterations // 10)
        if launch.parameters <= SMALL_MODEL
        else -1,
        "eval_parts": "core,bpb" if launch.core_metric else "bpb",
        "eval_tokens": min(MOST_EVAL_TOKENS, max(launch.tokens // 8, base.total_batch_size)),
        "prompt": PROMPTS.get(launch.data, PROMPT),
    }


def _disk_mb(launch: Launch) -> int:
    """Megabytes of data and checkpoints; for a small model in which that is nothing, a few."""
    checkpoints = launch.parameters * CHECKPOINT_BYTES * CHECKPOINTS / 1e6
    data = (launch.shards + 1) * SHARD_MB if launch.shards else 0
    return int(data + checkpoints) + 50


def _variables(env: Mapping[str, str]) -> list[dict[str, str]]:
    meanings = _meanings()
    for name in env:
        if not VARIABLE.fullmatch(name):
            raise DoctorError(f"The plan names the variable {name!r}, which no shell can set.")
    return [
        {"name": name, "value": value, "meaning": meanings.get(name, "as the plan has it")}
        for name, value in env.items()
    ]


@functools.cache
def _meanings() -> Mapping[str, str]:
    path = templates_folder() / "variables.toml"
    try:
        found: Mapping[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))["meaning"]
    except (OSError, KeyError, ValueError) as error:
        raise DoctorError(
            f"templates/variables.toml cannot be read ({error}); restore it."
        ) from error
    return found


def _summary(plan: Plan, launch: Launch, facts: Facts) -> list[tuple[str, str]]:
    """The machine and the plan in a few lines; nothing in it names a person or a host."""
    base, torch = launch.stages["base"], plan.torch
    lines = [("machine", text) for text in _machine(facts)]
    lines.append(("route", f"{plan.route}: {plan.reason}"))
    if torch is not None and torch.version:
        details = [
            torch.version,
            f"CUDA {torch.cuda}" if torch.cuda else "",
            f"torch_npu {torch.torch_npu}" if torch.torch_npu else "",
            "" if torch.libuv is None else f"with{'' if torch.libuv else 'out'} libuv",
        ]
        lines.append(("torch", ", ".join(filter(None, details))))
    ranks = launch.nproc_per_node
    lines += [
        (
            "run",
            f"profile {launch.profile}, {ranks} x {launch.device_type} over {launch.backend}, {launch.dtype}"
            f"{', 8-bit products' if launch.fp8 else ''}{', compiled' if launch.compile else ''}",
        ),
        (
            "model",
            f"depth {launch.depth}, {launch.parameters / 1e6:.1f} M parameters, vocabulary {launch.vocab_size}; "
            f"{launch.num_iterations} steps, {launch.tokens / 1e6:,.1f} M tokens of {launch.data}",
        ),
        (
            "batch",
            f"{base.total_batch_size} tokens = {ranks} ranks x {base.device_batch_size} rows x {base.max_seq_len} "
            f"tokens, {count(base.grad_accum_steps, 'pass')} a step; about {memory(launch.peak_memory_mb)} a rank",
        ),
        ("ports", ", ".join(f"{name} {stage.port}" for name, stage in launch.stages.items())),
    ]
    lines += [("warning", warning) for warning in launch.warnings]
    return lines


def _machine(facts: Facts) -> list[str]:
    lines = []
    if facts.host is not None:
        lines.append(_host(facts.host))
    if facts.nvidia is not None and facts.nvidia.gpus:
        names = _counted(gpu.name or "NVIDIA GPU" for gpu in facts.nvidia.gpus)
        driver = facts.nvidia.driver_version
        lines.append(names + (f", driver {driver}" if driver else ""))
    if facts.ascend is not None and facts.ascend.npus:
        names = _counted(f"Ascend {npu.name or 'NPU'}" for npu in facts.ascend.npus)
        cann = facts.ascend.active.version if facts.ascend.active else None
        lines.append(names + (f", CANN {cann}" if cann else ""))
    return [line for line in lines if line]


def _host(host: Host) -> str:
    room = f"{memory(host.memory_total)} of memory" if host.memory_total else ""
    system = " ".join(filter(None, (host.distro_name or host.os, host.distro_version, host.arch)))
    cores = count(host.cores, "core") if host.cores else ""
    return ", ".join(filter(None, (system, host.cpu_model, cores, room)))


def _counted(names: Iterable[str]) -> str:
    """`2 x A, B` for A, A, B."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


# --- writing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What became of one file.

    Attributes:
        action: `written`; `unchanged`, it was like that already; `kept`, it was edited and stays; `replaced`, it was
            edited, and the edited one is now `beside`.
        beside: where the new text is (`kept`), or the edited one (`replaced`).
    """

    path: Path
    action: str
    beside: Path | None = None

    @property
    def note(self) -> str:
        """A sentence for the user; empty where there is nothing to say."""
        if self.action == "kept" and self.beside:
            return f"{self.path} was edited and stays as it is; the new one is {self.beside.name}."
        if self.action == "kept":
            return f"{self.path} was edited and stays as it is; the plan it was made from has not changed."
        if self.action == "replaced" and self.beside:
            return f"{self.path} was edited; that version is now {self.beside.name}."
        return ""


def write(files: Mapping[str, str], folder: Path, *, force: bool = False) -> list[Written]:
    """Put rendered files into a folder; what somebody has edited there is never lost.

    A file is edited when its lines no longer fit the checksum in its header, or it has none. It stays, and the new text
    goes to `NAME.new` beside it; with `force` the new text takes its place and the edited one becomes `NAME.edited`.

    Raises:
        DoctorError: the folder cannot be written, or a file in it cannot be read.
    """
    return [_write_one(folder / name, text, force) for name, text in files.items()]


def _write_one(path: Path, text: str, force: bool) -> Written:
    try:
        there = _there(path)
        if there == text:
            path.chmod(path.stat().st_mode | 0o111)
            return Written(path, "unchanged")
        if there is None or not _is_edited(there):
            _put(path, text)
            return Written(path, "written")
        if force:
            beside = _free(path, ".edited")
            shutil.copy2(path, beside)
            _put(path, text)
            return Written(path, "replaced", beside)
        if _checksum_in(there) == _checksum_in(text):
            return Written(path, "kept")
        beside = path.with_name(f"{path.name}.new")
        _put(beside, text)
        return Written(path, "kept", beside)
    except OSError as error:
        raise DoctorError(
            f"{path} cannot be written ({error.strerror or error}); choose another folder with -o."
        ) from error


def _there(path: Path) -> str | None:
    """The text of a file that is there already.

    Raises:
        DoctorError: it cannot be read, or is none that we or a person have written.
    """
    if not path.exists():
        return None
    try:
        return read_bounded(path, LIMIT).decode(errors="surrogateescape")
    except Unknown as error:
        raise DoctorError(
            f"{path} is there and cannot be read ({error}); choose another folder with -o."
        ) from error


def _put(path: Path, text: str) -> None:
    """Whole or not at all, executable, under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o777)
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _free(path: Path, ending: str) -> Path:
    """The first of NAME.edited, NAME.edited2, … that is not there."""
    number = 1
    while True:
        beside = path.with_name(f"{path.name}{ending}{number if number > 1 else ''}")
        if not os.path.lexists(beside):
            return beside
        number += 1


def _signed(text: str) -> str:
    """The text with its own checksum in the header."""
    return CHECKSUM.sub(f"# checksum {_checksum(text)}{CHECKSUM_WORDS}", text, count=1)


def _checksum(text: str) -> str:
    """Of all lines but the one that holds it."""
    body = CHECKSUM.sub("", text, count=1)
    return hashlib.sha256(body.encode(errors="surrogateescape")).hexdigest()[:16]


def _checksum_in(text: str) -> str | None:
    found = CHECKSUM.search(text)
    return found[1] if found else None


def _is_edited(text: str) -> bool:
    return _checksum_in(text) != _checksum(text)

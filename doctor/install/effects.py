"""Whether what a step is for is there: read from files, or asked of the environment's Python.

An exit status says how a program ended. What counts is what it left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.environment import integrity, requirements, torch_effect
from doctor.environment.command_line import parse
from doctor.environment.place import Place
from doctor.errors import DoctorError, Unknown
from doctor.machine.system import System
from doctor.planner.steps import trainer_requirements
from doctor.planner.terms.plan import Plan, Step, TorchChoice
from doctor.work.programs import ask

CHILD_SECONDS = 120.0

SHARDS = """
import json, sys
from pathlib import Path
name, wanted = sys.argv[1], int(sys.argv[2])
try:
    from nanochat import dataset, shards
    from nanochat.files import base_dir
    problem = None
    published = dataset.PUBLISHED.get(name)
    if published is not None:
        folder = published.folder
        names = [shards.shard_name(n) for n in range(min(wanted, published.shards - 1))]
        for shard in (*names, published.validation):
            problem = problem or (shards.damage(folder / shard) and
                                  "%s %s" % (folder / shard, shards.damage(folder / shard)))
    elif name == dataset.STDLIB and not (base_dir() / dataset.STDLIB_FOLDER).exists():
        problem = "the corpus %s is not made yet" % name
    else:
        dataset.resolve(name)
except Exception as error:
    problem = " ".join(("%s" % error).split()) or type(error).__name__
print(json.dumps(problem))
"""
"""Looks at shards with the trainer's own eyes: pyarrow is in its environment, and not in ours."""

BUNDLE = """
import json
try:
    from nanochat.bundle import default_folder, read_bundle
    missing = read_bundle(default_folder()).missing
    problem = "%s lacks %s" % (default_folder(), ", ".join(missing)) if missing else None
except Exception as error:
    problem = " ".join(("%s" % error).split()) or type(error).__name__
print(json.dumps(problem))
"""


@dataclass(frozen=True)
class Effect:
    """What a checker is given."""

    plan: Plan
    step: Step
    target: Place


Checker = Callable[[Effect], str | None]


def missing(effect: Effect) -> str | None:
    """Why a step's effect is not there; None where it is.

    Raises:
        DoctorError: nobody knows what a step of this name is for.
    """
    checker = CHECKERS.get(effect.step.id)
    if checker is None:
        known = ", ".join(CHECKERS)
        raise DoctorError(
            f"The plan has a step {effect.step.id!r}, and its effect cannot be checked (known are {known}); "
            "make the plan again with this version."
        )
    if not effect.target.exists:
        return f"{effect.target.python} is not there"
    return checker(effect)


# --- environment, torch ----------------------------------------------------------------------


def _environment(effect: Effect) -> str | None:
    """The interpreter runs, and belongs to the environment."""
    code = "import json, sys; print(json.dumps(sys.prefix))"
    prefix = _asked(effect, "-I", "-c", code)
    if prefix is None or os.path.realpath(prefix) != os.path.realpath(effect.target.prefix):
        return f"{effect.target.python} does not run in {effect.target.prefix}: {prefix}"
    words = [word for command in effect.step.commands for word in parse(command).words]
    # what a kill cut off may have come as far as the interpreter
    if "-m" in words or "--seed" in words:
        pip = effect.target.environment().distributions().get("pip")
        if pip is None:
            return f"{effect.target.prefix} has no pip"
        if reason := integrity.damage(Path(pip.folder)):
            return f"pip {pip.version} {reason}"
    return None


def _build_tools(effect: Effect) -> str | None:
    """The requirements that the step's command names."""
    lines = map(parse, effect.step.commands)
    wanted = [word for line in lines for word in line.installed]
    return requirements.missing(effect.target.environment(), wanted)


def _torch(effect: Effect) -> str | None:
    return torch_effect.missing(effect.plan, effect.target)


def _torch_packages(effect: Effect) -> str | None:
    return torch_effect.wrong_packages(effect.target)


def _torch_npu(effect: Effect) -> str | None:
    """torch_npu of the plan's base version, with all that it and CANN import."""
    env = effect.target.environment()
    choice = effect.plan.torch or TorchChoice(None)
    dist = env.distributions().get("torch-npu")
    if dist is None or env.find_module("torch_npu") is None:
        return "no torch_npu is installed"
    installed, wanted = dist.version.partition("+")[0], choice.torch_npu
    if wanted and torch_effect.comparable(installed) != torch_effect.comparable(
        wanted.partition("+")[0]
    ):
        return f"torch_npu {dist.version} is installed instead of {wanted}"
    if reason := integrity.damage(Path(dist.folder)):
        return f"torch_npu {dist.version} {reason}"
    return requirements.missing(env, choice.companions)


# --- trainer, tokenizer ----------------------------------------------------------------------


def _trainer(effect: Effect) -> str | None:
    """All that pyproject.toml's extra `train` asks for, but for torch."""
    wanted = trainer_requirements(effect.target.checkout)
    return requirements.missing(effect.target.environment(), wanted)


def _rustbpe(effect: Effect) -> str | None:
    """A module that works, built from this checkout's crate as it is now, or published where the step says so."""
    from doctor.compile.rustbpe.crate import read_crate
    from doctor.compile.rustbpe.installed import inspect, out_of_date, unusable

    found = inspect(System(seconds=CHILD_SECONDS), effect.target.python)
    if "--prebuilt" in parse(effect.step.commands[0]).words:
        reason = unusable(found)
    else:
        reason = out_of_date(found, read_crate(effect.target.checkout))
    return None if reason is None else f"rustbpe: {reason}"


def _rust_toolchain(effect: Effect) -> str | None:
    """Rust and a linker; neither is of use any more where the crate is built."""
    from doctor.compile.rustbpe.build import toolchain_missing
    from doctor.knowledge.tables import Tables
    from doctor.probe.survey import survey

    if _rustbpe(effect) is None:
        return None
    system, tables = System(seconds=CHILD_SECONDS), Tables()
    areas = ("host", "python", "rust")
    facts = survey(system, tables, areas=areas, python=effect.target.python)
    return toolchain_missing(system, facts, tables)


# --- data ------------------------------------------------------------------------------------


def _data(effect: Effect) -> str | None:
    """Enough whole shards, and the one for validation."""
    launch = effect.plan.launch
    if launch is None:
        return "the plan names no data set"
    return _asked(effect, "-c", SHARDS, launch.data, str(launch.shards))


def _bundle(effect: Effect) -> str | None:
    return _asked(effect, "-c", BUNDLE)


def _asked(effect: Effect, *arguments: str) -> str | None:
    """A line of JSON from the environment's Python, started in the checkout as the step's commands are."""
    env = dict(os.environ) | {"PYTHONDONTWRITEBYTECODE": "1"}
    for command in effect.step.commands:
        env |= parse(command).variables
    python = effect.target.python
    try:
        answer = ask(
            [python, *arguments], env=env, seconds=CHILD_SECONDS, cwd=effect.target.checkout
        )
    except Unknown as error:
        return str(error)
    except OSError as error:
        return f"{python} cannot be started: {error.strerror or error}"
    return None if answer is None else str(answer)


CHECKERS: Mapping[str, Checker] = {
    "environment": _environment,
    "build-tools": _build_tools,
    "torch": _torch,
    "torch-packages": _torch_packages,
    "torch-npu": _torch_npu,
    "trainer": _trainer,
    "rust-toolchain": _rust_toolchain,
    "rustbpe": _rustbpe,
    "data": _data,
    "eval-bundle": _bundle,
}
"""Step -> what tells whether its effect is there."""

REPLACING: Mapping[str, tuple[str, ...] | None] = {
    "torch": None,
    "torch-packages": None,
    "torch-npu": ("torch-npu",),
}
"""Steps that may replace what is pinned: all of it (None), or these packages. No other step may."""

DATA_STEPS = ("data", "eval-bundle")
"""Steps that install nothing, and write below NANOCHAT_BASE_DIR."""

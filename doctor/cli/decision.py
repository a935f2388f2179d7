"""From the machine to its plan: look, ask the indexes, decide. What plan, apply, render and speedrun begin with."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from doctor.checkout import CHECKOUT
from doctor.errors import DoctorError, Unknown, WrongUsage
from doctor.facts import Facts, from_json
from doctor.findings.context import Context
from doctor.knowledge import compat
from doctor.knowledge.offers import Offers
from doctor.knowledge.supply import Supply
from doctor.knowledge.tables import Tables
from doctor.machine.background import Background
from doctor.machine.system import System
from doctor.planner.commands import Target
from doctor.planner.decide import check_wishes, plan
from doctor.planner.terms import wheels
from doctor.planner.terms.plan import Plan, Wishes
from doctor.probe.survey import survey
from doctor.text.bounded import parse_json, read_bounded

AREAS = frozenset({"host", "python", "nvidia", "ascend", "torch", "rust", "storage"})


FACTS_LIMIT = 4 << 20
"""Bytes; those of a node with 16 GPUs are 60 kB."""


@dataclass(frozen=True)
class Decided:
    """A plan, and what it was made of.

    Attributes:
        hub: mirror of the hub that answered in its place.
        base_dir: the trainer's base folder, where the user names one for the machine of the plan.
    """

    plan: Plan
    facts: Facts
    tables: Tables
    hub: str | None = None
    base_dir: str | None = None


def decide(
    system: System,
    wishes: Wishes,
    *,
    python: str | None = None,
    facts_file: Path | None = None,
    offline: bool = False,
    debug: bool = False,
    hub: str | None = None,
) -> Decided:
    """Look at the machine (or read its facts) and plan.

    Args:
        python: the environment to plan for; default: the one that runs this tool.
        offline: ask no index. Below a root and for a facts file none is asked anyway.
        hub: mirror of the hub that was found before, for an `offline` decision after it.

    Raises:
        WrongUsage: a wish that is wrong in itself, a `python` that is none.
        DoctorError: wish and machine do not go together, or the facts file cannot be read.
    """
    tables = Tables()
    check_wishes(wishes, tables)
    named = system.live and facts_file is None and python is not None
    if system.live and facts_file is None:
        python = python or own_python()
    facts = (
        read_facts(facts_file)
        if facts_file
        else survey(system, tables, areas=AREAS, python=python, debug=debug)
    )
    if named and facts.python is None:
        reason = facts.unknown.get("python", "it was not looked at")
        raise WrongUsage(f"{python} cannot be planned for: {reason}; name another with --python.")
    target = target_of(facts)
    if python is None:
        base = None if facts_file else _named_base_dir(system)
        return Decided(plan(facts, tables, wishes, target), facts, tables, None, base)
    # commands run in the checkout, and are typed wherever the user stands
    target = replace(target, python=os.path.join(checkout(), target.python), launcher=launcher())
    made = plan(facts, tables, wishes, target, hub=hub)
    # Only now: a machine that has what it needs asks nobody.
    wants_torch = made.torch is not None and made.torch.requirement is not None
    wants_data = made.launch is not None and bool(made.launch.shards)
    wants_tokenizer = _wants_tokenizer(facts)
    if not offline and (wants_torch or wants_data or wants_tokenizer):
        from doctor.probe.network import SECONDS

        # what the probes took is not the indexes' fault
        end = time.monotonic() + SECONDS
        parts = None
        if wants_tokenizer:
            parts = Background(lambda: _supply(system, facts, tables, python, end), "the supply")
        asked = Background(lambda: _hub(system, tables), "the hub") if wants_data else None
        offers = None
        if wants_torch:
            offers = _ask(system, Context(facts, tables), made.route, python)
        hub = _within(asked, end) if asked else None
        supply = parts.result() if parts else None
        made = plan(facts, tables, wishes, target, offers, hub, supply)
    return Decided(made, facts, tables, hub, _named_base_dir(system))


def _named_base_dir(system: System) -> str | None:
    """NANOCHAT_BASE_DIR as the user has it, from any folder the same."""
    named = system.env.get("NANOCHAT_BASE_DIR")
    return os.path.abspath(os.path.expanduser(named)) if named else None


def _wants_tokenizer(facts: Facts) -> bool:
    """Whether something must be had for the tokenizer, or something better could."""
    rust = facts.rust
    serves = rust is not None and rust.module_path and not rust.module_stale
    return rust is not None and not rust.wheel and (not serves or rust.module_published)


def _supply(system: System, facts: Facts, tables: Tables, python: str | None, end: float) -> Supply:
    """What can be had for the tokenizer."""
    from doctor.index.supply_places import supply

    index = _default_index(system, python)
    return supply(system, facts, tables, index, max(0.5, end - time.monotonic()))


def _default_index(system: System, python: str | None) -> str | None:
    """Base URL of the Python index of an environment."""
    from doctor.index.address import default_index
    from doctor.probe import python_env

    try:
        env = python_env.environment(system, python_env.choose(system, python))
    except Unknown:
        env = None
    return default_index(system, env)


def _hub(system: System, tables: Tables) -> str | None:
    """The mirror of the hub to use: one that answers where the hub does not; none where the user names one."""
    from doctor.probe.network import Address, ask

    if system.env.get("HF_ENDPOINT"):
        return None
    rows = [row for row in tables.rows("mirrors", "endpoint") if row["kind"] == "hub"]
    calls = {
        row["url"]: Background(
            partial(ask, Address(row["name"], "hub", row["url"] + row["probe"])), row["name"]
        )
        for row in rows
    }
    for url, call in calls.items():
        if call.result().reachable:
            return url if url != rows[0]["url"] else None
    return None


def _within(call: Background[str | None], end: float) -> str | None:
    """An answer, if it is there in time."""
    try:
        return call.result(max(0.0, end - time.monotonic()))
    except Unknown:
        return None


def _ask(system: System, context: Context, route: str, python: str) -> Offers:
    """What the indexes have that could serve this machine."""
    from doctor.index.ask import ask
    from doctor.machine.own_folder import cache_folder

    return ask(
        context.tables,
        python=context.python_minor,
        cpu_arch=compat.cpu_arch(context.facts.host),
        variants=wheels.variants(context, route),
        default_index=_default_index(system, python),
        cache=cache_folder(system.env),
    )


def read_facts(path: Path) -> Facts:
    """Read a facts file; what `check --json` prints will do, too.

    Raises:
        DoctorError: it cannot be read, is no JSON, or of another schema.
    """
    try:
        data = parse_json(read_bounded(path, FACTS_LIMIT, pipe=True))
    except Unknown as error:
        raise DoctorError(
            f"The facts file {path} cannot be read: {error}; 'nanochat-doctor facts' prints one."
        ) from error
    return from_json(data.get("facts", data) if isinstance(data, dict) else data)


def own_python() -> str:
    """The environment that apply works in: that of this tool, or .venv of the checkout."""
    if sys.prefix != sys.base_prefix:
        return sys.executable
    made = checkout() / ".venv" / "bin" / "python"
    return str(made) if made.exists() else sys.executable


def checkout() -> Path:
    """The folder of the checkout; for an installed wheel, the current one."""
    return CHECKOUT if (CHECKOUT / "build" / "codes.toml").is_file() else Path.cwd()


def launcher() -> str:
    """How this tool is called, from any folder."""
    path = checkout() / "nanochat-doctor"
    return str(path) if path.is_file() else "nanochat-doctor"


def target_of(facts: Facts) -> Target:
    """Where steps install on a machine that is known by its facts."""
    python, host = facts.python, facts.host
    uv = bool(host and "uv" in host.tools)
    if python is None or python.executable is None:
        return Target(".venv/bin/python", "python3", uv)
    if python.externally_managed or (python.prefix == "/usr" and not python.venv):
        # A system's Python belongs to its packages: the steps install beside it.
        return Target(".venv/bin/python", python.executable, uv)
    return Target(python.executable, None, uv)

"""Asks, all at once and briefly, the places from which the tokenizer's parts could come."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from doctor.errors import Unknown
from doctor.facts import Facts, Rust
from doctor.findings.context import Context
from doctor.index.fetch import fetch
from doctor.index.page import Fit, fits
from doctor.knowledge.supply import Supply
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import at_least
from doctor.machine.background import Background
from doctor.machine.system import System
from doctor.probe.network import Address, ask

PUBLISHED = ("rustbpe", "tiktoken")
LINKER = "ziglang"

SMALL_CRATE = "itoa"
"""One without dependencies, whose index entry is a few kilobytes."""

QUICK = {"CARGO_NET_RETRY": "0", "CARGO_HTTP_TIMEOUT": "2"}

Trouble = str | None
"""Why not, or None."""


def supply(
    system: System, facts: Facts, tables: Tables, default_index: str | None, seconds: float
) -> Supply:
    """What can be had.

    Args:
        default_index: base URL of the Python index; None is not known, and so not asked.
        seconds: for all of it; what has not answered by then counts as said in `Supply`.
    """
    end = time.monotonic() + seconds
    rust = facts.rust or Rust()
    questions: dict[str, list[Callable[[], Trouble]]] = {
        "crates": [
            *([partial(_cargo, system.program_environment())] if rust.cargo else []),
            *_mirrors(tables, "crates"),
        ],
        "rustup": [*_official(tables), *_mirrors(tables, "rustup")],
    }
    calls = {name: [Background(q, name) for q in asked] for name, asked in questions.items()}
    context = Context(facts, tables)
    pages = {
        name: Background(partial(_page, default_index, name, context, seconds), name)
        for name in (*PUBLISHED, LINKER)
        if default_index
    }
    troubles: dict[str, str] = {}
    found = {name: _any(name, asked, end, troubles) for name, asked in calls.items()}
    lacking = {name for name, call in pages.items() if not _has(name, call, end, troubles)}
    return Supply(
        # where cargo is not there yet, its crates come from where rustup's toolchains do, as far as one can ask
        crates=found["crates"] or (not rust.cargo and found["rustup"]),
        rustup=found["rustup"],
        published=not lacking & set(PUBLISHED),
        linker=LINKER not in lacking,
        troubles=troubles,
    )


def _any(
    name: str, calls: Sequence[Background[Trouble]], end: float, troubles: dict[str, str]
) -> bool:
    """Whether one of several places answers; the first one's reason is told where none does."""
    reasons = []
    for call in calls:
        try:
            reason = call.result(max(0.0, end - time.monotonic()))
        except Unknown:
            reason = "no answer in time"
        if reason is None:
            return True
        reasons.append(reason)
    troubles[name] = reasons[0] if reasons else "no address is known"
    return False


def _has(name: str, call: Background[Trouble], end: float, troubles: dict[str, str]) -> bool:
    """Whether an index has a package; one that does not answer may have it."""
    with contextlib.suppress(Unknown):
        reason = call.result(max(0.0, end - time.monotonic()))
        if reason is not None:
            troubles[name] = reason
            return False
    return True


# --- places ----------------------------------------------------------------------------------


def _mirrors(tables: Tables, kind: str) -> list[Callable[[], Trouble]]:
    rows = [row for row in tables.mirrors(kind) if row.get("whole", True)]
    found: list[Callable[[], Trouble]] = []
    for row in rows:
        probe = str(row.get("probe", ""))
        url = probe if "://" in probe else str(row["url"]).removeprefix("sparse+") + probe
        found.append(partial(_reach, Address(row["name"], kind, url)))
    return found


def _official(tables: Tables) -> list[Callable[[], Trouble]]:
    from doctor.knowledge.tables import own_script

    address = own_script(tables)
    return [partial(_reach, Address("rustup", "rustup", address))] if address else []


def _reach(question: Address) -> Trouble:
    return ask(question).trouble


def _cargo(env: Mapping[str, str]) -> Trouble:
    """cargo itself is asked: it alone knows its registry, proxy and certificates."""
    with tempfile.TemporaryDirectory(prefix="nanochat-doctor-") as folder:
        Path(folder, "src").mkdir()
        Path(folder, "src", "lib.rs").touch()
        Path(folder, "Cargo.toml").write_text(
            f'[package]\nname = "asks"\nversion = "0.0.0"\n[dependencies]\n{SMALL_CRATE} = "1"\n'
        )
        done = subprocess.run(
            ["cargo", "generate-lockfile"],
            cwd=folder,
            env={**env, **QUICK},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=20,
        )
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return None if done.returncode == 0 else (said[-1].strip() if said else "cargo failed")


def _page(index: str | None, project: str, context: Context, seconds: float) -> Trouble:
    """Whether an index has a wheel of a project for this machine.

    Raises:
        Unknown: it does not answer.
    """
    answer = fetch(f"{str(index).rstrip('/')}/{project}/", project, seconds, f"{seconds:.1f} s")
    if answer.trouble:
        raise Unknown(answer.trouble)
    host = context.facts.host
    arch = host.arch if host else None
    offered = [fit for file in answer.files for fit in fits(file, context.python_minor, arch)]
    if any(_runs(fit, context) for fit in offered):
        return None
    return f"the Python index has no wheel of {project} for Python {context.python_minor} on {arch}"


def _runs(fit: Fit, context: Context) -> bool:
    """Whether this machine's C library is new enough, and of the kind that wheels are made for."""
    host = context.facts.host
    if host is None or host.libc is None or fit.glibc is None:
        return True
    if host.libc != "glibc":
        return False
    return host.libc_version is None or at_least(host.libc_version, fit.glibc)

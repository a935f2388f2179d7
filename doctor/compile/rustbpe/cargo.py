"""Which cargo and rustc build the crate: what is there, and what is told where it will not do."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from doctor.compile.rustbpe import rustup
from doctor.compile.rustbpe.private_rust import has_linker, private_rust
from doctor.environment.installer import Installer
from doctor.errors import DoctorError, Unknown
from doctor.facts import Facts
from doctor.findings.context import Context
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import older
from doctor.machine.look import find_version
from doctor.machine.system import HOST_PATH, System
from doctor.work.programs import Log, Say

CRATE = "rustbpe"


@dataclass(frozen=True)
class Toolchain:
    """A cargo and a rustc, by what makes a child process use them.

    Attributes:
        env: environment for all programs of the build.
        cargo: path of cargo.
        rustc: version of the compiler, or None with the reason in `trouble`.
    """

    env: Mapping[str, str]
    cargo: str | None = None
    rustc: str | None = None
    trouble: str | None = None


def find(
    system: System,
    facts: Facts,
    tables: Tables,
    log: Log,
    crate: Path,
    *,
    install: bool,
    say: Say,
) -> Toolchain:
    """The toolchain that builds the crate: on the PATH, beside it, or our own.

    Args:
        facts: with the areas host, python and rust.
        install: whether rustup may bring one, for us alone, where there is none that is new enough.

    Raises:
        DoctorError: there is none, with the commands that bring one on this distribution.
    """
    lowest = tables.msrv(CRATE)
    found = _look(_environment(system, facts), log, crate)
    if _serves(found, lowest):
        return found
    context = Context(facts, tables)
    private = private_rust(found.env)
    if not install and private.toolchain is None:
        raise DoctorError(f"{_lack(found, lowest)}; {_advice(found, context)}.")
    ours = _look(private.with_toolchain(found.env), log, log.path.parent)
    if private.toolchain is not None and _serves(ours, lowest):
        return ours
    say(
        f"{_lack(found, lowest)}; rustup fetches the {rustup.CHANNEL} toolchain into {private.folder}"
    )
    rustup.install({**found.env, **private.homes()}, tables, log, say)
    installed = _look(private.with_toolchain(found.env), log, log.path.parent)
    if private.toolchain is None or not _serves(installed, lowest):
        raise DoctorError(
            f"rustup installed a toolchain, and still {_lack(installed, lowest)}; see {log.path}."
        )
    return installed


def with_linker(
    toolchain: Toolchain, installer: Installer, tables: Tables, *, offline: bool, say: Say
) -> Toolchain:
    """The toolchain, with a linker of our own where the machine has none.

    Raises:
        DoctorError: none can be fetched.
    """
    if has_linker(toolchain.env) or platform.system() != "Linux":
        return toolchain
    private = private_rust(toolchain.env)
    if private.linker is None and not offline:
        private.fetch_linker(installer, tables, say)
    return replace(toolchain, env=private.with_linker(toolchain.env))


def _serves(found: Toolchain, lowest: str) -> bool:
    return found.rustc is not None and not older(found.rustc, lowest)


def _environment(system: System, facts: Facts) -> dict[str, str]:
    """Messages in English without colours; cargo's own folder, where a shell opened earlier lacks it."""
    env = system.program_environment() | {
        "CARGO_TERM_COLOR": "never",
        "CARGO_TERM_PROGRESS_WHEN": "never",
    }
    off_path = facts.rust.off_path if facts.rust else None
    path = env.get("PATH", HOST_PATH)
    return env | {"PATH": f"{off_path}:{path}" if off_path else path}


def _look(env: Mapping[str, str], log: Log, crate: Path) -> Toolchain:
    """What answers under the names cargo and rustc, asked in the crate: a file there may pin a toolchain."""
    programs = {name: shutil.which(name, path=env["PATH"]) for name in ("cargo", "rustc")}
    lacking = [name for name, path in programs.items() if path is None]
    if lacking:
        return Toolchain(
            env,
            trouble=f"{' and '.join(lacking)} {'is' if len(lacking) < 2 else 'are'} not on the PATH",
        )
    said = {
        name: log.run([str(path), "--version"], cwd=crate, env=env, seconds=20)
        for name, path in programs.items()
    }
    for name, answer in said.items():
        if answer.status != 0:
            return Toolchain(env, trouble=f"{name} does not work ({rustup.complaint(answer)})")
    try:
        version = find_version(said["rustc"].text)
    except Unknown as error:
        return Toolchain(env, trouble=f"rustc does not say its version ({error})")
    return Toolchain(env, cargo=programs["cargo"], rustc=version)


# --- what is told ----------------------------------------------------------------------------


def _lack(found: Toolchain, lowest: str) -> str:
    if found.rustc is None:
        return f"rustbpe is built by Rust {lowest} or newer, and {found.trouble}"
    return f"rustc {found.rustc} is older than {lowest}, the lowest that builds rustbpe"


def _advice(found: Toolchain, context: Context) -> str:
    """What brings a toolchain here; each command is one that runs as it is."""
    commands = _commands(found, context)
    ours = "let build-rustbpe bring one with --install-toolchain, or take published packages with --prebuilt"
    if not commands:
        return f"install Rust by rustup, or {ours}"
    return f"run `{' && '.join(commands)}`, or {ours}"


def _commands(found: Toolchain, context: Context) -> list[str]:
    if shutil.which("rustup", path=found.env["PATH"]):
        return [f"rustup toolchain install {rustup.CHANNEL}", f"rustup default {rustup.CHANNEL}"]
    row = next((r for r in context.tables.rows("packages", "need") if r["name"] == "rust"), None)
    if row is None:
        return []
    packaged = context.system_install("rust")
    if not packaged or found.rustc is not None or _known_old(context):
        return [str(row["fallback"])]
    # the package is rustup's where its command names it, which then has no toolchain yet
    after = row.get("after", []) if packaged[0].split()[-1] == "rustup" else []
    return [*packaged, *map(str, after)]


def _known_old(context: Context) -> bool:
    """Whether the distribution's rustc is known to be older than the crate wants."""
    host = context.facts.host
    name = f"{host.distro_id} {host.distro_version}" if host else ""
    rows = context.tables.rows("rust", "distribution")
    return any(
        r["distribution"] == name and older(r["rustc"], context.tables.msrv(CRATE)) for r in rows
    )

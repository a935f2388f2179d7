"""Which cargo and rustc build the crate: what is there, what is told where it will not do, what rustup brings."""

from __future__ import annotations

import hashlib
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.builder.logged import Ended, Log, Say
from doctor.builder.mirrors import answering
from doctor.errors import DoctorError, Unknown
from doctor.facts import Facts
from doctor.findings.context import Context
from doctor.look import find_version
from doctor.system import HOST_PATH, System
from doctor.tables import Row, Tables
from doctor.versions import older

CRATE = "rustbpe"
CHANNEL = "stable"
QUICK = {"RUSTUP_MAX_RETRIES": "1", "RUSTUP_DOWNLOAD_TIMEOUT": "20"}
"""Tries and seconds without a byte after which rustup gives up, so that a mirror is tried soon."""
DOWNLOAD_SECONDS = 10.0


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
    """The toolchain that builds the crate; on the PATH, or where rustup puts it beside the PATH.

    Args:
        facts: with the areas host, python and rust.
        install: whether rustup may bring one where there is none that is new enough.

    Raises:
        DoctorError: there is none, with the commands that bring one on this distribution.
    """
    lowest = tables.msrv(CRATE)
    found = _look(_environment(system, facts), log, crate)
    if _serves(found, lowest):
        return found
    context = Context(facts, tables)
    if not install:
        raise DoctorError(f"{_lack(found, lowest)}; {_advice(found, context)}.")
    pin = facts.rust.toolchain_file if facts.rust else None
    if pin and found.rustc:
        raise DoctorError(f"{_lack(found, lowest)}, and {pin} pins it; change that file.")
    say(f"{_lack(found, lowest)}; rustup fetches the {CHANNEL} toolchain")
    installed = _look(_installed(found.env, tables, log, crate, say), log, crate)
    if not _serves(installed, lowest):
        raise DoctorError(
            f"rustup installed a toolchain, and still {_lack(installed, lowest)}; see {log.path}."
        )
    return installed


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
            return Toolchain(env, trouble=f"{name} does not work ({_complaint(answer)})")
    try:
        version = find_version(said["rustc"].text)
    except Unknown as error:
        return Toolchain(env, trouble=f"rustc does not say its version ({error})")
    return Toolchain(env, cargo=programs["cargo"], rustc=version)


def _complaint(answer: Ended) -> str:
    """The first line that names an error, else the last one."""
    lines = [line.strip() for line in answer.text.splitlines()]
    first = next((line for line in lines if line.startswith("error")), answer.last_line())
    return first.removeprefix("error: ").rstrip(".")[:200]


# --- what is told ----------------------------------------------------------------------------


def _lack(found: Toolchain, lowest: str) -> str:
    if found.rustc is None:
        return f"rustbpe is built by Rust {lowest} or newer, and {found.trouble}"
    return f"rustc {found.rustc} is older than {lowest}, the lowest that builds rustbpe"


def _advice(found: Toolchain, context: Context) -> str:
    """What brings a toolchain here; each command is one that runs as it is."""
    commands = _commands(found, context)
    ours = "let build-rustbpe do it with --install-toolchain"
    if not commands:
        return f"install Rust by rustup, or {ours}"
    return f"run `{' && '.join(commands)}`, or {ours}"


def _commands(found: Toolchain, context: Context) -> list[str]:
    if shutil.which("rustup", path=found.env["PATH"]):
        return [f"rustup toolchain install {CHANNEL}", f"rustup default {CHANNEL}"]
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


# --- what rustup brings ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Where rustup fetches from: its own servers, or a mirror."""

    name: str
    env: Mapping[str, str]
    root: str | None = None
    """Where rustup-init lies."""


def _sources(tables: Tables) -> Iterator[_Source]:
    """rustup's own settings first, then the mirrors that answer."""
    yield _Source("rustup's own server", {})
    for row in answering(tables, "rustup"):
        yield _Source(row["name"], _variables(row), row.get("root_url"))


def _variables(row: Row) -> dict[str, str]:
    """What makes rustup ask a mirror: for toolchains, and for rustup itself."""
    pairs = (("variable", "url"), ("root_variable", "root_url"))
    return {str(row[name]): str(row[url]) for name, url in pairs if name in row and url in row}


def _installed(
    env: Mapping[str, str], tables: Tables, log: Log, crate: Path, say: Say
) -> dict[str, str]:
    """Install the stable toolchain, and say by which environment programs use it.

    Raises:
        DoctorError: no source has it; names each with its reason.
    """
    rustup = shutil.which("rustup", path=env["PATH"])
    reasons = []
    for source in _sources(tables):
        trial = {**env, **QUICK, **source.env}
        if rustup:
            command = [rustup, "toolchain", "install", CHANNEL, "--profile", "minimal"]
            done = log.run([*command, "--no-self-update"], cwd=crate, env=trial)
        elif source.root:
            try:
                done = _bootstrap(source, trial, log)
            except Unknown as error:
                reasons.append(f"{source.name}: {error}")
                continue
        else:
            reasons.append(f"{source.name}: there is no rustup here that could ask it")
            continue
        if done.status == 0:
            say(f"Rust {CHANNEL} installed from {source.name}")
            # for this build alone: the user's default toolchain stays what it was
            return {**env, "PATH": _with_cargo(env), "RUSTUP_TOOLCHAIN": CHANNEL}
        reasons.append(f"{source.name}: {_complaint(done)}")
    raise DoctorError(
        f"Rust cannot be installed ({'; '.join(reasons)}); connect this machine or install Rust by hand, "
        f"then run the same command again."
    )


def _with_cargo(env: Mapping[str, str]) -> str:
    """The PATH with the folder that rustup-init puts its programs into."""
    home = env.get("CARGO_HOME") or f"{env.get('HOME') or Path.home()}/.cargo"
    return f"{home}/bin:{env['PATH']}"


def _bootstrap(source: _Source, env: Mapping[str, str], log: Log) -> Ended:
    """Fetch rustup-init from a mirror, compare its SHA-256, run it. It leaves shell profiles alone.

    Raises:
        Unknown: it cannot be had, or is not what its checksum says.
    """
    url = f"{str(source.root).rstrip('/')}/dist/{_host_triple()}/rustup-init"
    contents = _fetch(url)
    wanted = _fetch(f"{url}.sha256").decode("ascii", "replace").split()
    if not wanted or hashlib.sha256(contents).hexdigest() != wanted[0].lower():
        raise Unknown(f"{url} is not what its checksum says")
    program = log.path.parent / "rustup-init"
    program.write_bytes(contents)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    try:
        words = ["-y", "--no-modify-path", "--profile", "minimal", "--default-toolchain", CHANNEL]
        # a Rust of the distribution, too old for us, is no reason to refuse
        skip = {"RUSTUP_INIT_SKIP_PATH_CHECK": "yes"}
        return log.run([str(program), *words], cwd=log.path.parent, env={**env, **skip})
    finally:
        program.unlink()


def _fetch(url: str) -> bytes:
    import requests

    try:
        answer = requests.get(url, timeout=DOWNLOAD_SECONDS)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise Unknown(f"{url} cannot be fetched ({type(error).__name__})") from error
    return answer.content


def _host_triple() -> str:
    """How Rust names this machine."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine(), platform.machine())
    if platform.system() == "Darwin":
        return f"{machine}-apple-darwin"
    libc = "gnu" if platform.libc_ver()[0] == "glibc" else "musl"
    return f"{machine}-unknown-linux-{libc}"

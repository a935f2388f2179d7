"""Lets rustup bring a toolchain, from its own server or from a mirror."""

from __future__ import annotations

import hashlib
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.builder.mirrors import answering
from doctor.builder.programs import Ended, Log, Say
from doctor.errors import DoctorError, Unknown
from doctor.tables import Row, Tables

CHANNEL = "stable"
QUICK = {"RUSTUP_MAX_RETRIES": "1", "RUSTUP_DOWNLOAD_TIMEOUT": "20"}
"""Tries and seconds without a byte after which rustup gives up, so that a mirror is tried soon."""
DOWNLOAD_SECONDS = 10.0


@dataclass(frozen=True)
class Source:
    """Where rustup fetches from: its own servers, or a mirror."""

    name: str
    env: Mapping[str, str]
    root: str | None = None
    """Where rustup-init lies."""


def install(
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
        reasons.append(f"{source.name}: {complaint(done)}")
    raise DoctorError(
        f"Rust cannot be installed ({'; '.join(reasons)}); connect this machine or install Rust by hand, "
        f"then run the same command again."
    )


def _sources(tables: Tables) -> Iterator[Source]:
    """rustup's own settings first, then the mirrors that answer."""
    yield Source("rustup's own server", {})
    for row in answering(tables, "rustup"):
        yield Source(row["name"], _variables(row), row.get("root_url"))


def _variables(row: Row) -> dict[str, str]:
    """What makes rustup ask a mirror: for toolchains, and for rustup itself."""
    pairs = (("variable", "url"), ("root_variable", "root_url"))
    return {str(row[name]): str(row[url]) for name, url in pairs if name in row and url in row}


def _with_cargo(env: Mapping[str, str]) -> str:
    """The PATH with the folder that rustup-init puts its programs into."""
    home = env.get("CARGO_HOME") or f"{env.get('HOME') or Path.home()}/.cargo"
    return f"{home}/bin:{env['PATH']}"


def _bootstrap(source: Source, env: Mapping[str, str], log: Log) -> Ended:
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


def complaint(answer: Ended) -> str:
    """The first line that names an error, else the last one."""
    lines = [line.strip() for line in answer.lines]
    first = next((line for line in lines if line.startswith("error")), answer.last_line())
    return first.removeprefix("error: ").rstrip(".")[:200]

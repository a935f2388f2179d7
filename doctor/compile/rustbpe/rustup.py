"""Lets rustup bring a toolchain into a folder of ours, from its own server or from a mirror."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from doctor.environment.mirrors import answering
from doctor.errors import DoctorError, Unknown
from doctor.knowledge.tables import Row, Tables, own_script
from doctor.work.programs import Ended, Log, Say

CHANNEL = "stable"
QUICK = {"RUSTUP_MAX_RETRIES": "1", "RUSTUP_DOWNLOAD_TIMEOUT": "20"}
"""Tries and seconds without a byte after which rustup gives up, so that a mirror is tried soon."""
DOWNLOAD_SECONDS = 10.0
ROOT = re.compile(r"RUSTUP_UPDATE_ROOT:-(https?://[^}\"'\s]+)")


@dataclass(frozen=True)
class Server:
    """Where rustup fetches from: its own servers, or a mirror."""

    name: str
    env: Mapping[str, str]
    root: str | None = None
    """Where rustup-init lies; None: its own script tells."""


def install(env: Mapping[str, str], tables: Tables, log: Log, say: Say) -> None:
    """Install the stable toolchain below the RUSTUP_HOME of an environment.

    A rustup that is there does it, else one that is fetched.

    Raises:
        DoctorError: no source has it; names each with its reason.
    """
    rustup = shutil.which("rustup", path=env["PATH"])
    reasons = []
    for source in _sources(tables):
        trial = {**env, **QUICK, **source.env}
        try:
            if rustup:
                command = [rustup, "toolchain", "install", CHANNEL, "--profile", "minimal"]
                done = log.run([*command, "--no-self-update"], cwd=log.path.parent, env=trial)
            else:
                done = _bootstrap(source.root or _own_root(tables), trial, log)
        except Unknown as error:
            reasons.append(f"{source.name}: {error}")
            continue
        if done.status == 0:
            say(f"Rust {CHANNEL} installed from {source.name}")
            return
        reasons.append(f"{source.name}: {complaint(done)}")
    raise DoctorError(
        f"Rust cannot be installed ({'; '.join(reasons)}); connect this machine or install Rust by hand, "
        f"then run the same command again, or take the published package with --prebuilt."
    )


def _sources(tables: Tables) -> Iterator[Server]:
    """rustup's own settings first, then the mirrors that answer."""
    yield Server("rustup's own server", {})
    for row in answering(tables, "rustup"):
        yield Server(row["name"], _variables(row), row.get("root_url"))


def _own_root(tables: Tables) -> str:
    """Where rustup's own installer fetches rustup-init from: the script says it.

    Raises:
        Unknown: it cannot be had, or says it in another way.
    """
    script = own_script(tables)
    if script is None:
        raise Unknown("its address is not in build/packages.toml")
    root = ROOT.search(_fetch(script).decode("utf-8", "replace"))
    if root is None:
        raise Unknown(f"{script} does not say where rustup-init is")
    return root.group(1)


def _variables(row: Row) -> dict[str, str]:
    """What makes rustup ask a mirror: for toolchains, and for rustup itself."""
    pairs = (("variable", "url"), ("root_variable", "root_url"))
    return {str(row[name]): str(row[url]) for name, url in pairs if name in row and url in row}


def _bootstrap(root: str, env: Mapping[str, str], log: Log) -> Ended:
    """Fetch rustup-init, compare its SHA-256, run it. It leaves shell profiles alone.

    Raises:
        Unknown: it cannot be had, or is not what its checksum says.
    """
    url = f"{root.rstrip('/')}/dist/{_host_triple()}/rustup-init"
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

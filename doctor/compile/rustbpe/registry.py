"""Where the crates come from: cargo's own cache, the registry that cargo is set to, or a mirror.

cargo itself is asked, since it alone knows its configuration, its proxy and its certificates. A mirror stands
in a configuration file of the build's own folder, from where cargo is started; it reads that file before the
user's, which stays as it is. The lock file's checksums hold for whatever a mirror sends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.compile.rustbpe.cargo import Toolchain
from doctor.environment.mirrors import answering
from doctor.errors import DoctorError
from doctor.knowledge.tables import Row, Tables
from doctor.work import files
from doctor.work.programs import Ended, Log, Say

QUICK = ("--config", "net.retry=0", "--config", "http.timeout=2")
"""Seconds for a connection, or without a byte, after which cargo takes a registry for unreachable."""

UNREACHABLE = re.compile(
    r"download of config\.json failed|failed to download|failed to query replaced source|spurious network"
    r"|Unable to update registry|unable to get packages from source|failed to get successful HTTP response"
    r"|[Cc]ould(?: not|n't) (?:connect|resolve)|timed? ?out|failed to fetch|failed to load source",
)
"""What cargo says where the network is at fault; everything else is a fault of the crate or the machine."""

ABSENT = re.compile(r"(?:no matching package named|failed to download) `([^`]+)`")


@dataclass(frozen=True)
class Registry:
    """A registry; without a URL the one that cargo is set to."""

    name: str
    url: str | None = None
    key: str = ""
    """Its usual name in cargo's configuration: two names for one address are an error there."""


OWN = Registry("cargo's registry")
CACHE = "cargo's cache"


@dataclass(frozen=True)
class _Fetch:
    """How cargo fetches: from the folder `work`, where a mirror's configuration lies."""

    toolchain: Toolchain
    manifest: Path
    work: Path
    log: Log

    def __call__(self, source: Registry, *words: str) -> Ended:
        """All crates of the lock file, from one source."""
        _configure(self.work, source)
        command = [str(self.toolchain.cargo), "fetch", "--locked", *words]
        return self.log.run(
            [*command, "--manifest-path", str(self.manifest)], cwd=self.work, env=self.toolchain.env
        )


def provide(
    toolchain: Toolchain,
    tables: Tables,
    manifest: Path,
    work: Path,
    log: Log,
    *,
    offline: bool,
    say: Say,
) -> str:
    """Bring all crates of the lock file into cargo's cache, and say where they came from.

    After that cargo needs no network, as long as it is started from `work`.

    Args:
        manifest: Cargo.toml, with a Cargo.lock beside it.
        work: folder of the build; a mirror's configuration is left there in `.cargo`.
        offline: use what is in the cache, or fail.

    Raises:
        DoctorError: a crate cannot be had, or the lock file does not fit.
    """
    fetch = _Fetch(toolchain, manifest, work, log)
    missing = _cached(fetch, [OWN, *map(_source, tables.mirrors("crates"))])
    if missing is None:
        return CACHE
    if offline:
        raise DoctorError(
            f"Not all crates that rustbpe needs are in cargo's cache ({missing}), and --offline forbids to fetch "
            f"them; run it once with a network, or copy {_home(toolchain.env)}/registry from a machine that did."
        )
    say("fetching the crates that rustbpe needs")
    quick = fetch(OWN, *QUICK)
    if quick.status == 0:
        return OWN.name
    _require_sound(quick)
    if not UNREACHABLE.search(quick.text):
        raise DoctorError(
            f"cargo cannot fetch the crates of rustbpe: {_reason(quick)}; see {log.path}."
        )
    reasons = [f"{OWN.name}: {_reason(quick)}"]
    say(f"cargo's registry does not answer ({_reason(quick)}); trying mirrors")
    for source in map(_source, answering(tables, "crates")):
        done = fetch(source)
        _require_sound(done)
        if done.status == 0:
            say(f"crates fetched from {source.name}")
            return source.name
        reasons.append(f"{source.name}: {_reason(done)}")
    if "Downloaded " in quick.text and fetch(OWN).status == 0:  # slow, but there
        return OWN.name
    _configure(work, OWN)
    told = "" if len(reasons) > 1 else ", and no mirror answers"
    raise DoctorError(
        f"The crates that rustbpe needs cannot be fetched ({'; '.join(reasons)}){told}; connect this machine, or "
        f"copy {_home(toolchain.env)}/registry from one that has built rustbpe."
    )


def _cached(fetch: _Fetch, sources: Iterable[Registry]) -> str | None:
    """None where cargo has every crate already, from whichever source; else what is missing."""
    missing = None
    for source in sources:
        done = fetch(source, "--offline")
        if done.status == 0:
            return None
        _require_sound(done)
        match = ABSENT.search(done.text)
        missing = missing or (f"{match[1]} is missing" if match else "some are missing")
    return missing


def _configure(work: Path, source: Registry) -> None:
    """Make `source` the registry of every cargo that is started from `work`.

    Raises:
        DoctorError: the folder cannot be written.
    """
    path = work / ".cargo" / "config.toml"
    if source.url is None:
        files.remove(path)
        return
    files.write(
        path,
        f'[source.crates-io]\nreplace-with = "{source.key}"\n\n'
        f'[source.{source.key}]\nregistry = "{source.url}"\n',
    )


def _source(row: Row) -> Registry:
    """A mirror of the table; cargo wants a sparse registry's address with a slash at its end."""
    url = str(row["url"])
    if "+" not in url.partition("://")[0]:
        url = f"sparse+{url}"
    key = str(row.get("source_name", "nanochat-doctor-mirror"))
    return Registry(str(row["name"]), f"{url.rstrip('/')}/", key)


def _require_sound(done: Ended) -> None:
    """Let a failure pass that another registry may mend.

    Raises:
        DoctorError: none would: the lock file does not fit, or the disk is full.
    """
    if done.status != 0 and "--locked" in done.text:
        raise DoctorError(
            "rustbpe/Cargo.lock does not fit rustbpe/Cargo.toml; take back the change to either, or run "
            "cargo update in rustbpe."
        )
    if "No space left on device" in done.text:
        raise DoctorError(
            "The disk that holds cargo's cache is full; free some of it, or name another with CARGO_HOME."
        )


def _reason(done: Ended) -> str:
    """What cargo names last is nearest to the cause."""
    return done.last_line().removeprefix("error: ").rstrip(".")[:200]


def _home(env: Mapping[str, str]) -> str:
    return env.get("CARGO_HOME") or "~/.cargo"

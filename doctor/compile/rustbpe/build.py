"""Builds the crate rustbpe and installs it into a Python: what `nanochat-doctor build-rustbpe` does.

Everything that can fail comes before the environment is touched: the wheel is whole before it goes in. Crates
are fetched first, so that the build itself needs no network, whatever tool runs it.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doctor.compile.rustbpe import cargo, registry
from doctor.compile.rustbpe.crate import Crate, read_crate
from doctor.compile.rustbpe.installed import inspect, out_of_date, unusable
from doctor.compile.rustbpe.private_rust import has_linker, private_rust
from doctor.compile.rustbpe.wheel import WheelBuilder
from doctor.environment.installer import Installer, complaint
from doctor.errors import DoctorError, WrongUsage
from doctor.facts import Facts
from doctor.facts import Python as PythonFacts
from doctor.findings.context import Context
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import minor, older
from doctor.machine import crate_cache
from doctor.machine.system import System
from doctor.probe.survey import survey
from doctor.text.quantities import disk
from doctor.work.lock import exclusive
from doctor.work.programs import Log, Say, signals_raise

OURS, UPSTREAM = "nanochat-rustbpe", "rustbpe"
"""Distributions that bring a module of this name: the crate's own, and another project's on the Python index."""

PUBLISHED = (UPSTREAM, "tiktoken")
"""What stands in for the crate: one trains, the other encodes (nanochat/published_bpe.py)."""

NEEDED = 300 << 20
"""Bytes for crates, compiled code and maturin: 80 MB, 120 MB and 27 MB were measured, and some to spare."""


@dataclass(frozen=True)
class BuildResult:
    """What was done.

    Attributes:
        version: of the module that the Python imports now.
        python: path of the interpreter.
        built: False where it was there already and nothing was done.
        seconds: taken in all.
        origin: where the crates came from, or "the Python index" of a prebuilt one; "" where nothing was done.
        log: what the programs said; None where none was started.
    """

    version: str
    python: str
    built: bool
    seconds: float
    origin: str = ""
    log: Path | None = None


def build(
    *,
    checkout: Path,
    python: str,
    system: System,
    tables: Tables,
    prebuilt: bool = False,
    install_toolchain: bool = False,
    only_toolchain: bool = False,
    offline: bool = False,
    force: bool = False,
    say: Say,
) -> BuildResult:
    """Make sure that a Python has the rustbpe of this checkout, or published packages that do the same.

    Args:
        checkout: the repository's folder, with the crate in `rustbpe/`.
        python: path of the interpreter.
        prebuilt: take the packages of the Python index in place of a build, if they do what the trainer needs.
        install_toolchain: let rustup bring Rust, for us alone, where there is none that is new enough.
        only_toolchain: bring what a build needs and is not here, Rust and a linker, and build nothing yet.
        offline: ask no registry and no index.
        force: build even where nothing has changed.
        say: hears a line at each step.

    Raises:
        DoctorError: it cannot be built or installed; the environment is as it was, unless the text says else.
    """
    began = time.monotonic()
    _require_one_wish(prebuilt, install_toolchain or only_toolchain, offline)
    facts = survey(system, tables, areas=("host", "python", "rust"), python=python)
    python = _require_python(facts, python)
    crate = None if prebuilt else read_crate(checkout)
    if only_toolchain:
        return _bring_toolchain(checkout, python, system, facts, tables, say, began)
    found = inspect(system, python)
    reason = unusable(found) if crate is None else out_of_date(found, crate)
    if reason is None and not force:
        version = str(found["version"])
        say(f"rustbpe {version} is there and works in {python}: nothing to do")
        return BuildResult(version, python, False, time.monotonic() - began)
    with signals_raise(), _workplace(checkout / "rustbpe", say) as work:
        log = Log(work / "build.log")
        installer = Installer(python, system.program_environment(), log, work)
        if crate is None:
            origin = _install_prebuilt(system, installer, tables, found, say)
        elif not force and _from_cache(system, facts, tables, crate, installer, found, say):
            origin = "the cache"
        else:
            say(f"building rustbpe {crate.version} for {python}: {reason or 'as asked'}")
            _require_fit(facts.python, crate, tables)
            _require_room(system, crate)
            toolchain = cargo.find(
                system, facts, tables, log, crate.folder, install=install_toolchain, say=say
            )
            toolchain = cargo.with_linker(toolchain, installer, tables, offline=offline, say=say)
            origin, wheel = _make_wheel(
                crate, toolchain, installer, Context(facts, tables), offline, say
            )
            _put(installer, wheel, found, say)
            crate_cache.keep(wheel, crate.folder, system.env)
    version = _require_effect(system, python, crate)
    seconds = time.monotonic() - began
    say(f"rustbpe {version} works in {python}; {seconds:.0f} s")
    return BuildResult(version, python, True, seconds, origin, log.path)


def _bring_toolchain(
    checkout: Path,
    python: str,
    system: System,
    facts: Facts,
    tables: Tables,
    say: Say,
    began: float,
) -> BuildResult:
    """Rust and a linker, each where there is none."""
    crate = read_crate(checkout)
    with signals_raise(), _workplace(crate.folder, say) as work:
        log = Log(work / "toolchain.log")
        installer = Installer(python, system.program_environment(), log, work)
        toolchain = cargo.find(system, facts, tables, log, crate.folder, install=True, say=say)
        cargo.with_linker(toolchain, installer, tables, offline=False, say=say)
    seconds = time.monotonic() - began
    say(f"Rust {toolchain.rustc} and a linker are there; {seconds:.0f} s")
    return BuildResult(str(toolchain.rustc), python, False, seconds, log=log.path)


def toolchain_missing(system: System, facts: Facts, tables: Tables) -> str | None:
    """What a build still lacks of Rust and a linker, on the PATH and in our own folder; None where nothing."""
    private = private_rust(system.env)
    rust = facts.rust
    lowest = tables.msrv(cargo.CRATE)
    there = rust and (rust.off_path or (rust.rustc and not older(rust.rustc, lowest)))
    if not there and private.toolchain is None:
        return f"there is no Rust {lowest} or newer here, nor in {private.folder}"
    if not has_linker(system.env) and private.linker is None:
        return f"there is no linker here, nor in {private.folder}"
    return None


# --- what must hold --------------------------------------------------------------------------


def _require_one_wish(prebuilt: bool, install_toolchain: bool, offline: bool) -> None:
    wishes = {
        "--prebuilt": prebuilt,
        "--install-toolchain": install_toolchain,
        "--offline": offline,
    }
    wished = [name for name, wish in wishes.items() if wish]
    if len(wished) > 1:
        raise WrongUsage(f"{' and '.join(wished)} contradict each other; choose one of them.")


def _require_python(facts: Facts, python: str) -> str:
    if facts.python is None or facts.python.executable is None:
        raise WrongUsage(
            f"{facts.unknown.get('python', f'{python} is no Python')}; name another one with --python."
        )
    return facts.python.executable


def _require_fit(python: PythonFacts | None, crate: Crate, tables: Tables) -> None:
    """The interpreter is one that the crate and its PyO3 build for.

    Raises:
        DoctorError: it is too old, or too new for a build that is made for one version alone.
    """
    from packaging.specifiers import SpecifierSet

    version = python.version if python else None
    if python is None or version is None:
        return
    allowed = str(crate.pyproject.get("project", {}).get("requires-python", ""))
    if version not in SpecifierSet(allowed):
        raise DoctorError(
            f"{python.executable} is Python {version}, and rustbpe asks for {allowed}; name another one with --python."
        )
    own = next(row for row in tables.rows("rust", "crate") if row["name"] == cargo.CRATE)
    known = next((r for r in tables.rows("rust", "pyo3") if r["version"] == own["pyo3"]), None)
    # the stable ABI outlasts versions, and the free-threaded Python does not have it yet
    bound = python.free_threaded or not crate.stable_abi
    if known and bound and older(known["max_python"], minor(version)):
        raise DoctorError(
            f"{python.executable} is Python {version}, newer than {known['max_python']}, the newest that PyO3 "
            f"{known['version']} builds for{' without a GIL' if python.free_threaded else ''}; name another one with "
            "--python."
        )


def _require_room(system: System, crate: Crate) -> None:
    place = system.env.get("CARGO_TARGET_DIR") or str(crate.folder)
    _, free = system.space(place)
    if free < NEEDED:
        raise DoctorError(
            f"Building rustbpe takes up to {disk(NEEDED / 1e6)}, and {place} has {disk(free / 1e6)} free; free "
            "some, or name another disk with CARGO_TARGET_DIR."
        )


def _require_effect(system: System, python: str, crate: Crate | None) -> str:
    """What was installed is what an import takes now, and it works; its version.

    Raises:
        DoctorError: it is not, or does not.
    """
    found = inspect(system, python)
    trouble = found.get("trouble") or (None if found.get("path") else "cannot be imported")
    if crate is not None and not trouble and found["version"] != crate.version:
        trouble = f"is hidden by another one, {found['version']} at {found['path']}"
    if trouble:
        raise DoctorError(
            f"rustbpe was installed into {python}, and {trouble}; look at that environment, or make a new one."
        )
    return str(found["version"])


# --- what is done ----------------------------------------------------------------------------


@contextlib.contextmanager
def _workplace(folder: Path, say: Say) -> Iterator[Path]:
    """A folder for log, mirror, maturin and wheel, held by one process at a time.

    It lies in the crate's own target folder, where git does not look and cargo finds the crate's settings; a
    prebuilt package that is installed without a crate has one for itself.
    """
    if not folder.is_dir():
        yield Path(tempfile.mkdtemp(prefix="nanochat-doctor-"))
        return
    work = folder / "target" / "doctor"
    with exclusive(work / ".lock", wait=True, say=say):
        yield work


def _make_wheel(
    crate: Crate,
    toolchain: cargo.Toolchain,
    installer: Installer,
    context: Context,
    offline: bool,
    say: Say,
) -> tuple[str, Path]:
    """Fetch the crates, then compile; where they came from, and the wheel."""
    work, log, manifest = installer.cwd, installer.log, crate.folder / "Cargo.toml"
    origin = registry.provide(
        toolchain, context.tables, manifest, work, log, offline=offline, say=say
    )
    builder = WheelBuilder(crate, toolchain, installer, context, work, log, say)
    return origin, builder.build(offline)


def _put(installer: Installer, wheel: Path, found: dict[str, Any], say: Say) -> None:
    """Install the wheel in place of whatever rustbpe is there.

    Raises:
        DoctorError: uv or pip refuses.
    """
    if UPSTREAM in found.get("distributions", {}):
        # both own the folder rustbpe/, so that whichever is uninstalled later takes files of the other
        say(
            f"taking out {UPSTREAM} {found['distributions'][UPSTREAM]}, another package of that name"
        )
        installer.uninstall(UPSTREAM)
    done = installer.install("--no-deps", "--no-index", "--force-reinstall", str(wheel))
    if done.status != 0:
        raise DoctorError(
            f"rustbpe was built and cannot be installed into {installer.python}: {complaint(done)}; the wheel is "
            f"{wheel}."
        )


def _from_cache(
    system: System,
    facts: Facts,
    tables: Tables,
    crate: Crate,
    installer: Installer,
    found: dict[str, Any],
    say: Say,
) -> bool:
    """Install a wheel that was built here earlier; whether there was one, and it works."""
    tags = crate_cache.tags_of(Context(facts, tables).python_minor or "", platform.machine())
    wheel = crate_cache.find(crate.folder, system.env, tags)
    if wheel is None:
        return False
    # a folder that several machines share may hold what another one built
    trial = installer.cwd / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(trial)
        tried = inspect(system, installer.python, str(trial))
    except (OSError, zipfile.BadZipFile) as error:
        tried = {"trouble": str(error)}
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    if tried.get("trouble") or tried.get("version") != crate.version:
        say(f"{wheel} does not work here ({tried.get('trouble') or 'another version'}); building")
        return False
    say(f"taking {wheel}, which was built earlier")
    _put(installer, wheel, found, say)
    return True


def _install_prebuilt(
    system: System, installer: Installer, tables: Tables, found: dict[str, Any], say: Say
) -> str:
    """Install the packages of the Python index, once they have shown that they do what the trainer needs.

    Returns:
        where they came from.

    Raises:
        DoctorError: they cannot be had or lack something; the environment is as it was.
    """
    trial = installer.log.path.parent / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    say(f"fetching the published {' and '.join(PUBLISHED)}, to see whether they serve")
    index = installer.fetch(UPSTREAM, trial, tables)
    tried = inspect(system, installer.python, str(trial))
    if tried.get("published") and tried.get("trouble"):
        installer.fetch(PUBLISHED[1], trial, tables, deps=True)
        tried = inspect(system, installer.python, str(trial))
    version = _version_in(trial)
    ours = str(tried.get("path") or "").startswith(f"{trial}/")
    shutil.rmtree(trial)
    if not ours or tried.get("trouble"):
        raise DoctorError(
            f"The prebuilt {UPSTREAM} {version} {tried.get('trouble') or 'cannot be imported'}, so it was not "
            "installed; build the crate of this repository, without --prebuilt."
        )
    if OURS in found.get("distributions", {}):
        say(f"taking out {OURS} {found['distributions'][OURS]}, which owns the same module")
        installer.uninstall(OURS)
    wanted = [f"{UPSTREAM}=={version}", *(PUBLISHED[1:] if tried.get("published") else ())]
    again = ["--force-reinstall", "--no-deps"] if len(wanted) == 1 else []
    done = installer.install(*again, *wanted, index=index)
    if done.status != 0:
        raise DoctorError(
            f"{' and '.join(wanted)} cannot be installed into {installer.python}: {complaint(done)}; build the crate "
            "of this repository, without --prebuilt."
        )
    return index.name


def _version_in(folder: Path) -> str:
    """Version of the package that lies in a folder, as its dist-info is named."""
    names = [path.name for path in folder.glob(f"{UPSTREAM}-*.dist-info")]
    return names[0].removesuffix(".dist-info").partition("-")[2] if names else ""

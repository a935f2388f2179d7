"""One call of build-torch, from what is known to a wheel that was proved."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.compile.source import build_folder, clone, steering
from doctor.compile.source.fingerprint import Fingerprint, fingerprint
from doctor.compile.source.tree_state import state_hash
from doctor.compile.torch import product
from doctor.compile.torch.builder import Builder
from doctor.compile.torch.outlook import (
    CACHE_SECTION,
    Outlook,
    base_folder,
    learned_weights,
    look_ahead,
)
from doctor.compile.torch.preflight import stops
from doctor.compile.torch.prove import prove
from doctor.errors import DoctorError
from doctor.findings.finding import ERROR, Finding
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.planner.build.tree import Tree
from doctor.work import processes
from doctor.work.events import Reporter
from doctor.work.run import clean_environment, search_path


@dataclass(frozen=True)
class Built:
    """A wheel that was proved, now or earlier."""

    wheel: Path
    from_cache: bool


def carry_out(outlook: Outlook, system: System, tables: Tables, reporter: Reporter) -> Built:
    """Get the source, build, prove, keep.

    Raises:
        DoctorError: something stands in the way, failed, or is not as asked.
        Stopped: a signal came.
    """
    facts, request = outlook.facts, outlook.request
    python = facts.python.executable if facts.python else None
    if python is None:
        raise DoctorError("There is no Python to build with; name one with --python.")
    _refuse(outlook)
    cache = base_folder(facts) / CACHE_SECTION
    log = new_log(cache)
    env = clean_environment(system.env)
    env["PATH"] = search_path(python, env)
    tree = outlook.tree
    if outlook.ref is not None:
        outlook.folder.mkdir(parents=True, exist_ok=True)
        with build_folder.locked(outlook.folder):
            places = clone.origins(tables)
            clone.clone(outlook.folder, outlook.ref, places, env=env, log=log, reporter=reporter)
        again = look_ahead(request, system, facts, tables)
        _refuse(again)
        outlook, tree = again, again.tree
    assert tree is not None
    with build_folder.locked(tree.path) as mark:
        state = state_hash(tree)
        own = steering.counted(system.env, tree.path, tables)
        wanted = _fingerprint(outlook, tree, state, own, python)
        ready = product.cached(cache / "wheels", wanted)
        if ready is not None:
            wheel = product.hand_out(ready, request.out)
            reporter.event("cached", f"Built and proved before: {wheel}", wheel=str(wheel))
            return Built(wheel, True)
        goes_on = build_folder.prepare(tree, wanted, request.resume)
        toolkit = outlook.chosen.toolkit
        version = product.local_version(
            tree, state, toolkit.version if toolkit else None, outlook.chosen.archs
        )
        reporter.event(
            "start",
            f"{'Going on with' if goes_on else 'Building'} torch {version} in {tree.path}; "
            f"the log is {log}",
            version=version,
            source=str(tree.path),
            log=str(log),
            resumed=goes_on,
        )
        dist = cache / "made" / wanted.key
        dist.mkdir(parents=True, exist_ok=True)
        for old in dist.glob("*.whl"):
            old.unlink()
        builder = Builder(
            tree=tree,
            python=python,
            env={
                **_without(env, steering.without_effect(env, tree.path, tables)),
                **clone.mirrored(tree.path, env),
                **outlook.settings,
                "PYTORCH_BUILD_VERSION": version,
                "PYTORCH_BUILD_NUMBER": "1",
            },
            jobs=outlook.chosen.jobs,
            weights=learned_weights(cache, tables),
            reporter=reporter,
            log=log,
            dist=dist,
            mark=mark,
            fingerprint=wanted,
        )
        wheel = builder.build()
        marked = {**env, processes.MARK: mark}
        kept = _prove(outlook, wheel, cache, python, marked, wanted, reporter)
        builder.done()
    final = product.hand_out(kept, request.out)
    reporter.event("done", f"Built and proved: {final}", wheel=str(final), version=version)
    return Built(final, False)


def _without(env: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in names}


def _refuse(outlook: Outlook) -> None:
    """End with all errors of the preflight."""
    if stops(outlook.findings):
        errors = [f for f in outlook.findings if f.severity == ERROR]
        said = "".join(f"\n  {f.code}: {f.cause}" + _cure(f) for f in errors)
        raise DoctorError(f"The build cannot begin:{said}")


def _cure(finding: Finding) -> str:
    return f"\n    → {finding.remedy.text}" + "".join(
        f"\n      $ {command}" for command in finding.remedy.commands
    )


def new_log(cache: Path) -> Path:
    """A new log among the builds.

    Raises:
        DoctorError: the folder cannot be written.
    """
    folder = cache / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = max((int(p.stem) for p in folder.glob("*.log") if p.stem.isdigit()), default=0)
        path = folder / f"{number + 1:04d}.log"
        path.touch()
    except OSError as error:
        raise DoctorError(
            f"{folder} cannot be written: {error.strerror}; set NANOCHAT_BASE_DIR to another folder."
        ) from error
    return path


def _fingerprint(
    outlook: Outlook, tree: Tree, state: str, own: Mapping[str, str], python: str
) -> Fingerprint:
    chosen, programs, facts = outlook.chosen, outlook.programs, outlook.facts
    compiler, toolkit = chosen.compiler, chosen.toolkit
    named = {
        "compiler": f"{compiler.cxx} {compiler.version}" if compiler else "none",
        "nvcc": f"{toolkit.nvcc} {toolkit.version}" if toolkit else "none",
        "cmake": f"{programs.cmake} {programs.cmake_version}",
        "python": f"{python} {facts.python.version if facts.python else None}",
        "tree": str(tree.path.resolve()),
    }
    return fingerprint(state, {**own, **outlook.settings}, named)


def _prove(
    outlook: Outlook, wheel: Path, cache: Path, python: str, env: Mapping[str, str],
    wanted: Fingerprint, reporter: Reporter,
) -> Path:  # fmt: skip
    reporter.event("prove", "Proving the wheel in a fresh environment …", wheel=str(wheel))
    chosen, nvidia = outlook.chosen, outlook.facts.nvidia
    asked = product.Wanted(chosen.archs, chosen.libuv)
    proof = prove(
        wheel, cache / "proof" / wanted.key, python, env, asked,
        len(nvidia.visible) if nvidia else 0,
    )  # fmt: skip
    found = proof.build
    reporter.event(
        "read",
        f"  architectures: {', '.join(found.archs_covered) or 'none'}; libuv: {_yes(found.libuv)}; "
        f"NCCL: {_yes(found.nccl)}; missing libraries: {len(found.missing_libraries)}",
        archs=list(found.archs_covered),
        ptx=list(found.archs_ptx),
        libuv=found.libuv,
        nccl=found.nccl,
        missing_libraries=[m.name for m in found.missing_libraries],
    )
    for check in proof.checks:
        sign = "failed" if check.ok is False else "not tried" if check.ok is None else "works"
        reporter.event(
            "check", f"  {check.name}: {sign} ({check.detail})",
            name=check.name, ok=check.ok, detail=check.detail,
        )  # fmt: skip
    if proof.lacks:
        raise DoctorError(
            f"The wheel was built, but it is not what was asked: {'; '.join(proof.lacks)}. "
            f"It lies at {shlex.quote(str(wheel))} and is not used."
        )
    return product.keep(wheel, cache / "wheels", wanted, [check.name for check in proof.checks])


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]

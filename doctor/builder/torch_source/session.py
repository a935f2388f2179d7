"""One call of build-torch, from a wish to a wheel that was proved."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from doctor.builder.torch_source import build_folder, ninja, product, source
from doctor.builder.torch_source.builder import Builder
from doctor.builder.torch_source.draft import Draft, draft, hours
from doctor.builder.torch_source.events import Reporter
from doctor.builder.torch_source.fingerprint import Fingerprint, fingerprint
from doctor.builder.torch_source.jobs import Jobs
from doctor.builder.torch_source.preflight import Programs, look_at_programs, preflight, stops
from doctor.builder.torch_source.prove import prove
from doctor.builder.torch_source.recipe import environment
from doctor.builder.torch_source.run import clean_environment, search_path
from doctor.builder.torch_source.toolchain import Compiler
from doctor.builder.torch_source.tree import Tree, read_tree, state_hash
from doctor.builder.torch_source.weights import Weights
from doctor.errors import DoctorError, Unknown, WrongUsage
from doctor.facts import Facts
from doctor.findings.finding import ERROR, Finding
from doctor.look import find_version
from doctor.plan import Wishes
from doctor.system import System
from doctor.tables import Tables
from doctor.versions import older

STEERING = re.compile(
    r"(USE|BUILD|CMAKE|TORCH|NCCL|CUDNN|MKL|BLAS|ATEN|ONNX|PYTORCH)_|(C|CXX|LD|CPP)FLAGS$"
)
"""Variables of the user's own that PyTorch's build reads; they belong to what a build depends on."""

FIRST_WITH_LIBUV = "2.1"
SOURCE_SECTION = "torch-source"
CACHE_SECTION = "torch-builds"


@dataclass(frozen=True)
class Request:
    """What was typed."""

    wishes: Wishes
    source: Path | None = None
    ref: str | None = None
    jobs: int | None = None
    cuda_home: str | None = None
    out: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Outlook:
    """All that is known before anything is changed.

    Attributes:
        tree: None where it is still to be cloned.
        folder: where the source is, or will be.
        settings: the recipe: variables that the build gets.
        notes: variables of the user's that are ignored or overridden, jobs that are too many.
    """

    request: Request
    facts: Facts
    tree: Tree | None
    folder: Path
    ref: str | None
    chosen: Draft
    programs: Programs
    settings: Mapping[str, str]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    hours: float


def look_ahead(request: Request, system: System, facts: Facts, tables: Tables) -> Outlook:
    """Decide all that can be decided now.

    Raises:
        WrongUsage: an architecture that there is none of, contradictory options.
        DoctorError: a source that is no PyTorch's.
    """
    if request.source is not None and request.ref is not None:
        raise WrongUsage("--source names a tree and --ref a tag to clone; give one of them.")
    folder, ref, said = _place(request, system, facts, tables)
    tree = (
        read_tree(folder, tables) if ref is None or (folder / "CMakeLists.txt").exists() else None
    )
    python = facts.python.executable if facts.python else None
    programs = look_at_programs(system, python)
    chosen = draft(
        facts,
        tables,
        request.wishes,
        cuda_home=request.cuda_home,
        first=_named_compiler(system),
        others=programs.compilers,
    )
    notes = [*said, *_notes(system.env, tables)]
    if request.jobs is not None:
        if request.jobs > chosen.jobs.wide:
            notes.append(
                f"--jobs {request.jobs}: {chosen.jobs.wide} is what fits this machine's memory and "
                "cores; compilers may be killed."
            )
        chosen = replace(chosen, jobs=_with(chosen.jobs, request.jobs))
    version = tree.version if tree else ref.removeprefix("v") if ref else None
    prefix = system.env.get("CMAKE_PREFIX_PATH", "") or (
        facts.python.prefix or "" if facts.python and facts.python.conda else ""
    )
    settings = environment(
        facts, tables, chosen, version=version, prefix=prefix, cmake=programs.cmake_version
    )
    found = preflight(system, facts, tables, chosen, tree, programs)
    if tree and ref is not None:
        # submodules of a clone of ours are fetched anyway
        found = [f for f in found if f.code != "build.submodules-missing"]
    _check_age(tree, chosen)
    notes += [
        f"{name}={system.env[name]} of the environment is overridden by {value}."
        for name, value in settings.items()
        if system.env.get(name, value) != value and name not in ("CC", "CXX", "CMAKE_PREFIX_PATH")
    ]
    return Outlook(
        request, facts, tree, folder, ref, chosen, programs, settings, tuple(found), tuple(notes),
        _hours(facts, tables, tree, chosen),
    )  # fmt: skip


def _hours(facts: Facts, tables: Tables, tree: Tree | None, chosen: Draft) -> float:
    """By what is left of a configured tree, object by object; else by the table's whole."""
    plan = tree.build / "build.ninja" if tree else None
    if tree is None or plan is None or not plan.exists():
        return hours(tables, chosen)
    weights = _weights(base_folder(facts) / CACHE_SECTION, tables)
    made = ninja.read_log(tree.build)
    text = plan.read_text(encoding="utf-8", errors="surrogateescape")
    left = sum(weights.seconds(name) for name in ninja.objects(text) if name not in made)
    return left / chosen.jobs.wide / 3600


def _weights(cache: Path, tables: Tables) -> Weights:
    return Weights.load(cache / "weights.json", tables.rows("recipes", "weight"))


def _place(
    request: Request, system: System, facts: Facts, tables: Tables
) -> tuple[Path, str | None, list[str]]:
    """Where the source is; the tag to clone there, None for a tree of the user's own; and what to note."""
    if request.source is not None:
        return system.locate(str(request.source.absolute())), None, []
    said = []
    local = system.env.get("TORCH_LOCAL_PATH")
    if request.ref is None and local:
        folder = Path(os.path.abspath(local))
        folder = folder.parent if folder.name == "torch" else folder
        try:
            return read_tree(system.locate(str(folder)), tables).path, None, []
        except DoctorError as error:
            # it may be a package that was built elsewhere: good to import, not to build
            said.append(f"TORCH_LOCAL_PATH is left alone: {error}")
    python = facts.python
    minor = ".".join(python.version.split(".")[:2]) if python and python.version else None
    if minor and python and python.free_threaded:
        minor += "t"
    ref = request.ref or source.newest_release(tables, minor)
    return base_folder(facts) / SOURCE_SECTION / re.sub(r"[^\w.-]", "_", ref), ref, said


def base_folder(facts: Facts) -> Path:
    """The trainer's base folder, which the caches share.

    Raises:
        DoctorError: neither NANOCHAT_BASE_DIR nor HOME is set.
    """
    base = facts.storage.base_dir if facts.storage else None
    if base is None:
        raise DoctorError(
            "There is no place for source and wheels; set NANOCHAT_BASE_DIR to a folder."
        )
    return Path(base)


def _named_compiler(system: System) -> list[Compiler]:
    """The compiler that CXX names, if it does."""
    cxx = system.env.get("CXX")
    path = (cxx if "/" in cxx else system.which(cxx)) if cxx else None
    if path is None:
        return []
    try:
        banner = system.output([path, "--version"])
        version = find_version(system.output([path, "-dumpfullversion", "-dumpversion"]))
    except Unknown:
        return []
    kind = "clang" if "clang" in banner else "gcc"
    return [Compiler(kind, version, system.env.get("CC") or path, path)]


def _with(jobs: Jobs, wide: int) -> Jobs:
    return replace(jobs, wide=wide, heavy=min(jobs.heavy, wide))


def _notes(env: Mapping[str, str], tables: Tables) -> Iterator[str]:
    for row in tables.rows("recipes", "ignored"):
        if row["name"] in env:
            yield (
                f"{row['name']}={env[row['name']]} has no effect on the build: {row['why']} "
                f"What counts is {row['instead']}."
            )


def _check_age(tree: Tree | None, chosen: Draft) -> None:
    if tree is not None and chosen.libuv and older(tree.version, FIRST_WITH_LIBUV):
        raise DoctorError(
            f"PyTorch {tree.version} in {tree.path} has no libuv backend, which came with "
            f"{FIRST_WITH_LIBUV}; take a newer one, or build with --no-libuv."
        )


# --- the work ----------------------------------------------------------------------------------


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
    log = _new_log(cache)
    env = clean_environment(system.env)
    env["PATH"] = search_path(python, env)
    tree = outlook.tree
    if outlook.ref is not None:
        outlook.folder.mkdir(parents=True, exist_ok=True)
        with build_folder.locked(outlook.folder):
            places = source.origins(tables)
            source.clone(outlook.folder, outlook.ref, places, env=env, log=log, reporter=reporter)
        again = look_ahead(request, system, facts, tables)
        _refuse(again)
        outlook, tree = again, again.tree
    assert tree is not None
    with build_folder.locked(tree.path) as mark:
        state = state_hash(tree)
        wanted = _fingerprint(outlook, tree, state, system, python)
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
                **env,
                **outlook.settings,
                "PYTORCH_BUILD_VERSION": version,
                "PYTORCH_BUILD_NUMBER": "1",
            },
            jobs=outlook.chosen.jobs,
            weights=_weights(cache, tables),
            reporter=reporter,
            log=log,
            dist=dist,
            mark=mark,
            fingerprint=wanted,
        )
        wheel = builder.build()
        kept = _prove(outlook, wheel, cache, python, env, wanted, reporter)
        builder.done()
    final = product.hand_out(kept, request.out)
    reporter.event("done", f"Built and proved: {final}", wheel=str(final), version=version)
    return Built(final, False)


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


def _new_log(cache: Path) -> Path:
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
    outlook: Outlook, tree: Tree, state: str, system: System, python: str
) -> Fingerprint:
    chosen, programs, facts = outlook.chosen, outlook.programs, outlook.facts
    compiler, toolkit = chosen.compiler, chosen.toolkit
    own = {k: v for k, v in system.env.items() if STEERING.match(k) and k != "TORCH_LOCAL_PATH"}
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

"""All that is known of a build before anything is changed: source, choices, recipe, findings, time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from doctor.compile.ninja import ninja
from doctor.compile.ninja.weights import Weights
from doctor.compile.source.build_tools import Programs, look_at_programs
from doctor.compile.source.fingerprint import read_state
from doctor.compile.source.read_tree import read_tree
from doctor.compile.torch.preflight import preflight
from doctor.errors import DoctorError, Unknown, WrongUsage
from doctor.facts import Facts
from doctor.findings.finding import Finding
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import older
from doctor.machine.look import find_version
from doctor.machine.system import System
from doctor.planner.build.draft import Draft, draft, hours
from doctor.planner.build.jobs import Jobs
from doctor.planner.build.planning import release_for
from doctor.planner.build.recipe import environment, meaning
from doctor.planner.build.toolchain import Compiler, compilers
from doctor.planner.build.tree import Tree, expected_tree
from doctor.planner.terms.plan import Wishes
from doctor.text.bounded import read_text

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

    @property
    def compilers(self) -> list[Compiler]:
        """All that are there, whether the toolkit takes them or not."""
        tools = self.facts.host.tools if self.facts.host else {}
        return [*compilers(tools), *self.programs.compilers]


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
        torch=tree.version if tree else _version_of(ref),
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
    version = tree.version if tree else _version_of(ref)
    prefix = system.env.get("CMAKE_PREFIX_PATH", "") or (
        facts.python.prefix or "" if facts.python and facts.python.conda else ""
    )
    settings = environment(
        facts, tables, chosen, version=version, prefix=prefix, cmake=programs.cmake_version
    )
    known = tree or (expected_tree(folder, version, tables) if version else None)
    found = preflight(system, facts, tables, chosen, known, programs)
    if tree and ref is not None:
        # submodules of a clone of ours are fetched anyway
        found = [f for f in found if f.code != "build.submodules-missing"]
    _check_age(tree, chosen)
    notes += [
        f"{name}={system.env[name]} of the environment is overridden by {value}."
        for name, value in settings.items()
        if meaning(system.env.get(name, value)) != meaning(value)
        and name not in ("CC", "CXX", "CMAKE_PREFIX_PATH")
    ]
    return Outlook(
        request, facts, tree, folder, ref, chosen, programs, settings, tuple(found), tuple(notes),
        _hours(facts, tables, tree, chosen, settings),
    )  # fmt: skip


def torch_version(found: Outlook) -> str | None:
    """The version that is built, as far as tree or tag tell it."""
    return found.tree.version if found.tree else _version_of(found.ref)


def _version_of(ref: str | None) -> str | None:
    """`v2.15.0` -> `2.15.0`; None for a branch or a commit, which tells none."""
    match = re.fullmatch(r"v(\d+\.\d+.*)", ref or "")
    return match[1] if match else None


def _hours(
    facts: Facts, tables: Tables, tree: Tree | None, chosen: Draft, settings: Mapping[str, str]
) -> float:
    """By what is left of a configured tree, object by object; else by the table's whole.

    What other settings have made is put aside, and counts for nothing.
    """
    plan = tree.build / "build.ninja" if tree else None
    if tree is None or plan is None or not plan.exists():
        return hours(tables, chosen)
    weights = learned_weights(base_folder(facts) / CACHE_SECTION, tables)
    state = read_state(tree.build)
    made = ninja.read_log(tree.build) if state and state.fingerprint.has(settings) else {}
    objects = ninja.objects(read_text(plan) or "")
    left = sum(weights.seconds(name) for name in objects if name not in made)
    return left / chosen.jobs.wide / 3600


def learned_weights(cache: Path, tables: Tables) -> Weights:
    """What objects cost, by earlier builds of this machine and the table."""
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
    ref = request.ref or release_for(facts.python, tables)
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

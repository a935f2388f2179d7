"""Whether the torch of an environment is the one that a plan ends with, read from its files."""

from __future__ import annotations

import posixpath
from pathlib import Path

from doctor.environment import integrity, requirements
from doctor.environment.place import Place
from doctor.facts import TorchBuild
from doctor.knowledge.versions import parts
from doctor.machine.linker import Linker
from doctor.machine.system import System
from doctor.planner.terms.plan import Plan, TorchChoice
from doctor.probe.torch import packages
from doctor.probe.torch.binaries import bundled_nvidia, library_machine, read_build


def missing(plan: Plan, place: Place) -> str | None:
    """Why the torch that an import takes is not the plan's, not whole, or lacks libraries; None where it is."""
    system = System()
    env = place.environment(system)
    module = env.find_module("torch")
    if module is None or module.kind == "namespace":
        return "no torch is installed"
    choice = plan.torch or TorchChoice(None)
    if choice.path is not None:
        return _tree(system, module.path, choice.path)
    nvidia = bundled_nvidia(system, env)
    build = read_build(system, Linker(system, nvidia, place.python), module.path, nvidia)
    dist = env.distributions().get("torch")
    if dist is None:
        return f"{module.path} belongs to no installed package"
    if reason := integrity.damage(Path(dist.folder)):
        return f"torch {dist.version} {reason}"
    if reason := _other_torch(plan, choice, build):
        return reason
    if build.missing_libraries:
        lacking = build.missing_libraries[0]
        return f"torch {build.version} needs {lacking.name} for {lacking.needed_by}, which is not found"
    if choice.torch_npu is None:
        return requirements.missing(env, choice.companions)
    return None


def wrong_packages(place: Place) -> str | None:
    """Why the packages around an installed torch are not those that it asks for; None where they are."""
    system = System()
    env = place.environment(system)
    module = env.find_module("torch")
    if module is None:
        return "no torch is installed"
    pins = packages.read(system, env, library_machine(system, module.path))
    for pin in pins.unmet:
        if pin.installed or pin.rival:
            return f"{pin.name} {pin.installed or 'is missing'}, and torch asks for {pin.wanted}"
    for shared in pins.shared:
        return f"{shared.path} may be that of {shared.other} {shared.other_version}"
    nvidia = bundled_nvidia(system, env)
    build = read_build(system, Linker(system, nvidia, place.python), module.path, nvidia, pins)
    if build.symbol_gaps:
        gap = build.symbol_gaps[0]
        return f"{gap.library} lacks {gap.names[0]}, which torch calls"
    return None


def _tree(system: System, found: str, path: str) -> str | None:
    """A source tree is used as it is: the import has to end in it."""
    places = {system.real(path), system.real(f"{path}/torch")}
    if system.real(found) in places:
        return None
    return f"import torch takes {found} instead of the tree at {path}"


def _other_torch(plan: Plan, choice: TorchChoice, build: TorchBuild) -> str | None:
    """How an installed torch differs from the chosen one."""
    version = build.version
    if version is None:
        return f"{build.path} does not say which version it is"
    public, _, local = version.partition("+")
    asked = (choice.requirement or "").partition("==")[2] or choice.version or ""
    wanted, _, tag = asked.partition("+")
    if plan.route == "source-build":
        if wanted and parts(wanted) != parts(public):
            return f"torch {version} is installed, and {wanted} was to be built"
        return None
    if wanted and comparable(wanted) != comparable(public):
        return f"torch {version} is installed instead of {asked}"
    if not wanted and plan.route == "nightly-wheel" and "dev" not in public:
        return f"torch {version} is installed, which is no nightly"
    if tag and tag != local:
        return f"torch {version} is installed instead of {asked}"
    return _other_flavour(choice, build)


def _other_flavour(choice: TorchChoice, build: TorchBuild) -> str | None:
    """The index or the plan names a flavour: `…/whl/cu128` has builds for CUDA 12.8."""
    last = posixpath.basename((choice.index_url or "").rstrip("/"))
    cuda = choice.cuda
    if last.startswith("cu") and last[2:].isdecimal():
        cuda = f"{last[2:-1]}.{last[-1]}"
    if last == "cpu" and build.flavour != "cpu":
        return f"torch {build.version} is a build for {build.flavour} instead of CPUs"
    if cuda and last != "cpu" and (build.cuda is None or parts(build.cuda)[:2] != parts(cuda)[:2]):
        made_for = f"CUDA {build.cuda}" if build.cuda else "CPUs"
        return f"torch {build.version} is a build for {made_for} instead of CUDA {cuda}"
    return None


def comparable(version: str) -> object:
    """A version that compares as PEP 440 has it: 2.9 is 2.9.0."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return version

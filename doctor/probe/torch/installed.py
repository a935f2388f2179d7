"""The torch that the examined Python would import, what hides it, and other trees on the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from doctor.errors import Unknown
from doctor.facts import Companion, Torch, TorchBuild
from doctor.machine.elf import Elf, ElfError
from doctor.machine.linker import Linker
from doctor.machine.look import Look
from doctor.machine.pyenv import Module, PythonEnvironment
from doctor.machine.system import System
from doctor.probe.torch import packages
from doctor.probe.torch.binaries import bundled_nvidia, library_machine, read_build
from doctor.probe.torch.packages import Pins

COMPANIONS = ("torchvision", "torchaudio", "torchtext", "flash-attn", "xformers", "torchao", "vllm")
PINS = "nanochat-doctor/constraints.txt"
"""Below an environment's prefix: what `apply` put in, a requirement a line."""

PTXAS_FOLDERS = ("backends/nvidia/bin", "third_party/cuda/bin")
PTXAS_VARIABLES = {
    "ptxas": "TRITON_PTXAS_PATH",
    "ptxas-blackwell": "TRITON_PTXAS_BLACKWELL_PATH",
}
PTXAS_BANNER = b"Cuda compilation tools, release "
PTXAS_RELEASE = re.compile(rb"(\d+\.\d+), V")
MANYLINUX = re.compile(r"manylinux(?:_(?P<major>\d+)_(?P<minor>\d+)|(?P<legacy>1|2010|2014))_")
LEGACY_MANYLINUX = {"1": "2.5", "2010": "2.12", "2014": "2.17"}
"""PEP 600's translation of the older tags."""

TRITON_NAMES = ("triton", "pytorch-triton", "triton-windows")


def probe(system: System, linker: Linker, env: PythonEnvironment | None) -> Torch:
    """Describe the torch of an environment, and PyTorch trees at their usual places."""
    look = Look()
    nvidia = bundled_nvidia(system, env)
    linker.preload = nvidia

    def read(folder: str, pins: Pins | None = None) -> TorchBuild:
        build = read_build(system, linker, folder, nvidia, pins)
        if env is None or build.glibc_needed is not None:
            return build
        return replace(build, glibc_needed=_tagged_glibc(system, env, folder))

    installed = shadowed = pins = None
    found = blocker = by = entry = None
    if env is None:
        look.reasons["installed"] = "no Python could be examined"
    else:
        found, blocker = _imported(system, env)
        dist = env.distributions().get("torch")
        if found is not None:
            if dist is not None and f"{dist.site}/torch" == found.path:
                pins = look("unmet_pins", _pins, system, env, found.path)
            installed = read(found.path, pins)
            by = _installed_by(env, found)
            if dist is not None and f"{dist.site}/torch" != found.path and found.entry != dist.site:
                entry = found.entry
                if system.is_dir(f"{dist.site}/torch"):
                    shadowed = read(f"{dist.site}/torch")
    ptxas = _ptxas(system, env) if env else {}
    known = {installed.path} if installed else set()
    return Torch(
        installed=installed,
        installed_by=by,
        shadowed=shadowed,
        shadowing_path=entry,
        import_blocker=blocker,
        triton=next((v for n in TRITON_NAMES if env and (v := env.version(n))), None),
        triton_ptxas=look("triton_ptxas", lambda: _ptxas_version(system, ptxas.get("ptxas"))),
        triton_ptxas_blackwell=look(
            "triton_ptxas_blackwell", lambda: _ptxas_version(system, ptxas.get("ptxas-blackwell"))
        ),
        triton_ptxas_set={
            variable: ptxas[name]
            for name, variable in PTXAS_VARIABLES.items()
            if name in ptxas and ptxas[name] == system.env.get(variable)
        },
        companions=tuple(_companions(env)) if env else (),
        unmet_pins=pins.unmet if pins else (),
        shared_files=pins.shared if pins else (),
        replaced=look("replaced", lambda: tuple(replaced(system, env))) or () if env else (),
        local_trees=tuple(read(folder) for folder in _trees(system) if folder not in known),
        unknown=look.reasons,
    )


def replaced(system: System, env: PythonEnvironment) -> Iterator[str]:
    """How the environment differs from the constraints that `apply` left in it (doctor/environment/pins.py)."""
    for site in env.sites:
        prefix = site.split("/lib/python", 1)[0]
        for line in (system.text(f"{prefix}/{PINS}", 1 << 16) or "").splitlines():
            name, exact, version = line.strip().partition("==")
            if not exact or name.startswith("#"):
                continue
            now = env.version(name)
            if now != version:
                yield (
                    f"{name} {now} instead of {version}" if now else f"no {name} {version} any more"
                )


def _pins(system: System, env: PythonEnvironment, folder: str) -> Pins:
    """How the packages around an installed wheel meet what it asks for."""
    return packages.read(system, env, library_machine(system, folder))


def _tagged_glibc(system: System, env: PythonEnvironment, folder: str) -> str | None:
    """The glibc that the wheel's platform tag names (PEP 600), for an installed wheel."""
    dist = env.distributions().get("torch")
    if dist is None or f"{dist.site}/torch" != folder:
        return None
    tag = MANYLINUX.search(system.text(f"{dist.folder}/WHEEL", 1 << 16) or "")
    if tag is None:
        return None
    return f"{tag['major']}.{tag['minor']}" if tag["major"] else LEGACY_MANYLINUX[tag["legacy"]]


def _imported(system: System, env: PythonEnvironment) -> tuple[Module | None, str | None]:
    """What `import torch` takes, and what stands in its way if that is no PyTorch.

    The current folder comes first, as it does for `python -m`.
    """
    first = [os.getcwd()] if system.live else []
    found = env.find_module("torch", first)
    if found is None:
        return None, None
    if found.kind in ("file", "extension"):
        return None, found.path
    parts = (f"{found.path}/version.py", f"{found.path}/lib", f"{found.path}/_utils_internal.py")
    is_torch = any(system.exists(part) for part in parts)
    if found.kind == "namespace":
        return (found, found.path) if is_torch else (None, None)
    return (found, None) if is_torch else (None, found.path)


def _installed_by(env: PythonEnvironment, found: Module) -> str:
    if found.entry in env.python_path:
        return "PYTHONPATH"
    if found.entry in env.sites:
        return "wheel"
    if found.entry in env.import_path or "torch" in env.editable:
        return "editable"
    return "current folder"


def _companions(env: PythonEnvironment) -> Iterator[Companion]:
    """Packages with code compiled against one torch, and the torch they declare."""
    for name in COMPANIONS:
        version = env.version(name)
        if version is None:
            continue
        look = Look()
        lines = look("requires_torch", env.requirements, name) or []
        pins = (re.match(r"torch(?![\w-])\s*\(?\s*([^;)]*)", line) for line in lines)
        pin = next((m.group(1).strip() for m in pins if m), None)
        yield Companion(
            name=name, version=version, requires_torch=pin or None, unknown=look.reasons
        )


def _ptxas(system: System, env: PythonEnvironment) -> dict[str, str]:
    """The ptxas programs that Triton brings, by name, or that a variable puts in their place.

    As in triton/knobs.py (env_nvidia_tool): a variable that names no file leaves Triton's own.
    """
    triton = env.find_module("triton")
    found: dict[str, str] = {}
    for folder in PTXAS_FOLDERS if triton else ():
        for name in PTXAS_VARIABLES:
            path = f"{triton.path if triton else ''}/{folder}/{name}"
            if system.is_file(path):
                found.setdefault(name, path)
    for name, variable in PTXAS_VARIABLES.items():
        path = system.env.get(variable, "")
        # a Triton without a second ptxas does not know its variable
        known = name in found or (triton is not None and name == "ptxas")
        if known and path.startswith("/") and system.is_file(path):
            found[name] = path
    return found


def _ptxas_version(system: System, path: str | None) -> str | None:
    """CUDA release that a ptxas names in its text; it is not run."""
    if path is None:
        return None
    with system.opened(path) as view:
        start, stop = 0, len(view)
        try:
            section = Elf(view).section(".rodata")
            if section:
                start, stop = section.offset, section.offset + section.size
        except ElfError:
            pass
        match = None
        while match is None and (start := view.find(PTXAS_BANNER, start, stop)) >= 0:
            start += len(PTXAS_BANNER)
            match = PTXAS_RELEASE.match(view[start : start + 32])
    if match is None:
        raise Unknown(f"{path} names no release")
    return match.group(1).decode()


def _trees(system: System) -> Iterator[str]:
    """Package folders of PyTorch trees, in the order in which they are preferred."""
    home = system.home()
    places = [system.env.get("TORCH_LOCAL_PATH", "")]
    if system.live:
        places.append(os.path.abspath("../pytorch"))
    if home:
        places += [f"{home}/Tools/pytorch", f"{home}/pytorch"]
    seen = set()
    for place in places:
        for folder in (f"{place.rstrip('/')}/torch", place.rstrip("/")):
            if not place.startswith("/") or not system.is_file(f"{folder}/__init__.py"):
                continue
            real = system.real(folder)
            if real not in seen and (system.exists(f"{folder}/lib") or _is_source(system, place)):
                seen.add(real)
                yield folder
            break


def _is_source(system: System, place: str) -> bool:
    """A tree of PyTorch's source; from 2.15 on there is no setup.py in it."""
    build = (f"{place}/setup.py", f"{place}/pyproject.toml")
    return system.exists(f"{place}/CMakeLists.txt") and any(map(system.exists, build))

"""The CUDA and Triton packages that an installed torch asks for, against those that are there.

torch's metadata names each in one version, from 2.10 on many of them through cuda-toolkit's. Whatever upgrades or
downgrades one afterwards is told only in a line that scrolls by; so is a package of another CUDA that writes its
libraries over these, since nvidia-nccl-cu12 and nvidia-nccl-cu13 share a folder.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from doctor.errors import Unknown
from doctor.facts import SharedFiles, UnmetPin
from doctor.knowledge.versions import older, parts
from doctor.machine.pyenv import Distribution, PythonEnvironment, normalised
from doctor.machine.system import System

OURS = re.compile(r"nvidia-|cuda-|triton|pytorch-triton")
"""Packages whose compiled code torch calls, or that calls torch's."""

UMBRELLA = "cuda-toolkit"
"""It holds nothing, and asks for the packages of a CUDA release, by extras."""

LINE = re.compile(
    r"(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[^\]]*)\])?\s*\(?(?P<spec>[^;)]*)\)?\s*(?:;\s*(?P<marker>.*))?$"
)
EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")
CLAUSE = re.compile(r"(==|~=|>=|<=|<|>|!=)\s*([\d.]+)(\.\*)?$")
RECORDED = re.compile(r"^([^,./\n][^,\n]*),([^,\n]*),(\d{0,18})", re.MULTILINE)
CUDA_SUFFIX = re.compile(r"-cu\d+$")

HASH_LIMIT = 1 << 29
"""Bytes that are read to tell two releases apart whose files are of one size."""


@dataclass(frozen=True)
class Pin:
    """A line of torch's metadata."""

    name: str
    spec: str
    extras: tuple[str, ...] = ()
    marker: str = ""
    extra: str = ""


@dataclass(frozen=True)
class Pins:
    """What of torch's requirements is not met, and which libraries are as their package brought them."""

    unmet: tuple[UnmetPin, ...] = ()
    shared: tuple[SharedFiles, ...] = ()
    cudnn: str | None = None
    """Version of the cuDNN package that torch asks for by name, as it is installed."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Path -> size of the libraries of packages that are as torch asks for them."""

    packages: Mapping[str, str] = field(default_factory=dict)
    """File name of a library -> the package that brings it, `nvidia-nccl-cu13==2.29.7`."""

    def trusts(self, system: System, path: str) -> bool:
        """Whether a library is one of those, and of its size: its functions need not be looked up."""
        size = self.sizes.get(posixpath.normpath(path))
        return size is not None and size == system.size(path)


def read(system: System, env: PythonEnvironment, cpu_arch: str | None) -> Pins:
    """Compare an environment with what its torch asks for.

    Args:
        cpu_arch: processor that torch was built for, for metadata that depends on it.

    Raises:
        Unknown: torch's metadata cannot be read.
    """
    pins = list(_pins(env))
    unmet = tuple(_unmet(system, env, pins, cpu_arch))
    wrong = {item.name for item in unmet}
    records = {
        pin.name: _libraries(system, dist)
        for pin in pins
        if pin.name not in wrong
        and (dist := env.distributions().get(pin.name))
        and (pin.name.startswith("nvidia-") or any(_rivals(env, pin.name)))
    }
    shared = tuple(_shared(system, env, records))
    lost = {item.owner for item in shared}
    sizes = {
        path: size
        for name, files in records.items()
        if name not in lost
        for path, (size, _) in files.items()
        if size is not None
    }
    cudnn = next((env.version(pin.name) for pin in pins if "-cudnn" in pin.name), None)
    packages = {
        posixpath.basename(path): f"{name}=={env.version(name)}"
        for name, files in records.items()
        for path in files
    }
    return Pins(unmet, shared, cudnn, sizes, packages)


def _pins(env: PythonEnvironment) -> Iterator[Pin]:
    """The requirements that matter here, those of the umbrella's extras among them."""
    for pin in _parsed(env.requirements("torch")):
        if pin.extra:
            continue
        yield pin
        version = env.version(pin.name)
        if pin.name == UMBRELLA and version and _meets(version, pin.spec):
            inner = {
                i.name: i for i in _parsed(env.requirements(UMBRELLA)) if i.extra in pin.extras
            }
            yield from inner.values()


def _parsed(lines: Collection[str]) -> Iterator[Pin]:
    for line in lines:
        match = _line(line)
        name = normalised(match["name"]) if match else ""
        if match is None or not OURS.match(name):
            continue
        extras = tuple(e.strip() for e in (match["extras"] or "").split(",") if e.strip())
        yield Pin(name, match["spec"].strip(), extras, match["marker"] or "", _extra(line))


def _line(line: str) -> re.Match[str] | None:
    return LINE.match(" ".join(line.split()))


def _extra(line: str) -> str:
    """The extra that a requirement belongs to; empty for none."""
    match = EXTRA.search(line) if "extra" in line else None
    return match[1] if match else ""


def _unmet(
    system: System, env: PythonEnvironment, pins: Collection[Pin], cpu_arch: str | None
) -> Iterator[UnmetPin]:
    for pin in pins:
        version = env.version(pin.name)
        if version is not None and _meets(version, pin.spec):
            continue
        rival = next(_rivals(env, pin.name), None) if version is None else None
        if version is None and rival is None and not _exact(pin.spec):
            continue
        if _applies(system, env, pin, cpu_arch):
            yield UnmetPin(
                name=pin.name,
                wanted=pin.spec,
                extras=pin.extras,
                installed=version,
                rival=f"{rival.name} {rival.version}" if rival else None,
            )


def _exact(spec: str) -> bool:
    return spec.startswith("==")


def _meets(version: str, spec: str) -> bool:
    """Whether a version meets a specifier; packaging, which is slow to load, is asked where it is not plain."""
    if spec == f"=={version}":
        return True
    plain = re.fullmatch(r"[\d.]+", version)
    clauses = [CLAUSE.match(clause.strip()) for clause in spec.split(",") if clause.strip()]
    if plain and all(clauses):
        return all(_holds(version, c[1], c[2], bool(c[3])) for c in clauses if c)
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(spec).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True


def _holds(version: str, sign: str, bound: str, prefix: bool) -> bool:
    below, above = older(version, bound), older(bound, version)
    if sign in ("==", "!="):
        same = (
            parts(version)[: len(parts(bound))] == parts(bound) if prefix else not (below or above)
        )
        return same == (sign == "==")
    if sign == "~=":
        head = len(parts(bound)) - 1
        return not below and parts(version)[:head] == parts(bound)[:head]
    return {">=": not below, "<=": not above, "<": below, ">": above}[sign]


def _applies(system: System, env: PythonEnvironment, pin: Pin, cpu_arch: str | None) -> bool:
    """Whether a requirement holds on the examined machine."""
    if not pin.marker:
        return True
    from packaging.markers import (
        InvalidMarker,
        Marker,
        UndefinedComparison,
        UndefinedEnvironmentName,
    )

    linux = not system.live or _is_linux()
    names = {
        "platform_system": "Linux" if linux else "Darwin",
        "sys_platform": "linux" if linux else "darwin",
        "python_version": env.minor,
        "python_full_version": f"{env.minor}.0",
        "extra": pin.extra,
    } | ({"platform_machine": cpu_arch} if cpu_arch else {})
    try:
        return Marker(pin.marker).evaluate(names)
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, RecursionError):
        return False


def _is_linux() -> bool:
    import sys

    return sys.platform.startswith("linux")


# --- files of two packages ---------------------------------------------------------------------


def _stem(name: str) -> str:
    """What packages share that write to the same places: `nvidia-nccl` of any CUDA, Triton of any maker."""
    if name.startswith(("triton", "pytorch-triton")):
        return "triton"
    return CUDA_SUFFIX.sub("", name)


def _rivals(env: PythonEnvironment, name: str) -> Iterator[Distribution]:
    stem = _stem(name)
    for other, dist in env.distributions().items():
        if other != name and OURS.match(other) and _stem(other) == stem:
            yield dist


def _libraries(system: System, dist: Distribution) -> dict[str, tuple[int | None, str]]:
    """Path -> size and hash, as RECORD has them, of a package's libraries."""
    try:
        text = system.text(f"{dist.folder}/RECORD", 1 << 22) or ""
    except Unknown:
        return {}
    return {
        f"{dist.site}/{path}": (int(size) if size else None, digest)
        for path, digest, size in RECORDED.findall(text)
        if ".so" in posixpath.basename(path)
    }


def _shared(
    system: System,
    env: PythonEnvironment,
    records: Mapping[str, Mapping[str, tuple[int | None, str]]],
) -> Iterator[SharedFiles]:
    """Packages that torch asks for and whose files another may have written over."""
    for name, own in records.items():
        dist = env.distributions()[name]
        for rival in _rivals(env, name):
            theirs = _libraries(system, rival)
            both = [path for path in own if path in theirs]
            holders = {path: _holder(system, path, own[path], theirs[path]) for path in both}
            bad = [path for path in both if holders[path] != 1]
            if not bad:
                continue
            holds = {1: name, 2: rival.name}.get(holders[bad[0]])
            yield SharedFiles(
                owner=name,
                owner_version=dist.version,
                other=rival.name,
                other_version=rival.version,
                path=bad[0],
                count=len(bad),
                holds=holds,
                other_needed_by=_needed_by(env, rival.name),
            )


def _holder(
    system: System, path: str, first: tuple[int | None, str], second: tuple[int | None, str]
) -> int:
    """Which of two packages' files lies there: 1, 2, or 0 where nothing tells."""
    size = system.size(path)
    if first == second and first[0] is not None:
        return 1
    if first[0] != second[0]:
        return {first[0]: 1, second[0]: 2}.get(size, 0) if size is not None else 0
    if size is None or size != first[0] or size > HASH_LIMIT:
        return 0
    digest = hashlib.sha256()
    with system.opened(path) as view:
        for at in range(0, size, 1 << 20):
            digest.update(view[at : at + (1 << 20)])
    word = "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
    return {first[1]: 1, second[1]: 2}.get(word, 0)


def _needed_by(env: PythonEnvironment, name: str) -> str | None:
    """A package that asks for another."""
    for other in env.distributions():
        try:
            lines = env.requirements(other)
        except Unknown:
            continue
        for line in lines:
            match = _line(line)
            if (
                match
                and normalised(match["name"]) == name
                and "extra" not in (match["marker"] or "")
            ):
                return other
    return None

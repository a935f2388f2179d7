"""CUDA toolkits on disk, and which of several a build would take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from doctor.errors import Unknown
from doctor.facts import Toolkit
from doctor.knowledge.tables import Tables
from doctor.machine.look import Look, find_version
from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.text.bounded import parse_json

RELEASE = re.compile(r"release (\d+\.\d+)")
CUDA_H = re.compile(r"#define\s+CUDA_VERSION\s+(\d{1,9})")
BESIDE = ("cudnn.h", "nccl.h")
LISTED_ARCH = re.compile(r"^compute_(\d+)(\d)$", re.MULTILINE)


@dataclass(frozen=True)
class Toolkits:
    """All toolkits found; the nvcc that a build takes, with the version that it states itself."""

    found: tuple[Toolkit, ...]
    nvcc: str | None
    nvcc_version: str | None
    reasons: dict[str, str]


def probe(system: System, env: PythonEnvironment | None, tables: Tables) -> Toolkits:
    """Find toolkits where torch.utils.cpp_extension, CMake and people look for them."""
    places: dict[str, list[str]] = {}
    for folder, reason in _candidates(system, env):
        if system.exists(f"{folder}/bin/nvcc") or _version_from_files(system, folder):
            places.setdefault(system.real(folder), []).append(reason)
    look = Look()
    nvcc = _chosen_nvcc(system, places)
    version = None
    archs: tuple[str, ...] = ()
    if nvcc is not None:
        home = system.real(nvcc.rsplit("/bin/", 1)[0])
        version = look("nvcc_version", _stated_version, system, nvcc)
        version = version or _version_from_files(system, home)
        if version and not system.runs:
            look.reasons.pop("nvcc_version", None)
        archs = look("nvcc_archs", _listed_archs, system, nvcc) or ()
    found = []
    for path, reasons in places.items():
        own = nvcc is not None and system.real(nvcc).startswith(f"{path}/")
        known = (version if own else None) or _version_from_files(system, path)
        compiler = f"{path}/bin/nvcc" if system.exists(f"{path}/bin/nvcc") else None
        listed = archs if own else ()
        if compiler and known and not listed:
            listed = tables.toolkit_archs(known)
        found.append(
            Toolkit(
                path=path,
                version=known,
                nvcc=compiler,
                archs=listed,
                found_by=tuple(dict.fromkeys(reasons)),
                headers=tuple(h for h in BESIDE if system.exists(f"{path}/include/{h}")),
                unknown={} if known else {"version": "neither version.json nor cuda.h tells it"},
            )
        )
    return Toolkits(tuple(found), nvcc, version, look.reasons)


def _candidates(system: System, env: PythonEnvironment | None) -> Iterator[tuple[str, str]]:
    for variable in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"):
        if system.env.get(variable, "").startswith("/"):
            yield system.env[variable].rstrip("/"), variable
    nvcc = system.which("nvcc")
    if nvcc is not None:
        yield system.real(nvcc).rsplit("/bin/", 1)[0], "PATH"
    for folder in ("/usr/local/cuda", *system.glob("/usr/local", "cuda-"), "/opt/cuda"):
        yield folder, folder
    if system.env.get("CONDA_PREFIX", "").startswith("/"):
        yield system.env["CONDA_PREFIX"].rstrip("/"), "conda"
    for site in env.sites if env else ():
        for package in ("cuda_nvcc", "cu13", "cu12"):
            if system.exists(f"{site}/nvidia/{package}/bin/nvcc"):
                yield f"{site}/nvidia/{package}", "pip"


def _chosen_nvcc(system: System, places: dict[str, list[str]]) -> str | None:
    """The order of torch.utils.cpp_extension: variables, PATH, /usr/local/cuda."""
    order = ("CUDA_HOME", "CUDA_PATH", "PATH", "/usr/local/cuda")
    for reason in order:
        for path, reasons in places.items():
            if reason in reasons and system.exists(f"{path}/bin/nvcc"):
                return f"{path}/bin/nvcc"
    return None


def _version_from_files(system: System, folder: str) -> str | None:
    """`12.8` from version.json, version.txt or cuda.h."""
    try:
        listed = parse_json(system.bytes(f"{folder}/version.json") or b"{}")
        return _major_minor(str(listed["cuda"]["version"]))
    except (Unknown, LookupError, TypeError):
        pass
    for path in (f"{folder}/version.txt", f"{folder}/include/cuda.h"):
        try:
            text = system.text(path) or ""
            defined = CUDA_H.search(text)
            if defined:
                number = int(defined.group(1))
                return f"{number // 1000}.{number % 1000 // 10}"
            if path.endswith(".txt") and text:
                return _major_minor(find_version(text))
        except Unknown:
            continue
    return None


def _major_minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _stated_version(system: System, nvcc: str) -> str:
    match = RELEASE.search(_run_nvcc(system, nvcc, "--version"))
    if match is None:
        raise Unknown("nvcc --version names no release")
    return match.group(1)


def _listed_archs(system: System, nvcc: str) -> tuple[str, ...]:
    numbers = LISTED_ARCH.findall(_run_nvcc(system, nvcc, "--list-gpu-arch"))
    if not numbers:
        raise Unknown("nvcc --list-gpu-arch lists nothing")
    pairs = sorted({(int(major), int(minor)) for major, minor in numbers})
    return tuple(f"{major}.{minor}" for major, minor in pairs)


def _run_nvcc(system: System, nvcc: str, option: str) -> str:
    """Run nvcc; below a root only where programs are looked up there."""
    if system.live or not system.runs:
        return system.output([nvcc, option])
    on_path = system.which("nvcc")
    if on_path is None or system.real(on_path) != system.real(nvcc):
        raise Unknown(f"{nvcc} is not where programs are run below --root")
    return system.output(["nvcc", option])

"""The examined interpreter: which one, what it is, and where it imports from.

A live interpreter is asked for its identity (in a child, unless it is our own); below a root it is
read from its files and never run. The import path is always worked out from files.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from doctor.checkout import payload
from doctor.errors import Unknown
from doctor.facts import Python
from doctor.machine.elf import Elf, ElfError
from doctor.machine.look import MIB, Look, find_version, key_values
from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.text.bounded import parse_json

VENV_DEPTH = 8
"""Up to Python 3.10 a venv made by a venv's Python names that one, not the base, as its home."""

LIB_NAME = re.compile(r"python3\.\d+t?")
ROOT_PREFIXES = ("/opt/venv", "/opt/conda", "/usr/local", "/usr")

REPORTED_PACKAGES = (
    "pip", "setuptools", "wheel", "numpy", "torch", "torch-npu", "triton", "pytorch-triton",
    "triton-windows", "torchvision", "torchaudio", "flash-attn", "xformers", "torchao", "pyyaml",
    "decorator", "attrs", "psutil", "scipy", "sympy", "tiktoken", "rustbpe", "nanochat-rustbpe",
    "tokenizers", "pyarrow", "wandb", "maturin", "cmake", "ninja", "nvidia-cuda-nvcc",
    "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
    "nvidia-nccl-cu12", "nvidia-nccl-cu13",
)  # fmt: skip
"""The rest of what someone has installed is nobody's business."""

SHARED_STDLIB = ("this", "antigravity", "__future__", "__main__", "test", "idlelib", "turtledemo")
"""Names of the standard library that a file may bear without harm to torch."""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter's layout: its program, its prefix, `lib/pythonX.Y`, and why it was chosen."""

    executable: str | None
    prefix: str
    lib: str
    chosen_by: str

    @property
    def minor(self) -> str:
        """`3.12`, `3.13t`."""
        return self.lib.rsplit("/python", 1)[-1]


def choose(system: System, wanted: str | None = None) -> Interpreter:
    """Choose the interpreter to examine.

    `wanted`, an active environment, or the one that runs us; below a root, by the folder rule.

    Raises:
        Unknown: there is none, or it is no Python.
    """
    if not system.live:
        return _choose_below_root(system)
    for path, reason in (
        (wanted, "--python"),
        (_in_prefix(system, "VIRTUAL_ENV"), "VIRTUAL_ENV is set"),
        (_in_prefix(system, "CONDA_PREFIX"), "CONDA_PREFIX is set"),
        (sys.executable, "it runs nanochat-doctor"),
    ):
        if path:
            return _layout(system, path, reason)
    raise Unknown("no Python was found to examine")


def _in_prefix(system: System, variable: str) -> str | None:
    path = f"{system.env.get(variable) or ''}/bin/python"
    return path if variable in system.env and system.is_file(path) else None


def _layout(system: System, path: str, reason: str) -> Interpreter:
    """Layout around an interpreter's path; a venv's link to its base is not followed."""
    path = os.path.abspath(path)
    prefix = os.path.dirname(os.path.dirname(path))
    if _venv_config(system, prefix) and system.is_file(path):
        # a venv shows its layout; what the interpreter says of itself is awaited only later
        libs = [name for name in system.names(f"{prefix}/lib") if LIB_NAME.fullmatch(name)]
        if len(libs) == 1:
            if path != sys.executable:
                system.start(_question(path))
            return Interpreter(path, prefix, f"{prefix}/lib/{libs[0]}", reason)
    identity = _identity(system, path)
    if not _venv_config(system, prefix):
        prefix = str(identity["base_prefix"])
    minor = ".".join(str(identity["version"]).split(".")[:2])
    if identity["free_threaded"]:
        minor += "t"
    return Interpreter(path, prefix, f"{prefix}/lib/python{minor}", reason)


def _choose_below_root(system: System) -> Interpreter:
    places = [
        _place_below_root(system, prefix, name)
        for prefix in ROOT_PREFIXES
        for name in sorted(system.names(f"{prefix}/lib"), key=_minor_key, reverse=True)
        if LIB_NAME.fullmatch(name)
    ]
    for place, lib in places:
        for site in ("site-packages", "dist-packages"):
            if system.exists(f"{lib}/{site}/torch"):
                return replace(place, chosen_by="it holds torch")
    if not places:
        raise Unknown("no lib/python3.* in opt/venv, opt/conda, usr/local or usr")
    return places[0][0]


def _place_below_root(system: System, prefix: str, name: str) -> tuple[Interpreter, str]:
    """The interpreter of a lib/python3.* folder, and that folder.

    Debian's Python of /usr has packages of its own in /usr/local/lib, where no interpreter is.
    """
    lib = f"{prefix}/lib/{name}"
    own = any(system.exists(f"{prefix}/bin/{n}") for n in (name, "python3", "python"))
    if prefix == "/usr/local" and not own and system.is_dir(f"/usr/lib/{name}"):
        prefix = "/usr"
    place = Interpreter(
        f"{prefix}/bin/python3", prefix, f"{prefix}/lib/{name}", "the first below --root"
    )
    return place, lib


def _minor_key(name: str) -> int:
    digits = re.search(r"\.(\d+)", name)
    return int(digits.group(1)) if digits else -1


def _venv_config(system: System, prefix: str) -> dict[str, str]:
    return key_values(system.text(f"{prefix}/pyvenv.cfg") or "")


def _question(path: str) -> list[str]:
    return [path, "-I", "-S", "-B", str(payload("identify"))]


def _identity(system: System, path: str) -> Mapping[str, Any]:
    """What a live interpreter says of itself.

    Raises:
        Unknown: it hangs, fails, or is no Python.
    """
    if path == sys.executable:
        from doctor.probe.payload.identify import identify

        return identify()
    try:
        text = system.output(_question(path))
    except Unknown as error:
        raise Unknown(f"{path} does not answer as a Python: {error}") from error
    try:
        answer = parse_json(text.encode())
    except Unknown:
        answer = None
    wanted = {"version": str, "base_prefix": str, "bits": int, "free_threaded": bool}
    if not isinstance(answer, dict) or not all(
        isinstance(answer.get(key), kind) for key, kind in wanted.items()
    ):
        raise Unknown(f"{path} is no Python: it printed {text.strip()[:80]!r}")
    return answer


def _base_prefix(system: System, prefix: str) -> str:
    """Prefix of the Python that a venv was made with, over venvs made from venvs."""
    for _ in range(VENV_DEPTH):
        home = _venv_config(system, prefix).get("home")
        if not home:
            break
        prefix = home.rstrip("/").rsplit("/", 1)[0] or "/"
    return prefix


def environment(system: System, place: Interpreter) -> PythonEnvironment:
    """Import path and distributions of an interpreter."""
    config = _venv_config(system, place.prefix)
    base = _base_prefix(system, place.prefix)
    base_lib = f"{base}/lib/python{place.minor}"
    own = f"{place.lib}/site-packages"
    shared = [f"{base_lib}/site-packages", f"{base_lib}/dist-packages"]
    if base == "/usr":
        local = f"/usr/local/lib/python{place.minor}/dist-packages"
        shared = [local, "/usr/lib/python3/dist-packages", *shared]
    user = []
    if "PYTHONNOUSERSITE" not in system.env and system.home():
        user = [f"{system.home()}/.local/lib/python{place.minor}/site-packages"]
    if not config:
        sites = [*user, own, *shared]
    elif config.get("include-system-site-packages") == "true":
        sites = [own, *user, *shared]
    else:
        sites = [own]
    stdlib = [base_lib, f"{base_lib}/lib-dynload"]
    return PythonEnvironment(system, place.minor.rstrip("t"), stdlib, sites)


def probe(system: System, place: Interpreter, env: PythonEnvironment) -> Python:
    """Describe the interpreter."""
    look = Look()
    config = _venv_config(system, place.prefix)
    live: Mapping[str, Any] = {}
    if system.live and place.executable:
        live = _identity(system, place.executable)
    base_lib = env.import_path[len(env.python_path)]
    installed = env.distributions()
    return Python(
        executable=place.executable,
        chosen_by=place.chosen_by,
        version=live.get("version") or look("version", _version_from_files, system, place, config),
        implementation=live.get("implementation"),
        bits=live.get("bits") or look("bits", _bits_from_files, system, place, base_lib),
        free_threaded=live.get("free_threaded", place.minor.endswith("t")),
        prefix=place.prefix,
        prefix_free=look("prefix_free", lambda: system.space(place.prefix)[1] // MIB),
        venv=bool(config),
        conda=system.is_dir(f"{place.prefix}/conda-meta") or place.prefix == "/opt/conda",
        externally_managed=not config
        and system.env.get("PIP_BREAK_SYSTEM_PACKAGES", "") not in ("1", "true")
        and system.exists(f"{base_lib}/EXTERNALLY-MANAGED"),
        headers=_headers(system, place, base_lib, live),
        venv_module=live.get("ensurepip", _has_ensurepip(system, base_lib)),
        pip_version=env.version("pip"),
        import_path=env.import_path,
        shadowed_modules=tuple(_shadowed_modules(system, env)),
        packages={name: installed[name].version for name in REPORTED_PACKAGES if name in installed},
        unknown=look.reasons,
    )


def _has_ensurepip(system: System, base_lib: str) -> bool | None:
    """Whether ensurepip is there; unknown without the rest of the standard library."""
    if system.is_dir(f"{base_lib}/ensurepip"):
        return True
    return False if system.is_file(f"{base_lib}/os.py") else None


def _version_from_files(system: System, place: Interpreter, config: Mapping[str, str]) -> str:
    for key in ("version", "version_info"):
        if re.match(r"\d+\.\d+", config.get(key, "")):
            return ".".join(config[key].split(".")[:3])
    for path in system.glob(f"{place.prefix}/conda-meta", "python-3.", ".json"):
        return find_version(path.rsplit("/", 1)[-1])
    if place.prefix == "/usr":
        version = find_version(system.output(["python3", "--version"]))
        if version.startswith(place.minor.rstrip("t")):
            return version
    return place.minor.rstrip("t")


def _bits_from_files(system: System, place: Interpreter, base_lib: str) -> int:
    """32 or 64, from the ELF class of the interpreter or of an extension module."""
    extensions = [
        path
        for folder in (f"{base_lib}/lib-dynload", f"{place.lib}/site-packages/torch")
        for path in system.glob(folder, suffix=".so")[:1]
    ]
    for path in [str(place.executable), *extensions]:
        try:
            with system.opened(path) as view:
                return Elf(view).bits
        except (Unknown, ElfError):
            continue
    machine = system.output(["uname", "-m"]).strip()
    if machine in ("i386", "i486", "i586", "i686", "armv6l", "armv7l"):
        return 32
    raise Unknown("the interpreter is no ELF file and was not run")


def _headers(
    system: System, place: Interpreter, base_lib: str, live: Mapping[str, Any]
) -> str | None:
    """Folder that holds Python.h."""
    minor = place.minor
    base = base_lib.rsplit("/lib/", 1)[0]
    folders = [f"{base}/include/python{minor}", f"{place.prefix}/include/python{minor}"]
    folders.insert(0, str(live.get("include") or folders[0]))
    return next((f for f in folders if system.exists(f"{f}/Python.h")), None)


def _shadowed_modules(system: System, env: PythonEnvironment) -> list[str]:
    """Files that would be imported in place of a module of the standard library.

    The current folder is looked at since `python -m` puts it first; its files are not opened.
    """
    folders = list(env.python_path)
    if system.live:
        folders.insert(0, str(Path.cwd()))
    hidden = []
    for folder in folders:
        try:
            names = system.names(folder)
        except Unknown:
            continue
        for name in names:
            stem, dot, ending = name.partition(".")
            if stem in SHARED_STDLIB or stem not in sys.stdlib_module_names:
                continue
            module = ending == "py" or (dot and ending.endswith("so"))
            if module or system.is_file(f"{folder}/{name}/__init__.py"):
                hidden.append(f"{folder}/{name}")
    return hidden

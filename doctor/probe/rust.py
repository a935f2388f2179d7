"""The Rust toolchain, its mirror, and the `rustbpe` extension of the examined Python."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator

from doctor.checkout import CHECKOUT
from doctor.errors import Unknown
from doctor.facts import Rust
from doctor.machine import crate_cache, own_folder
from doctor.machine.look import Look
from doctor.machine.pyenv import Module, PythonEnvironment, python_tags
from doctor.machine.system import System
from doctor.probe.host.identity import elf_machine, program_version, uname
from doctor.text.credentials import learn_indexes, shown_index

CRATE = CHECKOUT / "rustbpe"
TOOLCHAIN_FILES = ("rust-toolchain.toml", "rust-toolchain")
REPLACED = re.compile(r"\[source\.['\"]?crates-io['\"]?\][^\[]*?replace-with\s*=\s*['\"]([^'\"]+)")


def start(system: System) -> None:
    """Begin to run the programs that `probe` will ask."""
    for name in ("rustc", "cargo"):
        if system.which(name):
            system.start([name, "--version"])


def probe(system: System, env: PythonEnvironment | None, python_minor: str | None) -> Rust:
    """Describe toolchain and extension.

    Args:
        python_minor: `3.12` of the examined interpreter, to tell a stale extension.
    """
    look = Look()
    module = env.find_module("rustbpe") if env else None
    if module is not None and module.kind == "namespace":
        module = None  # the crate's folder in a checkout on the path, no extension
    rustc = system.which("rustc")
    distribution = None
    if env is not None:
        names = ("nanochat-rustbpe", "rustbpe")
        distribution = next((n for n in names if env.version(n)), None)
    rust = own_folder.rust_folder(system.env) if system.live else None
    return Rust(
        rustc=look("rustc", _version, system, "rustc"),
        cargo=look("cargo", _version, system, "cargo"),
        rustc_path=rustc,
        rustup=rustc is not None and system.exists(f"{rustc.rsplit('/', 1)[0]}/rustup"),
        off_path=_off_path(system),
        toolchain_file=_toolchain_file(system),
        crate=str(CRATE) if system.live and CRATE.is_dir() else None,
        mirror=look("mirror", _mirror, system),
        maturin=look("maturin", _maturin, system, env),
        module_path=module.path if module else None,
        module_version=env.version(distribution) if env and distribution else None,
        module_distribution=distribution,
        module_stale=look("module_stale", _stale, system, module, python_minor),
        module_published=distribution == "rustbpe" and module is not None,
        tiktoken=env.version("tiktoken") if env else None,
        linker=system.which(own_folder.LINKER),
        own_toolchain=rust is not None and own_folder.toolchain(rust) is not None,
        own_linker=rust is not None and own_folder.linker(rust) is not None,
        wheel=look("wheel", _wheel, system, python_minor),
        unknown=look.reasons,
    )


def _version(system: System, name: str) -> str | None:
    if system.which(name) is None:
        return None
    return program_version(system, name, ("--version",))


def _maturin(system: System, env: PythonEnvironment | None) -> str | None:
    """Version of the build tool, which pip fetches by itself where it is missing."""
    installed = env.version("maturin") if env else None
    path = system.which("maturin")
    if installed or path is None:
        return installed
    if "/shims/" in path:
        # a script of pyenv or asdf, which takes longer to answer than everything else together
        raise Unknown(f"{path} is a shim, which is not run for this")
    return _version(system, "maturin")


def _off_path(system: System) -> str | None:
    """Folder of a cargo that no PATH entry leads to: a shell opened before the installation."""
    home = system.env.get("CARGO_HOME") or f"{system.home()}/.cargo"
    if system.which("cargo") is None and system.exists(f"{home}/bin/cargo"):
        return f"{home}/bin"
    return None


def _toolchain_file(system: System) -> str | None:
    """The file that pins the crate's toolchain, in a checkout."""
    if not system.live:
        return None
    paths = (CHECKOUT / folder / name for folder in ("rustbpe", "") for name in TOOLCHAIN_FILES)
    return next((str(path) for path in paths if path.is_file()), None)


def _mirror(system: System) -> str | None:
    """Registry that cargo's configuration puts in place of crates.io."""
    home = system.env.get("CARGO_HOME") or f"{system.home()}/.cargo"
    for name in ("config.toml", "config"):
        text = re.sub(r"(?m)^\s*#.*$", "", system.text(f"{home}/{name}") or "")
        replaced = REPLACED.search(text)
        if replaced is None:
            continue
        source = re.escape(replaced.group(1))
        url = re.search(
            rf"\[source\.['\"]?{source}['\"]?\][^\[]*?registry\s*=\s*['\"]([^'\"]+)", text
        )
        if url is None:
            return replaced.group(1)
        learn_indexes(text)
        scheme, plus, rest = url.group(1).rpartition("+")
        return f"{scheme}{plus}{shown_index(rest)}"
    return None


def _stale(system: System, module: Module | None, python_minor: str | None) -> str | None:
    """Why an extension does not serve this interpreter; None where it does."""
    if module is None:
        return None
    files = [module.path] if module.kind == "extension" else list(_extensions(system, module.path))
    if not files:
        return None
    names = [path.rsplit("/", 1)[-1] for path in files]
    tags = python_tags(names)
    wanted = f"cp{python_minor.replace('.', '')}" if python_minor else None
    if wanted and tags and wanted not in tags and "abi3" not in tags:
        return f"built for {', '.join(tags)}, and this Python is {wanted}"
    machine = elf_machine(system, files[0])
    own = uname(system, "-m")
    if machine is not None and own and machine != own.replace("arm64", "aarch64"):
        return f"built for {machine}, and this machine is {own}"
    return _older_than_source(system, files[0])


def _wheel(system: System, python_minor: str | None) -> str | None:
    """A wheel of the crate as it is now."""
    if not system.live or not CRATE.is_dir() or python_minor is None:
        return None
    tags = crate_cache.tags_of(python_minor, platform.machine())
    wheel = crate_cache.find(CRATE, system.env, tags)
    return str(wheel) if wheel else None


def _extensions(system: System, folder: str) -> Iterator[str]:
    yield from (p for p in system.glob(folder, suffix=".so"))


def _older_than_source(system: System, path: str) -> str | None:
    """Whether the checkout's crate has changed since the extension was built."""
    source = CRATE / "src"
    built = system.mtime(path)
    if not system.live or not source.is_dir() or built is None:
        return None
    newest = max((f.stat().st_mtime for f in source.rglob("*.rs")), default=0.0)
    return "older than its source in rustbpe/src" if newest > built else None

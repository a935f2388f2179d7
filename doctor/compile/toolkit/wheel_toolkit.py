"""A CUDA toolkit without root: a release put together from the Python index, laid out as NVIDIA's own.

Which packages, in which versions: [[wheel]] and [[part]] of build/cuda.toml. A folder that lies under its final name is
whole: it was made under another one, tried, and renamed. Wheels that were built with it find CUDA's libraries there, so
it stays.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from doctor.compile.toolkit import stub_library
from doctor.errors import DoctorError
from doctor.facts import Facts
from doctor.findings.context import Context
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import parts
from doctor.planner.build.draft import Draft
from doctor.planner.build.takes import advise
from doctor.planner.build.toolchain import Compiler, accepts
from doctor.text.quantities import disk
from doctor.work import files
from doctor.work.events import Reporter
from doctor.work.run import run

SECTION = "cuda-toolkits"
"""In the base folder."""

RECEIPT = "nanochat-doctor.json"

TARGETS = {"x86_64": "x86_64-linux", "aarch64": "sbsa-linux"}


@dataclass(frozen=True)
class ToolkitOffer:
    """A toolkit that can be put together, or was.

    Attributes:
        home: its folder.
        requirements: for pip.
        compiler: of this machine, that its nvcc takes.
    """

    row: Row
    home: Path
    requirements: tuple[str, ...]
    compiler: Compiler

    @property
    def ready(self) -> bool:
        """Whether it is there."""
        return (self.home / RECEIPT).is_file()

    @property
    def words(self) -> str:
        """What it is and what it costs."""
        row = self.row
        need = f"{disk(row['download_mb'])} to download, {disk(row['disk_mb'])} on disk"
        return f"CUDA {row['release']} put together from the Python index in {self.home} ({need})"


def offer(
    facts: Facts, tables: Tables, chosen: Draft, torch: str | None, base: Path,
    compilers: Sequence[Compiler],
) -> ToolkitOffer | None:  # fmt: skip
    """The toolkit from the index that fits a build best; None where none does.

    It must know the architectures, be taken by this PyTorch, run on this driver and go with a host compiler.
    """
    host, c = facts.host, Context(facts, tables)
    if not chosen.cuda or host is None or host.os != "Linux" or host.libc == "musl":
        return None
    driver = c.driver if set(chosen.archs) <= set(c.capabilities) else None
    advice = advise(chosen.archs, torch, driver, tables)
    if advice is None:
        return None
    fit = []
    for row in tables.rows("cuda", "wheel"):
        if host.arch not in row["cpu_archs"] or row["cuda"] not in advice.serve:
            continue
        compiler = _host_compiler(row, compilers, tables)
        if _knows(row, chosen, tables) and compiler is not None:
            fit.append((row["cuda"] == advice.cuda, parts(row["cuda"]), row, compiler))
    if not fit:
        return None
    *_, row, compiler = max(fit, key=lambda entry: entry[:2])
    part = tables.rows("cuda", "part")[0]
    pinned = [str(text).format(cuda=row["cuda"]) for text in part["pinned"]]
    whole = f"{part['package']}[{','.join(part['extras'])}]=={row['release']}"
    home = base / SECTION / f"cuda-{row['release']}"
    return ToolkitOffer(row, home, (whole, *pinned, *row["beside"]), compiler)


def _knows(row: Row, chosen: Draft, tables: Tables) -> bool:
    return advise(chosen.archs, None, None, tables) is not None and all(
        arch.removesuffix("+PTX").rstrip("af") in tables.toolkit_archs(row["cuda"])
        for arch in chosen.archs
    )


def _host_compiler(row: Row, compilers: Sequence[Compiler], tables: Tables) -> Compiler | None:
    limits = tables.toolkit(row["cuda"])
    return next((k for k in compilers if accepts(limits, k.kind, k.version)), None)


def make(
    offered: ToolkitOffer,
    *,
    python: str,
    env: Mapping[str, str],
    log: Path,
    reporter: Reporter,
) -> Path:
    """Download a toolkit, lay it out, try it, and give it its name; its folder.

    Raises:
        DoctorError: no installer, no space, an index that lacks a package, a compiler that fails.
        Stopped: a signal came; what is half done is removed the next time.
    """
    home = offered.home
    with _locked(home.parent, reporter):
        if offered.ready:
            return home
        fresh = home.with_name(f".{home.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        _check_space(offered)
        reporter.event(
            "toolkit",
            f"Putting together {offered.words} …",
            home=str(home),
            release=offered.row["release"],
        )
        site = fresh / "site"
        site.mkdir(parents=True)
        _install(offered, site, python=python, env=env, log=log)
        arrange(site, fresh / "home", str(offered.row["release"]))
        stub_library.make_stubs(
            fresh / "home" / "include", fresh / "home" / "lib" / "stubs", offered.compiler.cc
        )
        _try(fresh / "home", offered, env=env, log=log)
        receipt = {"schema": 1, "release": offered.row["release"], "packages": _versions(site)}
        files.write(fresh / "home" / RECEIPT, json.dumps(receipt, indent=1))
        os.rename(fresh / "home", home)
        shutil.rmtree(fresh, ignore_errors=True)
    reporter.event(
        "toolkit-ready", f"CUDA {offered.row['release']} is ready in {home}", home=str(home)
    )
    return home


@contextmanager
def _locked(folder: Path, reporter: Reporter) -> Iterator[None]:
    """One at a time makes a toolkit; the lock ends with its holder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise files.cannot_write(folder, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.event(
                "waiting", f"Another process puts a toolkit together in {folder}; waiting for it …"
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_space(offered: ToolkitOffer) -> None:
    free, needed = shutil.disk_usage(offered.home.parent).free / 1e6, offered.row["disk_mb"]
    if free < needed:
        raise DoctorError(
            f"{disk(free)} are free at {offered.home.parent}, and the toolkit takes "
            f"{disk(needed)}; free space there, or put NANOCHAT_BASE_DIR on a larger disk."
        )


def _install(
    offered: ToolkitOffer, site: Path, *, python: str, env: Mapping[str, str], log: Path
) -> None:
    """By uv or pip, with their own settings: mirrors, proxies, caches."""
    uv = shutil.which("uv", path=env.get("PATH"))
    words = (
        [uv, "pip", "install", "--python", python]
        if uv
        else [python, "-m", "pip", "install", "--disable-pip-version-check"]
    )
    heard: list[str] = []
    status = run(
        [*words, "--only-binary", ":all:", "--target", str(site), *offered.requirements],
        cwd=site, env=env, log=log, mark=str(offered.home), heard=heard.append,
    )  # fmt: skip
    if status:
        said = next((line.strip() for line in reversed(heard) if line.strip()), f"status {status}")
        raise DoctorError(
            f"CUDA {offered.row['release']} could not be fetched from the Python index: {said}; look at the log {log}, "
            "put that right and run the same command again, or name a toolkit with --cuda-home."
        )


def _versions(site: Path) -> dict[str, str]:
    named = (
        folder.name.removesuffix(".dist-info").partition("-")
        for folder in sorted(site.glob("*.dist-info"))
    )
    return {name.replace("_", "-"): version for name, _, version in named}


# --- layout ------------------------------------------------------------------------------------


def arrange(site: Path, home: Path, release: str) -> None:
    """Make of packages below `site` a folder that CMake and PyTorch take for a toolkit of NVIDIA's.

    Raises:
        DoctorError: there is no compiler in the packages.
    """
    compilers = sorted(site.glob("nvidia/*/bin/nvcc"))
    if not compilers:
        raise DoctorError(
            "The packages of the Python index hold no nvcc; name a toolkit with --cuda-home."
        )
    os.rename(compilers[0].parents[1], home)
    for folder in sorted((site / "nvidia").iterdir()):
        for part in ("include", "lib"):
            if (folder / part).is_dir():
                _merge(folder / part, home / part)
    libraries = home / "lib"
    for library in sorted(libraries.glob("lib*.so.*")):
        plain = libraries / f"{library.name.partition('.so.')[0]}.so"
        if not os.path.lexists(plain):
            plain.symlink_to(library.name)
    cmake = home / "cuda_cccl" / "lib" / "cmake"
    if cmake.is_dir() and not (libraries / "cmake").exists():
        os.rename(cmake, libraries / "cmake")
    if not os.path.lexists(home / "lib64"):
        (home / "lib64").symlink_to("lib")
    target = home / "targets" / TARGETS.get(os.uname().machine, f"{os.uname().machine}-linux")
    target.mkdir(parents=True)
    for part in ("include", "lib"):
        (target / part).symlink_to(f"../../{part}")
    version = {"cuda": {"name": "CUDA SDK", "version": release}}
    (home / "version.json").write_text(json.dumps(version))
    for licence in site.glob("*.dist-info"):
        shutil.copytree(licence, home / "share" / licence.name)


def _merge(source: Path, target: Path) -> None:
    """Move what is below one folder into another; what is there stays."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _merge(entry, place)
        elif not os.path.lexists(place):
            os.rename(entry, place)


TRIAL = (
    "__global__ void f(float *x) { x[threadIdx.x] *= 2; }\nvoid g(float *x) { f<<<1, 32>>>(x); }\n"
)


def _try(home: Path, offered: ToolkitOffer, *, env: Mapping[str, str], log: Path) -> None:
    """Compile one kernel: a toolkit that cannot do that gets no name."""
    source = home.parent / "trial.cu"
    source.write_text(TRIAL)
    heard: list[str] = []
    command = [
        str(home / "bin" / "nvcc"),
        "-c",
        str(source),
        "-o",
        str(source.with_suffix(".o")),
        "-ccbin",
        offered.compiler.cxx,
    ]
    if run(command, cwd=home.parent, env=env, log=log, mark=str(offered.home), heard=heard.append):
        said = next((line.strip() for line in heard if "error" in line), "no reason given")
        raise DoctorError(
            f"The toolkit that was put together does not compile a kernel: {said}; look at the log {log}, or name "
            "another toolkit with --cuda-home."
        )

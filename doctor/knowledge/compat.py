"""Which code runs on which card, and which driver runs which CUDA. Pure rules over the tables.

Binary code for X.Y runs on devices of the same major version and a minor of at least Y, PTX for
X.Y on all newer ones after a compilation by the driver (CUDA C++ Programming Guide, "Binary
Compatibility" and "PTX Compatibility"); the exceptions around Tegra are rows of build/cuda.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from doctor.facts import Host, TorchBuild
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import at_least, minor, older, parts


class Runs(Enum):
    """How a build's code meets a device."""

    NATIVE = "native"
    PTX = "ptx"
    """Only after a compilation by the driver at the first start."""
    PARTIAL = "partial"
    """A few special kernels only."""
    NO = "no"


def sass_runs(code: str, device: str, cuda: str | None, tables: Tables) -> bool:
    """Whether machine code for one architecture runs on a device.

    Args:
        code: `9.0`, or `9.0a` for code that runs on exactly that architecture.
        device: compute capability, `8.9`.
        cuda: CUDA version of the build, which some exceptions depend on.
    """
    if code[-1].isalpha():
        return code[:-1] == device
    a, b = parts(code), parts(device)
    if not a or not b:
        return False
    for row in tables.rows("cuda", "exception"):
        if code not in row["code"] or (
            cuda and row.get("until_cuda") and at_least(cuda, row["until_cuda"])
        ):
            continue
        if row.get("only_on_itself"):
            return code == device
        if "only_on" in row:
            return device in row["only_on"]
        if device in row.get("not_on", ()):
            return False
    return a[0] == b[0] and a[1] <= b[1]


def ptx_runs(code: str, device: str, tables: Tables) -> bool:
    """Whether PTX for one architecture can be compiled for a device."""
    if code[-1].isalpha():
        return code[:-1] == device
    return parts(code) <= parts(device)


def code_runs(
    device: str,
    cuda: str | None,
    sass: Iterable[str],
    ptx: Iterable[str],
    partial: Iterable[str],
    tables: Tables,
) -> Runs:
    """How code for some architectures meets a device."""
    if any(sass_runs(code, device, cuda, tables) for code in sass):
        return Runs.NATIVE
    if any(ptx_runs(code, device, tables) for code in ptx):
        return Runs.PTX
    if any(sass_runs(code, device, cuda, tables) for code in partial):
        return Runs.PARTIAL
    return Runs.NO


def build_runs(build: TorchBuild, device: str, tables: Tables) -> Runs | None:
    """How an installed build meets a device; None where its code could not be read."""
    if not build.archs:
        return None
    return code_runs(
        device,
        build.cuda,
        build.archs_covered,
        build.archs_ptx,
        build.archs_partial,
        tables,
    )


# --- drivers ---------------------------------------------------------------------------------


def driver_floor(cuda: str, devices: Sequence[str], tables: Tables) -> str | None:
    """Lowest driver that runs a CUDA version on some devices: of its major, and of each card."""
    rows = [row for row in map(tables.arch, devices) if row]
    tegra = bool(rows) and all(row["tegra"] for row in rows)
    floors = [tables.major_floor(cuda, tegra=tegra), *(row.get("min_driver") for row in rows)]
    known = [floor for floor in floors if floor]
    return max(known, key=parts, default=None)


def driver_runs(driver: str, cuda: str, devices: Sequence[str], tables: Tables) -> bool:
    """Whether a driver runs a CUDA version on some devices; true where no row says otherwise."""
    floor = driver_floor(cuda, devices, tables)
    return floor is None or not parts(driver) or at_least(driver, floor)


# --- wheels ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wheel:
    """A torch wheel of the tables: newest patch release of its series."""

    version: str
    variant: str
    cuda: str | None
    pythons: tuple[str, ...]
    index: str
    default: bool
    row: Row


def fitting_wheels(
    tables: Tables,
    *,
    python: str | None,
    cpu_arch: str | None,
    glibc: str | None,
    devices: Sequence[str],
    driver: str | None,
) -> list[Wheel]:
    """Wheels whose code runs on every device, best first: newest torch, then newest CUDA.

    Args:
        python: `3.12` or `3.13t`; None asks for no particular one.
        devices: compute capabilities; none asks for a CPU wheel.
        driver: None leaves drivers out of account.
    """
    found = [
        wheel
        for wheel in wheels(tables, python=python, cpu_arch=cpu_arch, glibc=glibc)
        if _serves(wheel, devices, driver, tables)
    ]
    return sorted(found, key=lambda w: (parts(w.version), parts(w.cuda or "0")), reverse=True)


def cpu_arch(host: Host | None) -> str | None:
    """The processor as the tables name it, where the plain name would mean Linux on an Intel Mac."""
    if host is None or host.arch is None:
        return None
    return f"{host.arch}-macos" if host.os == "Darwin" and host.arch == "x86_64" else host.arch


def wheels(
    tables: Tables, *, python: str | None, cpu_arch: str | None, glibc: str | None
) -> Iterator[Wheel]:
    """All wheels that install on a machine with that Python, processor and C library."""
    releases = {row["torch"]: row for row in tables.rows("torch", "release")}
    arch = {"arm64": "arm64-macos", "amd64": "x86_64"}.get(cpu_arch or "", cpu_arch)
    for row in tables.rows("torch", "wheel"):
        release = releases.get(minor(row["torch"]))
        if release is None or (arch and row["cpu_arch"] != arch):
            continue
        served = pythons(release, row["cpu_arch"])
        if python and python not in served:
            continue
        floor = release.get(f"min_glibc_{row['cpu_arch']}") or release.get("min_glibc")
        if glibc and floor and older(glibc, floor):
            continue
        versions = row.get("versions") or release.get("versions") or [row["torch"]]
        yield Wheel(
            version=max(versions, key=parts),
            variant=row["variant"],
            cuda=row.get("cuda") or None,
            pythons=served,
            index=row["index"],
            default=bool(row.get("default")),
            row=row,
        )


def pythons(release: Row, cpu_arch: str) -> tuple[str, ...]:
    """Pythons, free-threaded ones among them, for which a release has wheels."""
    known = release.get(f"pythons_{cpu_arch.removeprefix('arm64-')}") or release["pythons"]
    return (*known, *release.get("freethreaded", ()))


def _serves(wheel: Wheel, devices: Sequence[str], driver: str | None, tables: Tables) -> bool:
    if not devices:
        return wheel.cuda is None
    if wheel.cuda is None or (driver and not driver_runs(driver, wheel.cuda, devices, tables)):
        return False
    return all(
        code_runs(device, wheel.cuda, wheel.row["sass"], wheel.row["ptx"], (), tables)
        in (Runs.NATIVE, Runs.PTX)
        for device in devices
    )


def pip_requirement(wheel: Wheel) -> tuple[str, str | None]:
    """What to ask pip for: requirement, and index where it is not pip's own."""
    if wheel.default:
        return f"torch=={wheel.version}", None
    return f"torch=={wheel.version}", wheel.index

"""Loads the tables in build/: each file once, checked row by row, with errors that name the place.

A checkout has them in `build/` beside this package, an installed wheel in `doctor/_data/build`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from doctor.checkout import data_folder
from doctor.errors import DoctorError, WrongUsage
from doctor.knowledge.shapes import OPTIONAL, SHAPES, fault
from doctor.knowledge.versions import parts
from doctor.text.toml import tomllib

Row = Mapping[str, Any]

ADDRESS = re.compile(r"https?://[^\s'\"]+")


def read_table(path: Path) -> dict[str, list[Row]]:
    """Read one file and check its rows.

    Raises:
        DoctorError: unreadable, no TOML, or a row that lacks a field, has one of a wrong type, or one
            that its table does not know.
    """
    name = f"build/{path.name}"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DoctorError(f"{name} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DoctorError(f"{name} is no valid TOML: {error}.") from error
    for table, shape in SHAPES.get(path.stem, {}).items():
        rows = data.get(table)
        if not isinstance(rows, list) or not rows:
            raise DoctorError(f"{name} has no [[{table}]] rows.")
        more = OPTIONAL.get(path.stem, {}).get(table)
        for number, row in enumerate(rows, 1):
            trouble = fault(row, f"row {number} of [[{table}]]", shape, more)
            if trouble:
                raise DoctorError(f"{name}: {trouble}.")
    return cast("dict[str, list[Row]]", data)


@dataclass(frozen=True)
class Requirement:
    """A Python package that torch_npu or CANN needs."""

    name: str
    module: str
    specifier: str


@dataclass
class Tables:
    """All tables; a file is read when it is first asked for.

    Args:
        folder: where the files lie.
    """

    folder: Path = field(default_factory=data_folder)

    def rows(self, file: str, table: str) -> Sequence[Row]:
        """Rows of a table, as written."""
        return self._file(file).get(table, [])

    @functools.cache  # noqa: B019 - there is one Tables per process
    def _file(self, name: str) -> dict[str, list[Row]]:
        return read_table(self.folder / f"{name}.toml")

    def __hash__(self) -> int:
        return hash(self.folder)

    # --- NVIDIA ----------------------------------------------------------------------

    def arch(self, cc: str) -> Row | None:
        """The row of a compute capability."""
        return next((row for row in self.rows("cuda", "arch") if row["cc"] == cc), None)

    def major_floor(self, cuda: str, *, tegra: bool = False) -> str | None:
        """Lowest driver that runs code of a CUDA version (minor-version compatibility).

        Args:
            tegra: for a Jetson, whose drivers are numbered otherwise.
        """
        major = cuda.partition(".")[0]
        rows = self.rows("cuda", "cuda_major")
        key = "min_tegra_driver" if tegra else "min_driver"
        return next((str(r[key]) for r in rows if r["major"] == major), None)

    def l4t(self, release: str) -> Row | None:
        """The row of a release of Linux for Tegra, `36.4.3`."""
        number = release.partition(".")[0]
        return next((row for row in self.rows("jetson", "l4t") if row["release"] == number), None)

    def toolkit(self, version: str) -> Row | None:
        """The row of a toolkit."""
        rows = self.rows("cuda", "toolkit")
        return next((row for row in rows if row["version"] == version), None)

    def toolkit_archs(self, version: str) -> tuple[str, ...]:
        """Architectures that a toolkit's nvcc compiles for; empty for one that has no row."""
        row = self.toolkit(version)
        return tuple(row["archs"]) if row else ()

    def nvidia_chip(self, device_id: str) -> dict[str, str]:
        """Chip and compute capability of a PCI device id; empty for an unknown one."""
        try:
            number = int(device_id, 16)
        except ValueError:
            return {}
        for row in self.rows("pci", "nvidia"):
            if int(row["first"], 16) <= number <= int(row["last"], 16):
                found = {"chip": str(row["chip"])}
                return found | ({"compute_capability": str(row["cc"])} if row.get("cc") else {})
        return {}

    # --- other makers ------------------------------------------------------------------

    def vendor(self, vendor_id: str) -> Row | None:
        """The row of another maker of accelerators."""
        return next((row for row in self.rows("pci", "vendor") if row["id"] == vendor_id), None)

    def other_accelerator(self, vendor_id: str, device_id: str) -> Row | None:
        """The row of a device of another maker."""
        try:
            number = int(device_id, 16)
        except ValueError:
            return None
        for row in self.rows("pci", "other"):
            if row["vendor"] == vendor_id and int(row["first"], 16) <= number <= int(
                row["last"], 16
            ):
                return row
        return None

    # --- accelerators and runs ---------------------------------------------------------

    def accelerator(
        self, name: str, *, cc: str | None = None, series: str | None = None
    ) -> Row | None:
        """Memory, rates and power of a device, by the name that its driver prints.

        A slice of a GPU (MIG, vGPU) is none of these, and has no row.

        Args:
            name: `NVIDIA GeForce RTX 4050 Laptop GPU`, `910B3`.
            cc: its compute capability; rows of another one do not count.
            series: its Ascend series, `910B`; without it the name must tell, and `Ascend910` does not.
        """
        if series is None:
            row = self._by_pattern("gpu", name, "cc", cc)
            if row is not None or cc is not None:
                return row
            chip = self.ascend_by_name(name)
            if chip is None:
                return None
            series = str(chip["series"])
        return self._by_pattern("npu", name, "series", series)

    def _by_pattern(self, table: str, name: str, key: str, value: str | None) -> Row | None:
        for row in self.rows("accelerators", table):
            if value in (None, row[key]) and re.search(row["pattern"], name.strip(), re.IGNORECASE):
                return row
        return None

    def profile(self, name: str) -> Row:
        """The settings of a named run; what is absent is to be computed.

        Raises:
            WrongUsage: no such profile.
        """
        rows = self.rows("profiles", "profile")
        found = next((row for row in rows if row["name"] == name), None)
        if found is None:
            known = ", ".join(str(row["name"]) for row in rows)
            raise WrongUsage(f"There is no profile {name!r}; choose one of {known}.")
        return found

    # --- Ascend ----------------------------------------------------------------------

    def ascend_chip(self, device_id: str) -> dict[str, str]:
        """Series of a PCI device id, as a field of `PciDevice`."""
        row = self.ascend_by_pci(device_id)
        return {"chip": str(row["series"])} if row else {}

    def ascend_by_pci(self, device_id: str) -> Row | None:
        """The first chip row of a PCI device id; all rows of one id are of one series."""
        rows = self.rows("ascend", "chip")
        return next((row for row in rows if row.get("pci") == device_id.lower()), None)

    def ascend_by_name(self, name: str) -> Row | None:
        """The chip row of a name that npu-smi prints.

        `Ascend910` alone names none: a first-generation 910 and the chips of an A3 (910C) both
        are called so.
        """
        plain = name.removeprefix("Ascend").strip()
        if plain == "910":
            return None
        for candidate in (plain, f"910_{plain}"):
            for row in self.rows("ascend", "chip"):
                if re.search(row["pattern"], candidate):
                    return row
        return None

    def cann_pairs(self, cann: str) -> list[Row]:
        """torch_npu and torch that go with a CANN release, best first; empty for an unlisted one."""
        return [row for row in self.rows("ascend", "pair") if row["cann"] == cann]

    def npu_driver_floor(self, cann: str) -> Row | None:
        """The lowest driver (`min_driver`) for a CANN release, and the one published with it (`driver`)."""
        rows = self.rows("ascend", "driver_floor")
        return next((row for row in rows if row["cann"] == cann), None)

    def npu_pythons(self, torch: str) -> tuple[str, ...]:
        """Pythons for which there is a torch_npu of a torch release."""
        version = parts(torch)
        for row in self.rows("ascend", "python"):
            if parts(row["torch"]) == version[: len(parts(row["torch"]))]:
                return tuple(row["pythons"])
        return ()

    def npu_requirements(
        self, torch: str | None, cann: str | None, python: str | None
    ) -> Iterator[Requirement]:
        """Python packages without which torch_npu cannot train: what it, CANN and torch import.

        Args:
            torch: release that torch_npu belongs to, `2.9.0`.
            cann: release of the active toolkit.
            python: version of the interpreter.
        """
        from packaging.specifiers import SpecifierSet

        for row in self.rows("ascend", "requires"):
            limits = (("cann", cann), ("torch", torch))
            if row["when"] == "tools" or any(k in row and v not in row[k] for k, v in limits):
                continue
            if "python" in row and (python is None or python not in SpecifierSet(row["python"])):
                continue
            yield Requirement(row["package"], row["module"], row["spec"])

    # --- addresses -----------------------------------------------------------------------

    def pytorch_index(self, variant: str) -> str:
        """PyTorch's own index of a variant, `cpu` or `cu128`."""
        rows = self.rows("mirrors", "endpoint")
        return next(f"{row['url']}/{variant}" for row in rows if row["kind"] == "pytorch")

    def mirrors(self, kind: str) -> list[Row]:
        """Where a kind of thing can be had instead of its own place, best first.

        Args:
            kind: `python`, `pytorch`, `hub`, `crates`, `rustup`, `git`.
        """
        rows = [*self.rows("mirrors", "endpoint"), *self.rows("mirrors", "mirror")]
        return [row for row in rows if row["kind"] == kind and "region" in row]

    def artifact(self, name: str) -> Row:
        """Address and size of a single file.

        Raises:
            DoctorError: no such file.
        """
        for row in self.rows("mirrors", "artifact"):
            if row["name"] == name:
                return row
        raise DoctorError(f"build/mirrors.toml has no artifact {name!r}.")

    # --- what else findings need -------------------------------------------------------

    def code(self, name: str) -> Row:
        """Title of a problem code and its place in the order.

        Raises:
            DoctorError: no such code.
        """
        row = self._codes.get(name)
        if row is None:
            raise DoctorError(f"build/codes.toml has no row for {name!r}.")
        return row

    @functools.cached_property
    def _codes(self) -> dict[str, Row]:
        rows = self.rows("codes", "code")
        return {row["name"]: {**row, "order": i} for i, row in enumerate(rows)}

    def msrv(self, crate: str) -> str:
        """Lowest rustc that builds a crate of ours."""
        rows = self.rows("rust", "crate")
        return next(str(cast(str, row["msrv"])) for row in rows if row["name"] == crate)


def own_script(tables: Tables) -> str | None:
    """Address of rustup's own installer, a shell script, out of the command that a person would type."""
    rows = tables.rows("packages", "need")
    fallback = next((str(row.get("fallback")) for row in rows if row["name"] == "rust"), "")
    address = ADDRESS.search(fallback)
    return address.group() if address else None

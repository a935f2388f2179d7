"""Loads the tables in build/: each file once, checked row by row, with errors that name the place.

A checkout has them in `build/` beside this package, an installed wheel in `doctor/_data/build`.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from doctor.errors import DoctorError
from doctor.versions import parts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Row = Mapping[str, Any]

SOURCED: dict[str, type] = {"source": str, "date": str}

Shape = dict[str, type]

SHAPES: dict[str, dict[str, Shape]] = {
    "cuda": {
        "toolkit": {"version": str, "archs": list, **SOURCED},
        "cuda_major": {"major": str, "min_driver": str, **SOURCED},
        "arch": {"cc": str, "family": str, "min_cuda": str, "tegra": bool, **SOURCED},
    },
    "torch": {
        "release": {"torch": str, "pythons": list, **SOURCED},
        "wheel": {
            "torch": str,
            "variant": str,
            "cpu_arch": str,
            "sass": list,
            "ptx": list,
            "index": str,
            **SOURCED,
        },
        "companion": {"torch": str, **SOURCED},
    },
    "ascend": {
        "pair": {"cann": str, "torch_npu": str, "torch": str, **SOURCED},
        "python": {"torch": str, "pythons": list, **SOURCED},
        "requires": {"package": str, "module": str, "when": str, "spec": str, **SOURCED},
        "chip": {"series": str, "pattern": str, "bf16": bool, **SOURCED},
    },
    "packages": {
        "manager": {"name": str, "id": list, "install": str, **SOURCED},
        "need": {"name": str, **SOURCED},
        "driver": {"id": list, "commands": list, **SOURCED},
    },
    "pci": {
        "nvidia": {"first": str, "last": str, "chip": str, **SOURCED},
    },
    "rust": {"crate": {"name": str, "msrv": str, **SOURCED}},
    "codes": {"code": {"name": str, "title": str}},
    "recipes": {
        "setting": {"name": str, "value": str, "when": list, **SOURCED},
        "ignored": {"name": str, "instead": str, "why": str, **SOURCED},
        "weight": {"pattern": str, "memory_gb": float, "seconds": float, **SOURCED},
        "cost": {"cpu_core_hours": float, "disk_gb": float, "network_mb": int, **SOURCED},
        "driver": {"name": str, "file": str, "contains": str, "pack": list, **SOURCED},
        "origin": {"name": str, "url": str, **SOURCED},
        "compiler": {"manager": str, "packages": list, **SOURCED},
    },
    "mirrors": {"endpoint": {"name": str, "kind": str, "url": str, **SOURCED}},
}
"""File -> table -> fields that every row must have, with their types."""


def data_folder() -> Path:
    """The folder with the tables.

    Raises:
        DoctorError: neither a checkout nor a complete installation.
    """
    here = Path(__file__).parent
    for folder in (here.parent / "build", here / "_data" / "build"):
        if (folder / "codes.toml").is_file():
            return folder
    raise DoctorError(
        f"The tables (build/*.toml) are missing beside {here}; install nanochat-doctor again."
    )


def read_table(path: Path) -> dict[str, list[Row]]:
    """Read one file and check its rows.

    Raises:
        DoctorError: unreadable, no TOML, or a row that lacks a field or has one of a wrong type.
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
        for number, row in enumerate(rows, 1):
            _check(name, table, number, row, shape)
    return cast("dict[str, list[Row]]", data)


def _check(name: str, table: str, number: int, row: Any, shape: Mapping[str, type]) -> None:
    for key, kind in shape.items():
        if key not in row:
            raise DoctorError(f"{name}: row {number} of [[{table}]] lacks {key!r}.")
        if not isinstance(row[key], kind):
            raise DoctorError(
                f"{name}: {key!r} in row {number} of [[{table}]] is {row[key]!r}, "
                f"not a {kind.__name__}."
            )


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

    def major_floor(self, cuda: str) -> str | None:
        """Lowest driver that runs code of a CUDA version (minor-version compatibility)."""
        major = cuda.partition(".")[0]
        rows = self.rows("cuda", "cuda_major")
        return next((str(r["min_driver"]) for r in rows if r["major"] == major), None)

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

    def pytorch_index(self, variant: str) -> str:
        """PyTorch's own index of a variant, `cpu` or `cu128`."""
        rows = self.rows("mirrors", "endpoint")
        return next(f"{row['url']}/{variant}" for row in rows if row["kind"] == "pytorch")

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

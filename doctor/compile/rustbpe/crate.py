"""The crate rustbpe of a checkout: what its files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doctor.errors import DoctorError
from doctor.work.files import parse_toml


@dataclass(frozen=True)
class Crate:
    """The crate's folder, and what its files say.

    Attributes:
        pyproject: pyproject.toml as it is.
        manifest: Cargo.toml as it is.
    """

    folder: Path
    pyproject: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Its version."""
        return str(self.manifest["package"]["version"])

    @property
    def stable_abi(self) -> bool:
        """Whether one build serves later Pythons, too."""
        pyo3 = self.manifest.get("dependencies", {}).get("pyo3", {})
        features = pyo3.get("features", []) if isinstance(pyo3, dict) else []
        return any(str(feature).startswith("abi3") for feature in features)

    @property
    def maturin(self) -> str:
        """What it asks of maturin, `maturin>=1.7,<2`."""
        requires = self.pyproject["build-system"]["requires"]
        return next(str(word) for word in requires if str(word).startswith("maturin"))

    @property
    def features(self) -> list[str]:
        """Features of cargo's that the wheel is built with."""
        return list(self.pyproject.get("tool", {}).get("maturin", {}).get("features", []))


def read_crate(checkout: Path) -> Crate:
    """The crate of a checkout.

    Raises:
        DoctorError: it is not there, as in an installed package, or its files are damaged.
    """
    folder = checkout / "rustbpe"
    if not (folder / "Cargo.toml").is_file():
        raise DoctorError(
            f"The source of rustbpe is not in {folder}: an installed nanochat-doctor carries none; run "
            "./nanochat-doctor build-rustbpe in a clone of the repository."
        )
    parsed = []
    for name in ("pyproject.toml", "Cargo.toml"):
        try:
            parsed.append(parse_toml((folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DoctorError(
                f"{folder / name} cannot be read ({error}); restore it with git checkout -- rustbpe."
            ) from error
    crate = Crate(folder, *parsed)
    try:
        _ = crate.version, crate.maturin
    except (KeyError, StopIteration, TypeError) as error:
        raise DoctorError(
            f"{folder} names no version of the crate or of maturin; restore it with git checkout -- rustbpe."
        ) from error
    return crate

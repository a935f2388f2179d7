"""Where our own files are: in a checkout beside this package, in an installed wheel below `doctor/_data`."""

from __future__ import annotations

from pathlib import Path

from doctor.errors import DoctorError

PACKAGE = Path(__file__).parent
CHECKOUT = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """The folder with the tables.

    Raises:
        DoctorError: neither a checkout nor a complete installation.
    """
    return _folder("build", "codes.toml", "tables (build/*.toml)")


def templates_folder() -> Path:
    """The folder with the templates.

    Raises:
        DoctorError: there is none.
    """
    return _folder("templates", "variables.toml", "templates")


def _folder(name: str, holds: str, what: str) -> Path:
    for folder in (PACKAGE.parent / name, PACKAGE / "_data" / name):
        if (folder / holds).is_file():
            return folder
    raise DoctorError(f"The {what} are missing beside {PACKAGE}; install nanochat-doctor again.")


def payload(name: str) -> Path:
    """A script to hand to the examined interpreter, see `doctor/probe/payload`."""
    return PACKAGE / "probe" / "payload" / f"{name}.py"

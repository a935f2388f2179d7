"""Which Python index a pip has built in: no address of it stands in our own files."""

from __future__ import annotations

import re
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

PIP_MODULE = "pip/_internal/models/index.py"
DEFAULT_URL = re.compile(r"""^PyPI = PackageIndex\(\s*["'](https?://[^"']+)["']""", re.MULTILINE)
"""Where it says so."""


def built_in() -> str | None:
    """The index of the pip that came with our own interpreter."""
    for wheel in _pip_wheels():
        try:
            with zipfile.ZipFile(wheel) as archive:
                text = archive.read(PIP_MODULE).decode()
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            continue
        if match := DEFAULT_URL.search(text):
            return f"{match.group(1).rstrip('/')}/simple"
    return None


def _pip_wheels() -> Iterator[Path]:
    """Wheels of pip that ensurepip installs from; distributions keep them in a folder of their own."""
    folders = [Path(sysconfig.get_path("stdlib"), "ensurepip", "_bundled")]
    if own := sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.insert(0, Path(own))
    for folder in folders:
        yield from sorted(folder.glob("pip-*.whl"), reverse=True)

"""Makes an environment import a PyTorch tree that was built here, without copying it or building it again.

    python -m doctor.environment.local_tree /home/me/pytorch/torch

A path file leads to the tree, and metadata of the usual kind tells installers that torch is there: without it, the next
package that needs torch would bring another one. `pip uninstall torch` takes both away and leaves the tree alone.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

from doctor.text.visible import visible

PATH_FILE = "nanochat-doctor-torch.pth"
VERSION = re.compile(r"""^__version__(?:\s*:[^=]*)?\s*=\s*['"]([^'"]+)['"]""", re.MULTILINE)


def link(package: Path, site: Path) -> str:
    """Link a tree into an environment, in place of another tree that was.

    Args:
        package: the folder `torch` of the tree, the one with version.py.
        site: the environment's site-packages.

    Returns:
        The version that the environment has now.

    Raises:
        ValueError: the folder holds no built torch, or the environment has an installed one.
        OSError: the environment cannot be written.
    """
    match = VERSION.search(_text(package / "version.py"))
    if match is None or not any(package.glob("_C*.so")):
        raise ValueError(f"{package} holds no built PyTorch: build the tree first.")
    if (site / "torch").exists():
        raise ValueError(
            f"{site} has an installed torch, which would win over the tree; uninstall it first."
        )
    version = match.group(1)
    for old in site.glob("torch-*.dist-info"):
        if _text(old / "INSTALLER").strip() == "nanochat-doctor":
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
    info = site / f"torch-{version}.dist-info"
    info.mkdir()
    files = {
        site / PATH_FILE: f"{package.parent}\n",
        info / "METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        info / "INSTALLER": "nanochat-doctor\n",
        info / "RECORD": "".join(
            f"{name},,\n"
            for name in (
                PATH_FILE,
                *(f"{info.name}/{n}" for n in ("METADATA", "INSTALLER", "RECORD")),
            )
        ),
    }
    for path, text in files.items():
        _write(path, text)
    return version


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def main(arguments: list[str]) -> int:
    """Link the tree named on the command line into the environment that runs this."""
    if len(arguments) != 1:
        print(
            "usage: python -m doctor.environment.local_tree /path/to/pytorch/torch", file=sys.stderr
        )
        return 2
    try:
        version = link(Path(arguments[0]).absolute(), Path(sysconfig.get_path("purelib")))
    except (ValueError, OSError) as error:
        print(f"nanochat-doctor: {visible(error)}", file=sys.stderr)
        return 1
    print(visible(f"torch {version} from {Path(arguments[0]).parent}"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

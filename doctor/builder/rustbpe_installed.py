"""The rustbpe that an interpreter imports: what it is, whether it works, whether it is that of a checkout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from doctor.builder.rustbpe_crate import Crate
from doctor.errors import DoctorError
from doctor.system import System

CHECK = Path(__file__).parents[1] / "payload" / "rustbpe_check.py"
CHECK_SECONDS = 60.0
"""Far more than it takes; an extension that hangs at import is an answer, too."""


def inspect(system: System, python: str, *folders: str) -> dict[str, Any]:
    """What the rustbpe of an interpreter is, as doctor/payload/rustbpe_check.py says it.

    Not by `System`, which answers a question once: here the answer changes.

    Args:
        folders: where to look before all that is installed.
    """
    try:
        done = subprocess.run(
            [python, str(CHECK), *folders],
            env=system.program_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"trouble": f"gives no answer within {CHECK_SECONDS:.0f} s"}
    except OSError as error:
        raise DoctorError(
            f"{python} cannot be started: {error.strerror}; name another one with --python."
        ) from error
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return {"trouble": f"ends the interpreter with status {done.returncode} {''.join(said)}"}
    return dict(found)


def out_of_date(found: dict[str, Any], crate: Crate) -> str | None:
    """Why what an interpreter has is not the rustbpe of a checkout; None where it is."""
    if reason := unusable(found):
        return reason
    if found["version"] != crate.version:
        return f"{found['version'] or 'another one'} is installed"
    sources = [*(crate.folder / "src").rglob("*.rs"), *crate.folder.glob("Cargo.*")]
    newest = max((file.stat().st_mtime for file in sources), default=0.0)
    if newest > os.stat(found["path"]).st_mtime:
        return "its source has changed since it was built"
    return None


def unusable(found: dict[str, Any]) -> str | None:
    """Why what an interpreter has does not serve the trainer; None where it does."""
    if found.get("trouble"):
        return f"the installed one {found['trouble']}"
    return None if found.get("path") else "it is not installed"

"""The rustbpe that an interpreter imports: what it is, whether it works, whether it is that of a checkout."""

from __future__ import annotations

import os
from typing import Any

from doctor.checkout import payload
from doctor.compile.rustbpe.crate import Crate
from doctor.errors import DoctorError, Unknown
from doctor.machine.system import System
from doctor.work.programs import ask

CHECK = payload("rustbpe_check")
CHECK_SECONDS = 60.0
"""Far more than it takes; an extension that hangs at import is an answer, too."""


def inspect(system: System, python: str, *folders: str) -> dict[str, Any]:
    """What the rustbpe of an interpreter is, as doctor/probe/payload/rustbpe_check.py says it.

    Args:
        folders: where to look before all that is installed.

    Raises:
        DoctorError: the interpreter cannot be started.
    """
    try:
        words = [python, str(CHECK), *folders]
        return dict(ask(words, env=system.program_environment(), seconds=CHECK_SECONDS))
    except Unknown as error:
        return {"trouble": f"cannot be imported: {error}"}
    except OSError as error:
        raise DoctorError(
            f"{python} cannot be started: {error.strerror}; name another one with --python."
        ) from error


def out_of_date(found: dict[str, Any], crate: Crate) -> str | None:
    """Why what an interpreter has is not the rustbpe of a checkout; None where it is."""
    if reason := unusable(found):
        return reason
    if found.get("published"):
        return "the published one is installed in its place"
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
    if len(found.get("distributions", {})) > 1:
        return f"{' and '.join(found['distributions'])} are both installed, and own the same files"
    return None if found.get("path") else "it is not installed"

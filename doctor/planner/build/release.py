"""Which release of PyTorch a build takes where none is named."""

from __future__ import annotations

from doctor.errors import DoctorError
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import parts


def newest_release(tables: Tables, python: str | None) -> str:
    """Tag of the newest PyTorch release that knows a Python.

    Args:
        python: `3.12`; None takes the newest of all.

    Raises:
        DoctorError: no release in the tables knows it.
    """
    rows = [
        row
        for row in tables.rows("torch", "release")
        if python is None or python in row["pythons"] or python in row.get("freethreaded", ())
    ]
    if not rows:
        raise DoctorError(
            f"No PyTorch release in the tables knows Python {python}; name a tag with --ref, or "
            "another Python with --python."
        )
    row = max(rows, key=lambda r: parts(r["torch"]))
    return f"v{max(row.get('versions') or [row['torch'] + '.0'], key=parts)}"

"""The version of a wheel, as PyTorch's own tools/metadata tells it to scikit-build-core."""

from __future__ import annotations

import os
from pathlib import Path


def dynamic_metadata(settings: object, project: object) -> dict[str, str]:
    """The version that is stated for this build, else that of version.txt."""
    stated = os.getenv("PYTORCH_BUILD_VERSION")
    assert not stated or os.getenv("PYTORCH_BUILD_NUMBER")
    return {"version": stated or Path("version.txt").read_text().strip()}

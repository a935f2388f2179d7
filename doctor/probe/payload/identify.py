"""What an interpreter says of itself. The examined Python runs it, so it needs nothing but Python."""

from __future__ import annotations

import json
import os
import struct
import sys
import sysconfig


def identify() -> dict[str, str | int | bool]:
    """Return the identity of the running interpreter as a dict of plain values."""
    paths = sysconfig.get_paths()
    return {
        "version": ".".join(str(part) for part in sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "bits": struct.calcsize("P") * 8,
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "base_prefix": getattr(sys, "base_prefix", sys.prefix),
        "stdlib": paths["stdlib"],
        "platstdlib": paths["platstdlib"],
        "include": paths["include"],
        "ensurepip": os.path.isdir(os.path.join(paths["stdlib"], "ensurepip", "_bundled"))
        or bool(sysconfig.get_config_var("WHEEL_PKG_DIR")),
    }


if __name__ == "__main__":
    print(json.dumps(identify()))

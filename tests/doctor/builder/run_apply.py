"""Runs apply or undo as a process of its own: tests kill it."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from doctor.errors import DoctorError
from doctor.install.apply import apply
from doctor.install.undo import undo


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    plan = pickle.loads(Path(sys.argv[1]).read_bytes())
    checkout, state = Path(sys.argv[2]), Path(sys.argv[3])
    try:
        if plan is None:
            undo(state=state, checkout=checkout, confirm=None, say=say)
        else:
            apply(plan, checkout=checkout, confirm=None, say=say)
    except DoctorError as error:
        say(f"nanochat-doctor: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

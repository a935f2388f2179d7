"""What made a command fail, by the words of pip, uv and the system."""

from __future__ import annotations

import re
from collections.abc import Sequence

CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"no space left on device|disk quota exceeded|os error 28",
        "the disk is full",
        "free space and start again",
    ),
    (
        r"do not match the hashes|hash mismatch|hashes are required|expected\s+sha256",
        "a file is not the one that the index names (its hash differs)",
        "start again, and if it stays so, use another index or mirror",
    ),
    (
        r"externally[- ]managed",
        "this Python belongs to the system, which forbids changes",
        "make an environment of your own and name it with --python",
    ),
    (
        r"read-only file system|permission denied|os error 13|os error 30",
        "something may not be written",
        "name an environment of yours with --python",
    ),
    (
        r"not a supported wheel|no wheels with a matching|not compatible with|wheels? (?:are|is) only available"
        r"|doesn't have a source distribution or wheel for the current platform",
        "no wheel there fits this Python and processor",
        "make the plan again, or name another Python with --python",
    ),
    (
        r"bad crc|not a zip file|badzipfile|invalid (?:zip|wheel)|unexpected end of file|end of central directory"
        r"|incompleteread|failed to read from zip|structure of .* was invalid"
        r"|unexpected eof|failed to extract|wheel .* is invalid|premature end|response body"
        r"|end of file before message|broken before completion",
        "a file arrived cut or damaged",
        "start again",
    ),
    (
        r"timed out|operation timed out|timeout",
        "the index did not answer in time",
        "start again, or use a mirror",
    ),
    (
        r"\b(?:500|502|503|504)\b.*(?:error|unavailable|gateway)|server error",
        "the index answered with an error of its own",
        "start again later, or use a mirror",
    ),
    (
        r"connection (?:refused|reset|aborted|error)|name resolution|resolve host|dns error|unreachable"
        r"|certificate|proxy|error sending request|newconnectionerror|network is down",
        "the index could not be reached",
        "check the network and HTTPS_PROXY, or use a mirror",
    ),
    (
        r"no matching distribution|could not find a version|no solution found|was not found in the"
        r"|no version of|resolutionimpossible",
        "the index has no such version for this environment",
        "make the plan again",
    ),
    (
        r"no module named pip",
        "the environment has no pip",
        "run its python -m ensurepip, or install uv",
    ),
)
"""Pattern, cause, cure; the first that fits counts, the surest come first."""

RULES = tuple((re.compile(pattern, re.IGNORECASE), why, cure) for pattern, why, cure in CAUSES)


def cause(lines: Sequence[str]) -> tuple[str, str] | None:
    """Cause and cure that a command's last lines tell; None where they tell none that is known."""
    text = "\n".join(lines)
    return next(((why, cure) for rule, why, cure in RULES if rule.search(text)), None)

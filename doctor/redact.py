"""Takes out of facts what names a person or a machine, so that they can be posted.

Keys are never touched. Known names (user, host, home folder) are replaced as whole words or path
parts; what has the shape of an identifier (UUID, serial number, address, secret) everywhere.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from typing import Any

from doctor.system import System

SECRET_NAMES = "token|secret|passwd|password|api[_-]?key|authorization|serial(?: number)?"

PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4,12})+", re.IGNORECASE), r"\1-…"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "…"),
    (re.compile(r"(?<=://)[^/@\s]+@"), ""),
    (re.compile(r"\b(?:hf|ghp|gho|ghs|github_pat|glpat|sk|pk|xox[a-z]|AKIA)[_-]?[\w-]{16,}"), "…"),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]+"), "…"),
    (re.compile(rf"(?i)\b({SECRET_NAMES})(\s*[=:]\s*)\S+"), r"\1\2…"),
    (re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE), "…"),
    (re.compile(r"(?<![\w:.])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}(?![\w:.])", re.IGNORECASE), "…"),
    (re.compile(r"(?<![\w:.])(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}(?![\w:.])", re.IGNORECASE), "…"),
)  # fmt: skip

ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
VERSION_KEYS = re.compile(r"version|kernel|packages|driver|cuda|libc|firmware")
"""Keys below which four numbers with points between them are a version, not an address."""

DROPPED_KEYS = frozenset({"uuid"})
HOMES = re.compile(r"/(home|Users)/[^/\s:'\"]+")
COMMON_NAMES = frozenset({"root", "user", "localhost", "ubuntu", "admin", "host", "vm"})


def redact(data: Any, system: System) -> Any:
    """The same JSON value with identifying parts replaced by `…`, `~` or a neutral name."""
    return _walk(data, _replacements(system))


def _replacements(system: System) -> list[tuple[re.Pattern[str], str]]:
    rules: list[tuple[re.Pattern[str], str]] = []
    home = system.home()
    if home and home != "/" and home.count("/") >= 2:
        rules.append((re.compile(re.escape(home.rstrip("/")) + r"(?![\w.-])"), "~"))
    names = {system.env.get("USER", ""), system.env.get("LOGNAME", "")}
    names |= {system.env.get("HOSTNAME", "")}
    if system.live:
        names.add(os.uname().nodename)
        try:
            names.add(getpass.getuser())
        except (KeyError, OSError):
            pass
    rules += [
        (re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])"), "…")
        for name in names
        if name.lower() not in COMMON_NAMES and len(name) > 2
    ]
    rules.append((HOMES, r"/\1/…"))
    rules.extend(PATTERNS)
    return rules


def _walk(value: Any, rules: list[tuple[re.Pattern[str], str]], versions: bool = False) -> Any:
    if isinstance(value, str):
        for pattern, replacement in rules:
            value = pattern.sub(replacement, value)
        return value if versions else ADDRESS.sub("…", value)
    if isinstance(value, Mapping):
        return {
            key: None
            if key in DROPPED_KEYS
            else _walk(item, rules, versions or bool(VERSION_KEYS.search(key)))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_walk(item, rules, versions) for item in value]
    return value

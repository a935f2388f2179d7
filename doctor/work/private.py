"""Hides which index the user has set: its address may hold a password, a token or a company's name."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from doctor.errors import Unknown
from doctor.knowledge.tables import Tables
from doctor.text.credentials import INDEX_VARIABLES, PRIVATE, without_secrets
from doctor.text.visible import visible


def shown(line: str, env: Mapping[str, str] = os.environ) -> str:
    """A line of pip, uv or cargo as it may be seen: no credentials, no private index, nothing that a terminal obeys."""
    line = without_secrets(line)
    for pattern, word in _rules(tuple(env.get(name, "") for name in INDEX_VARIABLES)):
        line = pattern.sub(word, line)
    return visible(line, lines=True)


@functools.cache
def _rules(values: tuple[str, ...]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Addresses below a private host, to their scheme; then the host alone, as in errors of connections."""
    public = {urlsplit(str(row["url"])).hostname for row in Tables().rows("mirrors", "endpoint")}
    hosts = {host for host in _hosts(values) if host not in public}
    found = []
    for host in sorted(map(re.escape, hosts), key=len, reverse=True):
        address = rf"(\b[\w+.-]+://){host}(?![\w.-])[^\s'\"`<>)\]]*"
        found.append((re.compile(address, re.IGNORECASE), rf"\1{PRIVATE}"))
        found.append((re.compile(rf"(?<![\w.-]){host}(?![\w.-])", re.IGNORECASE), PRIVATE))
    return tuple(found)


def _hosts(values: tuple[str, ...]) -> Iterator[str]:
    from doctor.machine.system import System
    from doctor.probe.host.host import pip_index, uv_index

    words = [word for value in values for word in value.split()]
    for ask in (pip_index, uv_index):
        try:
            words.append(ask(System()) or "")
        except Unknown:
            continue
    for word in words:
        try:
            host = urlsplit(word if "=http" not in word else word.partition("=")[2]).hostname
        except ValueError:
            continue
        if host:
            yield host

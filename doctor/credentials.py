"""Keeps tokens, passwords and private package indexes out of what is printed, written to a log or posted.

What has the shape of a secret is taken out wherever it stands. Beside that, some values of this machine are known to
be secret: variables with such a name, and the addresses of package indexes that are no public ones.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

PRIVATE = "«private»"

INDEX_VARIABLES = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX",
    "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
)  # fmt: skip

KEY_WORDS = (
    r"token|secret|passwd|password|passphrase|pwd|(?:api|access|private|account|secret|signing)[_-]?key"
    r"(?:[_-]?id)?|client[_-]?secret|credentials?|auth(?:orization)?"
)
SECRET_VARIABLE = re.compile(rf"(?:^|[_-])(?:{KEY_WORDS})(?:$|[_-])", re.IGNORECASE)
NOT_SECRET = re.compile(
    r"[\d.,:/-]*|true|false|yes|no|none|null|auto|basic|(?:/[\w.-]+)+", re.IGNORECASE
)
SHORTEST = 8
"""Letters of a value that is taken for a secret because of its name alone."""

URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://([^\s\"'<>\\,;]+)", re.IGNORECASE)

# No pattern may match a quote or a backslash: they are applied to JSON as well. Each begins with letters that are
# looked for first, so that a long text without any of them costs next to nothing.
MARKS: Mapping[str, str] = {
    "-----BEGIN ": r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----END)[^\"'])*(?:-----END [A-Z ]*PRIVATE KEY-----)?",
    **{
        mark: mark.replace(".", r"\.") + r"[\w-]{16,}"
        for mark in (
            "hf_ ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- gldt- glrt- glcbt- glptt- glft- glsoat- glimt- gloas- "
            "npm_ r8_ shpat_ dckr_pat_ dckr_oat_ AKIA ASIA ABIA AIza ya29. SG. hvs. sk-ant- sk-proj- tskey-"
        ).split()
    },
    **{mark: mark + r"[\w-]{30,}" for mark in ("pypi-", "nvapi-")},
    **{mark: mark + r"(?=[\w-]{0,64}\d)[\w-]{16,}" for mark in ("sk-", "sk_", "pk_", "rk_")},
    **{f"xox{kind}-": rf"xox{kind}-[\w-]{{10,}}" for kind in "abceoprs"},
    "eyJ": r"eyJ[\w-]{10,400}\.[\w-]+(?:\.[\w-]*)?",
    "hooks.slack.com/services/": r"hooks\.slack\.com/services/[\w/]+",
}
"""How what services give out begins -> all of it."""

LOGIN = (
    (r"://[^\s\"'<>\\/@:]{0,200}:[^\s\"'<>\\]{0,500}@", "://"),
    (r"://[^\s\"'<>\\/@]{1,200}@", "://"),
)
"""User and password of a URL, whatever signs the password has."""

BEARER = (r"[Bb](earer|asic)\s+(?=[\w.~+/-]{0,99}[\d=])[\w.~+/=-]{8,}", r"B\1 …")

LABEL = re.compile(rf"(?:{KEY_WORDS})$", re.IGNORECASE)
QUERY = re.compile(
    r"[?&#][\w.-]*(?:key|sig|signature|session|jwt|code|auth|token|secret|pass)[\w.-]*$",
    re.IGNORECASE,
)
VALUE = re.compile(
    r"[=:]\s*(?:(?:bearer|basic|token|digest|negotiate)\s+)?(?!…)"
    r"([^\s\"'\\,;=&]+(?:==?(?![^\s\"'\\,;&]))?)",
    re.IGNORECASE,
)
BEFORE = 48
"""Letters before a value in which its name stands."""

_values: set[str] = set()
_hosts: set[str] = set()


def learn(env: Mapping[str, str]) -> None:
    """Remember what the variables of an environment hold that must not be shown."""
    for name, value in env.items():
        if name in INDEX_VARIABLES:
            learn_indexes(value)
        elif (
            SECRET_VARIABLE.search(name)
            and len(value) >= SHORTEST
            and not NOT_SECRET.fullmatch(value)
        ):
            _values.update((value, json.dumps(value)[1:-1]))


def learn_indexes(text: str) -> None:
    """Remember the hosts of all package indexes in a configuration that are no public ones."""
    for scheme, rest in URL.findall(text):
        place = rest.rpartition("@")[2] if "@" in rest else rest
        host = place.partition("/")[0].partition("?")[0].lower()
        if host and scheme != "file" and not is_public(f"{scheme}://{place}"):
            _hosts.add(host)


def without_secrets(text: str) -> str:
    """A text without anything that must not be shown; JSON stays JSON."""
    for value in _values:
        if value in text:
            text = text.replace(value, "…")
    for host in _hosts:
        if host in text.lower():
            there = rf"(?<![\w.-]){re.escape(host)}(?![\w-])"
            address = rf"([a-z+]+)://(?:[^\s\"'<>\\]*@)?{there}[^\s\"'<>\\,;]*"
            text = re.sub(address, rf"\1://{PRIVATE}", text, flags=re.IGNORECASE)
            text = re.sub(there, PRIVATE, text, flags=re.IGNORECASE)
    for mark, pattern in MARKS.items():
        if mark in text:
            text = re.sub(pattern, "…", text)
    if "://" in text and "@" in text:
        for pattern, shown in LOGIN:
            text = re.sub(pattern, shown, text)
    if "earer" in text or "asic " in text:
        text = re.sub(*BEARER, text)
    return VALUE.sub(_unlabelled, text)


def _unlabelled(found: re.Match[str]) -> str:
    """What follows `PASSWORD=`, `api_key: `, `?sig=` is left out; after a colon only what looks like a secret."""
    value, start = found.group(1), found.start()
    before = found.string[max(0, start - BEFORE) : start].rstrip()
    named = LABEL.search(before) is not None
    if found.group().startswith(":"):
        sentence = not re.search(r"[a-z]", value, re.IGNORECASE) or not re.search(r"\d", value)
        hidden = named and found.group()[1:2].isspace() and len(value) >= SHORTEST and not sentence
    else:
        hidden = named or QUERY.search(before) is not None
    return found.group()[: found.start(1) - start] + "…" if hidden else found.group()


def shown_index(url: str) -> str:
    """An index as it may be shown: a public one without credentials, of any other its scheme."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return PRIVATE
    bare = f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"
    return bare if is_public(bare) else f"{scheme}://{PRIVATE}"


def is_public(url: str) -> bool:
    """Whether an address is that of a mirror in our tables, or the index that pip has built in."""
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return host in _public_hosts() or host in _default_hosts()


@functools.cache
def _public_hosts() -> frozenset[str]:
    from doctor.tables import data_folder

    text = "".join((data_folder() / f"{t}.toml").read_text("utf-8") for t in ("mirrors", "torch"))
    return frozenset(urlsplit(f"x://{rest}").hostname or "" for _, rest in URL.findall(text))


@functools.cache
def _default_hosts() -> frozenset[str]:
    from doctor.index_address import built_in

    url = built_in()
    return frozenset({urlsplit(url).hostname or ""} if url else ())

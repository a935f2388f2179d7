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

URL = re.compile(r"\b([a-z][a-z0-9+.-]{0,30})://([^\s\"'<>\\,;]+)", re.IGNORECASE)

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
    **{f"xox{kind}-": rf"xox{kind}-[\w-]{{10,}}" for kind in "abceoprs"},
    "hooks.slack.com/services/": r"hooks\.slack\.com/services/[\w/]+",
}
"""How what services give out begins -> all of it."""

UNSURE: Mapping[str, tuple[str, str]] = {
    **{mark: (mark + r"[\w-]{16,}", r"\d") for mark in ("sk-", "sk_", "pk_", "rk_")},
    "eyJ": (r"eyJ[\w-]{10,}(?:\.[\w-]+(?:\.[\w-]*)?)?", r"\."),
}
"""The same of beginnings that words have, too; and what there is in a secret that is in no word."""

# A text of megabytes that was made to keep us busy must take no longer than any other: what follows reads every letter
# a few times, and never begins again for each of them.
WORD = re.compile(r"[^\s\"'<>\\]+")
LOGIN = re.compile(r"://[^/@:]*[@:]")
"""The user of a URL; after a colon comes a password, whatever signs it has."""

PASSWORD = 4096
"""Letters that one has at most; tokens of clouds have two thousand."""

BEARER = (r"[Bb](earer|asic)\s+(?=[\w.~+/-]{0,99}[\d=])[\w.~+/=-]{8,}", r"B\1 …")

LABEL = re.compile(rf"(?:{KEY_WORDS})$", re.IGNORECASE)
ENDINGS = (
    "token", "secret", "passwd", "password", "passphrase", "pwd", "key", "id", "credential", "credentials", "auth",
    "authorization",
)  # fmt: skip
"""Of `KEY_WORDS`: where none is, the pattern is not asked."""

LONGEST = 16
"""Letters of a key word."""

PARAMETER = re.compile(r"[\w.-]+")
SECRET_PARAMETER = re.compile(r"key|sig|session|jwt|code|auth|token|secret|pass", re.IGNORECASE)
IN_LABELS = (*SECRET_PARAMETER.pattern.split("|"), "pwd", "credential")
"""One of them is in every label; most texts have none."""
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
    if "://" in text and "@" in text:
        text = WORD.sub(_without_login, text)
    lower = text.lower()
    for host in _hosts:
        if host in lower:
            there = rf"(?<![\w.-]){re.escape(host)}(?![\w-])"
            address = rf"(?<=://){there}[^\s\"'<>\\,;]*"
            text = re.sub(address, PRIVATE, text, flags=re.IGNORECASE)
            text = re.sub(there, PRIVATE, text, flags=re.IGNORECASE)
    for mark, pattern in MARKS.items():
        if mark in text:
            text = re.sub(pattern, "…", text)
    for mark, (pattern, proof) in UNSURE.items():
        if mark in text:
            text = re.sub(pattern, functools.partial(_if_it_has, proof), text)
    if "earer" in text or "asic " in text:
        text = re.sub(*BEARER, text)
    return VALUE.sub(_unlabelled, text) if any(word in lower for word in IN_LABELS) else text


def _if_it_has(proof: str, found: re.Match[str]) -> str:
    return "…" if re.search(proof, found.group()) else found.group()


def _without_login(found: re.Match[str]) -> str:
    """A word without user and password of the addresses in it; a password ends at the last `@`."""
    word, kept, at = found.group(), [], 0
    if "://" not in word or "@" not in word:
        return word
    while login := LOGIN.search(word, at):
        end = login.end()
        if word[end - 1] == ":":
            end = word.rfind("@", end, end + PASSWORD) + 1 or end - 1
            cut = word[end - 1] == "@"
        else:
            cut = end - login.start() > len("://@")
        kept.append(word[at : login.start() + len("://")] if cut else word[at:end])
        at = end
    return "".join(kept) + word[at:]


def _unlabelled(found: re.Match[str]) -> str:
    """What follows `PASSWORD=`, `api_key: `, `?sig=` is left out; after a colon only what looks like a secret."""
    text, start = found.group(), found.start()
    before = found.string[max(0, start - BEFORE) : start].rstrip()
    if text[0] == ":":
        hidden = text[1:2].isspace() and _is_label(before) and _looks_secret(found.group(1))
    else:
        hidden = _is_label(before) or _is_secret_parameter(before)
    return text[: found.start(1) - start] + "…" if hidden else text


def _is_label(before: str) -> bool:
    tail = before[-LONGEST:]
    return tail.lower().endswith(ENDINGS) and LABEL.search(tail) is not None


def _is_secret_parameter(before: str) -> bool:
    """Whether a text ends with the name of a parameter of a URL that has a secret."""
    name = before[max(before.rfind("?"), before.rfind("&"), before.rfind("#")) + 1 :]
    return (
        name != before
        and PARAMETER.fullmatch(name) is not None
        and SECRET_PARAMETER.search(name) is not None
    )


def _looks_secret(value: str) -> bool:
    """Whether it is no word of a sentence."""
    has_letter = re.search(r"[a-z]", value, re.IGNORECASE) is not None
    return len(value) >= SHORTEST and has_letter and re.search(r"\d", value) is not None


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
    from doctor.checkout import data_folder

    text = "".join((data_folder() / f"{t}.toml").read_text("utf-8") for t in ("mirrors", "torch"))
    return frozenset(urlsplit(f"x://{rest}").hostname or "" for _, rest in URL.findall(text))


@functools.cache
def _default_hosts() -> frozenset[str]:
    from doctor.text.built_in_index import built_in

    url = built_in()
    return frozenset({urlsplit(url).hostname or ""} if url else ())

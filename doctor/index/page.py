"""What a page of a package index says: files of a project, and which of them fit a machine. Pure functions of text.

Two formats are read, HTML (PEP 503) and JSON (PEP 691, sizes by PEP 700); a plain listing of a folder, which some
mirrors serve instead, is HTML with links, too. Yanked files and files with broken names are left out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from doctor.errors import Unknown
from doctor.knowledge.versions import parts

if TYPE_CHECKING:
    from packaging.tags import Tag
    from packaging.version import Version

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
ACCEPT = f"{JSON_TYPE}, {HTML_TYPE};q=0.5, text/html;q=0.3"
"""JSON has the sizes; everything that serves pages knows text/html."""

CPU_ARCHS = {
    "x86_64": re.compile(r"(?:manylinux\w*|linux)_x86_64"),
    "aarch64": re.compile(r"(?:manylinux\w*|linux)_aarch64"),
    "arm64-macos": re.compile(r"macosx_\d+_\d+_(?:arm64|universal2)"),
}
"""Processor, by its name in build/torch.toml -> platform tags of the wheels that it runs."""

OLD_MANYLINUX = {"1": "2.5", "2010": "2.12", "2014": "2.17"}
"""Platform tags by year -> glibc (PEP 600)."""

CPU_NAMES = {"arm64": "arm64-macos", "amd64": "x86_64"}


@dataclass(frozen=True)
class File:
    """A wheel as an index lists it.

    Attributes:
        requires_python: a specifier, `>=3.10`; "" where the index says nothing.
        size: bytes; only JSON says it.
    """

    name: str
    requires_python: str = ""
    size: int | None = None


@dataclass(frozen=True)
class Fit:
    """A wheel that fits: its version, the Python and processor that it fits, the glibc that it needs."""

    version: Version
    python: str
    cpu_arch: str
    glibc: str | None = None


def read_page(body: bytes, content_type: str, project: str) -> list[File]:
    """The wheels of a project on its page.

    Args:
        content_type: of the answer, with its parameters.
        project: normalised name, `torch`; links to other projects' files are passed over.

    Raises:
        Unknown: it is no page of an index, or one of a version of the protocol that is not known.
    """
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind == JSON_TYPE:
        return _wheels(_read_json(body), project)
    if kind not in (HTML_TYPE, "text/html"):
        raise Unknown(f"the answer is {kind or 'of no type'}, not a package index")
    charset = re.search(r"charset=[\"']?([\w-]+)", parameters)
    try:
        text = body.decode(charset.group(1) if charset else "utf-8", "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    return _read_html(text, project)


def _wheels(files: Iterable[File], project: str) -> list[File]:
    prefix = f"{project}-"
    return [f for f in files if f.name.startswith(prefix) and f.name.endswith(".whl")]


def _check_version(version: object) -> None:
    """Version 1.x of the protocol may grow fields; 2 could mean anything (PEP 629)."""
    if isinstance(version, str) and re.match(r"\d", version) and not version.startswith("1."):
        raise Unknown(
            f"the index speaks version {version[:20]} of its protocol, which is not known"
        )


# --- JSON ------------------------------------------------------------------------------------


def _read_json(body: bytes) -> list[File]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Unknown("the answer is no valid JSON") from None
    if not isinstance(data, dict) or not isinstance(data.get("files"), list):
        raise Unknown("the answer is JSON, but lists no files")
    meta = data.get("meta")
    _check_version(meta.get("api-version") if isinstance(meta, dict) else None)
    return [
        File(item["filename"], _text(item.get("requires-python")), _size(item.get("size")))
        for item in data["files"]
        if isinstance(item, dict)
        and isinstance(item.get("filename"), str)
        and not item.get("yanked")
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _size(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


# --- HTML ------------------------------------------------------------------------------------


class _Links(HTMLParser):
    """Collects the attributes of links, and the version of the protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[dict[str, str | None]] = []
        self.version: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links.append(dict(attrs))
        elif tag == "meta" and ("name", "pypi:repository-version") in attrs:
            self.version = dict(attrs).get("content")


def _read_html(text: str, project: str) -> list[File]:
    page = _Links()
    page.feed(text)
    page.close()
    _check_version(page.version)
    named = [(name, link) for link in page.links if (name := _file_name(link.get("href") or ""))]
    # Log-in pages of hotels and companies are HTML with status 200, too. JSON may say "no files"; HTML must show one.
    if not any(name.startswith(f"{project}-") for name, _ in named):
        raise Unknown(f"the page lists no file of {project}")
    files = (
        File(name, link.get("data-requires-python") or "")
        for name, link in named
        if "data-yanked" not in link  # its value is a reason, and may be empty
    )
    return _wheels(files, project)


def _file_name(href: str) -> str:
    """The text of a link may be shortened, its address never is: `…/torch-2.9.1%2Bcu128-….whl#sha256=…`."""
    try:
        path = urlsplit(href.strip()).path
    except ValueError:
        return ""
    return unquote(path.rpartition("/")[2])


# --- what fits -------------------------------------------------------------------------------


def fits(file: File, python: str | None, cpu_arch: str | None) -> list[Fit]:
    """The Pythons and processors among those asked for that a wheel fits; empty for a broken name.

    Args:
        python: `3.12`, `3.13t`; None asks for all, and passes over wheels that name none.
        cpu_arch: as in build/torch.toml, or as uname says it; None asks for all that are known there.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        _, version, _, tags = parse_wheel_filename(file.name)
    except (InvalidWheelFilename, ValueError):
        return []
    found: dict[tuple[str, str], list[str]] = {}
    for tag in sorted(tags, key=str):
        fitting = _python(tag, python)
        if fitting is None or not allowed(file.requires_python, fitting):
            continue
        for arch in _archs(tag.platform, cpu_arch):
            found.setdefault((fitting, arch), []).append(_glibc(tag.platform))
    # A wheel with several tags runs where the least of them is met.
    return [Fit(version, *key, min(floors, key=parts) or None) for key, floors in found.items()]


def _glibc(platform: str) -> str:
    """Lowest glibc of a platform tag, `manylinux_2_28_x86_64` -> `2.28`; "" where it tells none."""
    match = re.match(r"manylinux(?:_(\d+)_(\d+)|(\d+))_", platform)
    if match is None:
        return ""
    return OLD_MANYLINUX.get(match[3], "") if match[3] else f"{match[1]}.{match[2]}"


def _archs(platform: str, cpu_arch: str | None) -> Collection[str]:
    wanted = CPU_ARCHS if cpu_arch is None else (CPU_NAMES.get(cpu_arch, cpu_arch),)
    if platform == "any":
        return tuple(wanted)
    return [arch for arch in wanted if arch in CPU_ARCHS and CPU_ARCHS[arch].fullmatch(platform)]


def _python(tag: Tag, python: str | None) -> str | None:
    """The Python that a tag fits: the one asked for, or else the one that it is made for."""
    if python is not None:
        return python if (tag.interpreter, tag.abi) in _supported(python) else None
    made_for = re.fullmatch(r"cp(\d)(\d+)", tag.interpreter)
    if made_for is None or tag.abi not in (tag.interpreter, f"{tag.interpreter}t", "none"):
        return None
    threads = "t" if tag.abi.endswith("t") else ""
    return f"{made_for[1]}.{made_for[2]}{threads}"


@functools.lru_cache(maxsize=8)
def _supported(python: str) -> frozenset[tuple[str, str]]:
    """Pairs of interpreter and ABI that CPython installs; empty for a version that is none."""
    from packaging.tags import compatible_tags, cpython_tags

    match = re.fullmatch(r"(\d+)\.(\d+)(t?)", python)
    if match is None:
        return frozenset()
    version = (int(match[1]), int(match[2]))
    interpreter = f"cp{match[1]}{match[2]}"
    abi = interpreter + match[3]
    tags = [
        *cpython_tags(version, abis=[abi], platforms=["any"]),
        *compatible_tags(version, interpreter=interpreter, platforms=["any"]),
    ]
    return frozenset((tag.interpreter, tag.abi) for tag in tags)


@functools.lru_cache(maxsize=256)
def allowed(requires_python: str, python: str) -> bool:
    """Whether a project admits some patch release of a Python; a specifier that is none admits all, as with pip."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        wanted = SpecifierSet(requires_python)
    except InvalidSpecifier:
        return True
    minor = python.rstrip("t")
    return any(wanted.contains(f"{minor}.{patch}", prereleases=True) for patch in (0, 99))

"""Holds the proven torch in place: what pip and uv are told not to replace. Whether something did is a fact that
`doctor.probe.torch.installed` reads.

pip reads `pip.conf` of the environment, uv reads `uv.toml` of the folder it is called in. Both get a
block of ours between two marks; the rest belongs to the user and comes back byte for byte, whatever its
encoding and line ends. A file that is a link, or has other names, serves others too and is left alone.
What neither covers: uv called outside of the checkout, `uv sync` (it obeys its lock file alone), other installers.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from doctor.environment import requirements
from doctor.environment.place import FOLDER, Place
from doctor.errors import DoctorError
from doctor.machine.pyenv import PythonEnvironment, normalised
from doctor.work import files

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "constraints.txt"
PINNED = ("torch", "torch-npu", "triton", "pytorch-triton")
"""Always held in place; so is all that torch itself asks for in one version only (nvidia-*)."""

OPEN = "# >>> nanochat-doctor: holds torch in place; apply writes this, apply --undo takes it away"
CLOSE = "# <<< nanochat-doctor"
WHOLE, BROKE = " (this file is new)", " (the line end before this is new)"
"""Said behind `OPEN` where taking the block away has to take more with it."""

BLOCK = re.compile(
    rf"(?P<gap>(?:\r?\n)?)^# >>> nanochat-doctor:[^\r\n]*?(?P<broke>{re.escape(BROKE)})?(?P<end>\r?)$"
    r".*?^# <<< nanochat-doctor(?:\r?\n|\r?$)",
    re.DOTALL | re.MULTILINE,
)

VERSION = re.compile(r"[\w.+!-]+")
"""Any other would not stay within its line, and no installer has made it."""

Editor = Callable[[str], str]


def read(prefix: Path, state: Path | None = None) -> dict[str, str]:
    """Distribution -> version of what is pinned in an environment; empty where nothing is."""
    text = files.read((state or prefix / FOLDER) / NAME) or ""
    pairs = (line.split("==", 1) for line in text.splitlines() if "==" in line and line[0] != "#")
    return {normalised(name.strip()): version.strip() for name, version in pairs}


def wanted(target: Place) -> dict[str, str]:
    """What to pin: torch, its companions, and what torch needs in exactly one version.

    Some of it torch asks for through another's extras: `cuda-toolkit[cublas,cudart]==13.0.2`.
    """
    installed = target.installed()
    names = set(PINNED)
    if "torch" in installed:
        environment = target.environment()
        own = list(_exact(environment, "torch"))
        through = [
            inner for r in own for inner in _exact(environment, r.name, r.extras) if r.extras
        ]
        names.update(normalised(requirement.name) for requirement in (*own, *through))
    versions = {name: installed[name].version for name in sorted(names & installed.keys())}
    return {name: version for name, version in versions.items() if VERSION.fullmatch(version)}


def _exact(
    environment: PythonEnvironment, name: str, extras: Iterable[str] = ()
) -> Iterator[Requirement]:
    """What a package asks for in one version only."""
    for requirement in requirements.needs(environment, name, extras):
        if any(spec.operator in ("==", "===") for spec in requirement.specifier):
            yield requirement


def hold(target: Place, versions: Mapping[str, str]) -> list[str]:
    """Pin these versions and no others; returns sentences about what could not be done.

    Raises:
        DoctorError: the constraints file cannot be written.
    """
    if not versions:
        lift(target)
        return []
    constraints = target.state / NAME
    lines = "".join(f"{name}=={version}\n" for name, version in versions.items())
    text = f"# Written by nanochat-doctor apply.\n{lines}"
    if files.read(constraints) != text:
        files.write(constraints, text)
    dependencies = [f'    "{name}=={version}",' for name, version in versions.items()]
    notes = [_edit(target.prefix / "pip.conf", lambda text: _pip_block(text, constraints))]
    if _is_in_checkout(target):
        uv = target.checkout / "uv.toml"
        notes.append(_edit(uv, lambda text: _uv_block(text, dependencies, target)))
    return [note for note in notes if note]


def _is_in_checkout(target: Place) -> bool:
    """uv reads a folder's settings, whatever environment it installs into: only the checkout's own is held by them."""
    places = (target.prefix, target.prefix.resolve())  # .venv may be a link to a larger disk
    return any(place.is_relative_to(target.checkout.resolve()) for place in places) or (
        target.prefix.is_relative_to(target.checkout)
    )


def lift(target: Place) -> None:
    """Take the pins away, in order to replace what they hold.

    Raises:
        DoctorError: a file cannot be written.
    """
    paths = [target.prefix / "pip.conf"]
    paths += [target.checkout / "uv.toml"] if _is_in_checkout(target) else []
    for path in paths:
        # a file that has become a link since has our block where it leads
        if note := _edit(path.resolve(), lambda text: text):
            raise DoctorError(note)
    files.remove(target.state / NAME)


def without(versions: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The pins but for some."""
    return {name: version for name, version in versions.items() if name not in names}


class _OwnSettings(Exception):
    """A user's file that has no place for our block; the text says why, and what to do."""


def _edit(path: Path, editor: Editor) -> str | None:
    """Take our block out of a file and let `editor` put one in; a reason where it cannot be done."""
    try:
        data = files.read_bytes(path)
        # any byte comes back as it was, whatever the encoding
        before = None if data is None else data.decode("utf-8", "surrogateescape")
        text = BLOCK.sub(_left, before or "")
        is_new = not text and (before is None or f"{OPEN}{WHOLE}" in before)
        after: str | None = editor(text)
        if after == text:
            after = None if is_new else text
        elif after is not None:
            _require_own(path)
            after = after.replace(OPEN, OPEN + WHOLE) if is_new else after
        if after == before:
            return None
        if after is None:
            files.remove(path)
        else:
            files.write(path, after)
    except _OwnSettings as reason:
        return f"{path} is left as it is: {reason}"
    except DoctorError as error:
        return str(error)
    return None


def _left(block: re.Match[str]) -> str:
    """What stays of the line end before a block, and the block."""
    gap = block["gap"]
    return gap[: -len(f"{block['end']}\n")] if block["broke"] else gap


def _require_own(path: Path) -> None:
    """Refuse a file that others read under another name."""
    try:
        found = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise _OwnSettings(
            f"it is a link to {path.resolve()}, which may serve others; make it a file of its own to have torch held"
        )
    if found.st_nlink > 1:
        raise _OwnSettings("it has other names, too; make it a file of its own to have torch held")


def _pip_block(text: str, constraints: Path) -> str:
    import configparser  # here: `check` only reads

    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise _OwnSettings(f"it cannot be read ({_one_line(error)})") from None
    url = constraints.absolute().as_uri()
    if any(parser.has_option(section, "constraint") for section in ("global", "install")):
        raise _OwnSettings(
            f"it has a constraint already; add {url} to it, so that pip leaves torch in place"
        )
    section = re.search(r"(?m)^\[install\].*\n?", text) if parser.has_section("install") else None
    head = [] if section else ["[install]"]
    return _put(text, section.end() if section else len(text), [*head, f"constraint = {url}"])


def _put(text: str, at: int, lines: Sequence[str]) -> str:
    """The text with a block of ours, in the line ends that it has."""
    end = "\r\n" if "\r\n" in text else "\n"
    broke = text[:at] != "" and not text[:at].endswith("\n")
    block = end.join([OPEN + (BROKE if broke else ""), *lines, CLOSE, ""])
    return text[:at] + (end if broke else "") + block + text[at:]


def _uv_block(text: str, dependencies: Sequence[str], target: Place) -> str:
    project = files.read(target.checkout / "pyproject.toml")
    if project is None:
        raise _OwnSettings("there is no project beside it")
    try:
        own = files.parse_toml(text)
        hidden = not text.strip() and "uv" in files.parse_toml(project).get("tool", {})
    except ValueError as error:
        raise _OwnSettings(f"it cannot be read ({_one_line(error)})") from None
    if hidden:
        raise _OwnSettings(
            "it would hide [tool.uv] of pyproject.toml; add constraint-dependencies there"
        )
    if "constraint-dependencies" in own:
        raise _OwnSettings(
            f"it has constraint-dependencies already; add the lines of {target.state / NAME} to them"
        )
    # keys stand before the first table; a URL is one line, whatever the folder is called
    lines = [
        f"# for {target.prefix.absolute().as_uri()}",
        "constraint-dependencies = [",
        *dependencies,
        "]",
    ]
    return _put(text, 0, lines)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

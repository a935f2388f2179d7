"""Holds the proven torch in place: what pip and uv are told not to replace. Whether something did is a fact that
`doctor.probe.torch_install` reads.

pip reads `pip.conf` of the environment, uv reads `uv.toml` of the folder it is called in. Both get a
block of ours between two marks; the rest belongs to the user and stays byte for byte. What neither
covers: uv called outside of the checkout, `uv sync` (it obeys its lock file alone), other installers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from doctor.builder import files
from doctor.builder.place import FOLDER, Target
from doctor.errors import DoctorError
from doctor.pyenv import normalised

NAME = "constraints.txt"
PINNED = ("torch", "torch-npu", "triton", "pytorch-triton")
"""Always held in place; so is all that torch itself asks for in one version only (nvidia-*)."""

OPEN = "# >>> nanochat-doctor: holds torch in place; apply writes this, apply --undo takes it away"
CLOSE = "# <<< nanochat-doctor"
BLOCK = re.compile(r"^# >>> nanochat-doctor:.*?^# <<< nanochat-doctor\n?", re.DOTALL | re.MULTILINE)

Editor = Callable[[str], str]


def read(prefix: Path, state: Path | None = None) -> dict[str, str]:
    """Distribution -> version of what is pinned in an environment; empty where nothing is."""
    text = files.read((state or prefix / FOLDER) / NAME) or ""
    pairs = (line.split("==", 1) for line in text.splitlines() if "==" in line and line[0] != "#")
    return {normalised(name.strip()): version.strip() for name, version in pairs}


def wanted(target: Target) -> dict[str, str]:
    """What to pin: torch, its companions, and what torch needs in exactly one version."""
    from packaging.requirements import InvalidRequirement, Requirement

    installed = target.installed()
    names = set(PINNED)
    for line in target.environment().requirements("torch") if "torch" in installed else ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if any(spec.operator in ("==", "===") for spec in requirement.specifier):
            names.add(normalised(requirement.name))
    return {name: installed[name].version for name in sorted(names & installed.keys())}


def hold(target: Target, versions: Mapping[str, str]) -> list[str]:
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
    dependencies = "".join(f'    "{name}=={version}",\n' for name, version in versions.items())
    notes = [_edit(target.prefix / "pip.conf", lambda text: _pip_block(text, constraints))]
    if _is_in_checkout(target):
        uv = target.checkout / "uv.toml"
        notes.append(_edit(uv, lambda text: _uv_block(text, dependencies, target)))
    return [note for note in notes if note]


def _is_in_checkout(target: Target) -> bool:
    """uv reads a folder's settings, whatever environment it installs into: only the checkout's own is held by them."""
    return target.prefix.resolve().is_relative_to(target.checkout.resolve())


def lift(target: Target) -> None:
    """Take the pins away, in order to replace what they hold.

    Raises:
        DoctorError: a file cannot be written.
    """
    paths = [target.prefix / "pip.conf"]
    paths += [target.checkout / "uv.toml"] if _is_in_checkout(target) else []
    for path in paths:
        if note := _edit(path, lambda text: text):
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
        before = files.read(path)
        after = editor(BLOCK.sub("", before or ""))
        if after == (before or ""):
            return None
        if after:
            files.write(path, after)
        else:
            files.remove(path)
    except _OwnSettings as reason:
        return f"{path} is left as it is: {reason}"
    except DoctorError as error:
        return str(error)
    return None


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
    block = f"{OPEN}\n{{}}constraint = {url}\n{CLOSE}\n"
    if parser.has_section("install"):
        return re.sub(
            r"(?m)^\[install\].*\n?",
            lambda m: m[0].rstrip("\n") + f"\n{block.format('')}",
            text,
            count=1,
        )
    gap = "" if not text or text.endswith("\n") else "\n"
    return text + gap + block.format("[install]\n")


def _uv_block(text: str, dependencies: str, target: Target) -> str:
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
    # keys stand before the first table
    block = (
        f"{OPEN}\n# for {target.prefix}\nconstraint-dependencies = [\n{dependencies}]\n{CLOSE}\n"
    )
    return block + text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

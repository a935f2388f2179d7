"""A Python environment as its files tell: what an import would find, without running anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser

from doctor.errors import Unknown
from doctor.system import System

EXTENSION = re.compile(r"\.(?:cpython-(?P<number>\d+)(?P<thread>t?)|abi3|(?P<bare>so$))")
EDITABLE_FINDER = re.compile(r"^MAPPING[^=]*=\s*(\{.*\})", re.MULTILINE)


@dataclass(frozen=True)
class Module:
    """What an import of a name would take.

    Attributes:
        path: the package's folder, or the module's file.
        entry: the entry of the import path that it was found under.
        kind: `package`, `file`, `extension`, `namespace` (a folder without `__init__.py`).
    """

    path: str
    entry: str
    kind: str


@dataclass(frozen=True)
class Distribution:
    """An installed distribution: normalised name, version, and its metadata folder."""

    name: str
    version: str
    folder: str
    site: str


class PythonEnvironment:
    """Import path and distributions of one interpreter.

    Args:
        system: the machine.
        minor: `3.12`.
        stdlib: folders of the standard library, looked through before `sites`.
        sites: site-packages and their like, whose .pth files count.
    """

    def __init__(
        self, system: System, minor: str, stdlib: Sequence[str], sites: Sequence[str]
    ) -> None:
        self.system = system
        self.minor = minor
        self.sites = [site for site in dict.fromkeys(sites) if system.is_dir(site)]
        self.python_path = [e for e in system.list_variable("PYTHONPATH") if system.exists(e)]
        self.editable: dict[str, str] = {}
        extra = [line for site in self.sites for line in self._path_lines(site)]
        self.import_path = tuple(dict.fromkeys([*self.python_path, *stdlib, *self.sites, *extra]))
        self._distributions: dict[str, Distribution] | None = None

    def _path_lines(self, site: str) -> list[str]:
        """Folders that a site's .pth files add; editable installs by import hook are noted."""
        found = []
        for path in self.system.glob(site, suffix=".pth"):
            try:
                text = self.system.text(path, 1 << 16) or ""
            except Unknown:
                continue
            for line in text.splitlines():
                if line.startswith(("import ", "import\t")):
                    self._note_editable(site, line)
                elif line.strip() and not line.startswith("#"):
                    target = line.strip()
                    folder = target if target.startswith("/") else f"{site}/{target}"
                    if self.system.is_dir(folder):
                        found.append(folder)
        return found

    def _note_editable(self, site: str, line: str) -> None:
        """Read the mapping of setuptools' `__editable___NAME_finder` modules."""
        match = re.match(r"import\s+(__editable___\w+_finder)\b", line)
        text = self.system.text(f"{site}/{match.group(1)}.py", 1 << 18) if match else None
        mapping = EDITABLE_FINDER.search(text) if text else None
        if mapping:
            try:
                table = ast.literal_eval(mapping.group(1))
            except (ValueError, SyntaxError):
                return
            self.editable.update({str(k): str(v) for k, v in dict(table).items()})

    def find_module(self, name: str, first: Sequence[str] = ()) -> Module | None:
        """What `import name` would take, with some folders looked at before all others."""
        namespace: Module | None = None
        for entry in (*first, *self.import_path):
            found = self._in_folder(entry, name)
            if found is not None and found.kind != "namespace":
                return found
            namespace = namespace or found
        if name in self.editable:
            path = self.editable[name]
            if self.system.exists(path):
                return Module(path, path.rsplit("/", 1)[0], "package")
        return namespace

    def _in_folder(self, folder: str, name: str) -> Module | None:
        base = f"{folder.rstrip('/')}/{name}"
        if self.system.is_dir(base):
            if self.system.is_file(f"{base}/__init__.py"):
                return Module(base, folder, "package")
            if any(n.startswith("__init__.") for n in self._names(base)):
                return Module(base, folder, "package")
        for file in self._names(folder):
            if file.startswith(f"{name}.") and EXTENSION.search(file) and file.endswith(".so"):
                return Module(f"{folder}/{file}", folder, "extension")
        if self.system.is_file(f"{base}.py"):
            return Module(f"{base}.py", folder, "file")
        if self.system.is_dir(base):
            return Module(base, folder, "namespace")
        return None

    def _names(self, folder: str) -> list[str]:
        try:
            return self.system.names(folder)
        except Unknown:
            return []

    def distributions(self) -> dict[str, Distribution]:
        """Normalised name -> distribution; the first on the import path counts."""
        if self._distributions is None:
            found: dict[str, Distribution] = {}
            for site in self.import_path:
                for name in self._names(site):
                    stem, _, kind = name.rpartition(".")
                    if kind in ("dist-info", "egg-info") and "-" in stem:
                        raw, _, version = stem.partition("-")
                        version = version.split("-py", 1)[0]
                        item = Distribution(normalised(raw), version, f"{site}/{name}", site)
                        found.setdefault(item.name, item)
            self._distributions = found
        return self._distributions

    def version(self, name: str) -> str | None:
        """Version of an installed distribution."""
        item = self.distributions().get(normalised(name))
        return None if item is None else item.version

    def requirements(self, name: str) -> list[str]:
        """`Requires-Dist` lines of an installed distribution.

        Raises:
            Unknown: its metadata is unreadable.
        """
        item = self.distributions().get(normalised(name))
        if item is None:
            return []
        text = self.system.text(f"{item.folder}/METADATA") or ""
        return HeaderParser().parsestr(text).get_all("Requires-Dist", [])


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def python_tags(file_names: Sequence[str]) -> tuple[str, ...]:
    """Interpreters that extension modules were built for: `cp312`, `cp313t`, `abi3`."""
    tags = []
    for name in file_names:
        match = EXTENSION.search(name)
        if match and match["number"]:
            tags.append(f"cp{match['number']}{match['thread']}")
        elif match and ".abi3." in name:
            tags.append("abi3")
    return tuple(sorted(set(tags)))

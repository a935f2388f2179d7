"""A Python environment as its files tell: what an import would find, without running anything."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from doctor.errors import Unknown
from doctor.machine.system import System

EXTENSION = re.compile(
    r"^(?P<module>[^.]+)\.(?:cpython-(?P<number>\d+)(?P<thread>t?)(?:-[^.]*)?\.|(?P<abi3>abi3)\.)?so$"
)
REQUIREMENT = 2000
"""Letters of a requirement; what is longer is none."""

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
        self._listings: dict[str, list[str]] = {}
        with_lines = [path for site in self.sites for path in (site, *self._path_lines(site))]
        self.import_path = tuple(dict.fromkeys([*self.python_path, *stdlib, *with_lines]))
        self._distributions: dict[str, Distribution] | None = None

    def _path_lines(self, site: str) -> list[str]:
        """What a site's .pth files add; editable installs by import hook are noted."""
        found = []
        for name in self._names(site):
            if not name.endswith(".pth"):
                continue
            try:
                text = self.system.text(f"{site}/{name}", 1 << 16) or ""
            except Unknown:
                continue
            for line in text.splitlines():
                if line.startswith(("import ", "import\t")):
                    self._note_editable(site, line)
                elif line.strip() and not line.startswith("#"):
                    target = posixpath.normpath(posixpath.join(site, line.strip()))
                    if self.system.exists(target):
                        found.append(target)
        return found

    def _note_editable(self, site: str, line: str) -> None:
        """Read the mapping of setuptools' `__editable___NAME_finder` modules."""
        match = re.match(r"import\s+(__editable___\w+_finder)\b", line)
        if match is None:
            return
        from ast import literal_eval  # seldom needed, and a millisecond to import

        try:
            text = self.system.text(f"{site}/{match.group(1)}.py", 1 << 18)
            mapping = EDITABLE_FINDER.search(text) if text else None
            table = literal_eval(mapping.group(1)) if mapping else {}
        except (Unknown, ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return
        if isinstance(table, dict):
            self.editable.update({str(key): str(value) for key, value in table.items()})

    def find_module(self, name: str, first: Sequence[str] = ()) -> Module | None:
        """What `import name` would take, with some folders looked at before all others."""
        namespace: Module | None = None
        for entry in (*first, *self.import_path):
            found = self._in_folder(entry, name)
            if found is not None and found.kind != "namespace":
                return found
            namespace = namespace or found
        # setuptools' hook stands behind the path, so that even a namespace folder comes first
        return namespace or self._editable(name) or self._foreign(name, first)

    def _foreign(self, name: str, first: Sequence[str]) -> Module | None:
        """An extension made for another interpreter: no import takes it, and that is worth telling."""
        for entry in (*first, *self.import_path):
            for file in self._names(entry):
                match = EXTENSION.match(file) if file.startswith(name) else None
                if match and match["module"] == name:
                    return Module(f"{entry}/{file}", entry, "extension")
        return None

    def _editable(self, name: str) -> Module | None:
        if name not in self.editable:
            return None
        path = self.editable[name]
        for place, kind in ((path, "package"), (f"{path}.py", "file")):
            if self.system.exists(place):
                return Module(place, place.rsplit("/", 1)[0], kind)
        return None

    def _in_folder(self, folder: str, name: str) -> Module | None:
        """The order of Python's FileFinder: package, extension, source file, namespace."""
        names = self._names(folder)
        base = f"{folder.rstrip('/')}/{name}"
        is_folder = name in names and self.system.is_dir(base)
        if is_folder:
            inside = self._names(base)
            if "__init__.py" in inside or any(self._loads(n, "__init__") for n in inside):
                return Module(base, folder, "package")
        for file in names:
            if file.startswith(name) and self._loads(file, name):
                return Module(f"{folder}/{file}", folder, "extension")
        if f"{name}.py" in names:
            return Module(f"{base}.py", folder, "file")
        return Module(base, folder, "namespace") if is_folder else None

    def _loads(self, file: str, module: str) -> bool:
        """Whether this interpreter takes a file for that extension module."""
        match = EXTENSION.match(file)
        if match is None or match["module"] != module:
            return False
        return match["number"] in (None, self.minor.replace(".", ""))

    def _names(self, folder: str) -> list[str]:
        """Names in a folder, read once."""
        if folder not in self._listings:
            try:
                self._listings[folder] = self.system.names(folder)
            except Unknown:
                self._listings[folder] = []
        return self._listings[folder]

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
        head = text.replace("\r\n", "\n").partition("\n\n")[0]
        fields = (line.partition(":") for line in head.splitlines())
        found = (value.strip() for key, _, value in fields if key.lower() == "requires-dist")
        return [line for line in found if len(line) <= REQUIREMENT]


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def python_tags(file_names: Sequence[str]) -> tuple[str, ...]:
    """Interpreters that extension modules were built for: `cp312`, `cp313t`, `abi3`."""
    tags = set()
    for name in file_names:
        match = EXTENSION.match(name)
        if match and match["number"]:
            tags.add(f"cp{match['number']}{match['thread']}")
        elif match and match["abi3"]:
            tags.add("abi3")
    return tuple(sorted(tags))

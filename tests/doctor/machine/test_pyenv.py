"""What an import would find, compared with a real interpreter of a real environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from doctor.errors import Unknown
from doctor.machine.pyenv import PythonEnvironment, normalised, python_tags
from doctor.machine.system import System

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
TAG = str(sysconfig.get_config_var("EXT_SUFFIX"))

ASK = """
import importlib.util, importlib.machinery as m, importlib.metadata as md, json, os, sys
def kind(name):
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    if folders is not None and spec.origin is None:
        return ["namespace", list(folders)[0]]
    if folders is not None:
        return ["package", os.path.dirname(spec.origin)]
    if isinstance(spec.loader, m.ExtensionFileLoader):
        return ["extension", spec.origin]
    return ["file", spec.origin]
print(json.dumps({
    "path": [p for p in sys.path if p and not p.endswith(".zip")],
    "modules": {name: kind(name) for name in sys.argv[1:]},
    "distributions": [[d.metadata["Name"], d.version] for d in md.distributions()],
}))
"""


@dataclass
class Env:
    """A real environment: site-packages, a folder on PYTHONPATH, one that a .pth file adds."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Path:
        """Its site-packages."""
        return self.folder / f"lib/python{MINOR}/site-packages"

    def ask(self, *names: str) -> dict[str, object]:
        """What the interpreter itself says."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
        done = subprocess.run(
            [str(self.folder / "bin/python"), "-B", "-c", ASK, *names],
            env=env | self.variables,
            cwd=self.folder / "bin",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def read(self) -> PythonEnvironment:
        """What our reader says."""
        system = System()
        for name in [n for n in system.env if n.startswith("PYTHON")]:
            del system.env[name]
        system.env |= self.variables
        stdlib = sysconfig.get_paths()["stdlib"]
        places = [stdlib, f"{stdlib}/lib-dynload"]
        return PythonEnvironment(system, MINOR, places, [str(self.site)])


def make_environment(folder: Path) -> Env:
    """An empty environment around the interpreter that runs the tests."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    return Env(folder)


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


SITE, PTH, PATH = "site", "pth", "path"
LAYOUTS: dict[str, list[tuple[str, str]]] = {
    "package": [(SITE, "m/__init__.py")],
    "file": [(SITE, "m.py")],
    "extension": [(SITE, f"m{TAG}")],
    "stable_abi": [(SITE, "m.abi3.so")],
    "plain_so": [(SITE, "m.so")],
    "namespace": [(SITE, "m/inner.py")],
    "absent": [(SITE, "m-other.py")],
    "package_over_file": [(SITE, "m/__init__.py"), (SITE, "m.py")],
    "package_over_extension": [(SITE, "m/__init__.py"), (SITE, f"m{TAG}")],
    "extension_over_file": [(SITE, f"m{TAG}"), (SITE, "m.py")],
    "file_over_namespace": [(SITE, "m/inner.py"), (SITE, "m.py")],
    "extension_over_namespace": [(SITE, "m/inner.py"), (SITE, f"m{TAG}")],
    "compiled_package": [(SITE, f"m/__init__{TAG}")],
    "pythonpath_first": [(PATH, "m.py"), (SITE, "m/__init__.py")],
    "namespace_first_yields": [(PATH, "m/inner.py"), (SITE, "m/__init__.py")],
    "namespace_in_two": [(PATH, "m/inner.py"), (SITE, "m/other.py")],
    "pth_folder": [(PTH, "m/__init__.py")],
    "site_before_pth": [(SITE, "m.py"), (PTH, "m/__init__.py")],
    "namespace_yields_to_pth": [(SITE, "m/inner.py"), (PTH, "m.py")],
    "similar_names": [(SITE, "mm.py"), (SITE, "m_/__init__.py"), (SITE, "m.pyi")],
    "stub_folder_beside_file": [(SITE, "m/__init__.pyi"), (SITE, "m.py")],
    "stub_folder": [(SITE, "m/__init__.pyi")],
    "other_interpreter": [(SITE, "m.cpython-27-x86_64-linux-gnu.so")],
    "other_interpreter_beside_file": [(SITE, "m.cpython-27-x86_64-linux-gnu.so"), (SITE, "m.py")],
    "odd_suffix": [(SITE, "m.part.so")],
}
"""Case -> files that make up its module (m stands for the case's own name)."""

ON_PURPOSE = {"other_interpreter"}
"""An extension of another interpreter is named, though an import passes it over: it is stale."""


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Env, dict[str, object]]:
    """All layouts in one environment, and what its interpreter finds."""
    top = tmp_path_factory.mktemp("layouts").resolve()
    env = make_environment(top / "env")
    folders = {SITE: env.site, PTH: top / "added", PATH: top / "path"}
    for case, files in LAYOUTS.items():
        for place, name in files:
            write(folders[place], {f"case_{case}" + name.removeprefix("m"): ""})
    write(env.site, {"added.pth": f"# a comment\n\n{top}/added\n{top}/absent\nimport sys\n"})
    env.variables["PYTHONPATH"] = f"{top}/path:{top}/absent"
    answer = env.ask(*(f"case_{case}" for case in LAYOUTS))
    modules = answer["modules"]
    assert isinstance(modules, dict)
    return env, modules


@pytest.mark.parametrize("case", [c for c in LAYOUTS if c not in ON_PURPOSE])
def test_finds_what_an_import_would(layouts: tuple[Env, dict[str, object]], case: str) -> None:
    env, expected = layouts
    found = env.read().find_module(f"case_{case}")
    assert (found and [found.kind, found.path]) == expected[f"case_{case}"]


def test_an_extension_of_another_interpreter_is_named(
    layouts: tuple[Env, dict[str, object]],
) -> None:
    env, expected = layouts
    found = env.read().find_module("case_other_interpreter")
    assert expected["case_other_interpreter"] is None
    assert found is not None and found.kind == "extension"


def test_folders_to_look_at_first(tmp_path: Path) -> None:
    env = make_environment(tmp_path / "env")
    write(env.site, {"torch/__init__.py": ""})
    write(tmp_path / "here", {"torch.py": ""})
    found = env.read().find_module("torch", first=[str(tmp_path / "here")])
    assert found is not None
    assert (found.kind, found.entry) == ("file", str(tmp_path / "here"))


# --- .pth files ------------------------------------------------------------------------------

PTH_FILES: dict[str, dict[str, str]] = {
    "a folder": {"a.pth": "{top}/one\n"},
    "relative to the site": {"a.pth": "inside\n"},
    "relative upwards": {"a.pth": "../../../outside\n"},
    "several, in order": {"b.pth": "{top}/one\n", "a.pth": "{top}/two\n{top}/three\n"},
    "twice": {"a.pth": "{top}/one\n{top}/one\n"},
    "comments and blanks": {"a.pth": "#{top}/one\n\n  \n{top}/two\n"},
    "import lines": {"a.pth": "import sys; sys.flags\nimport\tos\n{top}/one\n"},
    "absent folders": {"a.pth": "{top}/none\n{top}/one\n"},
    "no newline at the end": {"a.pth": "{top}/one"},
    "windows lines": {"a.pth": "{top}/one\r\n{top}/two\r\n"},
    "trailing spaces": {"a.pth": "{top}/one  \n"},
    "other endings": {"a.pth.bak": "{top}/one\n", "a.txt": "{top}/two\n"},
    "empty": {"a.pth": ""},
    "a file": {"a.pth": "{top}/archive.egg\n"},
}


@pytest.mark.parametrize("case", PTH_FILES)
def test_pth_files(tmp_path: Path, case: str) -> None:
    env = make_environment(tmp_path / "env")
    for name in ("one", "two", "three", "env/outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "archive.egg").touch()
    (env.site / "inside").mkdir()
    for name, text in PTH_FILES[case].items():
        (env.site / name).write_bytes(text.replace("{top}", str(tmp_path)).encode())
    assert list(env.read().import_path) == env.ask()["path"]


def test_pth_lines_of_one_site_come_before_the_next_site(tmp_path: Path) -> None:
    """site.addsitedir() adds a folder and at once what its .pth files name."""
    first, second, added = (tmp_path / name for name in ("first", "second", "added"))
    write(first, {"a.pth": f"{added}\n"})
    write(added, {"torch/__init__.py": ""})
    write(second, {"torch/__init__.py": ""})
    code = f"import site, sys; [site.addsitedir(p) for p in {[str(first), str(second)]}]"
    code += "; import importlib.util as u; print(u.find_spec('torch').origin)"
    real = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    assert real.stdout.strip() == f"{added}/torch/__init__.py"
    env = PythonEnvironment(System(), MINOR, [], [str(first), str(second)])
    found = env.find_module("torch")
    assert found is not None and found.path == f"{added}/torch"


def test_unreadable_pth_files_are_passed_over(tmp_path: Path) -> None:
    site = tmp_path / "site"
    write(site, {"good.pth": f"{tmp_path}\n", "folder.pth/x": ""})
    (site / "binary.pth").write_bytes(bytes(range(256)) * 4)
    (site / "loop.pth").symlink_to("loop.pth")
    assert str(tmp_path) in PythonEnvironment(System(), MINOR, [], [str(site)]).import_path


# --- editable installs by import hook ---------------------------------------------------------

FINDER = """
from __future__ import annotations
import sys
from importlib.machinery import PathFinder, all_suffixes as module_suffixes
from importlib.util import spec_from_file_location
from itertools import chain
from pathlib import Path

MAPPING: dict[str, str] = {mapping}
NAMESPACES: dict[str, list[str]] = {{}}
PATH_PLACEHOLDER = '__editable__.demo-1.0.finder' + ".__path_hook__"


class _EditableFinder:  # MetaPathFinder
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname in MAPPING:
            return cls._find_spec(fullname, Path(MAPPING[fullname]))
        return None

    @classmethod
    def _find_spec(cls, fullname, candidate_path):
        init = candidate_path / "__init__.py"
        candidates = (candidate_path.with_suffix(x) for x in module_suffixes())
        for candidate in chain([init], candidates):
            if candidate.exists():
                return spec_from_file_location(fullname, candidate)
        return None


def install():
    if not any(finder == _EditableFinder for finder in sys.meta_path):
        sys.meta_path.append(_EditableFinder)
"""
"""What setuptools writes for an editable install whose folder is no import root, shortened."""

EDITABLE: dict[str, dict[str, str]] = {
    "package": {"src/demo_pkg/__init__.py": ""},
    "installed copy first": {"src/demo_pkg/__init__.py": "", "site/demo_pkg/__init__.py": ""},
    "source is gone": {},
    "left-over folder": {"src/demo_pkg/__init__.py": "", "site/demo_pkg/data.txt": ""},
    "single file": {"src/demo_pkg.py": ""},
}


@pytest.mark.parametrize("case", EDITABLE)
def test_setuptools_finder(tmp_path: Path, case: str) -> None:
    env = make_environment(tmp_path / "env")
    folders = {"site": env.site, "src": tmp_path / "src"}
    for name, text in EDITABLE[case].items():
        place, _, rest = name.partition("/")
        write(folders[place], {rest: text})
    finder = "__editable___demo_1_0_finder"
    mapping = repr({"demo_pkg": str(tmp_path / "src/demo_pkg")})
    write(env.site, {f"{finder}.py": FINDER.format(mapping=mapping)})
    write(env.site, {"__editable__.demo-1.0.pth": f"import {finder}; {finder}.install()"})
    found = env.read().find_module("demo_pkg")
    modules = env.ask("demo_pkg")["modules"]
    assert {"demo_pkg": found and [found.kind, found.path]} == modules


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MAPPING = {",
        "MAPPING = {'a': }",
        "MAPPING = {1: 2}",
        "MAPPING = {'a': call()}",
        "MAPPING = {'a', 'b'}",
        "MAPPING = {['a']: 'b'}",
        "\0",
    ],
)
def test_a_damaged_finder_is_passed_over(tmp_path: Path, text: str) -> None:
    finder = "__editable___demo_1_0_finder"
    write(tmp_path, {"a.pth": f"import {finder}; {finder}.install()", f"{finder}.py": text})
    env = PythonEnvironment(System(), MINOR, [], [str(tmp_path)])
    assert env.find_module("demo_pkg") is None


def test_an_unreadable_finder_is_passed_over(tmp_path: Path) -> None:
    finder = "__editable___demo_1_0_finder"
    write(tmp_path, {"a.pth": f"import {finder}; {finder}.install()", f"{finder}.py/x": ""})
    assert PythonEnvironment(System(), MINOR, [], [str(tmp_path)]).sites == [str(tmp_path)]


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.one_of(st.binary(max_size=120), st.text(max_size=80).map(str.encode)))
@example(data=b"/proc/mounts")
def test_any_pth_file(tmp_path: Path, data: bytes) -> None:
    """A line counts where it names something that exists, a file too, as in Python's site module."""
    (tmp_path / "a.pth").write_bytes(data)
    env = PythonEnvironment(System(), MINOR, [], [str(tmp_path)])
    assert all(Path(entry).exists() for entry in env.import_path)


# --- distributions ---------------------------------------------------------------------------


def metadata(name: str, version: str, *requires: str) -> str:
    lines = [f"Requires-Dist: {line}\n" for line in requires]
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(lines) + "\nText"


def test_distributions_as_importlib_sees_them(tmp_path: Path) -> None:
    env = make_environment(tmp_path / "env")
    installed = {
        "torch-2.9.1+cu128.dist-info/METADATA": metadata("torch", "2.9.1+cu128"),
        "nvidia_cudnn_cu12-9.10.2.21.dist-info/METADATA": metadata(
            "nvidia-cudnn-cu12", "9.10.2.21"
        ),
        "Some.Odd_Name-1.0.dist-info/METADATA": metadata("Some.Odd-Name", "1.0"),
        f"old-0.1-py{MINOR}.egg-info/PKG-INFO": metadata("old", "0.1"),
        f"single-0.2-py{MINOR}.egg-info": metadata("single", "0.2"),
        "torch_npu-2.9.0.post2.dist-info/METADATA": metadata("torch_npu", "2.9.0.post2"),
    }
    write(env.site, installed | {"not-a-distribution/METADATA": "", "x.dist-info/METADATA": ""})
    listed = env.ask()["distributions"]
    assert isinstance(listed, list)
    real = {normalised(name): version for name, version in listed if name and version}
    ours = {name: item.version for name, item in env.read().distributions().items()}
    assert (
        ours
        == real
        == {
            "torch": "2.9.1+cu128",
            "nvidia-cudnn-cu12": "9.10.2.21",
            "some-odd-name": "1.0",
            "old": "0.1",
            "single": "0.2",
            "torch-npu": "2.9.0.post2",
        }
    )
    assert env.read().version("Torch_NPU") == "2.9.0.post2"
    assert env.read().version("absent") is None


def test_the_first_of_two_installed_versions_counts(tmp_path: Path) -> None:
    write(tmp_path / "a", {"torch-2.9.0.dist-info/METADATA": ""})
    write(tmp_path / "b", {"torch-2.8.0.dist-info/METADATA": ""})
    env = PythonEnvironment(System(), MINOR, [], [f"{tmp_path}/a", f"{tmp_path}/b"])
    assert env.version("torch") == "2.9.0"
    assert env.distributions()["torch"].site == f"{tmp_path}/a"


def test_requirements(tmp_path: Path) -> None:
    lines = ("torch==2.9.0", 'numpy<2; extra == "old"')
    write(tmp_path, {"torch_npu-2.9.0.dist-info/METADATA": metadata("t", "1", *lines)})
    write(tmp_path, {"bare-1.0.dist-info/RECORD": "", "broken-1.0.dist-info/METADATA/x": ""})
    env = PythonEnvironment(System(), MINOR, [], [str(tmp_path)])
    assert env.requirements("torch-npu") == list(lines)
    assert env.requirements("bare") == []
    assert env.requirements("absent") == []
    with pytest.raises(Unknown, match="is no file"):
        env.requirements("broken")


def test_an_environment_below_a_root(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "site/torch/__init__.py": "",
            "site/a.pth": "/src/tree\n",
            "src/tree/mod.py": "",
            "etc/environment": "PYTHONPATH=/first:/none\n",
            "first/torch.py": "",
        },
    )
    env = PythonEnvironment(System(tmp_path), "3.12", ["/lib"], ["/site", "/none", "/site"])
    assert env.import_path == ("/first", "/lib", "/site", "/src/tree")
    found = {name: env.find_module(name) for name in ("torch", "mod", "none")}
    assert {k: v and (v.path, v.entry, v.kind) for k, v in found.items()} == {
        "torch": ("/first/torch.py", "/first", "file"),
        "mod": ("/src/tree/mod.py", "/src/tree", "file"),
        "none": None,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Torch_NPU", "torch-npu"), ("a.b-_c", "a-b-c"), ("x", "x"), ("Flash--Attn", "flash-attn")],
)
def test_normalised(name: str, expected: str) -> None:
    assert normalised(name) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["_C.cpython-312-x86_64-linux-gnu.so"], ("cp312",)),
        (["_C.cpython-313t-aarch64-linux-gnu.so"], ("cp313t",)),
        (["rustbpe.abi3.so"], ("abi3",)),
        (["a.cpython-311-darwin.so", "a.cpython-310-darwin.so"], ("cp310", "cp311")),
        (["plain.so", "libtorch.so", "x.py"], ()),
    ],
)
def test_python_tags(files: list[str], expected: tuple[str, ...]) -> None:
    assert python_tags(files) == expected

"""The examined interpreter: chosen below a root by its files, live by what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from elf_files import build_library, needs_gcc

from doctor.errors import Unknown
from doctor.facts import Python
from doctor.machine.system import System
from doctor.probe import python_env

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


def tree(root: Path, files: Mapping[str, str] | Iterable[str]) -> System:
    """A tree of files; names that end in a slash are folders."""
    texts = files if isinstance(files, Mapping) else dict.fromkeys(files, "")
    for name, text in texts.items():
        place = root / name
        if name.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        if "/bin/" in name:
            place.chmod(0o755)
    return System(root, seconds=2, execute=True)


def look(system: System) -> Python:
    place = python_env.choose(system)
    return python_env.probe(system, place, python_env.environment(system, place))


# --- below a root ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "lib"),
    [
        (["usr/lib/python3.12/"], "/usr/lib/python3.12"),
        (["usr/lib/python3.12/", "usr/local/lib/python3.11/"], "/usr/local/lib/python3.11"),
        (["usr/lib/python3.9/", "usr/lib/python3.10/"], "/usr/lib/python3.10"),
        (["opt/venv/lib/python3.11/", "usr/lib/python3.12/site-packages/torch/"],
         "/usr/lib/python3.12"),
        (["opt/conda/lib/python3.11/site-packages/torch/",
          "usr/lib/python3.12/site-packages/torch/"], "/opt/conda/lib/python3.11"),
        (["usr/lib/python3.9/dist-packages/torch/", "usr/lib/python3.10/"], "/usr/lib/python3.9"),
        (["opt/venv/lib/python3.13t/", "usr/lib/python3/"], "/opt/venv/lib/python3.13t"),
    ],
)  # fmt: skip
def test_choice(tmp_path: Path, files: list[str], lib: str) -> None:
    place = python_env.choose(tree(tmp_path, files))
    assert place.lib == lib
    assert place.executable == f"{place.prefix}/bin/python3"


@pytest.mark.parametrize("files", [[], ["usr/lib/python3/"], ["usr/lib/python2.7/"], ["usr/lib"]])
def test_no_python(tmp_path: Path, files: list[str]) -> None:
    with pytest.raises(Unknown, match=r"no lib/python3"):
        python_env.choose(tree(tmp_path, files))


def test_debian_below_a_root(tmp_path: Path) -> None:
    system = tree(
        tmp_path,
        {
            "usr/lib/python3.12/EXTERNALLY-MANAGED": "",
            "usr/lib/python3.12/lib-dynload/": "",
            "usr/lib/python3/dist-packages/yaml/__init__.py": "",
            "usr/lib/python3/dist-packages/PyYAML-6.0.1.dist-info/METADATA": "",
            "usr/local/lib/python3.12/dist-packages/numpy-2.1.0.dist-info/METADATA": "",
            "usr/local/lib/python3.12/dist-packages/somebody_s-1.0.dist-info/METADATA": "",
            "usr/include/python3.12/Python.h": "",
            "usr/bin/python3": "#!/bin/sh\necho Python 3.12.3\n",
            "root/.local/lib/python3.12/site-packages/attrs-24.2.0.dist-info/METADATA": "",
            "etc/environment": "HOME=/root\n",
        },
    )
    # /usr/local comes before /usr and has a lib/python3.12 of its own for packages alone
    place = python_env.Interpreter("/usr/bin/python3", "/usr", "/usr/lib/python3.12", "test")
    found = python_env.probe(system, place, python_env.environment(system, place))
    assert (found.version, found.venv, found.conda) == ("3.12.3", False, False)
    assert found.externally_managed is True
    assert found.headers == "/usr/include/python3.12"
    assert found.packages == {"pyyaml": "6.0.1", "numpy": "2.1.0", "attrs": "24.2.0"}
    assert found.import_path == (
        "/usr/lib/python3.12",
        "/usr/lib/python3.12/lib-dynload",
        "/root/.local/lib/python3.12/site-packages",
        "/usr/local/lib/python3.12/dist-packages",
        "/usr/lib/python3/dist-packages",
    )


def test_debian_packages_in_usr_local_are_no_interpreter(tmp_path: Path) -> None:
    """Every Debian and Ubuntu has /usr/local/lib/python3.x/dist-packages; the Python is /usr's."""
    system = tree(
        tmp_path,
        ["usr/lib/python3.12/os.py", "usr/bin/python3", "usr/local/lib/python3.12/dist-packages/"],
    )
    assert python_env.choose(system).prefix == "/usr"


@pytest.mark.parametrize(
    ("config", "version", "paths"),
    [
        ("home = /usr/bin\nversion = 3.12.7\n", "3.12.7", ["/opt/venv/lib/python3.12/site-packages"]),
        ("home = /usr/bin\nversion_info = 3.12.7.final.0\ninclude-system-site-packages = true\n",
         "3.12.7",
         ["/opt/venv/lib/python3.12/site-packages", "/usr/lib/python3/dist-packages"]),
        ("home = /usr/bin\n", "3.12", ["/opt/venv/lib/python3.12/site-packages"]),
        ("home = /usr/bin\nversion = \0\0\n", "3.12", ["/opt/venv/lib/python3.12/site-packages"]),
    ],
)  # fmt: skip
def test_a_venv_below_a_root(tmp_path: Path, config: str, version: str, paths: list[str]) -> None:
    system = tree(
        tmp_path,
        {
            "opt/venv/pyvenv.cfg": config,
            "opt/venv/lib/python3.12/site-packages/": "",
            "usr/lib/python3.12/EXTERNALLY-MANAGED": "",
            "usr/lib/python3/dist-packages/": "",
        },
    )
    found = look(system)
    assert (found.version, found.venv, found.prefix) == (version, True, "/opt/venv")
    assert found.externally_managed is False
    assert [p for p in found.import_path if p.endswith("-packages")] == paths


def test_conda_and_free_threads_below_a_root(tmp_path: Path) -> None:
    system = tree(
        tmp_path,
        ["opt/conda/lib/python3.13t/site-packages/", "opt/conda/conda-meta/python-3.13.1-h9.json"],
    )
    found = look(system)
    assert (found.conda, found.version, found.free_threaded) == (True, "3.13.1", True)
    assert (found.bits, found.prefix_free) == (None, None)
    assert set(found.unknown) == {"bits", "prefix_free"}


@needs_gcc
def test_bits_from_the_files(tmp_path: Path) -> None:
    made = build_library(tmp_path / "opt/venv/lib/python3.12/lib-dynload/_json.so")
    assert look(System(tmp_path, execute=True)).bits == 64
    data = bytearray(made.read_bytes())
    data[4] = 1
    made.write_bytes(data)
    assert look(System(tmp_path, execute=True)).bits == 32


@pytest.mark.parametrize(("machine", "bits"), [("armv7l", 32), ("i686", 32), ("x86_64", None)])
def test_bits_from_the_kernel(tmp_path: Path, machine: str, bits: int | None) -> None:
    files = {"opt/venv/lib/python3.12/": "", "usr/bin/uname": f"#!/bin/sh\necho {machine}\n"}
    assert look(tree(tmp_path, files)).bits == bits


def test_nothing_of_a_tree_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    files = {
        "opt/venv/lib/python3.12/site-packages/torch/__init__.py": f"open({str(mark)!r}, 'w')",
        "opt/venv/bin/python3": f"#!/bin/sh\ntouch {mark}\n",
        "opt/venv/lib/python3.12/site-packages/a.pth": f"import os; open({str(mark)!r}, 'w')\n",
    }
    look(tree(tmp_path, files))
    assert not mark.exists()


# --- live ------------------------------------------------------------------------------------


def real_path(python: Path, variables: Mapping[str, str]) -> list[str]:
    """sys.path as the interpreter itself makes it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL", "CONDA"))}
    code = "import json, sys; print(json.dumps([p for p in sys.path[1:] if p[-4:] != '.zip']))"
    done = subprocess.run(
        [str(python), "-c", code], env=env | dict(variables), capture_output=True, check=True
    )
    paths: list[str] = json.loads(done.stdout)
    return paths


def live(variables: Mapping[str, str]) -> System:
    system = System()
    for name in list(system.env):
        if name.startswith(("PYTHON", "VIRTUAL", "CONDA")):
            del system.env[name]
    system.env |= variables
    return system


@pytest.mark.parametrize(
    ("shared", "user_site"),
    [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ],
)
def test_import_path_of_a_real_venv(tmp_path: Path, shared: bool, user_site: bool) -> None:
    folder = tmp_path / "env"
    venv.EnvBuilder(symlinks=True, with_pip=False, system_site_packages=shared).create(folder)
    (tmp_path / "first").mkdir()
    variables = {"HOME": str(tmp_path / "home"), "PYTHONPATH": f"{tmp_path}/first"}
    if user_site:
        (tmp_path / f"home/.local/lib/python{MINOR}/site-packages").mkdir(parents=True)
    system = live(variables)
    place = python_env.choose(system, str(folder / "bin/python"))
    assert (place.prefix, place.chosen_by) == (str(folder), "--python")
    ours = python_env.environment(system, place).import_path
    theirs = real_path(folder / "bin/python", variables)
    # what the base's own .pth files add is the same on both sides only where they are read
    assert [p for p in ours if p in theirs] == theirs


def test_a_real_venv_described(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    system = live({"HOME": str(tmp_path)})
    place = python_env.choose(system, str(folder / "bin/python"))
    found = python_env.probe(system, place, python_env.environment(system, place))
    assert found.version == ".".join(str(n) for n in sys.version_info[:3])
    assert (found.implementation, found.bits) == (sys.implementation.name, 64)
    assert (found.venv, found.externally_managed, found.packages) == (True, False, {})
    assert found.executable == str(folder / "bin/python")
    assert found.prefix_free is not None and found.prefix_free > 0
    assert found.venv_module is True


def test_an_active_environment_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        place = python_env.choose(live({variable: str(folder)}))
        assert (place.executable, place.chosen_by) == (
            f"{folder}/bin/python", f"{variable} is set",
        )  # fmt: skip
    assert python_env.choose(live({"VIRTUAL_ENV": "/none"})).executable == sys.executable


NO_PYTHON = {
    "hangs": ("#!/bin/sh\nsleep 60\n", "gave no answer within"),
    "fails": ("#!/bin/sh\nexit 3\n", "ended with status 3"),
    "crashes": ("#!/bin/sh\nkill -SEGV $$\n", "ended with status -11"),
    "prints text": ("#!/bin/sh\necho hello\n", "is no Python"),
    "prints nothing": ("#!/bin/sh\n", "is no Python"),
    "prints other JSON": ("#!/bin/sh\necho '[1]'\n", "is no Python"),
    "prints other objects": ('#!/bin/sh\necho \'{"version": "3"}\'\n', "is no Python"),
    "binary": ("\0\1\2", "cannot be started"),
    "prints garbage": ("#!/bin/sh\nhead -c 3000 /dev/urandom\n", "bytes that are no text"),
}


@pytest.mark.parametrize("case", NO_PYTHON)
def test_a_path_that_is_no_python(tmp_path: Path, case: str) -> None:
    body, reason = NO_PYTHON[case]
    program = tmp_path / "python"
    program.write_text(body)
    program.chmod(0o755)
    with pytest.raises(Unknown, match=reason) as raised:
        python_env.choose(System(seconds=1), str(program))
    assert str(program) in str(raised.value)


@pytest.mark.parametrize("path", ["/none/python", "/etc", "/etc/passwd"])
def test_paths_that_are_no_programs(path: str) -> None:
    with pytest.raises(Unknown, match=path):
        python_env.choose(System(), path)


def test_a_program_that_answers_in_part(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho \'{"base_prefix": "/usr"}\'\n')
    program.chmod(0o755)
    with pytest.raises(Unknown):
        python_env.choose(System(), str(program))


# --- shadowed modules --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hides"),
    [
        ("timeit.py", True),
        ("random.py", True),
        ("json/__init__.py", True),
        ("json/data.txt", False),
        ("typing.cpython-312-x86_64-linux-gnu.so", True),
        ("timeit.txt", False),
        ("mytimeit.py", False),
        ("test.py", False),
        ("torch.py", False),
        ("timeit.pyi", False),
    ],
)
def test_files_that_hide_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hides: bool
) -> None:
    place = tmp_path / "here" / name
    place.parent.mkdir(parents=True)
    place.touch()
    monkeypatch.chdir(tmp_path / "here")
    found = look(live({}))
    expected = f"{tmp_path}/here/{name.split('/')[0]}"
    assert [p for p in found.shadowed_modules if p.startswith(str(tmp_path))] == (
        [expected] if hides else []
    )


def test_pythonpath_can_hide_them_too(tmp_path: Path) -> None:
    system = tree(
        tmp_path,
        {
            "opt/venv/lib/python3.12/": "",
            "shared/socket.py": "",
            "etc/environment": "PYTHONPATH=/shared:/none\n",
        },
    )
    assert look(system).shadowed_modules == ("/shared/socket.py",)

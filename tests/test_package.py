"""The wheel, built and installed away from the checkout: it finds its tables and runs alone."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import REPO

from doctor import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout gets no leftovers."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    skip = shutil.ignore_patterns(".*", "__pycache__", "dist", "target", "tests", "*.egg-info")
    shutil.copytree(REPO, source, ignore=skip)
    shutil.copy(REPO / ".gitignore", source)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel alone; what it depends on is borrowed from ours."""
    env = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    python = env / "bin" / "python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv, "uv belongs to the extra 'test'"
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python)]
    subprocess.run([*install, str(wheel)], check=True)
    packages = next(env.glob("lib/python3*/site-packages"))
    borrowed = [sysconfig.get_paths()["purelib"], *site.getsitepackages()]
    # a plain .pth line adds the folder and none of the editable installs that its own .pth files name
    (packages / "borrowed.pth").write_text("\n".join(dict.fromkeys(borrowed)) + "\n")
    return env


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    command = [str(installed / "bin" / "nanochat-doctor"), *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tables = {f"doctor/_data/build/{path.name}" for path in (REPO / "build").glob("*.toml")}
    assert tables and tables <= set(names)
    packages = {"doctor", "nanochat", "scripts"}
    sources = {
        str(path.relative_to(REPO))
        for package in packages
        for path in (REPO / package).rglob("*.py")
    }
    assert sources <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {*packages, f"nanochat_doctor-{__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".so"))]


def test_it_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = "import doctor, doctor.checkout; print(doctor.__file__, doctor.checkout.data_folder())"
    found = subprocess.run(
        [str(installed / "bin/python"), "-c", where], cwd=tmp_path, capture_output=True, text=True,
        check=True, env={"PATH": "/usr/bin:/bin"},
    ).stdout.split()  # fmt: skip
    packages = next(installed.glob("lib/python3*/site-packages"))
    assert found == [f"{packages}/doctor/__init__.py", f"{packages}/doctor/_data/build"]
    answer = run(installed, tmp_path, "check", "--json")
    data = json.loads(answer.stdout)
    assert answer.stderr == ""
    assert data["facts"]["tool"] == __version__
    assert data["facts"]["python"]["executable"] == str(installed / "bin" / "python")
    assert "doctor.rule-failed" not in [f["code"] for f in data["findings"]]
    assert run(installed, tmp_path, "--version").stdout == f"nanochat-doctor {__version__}\n"


def test_selftest_says_that_it_needs_a_checkout(installed: Path, tmp_path: Path) -> None:
    answer = run(installed, tmp_path, "selftest")
    assert answer.returncode == 1
    assert "checkout" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_missing_tables_are_told(installed: Path, tmp_path: Path) -> None:
    tables = next(installed.glob("lib/python3*/site-packages")) / "doctor/_data/build"
    hidden = tables.with_name("hidden")
    tables.rename(hidden)
    try:
        answer = run(installed, tmp_path, "check")
    finally:
        hidden.rename(tables)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "install nanochat-doctor again" in answer.stderr

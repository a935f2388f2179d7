"""A built tree linked into a real environment, as pip and the import system see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from doctor.environment.local_tree import link

REPO = Path(__file__).resolve().parents[3]


def make_tree(folder: Path, version: str, built: bool = True) -> Path:
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "version.py").write_text(f"__version__ = '{version}'\n")
    (package / "__init__.py").write_text("from torch.version import __version__\n")
    if built:
        (package / "_C.cpython-311-x86_64-linux-gnu.so").touch()
    return package


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, *words], capture_output=True, text=True, cwd=REPO)


def linked(python: Path, package: Path) -> subprocess.CompletedProcess[str]:
    return run(python, "-m", "doctor.environment.local_tree", str(package))


def test_the_tree_is_imported_and_pip_knows_it(python: Path, tmp_path: Path) -> None:
    first, second = (
        make_tree(tmp_path / "a", "2.9.0a0+git12"),
        make_tree(tmp_path / "b", "2.10.0a0"),
    )
    for package, version in ((first, "2.9.0a0+git12"), (second, "2.10.0a0"), (second, "2.10.0a0")):
        done = linked(python, package)
        assert (done.returncode, done.stderr) == (0, "")
        shown = run(python, "-c", "import torch; print(torch.__version__, torch.__file__)").stdout
        assert shown.split() == [version, str(package / "__init__.py")]
        assert f"torch=={version}" in run(python, "-m", "pip", "freeze").stdout.lower()
    # Installers leave it alone, and can take it away.
    assert run(python, "-m", "pip", "install", "--no-index", "torch>=2.6").returncode == 0
    assert run(python, "-m", "pip", "install", "--no-index", "torch>=3").returncode == 1
    assert run(python, "-m", "pip", "uninstall", "-y", "torch").returncode == 0
    assert run(python, "-c", "import torch").returncode == 1
    assert (second / "version.py").exists()


def test_what_is_no_built_tree_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for package in (make_tree(tmp_path / "a", "2.9", built=False), tmp_path / "absent"):
        with pytest.raises(ValueError, match="holds no built PyTorch"):
            link(package, site)
    (site / "torch").mkdir()
    with pytest.raises(ValueError, match="installed torch"):
        link(make_tree(tmp_path / "b", "2.9"), site)
    assert sorted(p.name for p in site.iterdir()) == ["torch"]

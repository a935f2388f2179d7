"""What `import torch` would load, and what it would not find, told from the files alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_files import build_library, needs_gcc

from doctor.machine.linker import Linker
from doctor.machine.system import System
from doctor.probe.torch.binaries import read_build


@needs_gcc
@pytest.mark.parametrize(("runpath", "missing"), [("$ORIGIN", []), (None, ["libtorch.so"])])
def test_libraries_must_find_each_other(
    tmp_path: Path, runpath: str | None, missing: list[str]
) -> None:
    """Some distributions build without search paths: all is in the folder, and nothing is found."""
    lib = tmp_path / "torch" / "lib"
    lib.mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    torch = build_library(lib / "libtorch.so")
    python = build_library(lib / "libtorch_python.so", needs=[torch], runpath=runpath)
    extension = tmp_path / "torch" / "_C.cpython-311-x86_64-linux-gnu.so"
    build_library(extension, needs=[python], runpath="$ORIGIN/lib")
    system = System()
    build = read_build(system, Linker(system), str(tmp_path / "torch"), {})
    assert [library.name for library in build.missing_libraries] == missing

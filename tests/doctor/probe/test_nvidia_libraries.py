"""NCCL and cuDNN outside of Python: where the loader finds them, and whether one can compile against them."""

from __future__ import annotations

from pathlib import Path

import pytest

from doctor.machine.linker import Linker
from doctor.machine.system import System
from doctor.probe.nvidia import libraries

DEBIAN = "usr/lib/x86_64-linux-gnu"


@pytest.mark.parametrize(
    ("library", "header"),
    [
        (f"{DEBIAN}/libnccl.so.2", "usr/include/nccl.h"),
        (f"{DEBIAN}/libnccl.so.2", "usr/include/x86_64-linux-gnu/nccl.h"),
        ("opt/nccl/lib/libnccl.so.2", "opt/nccl/include/nccl.h"),
        ("opt/nccl/lib/libnccl.so.2", "usr/local/cuda/include/nccl.h"),
        (f"{DEBIAN}/libnccl.so.2", None),
        (f"{DEBIAN}/libcudnn.so.9", "usr/include/x86_64-linux-gnu/cudnn.h"),
    ],
)
def test_a_library_and_its_header(tmp_path: Path, library: str, header: str | None) -> None:
    """The package for running programs has no header; a build with it would fail while it configures."""
    path = tmp_path / library
    path.parent.mkdir(parents=True)
    real = path.with_name(f"{path.name}.28.3")
    real.touch()
    path.symlink_to(real.name)
    (tmp_path / "usr/include").mkdir(parents=True)
    if header:
        (tmp_path / header).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / header).write_text("// it\n")
    system = System(tmp_path)
    linker = Linker(system)
    linker.library_path = ["/opt/nccl/lib"]
    (found,) = libraries.probe(system, linker)
    assert found.path == f"/{library}" and found.header == (f"/{header}" if header else None)
    assert found.version and found.version.endswith(".28.3")

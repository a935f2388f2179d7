"""Makes machines to examine: a short description becomes a tree for `--root`.

Formats are those of real machines: what nvidia-smi and npu-smi print and refuse, version.info and
install.info of Ascend, wheels with their RPATHs, libraries that are whole ELF files with fatbins.
Every part of a tree can be replaced or taken away: `files`, `programs`, `links` and `without` of a
`Machine` are applied last, in this order.
"""

from __future__ import annotations

from pathlib import Path

from machines.describe import (
    CARDS,
    WHEELS,
    Ascend,
    Gpu,
    Machine,
    Nvidia,
    Torch,
    TorchNpu,
    even,
    nvidia,
)
from machines.elf import elf, fatbin
from machines.gpus import write_nvidia, write_toolkit
from machines.interpreter import write_python
from machines.npus import write_ascend
from machines.system import DISTROS, write_host
from machines.tree import Libraries, Tree

__all__ = ["CARDS", "DISTROS", "WHEELS", "Ascend", "Gpu", "Machine", "Nvidia", "Torch", "TorchNpu",
           "build", "elf", "even", "fatbin", "nvidia"]  # fmt: skip


def build(machine: Machine, root: Path) -> Path:
    """Write a machine below a folder."""
    tree = Tree(root)
    libraries = Libraries(machine)
    write_host(tree, machine)
    if machine.nvidia:
        write_nvidia(tree, machine.nvidia, machine, libraries)
    if machine.ascend:
        write_ascend(tree, machine.ascend, machine)
    write_python(tree, machine)
    for i, version in enumerate(machine.toolkits):
        write_toolkit(tree, version, machine, first=i == 0)
    libraries.write(tree)
    for path, data in machine.files.items():
        tree.file(path, data)
    for path, script in machine.programs.items():
        tree.program(path, script)
    for path, target in machine.links.items():
        tree.link(path, target)
    for path in machine.without:
        tree.remove(path)
    return root

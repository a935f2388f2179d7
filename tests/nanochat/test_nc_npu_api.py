"""What the trainer asks of an NPU against the real torch_npu, imported without CANN.

torch_npu's libraries want those of CANN. Here a C compiler makes empty ones with the names and symbols that the loader
asks for: enough to import the package and to ask what it has, not to compute.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("elftools")

from elftools.elf.elffile import ELFFile

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1800)]

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / ".venv-npu"
VARIABLE = "NANOCHAT_TEST_NPU_PYTHON"
VERSION = "2.14.0"

# The loader's own message tells which of CANN's libraries are wanted; all of their symbols go into the first.
LIBRARIES = ("libascendcl.so", "libhccl.so", "libacl_op_compiler.so", "libge_runner.so", "libgraph.so",
             "libacl_tdt_channel.so", "libatb.so")  # fmt: skip

SAME_KEYS = """
#include <string>
#include <unordered_set>
namespace c10::CachingAllocator {
struct AcceleratorAllocatorConfig { static std::unordered_set<std::string>& getMutableKeys(); };
std::unordered_set<std::string>& AcceleratorAllocatorConfig::getMutableKeys() {
  return *new std::unordered_set<std::string>;
}
}
"""
"""torch for CUDA and torch_npu both register an allocator setting of one name, which ends the process. On an Ascend
host torch is the build for CPUs; where a package index has only the other one, each gets a list of its own."""

ASK = """
import inspect, json, os, sys
import torch, torch_npu
import torch.distributed as dist
wanted = json.loads(sys.argv[1])
schema = torch.ops.npu.npu_fusion_attention.default._schema
print(json.dumps({
    "versions": [torch.__version__, torch_npu.__version__],
    "parameters": {
        name: [p.name for p in inspect.signature(getattr(torch.npu, name)).parameters.values()
               if p.default is p.empty]
        for name in wanted if hasattr(torch.npu, name)
    },
    "attention": {a.name: str(a.type) for a in schema.arguments},
    "results": [str(r.type) for r in schema.returns],
    "exported": hasattr(torch_npu, "npu_fusion_attention"),
    "hccl": dist.is_backend_available("hccl"),
}))
sys.stdout.flush()
os._exit(0)  # finalising wants a device
"""


@pytest.fixture(scope="module")
def npu_python() -> Path:
    """An interpreter with torch and torch_npu of one version: the one named, else one made for it."""
    if named := os.environ.get(VARIABLE):
        assert Path(named).is_file(), f"{VARIABLE}={named} is no file"
        return Path(named)
    python = FOLDER / "bin" / "python"
    if (FOLDER / "complete").exists():
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("no torch_npu here, and no uv that could install it")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", "3.11", str(FOLDER)],
        [uv, "pip", "install", "--quiet", "--python", str(python), f"torch=={VERSION}",
         f"torch_npu=={VERSION}", "numpy", "pyyaml"],
    ):  # fmt: skip
        # Not in the checkout: what apply pins there is not for this environment.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=1500, check=False, cwd="/"
        )
        if done.returncode != 0:
            pytest.skip(f"torch_npu cannot be installed: {done.stderr.strip()[-400:]}")
    (FOLDER / "complete").touch()
    return python


def site(python: Path) -> Path:
    asked = "import sysconfig; print(sysconfig.get_paths()['platlib'])"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def symbols(path: Path) -> tuple[set[str], set[str]]:
    """Names that a library wants from anywhere, and those that it has."""
    wanted, has = set(), set()
    with open(path, "rb") as file:
        elf = ELFFile(file)
        versions = elf.get_section_by_name(".gnu.version")
        for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            # What has a version comes from the system's libraries.
            free = versions.get_symbol(index)["ndx"] in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
            if symbol["st_shndx"] != "SHN_UNDEF":
                has.add(symbol.name)
            elif symbol["st_info"]["bind"] == "STB_GLOBAL" and free:
                wanted.add(symbol.name)
    return wanted, has


def make_cann(package: Path, folder: Path) -> None:
    """Libraries with CANN's names, in which every function that torch_npu wants fails."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler to make stand-ins for CANN's libraries")
    wanted, has = set(), set()
    for path in (*(package / "torch_npu" / "lib").glob("*.so"), *(package / "torch_npu").glob("_C*.so")):  # fmt: skip
        more_wanted, more_has = symbols(path)
        wanted |= more_wanted
        has |= more_has
    for path in (package / "torch" / "lib").glob("lib*.so*"):
        if path.name.startswith(("libtorch", "libc10")):
            has |= symbols(path)[1]
    # Older systems keep threads and loading in libraries of their own, without versions.
    lacking = [
        name for name in wanted - has if not name.startswith(("Py", "_Py", "pthread_", "dl"))
    ]
    bodies = "".join(f"int {name}(void) {{ return 1; }}\n" for name in sorted(lacking))
    sources = {name: bodies if name == LIBRARIES[0] else "" for name in LIBRARIES}
    for name, source in sources.items():
        _compile([compiler, "-x", "c", "-w", "-fno-builtin"], source, folder / name)
    _compile([compiler, "-x", "c++", "-std=c++17"], SAME_KEYS, folder / "same_keys.so")


def _compile(command: list[str], source: str, target: Path) -> None:
    subprocess.run(
        [*command, "-shared", "-fPIC", "-o", str(target), "-"],
        input=source.encode(), check=True, capture_output=True,
    )  # fmt: skip


def asked_of_module() -> set[str]:
    """Attributes that device.py takes from `torch.npu`, whatever it calls the module there."""
    tree = ast.parse((REPO / "nanochat" / "device.py").read_text(encoding="utf-8"))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == "module")
            or (isinstance(node.value, ast.Attribute) and node.value.attr == "module")
        )
    }


def attention_call() -> ast.Call:
    """The call of npu_fusion_attention in attention.py."""
    tree = ast.parse((REPO / "nanochat" / "attention.py").read_text(encoding="utf-8"))
    (call,) = (
        node for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and node.func.attr == "npu_fusion_attention"
    )  # fmt: skip
    return call


@pytest.fixture(scope="module")
def answers(npu_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed torch_npu says of itself."""
    folder = tmp_path_factory.mktemp("cann")
    make_cann(site(npu_python), folder)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [npu_python, "-c", ASK, json.dumps(sorted(asked_of_module()))],
        env=env | {
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
            "LD_LIBRARY_PATH": str(folder),
            "LD_PRELOAD": str(folder / "same_keys.so"),
        },
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_function_that_we_use_is_there(answers: dict[str, Any]) -> None:
    wanted = asked_of_module()
    assert {"mem_get_info", "manual_seed", "set_device", "is_bf16_supported"} <= wanted
    assert wanted - answers["parameters"].keys() == set(), answers["versions"]


def test_functions_need_no_more_than_we_give(answers: dict[str, Any]) -> None:
    given = {"set_device": ["device"], "manual_seed": ["seed"]}
    for name, required in answers["parameters"].items():
        assert required == given.get(name, []), name


def test_the_attention_kernel_takes_what_we_pass(answers: dict[str, Any]) -> None:
    call, takes = attention_call(), answers["attention"]
    assert answers["exported"]
    assert list(takes)[: len(call.args)] == ["query", "key", "value", "head_num"]
    passed = [keyword.arg for keyword in call.keywords]
    assert {"atten_mask", "sparse_mode"} <= set(passed) <= takes.keys()
    assert takes["pre_tockens"] == takes["sparse_mode"] == "int"
    # The output comes first; without dropout nobody needs the others.
    assert answers["results"][0] == "Tensor"


def test_the_backend_of_ranks_is_known(answers: dict[str, Any]) -> None:
    assert answers["hccl"]


@pytest.mark.parametrize("name", ["PYTORCH_NPU_ALLOC_CONF", "TASK_QUEUE_ENABLE"])
def test_settings_of_the_environment_are_read(npu_python: Path, name: str) -> None:
    library = site(npu_python) / "torch_npu" / "lib" / "libtorch_npu.so"
    contents = library.read_bytes()
    assert f"{name}\0".encode() in contents and b"expandable_segments" in contents

"""Why a build failed, from what real programs print."""

from __future__ import annotations

import pytest

from doctor.compile.ninja.diagnosis import KNOWN, diagnose
from doctor.knowledge.tables import Tables

GCC_KILLED = """\
[12/46 2] Building CXX object CMakeFiles/torch_cpu.dir/torch/csrc/ops/heavy_1.cpp.o
FAILED: [code=1] CMakeFiles/torch_cpu.dir/torch/csrc/ops/heavy_1.cpp.o
/usr/bin/g++ -DX -O3 -o CMakeFiles/torch_cpu.dir/torch/csrc/ops/heavy_1.cpp.o -c heavy_1.cpp
g++: fatal error: Killed signal terminated program cc1plus
compilation terminated.
[13/46 1] Building CXX object CMakeFiles/torch_cpu.dir/torch/csrc/ops/op_0.cpp.o
ninja: build stopped: subcommand failed.
"""
NVCC_KILLED = """\
FAILED: caffe2/CMakeFiles/torch_cuda.dir/flash_bwd_hdim192_bf16_sm80.cu.o
/usr/local/cuda/bin/nvcc -forward-unknown-to-host-compiler -x cu -c x.cu -o x.o
nvcc error   : 'cicc' died due to signal 9 (Kill signal)
"""


@pytest.mark.parametrize(
    ("log", "code"),
    [
        (GCC_KILLED, "build.out-of-memory"),
        (NVCC_KILLED, "build.out-of-memory"),
        ("FAILED: x.o\ng++ x\ncc1plus: out of memory allocating 65536 bytes after a total of 4 bytes",
         "build.out-of-memory"),
        ("FAILED: x.o\ng++ x\nvirtual memory exhausted: Cannot allocate memory", "build.out-of-memory"),
        ("FAILED: lib.so\ng++ x\ncollect2: fatal error: ld terminated with signal 9 [Killed]",
         "build.out-of-memory"),
        ("FAILED: x.o\nnvcc x\nnvcc fatal   : Unsupported gpu architecture 'compute_120'",
         "cuda.toolkit-too-old-for-arch"),
        ("FAILED: x.o\nnvcc x\nhost_config.h:143:2: error: #error -- unsupported GNU version! gcc "
         "versions later than 14 are not supported!", "cuda.host-compiler-unsupported"),
        ("ptxas /tmp/x.ptx, line 9; fatal   : Unsupported .version 9.5; current version is '9.4'",
         "cuda.toolkit-mismatch"),
        ("CMake Error at third_party/protobuf/cmake/CMakeLists.txt:2 (cmake_minimum_required):\n"
         "  Compatibility with CMake < 3.5 has been removed from CMake.", "build.cmake-policy"),
        ("CMake Error at CMakeLists.txt:1 (cmake_minimum_required):\n"
         "  CMake 3.27 or higher is required.  You are running version 3.25.1", "build.cmake-too-old"),
        ("Could not find any of CMakeLists.txt, setup.py in /p/third_party/gloo\n"
         "Did you run 'git submodule update --init --recursive'?", "build.submodules-missing"),
        ("FAILED: x.o\ng++ x\nfatal error: error writing to /tmp/cc.s: No space left on device",
         "host.disk-full"),
        ("FAILED: x.o\ng++ x\nModule.cpp:2:10: fatal error: Python.h: No such file or directory",
         "host.python-headers-missing"),
        ("  GCC-9.3 or newer is required to compile PyTorch, but found 8.5.0",
         "build.compiler-too-old"),
        ("ModuleNotFoundError: No module named 'yaml'", "build.dependency-missing"),
        ("FAILED: x.o\ng++ x\nx.cpp:1:18: error: 'y' was not declared in this scope", "build.failed"),
        ("ninja: error: manifest 'build.ninja' still dirty after 100 tries, perhaps system time is "
         "not set", "build.failed"),
        ("", "build.failed"),
    ],
)  # fmt: skip
def test_codes(log: str, code: str) -> None:
    assert diagnose(log.splitlines(), 1).code == code


def test_the_first_object_and_its_own_words() -> None:
    failure = diagnose(GCC_KILLED.splitlines(), 1)
    assert failure.object == "CMakeFiles/torch_cpu.dir/torch/csrc/ops/heavy_1.cpp.o"
    assert failure.said == (
        "g++: fatal error: Killed signal terminated program cc1plus",
        "compilation terminated.",
    )


def test_a_killed_compiler_counts_more_than_the_failure_before_it() -> None:
    """Where memory runs out, others fail of it in strange ways."""
    log = "FAILED: a.o\ng++ a\nas: error: strange\n" + GCC_KILLED
    assert diagnose(log.splitlines(), 1).code == "build.out-of-memory"


def test_ninja_itself_killed() -> None:
    assert diagnose(["[1/2 1] Building CXX object a.o"], -9).code == "build.out-of-memory"


def test_every_code_is_in_the_vocabulary() -> None:
    for known in KNOWN:
        assert Tables().code(known.code)["title"]


def test_cmakes_own_error_is_what_is_shown() -> None:
    log = ["-- Performing Test A", "CMake Error at cmake/x.cmake:3 (message):", "  no pocketfft", "-- Detecting",
           "-- Configuring incomplete, errors occurred!"]  # fmt: skip
    assert diagnose(log, 1).said == tuple(log[1:])

"""Why a build failed: the first object that did, what its compiler said, and the problem's code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from doctor.compile.ninja.ninja import failures

ERROR_LINES = 60
"""Of what a compiler said; a template's error can fill a book."""


@dataclass(frozen=True)
class Known:
    """A problem that a line of a log tells."""

    code: str
    pattern: re.Pattern[str]
    cause: str
    cure: str


def _known(code: str, pattern: str, cause: str, cure: str) -> Known:
    return Known(code, re.compile(pattern, re.IGNORECASE), cause, cure)


KNOWN = (
    _known(
        "host.disk-full",
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "free space there and go on with --resume; what was compiled is kept",
    ),
    _known(
        "build.out-of-memory",
        r"Killed signal terminated program|died due to signal 9|signal 9 \(Kill|"
        r"virtual memory exhausted|out of memory allocating|std::bad_alloc|"
        r"ld: .*memory exhausted|collect2: fatal error: ld terminated with signal 9|"
        r"LLVM ERROR: out of memory|^Killed$|fatal error: error writing to .*Cannot allocate",
        "the compiler got no more memory",
        "free memory or add swap, and go on with --resume",
    ),
    _known(
        "cuda.toolkit-too-old-for-arch",
        r"Unsupported gpu architecture|Unknown CUDA Architecture Name",
        "this nvcc does not know the architecture",
        "take a newer CUDA toolkit with --cuda-home",
    ),
    _known(
        "cuda.host-compiler-unsupported",
        r"unsupported GNU version|unsupported clang version|unsupported Microsoft Visual Studio",
        "this nvcc does not accept the host compiler",
        "install an older gcc beside it; build-torch takes it by itself",
    ),
    _known(
        "cuda.toolkit-mismatch",
        r"Unsupported \.version|PTX JIT compiler library not found",
        "nvcc, ptxas and NVVM are of different CUDA releases",
        "install all parts of the toolkit in one release",
    ),
    _known(
        "build.cmake-policy",
        r"Compatibility with CMake < 3\.5 has been removed",
        "this CMake refuses old third-party projects",
        "set CMAKE_POLICY_VERSION_MINIMUM=3.5, or take a CMake below 4",
    ),
    _known(
        "build.cmake-too-old",
        r"CMake \d[\d.]* or higher is required",
        "CMake is too old",
        "install a newer one into the Python environment with pip",
    ),
    _known(
        "build.submodules-missing",
        r"git submodule update --init|third_party/\S+ does not contain a CMakeLists\.txt|"
        r"add_subdirectory given source .*third_party",
        "submodules are missing",
        "run `git submodule update --init --recursive` in the tree",
    ),
    _known(
        "host.python-headers-missing",
        r"Python\.h: No such file|Could NOT find Python.*Development",
        "Python.h is missing",
        "install the development files of this Python",
    ),
    _known(
        "build.ninja-missing",
        r"CMake was unable to find a build program corresponding to .?Ninja",
        "ninja is missing",
        "install it into the Python environment with pip",
    ),
    _known(
        "build.compiler-too-old",
        r"GCC-[\d.]+ or newer is required|C\+\+17 .*not support|unrecognized command.line option .-std=c\+\+",
        "the compiler lacks the C++ standard that PyTorch needs",
        "install a newer gcc",
    ),
    _known(
        "build.dependency-missing",
        r"ModuleNotFoundError: No module named|Could NOT find (?!Python)\w+.*REQUIRED|cannot find -l\w+",
        "a build dependency is missing",
        "install it; the line names it",
    ),
    _known(
        "build.failed",
        r"still dirty after \d+ tries|perhaps system time is not set",
        "files of the tree are dated in the future, so that ninja never finds its plan up to date",
        "set the clock right, then run `find . -newermt now -exec touch {} +` in the tree",
    ),
)
"""In the order in which they count: a full disk and a killed compiler cause all sorts of others."""


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong.

    Attributes:
        object: the first that failed; None where it was none (configure, packing).
        said: the compiler's own words, or the last lines.
    """

    code: str
    cause: str
    cure: str
    object: str | None
    said: tuple[str, ...]


def _where_it_broke(lines: list[str]) -> list[str]:
    """From CMake's first error, or Python's traceback, on; else the last lines."""
    for number, line in enumerate(lines):
        # pip indents what a build under it says
        if line.lstrip().startswith(
            ("CMake Error", "Traceback (most recent call last)", "ninja: error:")
        ):
            return lines[number:]
    return lines[-ERROR_LINES // 3 :]


def diagnose(lines: Sequence[str], status: int) -> Diagnosis:
    """Find the cause in what a failed program printed.

    Args:
        status: how it ended; -9 is a kill of ninja or CMake itself.
    """
    failed = failures(lines)
    name, said = failed[0] if failed else (None, [])
    if failed:
        # the command line comes first, and is no word of the compiler's
        said = [line for line in said[1:] if line.strip()] or said
    else:
        said = _where_it_broke([line for line in lines if line.strip()])
    everything = [line for _, words in failed for line in words[1:]] or list(lines)
    for known in KNOWN:
        if any(known.pattern.search(line) for line in everything):
            return Diagnosis(known.code, known.cause, known.cure, name, tuple(said[:ERROR_LINES]))
    if status == -9:
        return Diagnosis(
            "build.out-of-memory",
            "the build itself was killed, as the kernel does for want of memory",
            "free memory or add swap, and go on with --resume",
            name,
            tuple(said[:ERROR_LINES]),
        )
    return Diagnosis(
        "build.failed", "a compiler failed" if name else "the build failed",
        "mend what it names and go on with --resume", name, tuple(said[:ERROR_LINES]),
    )  # fmt: skip

"""Stand-ins for the driver's libraries, to link against where no driver is: their functions, none of which works."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from doctor.errors import DoctorError
from doctor.text.bounded import read_text

SECONDS = 120


@dataclass(frozen=True)
class Stub:
    """A library of the driver.

    Attributes:
        name: `libcuda`; the file is called so, without a number, so that no loader takes it for the real one.
        soname: what a program that was linked against it asks the loader for.
        header: that declares its functions.
        declares: finds them there.
        status: what each of them returns: the error for a stub library, or one like it.
    """

    name: str
    soname: str
    header: str
    declares: str
    status: int


IN_CUDA_H = r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(|#\s*define\s+cu\w+\s+(cu[A-Z]\w*)\s*$"
IN_NVML_H = r"\bDECLDIR\s+(nvml\w+)\s*\("

STUBS = (
    Stub("libcuda", "libcuda.so.1", "cuda.h", IN_CUDA_H, 34),
    Stub("libnvidia-ml", "libnvidia-ml.so.1", "nvml.h", IN_NVML_H, 1),
)
"""CUDA_ERROR_STUB_LIBRARY is 34; NVML_ERROR_UNINITIALIZED is 1."""


def functions(stub: Stub, header: str) -> list[str]:
    """Names that a header declares, those behind its macros (`cuMemAlloc_v2`) among them."""
    found = re.findall(stub.declares, header, re.MULTILINE)
    return sorted(
        {name for match in found for name in ([match] if isinstance(match, str) else match) if name}
    )


def make_stubs(include: Path, folder: Path, cc: str) -> None:
    """Compile the stand-ins whose headers are there.

    Raises:
        DoctorError: the compiler fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stub in STUBS:
        header = include / stub.header
        if not header.is_file():
            continue
        names = functions(stub, read_text(header, "replace") or "")
        text = "".join(f"int {name}(void) {{ return {stub.status}; }}\n" for name in names)
        command = [cc, "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{stub.soname}",
                   "-fno-builtin", "-o", str(folder / f"{stub.name}.so")]  # fmt: skip
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DoctorError(
                f"{cc} cannot make {stub.name}.so: {error}; install a compiler."
            ) from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise DoctorError(f"{cc} cannot make {stub.name}.so: {said}; install a compiler.")

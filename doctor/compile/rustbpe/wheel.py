"""Makes the wheel of rustbpe by maturin, and says in a sentence why where that fails."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.compile.rustbpe.cargo import Toolchain
from doctor.compile.rustbpe.crate import Crate
from doctor.environment.installer import Installer
from doctor.errors import DoctorError, Unknown
from doctor.findings.context import Context
from doctor.machine.look import find_version
from doctor.work.live_line import LiveLine
from doctor.work.programs import Ended, Log, Say

COMPILED = re.compile(r"\s*(?:Compiling|Fresh) (\S+) v\d")
RUSTC_ERROR = re.compile(r"error(?:\[E\d+\])?: ")
CARGO_SUMMARY = re.compile(r"error: (?:could not compile|aborting due to)")
ERROR_LINES = 25
"""Lines of a compiler's error that are repeated at most."""
OWN_TOOLS = "tools"
"""Folder for a maturin of our own, in that of the build."""


@dataclass(frozen=True)
class WheelBuilder:
    """All that is needed for a wheel, once the crates are in cargo's cache."""

    crate: Crate
    toolchain: Toolchain
    installer: Installer
    context: Context
    work: Path
    log: Log
    say: Say

    def build(self, offline: bool) -> Path:
        """Compile and pack; the wheel's path.

        Raises:
            DoctorError: maturin cannot be had, or the crate does not compile.
        """
        maturin = self._maturin(offline)
        wheels = self.work / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        command = [*maturin, "build", "--release", "--locked", "--offline", "--verbose"]
        command += ["--manifest-path", str(self.crate.folder / "Cargo.toml")]
        # the wheel is for this machine: it is not checked against others' C libraries
        command += ["--interpreter", self.installer.python, "--compatibility", "off"]
        done = self._compile([*command, "--out", str(wheels)])
        made = sorted(wheels.glob("*.whl"))
        if done.status != 0 or len(made) != 1:
            raise DoctorError(diagnosis(done, self.context, self.log.path))
        return made[0]

    def _compile(self, command: Sequence[str]) -> Ended:
        """Run maturin, and count the crates as they come."""
        total = self._count()
        seen: set[str] = set()
        line = LiveLine(self.say)

        def heard(text: str) -> None:
            if match := COMPILED.match(text):
                seen.add(match[0].split("Compiling ")[-1].split("Fresh ")[-1])
                line.show(
                    f"compiling rustbpe: crate {len(seen)} of {max(total, len(seen))}, {match[1]}"
                )

        self.say(f"compiling rustbpe: {total} crates, some of them may be there already")
        try:
            return self.log.run(command, cwd=self.work, env=self.toolchain.env, heard=heard)
        finally:
            line.clear()

    def _count(self) -> int:
        """How many crates go into the wheel, the crate itself among them."""
        words = ["--edges", "normal,build", "--prefix", "none", "--features"]
        words += [",".join(self.crate.features), "--locked", "--offline"]
        words += ["--manifest-path", str(self.crate.folder / "Cargo.toml")]
        command = [str(self.toolchain.cargo), "tree", *words]
        done = self.log.run(command, cwd=self.work, env=self.toolchain.env)
        lines = {line.removesuffix(" (*)") for line in done.lines if " v" in line}
        return max(1, len(lines))

    # --- maturin -------------------------------------------------------------------------

    def _maturin(self, offline: bool) -> list[str]:
        """maturin of the examined Python, on the PATH, or of our own, which the Python index gives.

        Raises:
            DoctorError: there is none, and none can be fetched.
        """
        tools = self.work / OWN_TOOLS
        own = str(tools / "bin" / "maturin")
        on_path = shutil.which("maturin", path=self.toolchain.env["PATH"])
        choices = [
            [self.installer.python, "-m", "maturin"],
            [own],
            *([[on_path]] if on_path else []),
        ]
        for choice in choices:
            if self._serves(choice):
                return choice
        if offline:
            raise DoctorError(
                f"{self.crate.maturin}, which makes wheels of crates, is not installed, and --offline forbids to "
                f"fetch it; install it into {self.installer.python}."
            )
        self.say(f"fetching {self.crate.maturin}, which makes a wheel of the crate")
        shutil.rmtree(tools, ignore_errors=True)
        index = self.installer.fetch(self.crate.maturin, tools, self.context.tables)
        self.say(f"maturin fetched from {index.name}")
        if not self._serves([own]):
            raise DoctorError(f"{own}, just fetched, does not run; see {self.log.path}.")
        return [own]

    def _serves(self, command: Sequence[str]) -> bool:
        """Whether it runs and is of a version that the crate asks for."""
        from packaging.requirements import Requirement

        if "/" in command[0] and not Path(command[0]).exists():
            return False
        done = self.log.run(
            [*command, "--version"], cwd=self.work, env=self.toolchain.env, seconds=20
        )
        try:
            version = find_version(done.text)
        except Unknown:
            return False
        return done.status == 0 and version in Requirement(self.crate.maturin).specifier


# --- why it failed ---------------------------------------------------------------------------


def diagnosis(done: Ended, context: Context, log: Path) -> str:
    """Why a build failed, in a sentence; where the compiler says it best, its first error follows."""
    text = done.text
    if "No space left on device" in text or "os error 28" in text:
        return "rustbpe cannot be built: the disk is full; free about 300 MB, then run the same command again."
    if done.status == -9 or "signal: 9" in text:
        return (
            "rustbpe cannot be built: its compiler was killed, as the kernel does where memory runs out; end other "
            "programs or set CARGO_BUILD_JOBS=1, then run the same command again."
        )
    if match := re.search(r"linker `([^`]+)` not found", text):
        commands = context.system_install("c-compiler")
        cure = f"run `{' && '.join(commands)}`" if commands else "install a C compiler"
        return f"rustbpe cannot be built: Rust links by {match[1]}, which is not installed; {cure}."
    if error := first_error(done.lines):
        return f"rustbpe does not compile; the first error, all of them are in {log}:\n{error}"
    return f"rustbpe cannot be built: {_last_cause(done)}; see {log}."


def first_error(lines: Sequence[str]) -> str:
    """The compiler's first error with the lines that belong to it; "" where there is none."""
    for start, line in enumerate(lines):
        if RUSTC_ERROR.match(line) and not CARGO_SUMMARY.match(line):
            block = lines[start : start + ERROR_LINES]
            end = next((i for i, text in enumerate(block) if not text.strip()), len(block))
            return "\n".join(block[:end])
    return ""


def _last_cause(done: Ended) -> str:
    """What maturin names as cause, else the last line."""
    causes = re.findall(r"Caused by: (.+)", done.text)
    return str(causes[-1]).rstrip(".") if causes else done.last_line().rstrip(".")

"""A Rust toolchain and a linker of our own, in one folder of the cache; nothing of the user's is touched.

rustup/toolchains/NAME/bin    cargo and rustc, as rustup lays them out
cargo                         cargo's home: the crates that it fetched
zig                           the package `ziglang`, whose compiler links where the machine has none
bin/cc                        calls it under the name by which rustc asks for a linker
"""

from __future__ import annotations

import platform
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.environment.installer import Installer
from doctor.errors import DoctorError
from doctor.knowledge.tables import Tables
from doctor.machine import own_folder
from doctor.machine.own_folder import LINKER, ZIG_PROGRAM, rust_folder
from doctor.machine.system import HOST_PATH
from doctor.work import files
from doctor.work.programs import Say

ZIG = "ziglang"
GLIBC = "2.17"
"""What is linked runs with this one and newer ones; Rust's own libraries ask for no less."""


@dataclass(frozen=True)
class PrivateRust:
    """The folder, and what is in it."""

    folder: Path

    @property
    def toolchain(self) -> Path | None:
        """Folder with its cargo and rustc; the newest where rustup has left several."""
        return own_folder.toolchain(self.folder)

    @property
    def linker(self) -> Path | None:
        """Folder with our `cc`, once it can run."""
        return own_folder.linker(self.folder)

    def homes(self) -> dict[str, str]:
        """Variables that keep rustup and cargo in this folder."""
        return {
            "RUSTUP_HOME": str(self.folder / "rustup"),
            "CARGO_HOME": str(self.folder / "cargo"),
        }

    def with_toolchain(self, env: Mapping[str, str]) -> dict[str, str]:
        """An environment in which its cargo is the first; without a toolchain here, the same as before."""
        if self.toolchain is None:
            return dict(env)
        self._take_over_settings(env)
        found = {**env, **self.homes()}
        found.pop("RUSTUP_TOOLCHAIN", None)
        return found | {"PATH": f"{self.toolchain}:{env.get('PATH', HOST_PATH)}"}

    def with_linker(self, env: Mapping[str, str]) -> dict[str, str]:
        """An environment with our `cc`, where there is no other one."""
        path = env.get("PATH", HOST_PATH)
        if self.linker is None or has_linker(env):
            return dict(env)
        return {**env, "PATH": f"{path}:{self.linker}"}

    def fetch_linker(self, installer: Installer, tables: Tables, say: Say) -> None:
        """Bring a linker from the Python index.

        Raises:
            DoctorError: no index gives it, or the folder cannot be written.
        """
        say(f"fetching {ZIG}, which links where no C compiler is installed")
        installer.fetch(ZIG, self.folder / "zig", tables)
        self.write_linker()

    def write_linker(self) -> None:
        """Write the `cc` that calls zig.

        For a C library of its own choice: to find the machine's, zig would ask the machine's `cc`, which is this one.

        Raises:
            DoctorError: the folder cannot be written.
        """
        zig, cache = (shlex.quote(str(self.folder / name)) for name in (ZIG_PROGRAM, "zig-cache"))
        program = self.folder / "bin" / LINKER
        caches = f"ZIG_GLOBAL_CACHE_DIR={cache} ZIG_LOCAL_CACHE_DIR={cache}"
        target = f"{platform.machine()}-linux-gnu.{GLIBC}"
        files.write(program, f'#!/bin/sh\n{caches} exec {zig} cc -target {target} "$@"\n')
        program.chmod(0o755)

    def _take_over_settings(self, env: Mapping[str, str]) -> None:
        """cargo's configuration of the user: a mirror or a proxy that is set there is needed here, too."""
        home = env.get("CARGO_HOME") or f"{env.get('HOME') or Path.home()}/.cargo"
        theirs, ours = Path(home, "config.toml"), self.folder / "cargo" / "config.toml"
        if theirs.is_file() and theirs != ours and not ours.is_symlink() and not ours.exists():
            ours.parent.mkdir(parents=True, exist_ok=True)
            ours.symlink_to(theirs)


def has_linker(env: Mapping[str, str]) -> bool:
    """Whether what rustc links by is on the PATH."""
    return shutil.which(LINKER, path=env.get("PATH", HOST_PATH)) is not None


def private_rust(env: Mapping[str, str]) -> PrivateRust:
    """The folder for an environment.

    Raises:
        DoctorError: there is no home in which it could lie.
    """
    folder = rust_folder(env)
    if folder is None:
        raise DoctorError(
            "There is no folder for a Rust of our own, as neither HOME nor XDG_CACHE_HOME is set; set one of them."
        )
    return PrivateRust(folder)

"""The folder of what this tool keeps for the next time: answers of indexes, a Rust of its own, wheels of the crate.

index                              answers of package indexes (doctor/index/cache.py)
rustbpe/STATE/*.whl                wheels of the tokenizer's crate (doctor/machine/crate_cache.py)
rust/rustup/toolchains/NAME/bin    cargo and rustc, as rustup lays them out
rust/cargo                         cargo's home: the crates that it fetched
rust/zig                           the package `ziglang`, whose compiler links where the machine has none
rust/bin/cc                        calls it under the name by which rustc asks for a linker
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

LINKER = "cc"
"""What rustc calls where nothing else is set."""

ZIG_PROGRAM = "zig/ziglang/zig"


def own_folder(env: Mapping[str, str]) -> Path | None:
    """`~/.cache/nanochat-doctor`, or below `XDG_CACHE_HOME`; None for somebody without a home."""
    base = env.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # a relative one is to be ignored, by the XDG specification
        home = env.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return Path(base, "nanochat-doctor")


def cache_folder(env: Mapping[str, str]) -> Path | None:
    """Of what indexes answered lately."""
    folder = own_folder(env)
    return folder / "index" if folder else None


def rust_folder(env: Mapping[str, str]) -> Path | None:
    """Of a toolchain that is ours alone."""
    folder = own_folder(env)
    return folder / "rust" if folder else None


def crate_folder(env: Mapping[str, str]) -> Path | None:
    """Of wheels of the tokenizer's crate, in a folder for each state of its source."""
    folder = own_folder(env)
    return folder / "rustbpe" if folder else None


def toolchain(rust: Path) -> Path | None:
    """Folder with our own cargo and rustc; the newest where rustup has left several."""
    found = [
        cargo.parent
        for cargo in rust.glob("rustup/toolchains/*/bin/cargo")
        if os.access(cargo, os.X_OK) and os.access(cargo.with_name("rustc"), os.X_OK)
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def linker(rust: Path) -> Path | None:
    """Folder with our own `cc`, once it can run."""
    program = rust / "bin" / LINKER
    there = program.is_file() and os.access(rust / ZIG_PROGRAM, os.X_OK)
    return program.parent if there else None

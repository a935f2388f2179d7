"""Rules about the Rust toolchain and the rustbpe extension."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.findings.advice import apply_command
from doctor.findings.context import Context
from doctor.findings.finding import INFO, WARNING, Finding
from doctor.knowledge.versions import older


def toolchain(c: Context) -> Iterator[Finding]:
    """cargo and rustc, new enough for the crate; of no interest once the extension is there."""
    rust = c.facts.rust
    if rust is None or (rust.module_path and not rust.module_stale):
        return
    if rust.off_path:
        yield c.finding(
            "rust.missing",
            WARNING,
            f"cargo is installed in {rust.off_path}, and that folder is not on the PATH.",
            [f"{rust.off_path}/cargo exists", "PATH: no cargo"],
            "Put it on the PATH of this shell.",
            [f'. "{rust.off_path.rsplit("/", 1)[0]}/env"'],
        )
    elif any("no default is configured" in reason for reason in rust.unknown.values()):
        yield c.finding(
            "rust.missing",
            WARNING,
            "rustup is installed without a toolchain, so rustc and cargo do nothing.",
            [f"{name}: {reason}" for name, reason in rust.unknown.items()],
            "Let rustup fetch the stable toolchain.",
            ["rustup default stable"],
        )
    elif not ({"rustc", "cargo"} & set(rust.unknown)) and not (rust.rustc and rust.cargo):
        lacking = "cargo" if rust.rustc else "rustc" if rust.cargo else "cargo and rustc"
        yield c.finding(
            "rust.missing",
            WARNING,
            f"{lacking} not found; the tokenizer's extension (rustbpe) is built with them.",
            [f"PATH: no {lacking}"],
            "Install Rust.",
            _install(c),
        )
    elif rust.rustc and older(rust.rustc, c.tables.msrv("rustbpe")):
        lowest = c.tables.msrv("rustbpe")
        yield c.finding(
            "rust.too-old",
            WARNING,
            f"rustc {rust.rustc} is older than {lowest}, the lowest that builds rustbpe.",
            [f"{rust.rustc_path}: {rust.rustc}", "build/rust.toml"],
            "Update the toolchain."
            if rust.rustup
            else "Install a toolchain by rustup; it goes before the distribution's on the PATH.",
            ["rustup update stable"] if rust.rustup else _install(c),
        )


def _install(c: Context) -> list[str]:
    """rustup's own installer: most distributions have no rustup, and an older rustc than crates need."""
    needs = c.tables.rows("packages", "need")
    return [str(row["fallback"]) for row in needs if row["name"] == "rust"]


def extension(c: Context) -> Iterator[Finding]:
    """The extension, absent or built for something else."""
    rust = c.facts.rust
    if rust is None or c.facts.python is None:
        return
    if rust.module_stale:
        yield c.finding(
            "rustbpe.stale",
            WARNING,
            f"The rustbpe extension at {rust.module_path} does not serve: {rust.module_stale}.",
            [str(rust.module_path)],
            "Build it again for this Python.",
            [apply_command(c.facts)] if rust.crate else [],
        )
    elif rust.module_published and rust.tiktoken:
        yield c.finding(
            "rustbpe.published",
            INFO,
            f"The tokenizer trains with the published rustbpe {rust.module_version} and encodes with tiktoken "
            f"{rust.tiktoken}: the same result as with our crate, several times slower.",
            [str(rust.module_path)],
            "Where Rust can be had, build the crate in their place.",
            ["./nanochat-doctor build-rustbpe --install-toolchain"] if rust.crate else [],
        )
    elif rust.module_published:
        yield c.finding(
            "rustbpe.stale",
            WARNING,
            f"The rustbpe at {rust.module_path} is another package of that name, which does not encode.",
            [str(rust.module_path), "no tiktoken, which encodes for it"],
            "Build our crate in its place, or take tiktoken to it with --prebuilt.",
            ["./nanochat-doctor build-rustbpe"] if rust.crate else [],
        )
    elif rust.module_path is None:
        yield c.finding(
            "rustbpe.missing",
            INFO,
            f"The rustbpe extension is not installed in {c.facts.python.executable}; it is needed to "
            "train and use a tokenizer.",
            ["no module rustbpe"],
            "Install it before training a tokenizer.",
            [apply_command(c.facts)],
        )


RULES = (toolchain, extension)

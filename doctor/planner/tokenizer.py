"""How the machine gets its tokenizer: the crate from a wheel, built here, or published packages in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from doctor.facts import Facts, Rust
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, Finding
from doctor.knowledge.supply import Supply
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import older
from doctor.planner.commands import Target, doctor
from doctor.planner.terms.plan import Step

CRATE = "rustbpe"
CODE = "rustbpe.unobtainable"


@dataclass(frozen=True)
class Way:
    """How the tokenizer is come by.

    Attributes:
        name: `wheel`, `build`, `published`, or `none`.
        rust: whether a toolchain is brought first.
        linker: whether a linker is brought first.
        reason: why it is not a better one.
    """

    name: str
    rust: bool = False
    linker: bool = False
    reason: str = ""


def choose(facts: Facts, tables: Tables, supply: Supply | None) -> Way:
    """The best way that can be gone.

    Args:
        supply: what can be had; None is as if everything could, except that published packages which are there
            and serve are left alone.
    """
    rust = facts.rust
    if rust is None or (rust.module_path and not rust.module_stale and not rust.module_published):
        return Way("build")
    if rust.wheel:
        return Way("wheel")
    if supply is None and rust.module_published and rust.tiktoken:
        return Way("published")
    supply = supply or Supply()
    wanted = _lacking(facts, rust, tables)
    reasons = list(_hindrances(facts, wanted, supply))
    if not reasons:
        return wanted
    reason = joined(reasons)
    if supply.published and _has_glibc(facts):
        return Way("published", reason=reason)
    return Way("none", reason=reason)


def _lacking(facts: Facts, rust: Rust, tables: Tables) -> Way:
    """A build, with what it lacks."""
    there = rust.own_toolchain or bool(rust.off_path)
    if rust.cargo and rust.rustc:
        there = there or not older(rust.rustc, tables.msrv(CRATE))
    tools = facts.host.tools if facts.host else {}
    links = bool(rust.linker) or rust.own_linker or "gcc" in tools or "clang" in tools
    return Way("build", rust=not there, linker=not links)


def _hindrances(facts: Facts, wanted: Way, supply: Supply) -> Iterator[str]:
    """What a build needs and cannot have."""
    if wanted.rust and not supply.rustup:
        yield f"no server with Rust toolchains answers ({supply.troubles.get('rustup', 'none')})"
    elif not supply.crates:
        yield f"no registry of crates answers ({supply.troubles.get('crates', 'none')})"
    if wanted.linker and not (supply.linker and _has_glibc(facts)):
        yield "no linker is here, and none can be had from the Python index"


def _has_glibc(facts: Facts) -> bool:
    """Whether wheels for Linux run here; not the question on other systems."""
    return facts.host is None or facts.host.libc in (None, "glibc")


# --- steps -----------------------------------------------------------------------------------


def steps(way: Way, tables: Tables, target: Target) -> Iterator[Step]:
    """What carries it out, with sizes; none where there is no way."""
    command = ("build-rustbpe", "--python", target.python)
    if way.rust or way.linker:
        parts = [name for name, lacks in (("Rust", way.rust), ("a linker", way.linker)) if lacks]
        rows = [name for name, lacks in (("rust", way.rust), ("linker", way.linker)) if lacks]
        step = _step(
            "rust-toolchain",
            f"Bring {joined(parts)} for this tool alone",
            (doctor(target, *command, "--only-toolchain"),),
            tables,
            *rows,
        )
        yield step
    if way.name == "wheel":
        title = "Install the tokenizer crate from a wheel that was built earlier"
        yield _step("rustbpe", title, (doctor(target, *command),), tables, "crate-wheel")
    elif way.name == "build":
        title = "Build the tokenizer crate and install it"
        yield _step("rustbpe", title, (doctor(target, *command),), tables, "rustbpe")
    elif way.name == "published":
        title = (
            "Install the published rustbpe and tiktoken in place of the tokenizer crate (slower)"
        )
        words = (*command, "--prebuilt")
        yield _step("rustbpe", title, (doctor(target, *words),), tables, "published-rustbpe")


def _step(name: str, title: str, commands: tuple[str, ...], tables: Tables, *costs: str) -> Step:
    rows = {row["flavour"]: row for row in tables.rows("torch", "footprint")}
    step = Step(name, title, commands)
    for cost in costs:
        row = rows[cost]
        step = replace(
            step,
            network_mb=step.network_mb + int(row["network_mb"]),
            disk_mb=step.disk_mb + int(row["disk_mb"]),
            minutes=step.minutes + float(row["minutes"]),
        )
    return step


# --- what is said ----------------------------------------------------------------------------


def notes(way: Way) -> list[str]:
    """What a person should know of the way."""
    if way.name != "published":
        return []
    if not way.reason:
        return [
            "The published rustbpe and tiktoken do the tokenizer's work here, slower than the crate."
        ]
    return [
        f"The tokenizer crate cannot be built here now, as {way.reason}: the published rustbpe and tiktoken do its "
        "work, with the same result, several times slower. Where Rust can be had, the next apply builds the crate in "
        "their place."
    ]


def findings(way: Way, context: Context) -> list[Finding]:
    """That there is no way, with what would open one."""
    if way.name != "none":
        return []
    commands = [*context.system_install("rust"), *context.system_install("c-compiler")]
    return [
        context.finding(
            CODE,
            ERROR,
            f"The tokenizer cannot be had here: {way.reason}, and the published packages have no wheel for this "
            "machine.",
            [way.reason],
            "Install Rust and a C compiler, or connect this machine to a registry of crates.",
            commands,
        )
    ]

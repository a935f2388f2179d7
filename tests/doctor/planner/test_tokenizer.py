"""How a machine gets its tokenizer: which way is taken, with which steps, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doctor.facts import Facts, Host, Rust
from doctor.findings.context import Context
from doctor.knowledge.supply import Supply
from doctor.knowledge.tables import Tables
from doctor.planner import tokenizer
from doctor.planner.commands import Target
from doctor.planner.tokenizer import Way, choose

TABLES = Tables()
NOTHING = Supply(False, False, False, False)
BARE = Rust()
CARGO = Rust(rustc="1.90.0", cargo="1.90.0")
LINKING = replace(CARGO, linker="/usr/bin/cc")
OURS = Rust(module_path="/v/rustbpe", module_distribution="nanochat-rustbpe")
PUBLISHED = Rust(module_path="/v/rustbpe", module_published=True, tiktoken="0.14.0")


def facts(rust: Rust | None, libc: str = "glibc") -> Facts:
    return Facts(tool="test", host=Host(os="Linux", arch="x86_64", libc=libc), rust=rust)


@pytest.mark.parametrize(
    ("rust", "supply", "wanted"),
    [
        (OURS, NOTHING, Way("build")),  # there already: apply finds that out
        (None, None, Way("build")),
        (replace(BARE, wheel="/c/nanochat_rustbpe.whl"), NOTHING, Way("wheel")),
        (LINKING, Supply(), Way("build")),
        (CARGO, Supply(), Way("build", linker=True)),
        (replace(LINKING, rustc="1.63.0"), Supply(), Way("build", rust=True)),
        (Rust(off_path="/h/.cargo/bin", linker="/usr/bin/cc"), Supply(), Way("build")),
        (Rust(own_toolchain=True, own_linker=True), Supply(), Way("build")),
        (BARE, Supply(), Way("build", rust=True, linker=True)),
        (BARE, None, Way("build", rust=True, linker=True)),
        (PUBLISHED, None, Way("published")),  # nobody was asked: what serves stays
        (PUBLISHED, Supply(), Way("build", rust=True, linker=True)),  # the way back
        (replace(PUBLISHED, tiktoken=None), None, Way("build", rust=True, linker=True)),
        (replace(OURS, module_stale="built for cp310"), Supply(), Way("build", rust=True, linker=True)),
    ],
)  # fmt: skip
def test_the_best_way_that_can_be_gone(
    rust: Rust | None, supply: Supply | None, wanted: Way
) -> None:
    assert choose(facts(rust), TABLES, supply) == wanted


@pytest.mark.parametrize(
    ("rust", "supply", "reason"),
    [
        (BARE, Supply(rustup=False, troubles={"rustup": "refused"}), "toolchains answers (refused)"),
        (LINKING, Supply(crates=False, troubles={"crates": "timed out"}), "crates answers (timed out)"),
        (CARGO, Supply(linker=False), "no linker"),
    ],
)  # fmt: skip
def test_published_packages_where_a_part_cannot_be_had(
    rust: Rust, supply: Supply, reason: str
) -> None:
    way = choose(facts(rust), TABLES, supply)
    assert way.name == "published" and reason in way.reason
    (note,) = tokenizer.notes(way)
    assert reason in note and "slower" in note
    (step,) = tokenizer.steps(way, TABLES, Target("/v/bin/python"))
    assert step.id == "rustbpe" and step.commands[0].endswith("--python /v/bin/python --prebuilt")
    assert "slower" in step.title and step.network_mb > 0
    assert not tokenizer.findings(way, Context(facts(rust), TABLES))


@pytest.mark.parametrize(
    ("libc", "supply"),
    [("glibc", NOTHING), ("musl", Supply(rustup=False)), ("glibc", Supply(False, False, False))],
)
def test_no_way_is_an_error_before_anything_is_fetched(libc: str, supply: Supply) -> None:
    machine = facts(BARE, libc)
    way = choose(machine, TABLES, supply)
    assert way.name == "none" and not list(tokenizer.steps(way, TABLES, Target("/v/bin/python")))
    (finding,) = tokenizer.findings(way, Context(machine, TABLES))
    assert (finding.code, finding.severity) == ("rustbpe.unobtainable", "error")


def test_what_is_brought_is_a_step_of_its_own_with_its_size() -> None:
    found = list(tokenizer.steps(Way("build", True, True), TABLES, Target("/v/bin/python")))
    assert [step.id for step in found] == ["rust-toolchain", "rustbpe"]
    assert found[0].commands[0].endswith("--only-toolchain")
    both, rust, linker = (
        next(iter(tokenizer.steps(Way("build", *parts), TABLES, Target("/v/bin/python"))))
        for parts in ((True, True), (True, False), (False, True))
    )
    assert both.network_mb == rust.network_mb + linker.network_mb > rust.network_mb > 0
    assert "Rust and a linker" in both.title and "Rust" not in linker.title


def test_musl_gets_no_linker_that_is_made_for_glibc() -> None:
    way = choose(facts(CARGO, "musl"), TABLES, Supply())
    assert way.name == "none" and "linker" in way.reason
    assert choose(facts(LINKING, "musl"), TABLES, Supply()) == Way("build")

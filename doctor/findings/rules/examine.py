"""Facts in, findings out: rules that name a problem, its evidence and its cure.

A rule is a generator over a `Context`; its module says which area it belongs to. A rule that
raises becomes an error of its own, since what it would have said is unknown; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from doctor.errors import DoctorError
from doctor.facts import Facts
from doctor.findings.context import Context
from doctor.findings.finding import ERROR, INFO, SEVERITIES, WARNING, Finding, Remedy
from doctor.findings.rules import deep, host, npu, others, rust, storage, unexplained
from doctor.findings.rules.nvidia import cards, cuda, driver, jetson, start
from doctor.findings.rules.torch import code, companions, installed, packages
from doctor.knowledge.tables import Tables

Rule = Callable[[Context], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    *host.RULES,
    *cuda.RULES,
    *cards.RULES,
    *start.RULES,
    *driver.RULES,
    *jetson.RULES,
    *installed.RULES,
    *code.RULES,
    *packages.RULES,
    *companions.RULES,
    *npu.RULES,
    *others.RULES,
    *rust.RULES,
    *storage.RULES,
    *deep.RULES,
)


def examine(facts: Facts, tables: Tables) -> list[Finding]:
    """All findings of a machine: what blocks training first, in the order of build/codes.toml."""
    context = Context(facts, tables)
    found: dict[tuple[str, str], Finding] = {}
    for rule in RULES:
        for finding in _guarded(rule, context):
            found.setdefault((finding.code, finding.cause), finding)
    for finding in unexplained.devices(context, list(found.values())):
        found[finding.code, finding.cause] = finding
    return sorted(
        found.values(),
        key=lambda f: (SEVERITIES.index(f.severity), tables.code(f.code)["order"]),
    )


def _guarded(rule: Rule, context: Context) -> Iterator[Finding]:
    try:
        yield from rule(context)
    except DoctorError:
        raise
    except Exception as error:
        yield Finding(
            code="doctor.rule-failed",
            severity=ERROR,  # what it would have said is unknown, and unknown is not fine
            title=context.tables.code("doctor.rule-failed")["title"],
            cause=f"The rule {rule.__name__} met facts that it cannot read: "
            f"{type(error).__name__}: {error}.",
            evidence=(f"{rule.__module__}.{rule.__name__}",),
            remedy=Remedy("Report it with the output of the command.", ("nanochat-doctor facts",)),
        )


__all__ = ["ERROR", "INFO", "WARNING", "Finding", "Remedy", "examine"]

"""The one thing to do after a check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doctor.facts import Facts
from doctor.findings.advice import apply_command
from doctor.findings.finding import ERROR, Finding
from doctor.text import invocation
from doctor.text.quantities import count


def lines(facts: Facts, findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Prose and the command behind it, "" where there is none: what it all means here, and what to do next.

    What a person must do comes before what apply does: apply would refuse.
    """
    errors = [finding for finding in findings if finding.severity == ERROR]
    if not errors:
        known = ", as far as could be looked" if facts.unknown else ""
        yield f"Nothing found that stops training here{known}.", ""
    next_ = "Next, on that machine:" if facts.root else "Next:"
    by_hand = next((finding.remedy for finding in errors if not is_mended_by_apply(finding)), None)
    if by_hand is None:
        yield next_, _by_tool(facts, findings)
    elif len(by_hand.commands) == 1:
        yield next_, by_hand.commands[0]
    else:
        # several commands go one after another, and what cannot be run stands in the text
        many = f" ({count(len(by_hand.commands), 'command')} above)" if by_hand.commands else ""
        yield f"{next_} {by_hand.text}{many}", ""


A_STEP = frozenset({"torch.version-conflict"})
"""Codes whose commands are those of a step of the plan, too."""


def is_mended_by_apply(finding: Finding) -> bool:
    """Whether apply mends it: its rule says so, or its commands are what a step does."""
    commands, apply = finding.remedy.commands, invocation.command("apply")
    return any(c.startswith(apply) for c in commands) or (finding.code in A_STEP and bool(commands))


def _by_tool(facts: Facts, findings: Sequence[Finding]) -> str:
    """Our own command: apply, until what it brings is there."""
    torch, rust = facts.torch, facts.rust
    ready = bool(torch and torch.installed and rust and rust.module_path)
    to_apply = any(map(is_mended_by_apply, findings))
    if ready and not to_apply and not facts.root:
        return invocation.command("speedrun")
    return apply_command(facts)

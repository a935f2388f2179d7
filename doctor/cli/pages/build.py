"""A build before it begins, for a person and for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import IO, Any

from doctor.compile.torch.outlook import Outlook
from doctor.compile.torch.preflight import stops
from doctor.findings.finding import ERROR, Finding
from doctor.planner.build.jobs import usable_gb
from doctor.text.quantities import about, count, memory

WIDTH = 100


def print_outlook(outlook: Outlook, out: IO[str]) -> None:
    """Recipe, jobs, estimate and preflight."""
    for line in _lines(outlook):
        out.write(line + "\n")


def to_json(outlook: Outlook) -> dict[str, Any]:
    """The same as one event's fields."""
    tree, chosen = outlook.tree, outlook.chosen
    return {
        "source": str(outlook.folder),
        "ref": outlook.ref,
        "torch": tree.version if tree else None,
        "commit": tree.commit if tree else None,
        "archs": list(chosen.archs),
        "libuv": chosen.libuv,
        "cuda_home": chosen.toolkit.path if chosen.toolkit else None,
        "cuda": chosen.toolkit.version if chosen.toolkit else None,
        "compiler": f"{chosen.compiler.cxx} {chosen.compiler.version}" if chosen.compiler else None,
        "jobs": chosen.jobs.wide,
        "heavy_jobs": chosen.jobs.heavy,
        "nvcc_threads": 1,
        "hours": round(outlook.hours, 4),
        "env": dict(outlook.settings),
        "notes": list(outlook.notes),
        "findings": [finding.to_json() for finding in outlook.findings],
    }


def _lines(outlook: Outlook) -> Iterator[str]:
    tree, chosen, jobs = outlook.tree, outlook.chosen, outlook.chosen.jobs
    if tree is None:
        yield f"PyTorch {outlook.ref}, to be cloned to {outlook.folder}"
    else:
        commit = f"git {tree.commit[:7]}" if tree.commit else "no git tree"
        dirty = f", {count(len(tree.changed), 'file')} changed" if tree.changed else ""
        yield f"PyTorch {tree.version} in {tree.path} ({commit}{dirty})"
    target = f"for {', '.join(chosen.archs)}" if chosen.archs else "for the CPU"
    parts = [target, "with libuv" if chosen.libuv else "without libuv"]
    if chosen.toolkit:
        parts.append(
            f"CUDA {chosen.toolkit.version or 'of unknown version'} at {chosen.toolkit.path}"
        )
    if chosen.compiler:
        parts.append(f"{chosen.compiler.kind} {chosen.compiler.version}")
    python = outlook.facts.python
    if python and python.version:
        parts.append(f"Python {python.version}")
    yield ", ".join(parts)
    yield ""
    yield "Recipe (build/recipes.toml)"
    for name, value in outlook.settings.items():
        yield f"  {name}={value}"
    yield ""
    usable = usable_gb(outlook.facts.host)
    heavy = (
        f", at most {jobs.heavy} of them on heavy objects (flash attention, {memory(jobs.heavy_gb * 1024)} each)"
        if chosen.archs and jobs.heavy < jobs.wide
        else ""
    )
    room = f"; {memory(usable * 1024)} of memory can be used" if usable else ""
    yield f"Jobs: {jobs.wide}{heavy}, one nvcc thread each{room}"
    yield f"Time: {about(outlook.hours * 3600)}, an estimate that what is built here corrects"
    for note in outlook.notes:
        yield from textwrap.wrap(f"Note: {note}", WIDTH, subsequent_indent="      ")
    yield ""
    if not outlook.findings:
        yield "Preflight: nothing stands in the way."
        return
    yield "Preflight: " + (
        "the build cannot begin." if stops(outlook.findings) else "the build can begin."
    )
    for finding in outlook.findings:
        yield from _finding(finding)


def _finding(finding: Finding) -> Iterator[str]:
    sign = "✗" if finding.severity == ERROR else "!"
    yield from textwrap.wrap(
        f"  {sign} {finding.code}: {finding.cause}", WIDTH, subsequent_indent="    "
    )
    yield from textwrap.wrap(f"    → {finding.remedy.text}", WIDTH, subsequent_indent="      ")
    for command in finding.remedy.commands:
        yield f"      $ {command}"

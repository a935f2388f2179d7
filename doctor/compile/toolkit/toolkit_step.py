"""The step of build-torch before the build: a CUDA toolkit from the Python index, where none here serves."""

from __future__ import annotations

from dataclasses import replace

from doctor.compile.toolkit.wheel_toolkit import ToolkitOffer, make, offer
from doctor.compile.torch.carry_out import new_log
from doctor.compile.torch.outlook import CACHE_SECTION, Outlook, base_folder, torch_version
from doctor.errors import DoctorError
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.work.events import Reporter
from doctor.work.run import clean_environment, search_path

CURED = (
    "cuda.toolkit-missing",
    "cuda.toolkit-too-old-for-arch",
    "cuda.toolkit-mismatch",
    "cuda.host-compiler-unsupported",
)
"""Findings that another toolkit cures."""


def offer_for(found: Outlook, tables: Tables) -> ToolkitOffer | None:
    """What the Python index has for this build; None where this machine has what it takes."""
    if not any(f.code in CURED and f.severity == ERROR for f in found.findings):
        return None
    base = base_folder(found.facts)
    return offer(found.facts, tables, found.chosen, torch_version(found), base, found.compilers)


def told(found: Outlook, offered: ToolkitOffer, agreed: bool) -> Outlook:
    """The same outlook, which tells of the offer; what it cures stops nothing where it was agreed to."""
    return replace(found, findings=tuple(_told(f, offered, agreed) for f in found.findings))


def _told(finding: Finding, offered: ToolkitOffer, agreed: bool) -> Finding:
    if finding.code not in CURED or finding.severity != ERROR:
        return finding
    text = f"Without root: {offered.words}"
    if agreed:
        remedy = replace(finding.remedy, text=f"{text}, before the build.", commands=())
        return replace(finding, severity=WARNING, remedy=remedy)
    text = f"{text}: run this again with --yes. Or, with root: {finding.remedy.text}"
    return replace(finding, remedy=replace(finding.remedy, text=text))


def put_together(offered: ToolkitOffer, found: Outlook, system: System, reporter: Reporter) -> None:
    """Make it.

    Raises:
        DoctorError: there is no Python, no space, or the index does not serve.
    """
    python = found.facts.python.executable if found.facts.python else None
    if python is None:
        raise DoctorError(
            "There is no Python to fetch the CUDA toolkit with; name one with --python."
        )
    env = clean_environment(system.env)
    env["PATH"] = search_path(python, env)
    log = new_log(base_folder(found.facts) / CACHE_SECTION)
    make(offered, python=python, env=env, log=log, reporter=reporter)

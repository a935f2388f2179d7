"""Prints facts and findings for people: a line for each area, each problem with its cure, and what to do next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from doctor.cli.pages import next_step
from doctor.facts import AREAS, Facts
from doctor.findings.finding import ERROR, INFO, WARNING, Finding
from doctor.findings.rules.others import names
from doctor.text.paper import Paper
from doctor.text.quantities import count, disk_of_mib, memory
from doctor.text.visible import visible

MARKS = {ERROR: "✗", WARNING: "!", INFO: "·", "fine": "✓", "unknown": "?", "absent": "-"}
COLOURS = {ERROR: "red", WARNING: "yellow", "fine": "green", INFO: "cyan", "unknown": "magenta"}

AREA_OF_CODE = {
    "host": "host", "cuda": "nvidia", "npu": "ascend", "torch": "torch", "rust": "rust",
    "rustbpe": "rust", "data": "storage", "tokenizer": "storage", "train": "storage",
    "hub": "storage", "dist": "torch", "doctor": "python",
}  # fmt: skip
"""First part of a problem code -> the area under which it is shown."""

PYTHON_CODES = ("host.python", "host.venv", "host.externally")
NETWORK_CODES = ("host.network",)

RULES = "doctor.findings.rules."
AREA_OF_RULES = {
    "host": "host", "nvidia": "nvidia", "npu": "ascend", "torch": "torch", "deep": "torch",
    "rust": "rust", "storage": "storage",
}  # fmt: skip
"""File or folder of rules -> the area of which nobody knows, when one of them has crashed."""

IN_WORDS = {
    "free": "free space", "prefix_free": "free space", "open_files_soft": "limit of open files",
    "libstdcxx": "libstdc++", "user_is_root": "whether you are root", "bits": "32 or 64 bits",
}  # fmt: skip
"""Names of values that say little to a reader who does not know the JSON."""

EVIDENCE = 3
"""Lines of evidence that are shown of a finding; all with --verbose."""

STATES = {True: "fine", False: ERROR, None: "absent"}
"""Of an experiment."""


def area_of(code: str) -> str:
    """The area under which a finding is shown."""
    if code.startswith(PYTHON_CODES):
        return "python"
    return "network" if code.startswith(NETWORK_CODES) else AREA_OF_CODE[code.partition(".")[0]]


def print_report(
    facts: Facts,
    findings: Sequence[Finding],
    areas: Sequence[str],
    out: IO[str],
    verbose: bool = False,
) -> None:
    """Print summary, findings, how many there are, and what to do next."""
    paper = Paper.of(out)
    states = [_area(facts, findings, area) for area in areas]
    for area, (state, text) in zip(areas, states, strict=True):
        paper.prose(text, first=f"{mark(state, paper)} {paper.bold(f'{area:8}')} ")
        if verbose:
            for name, reason in unknowns(getattr(facts, area)):
                paper.prose(f"{name}: {reason}", first=" " * 13, rest=" " * 15, dim=True)
    _print_deep(facts, paper)
    for finding in findings:
        if not _is_to_come(finding):
            paper.line()
            paper.lines(finding_lines(finding, paper, None if verbose else EVIDENCE))
    to_come = [finding.code for finding in findings if _is_to_come(finding)]
    if to_come:
        paper.line()
        paper.prose(
            ", ".join(to_come),
            first=f"{mark(INFO, paper)} not there yet, made by apply and speedrun: ",
            rest="    ",
        )
    paper.line()
    unknown = sum(state == "unknown" for state, _ in states)
    paper.prose(_counted(findings, unknown, verbose), rest="  ")
    for text, command in next_step.lines(facts, findings):
        paper.line(f"{text} {visible(command)}") if command else paper.prose(text, rest="  ")


def _print_deep(facts: Facts, paper: Paper) -> None:
    """What the experiments showed."""
    if facts.deep is None:
        if "deep" in facts.unknown:
            paper.line()
            paper.prose(
                facts.unknown["deep"], first=f"{mark('unknown', paper)} experiments: ", rest="    "
            )
        return
    paper.line()
    for check in facts.deep.checks:
        took = f" ({check.seconds:.1f} s)" if check.seconds is not None else ""
        first = f"{mark(STATES[check.ok], paper)} {check.name}: "
        paper.prose(f"{check.detail}{took}", first=first, rest="    ")


def _is_to_come(finding: Finding) -> bool:
    """Whether it is merely not there yet, and its code says all."""
    return finding.severity == INFO and finding.code.endswith("missing")


def _counted(findings: Sequence[Finding], unknown: int, verbose: bool) -> str:
    """How many of what were found."""
    numbers = {kind: sum(f.severity == kind for f in findings) for kind in (ERROR, WARNING, INFO)}
    found = [count(numbers[ERROR], "error"), count(numbers[WARNING], "warning")]
    found += [count(numbers[INFO], "note")] if numbers[INFO] else []
    text = f"Found {', '.join(found)}"
    if unknown:
        why = "" if verbose else " (-v says why)"
        text += f"; {count(unknown, 'area')} marked ? {'is' if unknown == 1 else 'are'} not fully known{why}"
    return f"{text}."


def mark(state: str, paper: Paper) -> str:
    """The sign of a severity or an area's state."""
    return paper.style(MARKS[state], fg=COLOURS.get(state), bold=state == ERROR)


def finding_lines(finding: Finding, paper: Paper, evidence: int | None = 0) -> list[str]:
    """Title, cause, evidence and cure; a command is one line, never broken: it is there to be copied.

    Args:
        evidence: pieces of it at the most; None is all.
    """
    first = f"{mark(finding.severity, paper)} "
    lines = paper.fold(f"{finding.title} [{finding.code}]", first=first, bold=True)
    lines += paper.fold(finding.cause, first="    ")
    for item in finding.evidence[:evidence]:
        lines += paper.fold(f"read: {item}", first="    ", rest="      ", dim=True)
    lines += paper.fold(finding.remedy.text, first="    → ")
    return [*lines, *(f"      {visible(command)}" for command in finding.remedy.commands)]


# --- one line per area ------------------------------------------------------------------------


def _area(facts: Facts, findings: Sequence[Finding], area: str) -> tuple[str, str]:
    """State and text of an area; what is not fully known is never fine."""
    own = [f.severity for f in findings if area_of(f.code) == area]
    state = ERROR if ERROR in own else WARNING if WARNING in own else "fine"
    if area in facts.unknown:
        return ("unknown" if state == "fine" else state), facts.unknown[area]
    value = getattr(facts, area)
    if value is None:
        return "absent", "not looked at"
    gaps = [name for name, _ in unknowns(value)]
    if gaps or area in _crashed(findings):
        state = "unknown" if state == "fine" else state
    if area == "torch" and facts.torch is not None and "installed" in facts.torch.unknown:
        return state, facts.torch.unknown["installed"]
    text = ", ".join(part for part in SUMMARIES[area](facts) if part)
    if not text:
        return ("absent" if state == "fine" else state), f"none{_not_known(gaps, ' seen; ')}"
    return state, f"{text}{_not_known(gaps, '; ')}"


def _not_known(gaps: Sequence[str], before: str) -> str:
    """The first of the values that are not known."""
    named = [IN_WORDS.get(name, name.replace("_", " ")) for name in gaps]
    more = f" and {len(gaps) - 2} more" if len(gaps) > 2 else ""
    return f"{before}not known: {', '.join(named[:2])}{more}" if gaps else ""


def _crashed(findings: Sequence[Finding]) -> set[str]:
    """Areas of which a rule has crashed."""
    rules = [f.evidence[0] for f in findings if f.code == "doctor.rule-failed" and f.evidence]
    return {AREA_OF_RULES.get(rule.removeprefix(RULES).split(".")[0], "") for rule in rules}


def unknowns(value: Any) -> Iterator[tuple[str, str]]:
    """What of some facts is not known, and why: names as in the JSON."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from unknowns(item)
    elif dataclasses.is_dataclass(value):
        yield from getattr(value, "unknown", {}).items()
        for field in dataclasses.fields(value):
            yield from unknowns(getattr(value, field.name))


def _host(facts: Facts) -> Iterator[str]:
    host = facts.host
    assert host is not None
    yield host.distro_name or host.os or "unknown system"
    yield f"WSL, {host.arch}" if host.wsl else host.arch or ""
    if host.container:
        yield f"in {host.container}"
    yield host.cpu_model or ""
    yield count(host.cores, "core") if host.cores else ""
    yield memory(host.memory_total) if host.memory_total else "memory unknown"
    yield f"{host.libc} {host.libc_version}" if host.libc_version else host.libc or ""
    yield f"{names(host.accelerators)} (not used)" if host.accelerators else ""
    gcc = host.tools.get("gcc")
    yield f"gcc {gcc.version}" if gcc else ""


def _python(facts: Facts) -> Iterator[str]:
    python = facts.python
    assert python is not None
    kind = "venv" if python.venv else "conda" if python.conda else "system"
    yield f"{python.version or 'unknown version'} ({kind}) at {python.executable}"
    yield python.chosen_by


def _nvidia(facts: Facts) -> Iterator[str]:
    nvidia = facts.nvidia
    assert nvidia is not None
    kinds: dict[str, int] = {}
    for gpu in nvidia.gpus:
        size = memory(gpu.memory_total) if gpu.memory_total else "memory shared or unknown"
        text = f"{gpu.name or 'unknown GPU'} (compute {gpu.compute_capability or '?'}, {size})"
        kinds[text] = kinds.get(text, 0) + 1
    yield from (text if many == 1 else f"{many} × {text}" for text, many in kinds.items())
    if not nvidia.gpus:
        yield from (f"{d.chip or d.device_id} on the bus" for d in nvidia.pci_devices)
    driver = nvidia.driver_version or nvidia.kernel_driver
    if driver:
        yield f"driver {driver}" + (f" (CUDA {nvidia.driver_cuda})" if nvidia.driver_cuda else "")
    if nvidia.nvcc_version:
        yield f"nvcc {nvidia.nvcc_version}"
    if nvidia.gpus and len(nvidia.visible) != len(nvidia.gpus):
        yield f"{len(nvidia.visible)} of {len(nvidia.gpus)} visible"


def _ascend(facts: Facts) -> Iterator[str]:
    ascend = facts.ascend
    assert ascend is not None
    many = len(ascend.npus) or len(ascend.device_nodes) or len(ascend.pci_devices)
    if many:
        name = next((npu.name for npu in ascend.npus), None) or "NPU"
        size = next((npu.hbm_total for npu in ascend.npus if npu.hbm_total), None)
        yield f"{many} × {name}" + (f" ({memory(size)})" if size else "")
    if ascend.driver_version:
        yield f"driver {ascend.driver_version}"
    active = ascend.active
    if active:
        state = "" if ascend.env_sourced else " (not sourced)"
        yield f"CANN {active.version or '?'}{state}"
    if ascend.torch_npu:
        yield f"torch_npu {ascend.torch_npu.version}"


def _torch(facts: Facts) -> Iterator[str]:
    torch = facts.torch
    assert torch is not None
    build = torch.installed
    if build is None:
        yield torch.unknown.get("installed") or "not installed"
        trees = [tree for tree in torch.local_trees if tree.built]
        if trees:
            yield f"built tree {trees[0].version} at {trees[0].path}"
        return
    yield f"{build.version or 'unknown version'}"
    if build.flavour == "cuda":
        yield f"CUDA {build.cuda or 'unknown'}"
        yield f"code for {' '.join(build.archs_covered) or 'unknown architectures'}"
        if build.archs_partial:
            yield f"in part {' '.join(build.archs_partial)}"
    else:
        yield f"{build.flavour} build"
    parts = (("libuv", build.libuv), ("NCCL", build.nccl if build.flavour == "cuda" else None))
    yield " ".join(
        f"{name} {'yes' if value else 'no'}" for name, value in parts if value is not None
    )


def _rust(facts: Facts) -> Iterator[str]:
    rust = facts.rust
    assert rust is not None
    yield f"rustc {rust.rustc}" if rust.rustc else "no rustc"
    if rust.module_path:
        yield f"rustbpe {rust.module_version or ''}".strip()


def _storage(facts: Facts) -> Iterator[str]:
    storage = facts.storage
    assert storage is not None
    yield storage.base_dir or "no base folder"
    yield f"{disk_of_mib(storage.free)} free" if storage.free is not None else ""
    shards = sum(s.count for s in storage.shards)
    yield count(shards, "shard") if shards else ""
    stages = ", ".join(storage.checkpoints)
    yield f"checkpoints: {stages}" if stages else ""


def _network(facts: Facts) -> Iterator[str]:
    network = facts.network
    assert network is not None
    for endpoint in network.endpoints:
        if endpoint.reachable and endpoint.latency is not None:
            yield f"{endpoint.name} {endpoint.latency * 1000:.0f} ms"
        else:
            yield f"{endpoint.name} unreachable"


SUMMARIES: Mapping[str, Callable[[Facts], Iterator[str]]] = {
    "host": _host,
    "python": _python,
    "nvidia": _nvidia,
    "ascend": _ascend,
    "torch": _torch,
    "rust": _rust,
    "storage": _storage,
    "network": _network,
}
assert set(SUMMARIES) == set(AREAS)

"""Prints facts and findings for people: a summary by area, then each problem with its cure."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

import click

from doctor.facts import AREAS, Facts
from doctor.findings import ERROR, INFO, WARNING, Finding
from doctor.visible import visible

MARKS = {ERROR: "✗", WARNING: "!", INFO: "·", "fine": "✓", "unknown": "?", "absent": "-"}
PLAIN = str.maketrans({"✗": "x", "✓": "+", "·": ".", "→": "->", "×": "x", "…": "..."})
"""For terminals whose encoding has no such signs."""
COLOURS = {ERROR: "red", WARNING: "yellow", "fine": "green", INFO: "cyan", "unknown": "magenta"}

AREA_OF_CODE = {
    "host": "host", "cuda": "nvidia", "npu": "ascend", "torch": "torch", "rust": "rust",
    "rustbpe": "rust", "data": "storage", "tokenizer": "storage", "train": "storage",
    "hub": "storage", "dist": "torch", "doctor": "python",
}  # fmt: skip
"""First part of a problem code -> the area under which it is shown."""

PYTHON_CODES = ("host.python", "host.venv", "host.externally")
NETWORK_CODES = ("host.network",)
WIDTH = 100


def area_of(code: str) -> str:
    """The area under which a finding is shown."""
    if code.startswith(PYTHON_CODES):
        return "python"
    return "network" if code.startswith(NETWORK_CODES) else AREA_OF_CODE[code.partition(".")[0]]


def print_report(
    facts: Facts, findings: Sequence[Finding], areas: Sequence[str], out: IO[str]
) -> None:
    """Print summary, findings, and what to do next.

    Colours only where `out` is a terminal and NO_COLOR is not set; it reads well without.
    """
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    plain = not _knows("".join(MARKS.values()), out)
    import shutil  # only where a person reads

    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)

    def line(text: str = "") -> None:
        click.echo(text.translate(PLAIN) if plain else text, file=out, color=colour)

    for area in areas:
        state, text = _area(facts, findings, area)
        line(f"{_mark(state)} {click.style(f'{area:8}', bold=True)} {visible(text)}")
    if facts.deep is not None:
        line()
        for check in facts.deep.checks:
            state = {True: "fine", False: ERROR, None: "absent"}[check.ok]
            took = f" ({check.seconds:.1f} s)" if check.seconds is not None else ""
            line(f"{_mark(state)} {check.name}: {visible(check.detail)}{took}")
    told = [f for f in findings if f.severity != INFO]
    for finding in told:
        line()
        _print_finding(finding, width, line)
    notes = [f for f in findings if f.severity == INFO]
    if notes:
        line()
        line(f"{_mark(INFO)} not there yet: {', '.join(f.code for f in notes)}")
    line()
    line(visible(next_step(facts, findings)))


def _knows(signs: str, out: IO[str]) -> bool:
    try:
        signs.encode(getattr(out, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _mark(state: str) -> str:
    return click.style(MARKS[state], fg=COLOURS.get(state), bold=state == ERROR)


def _print_finding(finding: Finding, width: int, line: Callable[[str], None]) -> None:
    code = click.style(finding.code, bold=True)
    line(f"{_mark(finding.severity)} {finding.title}  [{code}]")
    for row in _wrapped(finding.cause, width):
        line(row)
    for item in finding.evidence[:3]:
        line(click.style(f"    read: {visible(item)}", dim=True))
    for row in _wrapped(f"→ {finding.remedy.text}", width):
        line(row)
    for command in finding.remedy.commands:
        # never wrapped: it is there to be copied
        line(f"      {visible(command)}")


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        visible(text, lines=True),
        width,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def next_step(facts: Facts, findings: Sequence[Finding]) -> str:
    """The one line that says what to run next."""
    errors = [f for f in findings if f.severity == ERROR]
    for finding in errors or [f for f in findings if f.severity == WARNING]:
        many = f" (1 of {len(errors)} errors)" if len(errors) > 1 else ""
        if finding.remedy.commands:
            return f"Next{many}: {finding.remedy.commands[0]}"
        if errors:
            return f"Next{many}: {finding.remedy.text}"
    if facts.unknown:
        return "Nothing found that stops training here, as far as could be looked."
    if facts.torch is None or facts.torch.installed is None or facts.root:
        return "Nothing found that stops training here."
    if facts.deep is None:
        return (
            "Nothing found that stops training here. Next: nanochat-doctor check --deep proves it."
        )
    return "Nothing found that stops training here; real kernels ran."


# --- one line per area ------------------------------------------------------------------------


def _area(facts: Facts, findings: Sequence[Finding], area: str) -> tuple[str, str]:
    """State and text of an area."""
    own = [f.severity for f in findings if area_of(f.code) == area]
    state = ERROR if ERROR in own else WARNING if WARNING in own else "fine"
    if area in facts.unknown:
        return ("unknown" if state == "fine" else state), facts.unknown[area]
    if getattr(facts, area) is None:
        return "absent", "not looked at"
    if area == "torch" and facts.torch is not None and "installed" in facts.torch.unknown:
        return "unknown", facts.torch.unknown["installed"]
    text = ", ".join(part for part in SUMMARIES[area](facts) if part)
    if not text:
        return ("absent" if state == "fine" else state), "none"
    return state, text


def _host(facts: Facts) -> Iterator[str]:
    host = facts.host
    assert host is not None
    yield host.distro_name or host.os or "unknown system"
    yield f"WSL, {host.arch}" if host.wsl else host.arch or ""
    if host.container:
        yield f"in {host.container}"
    yield host.cpu_model or ""
    yield f"{host.cores} cores" if host.cores else ""
    yield f"{host.memory_total / 1024:.0f} GiB" if host.memory_total else "memory unknown"
    yield f"{host.libc} {host.libc_version}" if host.libc_version else host.libc or ""
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
        memory = f"{gpu.memory_total} MiB" if gpu.memory_total else "memory shared or unknown"
        text = f"{gpu.name or 'unknown GPU'} (compute {gpu.compute_capability or '?'}, {memory})"
        kinds[text] = kinds.get(text, 0) + 1
    yield from (text if count == 1 else f"{count} × {text}" for text, count in kinds.items())
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
    count = len(ascend.npus) or len(ascend.device_nodes) or len(ascend.pci_devices)
    if count:
        name = next((npu.name for npu in ascend.npus), None) or "NPU"
        size = next((npu.hbm_total for npu in ascend.npus if npu.hbm_total), None)
        yield f"{count} × {name}" + (f" ({size} MB)" if size else "")
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
    yield f"{storage.free / 1024:.0f} GiB free" if storage.free is not None else ""
    shards = sum(s.count for s in storage.shards)
    yield f"{shards} shards" if shards else ""
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

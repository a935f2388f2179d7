"""The plan as one page for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import IO

import click

from doctor.findings import ERROR, INFO
from doctor.plan import Launch, Plan
from doctor.planner import open_errors
from doctor.visible import visible

WIDTH = 100


def print_plan(plan: Plan, out: IO[str]) -> None:
    """Print route, reasons, cost, steps, launch settings, and what a person must do first."""
    for line in page(plan):
        click.echo(visible(line), file=out)


def page(plan: Plan) -> Iterator[str]:
    """The page, line by line."""
    yield from _wrapped(f"Route: {plan.route}. ", plan.reason)
    for note in plan.notes:
        yield from _wrapped("  note: ", note)
    if plan.rejected:
        yield ""
        yield "Turned down:"
        for item in plan.rejected:
            yield from _wrapped(f"  {item.route}: ", item.reason)
    if plan.steps:
        yield ""
        yield f"Steps ({cost(plan)}):"
        for number, step in enumerate(plan.steps, 1):
            yield f"  {number}. {step.title}{_size(step.network_mb, step.disk_mb, step.minutes)}"
            yield from (f"       {command}" for command in step.commands)
    if plan.build:
        yield ""
        build = plan.build
        yield (
            f"Build: architectures {', '.join(build.archs)}, libuv {'on' if build.libuv else 'off'}, "
            f"{build.jobs} jobs, CUDA at {build.cuda_home or 'none'}"
        )
        yield from (f"    {name}={value}" for name, value in build.env.items())
    if plan.launch:
        yield ""
        yield from _launch(plan.launch)
    problems = set(open_errors(plan))
    told = [f for f in plan.findings if f.code in problems and f.severity == ERROR]
    for finding in told:
        yield ""
        yield from _wrapped(f"✗ {finding.code}: ", finding.cause)
        yield from _wrapped("  → ", finding.remedy.text)
        yield from (f"      {command}" for command in finding.remedy.commands)
    warned = [f.code for f in plan.findings if f.severity not in (ERROR, INFO)]
    if warned:
        yield ""
        yield f"Warnings of check: {', '.join(dict.fromkeys(warned))}"
    yield ""
    yield _next(plan, bool(told))


def cost(plan: Plan) -> str:
    """What all steps cost together: `3.2 GB to download, 6.1 GB of disk, about 5 minutes`."""
    network = sum(step.network_mb for step in plan.steps)
    disk = sum(step.disk_mb for step in plan.steps)
    minutes = sum(step.minutes for step in plan.steps)
    return f"{gigabytes(network)} to download, {gigabytes(disk)} of disk, about {duration(minutes)}"


def gigabytes(megabytes: float) -> str:
    """`850 MB`, `3.2 GB`."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def duration(minutes: float) -> str:
    """`under a minute`, `5 minutes`, `3.2 hours`, `12 days`."""
    if minutes < 1:
        return "under a minute"
    if minutes < 100:
        return f"{minutes:.0f} minute{'s' if round(minutes) != 1 else ''}"
    return f"{minutes / 60:.1f} hours" if minutes < 72 * 60 else f"{minutes / 1440:.0f} days"


def count(number: float) -> str:
    """`36.7 M`, `5.2 B`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def _size(network_mb: int, disk_mb: int, minutes: float) -> str:
    parts = [f"{gigabytes(network_mb)} to download"] if network_mb else []
    parts += [f"{gigabytes(disk_mb)} of disk"] if disk_mb else []
    parts += [duration(minutes)] if minutes >= 1 else []
    return f"  ({', '.join(parts)})" if parts else ""


def _launch(launch: Launch) -> Iterator[str]:
    base = launch.stages["base"]
    devices = (
        f"{launch.nproc_per_node} × {launch.device_type}"
        if launch.nproc_per_node > 1
        else launch.device_type
    )
    model = f"depth {launch.depth}, {count(launch.parameters)} parameters"
    yield f"Training (profile {launch.profile}): {model}, on {devices}"
    how = [launch.dtype, launch.backend, "compiled" if launch.compile else "eager"]
    how += ["fp8"] if launch.fp8 else []
    how += ["recompute"] if launch.recompute else []
    yield f"  how:     {', '.join(how)}"
    yield (
        f"  batch:   {base.device_batch_size} rows of {base.max_seq_len} tokens a device, "
        f"{base.total_batch_size:,} tokens a step ({base.grad_accum_steps} passes)"
    )
    data = f"{launch.shards} shards of {launch.data}" if launch.shards else launch.data
    yield f"  length:  {launch.num_iterations:,} steps, {count(launch.tokens)} tokens, from {data}"
    memory = f"{gigabytes(launch.peak_memory_mb * 1.048576)} a device"
    if launch.device_memory_mb:
        memory += f" of {gigabytes(launch.device_memory_mb * 1.048576)}"
    yield f"  memory:  {memory}"
    if launch.hours is not None:
        energy = f", {launch.energy_kwh:.1f} kWh" if launch.energy_kwh else ""
        yield f"  time:    about {duration(launch.hours * 60)} for the base model{energy}"
    ports = ", ".join(f"{name} {stage.port}" for name, stage in launch.stages.items())
    yield f"  ports:   {ports} (the next free one is taken)"
    for name, value in launch.env.items():
        yield f"  env:     {name}={value}"
    for path in launch.source_files:
        yield f"  source:  {path}"
    for warning in launch.warnings:
        yield from _wrapped("  ! ", warning)


def _next(plan: Plan, problems: bool) -> str:
    if plan.route == "blocked" or problems:
        return "A person must act first: see above."
    return "Next: nanochat-doctor apply carries this out; nanochat-doctor speedrun goes on to a trained model."


def _wrapped(head: str, text: str) -> list[str]:
    indent = " " * min(len(head), 4) if not head.startswith("  ") else " " * 6
    return textwrap.wrap(
        head + text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )

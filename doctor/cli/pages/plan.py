"""The plan as a page for a person: what fits a screen, and all of it on request."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import IO

from doctor.cli.pages.check import finding_lines
from doctor.cli.pages.next_step import is_mended_by_apply
from doctor.findings.finding import ERROR, INFO
from doctor.planner.commands import typed
from doctor.planner.decide import open_errors
from doctor.planner.terms.plan import Launch, Plan, Step
from doctor.text.paper import Paper, columns, pad
from doctor.text.quantities import about, brief, count, disk, memory, short
from doctor.text.visible import visible

SCREEN = 23
"""Lines of a terminal, less the one of the prompt."""

HEADS = ("download", "disk", "time")
NOTHING = "–"

DEVICES = {"cuda": ("GPU", "GPUs"), "npu": ("NPU", "NPUs"), "mps": ("Apple GPU", "Apple GPUs")}


def print_plan(plan: Plan, out: IO[str], following: str, *, verbose: bool = False) -> None:
    """Print route, reason, steps and their cost, how training starts, and what a person must do first.

    Args:
        following: the line that says what carries it out.
        verbose: turned-down routes, commands, launch settings and environment, too, and all remarks.
    """
    paper = Paper.of(out)
    paper.lines([*_page(plan, paper, following, verbose)])


def page(plan: Plan, *, verbose: bool = True) -> list[str]:
    """The page as lines of a file."""
    return [*_page(plan, Paper.of(io.StringIO()), "Next: nanochat-doctor apply", verbose)]


def route_lines(plan: Plan, paper: Paper) -> list[str]:
    """The route, and why it is this one."""
    return paper.fold(plan.reason, first=f"Route: {paper.bold(plan.route)}. ", rest="  ")


def remark_lines(plan: Plan, paper: Paper, room: int | None = None) -> Iterator[str]:
    """What the user should know, a blank line before it.

    Args:
        room: lines at the most, the blank one counted; what does not fit is counted. None is no limit.
    """
    remarks = [*plan.notes, *(plan.launch.warnings if plan.launch else ())]
    warned = dict.fromkeys(
        finding.code
        for finding in plan.findings
        if finding.severity not in (ERROR, INFO) and not is_mended_by_apply(finding)
    )
    remarks += [f"check warns of {', '.join(warned)}."] if warned else []
    folded = [paper.fold(remark, first=f"{paper.yellow('!')} ") for remark in remarks]
    left = None if room is None else room - 1
    for number, lines in enumerate(folded):
        more = len(folded) - number
        # the last line of a page that is full says how much there is beyond it
        if left is not None and len(lines) + (more > 1) > left:
            yield from [""] if not number else []
            what = count(more, "more remark" if number else "remark")
            yield f"{paper.yellow('!')} {what}: -v shows {'it' if more == 1 else 'them'}"
            return
        yield from [""] if not number else []
        yield from lines
        left = left - len(lines) if left is not None else None


def problem_lines(plan: Plan, paper: Paper) -> list[str]:
    """What a person must put right before the plan can be carried out, a blank line before each."""
    codes = set(open_errors(plan))
    problems = [f for f in plan.findings if f.code in codes and f.severity == ERROR]
    # what apply would mend is not for a person to do
    by_hand = [finding for finding in problems if not is_mended_by_apply(finding)] or problems
    return [line for finding in by_hand for line in ("", *finding_lines(finding, paper))]


# --- the page ---------------------------------------------------------------------------------


def _page(plan: Plan, paper: Paper, following: str, verbose: bool) -> Iterator[str]:
    problems = problem_lines(plan, paper)
    stopped = plan.route == "blocked" or bool(problems)
    body = [*_body(plan, paper, verbose, stopped), *problems]
    ending = ["", *_ending(paper, following, verbose, stopped)]
    yield from body
    room = None if verbose else SCREEN - len(body) - len(ending)
    yield from remark_lines(plan, paper, room)
    yield from ending


def _body(plan: Plan, paper: Paper, verbose: bool, stopped: bool) -> Iterator[str]:
    yield from route_lines(plan, paper)
    if verbose and plan.rejected:
        yield from ("", "Turned down:")
        for item in plan.rejected:
            yield from paper.fold(item.reason, first=f"  {item.route}: ", rest=" " * 6)
    if plan.steps:
        yield ""
        yield from _table(plan.steps, paper, verbose)
    if verbose:
        yield from _build(plan)
    if plan.launch and (verbose or not stopped):
        yield ""
        yield from _launch(plan.launch, paper, verbose)


def _ending(paper: Paper, following: str, verbose: bool, stopped: bool) -> Iterator[str]:
    if stopped:
        yield from paper.fold("Do first what ✗ says; then make the plan again.", rest="  ")
        return
    yield visible(following)
    all_of_it = "" if verbose else "; -v shows commands, turned-down routes, settings"
    yield from paper.fold(f"(speedrun goes on to a trained model{all_of_it})", first=" " * 6)


# --- steps ------------------------------------------------------------------------------------


def _table(steps: Sequence[Step], paper: Paper, verbose: bool) -> Iterator[str]:
    """Steps, and what each costs, in columns as wide as they need be."""
    cells = [_cells(step.network_mb, step.disk_mb, step.minutes) for step in steps]
    sums = [sum(getattr(s, n) for s in steps) for n in ("network_mb", "disk_mb", "minutes")]
    total = _cells(*sums)
    rows = [HEADS, *cells, total]
    wide = [max(columns(row[n]) for row in rows) for n in range(len(HEADS))]
    room = paper.width - sum(wide) - 2 * len(wide)
    titles = [f"  {number}. {step.title}" for number, step in enumerate(steps, 1)]
    room = max(24, min(room, max(map(columns, titles))))
    yield _row("Steps", HEADS, room, wide)
    for step, title, row in zip(steps, titles, cells, strict=True):
        head = title.partition(". ")[0] + ". "
        first, *rest = paper.fold(step.title, first=head, width=room)
        yield _row(first, row, room, wide)
        yield from rest
        yield from (f"       {visible(typed(command))}" for command in step.commands if verbose)
    if len(steps) > 1:
        yield _row("     all together", total, room, wide)


def _row(title: str, cells: Sequence[str], room: int, wide: Sequence[int]) -> str:
    padded = (pad(cell, width, right=True) for cell, width in zip(cells, wide, strict=True))
    return "  ".join([pad(title, room), *padded])


def _cells(network_mb: float, disk_mb: float, minutes: float) -> tuple[str, str, str]:
    return (
        disk(network_mb) if network_mb else NOTHING,
        disk(disk_mb) if disk_mb else NOTHING,
        brief(minutes * 60),
    )


def _build(plan: Plan) -> Iterator[str]:
    build = plan.build
    if build is None:
        return
    yield ""
    yield (
        f"Build: for {', '.join(build.archs) or 'the CPU'}, {'with' if build.libuv else 'without'} libuv, "
        f"{count(build.jobs, 'job')}, CUDA at {build.cuda_home or 'no place'}"
    )
    yield from (f"    {name}={value}" for name, value in build.env.items())


# --- launch -----------------------------------------------------------------------------------


def _launch(launch: Launch, paper: Paper, verbose: bool) -> Iterator[str]:
    model = f"depth {launch.depth}, {short(launch.parameters)} parameters, on {_devices(launch)}"
    yield from paper.fold(model, first=f"Training (profile {launch.profile}): ", rest="  ")
    for name, text in _facts(launch, verbose):
        yield from paper.fold(text, first=f"  {name + ':':8} ")
    if verbose:
        yield from (f"  env:     {name}={visible(value)}" for name, value in launch.env.items())
        yield from (f"  source:  {visible(path)}" for path in launch.source_files)


def _facts(launch: Launch, verbose: bool) -> Iterator[tuple[str, str]]:
    """Settings as pairs of a name and a text."""
    base = launch.stages["base"]
    data = f"{count(launch.shards, 'shard')} of {launch.data}" if launch.shards else launch.data
    if verbose:
        yield "how", ", ".join(_how(launch))
        passes = count(base.grad_accum_steps, "pass")
        yield (
            "batch",
            f"{count(base.device_batch_size, 'row')} of {base.max_seq_len} tokens a device, "
            f"{base.total_batch_size:,} tokens a step, in {passes}",
        )
    yield (
        "length",
        f"{launch.num_iterations:,} steps, {short(launch.tokens)} tokens, from {data}",
    )
    if launch.hours is not None:
        energy = f", {launch.energy_kwh:.1f} kWh" if round(launch.energy_kwh or 0, 1) else ""
        yield "time", f"{about(launch.hours * 3600)} for the base model{energy}"
    room = f" of {memory(launch.device_memory_mb)}" if launch.device_memory_mb else ""
    where = "" if launch.device_type == "cpu" else " a device"
    yield "memory", f"{memory(launch.peak_memory_mb)}{room}{where}"
    if verbose:
        ports = ", ".join(f"{name} {stage.port}" for name, stage in launch.stages.items())
        yield "ports", f"{ports} (the next free one is taken)"


def _how(launch: Launch) -> list[str]:
    how = [launch.dtype, launch.backend, "compiled" if launch.compile else "eager"]
    return how + ["fp8"] * launch.fp8 + ["recompute"] * launch.recompute


def _devices(launch: Launch) -> str:
    number = launch.nproc_per_node
    if launch.device_type not in DEVICES:
        return "the CPU" if number == 1 else f"the CPU, in {count(number, 'process')}"
    return count(number, *DEVICES[launch.device_type])

"""The commands: each calls one function of a layer and prints."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from doctor import __version__
from doctor.cli.build_torch import build_torch
from doctor.cli.completion import SHELLS, VARIABLE, among, areas, files, stages, targets
from doctor.cli.failures import failure, wants_json
from doctor.cli.help import HELP_NAMES, DefaultsToCheck, option
from doctor.cli.telling import Telling
from doctor.cli.wishes import FACTS, OFFLINE, gather, machine, wishes_options, words
from doctor.errors import Unknown, WrongUsage
from doctor.facts import AREAS, SCHEMA, Facts, to_json
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.probe.survey import DEFAULT_AREAS, survey
from doctor.text.credentials import learn
from doctor.text.visible import Stream, json_text

NEEDED_AREAS = {
    "nvidia": ("host", "python"),
    "ascend": ("host", "python", "torch"),
    "torch": ("host", "python", "nvidia", "ascend"),
    "python": ("host", "nvidia", "ascend", "torch"),
    "rust": ("host", "python"),
}
"""What must be looked at, though not shown, for the findings of an area to be right."""


@click.group(cls=DefaultsToCheck, context_settings={"help_option_names": HELP_NAMES})
@option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Examine the system below DIR (a container image, a mounted disk), not this one: its files are read.",
)
@option(
    "--execute",
    is_flag=True,
    help="With --root: also run programs of that tree. It is that tree's code, with your rights.",
)
@option("--debug", is_flag=True, help="Show a traceback where something fails.")
@click.version_option(__version__, prog_name="nanochat-doctor", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, root: Path | None, execute: bool, debug: bool) -> None:
    """Looks at a machine, says what is wrong with it, and what to do.

    Without a command it is `check`. Exit status: 0 fine, 1 a problem was found or the work failed,
    2 wrong usage.
    """
    if execute and root is None:
        raise WrongUsage("--execute says how to examine a tree; name the tree with --root DIR.")
    ctx.obj = {"root": root, "execute": execute, "debug": debug}


def _areas(_ctx: click.Context, _param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Areas out of repeated options and commas."""
    words = [word.strip() for item in value for word in item.split(",") if word.strip()]
    for word in words:
        if word not in AREAS:
            raise click.BadParameter(f"{word!r} is no area; there are {', '.join(AREAS)}.")
    return tuple(dict.fromkeys(words))


def _python(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not os.path.isfile(value):
        raise click.BadParameter(f"there is no program at {value!r}.")
    return os.path.abspath(value) if value else None


PYTHON = machine("--python", metavar="PATH", callback=_python, shell_complete=files,
                 help="Examine this interpreter and its packages.")  # fmt: skip
NETWORK = machine("--network", is_flag=True, help="Also ask indexes, hub and mirrors.")
YES = option("--yes", is_flag=True, help="Do not ask.")
VERBOSE = option("-v", "--verbose", is_flag=True, help="Show all of it.")
EVENTS = option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")


@cli.command(
    short_help="What this machine is, what is wrong with it, what to do",
    examples=("check", "check -v --only torch", "check --deep", "--root /mnt/image check --json"),
)
@option("--json", "as_json", is_flag=True, help="Print facts and findings as JSON.")
@VERBOSE
@option("--strict", is_flag=True, help="Warnings count as problems for the exit status.")
@option(
    "--only",
    multiple=True,
    metavar="AREA",
    callback=_areas,
    shell_complete=among(areas),
    help=f"Show only this area; repeatable. One of {', '.join(AREAS)}.",
)
@machine(
    "--deep", is_flag=True, help="Import torch in a child, run kernels, a TCPStore and two ranks."
)
@NETWORK
@PYTHON
@click.pass_obj
def check(obj: dict[str, Any], as_json: bool, verbose: bool, strict: bool, only: tuple[str, ...],
          deep: bool, network: bool, python: str | None) -> int:  # fmt: skip
    """Say what this machine is, what is wrong with it, and what to do."""
    from doctor.cli.pages.check import area_of, print_report
    from doctor.findings.finding import ERROR, WARNING
    from doctor.findings.rules.examine import examine

    shown = only or (*DEFAULT_AREAS, *(["network"] if network else []))
    wanted = {*shown, *(need for area in shown for need in NEEDED_AREAS.get(area, ()))}
    tables = Tables()
    facts = _look(obj, tables, wanted, python, deep)
    findings = examine(facts, tables)
    if only:
        findings = [f for f in findings if area_of(f.code) in only]
        hidden: dict[str, Any] = {area: None for area in AREAS if area not in only}
        facts = replace(facts, **hidden)
    if as_json:
        _print_json(
            {
                "schema": SCHEMA,
                "facts": to_json(facts),
                "findings": [finding.to_json() for finding in findings],
            }
        )
    else:
        print_report(facts, findings, shown, sys.stdout, verbose)
    bad = {ERROR, WARNING} if strict else {ERROR}
    return int(any(finding.severity in bad for finding in findings))


@cli.command(
    short_help="The facts alone as JSON, to send or attach", examples=("facts > facts.json",)
)
@NETWORK
@PYTHON
@click.pass_obj
def facts(obj: dict[str, Any], network: bool, python: str | None) -> int:
    """Print the facts alone as JSON, without names, addresses, serial numbers and secrets."""
    from doctor.probe.redact import redact

    areas = {*DEFAULT_AREAS, *(["network"] if network else [])}
    system = _system(obj)
    found = survey(system, Tables(), areas=areas, python=python, debug=obj["debug"])
    _print_json(redact(to_json(found), system))
    return 0


@cli.command(
    short_help="How this machine gets its PyTorch, and what that costs",
    examples=("plan", "plan -v", "plan --route nightly-wheel", "plan --facts node7.json --json"),
)
@option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@VERBOSE
@OFFLINE
@wishes_options
@FACTS
@PYTHON
@click.pass_obj
def plan(obj: dict[str, Any], /, as_json: bool, verbose: bool, offline: bool,
         facts_file: Path | None, python: str | None, **options: Any) -> int:  # fmt: skip
    """Decide how this machine gets its PyTorch, what that costs, and how training starts."""
    from doctor.cli.decision import decide
    from doctor.cli.pages.plan import print_plan
    from doctor.findings.advice import apply_command
    from doctor.planner.decide import open_errors

    wishes = gather(options)
    decided = decide(
        _system(obj),
        wishes,
        python=python,
        facts_file=facts_file,
        offline=offline,
        debug=obj["debug"],
    )
    made = decided.plan
    if as_json:
        _print_json(made.to_json())
    else:
        more = [*words(wishes), *(["--offline"] if offline else [])]
        there = "" if obj["root"] is None and facts_file is None else ", on that machine"
        following = f"Next{there}: {apply_command(decided.facts, *more)}"
        print_plan(made, sys.stdout, following, verbose=verbose)
    return int(made.route == "blocked" or bool(open_errors(made)))


@cli.command(
    short_help="Carry the plan out; --undo brings back what was there",
    examples=("apply", "apply --yes", "apply --python ~/env/bin/python", "apply --undo"),
)
@YES
@option("--undo", is_flag=True, help="Bring back what was installed before the last apply.")
@EVENTS
@OFFLINE
@wishes_options
@PYTHON
@click.pass_obj
def apply(obj: dict[str, Any], /, yes: bool, undo: bool, as_json: bool, offline: bool,
          python: str | None, **options: Any) -> int:  # fmt: skip
    """Carry the plan out: install what it says, step by step; run again and it goes on."""
    from doctor.cli import actions

    system, telling = _live(obj, "apply"), Telling(as_json)
    confirm = actions.confirmation(yes, as_json=as_json)
    if undo:
        actions.undo(python=python, confirm=confirm, telling=telling)
        return 0
    decided = actions.decide_here(system, gather(options), python, offline, obj["debug"], telling)
    actions.apply(decided.plan, confirm=confirm, telling=telling)
    return 0


@cli.command(
    name="build-rustbpe",
    short_help="Build and install the tokenizer crate",
    examples=("build-rustbpe", "build-rustbpe --prebuilt"),
)
@option(
    "--prebuilt",
    is_flag=True,
    help="Take rustbpe and tiktoken of the Python index in place of the crate: the same ids, slower.",
)
@option(
    "--install-toolchain",
    is_flag=True,
    help="Let rustup bring Rust, for this tool alone, where it is missing or too old.",
)
@option(
    "--only-toolchain",
    is_flag=True,
    help="Bring what a build lacks, Rust and a linker, and build nothing yet.",
)
@option("--offline", is_flag=True, help="Ask no registry and no index.")
@option("--force", is_flag=True, help="Build even where nothing has changed.")
@EVENTS
@PYTHON
@click.pass_obj
def build_rustbpe(obj: dict[str, Any], /, prebuilt: bool, install_toolchain: bool,
                  only_toolchain: bool, offline: bool, force: bool, as_json: bool,
                  python: str | None) -> int:  # fmt: skip
    """Build the tokenizer crate and install it into the environment."""
    from doctor.cli.decision import checkout, own_python
    from doctor.compile.rustbpe.build import build

    telling = Telling(as_json)
    built = build(
        checkout=checkout(),
        python=python or own_python(),
        system=_live(obj, "build-rustbpe"),
        tables=Tables(),
        prebuilt=prebuilt,
        install_toolchain=install_toolchain,
        only_toolchain=only_toolchain,
        offline=offline,
        force=force,
        say=telling.say,
    )
    telling.event("done", **{**asdict(built), "log": built.log and str(built.log)})
    return 0


@cli.command(
    short_help="Write the launch scripts",
    examples=("render", "render --profile speedrun -o runs/mine", "render --stage base --force"),
)
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the files go; default: runs/PROFILE in the checkout.",
)
@option(
    "--target",
    default="shell",
    metavar="NAME",
    shell_complete=among(targets),
    help="What starts the run: shell.",
)
@option("--stage", metavar="NAME", shell_complete=among(stages),
        help="Only this stage, and what it needs.")  # fmt: skip
@option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@option(
    "--force", is_flag=True, help="Replace files that were edited; the edited ones are kept beside."
)
@OFFLINE
@wishes_options
@FACTS
@PYTHON
@click.pass_obj
def render(obj: dict[str, Any], /, output: Path | None, target: str, stage: str | None, force: bool,
           as_json: bool, offline: bool, facts_file: Path | None, python: str | None,
           **options: Any) -> int:  # fmt: skip
    """Write launch scripts that a person can read, change and run."""
    from doctor.cli import actions
    from doctor.cli.decision import decide
    from doctor.planner.commands import typed

    decided = decide(
        _system(obj),
        gather(options),
        python=python,
        facts_file=facts_file,
        offline=offline,
        debug=obj["debug"],
    )
    scripts = actions.write_scripts(decided, output, target=target, stage=stage, force=force)
    if as_json:
        _print_json({"schema": SCHEMA, **scripts.to_json()})
        return 0
    for note in scripts.notes:
        click.echo(f"note: {note}")
    click.echo(typed(scripts.command))
    return 0


@cli.command(
    short_help="All of it: from this machine to a model that answers",
    examples=("speedrun", "speedrun --profile smoke", "speedrun --depth 12"),
)
@YES
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the scripts go; default: runs/PROFILE in the checkout.",
)
@EVENTS
@OFFLINE
@wishes_options
@PYTHON
@click.pass_obj
def speedrun(obj: dict[str, Any], /, yes: bool, output: Path | None, as_json: bool, offline: bool,
             python: str | None, **options: Any) -> int:  # fmt: skip
    """From this machine to a trained model that answers; run again and it goes on where it stopped."""
    from doctor.cli import actions

    actions.speedrun(
        _live(obj, "speedrun"),
        gather(options),
        python=python,
        output=output,
        confirm=actions.confirmation(yes or python is None, as_json=as_json),
        offline=offline,
        debug=obj["debug"],
        telling=Telling(as_json),
    )
    return 0


@cli.command(
    context_settings={"ignore_unknown_options": True},
    short_help="Run the whole test suite of the checkout",
    examples=("selftest", "selftest tests/doctor -x"),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENTS]")
def selftest(arguments: tuple[str, ...]) -> int:
    """Run the whole test suite of the checkout: linters, types, tests."""
    from doctor.cli import selftest as runner

    return runner.run(arguments)


@cli.command(
    short_help="Make bash, zsh or fish complete commands and values",
    examples=("completion bash",),
)
@click.argument("shell", metavar="SHELL", shell_complete=among(lambda: SHELLS))
def completion(shell: str) -> int:
    """Print what makes a shell (bash, zsh or fish) complete commands, options and their values.

    For every new shell: put eval "$(nanochat-doctor completion bash)" into ~/.bashrc; the same with zsh into ~/.zshrc.
    For fish: nanochat-doctor completion fish | source, in ~/.config/fish/config.fish.
    """
    from doctor.cli.completion import script

    if shell not in SHELLS:
        raise WrongUsage(f"'{shell}' is no shell that is known; choose one of {', '.join(SHELLS)}.")
    click.echo(script(cli, shell))
    return 0


cli.add_command(build_torch)


def _look(
    obj: dict[str, Any], tables: Tables, areas: set[str], python: str | None, deep: bool
) -> Facts:
    system = _system(obj)
    found = survey(system, tables, areas=areas, python=python, debug=obj["debug"])
    if not deep:
        return found
    from doctor.probe.torch import deep as experiments

    try:
        return replace(found, deep=experiments.probe(system, found))
    except Unknown as error:
        return replace(found, unknown={**found.unknown, "deep": str(error)})


def _system(obj: dict[str, Any]) -> System:
    """The machine to look at; what it runs is ended when this process is, however that comes."""
    system = System(obj["root"], execute=obj["execute"])
    _systems.append(system)
    return system


_systems: list[System] = []


def _live(obj: dict[str, Any], command: str) -> System:
    """This machine, for a command that changes it."""
    if obj["root"] is not None:
        raise WrongUsage(
            f"--root and {command} contradict each other: only a running machine can be changed."
        )
    return _system(obj)


def _print_json(data: Any) -> None:
    click.echo(json_text(data, indent=1))


def _prepare_streams() -> None:
    """Let a closed stream swallow, and any other show, what is printed to it; no `✓` where it is not known."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, Stream(stream))


def _stand_somewhere() -> None:
    """Leave a current folder that somebody has deleted: programs that we start would fail in it."""
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")
        with contextlib.suppress(OSError, ValueError):
            click.echo("The current folder is gone; what follows is done from /.", err=True)


def main() -> None:
    """Entry point: one sentence for what went wrong, a traceback only with --debug."""
    words = sys.argv[1:]
    if VARIABLE not in os.environ:  # what completes a word speaks to the shell, in bytes
        _prepare_streams()
        _stand_somewhere()
    learn(os.environ)
    gc.disable()  # a short life makes no garbage worth a search: 5 ms of 160
    try:
        result = cli.main(prog_name="nanochat-doctor", standalone_mode=False)
        status = result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        status = error.exit_code
    except BrokenPipeError:
        status = 1
    except (Exception, KeyboardInterrupt) as error:
        failed = failure(error)
        if "--debug" in words and failed.kind not in ("usage", "interrupted"):
            raise
        failed.tell(wants_json(words))
        status = failed.status
    _leave(status)


def _leave(status: int) -> None:
    """End at once: a probe that hangs in a dead file system must not hold the process."""
    for system in _systems:
        system.close()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)

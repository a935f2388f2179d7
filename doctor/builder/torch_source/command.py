"""The command build-torch: options in, a session out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from doctor.console.help import Command
from doctor.errors import DoctorError, WrongUsage

if TYPE_CHECKING:
    from doctor.builder.torch_source.events import Reporter
    from doctor.builder.torch_source.outlook import Outlook, Request
    from doctor.system import System
    from doctor.tables import Tables


@click.command(
    "build-torch",
    cls=Command,
    short_help="Build PyTorch from source, prove the wheel, keep it",
    examples=("build-torch --arch 12.0 --libuv --dry-run", "build-torch --resume"),
)
@click.option("--arch", "archs", multiple=True, metavar="ARCH",
              help="Build for this GPU: 12.0, sm_120, blackwell, native; repeatable, or a list; +PTX "
                   "behind it for newer cards too. Default: the GPUs of this machine.")  # fmt: skip
@click.option("--libuv/--no-libuv", default=None, help="With libuv in the TCPStore (default).")
@click.option("--source", type=click.Path(path_type=Path), metavar="DIR",
              help="A PyTorch source tree; else TORCH_LOCAL_PATH, else a clone.")  # fmt: skip
@click.option(
    "--ref", metavar="TAG", help="The tag to clone; else the newest release for this Python."
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N",
              help="Compilers at once; else what fits into memory.")  # fmt: skip
@click.option("--cuda-home", metavar="DIR", help="The CUDA toolkit to build with.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Put the wheel there.")
@click.option("--python", metavar="PATH", help="Build with and for this interpreter.")
@click.option(
    "--install", is_flag=True, help="Install the wheel into that interpreter's environment."
)
@click.option(
    "--dry-run", is_flag=True, help="Show recipe, preflight, jobs and time; change nothing."
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished build, or say why not.")
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@click.pass_obj
def build_torch(obj: dict[str, Any], archs: tuple[str, ...], libuv: bool | None, source: Path | None,
                ref: str | None, jobs: int | None, cuda_home: str | None, out: Path | None,
                python: str | None, install: bool, dry_run: bool, resume: bool, as_json: bool) -> int:  # fmt: skip
    """Build PyTorch from source, prove the wheel, and keep it for the next time."""
    from doctor.builder.torch_source.events import Reporter
    from doctor.builder.torch_source.outlook import Request
    from doctor.builder.torch_source.run import Stopped, nothing_left_behind, stoppable
    from doctor.plan import Wishes

    request = Request(Wishes(archs=archs, libuv=libuv), source, ref, jobs, cuda_home, out, resume)
    reporter = Reporter(out=sys.stdout if as_json else None)
    call = _Call(request, obj, python, install, dry_run, reporter)
    try:
        with stoppable(), nothing_left_behind():
            return call.do()
    except Stopped as stop:
        reporter.clear()
        reporter.event("stopped", call.stopped(str(stop)), signal=str(stop))
        return 128 + stop.number


@dataclass
class _Call:
    """One call of the command; `folder` is known once it was decided what is built."""

    request: Request
    obj: dict[str, Any]
    python: str | None
    install: bool
    dry_run: bool
    reporter: Reporter
    folder: Path | None = None

    def do(self) -> int:
        """Look, decide, and show or carry out; the exit status."""
        from doctor.builder.torch_source import outlook, page
        from doctor.builder.torch_source.preflight import stops
        from doctor.survey import survey
        from doctor.system import System
        from doctor.tables import Tables

        system = System(self.obj["root"], execute=self.obj["execute"])
        tables, python = Tables(), self.python
        cuda_home = _checked(system, python, self.request.cuda_home, self.dry_run)
        request = replace(self.request, cuda_home=cuda_home)
        facts = survey(
            system,
            tables,
            areas={"host", "python", "nvidia", "storage"},
            python=python and str(Path(python).absolute()),
            debug=self.obj["debug"],
        )
        found = outlook.look_ahead(request, system, facts, tables)
        self.folder = found.folder
        if self.dry_run:
            if self.reporter.out is not None:
                self.reporter.event("plan", **page.to_json(found))
            else:
                page.print_outlook(found, sys.stdout)
            return int(stops(found.findings))
        target = str(Path(python or sys.executable).absolute()) if self.install else None
        return _carry_out(found, system, tables, self.reporter, target)

    def stopped(self, how: str) -> str:
        """What is said when a signal came."""
        from doctor.builder.torch_source.fingerprint import read_state
        from doctor.builder.torch_source.tree import BUILD

        said = f"Stopped by {how}; every program of it has ended."
        if self.folder is None or self.dry_run:
            return said
        begun = read_state(self.folder / BUILD) is not None
        return f"{said} {'Go on with --resume.' if begun else 'Run it again to go on.'}"


def _checked(
    system: System, python: str | None, cuda_home: str | None, dry_run: bool
) -> str | None:
    """Refuse what is wrong in itself; the toolkit as the probes will name it."""
    if not system.live and not dry_run:
        raise WrongUsage("--root is for looking only; with build-torch it needs --dry-run.")
    if python is not None and not Path(python).is_file():
        raise WrongUsage(f"--python {python}: there is no such program; name an interpreter.")
    if cuda_home is None:
        return None
    named = str(Path(cuda_home).absolute()) if system.live else cuda_home
    if not system.is_dir(named):
        raise WrongUsage(f"--cuda-home {named} is no folder; name a toolkit that is installed.")
    system.env["CUDA_HOME"] = system.real(named)
    return system.env["CUDA_HOME"]


def _carry_out(
    outlook: Outlook, system: System, tables: Tables, reporter: Reporter, target: str | None
) -> int:
    from doctor.builder.torch_source import session
    from doctor.builder.torch_source.builder import BuildFailed
    from doctor.builder.torch_source.install import install_wheel

    for note in outlook.notes:
        reporter.event("note", f"Note: {note}")
    for finding in outlook.findings:
        if finding.severity != "error":
            reporter.event("warning", f"! {finding.code}: {finding.cause}", code=finding.code)
    try:
        built = session.carry_out(outlook, system, tables, reporter)
        if target:
            install_wheel(built.wheel, target)
            reporter.event("installed", f"Installed into {target}", python=target)
    except DoctorError as error:
        if reporter.out is not None:
            code = error.failure.code if isinstance(error, BuildFailed) else None
            reporter.event("failed", str(error), code=code)
        raise
    if reporter.out is None:
        click.echo(str(built.wheel))
    return 0

"""The command build-torch: options in, a session out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from doctor.cli.help import Command
from doctor.errors import DoctorError, WrongUsage

if TYPE_CHECKING:
    from doctor.compile.toolkit.wheel_toolkit import ToolkitOffer
    from doctor.compile.torch.outlook import Outlook, Request
    from doctor.knowledge.tables import Tables
    from doctor.machine.system import System
    from doctor.work.events import Reporter


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
@click.option("--yes", "-y", is_flag=True,
              help="Fetch a CUDA toolkit that is missing from the Python index, unasked.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with an unfinished build, or say why not.")
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@click.pass_obj
def build_torch(obj: dict[str, Any], archs: tuple[str, ...], libuv: bool | None, source: Path | None,
                ref: str | None, jobs: int | None, cuda_home: str | None, out: Path | None,
                python: str | None, install: bool, dry_run: bool, yes: bool, resume: bool,
                as_json: bool) -> int:  # fmt: skip
    """Build PyTorch from source, prove the wheel, and keep it for the next time."""
    from doctor.compile.torch.outlook import Request
    from doctor.planner.terms.plan import Wishes
    from doctor.work.events import Reporter
    from doctor.work.run import Stopped, nothing_left_behind, stoppable

    request = Request(Wishes(archs=archs, libuv=libuv), source, ref, jobs, cuda_home, out, resume)
    reporter = Reporter(out=sys.stdout if as_json else None)
    call = _Call(request, obj, python, install, dry_run, yes, reporter)
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
    yes: bool
    reporter: Reporter
    folder: Path | None = None

    def do(self) -> int:
        """Look, decide, and show or carry out; the exit status."""
        from doctor.cli.pages import build
        from doctor.compile.toolkit import toolkit_step
        from doctor.compile.torch.preflight import stops
        from doctor.knowledge.tables import Tables

        tables = Tables()
        found, system = self._look(tables, self.request.cuda_home)
        offered = self._offer(found, system, tables)
        if offered is not None and not offered.ready and self.dry_run:
            found = toolkit_step.told(found, offered, self.yes)
        elif offered is not None and (offered.ready or self._agreed(offered)):
            home = offered.home
            if not offered.ready:
                toolkit_step.put_together(offered, found, system, self.reporter)
            found, system = self._look(tables, str(home))
        elif offered is not None:
            found = toolkit_step.told(found, offered, False)
        if self.dry_run:
            if self.reporter.out is not None:
                self.reporter.event("plan", **build.to_json(found))
            else:
                build.print_outlook(found, sys.stdout)
            return int(stops(found.findings))
        target = str(Path(self.python or sys.executable).absolute()) if self.install else None
        return _carry_out(found, system, tables, self.reporter, target)

    def _look(self, tables: Tables, cuda_home: str | None) -> tuple[Outlook, System]:
        """All that is known beforehand, with a toolkit or the usual one."""
        from doctor.compile.torch import outlook
        from doctor.machine.system import System
        from doctor.probe.survey import survey

        system, python = System(self.obj["root"], execute=self.obj["execute"]), self.python
        cuda_home = _checked(system, python, cuda_home, self.dry_run)
        facts = survey(
            system,
            tables,
            areas={"host", "python", "nvidia", "storage"},
            python=python and str(Path(python).absolute()),
            debug=self.obj["debug"],
        )
        request = replace(self.request, cuda_home=cuda_home)
        found = outlook.look_ahead(request, system, facts, tables)
        self.folder = found.folder
        return found, system

    def _offer(self, found: Outlook, system: System, tables: Tables) -> ToolkitOffer | None:
        """A toolkit from the Python index, where this machine's own do not serve and none was named."""
        from doctor.compile.toolkit import toolkit_step

        if self.request.cuda_home is not None or not system.live:
            return None
        return toolkit_step.offer_for(found, tables)

    def _agreed(self, offered: ToolkitOffer) -> bool:
        """Whether it may be fetched: asked on a terminal, else by --yes alone."""
        if self.yes:
            return True
        if self.reporter.out is not None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        return click.confirm(
            f"No CUDA toolkit here fits. Use {offered.words}?", default=True, err=True
        )

    def stopped(self, how: str) -> str:
        """What is said when a signal came."""
        from doctor.compile.source.fingerprint import read_state
        from doctor.planner.build.tree import BUILD

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
    from doctor.compile.torch import carry_out
    from doctor.compile.torch.builder import BuildFailed
    from doctor.compile.torch.install_wheel import install_wheel

    for note in outlook.notes:
        reporter.event("note", f"Note: {note}")
    for finding in outlook.findings:
        if finding.severity != "error":
            reporter.event("warning", f"! {finding.code}: {finding.cause}", code=finding.code)
    try:
        built = carry_out.carry_out(outlook, system, tables, reporter)
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

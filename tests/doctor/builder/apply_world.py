"""A small world to install into: real environments, an index on loopback, wheels that bear famous names."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from doctor.environment import command_line, integrity, pins
from doctor.environment.place import Place, target
from doctor.install import journal
from doctor.install.apply import Result, apply
from doctor.install.undo import undo
from doctor.planner import commands
from doctor.planner.terms.plan import Plan, Step, TorchChoice
from doctor.work.programs import with_own_path

sys.path.append(str(Path(__file__).parents[1]))

from index_server import IndexServer, Wheel, make_wheel

REPO = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("run_apply.py")
PROJECT = """
[project]
name = "small-trainer"
version = "1"

[project.optional-dependencies]
train = ["tinynum>=1.5", "torch>=2.6"]
"""
Bare = Callable[[str], Path]
"""Name of a tool -> an environment that has nothing but it, to be copied."""

OLD, NEW, NEWEST = "2.13.0+cpu", "2.14.0+cpu", "2.15.0+cpu"


def torch_wheel(
    version: str, *, cuda: str | None = None, files: int = 40, requires: Iterable[str] = ()
) -> Wheel:
    """A wheel called torch, with what the doctor reads of one."""
    said = f"__version__ = {version!r}\ncuda = {cuda!r}\ngit_version = 'abc'\n"
    modules = {
        "torch/__init__.py": "from torch.version import __version__\n",
        "torch/version.py": said,
    }
    modules |= {
        f"torch/part_{version[:4].replace('.', '_')}_{n}.py": "x = 1\n" * 50 for n in range(files)
    }
    modules["torch/lib/libtorch_cpu.so"] = f"no library, but of {version}\n" * 500
    return make_wheel(
        "torch", version, modules=modules, requires=tuple(requires), with_metadata=True
    )


def find_uv() -> str:
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found is not None, "the extra 'test' brings uv"
    return found


@dataclass
class World:
    """A checkout, an environment in it, and an index.

    Attributes:
        tool: `uv` or `pip`, which does the installing.
        said: what apply said.
    """

    folder: Path
    index: IndexServer
    tool: str
    said: list[str] = field(default_factory=list)
    called: str = "check out"

    @property
    def checkout(self) -> Path:
        return self.folder / self.called

    @property
    def prefix(self) -> Path:
        return self.checkout / ".venv"

    @property
    def python(self) -> str:
        return str(self.prefix / "bin" / "python")

    @property
    def state(self) -> Path:
        return self.prefix / "nanochat-doctor"

    @property
    def uv(self) -> str | None:
        return find_uv() if self.tool == "uv" else None

    @property
    def target(self) -> Place:
        return target(self.python, self.checkout)

    # --- what there is

    def packages(self) -> dict[str, str]:
        """What is installed, without the installers."""
        found = self.target.installed()
        return {n: d.version for n, d in found.items() if n not in ("pip", "setuptools")}

    def unbroken(self) -> bool:
        """Whether all that is installed is whole, and nothing lies about."""
        site = self.target.site
        known = {"_virtualenv.py", "_virtualenv.pth", "distutils-precedence.pth"}
        return not integrity.damaged(site) and not integrity.unowned(site) - known

    def events(self) -> list[tuple[str, str]]:
        path = self.state / "journal.jsonl"
        entries = journal.Journal(path).entries if path.exists() else []
        return [(entry.step, entry.event) for entry in entries]

    def began(self, step: str) -> bool:
        """Whether a step is under way."""
        return self.events()[-1:] == [(step, "begin")]

    def version(self) -> str:
        """What the environment's own Python imports."""
        code = "import torch; print(torch.__version__)"
        return self.ask("-c", code).stdout.strip()

    def ask(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *words],
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            timeout=60,
        )

    # --- what is done

    def serve(self, index: str, *wheels: Wheel) -> str:
        """Put wheels on an index of the server; returns its URL."""
        by_name: dict[str, list[Wheel]] = {}
        for wheel in wheels:
            by_name.setdefault(wheel.name.split("-")[0].replace("_", "-"), []).append(wheel)
        url = f"{self.index.url}/{index}"
        for name, files in by_name.items():
            url = self.index.project(index, name, files)
        return url

    def install(self, *requirements: str, index: str | None = None, **options: bool) -> str:
        """The command of a step."""
        again = ["torch"] if options.get("again") else []
        target = commands.Target(self.python, uv=self.tool == "uv")
        return commands.install(target, requirements, index=index, again=again)

    def put(self, *requirements: str, index: str | None = None) -> None:
        """Install something by hand."""
        line = command_line.parse(self.install(*requirements, index=index))
        env = command_line.variables(line, with_own_path(os.environ), None)
        done = subprocess.run(
            line.words, capture_output=True, text=True, cwd=self.checkout, env=env
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def torch_plan(self, version: str, index: str, *steps: Step, minutes: float = 0.1) -> Plan:
        """A plan that puts a torch of that version in, and then other steps."""
        command = self.install(f"torch=={version}", index=index, again=True)
        torch = Step("torch", f"Install torch {version}", (command,), 1, 1, minutes)
        choice = TorchChoice(version, index, f"torch=={version}")
        return self.plan(torch, *steps, torch=choice)

    def plan(
        self, *steps: Step, torch: TorchChoice | None = None, route: str = "cpu-wheel"
    ) -> Plan:
        return Plan(route, "a test", (), torch, None, steps, None, (), self.python)

    def trainer(self) -> Step:
        return Step("trainer", "Install the rest", (self.install("tinynum>=1.5"),), 1, 1)

    def apply(self, plan: Plan, **options: object) -> Result:
        self.said.clear()
        words = {"confirm": None, **options}
        return apply(plan, checkout=self.checkout, say=self.said.append, **words)  # type: ignore[arg-type]

    def undo(self, **options: object) -> Result:
        self.said.clear()
        words = {"confirm": None, **options}
        return undo(
            state=self.state, checkout=self.checkout, say=self.said.append, **words  # type: ignore[arg-type]
        )  # fmt: skip

    def start(self, plan: Plan | None) -> subprocess.Popen[str]:
        """apply (undo without a plan) in a process of its own, that can be killed."""
        file = self.folder / f"plan-{time.monotonic_ns()}.pickle"
        file.write_bytes(pickle.dumps(plan))
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(file), str(self.checkout), str(self.state)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
            env=dict(os.environ) | {"PYTHONPATH": str(REPO)},
        )  # fmt: skip

    def pinned(self) -> dict[str, str]:
        return pins.read(self.prefix)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a function says yes."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def make_world(
    folder: Path, index: IndexServer, tool: str, bare: Bare, called: str = "check out"
) -> World:
    """A checkout with an environment, an index of torch, and one of everything else."""
    world = World(folder, index, tool, called=called)
    world.checkout.mkdir(parents=True)
    (world.checkout / "pyproject.toml").write_text(PROJECT)
    shutil.copytree(bare(tool), world.prefix, symlinks=True)
    world.serve("cpu", *(torch_wheel(v, requires=["helper==1.0"]) for v in (OLD, NEW, NEWEST)),
                make_wheel("helper", "1.0", with_metadata=True))  # fmt: skip
    world.serve("simple", torch_wheel("2.16.0", cuda="13.0"),
                make_wheel("helper", "1.0", with_metadata=True),
                make_wheel("helper", "2.0", with_metadata=True),
                *(make_wheel("tinynum", v, with_metadata=True) for v in ("1.0", "1.6", "2.0")))  # fmt: skip
    return world

"""Runs the scripts of a plan from beginning to end, and shows on one screen how far they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from doctor.errors import DoctorError
from doctor.launch.follow import Run, Stage, last_lines
from doctor.planner.terms.plan import Launch
from doctor.text.visible import control, visible

POLL = 0.25
QUIET = 30.0
"""Seconds between lines about a stage where there is no terminal to rewrite one on."""

STOP_SECONDS = 60.0
"""The scripts end their own children within this, see templates/shell/lib.sh.j2."""


def base_dir() -> Path:
    """The trainer's base folder, as nanochat/files.py has it."""
    named = os.environ.get("NANOCHAT_BASE_DIR")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "nanochat"


def model_tag(launch: Launch) -> str:
    """The name of the run, as templates/shell/env.sh.j2 has it."""
    return os.environ.get("NANOCHAT_MODEL_TAG") or f"{launch.profile}-d{launch.depth}"


def run(folder: Path, launch: Launch, out: IO[str]) -> None:
    """Run `speedrun.sh` of a folder to its end; stages that are done are skipped by the scripts themselves.

    Raises:
        DoctorError: a stage failed; names it, its last lines and its log.
        KeyboardInterrupt: the user stopped it; all its processes are gone.
    """
    base, tag = base_dir(), model_tag(launch)
    logs = Path(os.environ.get("NANOCHAT_LOG_DIR") or base / "runs" / tag / "logs")
    progress = Run(
        logs / "status.jsonl",
        base / "base_checkpoints" / tag / "metrics.jsonl",
        launch.num_iterations,
    )
    said = folder / "speedrun.log"
    with said.open("wb") as log, _Screen(out) as screen, _ended_by_signals():
        process = subprocess.Popen(
            ["bash", str(folder / "speedrun.sh")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while True:
                ended = process.poll() is not None
                for stage in progress.update():
                    screen.stage(progress, stage)
                screen.live(progress)
                if ended:
                    break
                time.sleep(POLL)
        except BaseException:
            _stop(process)
            raise
    if process.returncode != 0:
        raise DoctorError(_failure(progress.failed, said, process.returncode))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Tell the scripts to end, and wait until they have ended what they started."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does, so that no stage is left behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(stage: Stage | None, said: Path, status: int) -> str:
    log = Path(stage.log) if stage and stage.log else said
    what = f"Stage {stage.name}" if stage else "The run"
    how = f"status {stage.status if stage and stage.status else status}"
    lines = "".join(f"\n    {line}" for line in last_lines(log))
    return (
        f"{what} failed with {how}; its last lines are below, all of it is in {log}. Put the cause right and run the "
        f"same command again: it goes on with this stage.{lines}"
    )


class _Screen:
    """Lines for stages as they begin and end; on a terminal the last one is rewritten as the stage goes on."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._told = time.monotonic()

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def stage(self, progress: Run, stage: Stage) -> None:
        """A stage has begun or ended."""
        self._clear()
        if stage.state != "start":
            self._say(progress.line(stage))
        elif not self._terminal:
            self._say(f"▶ {stage.name}")

    def live(self, progress: Run) -> None:
        """Where the current stage is."""
        stage = progress.current
        if stage is None:
            return
        if self._terminal:
            self._clear()
            width = os.get_terminal_size(self._out.fileno()).columns
            self._out.write(visible(progress.line(stage))[: width - 1])
            self._out.flush()
        elif time.monotonic() - self._told > QUIET:
            self._say(progress.line(stage))

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        print(text, file=self._out, flush=True)

    def _clear(self) -> None:
        if self._terminal:
            control(self._out, "\r\x1b[K")


def sample(folder: Path) -> str:
    """What the scripts said at the end: where the model is and how to talk to it."""
    text = "\n".join(last_lines(folder / "speedrun.log", 40))
    return text[text.rfind("The model is in") :] if "The model is in" in text else ""


def model_said(launch: Launch) -> str:
    """The sample of the last run of stage `sample`, without time stamps."""
    logs = base_dir() / "runs" / model_tag(launch) / "logs"
    newest = max(logs.glob("sample-*.log"), default=None)
    return "\n".join(line[20:] for line in last_lines(newest, 12)) if newest else ""

"""What ends a run: with real processes, real signals, real gloo."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest
import warm

pytest.importorskip("torch")

from nanochat.errors import NanochatError
from nanochat.watch import (
    CURES,
    CollectiveError,
    Heartbeat,
    check_finite,
    explain_collectives,
)

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 1.5

# One import of torch for all ranks of a scenario: they are forked from it before it has any thread.
LAUNCHER = """
import os, signal, sys, time
def report(*words):  # apart from stdout, into which gloo writes
    os.write({pipe}, (" ".join(map(str, words)) + "\\n").encode())

import torch, torch.distributed as dist
from nanochat.errors import NanochatError
from nanochat.watch import Heartbeat, connect, explain_collectives

def together():
    dist.all_reduce(torch.ones(4))

def rank_main(rank, world):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    dist.init_process_group("gloo")
    limits = dict(interval=0.1, patience={patience}, stall={stall})
    with Heartbeat(rank=rank, world=world, store=connect(), **limits) as watch:
        watch.last_good = "step 7 in d4"
        for step in range(10):
            together()
            watch.step(step)
        time.sleep(0.3)  # a few beats, so that the others know of the last step
        report("READY", rank, os.getpid())
        body(rank, watch)

{body}

world = {world}
children = {{}}
for rank in range(world):
    pid = os.fork()
    if pid == 0:
        status = 0
        try:
            rank_main(rank, world)
        except NanochatError as error:
            print(f"error: {{error}}", file=sys.stderr, flush=True)
            status = 1
        os._exit(status)
    children[pid] = rank
while children:
    pid, status = os.wait()
    report("ENDED", children.pop(pid), os.waitstatus_to_exitcode(status))
"""

# Blocked as if in a collective that never returns: in C, deaf to the end of other ranks.
BLOCKED = "time.sleep(600)"


@dataclass
class Run:
    """A few ranks at work."""

    process: subprocess.Popen[str]
    reports: IO[str]
    pids: dict[int, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)

    def ready(self, world: int) -> None:
        while len(self.pids) < world:
            assert self.read(), self.process.communicate()[1]

    def read(self) -> bool:
        line = self.reports.readline()
        if line:
            word, rank, number = line.split()
            (self.pids if word == "READY" else self.statuses)[int(rank)] = int(number)
        return bool(line)

    def end(self) -> str:
        while self.read():
            pass
        self.reports.close()
        # what torch's C++ has to say is not ours
        lines = self.process.communicate()[1].splitlines()
        return "\n".join(line for line in lines if line.startswith(("error", "warning", "  File")))


def start(body: str, world: int = 2, stall: float = 60.0) -> Run:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reports, pipe = os.pipe()
    code = LAUNCHER.format(
        body=f"def body(rank, watch):\n    {body}",
        world=world,
        stall=stall,
        patience=PATIENCE,
        pipe=pipe,
    )
    process = subprocess.Popen(
        [warm.python(), "-c", code],
        cwd=REPO,
        env={
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[pipe],
    )
    os.close(pipe)
    run = Run(process, os.fdopen(reports))
    run.ready(world)
    return run


def test_the_normal_end_says_nothing() -> None:
    run = start("time.sleep(0.2 * rank)", world=3)
    assert run.end() == ""
    assert run.statuses == {0: 0, 1: 0, 2: 0}


@pytest.mark.slow
def test_a_rank_that_ended_well_is_not_called_dead() -> None:
    run = start(f"time.sleep({2.5 * PATIENCE} if rank == 0 else 0)")
    assert run.end() == ""
    assert run.statuses == {0: 0, 1: 0}


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_suspended_rank_stops_the_others(blow: signal.Signals) -> None:
    run = start(BLOCKED, world=3)
    os.kill(run.pids[2], blow)
    while len(run.statuses.keys() & {0, 1}) < 2:
        assert run.read()
    if blow == signal.SIGSTOP:
        os.kill(run.pids[2], signal.SIGKILL)
    said = run.end()
    assert run.statuses == {0: 1, 1: 1, 2: -signal.SIGKILL}
    line = next(line for line in said.splitlines() if "error: rank 0" in line)
    assert (
        f"rank 2 (on {socket.gethostname()}, process {run.pids[2]}, last heard of at step 9)"
        in line
    )
    silence = re.search(r"gave no sign of life for (\d+) s", line)
    assert silence and int(silence[1]) >= PATIENCE
    assert "the last good checkpoint is step 7 in d4" in line


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_the_store_gone_or_hanging_stops_the_others(blow: signal.Signals) -> None:
    run = start(BLOCKED)
    os.kill(run.pids[0], blow)  # holds the store
    while 1 not in run.statuses:
        assert run.read()
    if blow == signal.SIGSTOP:
        os.kill(run.pids[0], signal.SIGKILL)
    said = run.end()
    assert run.statuses[1] == 1
    assert "error: rank 1 stops at step 9: the store that connects the ranks" in said
    assert said.count("error: rank 1") == 1


@pytest.mark.slow
def test_the_failure_of_one_rank_is_told_by_the_others_at_once() -> None:
    run = start(f"if rank == 1: raise NanochatError('the disk is full')\n    {BLOCKED}")
    said = run.end()
    assert run.statuses == {0: 1, 1: 1}
    assert "process" in said and "last heard of at step 9) failed: the disk is full" in said
    assert "error: the disk is full" in said and "sign of life" not in said


def test_a_rank_lost_in_a_collective_is_one_sentence() -> None:
    body = (
        "with explain_collectives(rank, 10, 'step 7 in d4'):\n"
        "        if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        together()\n"
        "        together()"
    )
    run = start(body)
    said = run.end()
    assert run.statuses == {0: 1, 1: -signal.SIGKILL}
    assert said.splitlines() == [
        "error: rank 0 stopped at step 10, another rank closed its connection: it failed or was killed, and "
        "its own last lines say why; the last good checkpoint is step 7 in d4, to go on from with "
        "--resume-from-step"
    ]


@pytest.mark.slow
def test_a_rank_that_leaves_in_any_other_way_has_failed() -> None:
    run = start(f"if rank == 1: raise SystemExit('enough')\n    {BLOCKED}")
    said = run.end()
    assert run.statuses[0] == 1
    assert "error: rank 0 stops at step 9: rank 1" in said and "failed: enough" in said


@pytest.mark.slow
def test_a_stall_is_warned_of_with_the_stack_and_then_ends_the_run() -> None:
    body = f"if rank == 1: watch.step(10)\n    {BLOCKED}  # the culprit"
    run = start(body, stall=0.8)
    said = run.end()
    assert run.statuses == {0: 1, 1: 1}
    assert "warning: rank 1: no step has ended for" in said
    assert "in body" in said, "the stack of the main thread"
    assert said.count("warning: rank 1") == 1
    assert "furthest behind is rank 0" in said or "rank 0" in said.split("error: ")[-1]


@pytest.mark.slow
def test_a_pause_is_no_stall() -> None:
    run = start("with watch.pause(): time.sleep(2.5)\n    watch.step(10)", stall=0.8)
    assert run.end() == ""
    assert run.statuses == {0: 0, 1: 0}


def test_one_rank_is_watched_for_stalls_without_a_store() -> None:
    code = (
        "import time\nfrom nanochat.watch import Heartbeat\n"
        "with Heartbeat(interval=0.05, stall=0.3) as watch:\n    watch.step(3)\n    time.sleep(60)\n"
    )
    answer = subprocess.run(
        [warm.python(), "-c", code], cwd=REPO, capture_output=True, text=True, timeout=30
    )
    assert answer.returncode == 1
    assert "error: rank 0 stops at step 3: no step has ended for" in answer.stderr.splitlines()[-1]
    assert answer.stderr.splitlines()[-1].endswith("no checkpoint had been written yet"), (
        answer.stderr
    )


def test_a_watch_that_ended_leaves_no_thread() -> None:
    with Heartbeat(interval=0.05) as watch:
        watch.step(0)
    assert not any(thread.is_alive() for thread in watch._threads)


# --- pure parts -------------------------------------------------------------------------------


def test_finite_numbers_pass() -> None:
    check_finite(2.5, {"matrices": 0.0, "head": 1e30}, step=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(NanochatError) as caught:
        check_finite(
            1.0, {"matrices": 1.0, "head": value}, step=12, rank=3, last_good="step 10 in d4"
        )
    said = str(caught.value)
    assert f"at step 12 on rank 3 the gradient of head became {value}" in said
    assert "the last good checkpoint is step 10 in d4" in said and "matrices" not in said


@pytest.mark.parametrize("dtype", CURES)
def test_what_to_try_depends_on_the_type(dtype: str) -> None:
    with pytest.raises(NanochatError) as caught:
        check_finite(math.nan, {"a": math.inf}, step=0, dtype=dtype)
    said = str(caught.value)
    assert "the loss, the gradient of a became nan" in said and CURES[dtype] in said
    assert "no checkpoint had been written yet" in said


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("[pair.cc:561] Connection closed by peer [127.0.0.1]:42648. GLHF!", "closed"),
        ("[unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation", "in time"),
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5", "in time"),
        ("EI0002: The wait execution of the Notify register times out", "in time"),
        ("ERR02200 DIST call hccl api failed.\nEJ0001: Failed to initialize the HCCP", "clean"),
        ("EI0006: Getting socket times out. Reason: the remote does not initiate", "HCCL"),
        ("NCCL error in: ProcessGroupNCCL.cpp:2, unhandled system error", "NCCL lost"),
    ],
)
def test_collective_failures_are_explained(words: str, meaning: str) -> None:
    with pytest.raises(CollectiveError, match=meaning), explain_collectives(0, 5):
        raise RuntimeError(words)


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="out of memory") as caught, explain_collectives(0, 5):
        raise RuntimeError("CUDA out of memory")
    assert not isinstance(caught.value, NanochatError)
    assert json.dumps(str(caught.value))

"""What ends a run that cannot go on, and says why: numbers that are no numbers, ranks that are gone, stalls.

A collective waits for every rank, so one rank that dies can leave all others blocked for ever, deaf to
exceptions and signals. Hence `Heartbeat` works in threads of its own and, when it has to, ends the process
without asking it.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn

from nanochat.errors import NanochatError, first_line

INTERVAL = 5.0
PATIENCE = 30.0
FIRST_STEP_STALL = 1800.0
"""Seconds for the first step, which may have to compile the model."""
LEAST_STALL = 600.0
STALL_STEPS = 20
"""A step that takes as long as this many usual ones has stalled, `LEAST_STALL` seconds granted."""
REMEMBERED_STEPS = 101


# --- numbers ----------------------------------------------------------------------------------

CURES = {
    "float16": "train in bfloat16 or float32, or lower --matrix-lr and --embedding-lr",
    "bfloat16": "lower --matrix-lr and --embedding-lr, lengthen --warmup-steps, or train in float32",
    "float32": "lower --matrix-lr and --embedding-lr, or lengthen --warmup-steps",
}
"""What to try when numbers overflow, by the type that matrices are multiplied in."""


def check_finite(
    loss: float,
    norms: Mapping[str, float],
    *,
    step: int,
    rank: int = 0,
    dtype: str = "float32",
    last_good: str = "",
) -> None:
    """Refuse to go on from a loss or a gradient that is NaN or infinite.

    With a gradient scaler, call it only for steps that are taken: one that is skipped is infinite on purpose.

    Args:
        loss: of this step, in nats per token.
        norms: gradient norm of each parameter group, after unscaling.
        dtype: a key of `CURES`.
        last_good: where the last good checkpoint is, for people; empty while there is none.

    Raises:
        NanochatError: something is not finite; names step, rank and parameter groups.
    """
    bad = [f"the gradient of {name}" for name, norm in norms.items() if not math.isfinite(norm)]
    if not math.isfinite(loss):
        bad.insert(0, "the loss")
    if not bad:
        return
    value = next(v for v in (loss, *norms.values()) if not math.isfinite(v))
    raise NanochatError(
        f"at step {step} on rank {rank} {', '.join(bad)} became {value}, and nothing of it was saved; "
        f"{CURES[dtype]}; {_good(last_good)}"
    )


def check_weights(
    squares: Mapping[str, float], *, step: int, dtype: str = "float32", last_good: str = ""
) -> None:
    """Refuse to save or to judge weights that are no numbers any more, or too large to work with.

    A rate that is far too high breaks them in the very step whose loss and gradients were still sound.

    Args:
        squares: of each parameter group, the sum of the squares of its weights in single precision.
        step: after how many steps.

    Raises:
        NanochatError: one is not finite; names the groups.
    """
    bad = [name for name, square in squares.items() if not math.isfinite(square)]
    if bad:
        raise NanochatError(
            f"after step {step - 1} the weights of {', '.join(bad)} are not finite or too large to multiply, and "
            f"nothing of it was saved; {CURES[dtype]}; {_good(last_good)}"
        )


def _good(last_good: str) -> str:
    return (
        f"the last good checkpoint is {last_good}, to go on from with --resume-from-step"
        if last_good
        else "no checkpoint had been written yet"
    )


# --- collectives ------------------------------------------------------------------------------


class CollectiveError(NanochatError):
    """The ranks could not work together, so the cause is most likely on another rank."""


COLLECTIVE_FAILURES = (
    (
        r"Connection (closed|reset) by peer|Broken pipe|Socket Timeout|remote process exited|ncclRemoteError",
        "another rank closed its connection: it failed or was killed, and its own last lines say why",
    ),
    (
        r"Timed out waiting \d+ms|Watchdog caught collective|EI0002|ncclTimeout|collective.{0,40}time.?out",
        "the other ranks did not come to a collective in time: one of them hangs, was suspended, or failed",
    ),
    (
        r"EJ000[13]|EI0020",
        "HCCL could not start: a process of an earlier run still holds the device or its port; wait 10 s, or "
        "end it with 'nanochat-doctor clean'",
    ),
    (
        r"EI0006|EI001[35]|ERR02200|HCCL.{0,40}(error|fail)",
        "HCCL lost the other ranks; see the first rank that failed, and its links with hccn_tool",
    ),
    (
        r"ncclSystemError|ncclInternalError|ncclUnhandledCudaError|NCCL error",
        "NCCL lost the other ranks; see the first rank that failed, or start again with NCCL_DEBUG=WARN",
    ),
    (
        r"gloo|\[c10d\]|Distributed?(Network|Store|Backend)Error",
        "the ranks lost each other; see the first rank that failed",
    ),
)
"""Patterns in what torch says -> what it means; the first that matches counts. Gloo's words were seen with
torch 2.15; NCCL's are from public reports, HCCL's from those and from Huawei's error code pages
(hiascend.com, "EI0002 Communication Operation Timeout" and its neighbours)."""


@contextmanager
def explain_collectives(rank: int, step: int, last_good: str = "") -> Iterator[None]:
    """Put failures of gloo, NCCL and HCCL inside it into one sentence; other exceptions pass.

    Raises:
        CollectiveError: another rank did not take part in a collective.
    """
    try:
        yield
    except RuntimeError as error:
        text = f"{type(error).__name__}: {error}"
        for pattern, meaning in COLLECTIVE_FAILURES:
            if re.search(pattern, text, re.IGNORECASE):
                raise CollectiveError(
                    f"rank {rank} stopped at step {step}, {meaning}; {_good(last_good)}"
                ) from error
        raise


# --- ranks ------------------------------------------------------------------------------------


def connect(patience: float = PATIENCE) -> Any:
    """A connection of one's own to the store through which the ranks of this run met.

    A store's connection serves one request at a time, so sharing that of the process group would make the
    watch wait behind exactly what it watches. Keys of earlier attempts of the same torchrun stay apart.

    Raises:
        NanochatError: nothing answers at MASTER_ADDR:MASTER_PORT.
    """
    from torch.distributed import PrefixStore, TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(
            host,
            port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=patience),
            use_libuv=os.environ.get("USE_LIBUV", "1") == "1",  # torch's own switch
        )
    except RuntimeError as error:
        raise NanochatError(
            f"the store of this run at {host}:{port} does not answer ({first_line(error)}); "
            "start torchrun again"
        ) from error
    return PrefixStore(f"nanochat/watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a rank tells the others, every few seconds."""

    count: int
    step: int
    host: str
    pid: int
    done: bool = False
    failure: str = ""

    @property
    def place(self) -> str:
        """Where this rank runs, for people."""
        step = f"at step {self.step}" if self.step >= 0 else "before its first step"
        return f"on {self.host}, process {self.pid}, last heard of {step}"


class Heartbeat:
    """Ends this process with status 1 and one line on stderr when the run cannot go on.

    That is when another rank failed, or its process has not been heard of for `patience` seconds (killed,
    suspended, its machine gone); when the store has not answered for as long; or when no step has ended for
    too long, after a warning with the stack of the main thread at half that time.

    Use it as a context, entered by every rank right after the group was made:

        with Heartbeat(rank=rank, world=world, store=connect() if world > 1 else None) as watch:
            for step in ...:
                ...
                watch.step(step)
            world.barrier()

    The barrier makes rank 0, whose process may hold the store, end no sooner than the others. Times are those
    of this process alone, so the clocks of several machines need not agree.
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        world: int = 1,
        store: Any = None,
        interval: float = INTERVAL,
        patience: float = PATIENCE,
        stall: float | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            store: from `connect`; None with one rank, where only stalls are watched for.
            interval: seconds between beats.
            patience: seconds without a beat after which a rank is dead.
            stall: seconds without a step after which to warn, and twice that to stop; by default reckoned
                from the steps so far.
        """
        self.rank = rank
        self.last_good = ""
        """Where the last good checkpoint is, for people; set it after each."""
        self._store = store
        self._others = [other for other in range(world) if other != rank] if store else []
        self._interval, self._patience, self._fixed_stall = interval, patience, stall
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failure, self._trouble = "", ""
        self._count, self._step = 0, -1
        self._durations: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._pauses = 0
        self._warned = False
        self._beats: dict[int, Beat] = {}
        self._progressed = self._answered = time.monotonic()
        self._heard = dict.fromkeys(self._others, self._answered)

    # --- from the main thread -------------------------------------------------------------

    def __enter__(self) -> Heartbeat:
        """Start watching."""
        jobs: list[Callable[[], None]] = [self._judge] + ([self._exchange] if self._store else [])
        for job in jobs:
            thread = threading.Thread(target=job, name=f"watch{job.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching; tell the other ranks that this one is done, or why it failed."""
        self._failure = first_line(error) if error else ""
        self._ended.set()
        for thread in self._threads:
            thread.join(self._interval)
        # One that lost the others in a collective falls silent: whoever was silent before it is to blame.
        if not self._others or self._trouble or isinstance(error, CollectiveError):
            return
        self._last_beat()
        if isinstance(error, Exception):
            # The store dies with rank 0's process, so let the others read the reason first.
            time.sleep(2 * self._interval)

    def step(self, number: int) -> None:
        """Step `number` has ended on this rank."""
        now = time.monotonic()
        if self._step >= 0 and not self._pauses:
            self._durations.append(now - self._progressed)
        self._step, self._progressed, self._warned = number, now, False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Not a step and no stall: evaluation, sampling, a checkpoint. Other ranks are watched on."""
        self._pauses += 1
        try:
            yield
        finally:
            self._progressed = time.monotonic()
            self._pauses -= 1

    # --- talking to the store -------------------------------------------------------------

    def _exchange(self) -> None:
        """Beat, and listen to the beats of others. Any request may block while the store hangs: `_judge` sees
        it."""
        while True:
            try:
                self._put(Beat(count=self._count, step=self._step, host=self._host, pid=self._pid))
                self._listen()
            except RuntimeError as error:
                # A lost connection never comes back, and each further try writes a page of C++ frames to
                # stderr.
                self._trouble = first_line(error)
                return
            self._count += 1
            self._answered = time.monotonic()
            if self._ended.wait(self._interval):
                return

    def _put(self, beat: Beat) -> None:
        self._store.set(str(self.rank), json.dumps(vars(beat)))

    def _listen(self) -> None:
        # get() would block for a rank that has not beaten yet; check() answers at once.
        there = [other for other in self._others if self._store.check([str(other)])]
        texts = self._store.multi_get([str(other) for other in there]) if there else []
        now = time.monotonic()
        for other, text in zip(there, texts, strict=True):
            beat = Beat(**json.loads(text))
            if beat != self._beats.get(other):
                self._beats[other], self._heard[other] = beat, now

    def _last_beat(self) -> None:
        """Tell how this rank ended, without waiting for a store that hangs."""
        beat = Beat(
            count=self._count,
            step=self._step,
            host=self._host,
            pid=self._pid,
            done=not self._failure,
            failure=self._failure,
        )

        def tell() -> None:
            try:
                self._put(beat)
            except RuntimeError:
                pass  # nobody is left to be told

        thread = threading.Thread(target=tell, name="watch_last_beat", daemon=True)
        thread.start()
        thread.join(self._interval)

    # --- judging --------------------------------------------------------------------------

    def _judge(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(self._interval):
            now = time.monotonic()
            if now - looked > self._interval + self._patience / 2:
                # It was this process that was suspended, or its machine slept: it heard nobody because it
                # slept.
                self._forgive(now)
            looked = now
            verdict = (
                self._failed_rank() or self._dead_rank(now) or self._lost_store(now)
            ) or self._stall(now)
            if verdict and not self._ended.is_set():
                self._die(verdict)

    def _forgive(self, now: float) -> None:
        self._answered = self._progressed = now
        self._heard = dict.fromkeys(self._others, now)

    def _failed_rank(self) -> str:
        for other, beat in list(self._beats.items()):
            if beat.failure:
                return f"rank {other} ({beat.place}) failed: {beat.failure}"
        return ""

    def _dead_rank(self, now: float) -> str:
        # While the store itself is silent, nothing is known of any rank.
        if now - self._answered > 2 * self._interval or not self._others:
            return ""
        other = min(self._others, key=lambda each: self._deadline(each))
        if now < self._deadline(other):
            return ""
        beat = self._beats.get(other)
        # Ranks go in step: it took part in the last step that ended here, whatever its last beat said.
        place = replace(beat, step=max(beat.step, self._step)).place if beat else "never heard of"
        return (
            f"rank {other} ({place}) gave no sign of life for {now - self._heard[other]:.0f} s: "
            "it was killed (out of memory?), suspended, or its machine is gone"
        )

    def _deadline(self, other: int) -> float:
        beat = self._beats.get(other)
        return math.inf if beat and beat.done else self._heard[other] + self._patience

    def _lost_store(self, now: float) -> str:
        if not self._others or now - self._answered < self._patience:
            return ""
        first = self._beats.get(0)
        if first and first.done:
            return ""  # rank 0 ended well and took the store along
        reason = f" ({self._trouble})" if self._trouble else ""
        return (
            f"the store that connects the ranks has not answered for {now - self._answered:.0f} s{reason}: "
            "rank 0 or torchrun was killed or suspended"
        )

    def _stall(self, now: float) -> str:
        still = now - self._progressed
        if self._pauses or still < self._stall_limit():
            return ""
        facts = f"no step has ended for {still:.0f} s since step {self._step}{self._hindmost()}"
        if still > 2 * self._stall_limit():
            return facts
        if not self._warned:
            self._warned = True
            frame = sys._current_frames().get(self._main)
            stack = "".join(traceback.format_stack(frame)) if frame else "the main thread is gone\n"
            _tell(f"warning: rank {self.rank}: {facts}; it is here:\n{stack.rstrip()}")
        return ""

    def _stall_limit(self) -> float:
        if self._fixed_stall is not None:
            return self._fixed_stall
        if not self._durations:
            return FIRST_STEP_STALL
        return max(LEAST_STALL, STALL_STEPS * statistics.median(list(self._durations)))

    def _hindmost(self) -> str:
        """The rank for which the others probably wait."""
        beats = dict(self._beats)
        if not beats:
            return ""
        rank, beat = min(beats.items(), key=lambda item: item[1].step)
        return f"; furthest behind is rank {rank} ({beat.place})" if beat.step < self._step else ""

    def _die(self, verdict: str) -> NoReturn:
        where = f"at step {self._step}" if self._step >= 0 else "before its first step"
        _tell(f"error: rank {self.rank} stops {where}: {verdict}; {_good(self.last_good)}")
        os._exit(1)


def _tell(text: str) -> None:
    """Write to stderr in one piece, past Python's own file, whose lock a blocked thread may hold."""
    os.write(2, f"{text}\n".encode())

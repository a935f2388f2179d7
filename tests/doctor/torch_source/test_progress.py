"""What a build says while it runs, and what it remembers of its objects."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from doctor.compile.ninja.progress import Meter
from doctor.compile.ninja.weights import Weights
from doctor.knowledge.tables import Tables
from doctor.planner.build.jobs import Jobs
from doctor.work.events import Reporter
from doctor.work.processes import MARK, Sampler, end, marked

ROWS = Tables().rows("recipes", "weight")
FLASH = "caffe2/CMakeFiles/torch_cuda.dir/flash_bwd_hdim192_bf16_sm80.cu.o"


def test_one_live_line_on_a_terminal() -> None:
    """Rewritten in place, never wider than the terminal, and gone before anything else is said."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        reporter = Reporter(err=terminal)
        reporter.progress("1/9 objects " + "x" * 300)
        reporter.progress("2/9 objects")
        reporter.event("configure", "Configuring …")
        said = os.read(master, 4096).decode()
    os.close(master)
    assert said.count("\n") == 1 and said.endswith("\r\x1b[2KConfiguring …\r\n")
    assert "…\r\x1b[2K2/9 objects" in said and len(said) < 200


def test_elsewhere_now_and_then() -> None:
    err = io.StringIO()
    reporter = Reporter(err=err)
    assert reporter.due()
    reporter.progress("1/9 objects")
    assert not reporter.due() and err.getvalue() == "1/9 objects\n"


def test_events_are_one_object_a_line() -> None:
    out = io.StringIO()
    Reporter(out=out).event("check", "two\nlines", name="import", ok=True)
    event = json.loads(out.getvalue())
    assert event["event"] == "check" and event["name"] == "import" and event["text"] == "two\nlines"


def test_the_table_counts_until_something_was_learned(tmp_path: Path) -> None:
    weights = Weights.load(tmp_path / "w.json", ROWS)
    assert weights.is_heavy(FLASH, 3.4) and weights.memory_gb(FLASH) == 5.0
    weights.learn({FLASH: 12.0, "a.cpp.o": 3.0}, {FLASH: 700})
    again = Weights.load(tmp_path / "w.json", ROWS)
    assert not again.is_heavy(FLASH, 3.4) and again.seconds(FLASH) == 12.0
    again.learn({FLASH: 11.0}, {})
    assert again.learned[FLASH] == (11.0, 700), "a peak that was not met keeps the former one"
    (tmp_path / "w.json").write_text('{"a.o": [1')
    assert Weights.load(tmp_path / "w.json", ROWS).learned == {}


def test_time_left_goes_by_weights_not_by_numbers(tmp_path: Path) -> None:
    """Of two objects the light one is done: most of the work is still to do."""
    plan = "".join(f"build {n}: CXX_COMPILER__x x\n" for n in ("light.cpp.o", "heavy.cpp.o"))
    (tmp_path / "build.ninja").write_text(plan)
    weights = Weights(
        ROWS, tmp_path / "w.json", {"light.cpp.o": (1.0, 0), "heavy.cpp.o": (999.0, 0)}
    )
    meter = Meter(tmp_path, weights, Jobs(1, 1, 5.0, 1.0), Reporter(err=io.StringIO()), "nobody")
    assert meter.seconds_left() is None
    meter.heard("[1/2 1] Building CXX object light.cpp.o")
    left = meter.seconds_left()
    assert left is not None and 800 < left < 1100 and meter.done == 1
    assert "1/2 objects" in meter.text()


def test_processes_are_found_measured_and_ended_orphans_too(tmp_path: Path) -> None:
    """A child in a session of its own, whose parent is dead, named after the object it writes."""
    child = ["-c", "x = bytearray(60 << 20); import time; time.sleep(60)", "-o", "a.dir/x.cpp.o"]
    code = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, *{child!r}], start_new_session=True)"
    )
    env = {**os.environ, MARK: str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    sampler, wait = Sampler(str(tmp_path)), time.monotonic() + 20
    while sampler.peaks.get("a.dir/x.cpp.o", 0) < 60 and time.monotonic() < wait:
        sample = sampler.sample()
        time.sleep(0.05)
    assert sampler.peaks["a.dir/x.cpp.o"] >= 60 and sample.total >= 60
    assert sample.heaviest is not None and sample.heaviest[0] == "a.dir/x.cpp.o"
    assert len(marked(str(tmp_path))) == 1 and marked(str(tmp_path / "other")) == []
    assert end(str(tmp_path)) == 1 and marked(str(tmp_path)) == []

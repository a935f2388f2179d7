"""How long `nanochat-doctor check --json` takes beside two tools that answer the same question.

Whole processes, as a person waits for them: `python -m torch.utils.collect_env`, `env-doctor check`
(the PyPI package env-doctor) and ours, taking turns so that a busy machine is busy for all of them.

    uv venv bench && uv pip install --python bench/bin/python torch env-doctor
    python tests/bench/bench_check.py --python bench/bin/python --env-doctor bench/bin/env-doctor

Ends with 1 where ours takes longer than --limit, or more than a tenth of one of the others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

OURS = "nanochat-doctor check --json"


@dataclass
class Contender:
    """A command, and how long and how much memory each of its runs took."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    status: int | None = None

    def run(self) -> None:
        """One run; its output is read and thrown away."""
        began = time.perf_counter()
        process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        self.seconds.append(time.perf_counter() - began)
        process.returncode = self.status = os.waitstatus_to_exitcode(status)
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        self.peak_mib = max(self.peak_mib, usage.ru_maxrss / unit)

    @property
    def median(self) -> float:
        """Median of its runs in seconds."""
        return statistics.median(self.seconds)


def contenders(options: argparse.Namespace) -> list[Contender]:
    """Ours, and those of the others that were named."""
    doctor = [sys.executable, "-m", "doctor", "check", "--json", "--python", options.python]
    found = [Contender(OURS, doctor)]
    collect = [options.python, "-m", "torch.utils.collect_env"]
    found.append(Contender("torch.utils.collect_env", collect))
    if options.env_doctor:
        found.append(Contender("env-doctor check", [options.env_doctor, "check"]))
    return found


def report(found: list[Contender]) -> None:
    """One line each: median, fastest, slowest, times ours, largest resident memory, exit status."""
    ours = found[0].median
    print(f"{'':30} {'median':>8} {'min':>8} {'max':>8} {'ratio':>7} {'peak':>9} {'exit':>5}")
    for one in found:
        times = f"{one.median:7.3f}s {min(one.seconds):7.3f}s {max(one.seconds):7.3f}s"
        ratio = f"{one.median / ours:6.1f}x"
        print(f"{one.name:30} {times} {ratio} {one.peak_mib:5.0f} MiB {one.status:5}")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="interpreter with torch to examine")
    parser.add_argument("--env-doctor", metavar="PATH", help="the program env-doctor")
    parser.add_argument("--runs", type=int, default=9, help="measured runs of each (default: 9)")
    parser.add_argument("--limit", type=float, default=0.25, help="seconds that ours may take")
    options = parser.parse_args()
    for name in ("python", "env_doctor"):
        if getattr(options, name):
            setattr(options, name, os.path.abspath(getattr(options, name)))
    found = contenders(options)
    for one in found:  # fills the disk cache and the caches of compiled modules
        one.run()
        one.seconds.clear()
    for _ in range(options.runs):
        for one in found:
            one.run()
    load = os.getloadavg()[0]
    print(f"{options.runs} runs each, taking turns; {os.cpu_count()} cores, load {load:.1f}, "
          f"Python {sys.version.split()[0]}\n")  # fmt: skip
    report(found)
    slower = [one.name for one in found[1:] if found[0].median > one.median / 10]
    if found[0].median > options.limit:
        print(f"\n{OURS} takes longer than {options.limit} s")
    if slower:
        print(f"\n{OURS} takes more than a tenth of {', '.join(slower)}")
    return int(bool(slower) or found[0].median > options.limit)


if __name__ == "__main__":
    raise SystemExit(main())

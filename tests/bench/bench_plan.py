"""How long `nanochat-doctor plan` takes beside `check`: without asking, and with indexes that never answer.

    python tests/bench/bench_plan.py [--runs 5]

Plans for an environment without torch, so that there is something to ask for. The indexes are behind a proxy on
loopback that takes every connection and stays silent, which is the slowest that a network can be. Ends with 1 where
`plan --offline` takes more than 0.4 s or `plan` more than 2.5 s.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LIMITS = {"check": None, "plan --offline": 0.4, "plan": 2.5}
REPO = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def silent_proxy() -> Iterator[str]:
    """The address of a port that accepts and says nothing: its backlog is enough for that."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(128)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def main() -> int:
    """Run all in turns and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in LIMITS}
    with tempfile.TemporaryDirectory() as folder, silent_proxy() as proxy:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{folder}/env"], check=True)
        env = {
            **os.environ,
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "XDG_CACHE_HOME": f"{folder}/cache",
        }
        for run in range(runs + 1):
            for name in LIMITS:
                words = [*name.split(), "--python", f"{folder}/env/bin/python"]
                # An answer is remembered for a while, a failure for a minute: none of them here.
                subprocess.run(["rm", "-rf", f"{folder}/cache"], check=True)
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "doctor", *words],
                    cwd=REPO,
                    env=env,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                if run:  # the first one warms up
                    times[name].append(time.perf_counter() - began)
    slow = False
    for name, limit in LIMITS.items():
        median = statistics.median(times[name])
        slow |= limit is not None and median > limit
        wanted = f"  (at most {limit} s)" if limit else ""
        print(
            f"{name:16} {median:6.3f} s  {min(times[name]):.3f} to {max(times[name]):.3f}{wanted}"
        )
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())

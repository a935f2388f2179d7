"""What build-torch costs beside plain ninja: 400 small objects, both ways, again and again.

    python tests/bench/bench_build_torch.py [objects] [rounds]

Compiles a stand-in tree with ninja alone and through build-torch's own runner (pool, progress, memory
samples, learning) in turn, from nothing each time, and compares the fastest of each.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests"), str(REPO / "tests" / "doctor")]

from torch_source.standins import Shape, make_tree, toolbox  # noqa: E402

from doctor.compile.ninja.weights import Weights  # noqa: E402
from doctor.compile.source.fingerprint import Fingerprint  # noqa: E402
from doctor.compile.source.read_tree import read_tree  # noqa: E402
from doctor.compile.torch.builder import Builder  # noqa: E402
from doctor.knowledge.tables import Tables  # noqa: E402
from doctor.planner.build.jobs import Jobs  # noqa: E402
from doctor.work.events import Reporter  # noqa: E402


def main(objects: int = 400, rounds: int = 3) -> None:
    """Measure and print."""
    tools, tables = toolbox(), Tables()
    jobs = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = read_tree(make_tree(folder / "pytorch", Shape(ops=objects)), tables)
        env = {
            **os.environ,
            "PATH": f"{tools.python.parent}:{os.environ['PATH']}",
            "USE_CUDA": "0",
            "USE_TENSORPIPE": "0",
        }
        builder = Builder(
            tree=tree,
            python=str(tools.python),
            env=env,
            # one job fewer for heavy objects, so that there is a pool
            jobs=Jobs(jobs, max(1, jobs - 1), 5.0, 2.5),
            weights=Weights.load(folder / "weights.json", tables.rows("recipes", "weight")),
            reporter=Reporter(err=io.StringIO()),
            log=folder / "log",
            dist=folder / "dist",
            mark=str(folder),
            fingerprint=Fingerprint({}),
        )
        tree.build.mkdir()
        builder._once(builder._words(tree.driver["configure"]))
        ninja = ["ninja", "-C", str(tree.build)]
        best = {"ninja": 1e9, "build-torch": 1e9}
        for _ in range(rounds):
            for way in best:
                subprocess.run([*ninja, "-t", "clean"], env=env, check=True, capture_output=True)
                (tree.build / ".ninja_log").unlink(missing_ok=True)
                start = time.perf_counter()
                if way == "ninja":
                    subprocess.run(
                        [*ninja, "-j", str(jobs), "install"],
                        env=env,
                        check=True,
                        capture_output=True,
                    )
                else:
                    before = resource.getrusage(resource.RUSAGE_SELF)
                    builder._compile(tree.driver["compile"])
                    after = resource.getrusage(resource.RUSAGE_SELF)
                    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    print(f"{'':12} {own:7.2f} s of a core for watching")
                took = time.perf_counter() - start
                best[way] = min(best[way], took)
                print(f"{way:12} {took:7.2f} s", flush=True)
        over = best["build-torch"] / best["ninja"] - 1
        print(f"{objects} objects, {jobs} jobs: {over:+.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

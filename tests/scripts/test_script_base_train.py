"""base_train as a person runs it: whole processes, on one rank and on several, killed, resumed, misused."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import warm

pytest.importorskip("torch")
import crate  # noqa: F401

REPO = Path(__file__).resolve().parents[2]
MODEL = ("--depth=2", "--head-dim=32", "--aspect-ratio=32", "--max-seq-len=64", "--dtype=float32")
BATCH = ("--device-batch-size=12", "--total-batch-size=768")
LENGTH = ("--num-iterations=12", "--warmup-steps=2", "--eval-every=6", "--eval-tokens=3072")
QUIET = ("--core-metric-every=-1", "--sample-every=-1")
USUAL = (*MODEL, *BATCH, *LENGTH, *QUIET)


def sentences(count: int) -> list[str]:
    """Documents with enough order in them that a small model learns something."""
    chance = random.Random(0)
    who = ["the cat", "a dog", "the old man", "my sister", "an owl", "the king"]
    does = ["sees", "likes", "eats", "finds", "hears", "follows"]
    return [
        " ".join(
            f"{chance.choice(who)} {chance.choice(does)} {chance.choice(who)}." for _ in range(30)
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder with a dataset of our own and its tokenizer."""
    base = tmp_path_factory.mktemp("base")
    text = tmp_path_factory.mktemp("text")
    for number, document in enumerate(sentences(900)):
        (text / f"{number}.txt").write_text(document)
    for words in (
        ("nanochat.dataset", f"--source={text}", "--name=small"),
        ("scripts.tok_train", "--data=small", "--vocab-size=320"),
    ):
        done = call(base, "-m", *words)
        assert done.returncode == 0, done.stderr
    return base


def environment(base: Path) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "NANOCHAT_DTYPE")
    }
    return {**kept, "NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


def call(base: Path, *words: str, limit: float = 380) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm.python(), *words],
        cwd=REPO,
        env=environment(base),
        text=True,
        capture_output=True,
        timeout=limit,
        check=False,
    )


def train(base: Path, tag: str, *flags: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = (
        ()
        if ranks == 1
        else ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
    )
    return call(
        base, *launcher, "-m", "scripts.base_train", "--data=small", f"--model-tag={tag}", *flags
    )


def folder(base: Path, tag: str) -> Path:
    return base / "base_checkpoints" / tag


def curve(base: Path, tag: str) -> list[tuple[int, str, float]]:
    """All losses of a run, in the order in which they came."""
    lines = (folder(base, tag) / "metrics.jsonl").read_text().splitlines()
    return [
        (record["step"], key, record[key])
        for record in map(json.loads, lines)
        for key in ("train/raw_loss", "val/bpb")
        if key in record
    ]


@pytest.fixture(scope="module")
def undisturbed(base: Path) -> list[tuple[int, str, float]]:
    done = train(base, "undisturbed", *USUAL, "--save-every=3")
    assert done.returncode == 0, done.stderr
    return curve(base, "undisturbed")


def test_it_learns(undisturbed: Sequence[tuple[int, str, float]]) -> None:
    bpb = [value for _, key, value in undisturbed if key == "val/bpb"]
    losses = [value for _, key, value in undisturbed if key == "train/raw_loss"]
    assert len(losses) == 12
    assert len(bpb) == 3
    assert losses[-1] < 0.9 * losses[0]
    assert bpb[2] < bpb[1] < bpb[0]


@pytest.mark.parametrize(("ranks", "rows"), [(2, 6), (3, 4)])
def test_several_ranks_do_what_one_does(
    base: Path, undisturbed: Sequence[tuple[int, str, float]], ranks: int, rows: int
) -> None:
    done = train(base, f"ranks{ranks}", *USUAL, f"--device-batch-size={rows}", ranks=ranks)
    assert done.returncode == 0, done.stderr
    for (step, key, one), (other_step, other_key, several) in zip(
        undisturbed, curve(base, f"ranks{ranks}"), strict=True
    ):
        assert (step, key) == (other_step, other_key)
        assert several == pytest.approx(one, abs=2e-4)


def test_passes_do_what_rows_do(base: Path, undisturbed: Sequence[tuple[int, str, float]]) -> None:
    done = train(base, "passes", *USUAL, "--device-batch-size=4")
    assert done.returncode == 0, done.stderr
    for (_, _, whole), (_, _, summed) in zip(undisturbed, curve(base, "passes"), strict=True):
        assert summed == pytest.approx(whole, abs=2e-4)


def test_recomputing_changes_nothing(
    base: Path, undisturbed: Sequence[tuple[int, str, float]]
) -> None:
    done = train(base, "recompute", *USUAL, "--recompute")
    assert done.returncode == 0, done.stderr
    assert curve(base, "recompute") == undisturbed


@pytest.mark.parametrize("flag", ["--matrix-lr=1e30", "--embedding-lr=1e30"])
def test_broken_weights_are_never_saved(base: Path, flag: str) -> None:
    """The step that breaks them has a sound loss and sound gradients."""
    tag = f"broken{flag.partition('=')[0]}"
    done = train(
        base, tag, *USUAL, "--num-iterations=1", "--warmup-steps=0", "--save-every=1", flag
    )
    assert done.returncode == 1
    assert "after step 0 the weights of" in done.stderr and "nothing of it was saved" in done.stderr
    assert not list(folder(base, tag).glob("meta_*"))


@pytest.mark.parametrize(
    "flag",
    [
        "--matrix-lr=nan",
        "--embedding-lr=-1",
        "--warmdown-ratio=5",
        "--final-lr-frac=inf",
        "--model-tag=../../x",
    ],
)
def test_flags_that_cannot_be_meant(base: Path, flag: str) -> None:
    done = train(base, "flags", *USUAL, flag)
    assert done.returncode == 2
    assert flag.partition("=")[0] in done.stderr and "Traceback" not in done.stderr
    assert not (base / "base_checkpoints" / "flags").exists()


def test_the_packing_follows_the_supply_and_is_told(base: Path) -> None:
    few = train(base, "few", *USUAL, "--num-iterations=1")
    assert "packing   cut: about" in few.stdout, few.stderr
    done = train(base, "all", *USUAL, "--num-iterations=1", "--packing=all")
    assert done.returncode == 0, done.stderr


def kill_when(
    process: subprocess.Popen[str], reached: Callable[[], bool], limit: float = 120
) -> None:
    deadline = time.monotonic() + limit
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()


def test_killed_and_resumed_it_is_the_same_run(
    base: Path, undisturbed: Sequence[tuple[int, str, float]]
) -> None:
    flags = ("--data=small", "--model-tag=killed", *USUAL, "--save-every=3")
    process = subprocess.Popen(
        [warm.python(), "-m", "scripts.base_train", *flags], cwd=REPO, env=environment(base), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    kill_when(process, lambda: (folder(base, "killed") / "meta_000003.json").exists())
    assert process.returncode == -signal.SIGKILL
    done = train(base, "killed", *USUAL, "--save-every=3", "--resume-from-step=latest")
    assert done.returncode == 0, done.stderr
    assert curve(base, "killed") == undisturbed  # every bit


def test_resumed_on_another_number_of_ranks(
    base: Path, undisturbed: Sequence[tuple[int, str, float]]
) -> None:
    half = (*USUAL, "--num-iterations=12", "--save-every=6")
    process = subprocess.Popen(
        [warm.python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "scripts.base_train",
         "--data=small", "--model-tag=reranked", *half, "--device-batch-size=6"],
        cwd=REPO, env=environment(base), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    kill_when(process, lambda: (folder(base, "reranked") / "meta_000006.json").exists())
    # The ranks notice sooner or later that their agent is gone, and the folder is theirs until then.
    with (folder(base, "reranked") / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    if not (folder(base, "reranked") / "meta_000012.json").exists():
        done = train(
            base, "reranked", *half, "--device-batch-size=4", "--resume-from-step=6", ranks=3
        )
        assert done.returncode == 0, done.stderr
    for (_, _, one), (_, _, other) in zip(undisturbed, curve(base, "reranked"), strict=True):
        assert other == pytest.approx(one, abs=2e-4)


def test_sigterm_saves_and_leaves(base: Path) -> None:
    flags = (
        "--data=small",
        "--model-tag=term",
        *MODEL,
        *BATCH,
        *QUIET,
        "--num-iterations=100000",
        "--eval-every=-1",
        "--compile=off",  # which so many steps would pay for
    )
    process = subprocess.Popen(
        [warm.python(), "-m", "scripts.base_train", *flags], cwd=REPO, env=environment(base), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "SIGTERM" in said
    saved = re.search(r"after step (\d+)", said)
    assert saved is not None
    assert (folder(base, "term") / f"meta_{int(saved[1]) + 1:06d}.json").exists()


def test_numbers_that_are_no_numbers(base: Path) -> None:
    done = train(base, "nan", *USUAL, "--matrix-lr=1e30", "--eval-every=-1", "--save-every=0")
    assert done.returncode == 1
    assert re.search(r"at step 1 on rank 0 .*(nan|inf), and nothing of it was saved", done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(folder(base, "nan").glob("meta_*"))


def test_half_precision_learns(base: Path) -> None:
    # Half of the first steps are left out, until the scale of the loss is found.
    small = ("--device-batch-size=4", "--total-batch-size=256")
    done = train(base, "half", *USUAL, *small, "--dtype=float16", "--num-iterations=30")
    assert done.returncode == 0, done.stderr
    losses = [value for _, key, value in curve(base, "half") if key == "train/raw_loss"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_compiled_is_the_same(base: Path, undisturbed: Sequence[tuple[int, str, float]]) -> None:
    done = train(base, "compiled", *USUAL, "--compile=on")
    assert done.returncode == 0, done.stderr
    for (_, _, plain), (_, _, compiled) in zip(undisturbed, curve(base, "compiled"), strict=True):
        assert compiled == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (("--device-type=tpu",), 2, "unknown device type 'tpu'"),
        (("--device-type=npu",), 1, "no npu device"),
        (("--dtype=int4",), 2, "'int4' is no type"),
        (("--total-batch-size=1000",), 2, "choose --total-batch-size 768 or 1536"),
        (("--depth=0",), 2, "0 is below 1"),
        (("--head-dim=31",), 2, "31"),
        (("--window-pattern=XL",), 2, "window pattern"),
        (("--resume-from-step=soon",), 2, "takes a step or 'latest'"),
        (
            ("--resume-from-step=latest", "--model-tag=nothing"),
            1,
            "there is no complete checkpoint",
        ),
        (("--data=no-such-set",), 1, "no-such-set"),
        (("--model-tag=undisturbed",), 1, "already holds a run up to step 12"),
        (
            ("--model-tag=undisturbed", "--resume-from-step=latest", "--aspect-ratio=64"),
            1,
            "another shape",
        ),
        (("--no-such-flag",), 2, "--no-such-flag"),
        (("--depth=64", "--device-batch-size=-1", "--max-seq-len=1048576"), 1, "fit"),
    ],
)
def test_bad_input_is_one_sentence(
    base: Path, undisturbed: object, flags: Sequence[str], status: int, says: str
) -> None:
    before = sorted(path.name for path in folder(base, "undisturbed").iterdir())
    done = train(base, "bad", *USUAL, *flags)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(path.name for path in folder(base, "undisturbed").iterdir()) == before


def test_flags_with_underscores(base: Path) -> None:
    done = call(base, "-m", "scripts.base_train", "--device_type=tpu")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)

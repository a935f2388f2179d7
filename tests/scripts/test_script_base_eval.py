"""Examining a base model as a person does: tables, files, ranks, and what does not fit."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import warm

for package in ("torch", "pyarrow", "yaml"):
    pytest.importorskip(package)

import crate  # noqa: E402, F401
from small_model import make_base  # noqa: E402

from nanochat.errors import NanochatError  # noqa: E402
from nanochat.evaluation import PROMPTS  # noqa: E402
from scripts import base_eval  # noqa: E402

REPO = Path(__file__).resolve().parents[2]
SMALL = ("--device-type", "cpu", "--split-tokens", "128")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("made"))


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    shutil.copytree(made, folder)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    return folder


def examine(base: Path, *flags: str) -> None:
    base_eval.main(["--data", str(base / "data"), "--device-batch-size", "2", *SMALL, *flags])


def table(base: Path, name: str) -> list[list[str]]:
    with open(base / "base_eval" / name, newline="") as file:
        return list(csv.reader(file))


def test_everything(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is what is written; GPT-2 stands beside it; what the bundle lacks is said."""
    examine(base)
    said = capsys.readouterr().out
    header, *rows = table(base, "d2_000007.csv")
    assert header == ["name", "shots", "questions", "accuracy", "centred"]
    assert [row[:3] for row in rows[:3]] == [
        ["copa", "2", "11"],
        ["winograd", "2", "11"],
        ["jeopardy", "2", "11"],
    ]
    baselines = (0.33, 0.5, 0)
    centred = [(float(row[3]) - b) / (1 - b) for row, b in zip(rows, baselines, strict=False)]
    assert [float(row[4]) for row in rows[:3]] == pytest.approx(centred, abs=1e-5)
    assert rows[3][0] == "CORE (3 of 22 tasks)"
    assert float(rows[3][4]) == pytest.approx(sum(centred) / 3, abs=1e-5)
    assert rows[7] == ["CORE of GPT-2 XL (1.6B)", "", "", "", "0.256525"]
    for row in rows:
        assert any(
            line.startswith(row[0]) and f"{float(row[4]):.4f}" in line for line in said.splitlines()
        )
    assert "lacks hellaswag_zeroshot" in said

    _, train, val = table(base, "d2_000007_bpb.csv")
    assert f"train bits per byte {train[1]}" in said
    assert f"val   bits per byte {val[1]}" in said
    assert all(f"\n{prompt}|" in said for prompt in PROMPTS)


def test_only_what_is_asked_for(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parts, and fewer questions."""
    examine(base, "--eval", "core", "--max_per_task", "4")
    said = capsys.readouterr().out
    assert [row[2] for row in table(base, "d2_000007.csv")[1:4]] == ["4", "4", "4"]
    assert "bits per byte" not in said
    assert PROMPTS[0] not in said
    assert not (base / "base_eval" / "d2_000007_bpb.csv").exists()


def test_no_bundle(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Left out aloud where there is something else to do; an error where there is not."""
    shutil.move(base / "eval_bundle", base / "elsewhere")
    examine(base, "--eval", "core,sample")
    assert "CORE is left out" in capsys.readouterr().out
    for flags in (("--eval", "core"), ("--bundle", str(base / "nowhere"))):
        with pytest.raises(NanochatError, match="is not there; fetch the evaluation bundle"):
            examine(base, *flags)
    examine(base, "--eval", "core", "--bundle", str(base / "elsewhere"))
    assert table(base, "d2_000007.csv")


def test_a_damaged_bundle_overwrites_nothing(base: Path) -> None:
    """The results of an earlier run stay."""
    examine(base, "--eval", "core")
    before = table(base, "d2_000007.csv")
    rows = base / "eval_bundle" / "eval_data" / "jeopardy.jsonl"
    rows.write_text(rows.read_text()[:-9])
    with pytest.raises(NanochatError, match=r"jeopardy\.jsonl is damaged in line 11"):
        examine(base, "--eval", "core", "--max-per-task", "1")
    assert table(base, "d2_000007.csv") == before


def process(base: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm.python(), *command, "--data", str(base / "data"), *SMALL],
        cwd=REPO,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--eval", "core,taste"), 2, "unknown part 'taste'"),
        (("--step", "8"), 1, "there is no complete step 8"),
    ],
)
def test_one_line_and_a_status(base: Path, flags: tuple[str, ...], status: int, words: str) -> None:
    """From a real process."""
    done = process(base, "-m", "scripts.base_eval", *flags)
    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (base / "base_eval").exists()


def test_what_does_not_fit(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is not there, data that are not there, a value that is none; nothing is written."""
    for flags in (("--model-tag", "d9"), ("--data", "nowhere")):
        with pytest.raises(NanochatError, match=flags[1]):
            examine(base, "--eval", "bpb", *flags)
    with pytest.raises(SystemExit) as left:
        examine(base, "--split-tokens", "0")
    assert left.value.code == 2
    assert "0 is below 1" in capsys.readouterr().err
    assert not (base / "base_eval").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_same(base: Path, ranks: int) -> None:
    """Several processes answer together what one answers alone, and one of them speaks."""
    examine(base, "--eval", "core,bpb", "--device-batch-size", "6", "--split-tokens", "192")
    alone = table(base, "d2_000007.csv"), table(base, "d2_000007_bpb.csv")
    shutil.rmtree(base / "base_eval")
    rows = ("--device-batch-size", str(6 // ranks))
    done = subprocess.run(
        [
            *(warm.python(), "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", str(ranks), "-m", "scripts.base_eval", "--eval", "core,bpb"),
            *("--data", str(base / "data"), "--device-type", "cpu", "--split-tokens", "192", *rows),
        ],
        cwd=REPO,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    core, bpb = table(base, "d2_000007.csv"), table(base, "d2_000007_bpb.csv")
    assert core == alone[0]
    numbers = [[float(row[1]) for row in rows[1:]] for rows in (bpb, alone[1])]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-6)
    assert done.stdout.count("val   bits per byte") == 1

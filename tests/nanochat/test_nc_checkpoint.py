"""Checkpoints: whole or absent, found by number, checked, refused in a sentence, cut anew for other ranks."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import warm

pytest.importorskip("torch")

import numpy as np
import torch

from nanochat import tensors
from nanochat.checkpoint import (
    Checkpoint,
    check_tokenizer,
    claim,
    find,
    load_into,
    load_model,
    open_checked,
    save,
    together,
)
from nanochat.config import ModelConfig
from nanochat.distributed import World
from nanochat.errors import NanochatError, WrongUsage
from nanochat.model import GPT
from nanochat.reshard import reshard

REPO = Path(__file__).resolve().parents[2]
CONFIG = ModelConfig.from_depth(2, vocab_size=300, sequence_len=64, aspect_ratio=16, head_dim=8)


def write_one(folder: Path, step: int, keep: int = 9, **changes: Any) -> Checkpoint:
    torch.manual_seed(step)
    content: dict[str, Any] = {
        "model": {"w": torch.randn(8, 4), "b": torch.randn(8)},
        "optimizer": share_of({"w": torch.randn(8, 4)}, 0, 1),
        "state": {"tokens": np.arange(step, dtype=np.uint16), "shard": 3, "name": "a"},
        "meta": {"val_bpb": 1 / 3, "model_config": CONFIG.to_dict(), "tokenizer": None},
        **changes,
    }
    return save(folder, step, keep=keep, **content)


def share_of(whole: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """What an optimizer of `world` ranks would hold; pads by itself, as an oracle for `reshard`."""
    groups = {}
    for key, tensor in whole.items():
        size = -(-len(tensor) // world)
        padded = torch.zeros(size * world, *tensor.shape[1:], dtype=tensor.dtype)
        padded[: len(tensor)] = tensor
        groups[key] = {
            "length": len(tensor),
            "replicated": False,
            "tensors": {"m": padded[rank * size : (rank + 1) * size]},
        }
    groups["small"] = {
        "length": 3,
        "replicated": True,
        "tensors": {"m": torch.tensor([1.0, 2.0, 3.0])},
    }
    return {"steps": 7, "world": world, "rank": rank, "groups": groups}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def root(base: Path, tag: str = "d4") -> Path:
    return base / "base_checkpoints" / tag


# --- whole or absent --------------------------------------------------------------------------


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model = {"_orig_mod.w": torch.randn(3, 5), "b": torch.randn(4).to(torch.bfloat16)}
    arrays = {
        "tokens": np.arange(9, dtype=np.uint16),
        "n": np.int64(5),
        "deep": [{"a": 0.1}, "x", None],
    }
    write_one(root(tmp_path), 12, model=model, state=arrays)
    found = find("base", base=tmp_path)
    assert (found.step, found.folder) == (12, root(tmp_path))
    assert found.config == CONFIG and found.meta["val_bpb"] == 1 / 3
    state = found.model_state()
    assert set(state) == {"w", "b"}
    assert torch.equal(state["w"], model["_orig_mod.w"]) and state["b"].dtype == torch.bfloat16
    loop = found.loop_state()
    assert np.array_equal(np.asarray(loop["tokens"]), arrays["tokens"])
    assert loop["tokens"].dtype == torch.uint16
    assert loop["n"] == 5 and loop["deep"] == [{"a": 0.1}, "x", None]


def test_the_files_and_their_table(tmp_path: Path) -> None:
    folder = root(tmp_path)
    write_one(folder, 500)
    files = {"model_000500.pt", "optim_000500_rank0.pt", "state_000500.pt"}
    assert names(folder) == {*files, "meta_000500.json"}
    meta = json.loads((folder / "meta_000500.json").read_text())
    assert set(meta["files"]) == files
    for name in files:
        contents = (folder / name).read_bytes()
        assert meta["files"][name] == {
            "size": len(contents),
            "crc32": f"{zlib.crc32(contents):08x}",
        }
    assert (meta["step"], meta["world_size"], meta["torch"]) == (500, 1, torch.__version__)


def test_only_what_a_view_shows_is_written(tmp_path: Path) -> None:
    large = torch.randn(1000, 1000)
    entry = tensors.write(tmp_path / "a.pt", {"row": large[5], "turned": large[:20, :30].t()})
    assert entry["size"] < 20_000
    back = tensors.read(tmp_path / "a.pt")
    assert torch.equal(back["row"], large[5]) and torch.equal(back["turned"], large[:20, :30].t())


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"a": Evil()}, tmp_path / "a.pt")
    with pytest.raises(NanochatError, match="cannot be read"):
        tensors.read(tmp_path / "a.pt")


KILLED = """
import sys, torch
from pathlib import Path
from nanochat.checkpoint import save
step, folder = 0, Path(sys.argv[1])
while True:
    step += 1
    model = {"w": torch.full((200, 100), float(step))}
    save(folder, step, model=model, state={"step": step}, meta={}, keep=2)
    if step == 3:
        print("go", flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    numbers = random.Random(3)
    folder = root(tmp_path)
    for _ in range(2):
        process = subprocess.Popen(
            [warm.python(), "-c", KILLED, str(folder)], cwd=REPO, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(numbers.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = find("base", base=tmp_path)
        assert found.step >= 2
        assert torch.equal(found.model_state()["w"], torch.full((200, 100), float(found.step)))
        assert found.loop_state()["step"] == found.step
    # The next save tidies up after the kill.
    write_one(folder, 10**6, keep=1)
    assert all("1000000" in name for name in names(folder))


# --- few --------------------------------------------------------------------------------------


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    folder = root(tmp_path)
    for step in (5, 10, 999_999, 1_000_000):
        write_one(folder, step, keep=2)
    assert {int(name.split("_")[1].split(".")[0]) for name in names(folder)} == {999_999, 1_000_000}


def test_what_interrupted_saves_left_is_removed(tmp_path: Path) -> None:
    folder = root(tmp_path)
    write_one(folder, 10)
    left = [
        "model_000007.pt",
        "optim_000007_rank3.pt",
        ".model_000007.pt.77.tmp",
        ".model_000020.pt.78.tmp",
        "optim_000020_rank5.pt",
    ]
    others = ["model_000030.pt", "notes.txt", "model_best.pt"]
    for name in left + others:
        (folder / name).write_text("")
    write_one(folder, 20, keep=2)
    assert names(folder) & set(left) == set()
    assert set(others) <= names(folder)
    assert open_checked(folder, 10) and open_checked(folder, 20)


def test_later_steps_of_another_attempt_are_not_touched(tmp_path: Path) -> None:
    folder = root(tmp_path)
    for step in (10, 20, 30):
        write_one(folder, step)
    write_one(folder, 15, keep=1)
    assert [s for s in (10, 15, 20, 30) if (folder / f"meta_{s:06d}.json").exists()] == [15, 20, 30]


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    folder = root(tmp_path)
    write_one(folder, 10, keep=1)
    (folder / "meta_000020.json").mkdir()  # cannot be replaced by a file, whoever asks
    with pytest.raises(NanochatError, match="cannot be written"):
        write_one(folder, 20, keep=1)
    (folder / "meta_000020.json").rmdir()
    assert find("base", base=tmp_path).step == 10


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import torch
from nanochat.checkpoint import save
from nanochat.errors import NanochatError

folder = Path(sys.argv[1])
save(folder, 10, model={"w": torch.zeros(5)}, meta={})
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    save(folder, 20, model={"w": torch.zeros(1_000_000)}, meta={})
except NanochatError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    folder = root(tmp_path)
    done = subprocess.run(
        [warm.python(), "-c", FULL_DISK, str(folder)],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{folder}/model_000020.pt cannot be written: File too large; free space" in done.stdout
    assert names(folder) == {"meta_000010.json", "model_000010.pt", "state_000010.pt"}
    assert find("base", base=tmp_path).step == 10


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    holding = (
        "import sys; from pathlib import Path; from nanochat.checkpoint import claim\n"
        "claim(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [warm.python(), "-c", holding, str(tmp_path / "d4")],
        cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout and other.stdout.readline() == "held\n"
    with pytest.raises(NanochatError, match=r"d4 \(process \d+ on .*another --model-tag"):
        claim(tmp_path / "d4")
    claim(tmp_path / "d6")
    other.kill()
    other.communicate()
    claim(tmp_path / "d4")  # what was killed holds nothing


# --- found ------------------------------------------------------------------------------------


def test_tags_and_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    for tag, steps in (("d4", (10,)), ("d20", (9, 100, 1_000_000)), ("dummy", (5,)), ("d3x", (5,))):
        for step in steps:
            write_one(root(tmp_path, tag), step)
    root(tmp_path, "d32").mkdir()  # a run that has just begun
    found = find("base", base=tmp_path)
    assert (found.folder.name, found.step) == ("d20", 1_000_000)
    assert find("base", "d20", 9, base=tmp_path).step == 9
    assert find("base", "dummy", base=tmp_path).step == 5


def test_without_depths_the_newest_tag_counts(tmp_path: Path) -> None:
    import os

    for age, tag in ((10, "late"), (1000, "early")):
        write_one(root(tmp_path, tag), 5)
        os.utime(root(tmp_path, tag), (time.time() - age,) * 2)
    assert find("base", base=tmp_path).folder.name == "late"


@pytest.mark.parametrize("file", ["model_000030.pt", "optim_000030_rank0.pt", "meta_000030.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_one_is_passed_over_unless_it_was_named(
    tmp_path: Path, file: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = root(tmp_path)
    for step in (10, 20, 30):
        write_one(folder, step)
    path = folder / file
    contents = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(contents[: len(contents) // 2])
    else:
        contents[len(contents) // 2] ^= 0xFF
        path.write_bytes(contents)
    with caplog.at_level(logging.WARNING):
        assert find("base", base=tmp_path).step == 20
    if (file, harm) != ("meta_000030.json", "remove"):
        assert "step 30" in caplog.text and file in caplog.text
    with pytest.raises(NanochatError, match=r"step 30"):
        find("base", step=30, base=tmp_path)


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    folder = root(tmp_path)
    for step in (10, 20):
        write_one(folder, step)
        (folder / f"model_{step:06d}.pt").write_bytes(b"")
    with pytest.raises(
        NanochatError, match=r"step 20 in .* is damaged: model_000020\.pt has 0 bytes"
    ):
        find("base", base=tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NanochatError, match="no complete checkpoint below"):
        find("base", base=tmp_path)
    with pytest.raises(NanochatError, match="d7"):
        find("base", "d7", base=tmp_path)
    with pytest.raises(WrongUsage, match="choose one of base, mid, sft, rl"):
        find("sftt", base=tmp_path)
    write_one(root(tmp_path), 10)
    write_one(root(tmp_path), 20)
    with pytest.raises(NanochatError, match=r"no complete step 15 in .*; there is 10, 20"):
        find("base", step=15, base=tmp_path)


def test_a_checkpoint_of_another_program_is_named_as_such(tmp_path: Path) -> None:
    folder = root(tmp_path, "d20")
    folder.mkdir(parents=True)
    torch.save({"transformer.wte.weight": torch.zeros(3)}, folder / "model_021400.pt")
    (folder / "meta_021400.json").write_text(
        json.dumps({"step": 21400, "val_bpb": 0.81, "model_config": {"n_layer": 20}})
    )
    with pytest.raises(NanochatError, match="written by another program"):
        find("base", base=tmp_path)


# --- several ranks ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Thread(World):
    """A rank that is a thread; meets the others where processes would use a collective."""

    meet: threading.Barrier
    table: dict[int, Any] = field(default_factory=dict)

    def gather_objects(self, thing: Any) -> list[Any]:
        self.table[self.rank] = thing
        self.meet.wait(10)
        things = [self.table[rank] for rank in range(self.size)]
        self.meet.wait(10)
        return things


def on_ranks(count: int, work: Callable[[World], Any]) -> list[Any]:
    """The result of `work` on every rank, or what it raised."""
    meet, table, results = threading.Barrier(count), {}, {}

    def run(rank: int) -> None:
        try:
            results[rank] = work(Thread(rank=rank, size=count, meet=meet, table=table))
        except NanochatError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[rank] for rank in range(count)]


def save_on(folder: Path, whole: dict[str, Any], count: int, step: int) -> None:
    def work(world: World) -> Checkpoint:
        share = share_of(whole, world.rank, world.size)
        return save(folder, step, model={}, optimizer=share, meta={}, keep=9, world=world)

    assert all(isinstance(result, Checkpoint) for result in on_ranks(count, work))


@pytest.mark.parametrize("before", [1, 2, 3, 5])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_optimizer_state_moves_to_any_number_of_ranks(
    tmp_path: Path, before: int, after: int
) -> None:
    torch.manual_seed(1)
    whole = {f"{n} rows": torch.randn(n, 3) for n in (1, 2, 5, 6, 7)} | {"flat": torch.randn(11)}
    save_on(tmp_path, whole, before, 10)
    checkpoint = open_checked(tmp_path, 10)
    assert len(checkpoint.meta["files"]) == before + 2
    for rank in range(after):
        got = checkpoint.optimizer_state(World(rank=rank, size=after))
        want = share_of(whole, rank, after)
        assert (got["steps"], got["rank"], got["world"]) == (7, rank, after)
        assert got["groups"].keys() == want["groups"].keys()
        for key, group in want["groups"].items():
            assert torch.equal(got["groups"][key]["tensors"]["m"], group["tensors"]["m"]), key
            assert got["groups"][key]["length"] == group["length"]


def test_there_and_back_again(tmp_path: Path) -> None:
    torch.manual_seed(2)
    whole = {"w": torch.randn(7, 4), "v": torch.randn(1)}
    for step, count in enumerate((1, 2, 3, 1)):
        if step == 0:
            save_on(tmp_path, whole, count, step)
            continue
        before = open_checked(tmp_path, step - 1)

        def work(world: World, before: Checkpoint = before, step: int = step) -> Checkpoint:
            share = before.optimizer_state(world)
            return save(tmp_path, step, model={}, optimizer=share, meta={}, keep=9, world=world)

        on_ranks(count, work)
    last = open_checked(tmp_path, 3).optimizer_state(World())
    for key, tensor in whole.items():
        assert torch.equal(last["groups"][key]["tensors"]["m"], tensor)


def test_shares_of_two_saves_do_not_mix(tmp_path: Path) -> None:
    whole = {"w": torch.randn(7, 4)}
    save_on(tmp_path, whole, 2, 1)
    save_on(tmp_path, whole, 3, 2)
    files = [tmp_path / "optim_000001_rank0.pt", tmp_path / "optim_000002_rank1.pt"]
    with pytest.raises(NanochatError, match="not whole: it has the shares of ranks 0 of 2, 1 of 3"):
        reshard(files, 0, 1)


def test_without_optimizer_state_no_run_resumes(tmp_path: Path) -> None:
    write_one(tmp_path, 1, optimizer=None)
    with pytest.raises(NanochatError, match="no optimizer state"):
        open_checked(tmp_path, 1).optimizer_state(World())


def test_the_failure_of_one_rank_is_raised_on_all_and_nothing_is_committed(tmp_path: Path) -> None:
    (tmp_path / "optim_000005_rank1.pt").mkdir()
    answers = on_ranks(
        3,
        lambda world: save(
            tmp_path, 5, model={}, optimizer=share_of({}, world.rank, 3), meta={}, world=world
        ),
    )
    assert all(str(answer).startswith("rank 1: ") for answer in answers)
    assert not (tmp_path / "meta_000005.json").exists()


def test_all_ranks_find_what_the_first_found(tmp_path: Path) -> None:
    write_one(root(tmp_path), 10)
    found = on_ranks(3, lambda world: find("base", base=tmp_path, world=world))
    assert [checkpoint.step for checkpoint in found] == [10, 10, 10]
    found = on_ranks(2, lambda world: find("mid", base=tmp_path, world=world))
    assert all(isinstance(error, NanochatError) for error in found)


def test_together_without_others() -> None:
    assert together(World(), lambda: 5) == [5]


def test_what_nobody_foresaw_on_one_rank_stops_all() -> None:
    def work(world: World) -> str:
        def fail() -> None:
            if world.rank == 1:
                raise ZeroDivisionError("no words for it")

        with pytest.raises((NanochatError, ZeroDivisionError)) as caught:
            together(world, fail)
        return f"{type(caught.value).__name__}: {caught.value}"

    told = "NanochatError: rank 1: unexpected ZeroDivisionError: no words for it"
    assert on_ranks(3, work) == [told, "ZeroDivisionError: no words for it", told]


# --- models -----------------------------------------------------------------------------------


def small_model(config: ModelConfig = CONFIG) -> GPT:
    torch.manual_seed(0)
    model = GPT(config)
    model.init_weights()
    return model


def test_another_shape_is_refused_before_anything_is_loaded() -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wider = ModelConfig.from_depth(2, vocab_size=300, sequence_len=64, aspect_ratio=32, head_dim=8)
    with pytest.raises(NanochatError) as caught:
        load_into(model, small_model(wider).state_dict(), "step 5 in d2")
    said = str(caught.value)
    assert (
        "step 5 in d2 is a model of another shape: embedding.weight is 320×64 and not 320×32"
        in said
    )
    assert "more differences" in said
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    deeper = ModelConfig.from_depth(3, vocab_size=300, sequence_len=64, aspect_ratio=16, head_dim=8)
    with pytest.raises(NanochatError, match="is unknown"):
        load_into(model, small_model(deeper).state_dict(), "x")
    with pytest.raises(NanochatError, match="smear_scale is missing"):
        load_into(model, {}, "x")


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import crate  # noqa: F401

    from nanochat.tokenizer import Tokenizer

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    made = Tokenizer.train(["the cat sat on the mat with the other cat"] * 3, 270)
    made.save()
    return made


def test_a_model_is_loaded_with_its_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    from nanochat.checkpoint import describe_tokenizer
    from nanochat.device import find as find_device

    config = ModelConfig.from_depth(
        2, vocab_size=tokenizer.vocab_size, sequence_len=64, aspect_ratio=16, head_dim=8
    )
    model = small_model(config)
    model.use(dtype=torch.bfloat16, embedding_dtype=torch.bfloat16)
    meta = {"model_config": config.to_dict(), "tokenizer": describe_tokenizer(tokenizer)}
    write_one(root(tmp_path), 3, model=model.state_dict(), meta=meta)
    device = find_device("cpu")
    loaded, same, checkpoint = load_model("base", device, dtype="float32")
    assert (same.fingerprint, checkpoint.step) == (tokenizer.fingerprint, 3)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}, "bf16 is not for this device"
    tokens = torch.arange(10).unsqueeze(0)
    model.use(dtype=torch.float32, embedding_dtype=torch.float32)
    assert torch.equal(loaded(tokens), model(tokens))
    assert all(p.requires_grad for p in loaded.parameters())
    again, _, _ = load_model("base", device, dtype="bfloat16")
    assert again.embedding.weight.dtype == torch.bfloat16


def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    meta = {"tokenizer": {"vocab_size": 65536, "fingerprint": "0badcafe"}}
    checkpoint = write_one(root(tmp_path), 3, meta=meta)
    with pytest.raises(NanochatError) as caught:
        check_tokenizer(checkpoint, tokenizer)
    said = str(caught.value)
    assert "65536 tokens, 0badcafe" in said
    assert f"{tokenizer.vocab_size} tokens, {tokenizer.fingerprint}" in said
    with pytest.raises(NanochatError, match="not recorded"):
        check_tokenizer(write_one(root(tmp_path), 4, meta={}), tokenizer)

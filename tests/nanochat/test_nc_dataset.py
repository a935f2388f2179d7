from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from hub_server import Hub

from nanochat import dataset
from nanochat.dataset import PUBLISHED, endpoint, fetch, main, make_custom, resolve
from nanochat.download import Patience
from nanochat.errors import NanochatError, WrongUsage
from nanochat.shards import read_documents, read_group, write_shard

CLIMBMIX = PUBLISHED["climbmix"]
FAST = Patience(base=0.0, connect=2.0, read=1.0)


def quiet(line: str) -> None:
    pass


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return tmp_path / "base"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A mirror with the first five shards of ClimbMix and its last."""
    files = {}
    for number in (*range(5), 6542):
        path = tmp_path / "hub" / f"shard_{number:05d}.parquet"
        write_shard(path, [f"document {n} of shard {number}" for n in range(20)])
        where = f"/datasets/karpathy/climbmix-400b-shuffle/resolve/main/{path.name}"
        files[where] = path.read_bytes()
    with Hub(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
        yield hub


def put(folder: Path, *names: str) -> Path:
    for name in names:
        write_shard(folder / f"{name}.parquet", [f"of {name}"])
    return folder


def text_folder(folder: Path, documents: int = 30) -> Path:
    folder.mkdir(parents=True)
    for n in range(documents):
        (folder / f"{n}.txt").write_text(f"{folder.name} text {n}")
    return folder


# --- published sets


def test_the_table() -> None:
    """As published: counts, names and folders."""
    assert CLIMBMIX.validation == "shard_06542.parquet"
    fineweb = PUBLISHED["fineweb-edu"]
    assert fineweb.validation == "shard_01822.parquet"
    where = "https://huggingface.co/datasets/karpathy/fineweb-edu-100b-shuffle/resolve/main/a"
    assert fineweb.url("a") == where


def test_more_shards_keep_validation(hub: Hub, base: Path) -> None:
    first = fetch(CLIMBMIX, 2, patience=FAST)
    assert [path.name for path in first.train] == ["shard_00000.parquet", "shard_00001.parquet"]
    assert first.folder == base / "base_data_climbmix"
    asked = len(hub.requests)
    assert asked == 3
    more = fetch(CLIMBMIX, 4, patience=FAST)
    assert len(hub.requests) == asked + 2
    assert more.validation == first.validation
    assert more.validation.name == "shard_06542.parquet"
    assert len(more.train) == 4
    assert resolve() == resolve("climbmix") == more


def test_the_command_line(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-n", "1", "-w", "2"])
    assert "2 shards fetched, 1 to train on and one for validation" in capsys.readouterr().out
    with pytest.raises(NanochatError, match="404"):
        main(["--num_files=6", "--source", "climbmix"])  # this mirror has five
    for wrong in (["-n", "-2"], ["-w", "0"], ["-n", "x"]):
        with pytest.raises(SystemExit) as left:
            main(wrong)
        assert left.value.code == 2


def test_missing_and_cut_shards_name_the_command(hub: Hub) -> None:
    data = fetch(CLIMBMIX, 3, patience=FAST)
    cut = data.train[1]
    contents = cut.read_bytes()
    cut.write_bytes(contents[:-10])
    command = "python -m nanochat.dataset --source climbmix -n 3"
    with pytest.raises(NanochatError, match=f"shard_00001.parquet is cut.*{command}"):
        resolve("climbmix")
    data.validation.unlink()
    with pytest.raises(NanochatError, match=rf"lacks shard_06542.parquet.*{command}"):
        resolve()
    fetch(CLIMBMIX, 3, patience=FAST)  # what the command does
    assert resolve() == data
    assert cut.read_bytes() == contents


def test_a_fetched_shard_that_changes_on_the_disk_is_not_read(hub: Hub) -> None:
    data = fetch(CLIMBMIX, 2, patience=FAST)
    path = data.train[1]
    sound = path.read_bytes()
    assert read_group(path, 0)
    path.write_bytes(sound[:40] + bytes([sound[40] ^ 1]) + sound[41:])
    with pytest.raises(NanochatError, match=r"checksums\.json says .*delete the file, then fetch"):
        read_group(path, 0)
    path.unlink()
    fetch(CLIMBMIX, 2, patience=FAST)
    assert read_group(path, 0)


def test_the_token_goes_to_the_endpoint_only(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Hub(hub.files) as elsewhere:
        hub.script = [
            lambda answer, _: answer.send(302, b"", {"Location": elsewhere.url + answer.path})
        ] * 2
        fetch(CLIMBMIX, 1, patience=FAST)
        assert {headers.get("Authorization") for _, headers in hub.requests} == {"Bearer secret"}
        assert len(elsewhere.requests) == 2
        assert not any("Authorization" in headers for _, headers in elsewhere.requests)


def test_more_than_the_disk_holds_is_seen_before() -> None:
    with pytest.raises(NanochatError, match=r"need about 10000.0 GB, but .* GB free; fetch fewer"):
        dataset._require_room(Path("/"), 10**13, 100_000)


def test_another_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(WrongUsage, match=r"HF_ENDPOINT is 'mirror\.example'"):
        endpoint()


# --- own text


def test_own_text(tmp_path: Path, base: Path) -> None:
    source = text_folder(tmp_path / "My texts (1)")
    made = make_custom(source, say=quiet)
    assert made.folder == base / "base_data_custom" / "My-texts-1"
    texts = [text for path in (*made.train, made.validation) for text in read_documents(path)]
    assert sorted(texts) == sorted(f"My texts (1) text {n}" for n in range(30))
    assert resolve() == resolve("My-texts-1") == resolve(str(made.folder))

    said: list[str] = []
    assert make_custom(source, say=said.append) == made
    assert "already" in said[0]
    (source / "new.txt").write_text("more")
    with pytest.raises(NanochatError, match="made of other text; choose another --name"):
        make_custom(source, say=quiet)
    make_custom(source, "second", say=quiet)
    with pytest.raises(NanochatError, match=r"several datasets; name one of My-texts-1, second"):
        resolve()


def test_wrong_sources_and_names(tmp_path: Path) -> None:
    with pytest.raises(
        NanochatError, match=r"does not exist; --source takes climbmix, fineweb-edu, stdlib"
    ):
        main(["--source", str(tmp_path / "none")])
    source = text_folder(tmp_path / "texts")
    for name in ("../x", ".x", "a/b", "climbmix", "stdlib"):
        with pytest.raises(WrongUsage, match="--name"):
            main(["--source", str(source), "--name", name])
    with pytest.raises(
        NanochatError, match=r"texts holds no shards; make some of it with python -m"
    ):
        resolve(str(source))
    with pytest.raises(NanochatError, match="no dataset or folder 'x'; known are climbmix"):
        resolve("x")


def test_long_documents_are_cut_as_told(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(" ".join(f"word{n}" for n in range(5000)))
    main(["--source", str(tmp_path / "book.txt"), "--max-doc-chars", "500"])
    data = resolve("book")
    texts = [text for path in (*data.train, data.validation) for text in read_documents(path)]
    assert len(texts) > 80
    assert max(map(len, texts)) <= 500


# --- choosing


def test_the_order_of_choice(base: Path) -> None:
    put(base / "base_data_stdlib", "shard_00000", "val")
    assert resolve().name == "stdlib"
    put(base / "base_data_custom" / "mine", "a", "b")
    put(base / "base_data_custom" / ".other.partial", "a", "b")
    assert resolve("auto").name == "mine"
    put(base / "base_data_fineweb_edu", "shard_00000", "shard_01822")
    assert resolve().name == "fineweb-edu"
    put(base / "base_data", "shard_00001", "shard_01822")
    assert resolve().folder == base / "base_data"
    put(base / "base_data_climbmix", "shard_00000")
    with pytest.raises(NanochatError, match="lacks shard_06542"):  # and not silently something else
        resolve()
    assert resolve("stdlib").name == "stdlib"


def test_a_foreign_folder(tmp_path: Path) -> None:
    folder = put(tmp_path / "their", "train-0", "validation-0")
    assert resolve(str(folder)).validation.name == "validation-0.parquet"
    (folder / "train-0.parquet").write_bytes(b"version https://git-lfs")
    with pytest.raises(NanochatError, match="Git LFS"):
        resolve(str(folder))


@pytest.mark.slow
def test_ranks_that_start_on_an_empty_machine(base: Path) -> None:
    script = "from nanochat.dataset import resolve; print(resolve(say=print))"
    ranks = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [rank.communicate(timeout=100)[0] for rank in ranks]
    assert (
        sum("making a small corpus from the standard library" in output for output in outputs) == 1
    )
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]
    data = resolve()
    assert len(data.train) >= 3
    held_out = list(read_documents(data.validation))
    assert len(held_out) >= 200
    trained = {text for path in data.train for text in read_documents(path)}
    assert not trained & set(held_out)
    assert 0.01 < len(held_out) / len(trained) < 0.06

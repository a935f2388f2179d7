"""The evaluation bundle on its way: fetched, unpacked, checked, put in place; or not, and why."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hub_server import Answer, Hub

pytest.importorskip("yaml")

from nanochat import bundle, bundle_fetch
from nanochat.download import Patience
from nanochat.errors import NanochatError, WrongUsage

REPO = Path(__file__).resolve().parents[2]
PATH = "/eval_bundle.zip"
QUICK = Patience(attempts=3, base=0.01, connect=2, read=2)

ROWS = "".join(
    json.dumps({"query": f"q{n}", "choices": ["a", "b"], "gold": 0}) + "\n" for n in range(20)
)
CORE = """icl_tasks:
- {label: copa, dataset_uri: copa.jsonl, num_fewshot: [0], icl_task_type: multiple_choice}
- {label: piqa, dataset_uri: sub/piqa.jsonl, num_fewshot: [10], icl_task_type: multiple_choice}
"""
FILES = {
    "core.yaml": CORE,
    "eval_meta_data.csv": "Eval Task,Random baseline\ncopa,50\npiqa,50\n",
    "eval_data/copa.jsonl": ROWS,
    "eval_data/sub/piqa.jsonl": ROWS,
}


class Entry(zipfile.ZipInfo):
    """A file of any name, also of none, which some versions of zipfile would not write."""

    def is_dir(self) -> bool:
        return False


def zipped(files: dict[str, str], top: str = "eval_bundle/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            entry = Entry("named below")
            entry.filename = top + name
            archive.writestr(entry, text)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "base" / "eval_bundle"


def left_over(folder: Path) -> set[str]:
    """What lies beside the bundle, locks apart."""
    return {path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock")}


@pytest.mark.parametrize("top", ["eval_bundle/", "", "a/b/"])
def test_it_is_fetched_once(folder: Path, top: str) -> None:
    said: list[str] = []
    with Hub({PATH: zipped(FILES, top)}) as hub:
        found = bundle_fetch.fetch(hub.url + PATH, folder, say=said.append)
        again = bundle_fetch.fetch(hub.url + PATH, folder, say=said.append)
        assert len(hub.requests) == 1
    assert found == again and [task.label for task in found.tasks] == ["copa", "piqa"]
    assert found.tasks[1].path == folder / "eval_data" / "sub" / "piqa.jsonl"
    assert found.tasks[1].path.read_text() == ROWS
    assert left_over(folder) == {"eval_bundle"}
    assert "is there and whole: 2 tasks for CORE (2 of 22 tasks)" in said[-1]


def test_what_lies_beside_the_bundle_is_left_out(folder: Path) -> None:
    files = {f"eval_bundle/{name}": text for name, text in FILES.items()}
    with Hub({PATH: zipped(files | {"__MACOSX/._core": "x"}, "")}) as hub:
        bundle_fetch.fetch(hub.url + PATH, folder, say=print)
    assert {path.name for path in folder.iterdir()} == {
        "core.yaml",
        "eval_meta_data.csv",
        "eval_data",
    }


def test_a_file_that_is_here_needs_no_network_and_stays(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "mine.zip"
    archive.write_bytes(zipped(FILES))
    assert len(bundle_fetch.fetch(str(archive), folder, say=print).tasks) == 2
    assert archive.read_bytes() == zipped(FILES)


def test_a_broken_download_continues(folder: Path) -> None:
    noise = random.Random(3).randbytes(300_000).hex()
    contents = zipped(FILES | {"noise": noise})

    def cut(answer: Answer, body: bytes) -> None:
        answer.serve(body, until=100_000)

    with Hub({PATH: contents}, script=[cut]) as hub:
        bundle_fetch.fetch(hub.url + PATH, folder, patience=QUICK, say=print)
        first, second = hub.ranges()
    assert first is None and second is not None and second.startswith("bytes=")
    assert (folder / "noise").read_text() == noise


ESCAPES = ["", ".", "./.", "../core.yaml", "/tmp/escaped", "eval_data/../../x", "C:/x", "..\\x"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_path_that_leads_out_is_refused(folder: Path, name: str) -> None:
    with (
        Hub({PATH: zipped(FILES | {name: "x"}, "")}) as hub,
        pytest.raises(NanochatError, match="leads elsewhere"),
    ):
        bundle_fetch.fetch(hub.url + PATH, folder, say=print)
    assert left_over(folder) == set() and not Path("/tmp/escaped").exists()


def test_a_link_is_refused(folder: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        link = zipfile.ZipInfo("eval_data/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with (
        Hub({PATH: buffer.getvalue()}) as hub,
        pytest.raises(NanochatError, match="leads elsewhere"),
    ):
        bundle_fetch.fetch(hub.url + PATH, folder, say=print)


def damaged_inside() -> bytes:
    """One byte of a member changed: sizes and directory are right, its CRC is not."""
    noise = random.Random(4).randbytes(5000).hex()
    contents = bytearray(zipped(FILES | {"noise": noise}))
    contents[len(contents) // 2] ^= 0xFF
    return bytes(contents)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (b"not a zip file at all", "no zip file that can be read"),
        (zipped(FILES)[:-200], "no zip file that can be read"),
        (damaged_inside(), "no zip file that can be read"),
        (zipped({"readme": "x"}), "without core.yaml"),
        (zipped(FILES | {"core.yaml": "icl_tasks: 3"}), "no list 'icl_tasks'"),
        (zipped(FILES | {"eval_data/copa.jsonl": ROWS[:-9]}), "copa.jsonl is damaged in line 20"),
        (zipped({n: t for n, t in FILES.items() if "piqa" not in n}), "lacks the data of piqa"),
    ],
)
def test_what_is_no_bundle_leaves_nothing(folder: Path, contents: bytes, told: str) -> None:
    with Hub({PATH: contents}) as hub:
        with pytest.raises(NanochatError, match=told):
            bundle_fetch.fetch(hub.url + PATH, folder, patience=QUICK, say=print)
        assert left_over(folder) == set()
        hub.files[PATH] = zipped(FILES)
        assert bundle_fetch.fetch(hub.url + PATH, folder, say=print).tasks


def test_a_web_page(folder: Path) -> None:
    def page(answer: Answer, body: bytes) -> None:
        answer.send(200, b"<html>log in</html>", {"Content-Type": "text/html"})

    with (
        Hub({PATH: b"x"}, script=[page]) as hub,
        pytest.raises(NanochatError, match=r"web page instead.*--url names another"),
    ):
        bundle_fetch.fetch(hub.url + PATH, folder, say=print)


def test_no_file_of_that_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="neither an address"):
        bundle_fetch.fetch(str(tmp_path / "absent.zip"), folder, say=print)
    with Hub() as hub, pytest.raises(NanochatError, match="404"):
        bundle_fetch.fetch(hub.url + PATH, folder, say=print)


def test_no_space(folder: Path) -> None:
    """An archive that says of itself that it holds more than any disk; nothing of it is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        archive.filelist[-1].file_size = 1 << 60  # what its directory will say
    with (
        Hub({PATH: buffer.getvalue()}) as hub,
        pytest.raises(NanochatError, match=r"needs \d+ MB, but .* free"),
    ):
        bundle_fetch.fetch(hub.url + PATH, folder, say=print)
    assert left_over(folder) == set()


def test_what_was_there_and_is_not_whole_is_kept(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "core.yaml").write_text(CORE)
    (folder / "mine.txt").write_text("precious")
    said: list[str] = []
    with Hub({PATH: zipped(FILES)}) as hub:
        bundle_fetch.fetch(hub.url + PATH, folder, say=said.append)
    assert (folder.with_name("eval_bundle-damaged-1") / "mine.txt").read_text() == "precious"
    assert not (folder / "mine.txt").exists() and any("eval_bundle-damaged-1" in s for s in said)


def test_a_kill_while_it_unpacks_leaves_no_bundle(folder: Path) -> None:
    """The folder has its name only when it is whole; the next start brings it there."""
    many = {f"eval_data/more/{n}.txt": "x" * 10_000 for n in range(300)}
    with Hub({PATH: zipped(FILES | many)}) as hub:
        process = command(folder, "--url", hub.url + PATH)
        fresh = folder.with_name(".eval_bundle.new")
        end = time.monotonic() + 30
        while not (fresh / "eval_data" / "more").exists() and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert fresh.exists() and not folder.exists()
        bundle_fetch.fetch(hub.url + PATH, folder, say=print)
        assert len(hub.requests) == 1  # the zip was whole already
    assert len(list((folder / "eval_data" / "more").iterdir())) == 300
    assert left_over(folder) == {"eval_bundle"}


# --- the command -----------------------------------------------------------------------------


def command(folder: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    own = {"NANOCHAT_BASE_DIR": str(folder.parent), "PYTHONPATH": str(REPO)}
    return subprocess.Popen(
        [sys.executable, "-m", "nanochat.bundle", *words], env=os.environ | own | env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_command(folder: Path) -> None:
    with Hub({PATH: zipped(FILES)}) as hub:
        process = command(folder, "--check")
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1 and "fetch the evaluation bundle with" in err, out
        process = command(folder, NANOCHAT_EVAL_BUNDLE_URL=hub.url + PATH)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0 and "2 tasks for CORE (2 of 22 tasks)" in out, err
    process = command(folder, "--check")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "") and "is whole: 2 tasks" in out
    (folder / "eval_data" / "copa.jsonl").write_text("{")
    process = command(folder, "--check")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and err.startswith("error: ") and "line 1" in err


def test_it_needs_no_torch() -> None:
    code = "import sys; import nanochat.bundle, nanochat.bundle_fetch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, timeout=30)


def test_the_published_address_is_the_default() -> None:
    assert bundle.URL.startswith("https://") and bundle.URL.endswith(PATH)

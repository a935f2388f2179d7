from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hub_server import Answer, Hub, Step

from nanochat.download import Patience, Remote, _Fetcher, download
from nanochat.errors import NanochatError

FAST = Patience(base=0.0, connect=2.0, read=0.6)  # 0 ** n: no wait at all
CONTENTS = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({"/f": CONTENTS}) as hub:
        yield hub


def fetch(hub: Hub, target: Path, **options: Any) -> int:
    given: dict[str, Any] = {"patience": FAST} | options
    return download([Remote(f"{hub.url}/f", target)], **given)


def cut(at: int) -> Step:
    return lambda answer, contents: answer.serve(contents, until=at)


def status(code: int, **headers: str) -> Step:
    def answer_with(answer: Answer, contents: bytes) -> None:
        answer.send(code, b"no", {key.replace("_", "-"): value for key, value in headers.items()})

    return answer_with


def stall(answer: Answer, contents: bytes) -> None:
    answer.serve(contents, until=100_000)
    time.sleep(1.5)


def hang_up(answer: Answer, contents: bytes) -> None:
    answer.close_connection = True


def without_ranges(answer: Answer, contents: bytes) -> None:
    answer.send(200, contents, {})


def test_fetched_once(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "f"
    assert fetch(hub, target) == 1
    assert target.read_bytes() == CONTENTS
    assert [path.name for path in target.parent.iterdir() if path.name[0] != "."] == ["f"]
    assert fetch(hub, target) == 0
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        [cut(1_000_000)],
        [cut(0)] * 4,
        [cut(100_000)] * 9,  # more than patience allows, but each brings something
        [stall],
        [status(503), status(500), status(429), status(408)],
        [cut(900_000), without_ranges],
        [cut(900_000), status(416, Content_Range="bytes */7")],
        [cut(900_000), status(416)],
        [cut(900_000), status(206, Content_Range="bytes 5-6/3000000")],
        [cut(900_000), status(206, Content_Range="bytes 900000-3000000/3000001")],
        [hang_up],
    ],
)
def test_what_passes(hub: Hub, tmp_path: Path, script: list[Step]) -> None:
    hub.script = list(script)
    fetch(hub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENTS
    assert len(hub.requests) > len(script) or script[-1] is without_ranges


def test_only_what_is_missing_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.script = [cut(1_234_567)]
    fetch(hub, tmp_path / "f")
    first, second = hub.ranges()
    assert first is None
    assert second
    start = int(second.removeprefix("bytes=").removesuffix("-"))
    assert 1_234_567 - 2 * (1 << 16) <= start <= 1_234_567
    assert hub.requests[1][1]["If-Range"] == '"' + hashlib.md5(CONTENTS).hexdigest() + '"'


def test_five_attempts_then_the_rest_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.script = [cut(1_500_000)] + [status(503)] * 4
    with pytest.raises(
        NanochatError, match="503 Service Unavailable, 5 times in a row; run the same"
    ):
        fetch(hub, tmp_path / "f")
    assert len(hub.requests) == 5
    assert not (tmp_path / "f").exists()
    assert (tmp_path / "f.part").read_bytes() == CONTENTS[: (tmp_path / "f.part").stat().st_size]
    fetch(hub, tmp_path / "f")
    assert hub.ranges()[-1]
    assert (tmp_path / "f").read_bytes() == CONTENTS


def test_a_file_that_changed_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    hub.script = [cut(1_500_000)] + [status(503)] * 4
    with pytest.raises(NanochatError):
        fetch(hub, tmp_path / "f")
    hub.files["/f"] = other = bytes(reversed(CONTENTS))
    fetch(hub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == other


def test_a_changed_file_from_a_server_that_ignores_if_range(hub: Hub, tmp_path: Path) -> None:
    other = bytes(reversed(CONTENTS))

    def rest_of_other(answer: Answer, contents: bytes) -> None:
        start = int(re.sub(r"\D", "", answer.headers["Range"]))
        place = f"bytes {start}-{len(other) - 1}/{len(other)}"
        answer.send(206, other[start:], {"ETag": '"new"', "Content-Range": place})

    hub.script = [cut(1_500_000), rest_of_other]
    fetch(hub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENTS


def test_killed_between_the_last_byte_and_the_name(hub: Hub, tmp_path: Path) -> None:
    hub.script = [cut(10)] + [status(503)] * 4
    with pytest.raises(NanochatError):
        fetch(hub, tmp_path / "f")
    (tmp_path / "f.part").write_bytes(CONTENTS)
    fetch(hub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENTS
    assert hub.ranges()[-1] == "bytes=3000000-"  # which was answered 416


def test_a_part_of_unknown_origin_is_not_continued(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"of what?")
    fetch(hub, tmp_path / "f")
    assert hub.ranges() == [None]
    assert (tmp_path / "f").read_bytes() == CONTENTS


def test_a_server_that_promises_more_than_it_has(hub: Hub, tmp_path: Path) -> None:
    hub.script = [
        lambda answer, contents: answer.send(200, contents, {"Content-Length": "3000009"})
    ] * 20
    with pytest.raises(NanochatError, match="5 times in a row"):
        fetch(hub, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_server_that_tells_no_length(hub: Hub, tmp_path: Path) -> None:
    hub.script = [lambda answer, contents: answer.send(200, contents, {"Content-Length": ""})]
    fetch(hub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENTS


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (status(404), "404 Not Found; there is no such file"),
        (status(401), "set HF_TOKEN"),
        (status(403), "HF_TOKEN"),
        (status(410), "410 Gone"),
        (status(200, Content_Type="text/html; charset=utf-8"), "web page"),
    ],
)
def test_hopeless_at_once(hub: Hub, tmp_path: Path, step: Step, what: str) -> None:
    hub.script = [step]
    with pytest.raises(NanochatError, match=what) as error:
        fetch(hub, tmp_path / "f", patience=Patience())
    assert len(hub.requests) == 1
    assert "\n" not in str(error.value)
    assert not (tmp_path / "f").exists()


class Impatient(threading.Event):
    """Notes how long it is to be waited for, and does not wait."""

    def __init__(self, asked: list[float | None]) -> None:
        super().__init__()
        self.asked = asked

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout)
        return self.is_set()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Seconds that a fetcher waits between its attempts."""
    made, asked = _Fetcher.__init__, list[float | None]()

    def init(fetcher: _Fetcher, *arguments: Any) -> None:
        made(fetcher, *arguments)
        fetcher._stop = Impatient(asked)

    monkeypatch.setattr(_Fetcher, "__init__", init)
    return asked


def test_waits_grow_and_a_server_may_ask_for_more(
    hub: Hub, tmp_path: Path, waits: list[float | None]
) -> None:
    hub.script = [status(503), status(503), status(503, Retry_After="60")]
    fetch(hub, tmp_path / "f", patience=Patience(base=2.0))
    assert waits == [2, 4, 60]

    hub.script = [
        status(503, Retry_After="86400"),
        status(503, Retry_After=formatdate(time.time() + 1e5)),
    ]
    (tmp_path / "f").unlink()
    waits.clear()
    fetch(hub, tmp_path / "f", patience=Patience(base=2.0, longest=7.0))
    assert waits == [7, 7]


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(NanochatError, match=r"no connection to 127.0.0.1:9, 5 times"):
        download([Remote("http://127.0.0.1:9/f", tmp_path / "f")], patience=FAST)
    with pytest.raises(NanochatError, match="check the address"):
        download([Remote("ftp://127.0.0.1/f", tmp_path / "f")], patience=FAST)


def test_contents_are_checked(hub: Hub, tmp_path: Path) -> None:
    def bad(path: Path) -> str | None:
        return None if path.read_bytes() == CONTENTS else "is something else"

    target = tmp_path / "f"
    target.write_bytes(b"old and bad")
    hub.script = [without_ranges_but(b"wrong"), without_ranges_but(b"wrong")]
    fetch(hub, target, check=bad)
    assert target.read_bytes() == CONTENTS
    target.write_bytes(b"old and bad")
    hub.script = [without_ranges_but(b"wrong")] * 5
    with pytest.raises(NanochatError, match="what came is something else, 5 times"):
        fetch(hub, target, check=bad)
    assert target.read_bytes() == b"old and bad"  # nothing better came


def without_ranges_but(body: bytes) -> Step:
    return lambda answer, contents: answer.send(200, body, {})


def test_the_announced_digest_is_checked(hub: Hub, tmp_path: Path) -> None:
    """The hub redirects to where the data lies, and tells the digest while doing so."""

    def redirect(digest: str) -> Step:
        headers = {"Location": f"{hub.url}/f", "X-Linked-Etag": f'"{digest}"'}
        return lambda answer, contents: answer.send(302, b"", headers)

    right = hashlib.sha256(CONTENTS).hexdigest()
    hub.script = [redirect("0" * 64), None, redirect(right), None]
    fetch(hub, tmp_path / "f")
    assert len(hub.requests) == 4
    assert (tmp_path / "f").read_bytes() == CONTENTS


def test_headers_stay_with_the_host(hub: Hub, tmp_path: Path) -> None:
    with Hub({"/f": b"elsewhere"}) as other:
        hub.script = [lambda answer, _: answer.send(302, b"", {"Location": f"{other.url}/f"})]
        secret = {"Authorization": "Bearer secret"}
        download([Remote(f"{hub.url}/f", tmp_path / "f", secret)], patience=FAST)
        assert hub.requests[0][1]["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.requests[0][1]


def test_many_at_a_time_and_one_that_fails_stops_all(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {f"/{n}": CONTENTS[n * 1000 :] for n in range(12)}
    remotes = [Remote(f"{hub.url}/{n}", tmp_path / str(n)) for n in range(12)]
    lines: list[str] = []
    assert download(remotes, workers=5, patience=FAST, say=lines.append, what="set") == 12
    assert all((tmp_path / str(n)).read_bytes() == CONTENTS[n * 1000 :] for n in range(12))
    assert len(lines) == 1
    assert lines[0].startswith("set: 12.0 of 12 files, 35.9 MB")

    del hub.files["/3"]
    for n in range(12):
        (tmp_path / str(n)).unlink()
    hub.pause = 0.02
    with pytest.raises(NanochatError, match="/3 answers 404"):
        download(remotes, workers=2, patience=FAST)
    assert len(list(tmp_path.glob("?"))) < 6  # those after the missing one were not begun


CHILD = """
import sys
from pathlib import Path
from nanochat.download import Patience, Remote, download
from nanochat.errors import NanochatError
try:
    if len(sys.argv) > 3:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    n = download([Remote(sys.argv[1], Path(sys.argv[2]))], patience=Patience(base=0.0),
                 say=lambda line: print(line, flush=True))
    print("new", n, flush=True)
except NanochatError as error:
    print("error:", error, flush=True)
"""


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_again_and_again(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.01
    part = tmp_path / "f.part"
    reached = 0
    for _ in range(2):
        process = child(f"{hub.url}/f", tmp_path / "f")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if part.exists() and part.stat().st_size > reached:
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert part.stat().st_size > reached
        reached = part.stat().st_size
        assert not (tmp_path / "f").exists()
    hub.pause = 0.0
    fetch(hub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENTS
    asked = [int(re.sub(r"\D", "", r or "0")) for r in hub.ranges()]
    assert asked[0] == 0 < asked[1] < asked[2] == reached


def test_an_interrupt_does_not_wait_for_the_server(hub: Hub, tmp_path: Path) -> None:
    ended = threading.Event()

    def hang(answer: Answer, contents: bytes) -> None:
        answer.serve(contents, until=200_000)
        ended.wait()

    hub.script = [hang]
    process = child(f"{hub.url}/f", tmp_path / "f")
    while not (tmp_path / "f.part").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate()
    ended.set()
    assert process.returncode != 0
    assert (tmp_path / "f.part").stat().st_size > 0


def test_two_processes_take_turns(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.02
    processes = [child(f"{hub.url}/f", tmp_path / "f") for _ in range(2)]
    outputs = sorted(process.communicate(timeout=30)[0] for process in processes)
    assert "new 0" in "".join(outputs)
    assert "new 1" in "".join(outputs)
    assert (tmp_path / "f").read_bytes() == CONTENTS
    assert len(hub.requests) == 1


def test_a_full_disk(hub: Hub, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the same call fails, with another number."""
    pytest.importorskip("resource")
    output = child(f"{hub.url}/f", tmp_path / "f", 1_500_000).communicate(timeout=30)[0]
    assert re.fullmatch(r"error: .*f cannot be written: File too large; see to that .*\n", output)
    assert (tmp_path / "f.part").stat().st_size == 1_500_000
    fetch(hub, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENTS
    assert hub.ranges()[-1] == "bytes=1500000-"


def test_a_bar_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CHILD, f"{hub.url}/f", str(tmp_path / "f")]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        command, stderr=theirs, stdout=subprocess.PIPE, text=True, env=environment
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert done.stdout == "new 1\n"
    assert "1.0/1 files, 3.0 MB" in shown

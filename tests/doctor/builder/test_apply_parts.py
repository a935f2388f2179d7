"""The parts of apply one by one: journal, lock, logs, causes, rehearsals, command lines."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doctor.environment import command_line, integrity
from doctor.environment.place import target
from doctor.errors import DoctorError, WrongUsage
from doctor.install import changes, proven
from doctor.install.causes import cause
from doctor.install.changes import Change
from doctor.install.journal import BEGIN, BROKEN, DONE, REPAIRED, Journal
from doctor.planner import commands
from doctor.planner.steps import trainer_requirements
from doctor.text.toml import tomllib
from doctor.work import files
from doctor.work.lock import exclusive
from doctor.work.programs import LETTERS, Ended, Log

DATA = Path(__file__).parents[1] / "data"

# --- journal


def test_a_journal_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add(BEGIN, "torch", "p", unowned=["x"])
    (entry,) = Journal(path).entries
    assert (entry.event, entry.step, entry.plan, entry.details) == (
        BEGIN,
        "torch",
        "p",
        {"unowned": ["x"]},
    )


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_costs_nothing_but_itself(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add(BEGIN, "torch", "p")
    journal.add(DONE, "torch", "p")
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path)
    again.add(BEGIN, "trainer", "p")
    read = [(e.step, e.event) for e in Journal(path).entries]
    assert read[0] == ("torch", BEGIN) and read[-1] == ("trainer", BEGIN)
    assert len(read) == (3 if cut == 1 else 2), "the line end alone is no loss"


@pytest.mark.parametrize("text", ['{"schema": 99}\n', "no JSON at all\n", "[]\n", "\0\0\0"])
def test_a_journal_of_another_schema_is_moved_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(text)
    assert Journal(path).entries == []
    (aside,) = (p for p in tmp_path.iterdir() if p != path)
    assert aside.read_text() == text


@pytest.mark.parametrize(
    ("events", "open_step"),
    [
        ((), None),
        ((BEGIN,), "s0"),
        ((BEGIN, DONE), None),
        ((BEGIN, BROKEN), "s0"),
        ((BEGIN, BROKEN, BEGIN), "s0"),
        ((BEGIN, BROKEN, REPAIRED), None),
        ((BEGIN, BROKEN, REPAIRED, BEGIN), "s3"),
    ],
)
def test_what_was_not_ended_is_unfinished(
    tmp_path: Path, events: tuple[str, ...], open_step: str | None
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for number, event in enumerate(events):
        journal.add(event, f"s{number}", "p")
    found = journal.unfinished()
    assert (found.step if found else None) == open_step


# --- lock


def test_the_lock_of_a_dead_holder_is_free(tmp_path: Path) -> None:
    path = tmp_path / "x" / "lock"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom doctor.work.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1]), wait=False, say=print): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[3])
    assert done.returncode == -9 and path.read_text()
    with exclusive(path, wait=False, say=print):
        assert json.loads(path.read_text())[0] == os.getpid()
    assert path.read_text() == ""


def test_a_holder_that_lives_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x" / "lock"
    with (
        exclusive(path, wait=False, say=print),
        pytest.raises(DoctorError, match=f"process {os.getpid()} is already changing {tmp_path}"),
        exclusive(path, wait=False, say=print),
    ):
        pass
    with exclusive(path, wait=False, say=print):
        pass


def test_the_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    (tmp_path / "lock").symlink_to(precious)
    with (
        pytest.raises(DoctorError, match="cannot be written"),
        exclusive(tmp_path / "lock", wait=False, say=print),
    ):
        pass
    assert precious.read_text() == "years of work"


def test_where_a_file_system_has_no_locks_the_one_that_stands_for_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, shared = tmp_path / "x" / "lock", tmp_path / "tmp"
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    shared.mkdir()
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            raise OSError(errno.ENOLCK, "No locks available")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    with exclusive(path, wait=False, say=print):
        (stand_in,) = shared.iterdir()
    stand_in.unlink()
    stand_in.symlink_to(precious)
    with (
        pytest.raises(DoctorError, match="is no plain file, so it is not written to"),
        exclusive(path, wait=False, say=print),
    ):
        pass
    assert precious.read_text() == "years of work"


# --- disks that fail


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one page or two, which one more file fills up."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        for _ in range(64):
            file.write(b"x" * 1024)


def test_a_journal_on_a_full_disk_loses_its_last_line_alone(small_disk: Path) -> None:
    path = small_disk / "journal.jsonl"
    journal = Journal(path)
    journal.add(BEGIN, "torch", "p")
    fill(small_disk)
    with pytest.raises(DoctorError, match="No space left on device"):
        for number in range(100):
            journal.add(BEGIN, f"{number}", "p", unowned=["x" * 300])
    (small_disk / "filler").unlink()
    journal.add(BEGIN, "last", "p")
    found = Journal(path)
    assert (found.entries[0].step, found.entries[-1].step) == ("torch", "last")
    begun = found.unfinished()
    assert begun is not None and begun.step == "torch"


def test_small_files_on_a_full_disk_stay_as_they_were(small_disk: Path) -> None:
    path = small_disk / "snapshot.json"
    files.write(path, '{"old": 1}')
    fill(small_disk)
    with pytest.raises(DoctorError, match="No space left on device"):
        files.write(path, "x" * 20_000)
    assert path.read_text() == '{"old": 1}'
    assert {p.name for p in small_disk.iterdir()} == {"snapshot.json", "filler"}


@pytest.mark.parametrize("what", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """EIO comes when the page is written back, or at the rename: no disk here does that."""
    path = tmp_path / "constraints.txt"
    files.write(path, "old")

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*((os, "fsync") if what == "fsync" else (Path, "replace")), fails)
    with pytest.raises(DoctorError, match="Input/output error"):
        files.write(path, "new")
    with pytest.raises(DoctorError, match="Input/output error"):
        Journal(tmp_path / "journal").add(BEGIN, "a", "p") if what == "fsync" else files.write(
            path, ""
        )
    assert path.read_text() == "old"


# --- commands


def run(tmp_path: Path, code: str, seconds: float = 20) -> tuple[Ended, str]:
    log = Log(tmp_path / "logs" / "x.log")
    words = [sys.executable, "-c", code]
    ended = log.run(words, cwd=tmp_path, env=os.environ, seconds=seconds)
    return ended, log.path.read_text()


def test_a_log_has_every_line_with_its_time(tmp_path: Path) -> None:
    ended, log = run(tmp_path, "print('one'); print('two\\rthree', end='')")
    assert ended == Ended(0, ("one", "two", "three"))
    stamps = [line.partition(" ")[0] for line in log.splitlines()]
    assert all(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S") for stamp in stamps)
    assert [line.partition(" ")[2] for line in log.splitlines()][1:] == [
        "one",
        "two",
        "three",
        "status 0",
    ]


def test_a_server_that_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    )
    ended, _ = run(tmp_path, code)
    assert ended.status == 0
    os.kill(int(ended.lines[0]), signal.SIGKILL)


def test_a_server_that_never_stops_talking_is_not_waited_for(tmp_path: Path) -> None:
    code = "import os, subprocess; print('x' * 50000, flush=True); "
    code += "subprocess.Popen(['yes'], start_new_session=True); os._exit(3)"
    ended, _ = run(tmp_path, code)
    assert ended.status == 3 and not ended.expired
    assert ended.lines[0] == "x" * LETTERS, "the log has all of it"


def test_all_that_a_command_started_ends_with_its_time(tmp_path: Path) -> None:
    code = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    ended, _ = run(tmp_path, code, seconds=4.0)
    assert ended.expired
    pid = int(ended.lines[0])
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the child of the command lives on")


def test_empty_lines_and_split_characters_stay(tmp_path: Path) -> None:
    code = "import os, time\nfor part in (b'a\\r', b'\\n\\n\\xe2', b'\\x80\\xa6\\n'): os.write(1, part); time.sleep(.2)"
    heard: list[str] = []
    words = [sys.executable, "-c", code]
    ended = Log(tmp_path / "l").run(words, cwd=tmp_path, env=os.environ, heard=heard.append)
    assert heard == ["a", "", "…"] == list(ended.lines)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    ended = Log(tmp_path / "l").run(["no-such-program"], cwd=tmp_path, env=os.environ)
    assert ended.status == 127 and "cannot be started" in ended.last_line()


def test_a_private_index_and_escapes_stay_out_of_the_log(tmp_path: Path) -> None:
    env = dict(os.environ) | {"PIP_INDEX_URL": "https://me:hunter2@pkgs.example.com/TOKEN42/simple"}
    code = (
        "import os; u = os.environ['PIP_INDEX_URL']; print('Looking in indexes:', u)\n"
        "print('HTTPSConnectionPool(host=\\'pkgs.example.com\\', port=443)')\n"
        "print('\\x1b]52;c;Zm9v\\x07 see https://mypkgs.example.com.au/x')"
    )
    said = subprocess.run(
        [sys.executable, "-c", LOGGED, str(tmp_path / "l"), code],
        env=env, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for text in (said, (tmp_path / "l").read_text()):
        assert not any(
            word in text for word in ("hunter2", "TOKEN42", "'pkgs.example", "\x1b", "\x07")
        )
        assert "Looking in indexes: https://«private»" in text
        assert "https://mypkgs.example.com.au/x" in text, "another host"


LOGGED = """
import os, sys
from pathlib import Path
from doctor.work.programs import Log
log = Log(Path(sys.argv[1]))
print(log.run([sys.executable, "-c", sys.argv[2]], cwd=Path.cwd(), env=os.environ).text)
"""


def test_credentials_stay_out_of_the_log(tmp_path: Path) -> None:
    words = ["echo", "--index-url", "https://me:secret@host/simple"]
    ended = Log(tmp_path / "l").run(words, cwd=tmp_path, env=os.environ)
    assert "secret" not in (tmp_path / "l").read_text() + ended.text
    assert "//host/simple" in ended.text


# --- command lines


@pytest.mark.parametrize(
    ("command", "tool", "index"),
    [
        ("uv pip install --python p torch", "uv", None),
        ("/o/bin/uv pip install --default-index http://h/a torch", "uv", "http://h/a"),
        ("python -m uv pip install torch", "uv", None),
        ("python -m pip install --index-url=http://h/b torch", "pip", "http://h/b"),
        ("python -I -m pip install -i http://h/c torch", "pip", "http://h/c"),
        ("pip3.12 install torch", "pip", None),
        ("pip uninstall install", None, None),
        ("python -m nanochat.dataset -n 8", None, None),
        ("./nanochat-doctor build-rustbpe --python install", None, None),
    ],
)
def test_a_line_says_what_installs_and_from_where(
    command: str, tool: str | None, index: str | None
) -> None:
    line = command_line.parse(command)
    assert (line.tool, line.index) == (tool, index)


def test_variables_before_a_command(tmp_path: Path) -> None:
    line = command_line.parse("A=1 B='x y' program word")
    assert line == command_line.Line({"A": "1", "B": "x y"}, ("program", "word"))
    assert command_line.variables(line, {"A": "0", "C": "2"}, None).items() >= {
        ("A", "1"),
        ("C", "2"),
    }


def test_an_index_that_is_named_is_the_only_one() -> None:
    base = {"PIP_EXTRA_INDEX_URL": "http://x", "UV_INDEX": "http://y", "PIP_INDEX_URL": "http://z"}
    named = command_line.variables(
        command_line.parse("pip install --index-url http://i torch"), base, None
    )
    assert not {"PIP_EXTRA_INDEX_URL", "UV_INDEX"} & named.keys()
    other = command_line.variables(command_line.parse("pip install torch"), base, None)
    assert other["UV_INDEX"] == "http://y" and other["UV_DEFAULT_INDEX"] == "http://z"


def test_install_commands() -> None:
    uv = commands.Target("/e/bin/python", uv=True)
    line = commands.install(uv, ["torch==2"], index="http://i", again=["torch"], deps=False)
    assert line == (
        "uv pip install --python /e/bin/python --reinstall-package torch --no-deps torch==2 "
        "--default-index http://i"
    )
    pip = commands.Target("p")
    line = commands.install(pip, ["a b"], index="http://i", again=["a"], pre=True, deps=False)
    assert line == "p -m pip install --force-reinstall --pre --no-deps 'a b' --index-url http://i"
    assert commands.uninstall(pip, "a", "b") == "p -m pip uninstall --yes a b"
    assert commands.uninstall(uv, "a") == "uv pip uninstall --python /e/bin/python a"


# --- what tools say


def test_what_uv_says_of_a_rehearsal() -> None:
    text = """Using Python 3.11.7 environment at: /e
Resolved 3 packages in 120ms
Would download 1 package
Would uninstall 2 packages
Would install 2 packages
 - old-one==1.0
 - torch==2.13.0+cpu
 + torch==2.14.0+cpu
 + Tiny_Num==2.0 (from file:///x/tiny)
 ~ again==3
"""
    assert changes.parse_uv(text) == (
        Change("old-one", "1.0", None),
        Change("torch", "2.13.0+cpu", "2.14.0+cpu"),
        Change("tiny-num", None, "2.0"),
        Change("again", "3", "3"),
    )
    assert changes.parse_uv("Checked 2 packages in 1ms\nWould make no changes\n") == ()


def test_what_pip_reports() -> None:
    text = json.dumps({"install": [{"metadata": {"name": "Torch", "version": "2"}}]})
    assert changes.parse_pip(text.encode(), {"torch": "1"}) == (Change("torch", "1", "2"),)
    for report in (b"{", b"[]", b"[" * 100_000, b"\xff", b'{"install": [{"metadata": 1}]}'):
        assert changes.parse_pip(report, {}) is None


def test_changes_are_told_in_short() -> None:
    many = [Change(f"n{i}", None, "1") for i in range(9)]
    lines = changes.describe([*many, Change("torch", "1", "2"), Change("gone", "1", None)])
    assert lines == [
        "replaces torch 1 → 2",
        "removes gone 1",
        "adds n0 1, n1 1, n2 1, n3 1, n4 1, n5 1, and 3 more",
    ]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("OSError: [Errno 28] No space left on device", "full"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "hash differs",
        ),
        ("  cause: Hash mismatch for `torch==2.14.0`", "hash differs"),
        ("error: externally-managed-environment", "belongs to the system"),
        (
            "ERROR: torch-2-cp38-cp38-macosx.whl is not a supported wheel on this platform.",
            "no wheel",
        ),
        ("zipfile.BadZipFile: Bad CRC-32 for file", "cut or damaged"),
        ("ReadTimeoutError: Read timed out. (read timeout=3)", "in time"),
        ("HTTP status server error (500 Internal Server Error) for url", "an error of its own"),
        ("  cause: dns error: failed to lookup address information", "could not be reached"),
        ("[Errno 101] Network is unreachable", "could not be reached"),
        ("ERROR: No matching distribution found for torch==9", "no such version"),
        ("/e/bin/python: No module named pip", "has no pip"),
    ],
)
def test_the_cause_of_a_failure(line: str, word: str) -> None:
    found = cause(["Collecting torch", line])
    assert found is not None and word in found.why


SAID = tomllib.loads((DATA / "installers.toml").read_text(encoding="utf-8"))["said"]


@pytest.mark.parametrize("row", SAID, ids=lambda row: row["name"])
def test_the_kind_of_a_failure(row: dict[str, str]) -> None:
    found = cause(row["text"].splitlines(), {"torch": "1"})
    assert (found.name if found else "") == row["kind"]


def test_an_unknown_failure_has_no_cause() -> None:
    assert cause(["something else"]) is None


# --- packages that are not whole


def make_package(site: Path, name: str, files: dict[str, str]) -> Path:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("uv\n")
    rows = "".join(f"{path},sha256=x,{len(text)}\n" for path, text in files.items())
    (info / "RECORD").write_text(f"{rows}{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    return info


def test_a_package_is_whole_or_not(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    info = make_package(site, "a", {"a/__init__.py": "x", "a/lib.so.1": "long"})
    assert integrity.damage(info) is None
    (site / "a" / "__init__.py").write_text("edited by someone")
    assert integrity.damage(info) is None, "an edit is no damage"
    (site / "a" / "lib.so.1").write_text("lo")
    assert integrity.damage(info) == "lacks a/lib.so.1"
    (info / "RECORD").unlink()
    assert integrity.damage(info) == "has no RECORD"


def test_clearing_takes_no_file_of_others_and_deletes_nobodys(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    make_package(site, "good", {"shared/good.py": "x", "good.py": "x"})
    broken = make_package(
        site, "bad", {"shared/bad.py": "x", "good.py": "x", "bad/a.py": "x", "bad/b.py": "x"}
    )
    (site / "bad" / "a.py").write_text("edited by somebody")
    (site / "bad" / "b.py").unlink()
    (site / "bad" / "notes.txt").write_text("mine")
    outside = tmp_path / "precious"
    outside.write_text("x")
    with (broken / "RECORD").open("a") as record:
        record.write("../../../../precious,,\n.,,\n../..,,\n,,\n")
    (site / "users.pth").write_text("")
    (site / "~ood").mkdir()
    (site / "my_research").mkdir()
    (site / "my_research" / "result.csv").write_text("42")
    (site / "mypath.pth").symlink_to("/nowhere")
    old = site / "old.egg-info"
    old.mkdir()
    (old / "top_level.txt").write_text("oldie\n")
    (site / "oldie.py").write_text("x")
    found = integrity.leftovers(site, known_damage=(), known_unowned=("users.pth",))
    assert found.names == ["bad", "bad-1.0.dist-info", "my_research", "mypath.pth", "~ood"]
    aside = tmp_path / "nanochat-doctor" / "aside"
    integrity.set_aside(site, found, aside)
    left = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    assert {p for p in left if "-info" not in p} == {
        "good.py",
        "oldie.py",
        "shared/good.py",
        "users.pth",
    }
    assert outside.exists()
    moved = aside / site.relative_to(tmp_path)
    assert (moved / "my_research" / "result.csv").read_text() == "42"
    assert os.readlink(moved / "mypath.pth") == "/nowhere"
    assert (moved / "bad" / "notes.txt").read_text() == "mine"
    assert (moved / "bad" / "a.py").read_text() == "edited by somebody"
    assert (moved / "~ood").is_dir() and (moved / broken.name / "RECORD").exists()


# --- the rest


def test_the_set_that_was_proven_last(tmp_path: Path) -> None:
    assert proven.last_proven(tmp_path) == ()
    proven.remember_proven(tmp_path, ["torch==2.16.0.dev20261120+cu130", "triton==3.6"])
    assert proven.last_proven(tmp_path) == ("torch==2.16.0.dev20261120+cu130", "triton==3.6")
    (tmp_path / proven.NAME).write_text("{")
    assert proven.last_proven(tmp_path) == ()


@pytest.mark.parametrize("path", ["", "python", "/", "/tmp"])
def test_a_path_that_is_no_interpreter(path: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="is no interpreter"):
        target(path or str(tmp_path), tmp_path)


def test_a_program_that_is_no_python(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no\n")
    program.chmod(0o755)
    with pytest.raises(WrongUsage, match="name another interpreter"):
        target(str(program), tmp_path)


def test_what_the_trainer_needs_is_read_from_the_project() -> None:
    found = trainer_requirements(Path(__file__).parents[3])
    assert any(line.startswith("pyarrow") for line in found)
    assert not any(line.startswith("torch>") for line in found)


@pytest.mark.parametrize("text", ["[project", "[project]\n", "project = 1\n"])
def test_a_project_that_does_not_say_what_the_trainer_needs(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(DoctorError, match="run this in a checkout"):
        trainer_requirements(tmp_path)

"""The door to the machine: links below a root, programs that misbehave, files that are none."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doctor.errors import Unknown, WrongUsage
from doctor.machine import system as module
from doctor.machine.system import Completed, System

Tree = Callable[..., System]


def script(root: Path, path: str, body: str) -> str:
    """A shell script that can be run."""
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{body}\n")
    place.chmod(0o755)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the machine outside, with something that no tree may show."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("outside")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "usr/lib").mkdir(parents=True)
    (folder / "etc/name").write_text("inside")
    return folder


# --- links -----------------------------------------------------------------------------------

LINKS = {
    "absolute": ("usr/lib/link", "/etc/name", "/usr/lib/link", "/etc/name"),
    "relative": ("usr/lib/link", "../../etc/name", "/usr/lib/link", "/etc/name"),
    "folder on the way": ("lib", "usr/../etc", "/lib/name", "/etc/name"),
    "absolute folder": ("opt", "/etc", "/opt/name", "/etc/name"),
    "above the root": ("link", "../../../../../../etc/name", "/link", "/etc/name"),
    "above the root in the path": ("link", "etc", "/../../link/name", "/etc/name"),
    "dots and slashes": ("link", ".//etc/./", "//link/./name", "/etc/name"),
    "link to the root": ("link", "/", "/link/etc/name", "/etc/name"),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_stay_below_the_root(root: Path, case: str) -> None:
    place, target, path, real = LINKS[case]
    (root / place).symlink_to(target)
    system = System(root, execute=True)
    assert system.text(path) == "inside"
    assert system.real(path) == real
    assert system.is_file(path) and system.exists(path)


def test_a_link_to_the_machine_outside_leads_nowhere(root: Path, outside: Path) -> None:
    (root / "leak").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    system = System(root, execute=True)
    for path in ("/leak", "/folder/secret", "/up/secret", "/../outside/secret"):
        assert system.text(path) is None, path
        assert not system.exists(path)
    assert system.names("/folder") == []


def test_dots_after_a_link_count_from_its_target(root: Path) -> None:
    (root / "usr/lib/deep").mkdir()
    (root / "short").symlink_to("/usr/lib/deep")
    (root / "usr/lib/file").write_text("beside the target")
    assert System(root, execute=True).text("/short/../file") == "beside the target"


def test_circles_end(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "self").symlink_to("self/x")
    system = System(root, execute=True)
    for path in ("/a", "/b/c", "/self"):
        assert not system.exists(path)
        assert not system.is_dir(path) and not system.is_file(path)
        assert system.size(path) is None
        with pytest.raises(Unknown, match="too many links"):
            system.bytes(path)
        with pytest.raises(Unknown), system.opened(path):
            pass


def test_a_long_chain_of_links_is_followed(root: Path) -> None:
    (root / "l0").symlink_to("etc/name")
    for i in range(1, 30):
        (root / f"l{i}").symlink_to(f"l{i - 1}")
    assert System(root, execute=True).text("/l29") == "inside"


names = st.sampled_from(["a", "b", "c", "..", ".", "etc", ""])


@settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    links=st.lists(st.tuples(st.sampled_from("abc"), st.lists(names, max_size=4), st.booleans())),
    path=st.lists(names, max_size=6),
)
def test_no_tree_of_links_leads_out(
    tmp_path_factory: pytest.TempPathFactory,
    links: list[tuple[str, list[str], bool]],
    path: list[str],
) -> None:
    root = tmp_path_factory.mktemp("tree")
    (root / "etc").mkdir()
    for place, target, absolute in links:
        if not os.path.lexists(root / place):
            (root / place).symlink_to(("/" if absolute else "") + "/".join(target) or ".")
    system = System(root, execute=True)
    try:
        found = system.locate("/".join(path))
    except Unknown:
        return
    assert found == root or root in found.parents
    assert ".." not in found.parts


def test_a_root_that_is_no_folder(root: Path) -> None:
    with pytest.raises(WrongUsage, match="no folder"):
        System(root / "etc/name")


# --- files -----------------------------------------------------------------------------------


def test_what_is_absent_is_none(root: Path) -> None:
    for system, base in ((System(root, execute=True), ""), (System(), str(root))):
        assert system.bytes(f"{base}/etc/none") is None
        assert system.text(f"{base}/etc/name/below-a-file") is None
        assert system.size(f"{base}/none") is None and system.mtime(f"{base}/none") is None
        assert system.names(f"{base}/none") == [] == system.names(f"{base}/etc/name")
        assert system.glob(f"{base}/none", "x") == []
        with pytest.raises(Unknown), system.opened(f"{base}/none"):
            pass


def test_folders_and_pipes_are_no_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    for system, base in ((System(root, execute=True), ""), (System(), str(root))):
        for name in ("etc", "pipe"):
            with pytest.raises(Unknown, match="is no file"):
                system.bytes(f"{base}/{name}")
        with pytest.raises(Unknown), system.opened(f"{base}/etc"):
            pass


def test_a_pipe_is_not_waited_for_when_it_is_opened(root: Path) -> None:
    os.mkfifo(root / "libx.so")

    def ask() -> None:
        with pytest.raises(Unknown), System(root, execute=True).opened("/libx.so"):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(1)
    hung = thread.is_alive()
    if hung:  # let it go on
        os.close(os.open(root / "libx.so", os.O_WRONLY | os.O_NONBLOCK))
        thread.join(5)
    assert not hung


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(root: Path) -> None:
    (root / "etc/name").chmod(0)
    (root / "usr/lib").chmod(0)
    system = System(root, execute=True)
    with pytest.raises(Unknown, match="/etc/name: Permission denied"):
        system.text("/etc/name")
    with pytest.raises(Unknown, match="/usr/lib: Permission denied"):
        system.names("/usr/lib")
    (root / "usr/lib").chmod(0o700)


def test_text_that_is_none_and_limits(root: Path) -> None:
    (root / "binary").write_bytes(b"\xff\xfe\0ok")
    (root / "large").write_bytes(b"x" * (3 << 16))
    system = System(root, execute=True)
    assert system.text("/binary") == "\ufffd\ufffd\0ok"
    assert system.bytes("/large", 1 << 16) == b"x" * (1 << 16)
    assert system.bytes("/large") == b"x" * (3 << 16)
    with system.opened("/large") as view:
        assert len(view) == 3 << 16


def test_an_empty_file_cannot_be_opened(root: Path) -> None:
    (root / "empty").touch()
    with pytest.raises(Unknown, match="/empty"), System(root, execute=True).opened("/empty"):
        pass


@pytest.mark.parametrize("path", ["/a\0b", "/" + "x" * 5000])
def test_paths_that_no_file_can_have(root: Path, path: str) -> None:
    for system in (System(root, execute=True), System()):
        assert not system.exists(path)
        assert not system.is_dir(path) and not system.is_file(path)
        assert system.size(path) is None
        with pytest.raises(Unknown), system.opened(path):
            pass


@pytest.mark.parametrize(
    "path",
    [
        "/a\0b",
        "/" + "x" * 5000,
    ],
    ids=["nul", "long"],
)
def test_folders_that_cannot_be_listed(root: Path, path: str) -> None:
    for system in (System(root, execute=True), System()):
        try:
            assert system.names(path) == []
        except Unknown as error:
            assert str(error)


def test_a_tree_has_no_owner_and_no_disk(root: Path) -> None:
    system = System(root, execute=True)
    assert system.may("/etc/name", os.R_OK) is None
    with pytest.raises(Unknown, match="no file system of its own"):
        system.space("/etc")
    live = System()
    assert live.may(str(root), os.R_OK) is True
    total, free = live.space(f"{root}/not/yet/there")
    assert total > free > 0


def test_glob_takes_beginning_and_end(root: Path) -> None:
    for name in ("libb.so", "liba.so", "liba.a", "xliba.so"):
        (root / "usr/lib" / name).touch()
    assert System(root, execute=True).glob("/usr/lib/", "lib", ".so") == [
        "/usr/lib/liba.so",
        "/usr/lib/libb.so",
    ]


# --- which -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", module.ROOT_PROGRAM_FOLDERS)
def test_programs_below_a_root_are_found_where_they_may_be(root: Path, folder: str) -> None:
    script(root, f"{folder}/tool", "echo ours")
    system = System(root, execute=True)
    assert system.which("tool") == f"{folder}/tool"
    assert system.output(["tool"]) == "ours\n"


def test_the_first_folder_counts(root: Path) -> None:
    for folder in reversed(module.ROOT_PROGRAM_FOLDERS):
        script(root, f"{folder}/tool", f"echo {folder}")
        assert System(root, execute=True).output(["tool"]) == f"{folder}\n"


def test_programs_elsewhere_are_not_found(root: Path) -> None:
    script(root, "/opt/bin/tool", "echo wrong")
    (root / "etc/environment").write_text("PATH=/opt/bin\n")
    system = System(root, execute=True)
    assert system.which("tool") is None
    assert system.which("sh") is None, "programs of the machine outside are not those of the tree"
    for name in ("tool", "sh", "ls"):
        with pytest.raises(Unknown, match=f"{name} is not installed"):
            system.run([name])


def test_what_cannot_be_run_is_no_program(root: Path) -> None:
    (root / "usr/bin/tool").mkdir(parents=True)
    (root / "usr/bin/data").write_text("no program")
    system = System(root, execute=True)
    assert system.which("tool") is None
    assert system.which("data") is None


def test_a_program_behind_an_absolute_link(root: Path) -> None:
    script(root, "/usr/local/cuda-12.8/bin/nvcc", "echo 12.8")
    (root / "usr/local/cuda").symlink_to("/usr/local/cuda-12.8")
    system = System(root, execute=True)
    assert system.which("nvcc") == "/usr/local/cuda/bin/nvcc"
    assert system.output(["nvcc"]) == "12.8\n"
    assert system.output(["/usr/local/cuda/bin/nvcc"]) == "12.8\n"


# --- environment -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=1", {"A": "1"}),
        ('A="with space"', {"A": "with space"}),
        ("A='x=y'", {"A": "x=y"}),
        ("export A=1", {"A": "1"}),
        ("  A=1", {"A": "1"}),
        ("A=", {"A": ""}),
        ('A="', {"A": '"'}),
        ("A=1\nA=2", {"A": "2"}),
        ("# comment", {}),
        ("#A=1", {}),
        ("nonsense", {}),
        ("1A=2", {}),
        ("=x", {}),
        ("A B=1", {}),
        ("\0\ufffd=\n", {}),
    ],
)
def test_environment_file(root: Path, line: str, expected: dict[str, str]) -> None:
    (root / "etc/environment").write_text(line)
    assert System(root, execute=True).env == expected


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.one_of(st.binary(max_size=80), st.text("A= \n\"'\0#", max_size=40).map(str.encode)))
def test_any_environment_file(root: Path, data: bytes) -> None:
    (root / "etc/environment").write_bytes(data)
    env = System(root, execute=True).env
    assert all(key and not key[0].isdigit() for key in env)


def test_an_unreadable_environment_file(root: Path) -> None:
    (root / "etc/environment").mkdir()
    assert System(root, execute=True).env == {}


def test_nothing_of_the_host_reaches_a_program_of_a_tree(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LD_PRELOAD_X", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "HOST_X"):
        monkeypatch.setenv(name, "/host")
    (root / "etc/environment").write_text(
        "LD_LIBRARY_PATH=/tree\nLD_AUDIT=/tree\nPYTHONHOME=/tree\nCUDA_HOME=/tree\nPATH=/tree\n"
        "LANG=de_DE.UTF-8\n"
    )
    script(root, "/usr/bin/show", "env")
    system = System(root, execute=True)
    shown = dict(line.split("=", 1) for line in system.output(["show"]).splitlines())
    assert shown["CUDA_HOME"] == "/tree"
    assert shown["PATH"] == module.HOST_PATH
    assert (shown["LANG"], shown["LC_ALL"]) == ("C", "C")
    assert not [n for n in shown if n.startswith(("LD_", "PYTHON", "HOST_"))]
    assert "CUDA_VISIBLE_DEVICES" not in shown
    # the facts still see what the tree says
    assert system.list_variable("LD_LIBRARY_PATH") == ["/tree"]


def test_programs_of_this_machine_speak_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setenv("MARK", "kept")
    tool = script(tmp_path, "/tool", 'echo "$LC_ALL $LANG $MARK"')
    assert System().output([str(tmp_path) + tool]) == "C C kept\n"


def test_list_variable_leaves_out_empty_entries(root: Path) -> None:
    (root / "etc/environment").write_text("LD_LIBRARY_PATH=:/a::/b:\n")
    assert System(root, execute=True).list_variable("LD_LIBRARY_PATH") == ["/a", "/b"]
    assert System(root, execute=True).list_variable("NONE") == []


def test_home(root: Path) -> None:
    assert System(root, execute=True).home() is None
    (root / "etc/environment").write_text("HOME=/root\n")
    assert System(root, execute=True).home() == "/root"


# --- programs --------------------------------------------------------------------------------


def run(root: Path, body: str, seconds: float = 5) -> Completed:
    script(root, "/usr/bin/tool", body)
    return System(root, seconds=seconds, execute=True).run(["tool"])


def test_status_and_both_streams(root: Path) -> None:
    assert run(root, "echo out; echo err >&2; exit 3") == Completed(3, "out\n", "err\n")


def test_the_signal_that_ended_it(root: Path) -> None:
    assert run(root, "kill -SEGV $$").status == -11


def test_input_is_empty(root: Path) -> None:
    assert run(root, "cat; echo end").stdout == "end\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo why >&2; exit 9", "tool ended with status 9: why"),
        ("echo why; exit 9", "tool ended with status 9: why"),
        ("exit 9", "tool ended with status 9$"),
        ("printf 'a\\000b'", "bytes that are no text"),
        ("head -c 4000 /dev/urandom", "bytes that are no text"),
        ("kill -SEGV $$", "tool ended with status -11"),
    ],
)
def test_output_says_why_there_is_none(root: Path, body: str, message: str) -> None:
    script(root, "/usr/bin/tool", body)
    with pytest.raises(Unknown, match=message):
        System(root, execute=True).output(["tool"])


def test_a_few_wrong_bytes_do_not_spoil_an_answer(root: Path) -> None:
    script(root, "/usr/bin/tool", "printf 'version 1.2 \\351\\n'")
    assert System(root, execute=True).output(["tool"]) == "version 1.2 \ufffd\n"


HANGING = {
    "sleeps": "sleep 600",
    "talks and sleeps": "echo working; sleep 600",
    "deaf to TERM": "trap '' TERM INT HUP; while :; do sleep 1; done",
    "waits for a child": "sleep 600 & wait",
    "streams closed": "exec >&- 2>&-; sleep 600",
}


@pytest.mark.parametrize("case", HANGING)
def test_a_program_that_hangs(root: Path, case: str) -> None:
    with pytest.raises(Unknown, match="tool gave no answer within 1 s"):
        run(root, HANGING[case], seconds=1)


def test_a_program_that_hangs_leaves_no_child(root: Path) -> None:
    with pytest.raises(Unknown):
        run(root, f"(sleep 1; touch {root}/alive) & sleep 60", seconds=0.5)
    time.sleep(1)
    assert not (root / "alive").exists()


def test_a_grandchild_that_keeps_the_streams_is_not_waited_for(root: Path) -> None:
    assert run(root, "sleep 20 & echo done") == Completed(0, "done\n", "")


def test_endless_output_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTPUT_LIMIT", 1 << 20)
    with pytest.raises(Unknown, match="tool printed more than 1 MiB"):
        run(root, "yes")
    with pytest.raises(Unknown, match="tool printed more than 1 MiB"):
        run(root, "yes >&2")


def test_long_output_is_kept_whole(root: Path) -> None:
    done = run(root, "head -c 3000000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero >&2")
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 300_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF garbage", "cannot be started"),
        (b"#!/no/such/interpreter\n", "cannot be started: No such file"),
        (b"", "cannot be started"),
        (b"\0\1\2\3" * 50, "cannot be started"),
    ],
    ids=["elf", "interpreter", "empty", "binary"],
)
def test_what_cannot_be_started(root: Path, content: bytes, message: str) -> None:
    script(root, "/usr/bin/tool", "")
    (root / "usr/bin/tool").write_bytes(content)
    with pytest.raises(Unknown, match=message):
        System(root, execute=True).run(["tool"])


def test_an_argument_that_no_program_can_be_given(root: Path) -> None:
    script(root, "/usr/bin/tool", "echo")
    with pytest.raises(Unknown, match="cannot be started"):
        System(root, execute=True).run(["tool", "a\0b"])


def test_absent_paths(root: Path) -> None:
    with pytest.raises(Unknown, match="cannot be started"):
        System(root, execute=True).run(["/usr/bin/none"])
    with pytest.raises(Unknown, match="cannot be started"):
        System().run([f"{root}/none"])


def test_a_program_runs_once_for_all_who_ask(root: Path) -> None:
    script(root, "/usr/bin/tool", f"echo run >> {root}/log; echo $1")
    system = System(root, execute=True)
    assert [system.output(["tool", "a"]) for _ in range(3)] == ["a\n"] * 3
    assert system.output(["tool", "b"]) == "b\n"
    assert (root / "log").read_text().count("run") == 2


@pytest.mark.parametrize("count", [8, 20])
def test_all_hanging_programs_together_take_one_limit(root: Path, count: int) -> None:
    script(root, "/usr/bin/tool", "sleep 600")
    system = System(root, seconds=1, execute=True)
    asked = [system.start(["tool", str(i)]) for i in range(count)]
    for future in asked:
        with pytest.raises(Unknown, match=r"no answer within|no time was left"):
            future.result()


def test_programs_one_after_the_other_share_one_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test, on which every program takes four seconds."""
    now, granted = [100.0], list[float]()

    def collect(process: subprocess.Popen[bytes], name: str, seconds: float) -> Completed:
        granted.append(seconds)
        now[0] += 4
        process.wait()
        return Completed(0, "", "")

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "collect", collect)
    script(root, "/usr/bin/tool", "exit 0")
    system = System(root, seconds=5, execute=True)
    for number in range(2):
        system.run(["tool", str(number)])
    with pytest.raises(Unknown, match="tool was not started: no time was left"):
        system.run(["tool", "2"])
    assert granted == [5, 1]


def test_nothing_is_started_after_the_deadline(root: Path) -> None:
    script(root, "/usr/bin/tool", f"touch {root}/ran")
    with pytest.raises(Unknown, match="was not started: no time was left"):
        System(root, seconds=-1, execute=True).run(["tool"])
    assert not (root / "ran").exists()


def test_a_limit_of_its_own(root: Path) -> None:
    script(root, "/usr/bin/tool", "sleep 0.3; echo late")
    system = System(root, seconds=0.1, execute=True)
    assert system.start(["tool"], seconds=5).result().stdout == "late\n"


def test_a_program_does_not_reach_the_terminal(root: Path) -> None:
    done = run(root, "if (: </dev/tty) 2>/dev/null; then echo tty; else echo none; fi")
    assert done.stdout == "none\n"


def test_modes_of_what_is_read_do_not_change(root: Path) -> None:
    """Looking leaves no trace: nothing is created, nothing changes."""
    script(root, "/usr/bin/tool", "echo")

    def state() -> list[tuple[str, int, int]]:
        places = sorted(root.rglob("*"))
        return [(str(p), stat.S_IMODE(p.lstat().st_mode), p.lstat().st_mtime_ns) for p in places]

    before = state()
    system = System(root, execute=True)
    system.text("/etc/name"), system.names("/usr"), system.run(["tool"])
    assert state() == before


@pytest.mark.parametrize("limit", [1, 100, 1 << 16, (1 << 16) + 1, 200_000, 1 << 20])
def test_a_file_is_read_up_to_its_limit(tmp_path: Path, limit: int) -> None:
    content = bytes(range(256)) * 800
    (tmp_path / "file").write_bytes(content)
    assert System(tmp_path, execute=True).bytes("/file", limit) == content[:limit]

"""The command from outside: what it prints, how it ends, what it leaves behind, what it survives."""

from __future__ import annotations

import getpass
import itertools
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SYSTEM_PATH, Doctor

from doctor import __version__
from doctor.facts import AREAS, from_json, to_json

FINDING_KEYS = {"code", "severity", "title", "cause", "evidence", "remedy"}
HANGING = (
    "gcc g++ clang ld cmake ninja ccache git uv patchelf nvidia-smi npu-smi nvcc rustc cargo maturin"
).split()


def reasons(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every unknown value of some facts, as (place, reason)."""
    if isinstance(value, dict):
        for name, reason in value.get("unknown", {}).items():
            yield f"{place}.{name}".lstrip("."), reason
        for name, item in value.items():
            if name != "unknown":
                yield from reasons(item, f"{place}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from reasons(item, f"{place}[{number}]")


# --- the contract -----------------------------------------------------------------------------


def test_bare_command_is_check(doctor: Doctor) -> None:
    bare, spelled = doctor(), doctor("check")
    assert bare.status == spelled.status
    without_sizes = [re.sub(r"[\d.]+ [GMT]B free", "", a.out) for a in (bare, spelled)]
    assert without_sizes[0] == without_sizes[1]
    assert bare.err == ""


def test_options_alone_belong_to_check(doctor: Doctor) -> None:
    assert doctor("--json", "--only", "storage").json["facts"]["storage"]


def test_json_contract(doctor: Doctor) -> None:
    answer = doctor("check", "--json")
    data = answer.json
    assert list(data) == ["schema", "facts", "findings"]
    assert data["schema"] == 1
    assert data["facts"]["tool"] == __version__
    assert data["facts"]["network"] is None and data["facts"]["deep"] is None
    assert set(AREAS) <= set(data["facts"])
    for finding in data["findings"]:
        assert set(finding) == FINDING_KEYS
        assert finding["severity"] in ("error", "warning", "info")
        assert finding["title"] and finding["cause"].endswith(".")
        assert all(isinstance(line, str) and line for line in finding["evidence"])
        assert finding["evidence"], finding["code"]
        assert set(finding["remedy"]) == {"text", "commands"}
        assert finding["remedy"]["text"]
    ranks = [("error", "warning", "info").index(f["severity"]) for f in data["findings"]]
    assert ranks == sorted(ranks), "what blocks training comes first"
    assert answer.err == ""


def test_facts_of_check_load_again(doctor: Doctor) -> None:
    data = doctor("check", "--json").json["facts"]
    assert to_json(from_json(data)) == data


def missing_torch(doctor: Doctor) -> None:
    """A machine with an error: an environment without torch."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", doctor.folder / "env"], check=True
    )
    doctor.env["VIRTUAL_ENV"] = str(doctor.folder / "env")


def test_text_and_json_agree(doctor: Doctor) -> None:
    missing_torch(doctor)
    text, data = doctor("check"), doctor("check", "--json")
    assert text.status == data.status == 1
    codes = [f["code"] for f in data.json["findings"]]
    assert "torch.missing" in codes
    assert all(code in text.out for code in codes)
    assert text.out.rstrip().splitlines()[-1].startswith("Next")


@pytest.mark.parametrize("area", ["host", "storage"])
def test_status_is_0_without_errors(doctor: Doctor, area: str) -> None:
    found = doctor("check", "--json", "--only", area)
    severities = {f["severity"] for f in found.json["findings"]}
    assert found.status == int("error" in severities)
    assert doctor("check", "--only", area).status == found.status


def test_strict_counts_warnings(doctor: Doctor) -> None:
    # a warning that every machine can be given: a file that hides a module of the standard library
    (doctor.folder / "timeit.py").touch()
    words = ("check", "--json", "--only", "python,torch")
    severities = {f["severity"] for f in doctor(*words).json["findings"]}
    assert "warning" in severities
    assert doctor(*words).status == int("error" in severities)
    assert doctor(*words, "--strict").status == 1
    assert doctor("check", "--only", "python,torch", "--strict").status == 1


def test_only_shows_what_was_asked_for(doctor: Doctor) -> None:
    one = doctor("check", "--json", "--only", "host").json["facts"]
    two = doctor("check", "--json", "--only", "host", "--only", "storage").json["facts"]
    comma = doctor("check", "--json", "--only", "host,storage").json["facts"]
    assert {a for a in AREAS if one[a]} == {"host"}
    assert {a for a in AREAS if two[a]} == {a for a in AREAS if comma[a]} == {"host", "storage"}
    lines = doctor("check", "--only", "storage").out.splitlines()
    assert lines[0].split()[1] == "storage"
    assert not any(line[2:].startswith("host ") for line in lines)


def test_only_finds_what_the_whole_finds(doctor: Doctor) -> None:
    whole = {f["code"] for f in doctor("check", "--json").json["findings"]}
    parts = {
        f["code"]
        for area in AREAS
        if area != "network"
        for f in doctor("check", "--json", "--only", area).json["findings"]
    }
    assert whole == parts


@pytest.mark.parametrize(
    "words",
    [
        ("check", "--only", "kitchen"),
        ("check", "--only", "host,kitchen"),
        ("check", "--python", "/nonexistent/python"),
        ("check", "--python", "/"),
        ("check", "--bogus"),
        ("check", "surplus"),
        ("kitchen",),
        ("--root", "/nonexistent", "check"),
        ("--root", "/nonexistent", "check", "--json"),
        ("--root", "/etc/passwd", "facts"),
        ("--root",),
        ("facts", "--json"),
    ],
)
def test_wrong_usage(doctor: Doctor, words: tuple[str, ...]) -> None:
    answer = doctor(*words)
    assert answer.status == 2
    if "--json" in words:
        assert answer.json["error"]["kind"] == "usage"
    else:
        assert answer.out == ""
    assert answer.err.strip()


@pytest.mark.parametrize("word", ["kitchen", "/nonexistent/python"])
def test_wrong_usage_names_the_value(doctor: Doctor, word: str) -> None:
    option = "--python" if "/" in word else "--only"
    assert word in doctor("check", option, word).err


def test_version_and_help(doctor: Doctor) -> None:
    assert doctor("--version").out == f"nanochat-doctor {__version__}\n"
    for words in (("--help",), ("check", "--help"), ("facts", "--help")):
        answer = doctor(*words)
        assert (answer.status, answer.err) == (0, "")
        assert answer.out.startswith("Usage: nanochat-doctor")


# --- colour -----------------------------------------------------------------------------------


def on_a_terminal(doctor: Doctor, **env: str) -> bytes:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "doctor", "check", "--only", "host"],
        cwd=doctor.folder, env=doctor.environment({"TERM": "xterm", **env}),
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:
            break
        if not data:
            break
        written += data
    os.close(ours)
    process.wait(30)
    return written


def test_no_colour_in_a_pipe(doctor: Doctor) -> None:
    assert "\x1b" not in doctor("check").out + doctor("check", "--json").out


def test_colour_on_a_terminal_only(doctor: Doctor) -> None:
    assert b"\x1b[" in on_a_terminal(doctor)
    assert b"\x1b" not in on_a_terminal(doctor, NO_COLOR="1")


# --- facts ------------------------------------------------------------------------------------


def test_facts_load_again(doctor: Doctor) -> None:
    data = doctor("facts").json
    assert to_json(from_json(data)) == data


SECRETS = {
    "host name": socket.gethostname(),
    "user": "quentin-tester",
    "UUID": "GPU-5d1f6a2b-9c8e-4d3f-a1b2-c3d4e5f60718",
    "password": "hunter2secret",
    "token": "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
}
HARMLESS_NAMES = {"localhost", "root", "vm", "host", "ubuntu", "debian"}


def test_facts_name_nobody(doctor: Doctor, tmp_path: Path) -> None:
    home = tmp_path / "home" / SECRETS["user"]
    home.mkdir()
    doctor.home = home
    doctor.env |= {
        "USER": SECRETS["user"],
        "LOGNAME": SECRETS["user"],
        "PIP_INDEX_URL": f"https://{SECRETS['user']}:{SECRETS['password']}@pypi.example/simple",
        "UV_DEFAULT_INDEX": f"https://{SECRETS['token']}@uv.example/simple",
        "CUDA_VISIBLE_DEVICES": SECRETS["UUID"],
        "HF_TOKEN": SECRETS["token"],
        "https_proxy": f"http://{SECRETS['user']}:{SECRETS['password']}@proxy.example:3128",
        "NANOCHAT_BASE_DIR": f"{home}/nanochat",
        "GIT_AUTHOR_NAME": getpass.getuser(),
    }
    # whatever an odd tool says reaches the facts as a reason; it may name names, too
    doctor.program("gcc", f"echo token={SECRETS['token']} on {SECRETS['host name']} >&2; exit 3")
    answer = doctor("facts")
    assert answer.status == 0
    assert "pypi.example" not in answer.out and "https://«private»" in answer.out
    for what, secret in SECRETS.items():
        if secret.lower() not in HARMLESS_NAMES:
            assert secret not in answer.out, what


# --- leaves no trace --------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, float]:
    return {str(p.relative_to(folder)): p.lstat().st_mtime for p in folder.rglob("*")}


@pytest.mark.parametrize("words", [("check",), ("check", "--json"), ("facts",)])
def test_leaves_no_file(doctor: Doctor, tmp_path: Path, words: tuple[str, ...]) -> None:
    (doctor.folder / "mine.txt").write_text("mine")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    missing_torch(doctor)
    before = contents(doctor.folder)
    doctor(
        *words, "--python", str(doctor.folder / "env/bin/python"), env={"TMPDIR": str(temporary)}
    )
    assert contents(doctor.folder) == before
    assert contents(doctor.home) == contents(temporary) == {}


AUDIT = """
import os, runpy, sys
def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (
        os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and str(arguments[0]).startswith(("/dev/null", os.path.dirname(sys.prefix))):
        return
    if writes and "__pycache__" in str(arguments[0]):
        return
    if writes or event.startswith(("socket.connect", "socket.getaddrinfo", "socket.sendto",
            "socket.bind", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.")):
        print("AUDIT", event, arguments, file=sys.stderr)
sys.addaudithook(hook)
sys.argv = ["nanochat-doctor", *sys.argv[1:]]
runpy.run_module("doctor", run_name="__main__")
"""


def test_writes_nothing_and_connects_to_nobody(doctor: Doctor) -> None:
    answer = doctor("check", "--json", python=[sys.executable, "-c", AUDIT])
    assert answer.json["schema"] == 1
    assert answer.err == ""


def test_its_programs_connect_to_nobody(doctor: Doctor, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    trace = tmp_path / "trace"
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode != 0:
        pytest.skip("strace may not trace here")
    wrapped = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace),
               sys.executable, "-m", "doctor"]  # fmt: skip
    doctor("check", python=wrapped)
    assert "AF_INET" not in trace.read_text()


def test_works_without_a_network(doctor: Doctor) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    answer = doctor("check", "--json", python=[unshare, "-rn", sys.executable, "-m", "doctor"])
    assert answer.json["schema"] == 1


# --- bad input --------------------------------------------------------------------------------


def test_python_that_is_no_python(doctor: Doctor) -> None:
    answer = doctor("check", "--json", "--python", "/bin/ls")
    facts = answer.json["facts"]
    assert facts["python"] is None
    assert "/bin/ls" in facts["unknown"]["python"]
    assert facts["host"]["os"]
    text = doctor("check", "--python", "/bin/ls")
    assert text.status == answer.status
    assert "/bin/ls" in text.out


def test_what_could_not_be_examined_is_not_called_fine(doctor: Doctor) -> None:
    answer = doctor("check", "--python", "/bin/ls")
    assert answer.status == 1
    assert "Nothing found that stops training" not in answer.out


def test_the_reason_quotes_what_was_printed(doctor: Doctor) -> None:
    talker = doctor.program("talker", "echo hello from a shell")
    answer = doctor("check", "--json", "--python", str(talker))
    assert "hello from a shell" in answer.json["facts"]["unknown"]["python"]


def test_python_that_cannot_be_started(doctor: Doctor) -> None:
    broken = doctor.program("python-broken", "exit 0")
    broken.write_bytes(b"\x7fELF" + bytes(60))
    answer = doctor("check", "--json", "--python", str(broken))
    assert str(broken) in answer.json["facts"]["unknown"]["python"]


def test_programs_that_hang(doctor: Doctor, tmp_path: Path) -> None:
    """Some by themselves, some by a child that holds their streams."""
    pids = tmp_path / "pids"
    doctor.only_own_programs()
    scripts = itertools.cycle(["exec sleep 60", "sleep 60 & sleep 60"])
    for name, script in zip(HANGING, scripts, strict=False):
        doctor.program(name, f"echo $$ >> {pids}\nPATH={SYSTEM_PATH}\n{script}")
    facts = doctor("check", "--json").json["facts"]
    assert facts["host"]["os"]
    told = dict(reasons(facts))
    assert "gave no answer within 5 s" in told["host.tools.gcc.version"]
    assert {"rust.rustc", "host.tools.git.version"} <= set(told)
    assert facts["storage"] and facts["python"]["version"]
    for pid in map(int, pids.read_text().split()):
        assert not alive(pid), "what hung is ended"


def test_a_driver_tool_that_hangs_is_told(doctor: Doctor) -> None:
    doctor.program("nvidia-smi", "exec sleep 600")
    facts = doctor("check", "--json").json["facts"]
    if facts["nvidia"]["source"] != "nvml":
        assert facts["nvidia"]["smi_error"] == "nvidia-smi gave no answer within 5 s"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and ") Z " in stat.read_text())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (r"printf '\377\376\000\001garbage\200\201\202\203\204\205\206\207'", "no text"),
        ("exec head -c 100000000 /dev/zero", "8 MiB"),
        ("exec yes 1.2.3", "8 MiB"),
        ("echo fatal: something failed", "no version in 'fatal: something failed'"),
        ("echo 12.2.0; exit 1", "ended with status 1"),
        ("echo 12.2.0; kill -9 $$", "ended with status -9"),
        ("exit 0", "no version in ''"),
        ("echo broken installation >&2; exit 127", "status 127: broken installation"),
    ],
)
def test_programs_that_talk_nonsense(doctor: Doctor, script: str, reason: str) -> None:
    doctor.only_own_programs()
    for name in HANGING:
        doctor.program(name, f"PATH={SYSTEM_PATH}\n{script}")
    answer = doctor("check", "--json")
    tool = answer.json["facts"]["host"]["tools"]["gcc"]
    assert tool["version"] is None
    assert reason in tool["unknown"]["version"]
    rules = [f for f in answer.json["findings"] if f["code"] == "doctor.rule-failed"]
    assert rules == []
    assert doctor("check").status == answer.status


def test_shadowing_files_in_the_folder(doctor: Doctor) -> None:
    (doctor.folder / "timeit.py").write_text("raise SystemExit('shadowed')")
    (doctor.folder / "torch").mkdir()
    (doctor.folder / "torch/__init__.py").write_text("raise SystemExit('shadowed')")
    data = doctor("check", "--json").json
    causes = [f["cause"] for f in data["findings"] if f["code"] == "torch.shadowed"]
    assert any("timeit.py" in cause for cause in causes)
    assert data["facts"]["torch"]["import_blocker"] == str(doctor.folder / "torch")


def test_an_empty_folder_named_torch_hides_nothing(doctor: Doctor) -> None:
    (doctor.folder / "torch").mkdir()
    assert doctor("check", "--json").json["facts"]["torch"]["import_blocker"] is None


def test_files_that_hide_what_the_doctor_imports(doctor: Doctor) -> None:
    for name in ("json", "re", "typing", "click"):
        (doctor.folder / f"{name}.py").write_text("raise SystemExit('shadowed')")
    assert doctor("check", "--json").json["schema"] == 1


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "xx_YY"},
        {"LC_ALL": "zh_CN.GB18030", "LANG": "zh_CN.GB18030"},
        {"PATH": ":".join(f"/nonexistent/{i}" for i in range(1000))},
        {"PATH": ""},
        {"HOME": "/nonexistent/home"},
        {"HOME": ""},
        {"HOME": "/proc/1/root/nobody"},
        {"LD_LIBRARY_PATH": ":::/nonexistent:relative:/proc"},
        {"PYTHONPATH": "/nonexistent:/etc/passwd::/proc"},
        {"VIRTUAL_ENV": "/nonexistent"},
        {"NANOCHAT_BASE_DIR": "/dev/null"},
        {"CUDA_HOME": "/etc/passwd", "CUDA_PATH": "x" * 5000},
        {"CUDA_VISIBLE_DEVICES": ",,-1,zzz,99999999999999999999"},
        {"ASCEND_RT_VISIBLE_DEVICES": "a,b"},
        {"PIP_CONFIG_FILE": "/dev/null", "TORCH_LOCAL_PATH": "/etc/passwd"},
        {"COLUMNS": "1"},
    ],
    ids=lambda env: " ".join(env),
)
def test_odd_environments(doctor: Doctor, env: dict[str, str]) -> None:
    text, data = doctor("check", env=env), doctor("check", "--json", env=env)
    assert data.json["facts"]["host"]["os"]
    assert text.status == data.status
    assert text.err == data.err == ""
    assert "doctor.rule-failed" not in [f["code"] for f in data.json["findings"]]


@pytest.mark.parametrize("words", [("check",), ("check", "--json"), ("facts",)])
def test_names_that_are_no_text(doctor: Doctor, words: tuple[str, ...]) -> None:
    folder = os.fsdecode(os.fsencode(str(doctor.folder)) + b"/\xff\xfe")
    answer = doctor(*words, env={"NANOCHAT_BASE_DIR": folder})
    assert "failed unexpectedly" not in answer.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_terminals_that_know_no_unicode(doctor: Doctor, encoding: str) -> None:
    answer = doctor("check", "--only", "host", env={"PYTHONIOENCODING": encoding})
    assert "failed unexpectedly" not in answer.err
    assert " host" in answer.out


def test_empty_environment(doctor: Doctor) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "doctor", "--json"], env={}, cwd=doctor.folder, capture_output=True
    )
    assert json.loads(done.stdout)["schema"] == 1
    assert done.stderr == b""


# --- modules ----------------------------------------------------------------------------------


def test_imports_are_light(doctor: Doctor) -> None:
    code = "import doctor, doctor.cli.main, sys; print(*sorted(sys.modules))"
    loaded = set(doctor(python=[sys.executable, "-c", code]).out.split())
    assert "doctor.cli.main" in loaded
    assert not loaded & {"torch", "numpy", "requests", "psutil", "rich", "jinja2", "pynvml"}


# --- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["check", "check --json", "facts", "--help"])
def test_a_reader_that_goes_away(doctor: Doctor, words: str) -> None:
    script = f"{sys.executable} -m doctor {words} | head -n 1"
    answer = doctor(python=["/bin/sh", "-c", script])
    assert answer.err == ""
    assert len(answer.out.splitlines()) == 1


@pytest.mark.parametrize("words", ["check", "check --json"])
def test_closed_streams(doctor: Doctor, words: str) -> None:
    script = f"{sys.executable} -m doctor {words} --only storage >&-"
    assert doctor(python=["/bin/sh", "-c", script]).err.count("\n") <= 1


def test_full_disk(doctor: Doctor) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    answer = doctor(python=["/bin/sh", "-c", f"{sys.executable} -m doctor check > /dev/full"])
    assert answer.status == 1
    assert "No space left" in answer.err


def test_an_interrupt_ends_what_was_started(doctor: Doctor, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    doctor.only_own_programs()
    doctor.program("gcc", f"echo $$ > {note}.tmp; /bin/mv {note}.tmp {note}; exec /bin/sleep 600")
    process = subprocess.Popen(
        [sys.executable, "-m", "doctor"], cwd=doctor.folder, env=doctor.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not note.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    while alive(int(note.read_text())):  # for the 600 s that it would go on, if need be
        time.sleep(0.02)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(doctor: Doctor, tmp_path: Path, signal_number: int) -> None:
    started = tmp_path / "started"
    doctor.only_own_programs()
    doctor.program(
        "gcc", f"echo $$ > {started}.tmp; /bin/mv {started}.tmp {started}; exec /bin/sleep 600"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "doctor", "check"], cwd=doctor.folder, env=doctor.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not started.exists():
        time.sleep(0.02)
    process.send_signal(signal_number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    if signal_number == signal.SIGINT:
        assert (process.returncode, err.strip()) == (130, "Interrupted.")
    else:
        assert process.returncode == -signal.SIGTERM

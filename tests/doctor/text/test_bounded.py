"""Input that is too large, endless or damaged: one sentence, bounded memory, and nothing is believed of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Doctor
from hostile import KINDS, PLACES
from hypothesis import given, settings
from hypothesis import strategies as st
from verdicts import TABLES

from doctor.cli.decision import decide, read_facts, target_of
from doctor.errors import DoctorError, Unknown, WrongUsage
from doctor.facts import Facts, Gpu, Host, Nvidia, Python, from_json, to_json
from doctor.knowledge.versions import cann_key, older, parts
from doctor.launch.render import write
from doctor.machine.look import number
from doctor.machine.system import System
from doctor.planner.decide import plan
from doctor.planner.terms.plan import Wishes
from doctor.probe.survey import survey
from doctor.text.bounded import parse_json, read_bounded
from doctor.text.visible import visible

HUGE = "1" + "0" * 400
TEXTS = {
    "nested lists": "[" * 200_000,
    "nested objects": '{"a":' * 200_000,
    "nested and closed": '{"schema": 1, "host": ' + "[" * 200_000 + "]" * 200_000 + "}",
    "whole number": f'{{"schema": 1, "host": {{"cores": {HUGE}}}}}',
    "schema": f'{{"schema": {HUGE}}}',
    "decimal": '{"schema": 1, "host": {"cgroup_cpu_limit": 1e400}}',
    "NaN": '{"schema": 1, "host": {"cgroup_cpu_limit": NaN}}',
    "Infinity": '{"schema": 1, "host": {"cores": -Infinity}}',
    "digits": f'{{"schema": 1, "host": {{"cores": {"9" * 5000}}}}}',
    "version": f'{{"schema": 1, "nvidia": {{"driver_version": "{"9" * 5000}"}}}}',
    "key": f'{{"schema": 1, "{"k" * 5000}": 1}}',
    "twice": '{"schema": 1, "host": null, "host": {}}',
    "negative": '{"schema": 1, "host": {"cores": -4}}',
    "memory": '{"schema": 1, "nvidia": {"gpus": [{"index": 0, "memory_total": 99999999999999999999}]}}',
    "many": json.dumps({"schema": 1, "nvidia": {"gpus": [{"index": i} for i in range(9000)]}}),
    "bytes": "\udcff\udcfe{}",
    "empty": "",
    "word": "nonsense",
    "text": '"facts"',
    "list": "[]",
    "null": "null",
    "escapes": '{"schema": 1, "\\u001b]0;x\\u0007": 1}',
    "large": '{"schema": 1, "x": "' + "x" * (5 << 20) + '"}',
}


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_is_more_than_a_sentence(tmp_path: Path, name: str) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(TEXTS[name].encode(errors="surrogateescape"))
    with pytest.raises(DoctorError) as told:
        read_facts(file)
    said = str(told.value)
    assert len(said) < 400 + len(str(file))
    assert "\n" not in said and said.endswith(".")


PATHS = [
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
    "/",
    "fifo",
    "sparse",
    "absent",
    "link",
    "socket",
]


@pytest.mark.parametrize("place", PATHS)
def test_no_place_is_read_without_end(tmp_path: Path, place: str) -> None:
    path = Path(place) if place.startswith("/") else tmp_path / place
    if place == "fifo":
        os.mkfifo(path)
    elif place == "sparse":
        with path.open("wb") as file:
            file.truncate(10 << 30)
    elif place == "link":
        path.symlink_to("/dev/zero")
    elif place == "socket":
        import socket

        socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(DoctorError, match="cannot be read"):
        read_facts(path)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    said = json.dumps(to_json(Facts()))
    writer = subprocess.Popen(["sh", "-c", f"sleep 0.1; printf %s '{said}' >'{fifo}'"])
    with open(os.open(fifo, os.O_RDONLY), "rb") as ours:
        assert parse_json(
            read_bounded(Path(f"/dev/fd/{ours.fileno()}"), 1 << 20, pipe=True)
        ) == to_json(Facts())
    writer.wait()


def test_the_command_says_it_and_leaves(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text(TEXTS["nested lists"])
    limited = ["sh", "-c", 'ulimit -v 4000000; exec "$0" -m doctor "$@"', sys.executable]
    answer = doctor("plan", "--facts", str(file), python=limited)
    assert answer.status == 1
    assert "nested too deeply" in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["etc/environment", "etc/os-release", "proc/meminfo", "usr/local/cuda/version.json",
                                  "usr/local/cuda/include/cuda.h", "root/.config/pip/pip.conf"])  # fmt: skip
def test_files_of_a_tree(tmp_path: Path, file: str, kind: str) -> None:
    (tmp_path / "usr/local/cuda/bin").mkdir(parents=True)
    (tmp_path / "usr/local/cuda/bin/nvcc").touch()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](tmp_path / file)
    facts = survey(System(tmp_path), TABLES, areas={"host", "nvidia"})
    assert facts.host is not None and facts.nvidia is not None, facts.unknown


@pytest.mark.parametrize("kind", PLACES)
def test_files_that_are_rendered_over(tmp_path: Path, kind: str) -> None:
    PLACES[kind](tmp_path / "env.sh")
    with pytest.raises(DoctorError, match=r"env.sh is there and cannot be read .* with -o\.$"):
        write({"env.sh": "x\n"}, tmp_path)
    assert os.path.lexists(tmp_path / "env.sh")


# --- interpreters that are none --------------------------------------------------------------------

NO_PYTHONS = {
    "a text": ("hello\n", 0o644),
    "a text that may be run": ("hello\n", 0o755),
    "no program": ("\0\1\2", 0o755),
    "silent": ("#!/bin/sh\n", 0o755),
    "endless lines": ("#!/bin/sh\nyes\n", 0o755),
    "endless zeros": ("#!/bin/sh\ncat /dev/zero\n", 0o755),
    "endless errors": ("#!/bin/sh\nyes >&2\n", 0o755),
    "nested": ("#!/bin/sh\nyes '[' | head -c 400000 | tr -d '\\n'\n", 0o755),
    "escapes": ("#!/bin/sh\nprintf '\\033]0;x\\007'\nexit 3\n", 0o755),
    "hangs": ("#!/bin/sh\nsleep 60\n", 0o755),
    "a link to nothing": ("/nowhere", 0),
}


@pytest.mark.parametrize("venv", [False, True], ids=["alone", "in a venv"])
@pytest.mark.parametrize("name", NO_PYTHONS)
def test_nothing_is_planned_for_what_is_no_python(tmp_path: Path, name: str, venv: bool) -> None:
    text, mode = NO_PYTHONS[name]
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    if mode:
        python.write_text(text)
        python.chmod(mode)
    else:
        python.symlink_to(text)
    if venv:
        (tmp_path / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
        (tmp_path / "venv" / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    with pytest.raises(WrongUsage) as told:
        decide(System(seconds=1), Wishes(), python=str(python), offline=True)
    said = str(told.value)
    assert str(python) in said and said.endswith("; name another with --python.")
    assert visible(said).isprintable() and len(said) < 400 + 2 * len(str(python))


# --- versions and counts of a tree ----------------------------------------------------------------


def test_versions_without_end() -> None:
    long = "9" * 5000
    assert parts(f"{long}.1")[1] == 1
    assert older("580.95.05", f"{long}.1")
    assert cann_key(f"8.2.RC{long}") > cann_key("8.2.RC1")
    assert number(long) is None and number(f"{long} MiB") is None


# --- any value in any field -----------------------------------------------------------------------

WHOLE = to_json(
    Facts(
        host=Host(os="Linux", arch="x86_64", cores=8, memory_total=64000, distro_id="ubuntu", libc="glibc",
                  libc_version="2.39"),
        python=Python(executable="/opt/venv/bin/python", version="3.12.3", prefix="/opt/venv",
                      packages={"torch": "2.9.1"}),
        nvidia=Nvidia(driver_version="580.95.05", gpus=(Gpu(index=0, compute_capability="12.0", memory_total=32607),),
                      visible=(0,)),
    )
)  # fmt: skip


def fields(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of all values in some JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in items:
        found.append((*path, key))
        if isinstance(item, (dict, list)):
            found += fields(item, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value in one place."""
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return copy


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.just("9" * 5000), st.just(10**400),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
    st.sampled_from(["", "-1", "0", "12.0a", "9.9.9.9.9.9", "١٢", "∞", "1e9", "v", ".", "+", "2.9.1+", "[", "x y"]),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(fields(WHOLE)), ODD)
def test_any_value_in_any_field_makes_a_plan_or_a_sentence(path: tuple[Any, ...], odd: Any) -> None:
    try:
        facts = from_json(put(WHOLE, path, odd))
    except DoctorError as error:
        said = str(error)
        assert said.endswith(".") and "\n" not in said and len(said) < 300
        assert str(path[0]) in said or "schema" in said
        return
    made = plan(facts, TABLES, Wishes(), target_of(facts))
    assert made.route


@pytest.mark.parametrize(
    "area", ["host", "python", "nvidia", "ascend", "torch", "rust", "storage", "network", "deep"]
)
@pytest.mark.parametrize("odd", [1, "x", [], True, {"unknown": 1}, {"nonsense": 1}])
def test_the_field_is_named(area: str, odd: Any) -> None:
    with pytest.raises(DoctorError, match=f"facts.{area}"):
        from_json({"schema": 1, area: odd})


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_sentence(data: bytes) -> None:
    try:
        parse_json(data)
    except Unknown as error:
        assert str(error)

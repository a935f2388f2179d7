"""A torch that crashes, hangs, raises or babbles when it is used is a result, and a finding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doctor.checkout import payload
from doctor.errors import Unknown
from doctor.facts import Deep, DeepCheck, Facts, Python, Torch, TorchBuild
from doctor.findings.rules.examine import examine
from doctor.knowledge.tables import Tables
from doctor.machine.system import Completed, System
from doctor.probe.torch import deep

MakeTorch = Callable[[str], str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


@pytest.fixture
def with_torch(environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeTorch:
    """Gives the environment a package named torch with this text, and returns its interpreter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def make(text: str) -> str:
        package = next(environment.glob("lib/python3*/site-packages")) / "torch"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(text)
        return str(environment / "bin" / "python")

    return make


def facts(python: str, found: Deep | None = None) -> Facts:
    build = TorchBuild(path="/env/torch", version="2.99.0", built=True)
    return Facts(python=Python(executable=python), torch=Torch(installed=build), deep=found)


def run(python: str) -> tuple[DeepCheck, ...]:
    """All experiments with an interpreter."""
    return deep.probe(System(), facts(python)).checks


def codes(python: str, checks: tuple[DeepCheck, ...]) -> dict[str, str]:
    """Code -> cause of the findings that are about experiments."""
    findings = examine(facts(python, Deep(checks=checks)), Tables())
    return {f.code: f.cause for f in findings if f.evidence[0].startswith("check --deep")}


WORKING = """
__version__ = "2.99.0"
class _Backends: pass
backends = _Backends()
class cuda:
    @staticmethod
    def is_available(): return False
"""

CRASHES = {
    "segmentation fault": ("import ctypes\nctypes.string_at(0)\n", "SIGSEGV"),
    "abort": ("import os\nos.abort()\n", "SIGABRT"),
    "killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "SIGKILL"),
    "raises": ("raise OSError('libcudart.so.13: cannot open')\n", "OSError: libcudart.so.13: cannot"),
    "import error": ("import torch_of_dreams\n", "No module named 'torch_of_dreams'"),
    "syntax error": ("def (:\n", "SyntaxError"),
    "ends early": ("import os\nos._exit(0)\n", "status 0"),
    "ends with a status": ("import os, sys\nsys.stderr.write('driver gone')\nsys.stderr.flush()\n"
                           "os._exit(7)\n", "status 7: driver gone"),
    "exits": ("raise SystemExit(3)\n", "status 3"),
    "exits in silence": ("raise SystemExit\n", "status 0"),
    "fork bomb of text": ("while True: print('x' * 65536)\n", "8 MiB"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "how"), CRASHES.values(), ids=list(CRASHES))
def test_how_an_import_ends(with_torch: MakeTorch, text: str, how: str) -> None:
    python = with_torch(text)
    checks = run(python)
    assert [(c.name, c.ok) for c in checks] == [("import", False)]
    assert how in checks[0].detail
    assert set(codes(python, checks)) == {"torch.import-fails"}
    assert how in codes(python, checks)["torch.import-fails"]


def test_an_import_that_hangs(with_torch: MakeTorch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "KERNEL_SECONDS", 1.0)
    python = with_torch("import time\ntime.sleep(600)\n")
    checks = run(python)
    assert [(c.name, c.ok) for c in checks] == [("import", False)]
    assert "no answer within 1 s" in checks[0].detail
    assert set(codes(python, checks)) == {"torch.import-fails"}


def test_a_child_that_outlives_the_import(
    with_torch: MakeTorch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What hangs is ended together with all that it started."""
    monkeypatch.setattr(deep, "KERNEL_SECONDS", 2.0)
    note = tmp_path / "pid"
    python = with_torch(
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    run(python)
    time.sleep(0.2)
    state = Path(f"/proc/{note.read_text()}/stat")
    assert not state.exists() or ") Z " in state.read_text()


def test_garbage_beside_the_results(with_torch: MakeTorch) -> None:
    python = with_torch(
        'import sys\nsys.stdout.buffer.write(b\'\\xff\\xfe\\x00 {"name": 1}\\n{"name"\\n\')\n'
        'print(\'Welcome to torch\'); print(\'{"name": "import", "ok": \')\n' + WORKING
    )
    checks = run(python)
    found = {c.name: c for c in checks}
    assert found["import"].ok is True
    assert found["devices"].detail == "cpu"
    # this torch has no dtypes, so each product fails with what torch said
    assert found["matmul cpu float32"].ok is False
    assert "AttributeError" in found["matmul cpu float32"].detail


def test_a_crash_after_the_import(with_torch: MakeTorch) -> None:
    python = with_torch(WORKING.replace("return False", "import os; os.kill(os.getpid(), 11)"))
    checks = run(python)
    assert checks[0].name == "import" and checks[0].ok is True
    last = next(c for c in checks if c.ok is False)
    assert (last.name, "SIGSEGV" in last.detail) == ("after import", True)
    assert codes(python, checks)


def test_an_exception_from_device_listing(with_torch: MakeTorch) -> None:
    python = with_torch(WORKING.replace("return False", "raise RuntimeError('CUDA driver: 804')"))
    found = {c.name: c for c in run(python)}
    assert found["devices"].ok is False
    assert "CUDA driver: 804" in found["devices"].detail


def test_no_torch_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "e")], check=True)
    checks = run(str(tmp_path / "e/bin/python"))
    assert [(c.name, c.ok) for c in checks] == [("import", False)]
    assert "No module named 'torch'" in checks[0].detail


@pytest.mark.parametrize("python", ["/nonexistent/python", "/bin/ls", "/etc/passwd"])
def test_what_is_no_python(python: str) -> None:
    checks = run(python)
    assert [(c.name, c.ok) for c in checks] == [("import", False)]
    assert checks[0].detail


def test_nothing_runs_below_a_root(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="--root"):
        deep.probe(System(tmp_path), facts("/usr/bin/python3"))


def test_nothing_runs_without_a_python() -> None:
    with pytest.raises(Unknown):
        deep.probe(System(), Facts())


# --- pure parts -------------------------------------------------------------------------------


def line(**values: object) -> str:
    return json.dumps({"name": "n", "ok": True, "detail": "d", "seconds": 0.1} | values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"name"',
        '{"name": "x"}',
        '{"name": "x", "ok": true, "detail": "d"}',
        '{"name": null}[]',
        "\x00\ufffd",
        '{"name": ' * 20000,
    ],
)
def test_lines_that_are_no_results(text: str) -> None:
    assert deep.read_results(text) == []
    assert len(deep.read_results(f"{text}\n{line()}\n{text}")) == 1


@pytest.mark.parametrize(
    "values", [{"ok": "yes"}, {"seconds": "long"}, {"seconds": [1]}, {"ok": 1}]
)
def test_results_of_a_wrong_type(values: dict[str, object]) -> None:
    assert deep.read_results(line(**values)) == []


@pytest.mark.parametrize(
    ("status", "err", "said"),
    [
        (-signal.SIGSEGV, "", "the process was ended by SIGSEGV"),
        (-signal.SIGSEGV, "a\nb\n", "the process was ended by SIGSEGV: b"),
        (-250, "", "the process was ended by signal 250"),
        (1, "Traceback\nOSError: no", "the process ended with status 1: OSError: no"),
        (0, "", "the process ended with status 0"),
        (1, "x" * 5000, "the process ended with status 1: " + "x" * 300),
    ],
)
def test_how_it_ended(status: int, err: str, said: str) -> None:
    assert deep.how_it_ended(Completed(status, "", err)) == said


def test_the_script_needs_nothing_of_ours() -> None:
    """It runs in an interpreter that has no nanochat-doctor: isolated, without site-packages."""
    script = payload("deep_check")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "kernels"], capture_output=True, text=True
    )
    assert json.loads(done.stdout)["name"] == "import"
    assert done.stderr == "" and os.path.exists(script)

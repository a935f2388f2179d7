"""The launcher, run for real: a copy of it beside a tiny project that installs without a network.

PATH holds only what a test puts there, so that each test decides which machine this is. The tiny
project carries its own build backend; everything else (sh, Python, pip, uv) is the real thing.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
LAUNCHER = REPO / "nanochat-doctor"
BASE_PYTHON = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]

PLUMBING = "sh cat mkdir rm rmdir mv uname sleep tail grep df readlink".split()
"""What a small system has; the launcher may use nothing else."""

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "nanochat-doctor"
version = "0"
dependencies = []
[project.optional-dependencies]
test = []
train = []
"""

BACKEND = '''
"""The smallest build backend: an editable wheel with one command and two empty extras."""
import pathlib, zipfile

INFO = "nanochat_doctor-0.dist-info"
REQUIRES = []

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "nanochat_doctor-0-py3-none-any.whl"
    wheel = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files = {
        "nanochat_doctor.pth": str(pathlib.Path.cwd()) + "\\n",
        INFO + "/METADATA": "Metadata-Version: 2.1\\nName: nanochat-doctor\\nVersion: 0\\n"
        "Provides-Extra: test\\nProvides-Extra: train\\n"
        + "".join("Requires-Dist: %s\\n" % one for one in REQUIRES),
        INFO + "/WHEEL": wheel,
        INFO + "/entry_points.txt": "[console_scripts]\\nnanochat-doctor = command:main\\n",
    }
    files[INFO + "/RECORD"] = "".join(one + ",,\\n" for one in files) + INFO + "/RECORD,,\\n"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
'''

COMMAND = """
import sys

def main():
    print("ran", sys.argv[1:])
    return 7 if "fail" in sys.argv else 0
"""


@dataclass
class Machine:
    """A checkout and the programs that its launcher can find."""

    checkout: Path
    bin: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        return self.checkout / ".venv"

    @property
    def leftovers(self) -> set[str]:
        return {path.name for path in self.checkout.glob(".venv*")}

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python(self, name: str = "python3") -> None:
        self.program(name, f'exec "{BASE_PYTHON}" "$@"')

    def uv(self) -> None:
        beside = Path(sys.executable).with_name("uv")
        found = str(beside) if beside.exists() else shutil.which("uv")
        if found is None:
            pytest.skip("uv is not installed")
        (self.bin / "uv").symlink_to(found)

    def environment(self, **changes: str) -> dict[str, str]:
        return {"PATH": str(self.bin), **self.env, **changes}

    def start(
        self, *args: str, launcher: Path | None = None, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(launcher or self.checkout / "nanochat-doctor"), *args],
            env=self.environment(**env),
            cwd=cwd or "/",
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    def background(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.checkout / "nanochat-doctor"), *args],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Plumbing only: no Python and no uv yet. The path has a space in it, as some homes do."""
    checkout = tmp_path / "a folder" / "nanochat"
    checkout.mkdir(parents=True)
    shutil.copy(LAUNCHER, checkout)
    (checkout / "pyproject.toml").write_text(PYPROJECT)
    (checkout / "backend.py").write_text(BACKEND)
    (checkout / "command.py").write_text(COMMAND)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PLUMBING:
        found = shutil.which(name)
        assert found is not None, f"{name} is missing on this machine"
        (folder / name).symlink_to(found)
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "HOME": str(home),
        "PIP_NO_INDEX": "1",
        "PIP_RETRIES": "0",
        "PIP_NO_COMPILE": "1",
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(home / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
    }
    return Machine(checkout, folder, env)


@pytest.fixture
def ready(machine: Machine) -> Machine:
    """A machine with a Python and uv, on which the launcher has been started once."""
    machine.python()
    machine.uv()
    first = machine.start()
    assert first.returncode == 0, first.stderr
    return machine


def assert_refused(machine: Machine, result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status 1, one closing sentence with these words, and nothing left behind."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("nanochat-doctor: ")
    for word in words:
        assert word in last
    assert ".venv.lock" not in machine.leftovers


# ---- the way it should go ----


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_first_and_second_start(machine: Machine, installer: str, tmp_path: Path) -> None:
    machine.python()
    for module in ("os", "random", "zipfile", "venv", "pip"):  # not to be imported from here
        (tmp_path / f"{module}.py").write_text("raise SystemExit('shadowed')")
    if installer == "uv":
        machine.uv()
    first = machine.start("check", "--root", "a b", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "ran ['check', '--root', 'a b']\n"
    assert "making an environment" in first.stderr
    assert machine.leftovers == {".venv"}
    assert (machine.venv / "pyvenv.cfg").read_text().count("uv = ") == (installer == "uv")

    # With nothing to do, `cat` is the only program that is needed: no Python, no pip, no uv.
    for path in machine.bin.iterdir():
        if path.name != "cat":
            path.unlink()
    second = machine.start("facts")
    assert (second.returncode, second.stdout, second.stderr) == (0, "ran ['facts']\n", "")


def test_exit_status_is_that_of_the_command(ready: Machine) -> None:
    assert ready.start("fail").returncode == 7


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox", "zsh", "ksh"])
def test_under_every_shell(machine: Machine, shell: str) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    machine.python()
    machine.uv()
    applet = ["sh"] if shell == "busybox" else ["--emulate", "sh"] if shell == "zsh" else []
    command = [found, *applet, str(machine.checkout / "nanochat-doctor"), "check"]
    for _ in range(2):
        result = subprocess.run(
            command, env=machine.environment(), capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout) == (0, "ran ['check']\n"), result.stderr


def test_through_links_and_from_anywhere(ready: Machine, tmp_path: Path) -> None:
    real = ready.checkout / "nanochat-doctor"
    (tmp_path / "links").mkdir()
    absolute = tmp_path / "links" / "absolute"
    absolute.symlink_to(real)
    relative = tmp_path / "relative link"
    relative.symlink_to(Path("links") / "absolute")
    for launcher in (real, absolute, relative, Path("relative link"), Path("./relative link")):
        env = {"PATH": f"{ready.bin}:."}
        result = ready.start("x", launcher=launcher, cwd=tmp_path, **env)
        assert (result.stdout, result.stderr) == ("ran ['x']\n", ""), launcher


def test_a_second_start_costs_little(ready: Machine) -> None:
    def median(program: Path) -> float:
        seconds = []
        for _ in range(15):
            began = time.perf_counter()
            subprocess.run([program], env=ready.environment(), stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    direct = median(ready.venv / "bin" / "nanochat-doctor")
    assert median(ready.checkout / "nanochat-doctor") - direct <= 0.030


# ---- out of date ----


def test_changed_requirements_are_installed_once(ready: Machine) -> None:
    kept = ready.venv / "somebody's torch"
    kept.touch()
    with (ready.checkout / "pyproject.toml").open("a") as file:
        file.write("# another line\n")
    again = ready.start("x")
    assert again.stdout == "ran ['x']\n"
    assert "installing" in again.stderr
    assert "making an environment" not in again.stderr
    assert ready.start("x").stderr == ""
    assert kept.exists()


def test_a_moved_checkout_installs_again(ready: Machine, tmp_path: Path) -> None:
    kept = Path("kept")
    (ready.venv / kept).touch()
    moved = ready.checkout.rename(tmp_path / "moved")
    there = Machine(moved, ready.bin, ready.env)
    again = there.start("x")
    assert (again.returncode, again.stdout) == (0, "ran ['x']\n"), again.stderr
    assert (there.venv / kept).exists()
    assert there.start("x").stderr == ""


def test_extras_and_selftest(ready: Machine) -> None:
    selftest = ready.start("selftest", "-k", "cards")
    assert selftest.stdout == "ran ['selftest', '-k', 'cards']\n"
    assert "with extras test" in selftest.stderr
    assert ready.start("selftest").stderr == ""
    assert "with extras train,test" in ready.start("selftest", NANOCHAT_EXTRAS="train").stderr
    assert ready.start("check").stderr == ""


def test_selftest_first_leaves_nothing_to_do_for_check(machine: Machine) -> None:
    machine.python()
    machine.uv()
    assert machine.start("selftest").returncode == 0
    assert machine.start("check").stderr == ""


def test_environment_elsewhere(machine: Machine, tmp_path: Path) -> None:
    machine.python()
    machine.uv()
    result = machine.start("x", cwd=tmp_path, NANOCHAT_VENV="some where/venv")
    assert result.stdout == "ran ['x']\n", result.stderr
    assert (tmp_path / "some where" / "venv" / "pyvenv.cfg").exists()
    assert machine.leftovers == set()


def test_environment_of_uv_is_kept_up_by_pip(ready: Machine) -> None:
    """uv puts no pip into an environment; a later start may find no uv."""
    (ready.bin / "uv").unlink()
    (ready.checkout / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    again = ready.start("x")
    assert (again.returncode, again.stdout) == (0, "ran ['x']\n"), again.stderr


# ---- broken, half-made, somebody else's ----


def test_an_environment_whose_python_is_gone_is_made_again(ready: Machine) -> None:
    python = ready.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.10")
    again = ready.start("x")
    assert (again.returncode, again.stdout) == (0, "ran ['x']\n"), again.stderr
    assert "no longer works" in again.stderr


def test_a_folder_that_is_no_environment_is_left_alone(machine: Machine) -> None:
    machine.python()
    machine.venv.mkdir()
    thesis = machine.venv / "thesis.tex"
    thesis.touch()
    assert_refused(machine, machine.start(), str(machine.venv), "NANOCHAT_VENV")
    assert thesis.exists()


def test_an_environment_of_an_old_python_is_left_alone(ready: Machine) -> None:
    (ready.checkout / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    python = ready.venv / "bin" / "python"
    python.unlink()
    python.write_text("#!/bin/sh\nexit 10\n")
    python.chmod(0o755)
    assert_refused(ready, ready.start(), "older than 3.10", "NANOCHAT_VENV")
    assert python.exists()


def slow_uv(machine: Machine) -> None:
    """A uv that is caught in the middle of making an environment."""
    machine.program("uv", f'[ "$1" = venv ] && mkdir "{machine.venv}" && exec sleep 60; exit 0')


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_while_making(machine: Machine, sign: signal.Signals) -> None:
    machine.python()
    slow_uv(machine)
    start = machine.background()
    wait_for(machine.venv.exists)
    os.killpg(start.pid, sign)
    start.communicate(timeout=20)
    if sign == signal.SIGKILL:  # nobody could tidy up; the next start does
        assert (machine.venv.parent / ".venv.lock" / "making").exists()
    else:
        assert start.returncode == 128 + sign
        assert machine.leftovers == set()
    (machine.bin / "uv").unlink()
    machine.uv()
    again = machine.start("x")
    assert (again.returncode, again.stdout) == (0, "ran ['x']\n"), again.stderr
    assert machine.leftovers == {".venv"}


def test_starts_at_the_same_time(machine: Machine) -> None:
    machine.python()
    machine.uv()
    starts = [machine.background(str(number)) for number in range(4)]
    results = [start.communicate(timeout=60) for start in starts]
    assert [out for out, _ in results] == [f"ran ['{number}']\n" for number in range(4)], results
    assert sum("installing nanochat-doctor" in err for _, err in results) == 1
    assert machine.leftovers == {".venv"}


def test_an_abandoned_lock_is_taken_over_by_one(machine: Machine) -> None:
    machine.python()
    machine.uv()
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock = machine.checkout / ".venv.lock"
    lock.mkdir()
    (lock / "owner").write_text(f"{dead.pid} on {os.uname().nodename}\n")
    starts = [machine.background() for _ in range(4)]
    results = [start.communicate(timeout=60) for start in starts]
    assert {out for out, _ in results} == {"ran []\n"}, results
    assert sum("installing nanochat-doctor" in err for _, err in results) == 1
    assert machine.leftovers == {".venv"}


@pytest.mark.parametrize("owner", ["{pid} on {here}", "1 on another-node-of-the-cluster"])
def test_a_lock_that_may_be_held_is_respected(machine: Machine, owner: str) -> None:
    machine.python()
    lock = machine.checkout / ".venv.lock"
    lock.mkdir()
    text = owner.format(pid=os.getpid(), here=os.uname().nodename)
    (lock / "owner").write_text(text + "\n")
    result = machine.start(NANOCHAT_LOCK_SECONDS="1")
    assert result.returncode == 1
    assert text in result.stderr
    assert f"remove {lock}" in result.stderr
    assert lock.exists()


# ---- what can be missing ----


def test_no_python(machine: Machine) -> None:
    result = machine.start("check")
    assert_refused(machine, result, "no Python 3.10 or newer", "none at all", "NANOCHAT_PYTHON=")
    assert machine.leftovers == set()


def test_python_too_old(machine: Machine) -> None:
    machine.program("python3", "echo old 3.8 venv /usr/bin/python3.8")
    machine.program("python", "echo old 2.7 no-venv /usr/bin/python2.7")
    machine.program("apt-get", "exit 1")
    result = machine.start("check")
    assert_refused(machine, result, "python3 is 3.8, python is 2.7", "apt-get install python3")
    named = machine.start(NANOCHAT_PYTHON="python3")
    assert_refused(machine, named, "NANOCHAT_PYTHON=python3 is Python 3.8")


def test_python_that_does_not_run(machine: Machine) -> None:
    machine.program("python3", "echo 'no such version' >&2; exit 127")
    assert_refused(machine, machine.start(), "none at all")
    assert_refused(machine, machine.start(NANOCHAT_PYTHON="/no/python"), "/no/python", "no Python")


def without_venv(machine: Machine, name: str, *, pip: bool = False) -> None:
    """A real Python that cannot import ensurepip, nor pip or virtualenv, as Debian ships it."""
    hidden = ["ensurepip", "virtualenv", *([] if pip else ["pip"])]
    hide = f"import sys; sys.modules.update(dict.fromkeys({hidden})); exec(sys.argv[1])"
    machine.program(name, f'shift; exec "{BASE_PYTHON}" -c "{hide}" "$@"')


def test_no_venv_module(machine: Machine) -> None:
    without_venv(machine, "python3")
    machine.program("apt-get", "exit 1")
    package = f"python3.{sys.version_info.minor}-venv"
    assert_refused(machine, machine.start(), "venv module", f"apt-get install {package}", "uv")
    assert machine.leftovers == set()


def test_pip_without_venv_takes_virtualenv(machine: Machine, tmp_path: Path) -> None:
    """The Python's own pip fetches it into a folder that is gone afterwards."""
    without_venv(machine, "python3", pip=True)
    if subprocess.run([BASE_PYTHON, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this Python has no pip")
    made = "import sys, venv\nvenv.create(sys.argv[-1], with_pip=True, symlinks=True)\n"
    info = "virtualenv-1.dist-info"
    with zipfile.ZipFile(tmp_path / "virtualenv-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("virtualenv/__init__.py", "")
        wheel.writestr("virtualenv/__main__.py", made)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: virtualenv\nVersion: 1\n")
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    machine.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    result = machine.start("x")
    assert (result.returncode, result.stdout) == (0, "ran ['x']\n"), result.stderr
    assert machine.leftovers == {".venv"}


def test_root_needs_no_sudo(machine: Machine) -> None:
    without_venv(machine, "python3")
    machine.program("apt-get", "exit 1")
    for number, words in (("0", "(apt-get install"), ("1000", "(sudo apt-get install")):
        machine.program("id", f"echo {number}")
        assert_refused(machine, machine.start(), words)


@pytest.mark.parametrize("said", ["", "-c import", "fits 3.12 venv nowhere"])
def test_a_program_that_is_no_python(machine: Machine, said: str) -> None:
    """/bin/echo and /bin/true end well whatever they are asked."""
    machine.program("echo-like", f"echo '{said}'")
    machine.program("python3", f"echo '{said}'")
    named = machine.start(NANOCHAT_PYTHON="echo-like")
    assert_refused(machine, named, "NANOCHAT_PYTHON=echo-like is no Python that runs")
    assert_refused(machine, machine.start(), "no Python 3.10 or newer")


@pytest.mark.parametrize("again", [False, True])
def test_the_current_folder_is_gone(ready: Machine, tmp_path: Path, again: bool) -> None:
    """Also where another one has its name by now."""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'rmdir "{gone}"; {f"mkdir {chr(34)}{gone}{chr(34)};" if again else ""} exec "$0" x'
    result = subprocess.run(
        ["/bin/sh", "-c", script, str(ready.checkout / "nanochat-doctor")],
        cwd=gone, env=ready.environment(PWD=str(gone)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "ran ['x']\n"), result.stderr


@pytest.mark.parametrize("there", [True, False])
def test_a_linked_environment_stays_a_link(machine: Machine, tmp_path: Path, there: bool) -> None:
    """It leads to another disk, on which nothing may be yet."""
    machine.python()
    place = tmp_path / "disk" / "venv"
    if there:
        place.mkdir(parents=True)
    machine.venv.symlink_to(place)
    result = machine.start("x")
    assert (result.returncode, result.stdout) == (0, "ran ['x']\n"), result.stderr
    assert machine.venv.is_symlink() and (place / "bin" / "python").exists()
    assert machine.start("x").stderr == ""


def test_a_python_with_venv_is_preferred(machine: Machine) -> None:
    without_venv(machine, "python3.13")
    machine.python("python3")
    result = machine.start("x")
    assert (result.returncode, result.stdout) == (0, "ran ['x']\n"), result.stderr


def test_uv_needs_no_venv_module(machine: Machine) -> None:
    without_venv(machine, "python3")
    machine.uv()
    result = machine.start("x")
    assert (result.returncode, result.stdout) == (0, "ran ['x']\n"), result.stderr


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_no_network(machine: Machine, installer: str) -> None:
    machine.python()
    if installer == "uv":
        machine.uv()
    project, backend = machine.checkout / "pyproject.toml", machine.checkout / "backend.py"
    # uv reads what is required from the project, pip asks its backend.
    project.write_text(PYPROJECT.replace("dependencies = []", "dependencies = ['click']", 1))
    backend.write_text(BACKEND.replace("REQUIRES = []", "REQUIRES = ['click']"))
    for name in ("PIP_NO_INDEX", "UV_OFFLINE"):
        del machine.env[name]
    # pip's setting on purpose: uv is told of it by the launcher. Nothing listens on port 9.
    machine.env |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    result = machine.start()
    log = machine.checkout / ".venv.log"
    assert_refused(machine, result, "index", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", str(log))
    assert len(result.stderr.splitlines()) > 3  # the words of pip or uv, too
    assert "click" in log.read_text()

    project.write_text(PYPROJECT)
    backend.write_text(BACKEND)
    again = machine.start("x")
    assert again.stdout == "ran ['x']\n", again.stderr
    assert "making an environment" not in again.stderr
    assert machine.leftovers == {".venv"}


def test_a_failure_that_is_not_the_network(machine: Machine) -> None:
    machine.python()
    machine.uv()
    (machine.checkout / "backend.py").write_text("raise RuntimeError('backend is broken')")
    result = machine.start()
    assert_refused(machine, result, "failed for the reason above")
    assert "backend is broken" in result.stderr


def test_folder_that_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    machine.python()
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "venv", Path("/proc/nanochat/venv")):
        result = machine.start(NANOCHAT_VENV=str(place))
        assert_refused(machine, result, "cannot write in", str(place.parent), "NANOCHAT_VENV")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_checkout(machine: Machine) -> None:
    machine.python()
    machine.uv()
    machine.checkout.chmod(0o555)
    try:
        assert_refused(machine, machine.start(), "cannot write in", "NANOCHAT_VENV")
        elsewhere = str(machine.bin.parent / "venv")
        assert machine.start("x", NANOCHAT_VENV=elsewhere).stdout == "ran ['x']\n"
    finally:
        machine.checkout.chmod(0o755)


def test_no_space(machine: Machine) -> None:
    machine.python()
    header = "Filesystem 1024-blocks Used Available Capacity Mounted"
    machine.program("df", f"echo '{header}'; echo '/dev/x 1000000 950000 50000 95% /'")
    assert_refused(machine, machine.start(), "no space left", "200 MB", "NANOCHAT_VENV")
    assert machine.leftovers == set()


@pytest.mark.parametrize("answer", ["", "echo nonsense", "exit 1"])
def test_a_df_that_says_nothing_does_not_stop_the_start(machine: Machine, answer: str) -> None:
    machine.python()
    machine.uv()
    machine.program("df", answer)
    assert machine.start("x").stdout == "ran ['x']\n"


def test_space_that_runs_out_on_the_way(machine: Machine) -> None:
    machine.python()
    words = "error: failed to write to file: No space left on device (os error 28)"
    machine.program("uv", f'[ "$1" = venv ] && {{ echo "{words}" >&2; exit 2; }}; exit 0')
    result = machine.start()
    assert_refused(machine, result, "no space left", str(machine.checkout))
    assert words in result.stderr
    assert machine.leftovers == {".venv.log"}


def test_launcher_alone(machine: Machine) -> None:
    (machine.checkout / "pyproject.toml").unlink()
    assert_refused(machine, machine.start(), "pyproject.toml", "checkout")


# ---- this repository itself ----


@pytest.mark.slow
@pytest.mark.network
def test_fresh_clone(machine: Machine) -> None:
    """The launcher with the real project beside it, its requirements from the real index."""
    machine.python()
    clone = machine.checkout.parent / "clone"
    clone.mkdir()
    for name in ("nanochat-doctor", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, clone)
    for name in ("doctor", "build"):
        shutil.copytree(REPO / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    machine.checkout = clone
    machine.env = {**os.environ, "HOME": machine.env["HOME"]}
    result = machine.start("--version", PATH=str(machine.bin))
    if "could not be reached" in result.stderr:
        pytest.skip("no Python index can be reached")
    assert result.returncode == 0, result.stderr
    assert "0.1" in result.stdout
    again = machine.start("--version", PATH=str(machine.bin))
    assert (again.stdout, again.stderr) == (result.stdout, "")

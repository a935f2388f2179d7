"""The build of rustbpe: toolchain, crates, wheel, environment, and what is said where one of them fails."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cargo_registry import CRATE, Registry, locked

from doctor.checkout import data_folder
from doctor.compile.rustbpe import build as rustbpe
from doctor.compile.rustbpe import cargo, rustup
from doctor.compile.rustbpe import registry as crates
from doctor.compile.rustbpe.cargo import Toolchain
from doctor.compile.rustbpe.crate import read_crate
from doctor.compile.rustbpe.installed import inspect, out_of_date, unusable
from doctor.compile.rustbpe.private_rust import PrivateRust
from doctor.compile.rustbpe.wheel import diagnosis, first_error
from doctor.environment.installer import Installer
from doctor.errors import DoctorError, WrongUsage
from doctor.facts import Facts, Host
from doctor.facts import Python as PythonFacts
from doctor.findings.context import Context
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.probe.survey import survey
from doctor.work.programs import Ended, Log

DEAD = "http://127.0.0.1:9"
needs_cargo = pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo on the PATH")
needs_maturin = pytest.mark.skipif(shutil.which("maturin") is None, reason="no maturin on the PATH")

quiet: Callable[[str], None] = lambda line: None  # noqa: E731


def make_tables(folder: Path, rows: str = "") -> Tables:
    """The tables of this checkout, with no mirrors but those of the test."""
    shutil.copytree(data_folder(), folder, ignore=shutil.ignore_patterns("*.py"))
    path = folder / "mirrors.toml"
    known = re.split(r"(?m)^(?=\[\[)", path.read_text(encoding="utf-8"))
    kept = [row for row in known if not re.search('kind = "(crates|rustup|python)"', row)]
    path.write_text("".join(kept) + rows, encoding="utf-8")
    return Tables(folder)


def mirror(kind: str, url: str, more: str = "") -> str:
    return (
        f'\n[[mirror]]\nname = "loopback {kind}"\nkind = "{kind}"\nurl = "{url}"\nregion = "here"\n{more}\n'
        'source = "test"\ndate = "2026-11-21"\n'
    )


def crates_mirror(url: str) -> str:
    return mirror("crates", f"sparse+{url}/", f'probe = "{url}/config.json"')


def make_crate(folder: Path, source: str = "pub fn f() {}\n", dependency: str | None = None,
               build_script: str | None = None) -> Path:  # fmt: skip
    """A checkout whose crate is a tiny one of that name; with a lock file that names the dependency."""
    crate = folder / "rustbpe"
    (crate / "src").mkdir(parents=True)
    (crate / "src" / "lib.rs").write_text(source)
    manifest = '[package]\nname = "rustbpe"\nversion = "0.0.1"\nedition = "2021"\n'
    manifest += '[lib]\ncrate-type = ["cdylib"]\n[dependencies]\n'
    lock = 'version = 3\n\n[[package]]\nname = "rustbpe"\nversion = "0.0.1"\n'
    if dependency:
        (package,) = locked([dependency])
        manifest += f'{dependency} = "={package["version"]}"\n'
        lock += f'dependencies = ["{dependency}"]\n\n[[package]]\n'
        lock += "".join(f'{key} = "{value}"\n' for key, value in package.items())
    if build_script:
        (crate / "build.rs").write_text(build_script)
    (crate / "Cargo.toml").write_text(manifest)
    (crate / "Cargo.lock").write_text(lock)
    (crate / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["maturin>=1.7,<2"]\nbuild-backend = "maturin"\n'
        '[project]\nname = "rustbpe-test"\nversion = "0.0.1"\n'
        '[tool.maturin]\nbindings = "cffi"\nmodule-name = "rustbpe"\n'
    )
    return folder


def make_venv(folder: Path) -> str:
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60
    )
    return str(folder / "bin" / "python")


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh CARGO_HOME whose configuration names a registry that does not answer."""
    rustup = os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup")
    home = tmp_path / "cargo"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[source.crates-io]\nreplace-with = "dead"\n[source.dead]\nregistry = "sparse+{DEAD}/"\n'
    )
    monkeypatch.setenv("RUSTUP_HOME", rustup)
    monkeypatch.setenv("CARGO_HOME", str(home))
    return home


# --- crates ----------------------------------------------------------------------------------


class Fetcher:
    """Fetches for a tiny crate with one dependency, itoa."""

    def __init__(self, folder: Path) -> None:
        self.crate = make_crate(folder / "checkout", "pub use itoa;\n", "itoa") / "rustbpe"
        self.work = self.crate / "target" / "doctor"
        self.log = Log(self.work / "build.log")
        env = System().program_environment()
        self.toolchain = Toolchain(env, cargo=shutil.which("cargo"))
        self.said: list[str] = []

    def __call__(self, tables: Tables, *, offline: bool = False) -> str:
        return crates.provide(
            self.toolchain,
            tables,
            self.crate / "Cargo.toml",
            self.work,
            self.log,
            offline=offline,
            say=self.said.append,
        )

    def compile(self) -> Ended:
        words = [
            "build",
            "--locked",
            "--offline",
            "--manifest-path",
            str(self.crate / "Cargo.toml"),
        ]
        command = [str(self.toolchain.cargo), *words]
        return self.log.run(command, cwd=self.work, env=self.toolchain.env)


@needs_cargo
def test_a_mirror_takes_the_place_of_a_dead_registry(tmp_path: Path, own_home: Path) -> None:
    before = (own_home / "config.toml").read_text()
    fetch = Fetcher(tmp_path)
    with Registry(locked(["itoa"])) as registry:
        tables = make_tables(tmp_path / "tables", crates_mirror(registry.url))
        assert fetch(tables) == "loopback crates"
        assert any(path.startswith("/dl/itoa/") for path in registry.requests)
    assert any("does not answer" in line and "127.0.0.1" in line for line in fetch.said)
    assert fetch.compile().status == 0  # with the registry and its mirror gone
    assert fetch(tables, offline=True) == crates.CACHE
    assert (own_home / "config.toml").read_text() == before


@needs_cargo
def test_no_registry_and_no_mirror(tmp_path: Path, own_home: Path) -> None:
    fetch = Fetcher(tmp_path)
    with pytest.raises(DoctorError) as error:
        fetch(make_tables(tmp_path / "tables", crates_mirror("http://127.0.0.1:7")))
    assert "cargo's registry: " in str(error.value) and "no mirror answers" in str(error.value)
    assert f"{own_home}/registry" in str(error.value)


@needs_cargo
def test_offline_asks_nobody_and_names_what_is_missing(tmp_path: Path, own_home: Path) -> None:
    fetch = Fetcher(tmp_path)
    with Registry(locked(["itoa"])) as registry:
        with pytest.raises(DoctorError, match=r"itoa is missing.*--offline"):
            fetch(make_tables(tmp_path / "tables", crates_mirror(registry.url)), offline=True)
        assert registry.requests == []


@needs_cargo
def test_a_mirror_that_sends_something_else(tmp_path: Path, own_home: Path) -> None:
    fetch = Fetcher(tmp_path)
    with Registry(locked(["itoa"])) as registry:
        path = next(path for path in registry.files if path.startswith("/dl/"))
        registry.files[path] = b"not this crate"
        with pytest.raises(DoctorError, match=r"loopback crates: .*checksum"):
            fetch(make_tables(tmp_path / "tables", crates_mirror(registry.url)))


@needs_cargo
def test_a_lock_file_that_does_not_fit(tmp_path: Path, own_home: Path) -> None:
    fetch = Fetcher(tmp_path)
    manifest = fetch.crate / "Cargo.toml"
    manifest.write_text(manifest.read_text().replace('version = "0.0.1"', 'version = "0.0.2"'))
    with Registry(locked(["itoa"])) as registry:
        tables = make_tables(tmp_path / "tables", crates_mirror(registry.url))
        with pytest.raises(DoctorError, match=r"Cargo\.lock does not fit"):
            fetch(tables)


def test_the_mirrors_of_the_table_can_be_switched_to() -> None:
    """cargo wants a sparse registry with a slash at its end; rustup two variables."""
    tables = Tables()
    sources = [crates._source(row) for row in tables.mirrors("crates")]
    assert sources and all(
        re.fullmatch(r"sparse\+https://.*/", source.url or "") for source in sources
    )
    assert len({source.key for source in sources}) == len(sources)
    for row in tables.mirrors("rustup"):
        assert rustup._variables(row).keys() == {"RUSTUP_DIST_SERVER", "RUSTUP_UPDATE_ROOT"}


# --- toolchain -------------------------------------------------------------------------------


def find_toolchain(tmp_path: Path, tables: Tables, *, install: bool = False,
                   distro: tuple[str, str] = ("ubuntu", "24.04")) -> Toolchain:  # fmt: skip
    system = System()
    facts = survey(system, tables, areas=("host", "python", "rust"), python=sys.executable)
    assert facts.host is not None
    host = dataclasses.replace(facts.host, distro_id=distro[0], distro_version=distro[1])
    log = Log(tmp_path / "log" / "build.log")
    return cargo.find(
        system,
        dataclasses.replace(facts, host=host),
        tables,
        log,
        tmp_path,
        install=install,
        say=quiet,
    )


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one folder, which the test fills, and an empty home."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"):
        monkeypatch.delenv(name, raising=False)
    return folder


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("distro", "command"),
    [
        (("ubuntu", "24.04"), "apt-get install -y rustup && rustup default stable"),
        (("debian", "12"), "sh -s -- -y"),  # whose own rustc is too old, and which has no rustup
        (("fedora", "43"), "dnf install -y rust cargo"),
        (("plan9", "4"), "sh -s -- -y"),
    ],
)
def test_no_toolchain(tmp_path: Path, bare: Path, distro: tuple[str, str], command: str) -> None:
    with pytest.raises(DoctorError) as error:
        find_toolchain(tmp_path, Tables(), distro=distro)
    assert "cargo and rustc are not on the PATH" in str(error.value)
    assert f"{command}`" in str(error.value) and "--install-toolchain" in str(error.value)


def test_a_rustc_that_is_too_old(tmp_path: Path, bare: Path) -> None:
    program(bare, "rustc", "echo 'rustc 1.60.0 (7737e0b5c 2022-04-04)'")
    program(bare, "cargo", "echo 'cargo 1.60.0 (d1fd9fe2c 2022-03-01)'")
    with pytest.raises(
        DoctorError, match=r"rustc 1\.60\.0 is older than 1\.74, the lowest"
    ) as error:
        find_toolchain(tmp_path, Tables())
    assert "sh -s -- -y`" in str(error.value)  # not the distribution's, which is there already
    program(bare, "rustup", "exit 1")
    with pytest.raises(DoctorError, match="`rustup toolchain install stable"):
        find_toolchain(tmp_path, Tables())


def test_rustup_without_a_toolchain(tmp_path: Path, bare: Path) -> None:
    body = "echo 'error: rustup could not choose a version to run, no default is configured' >&2; exit 1"
    for name in ("rustc", "cargo"):
        program(bare, name, body)
    with pytest.raises(DoctorError, match=r"cargo does not work .*no default is configured"):
        find_toolchain(tmp_path, Tables())


def test_cargo_beside_the_path_is_used(tmp_path: Path, bare: Path) -> None:
    folder = tmp_path / ".cargo" / "bin"
    folder.mkdir(parents=True)
    program(folder, "rustc", "echo 'rustc 1.83.0 (90b35a623 2024-11-26)'")
    program(folder, "cargo", "echo 'cargo 1.83.0 (5ffbef321 2024-10-29)'")
    found = find_toolchain(tmp_path, Tables())
    assert (found.rustc, found.cargo) == ("1.83.0", str(folder / "cargo"))


LAYOUT = (
    "for name in rustc cargo; do\nbin=$RUSTUP_HOME/toolchains/stable/bin\n/bin/mkdir -p $bin $CARGO_HOME\n"
    "printf '#!/bin/sh\\necho rustc 1.90.0\\n' > $bin/$name\n/bin/chmod +x $bin/$name\ndone\n"
)
"""What rustup leaves in the folders that are named to it."""


def test_rustup_brings_a_toolchain_for_us_alone(tmp_path: Path, bare: Path) -> None:
    """The first server fails, a mirror that answers is named to rustup by its variables; ~/.cargo stays as it was."""
    for name in ("rustc", "cargo"):
        program(bare, name, "echo rustc 1.60.0")
    program(
        bare,
        "rustup",
        f'echo "$RUSTUP_DIST_SERVER $*" >> {tmp_path}/asked; test -n "$RUSTUP_DIST_SERVER" || exit 1\n{LAYOUT}',
    )
    with Registry([]) as server:
        row = mirror(
            "rustup",
            f"{server.url}/dist",
            f'probe = "{server.url}/config.json"\nvariable = "RUSTUP_DIST_SERVER"',
        )
        tables = make_tables(tmp_path / "tables", row)
        found = find_toolchain(tmp_path, tables, install=True)
        asked = (tmp_path / "asked").read_text().splitlines()
        assert [line.split()[0] for line in asked] == ["toolchain", f"{server.url}/dist"]
    assert found.rustc == "1.90.0" and found.cargo is not None
    assert found.cargo.startswith(f"{tmp_path}/.cache/nanochat-doctor/rust/")
    assert not (tmp_path / ".cargo").exists() and not (tmp_path / ".rustup").exists()
    # the next one finds it without being told to install, and asks nobody
    assert find_toolchain(tmp_path, Tables()).cargo == found.cargo


def test_settings_of_the_users_cargo_hold_for_ours(tmp_path: Path, bare: Path) -> None:
    """A mirror that stands in ~/.cargo is not forgotten; what cargo writes is written elsewhere."""
    settings = tmp_path / ".cargo" / "config.toml"
    settings.parent.mkdir()
    settings.write_text('[source.crates-io]\nreplace-with = "here"\n')
    program(bare, "rustup", LAYOUT)
    found = find_toolchain(tmp_path, make_tables(tmp_path / "tables"), install=True)
    home = Path(found.env["CARGO_HOME"])
    assert home != settings.parent and (home / "config.toml").read_text() == settings.read_text()


@pytest.mark.parametrize("place", ["mirror", "mirror, damaged", "own server"])
def test_rustup_init_is_fetched(tmp_path: Path, bare: Path, place: str) -> None:
    """Fetched, compared with its checksum, run; rustup's own script tells where the one of its own server is."""
    script = f"#!/bin/sh\n{LAYOUT}".encode()
    with Registry([]) as server:
        path = f"/rustup/dist/{rustup._host_triple()}/rustup-init"
        digest = hashlib.sha256(b"another" if "damaged" in place else script).hexdigest()
        server.files |= {path: script, f"{path}.sha256": f"{digest} *rustup-init\n".encode()}
        row = mirror(
            "rustup", server.url,
            f'probe = "{server.url}/config.json"\nvariable = "RUSTUP_DIST_SERVER"\n'
            f'root_variable = "RUSTUP_UPDATE_ROOT"\nroot_url = "{server.url}/rustup"',
        )  # fmt: skip
        tables = make_tables(tmp_path / "tables", "" if place == "own server" else row)
        served = f'RUSTUP_UPDATE_ROOT="${{RUSTUP_UPDATE_ROOT:-{server.url}/rustup}}"\n'
        server.files["/own.sh"] = served.encode() if place == "own server" else b"no such thing"
        packages = tmp_path / "tables" / "packages.toml"
        text = packages.read_text().replace("https://sh.rustup.rs", f"{server.url}/own.sh")
        packages.write_text(text)
        if "damaged" not in place:
            assert find_toolchain(tmp_path, tables, install=True).rustc == "1.90.0"
        else:
            with pytest.raises(DoctorError, match="is not what its checksum says"):
                find_toolchain(tmp_path, tables, install=True)
            assert not (tmp_path / ".cache" / "nanochat-doctor").exists()
        assert not (tmp_path / ".cargo").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
@needs_cargo
def test_a_linker_of_our_own_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cargo builds a crate with a build script on a PATH without any compiler, by our cc alone."""
    system = System()
    shown = subprocess.run(
        ["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True
    )
    rust = Path(shown.stdout.strip()) / "bin"
    private = PrivateRust(tmp_path / "rust")
    zig = _zig()
    (private.folder / "zig").mkdir(parents=True)
    (private.folder / "zig" / "ziglang").symlink_to(zig)
    private.write_linker()
    programs = tmp_path / "programs"
    programs.mkdir()
    program(programs, "dirname", 'exec /usr/bin/dirname "$@"')
    env = private.with_linker({**system.program_environment(), "PATH": f"{rust}:{programs}"})
    assert shutil.which("cc", path=env["PATH"]) == str(private.folder / "bin" / "cc")
    crate = make_crate(tmp_path / "checkout", build_script="fn main() {}\n") / "rustbpe"
    log = Log(tmp_path / "build.log")
    words = ["cargo", "build", "--offline", "--manifest-path", str(crate / "Cargo.toml")]
    done = log.run([str(rust / words[0]), *words[1:]], cwd=crate, env=env)
    assert done.status == 0, done.text
    assert (crate / "target" / "debug" / "librustbpe.so").is_file()


def _zig() -> Path:
    """Folder of an installed ziglang."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no ziglang is installed here")
    return Path(spec.submodule_search_locations[0])


def test_a_linker_that_is_there_comes_first(tmp_path: Path, bare: Path) -> None:
    private = PrivateRust(tmp_path / "rust")
    env = {"PATH": str(bare)}
    assert private.with_linker(env) == env  # nothing of ours is there
    zig = private.folder / "zig" / "ziglang" / "zig"
    zig.parent.mkdir(parents=True)
    zig.write_text('#!/bin/sh\necho zig "$@"\n')
    zig.chmod(0o755)
    private.write_linker()
    found = private.with_linker(env)["PATH"]
    linker = shutil.which("cc", path=found)
    assert linker == str(private.folder / "bin" / "cc")
    said = subprocess.run([linker, "-o", "x y"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("zig cc ") and said.stdout.endswith("-o x y\n")
    program(bare, "cc", "exit 0")
    assert private.with_linker(env) == env


# --- compiling -------------------------------------------------------------------------------


def build(checkout: Path, python: str, **options: bool) -> rustbpe.BuildResult:
    tables = make_tables(checkout / "tables")
    return rustbpe.build(
        checkout=checkout, python=python, system=System(), tables=tables, say=quiet, **options
    )


@needs_cargo
@needs_maturin
def test_a_crate_that_does_not_compile(tmp_path: Path) -> None:
    checkout = make_crate(tmp_path, "pub fn f() -> u8 {\n    absent(\n}\n")
    python = make_venv(tmp_path / "venv")
    with pytest.raises(DoctorError, match="rustbpe does not compile") as error:
        build(checkout, python)
    assert "mismatched closing delimiter" in str(error.value) or "unclosed" in str(error.value)
    assert "src/lib.rs:" in str(error.value) and "could not compile" not in str(error.value)
    assert inspect(System(), python)["path"] is None


@needs_cargo
@needs_maturin
def test_a_compiler_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = make_crate(tmp_path)
    program(tmp_path, "wrapper", 'case "$*" in *src/lib.rs*) kill -9 $$;; esac\nexec "$@"')
    monkeypatch.setenv("RUSTC_WRAPPER", str(tmp_path / "wrapper"))
    with pytest.raises(DoctorError, match=r"memory runs out.*CARGO_BUILD_JOBS=1"):
        build(checkout, make_venv(tmp_path / "venv"))


@needs_cargo
@needs_maturin
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cargo_and_all_it_started(tmp_path: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    checkout = make_crate(
        tmp_path,
        build_script=f'fn main() {{ std::fs::write("{pid_file}", std::process::id().to_string()).unwrap(); '
        "std::thread::sleep(std::time::Duration::from_secs(100)); }",
    )
    code = (
        "import sys; from pathlib import Path; from doctor.compile.rustbpe.build import build\n"
        "from doctor.machine.system import System; from doctor.knowledge.tables import Tables\n"
        f"build(checkout=Path({str(checkout)!r}), python={make_venv(tmp_path / 'venv')!r}, system=System(),"
        " tables=Tables(), say=print)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CRATE.parent, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    script = int(pid_file.read_text())
    process.send_signal(number)
    assert process.wait(20) in (-signal.SIGINT, 128 + signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # a child of nobody is taken away by init, in its own time
            os.kill(script, 0)
            time.sleep(0.02)
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not any(str(checkout) in word for command in commands for word in command)


def test_the_disk_is_full() -> None:
    text = "error: failed to write `/x/target/release/x.rlib`\n\nCaused by:\n  No space left on device (os error 28)\n"
    assert "the disk is full" in diagnosis(
        Ended(101, tuple(text.splitlines())), Context(Facts(), Tables()), Path("/log")
    )


def test_no_linker() -> None:
    text = "error: linker `cc` not found\n  |\n  = note: No such file or directory (os error 2)\n\n"
    context = Context(Facts(host=Host(distro_id="debian", distro_version="12")), Tables())
    told = diagnosis(Ended(101, tuple(text.splitlines())), context, Path("/log"))
    assert "Rust links by cc, which is not installed" in told and "build-essential`" in told


def test_the_first_error_is_the_compilers_own() -> None:
    text = "warning: unused\n --> a\n\nerror[E0425]: cannot find\n --> b\n  |\n\nerror: could not compile `x`\n"
    assert first_error(text.splitlines()) == "error[E0425]: cannot find\n --> b\n  |"
    assert first_error(["error: could not compile `x`"]) == ""


# --- interpreters and sources ----------------------------------------------------------------


def test_an_installed_doctor_has_no_source(tmp_path: Path) -> None:
    with pytest.raises(DoctorError, match=r"carries none; run .* in a clone"):
        build(tmp_path, sys.executable)


def test_damaged_files_of_the_crate(tmp_path: Path) -> None:
    checkout = make_crate(tmp_path)
    (tmp_path / "rustbpe" / "Cargo.toml").write_text("[package\n")
    with pytest.raises(DoctorError, match=r"Cargo\.toml cannot be read"):
        read_crate(checkout)
    (tmp_path / "rustbpe" / "Cargo.toml").write_text("[package]\n")
    with pytest.raises(DoctorError, match="names no version"):
        read_crate(checkout)


def test_no_python(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="--python"):
        build(make_crate(tmp_path), str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("version", "free_threaded", "refused"),
    [
        ("3.9.2", False, "asks for >=3.10"),
        ("3.14.0", True, None),
        ("3.99.0", False, None),  # by the stable ABI
        ("3.99.0", True, "newer than 3.14, the newest that PyO3 0.27 builds for without a GIL"),
    ],
)
def test_pythons(version: str, free_threaded: bool, refused: str | None) -> None:
    python = PythonFacts(executable="/p", version=version, free_threaded=free_threaded)
    crate = read_crate(CRATE.parent)
    refusal = pytest.raises(DoctorError, match=refused) if refused else contextlib.nullcontext()
    with refusal:
        rustbpe._require_fit(python, crate, Tables())


def test_a_module_that_ends_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "rustbpe.py").write_text("import os\nos._exit(3)\n")
    found = inspect(System(), sys.executable, str(tmp_path))
    assert found["trouble"] == f"cannot be imported: {sys.executable} ended with status 3"


def test_the_check_asks_for_what_is_there() -> None:
    """Every name that the check wants stands in the crate's stub file."""
    from doctor.probe.payload import rustbpe_check as check

    stub = (CRATE / "rustbpe.pyi").read_text(encoding="utf-8")
    for name in (*check.MODULE_NAMES, *check.TOKENIZER_NAMES):
        assert re.search(rf"\b{name}\b", stub), name


@pytest.mark.parametrize("other", ["prebuilt", "install_toolchain"])
def test_wishes_that_contradict_each_other(tmp_path: Path, other: str) -> None:
    with pytest.raises(WrongUsage, match=r"--.* and --offline contradict"):
        build(tmp_path, sys.executable, offline=True, **{other: True})


# --- prebuilt --------------------------------------------------------------------------------


def make_wheel(folder: Path, files: dict[str, bytes], project: str = "rustbpe") -> bytes:
    path = folder / "wheel.zip"
    info = f"{project}-0.1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 0.1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in files.items():
            archive.writestr(name, contents)
    return path.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """A Python index with one wheel, which the test makes."""
    with Registry([]) as server:
        for name in list(os.environ):
            if name.startswith(("UV_", "PIP_")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url}/simple")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

        def serve(files: dict[str, bytes], project: str = "rustbpe") -> None:
            name = f"{project}-0.1.0-py3-none-any.whl"
            server.files[f"/simple/{project}/"] = f'<a href="/{name}">{name}</a>'.encode()
            server.files[f"/{name}"] = make_wheel(tmp_path, files, project)

        yield serve


PUBLISHED = b"""
class Tokenizer:
    def train_from_iterator(self, iterator, vocab_size, buffer_size=8192, pattern=None):
        assert list(iterator)
    def get_mergeable_ranks(self):
        return [(bytes([b]), b) for b in range(256)] + [(b"ow", 256)]
"""
"""Of the published package what is used of it."""

TIKTOKEN = b"""
class Encoding:
    def __init__(self, name, pat_str, mergeable_ranks, special_tokens): pass
    def encode_ordinary(self, text): self.text = text; return [0]
    def decode(self, ids): return self.text
"""


@pytest.mark.parametrize("encodes", [True, False])
def test_the_published_package_and_what_encodes_for_it(
    tmp_path: Path, index: Callable[..., None], encodes: bool
) -> None:
    index({"rustbpe/__init__.py": PUBLISHED})
    if encodes:
        index({"tiktoken/__init__.py": TIKTOKEN}, "tiktoken")
    python = make_venv(tmp_path / "venv")
    if not encodes:
        with pytest.raises(DoctorError, match="tiktoken cannot be fetched"):
            build(tmp_path, python, prebuilt=True)
        assert inspect(System(), python)["distributions"] == {}
        return
    assert build(tmp_path, python, prebuilt=True).version == "0.1.0"
    found = inspect(System(), python)
    assert found["published"] and found["trouble"] is None
    assert out_of_date(found, read_crate(CRATE.parent)) == (
        "the published one is installed in its place"
    )
    assert not build(tmp_path / "again", python, prebuilt=True).built


def test_two_that_own_the_same_files(tmp_path: Path) -> None:
    found = {"path": "x", "distributions": {"nanochat-rustbpe": "0.2.0", "rustbpe": "0.1.0"}}
    reason = unusable(found)
    assert reason is not None and "own the same files" in reason


def test_a_prebuilt_one_that_lacks_something_is_not_installed(
    tmp_path: Path, index: Callable[..., None]
) -> None:
    index({"rustbpe/__init__.py": b"class Tokenizer:\n    def encode(self): ...\n"})
    python = make_venv(tmp_path / "venv")
    with pytest.raises(DoctorError, match=r"rustbpe 0\.1\.0 lacks NANOCHAT_PATTERN.*not installed"):
        build(tmp_path, python, prebuilt=True)
    assert inspect(System(), python)["distributions"] == {}


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_prebuilt_one_that_serves(
    tmp_path: Path,
    index: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
) -> None:
    spec = importlib.util.find_spec("rustbpe")
    if spec is None or spec.origin is None:
        pytest.skip("no rustbpe here that could be packed")
    if tool == "pip":
        monkeypatch.setattr(Installer, "_uv", False)
    folder = Path(spec.origin).parent
    names = [path for path in folder.iterdir() if path.suffix in (".py", ".so", ".pyi")]
    index({f"rustbpe/{path.name}": path.read_bytes() for path in names})
    python = make_venv(tmp_path / "venv")
    result = build(tmp_path, python, prebuilt=True)
    assert result.built and result.origin == "the Python index"
    found = inspect(System(), python)
    assert found["distributions"] == {"rustbpe": "0.1.0"} and found["trouble"] is None
    assert not build(tmp_path / "again", python, prebuilt=True).built


# --- all of it -------------------------------------------------------------------------------


HASTY = {"LTO": "off", "CODEGEN_UNITS": "16", "OPT_LEVEL": "0", "DEBUG": "0"}
"""What is built is not asked how fast it is."""


@pytest.mark.slow
@pytest.mark.timeout(400)
@needs_cargo
@needs_maturin
def test_the_crate_itself_through_a_mirror(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in HASTY.items():
        monkeypatch.setenv(f"CARGO_PROFILE_RELEASE_{name}", value)
    checkout = tmp_path / "checkout"
    shutil.copytree(CRATE, checkout / "rustbpe", ignore=shutil.ignore_patterns("target", "fuzz"))
    python = make_venv(tmp_path / "venv")
    said: list[str] = []
    with Registry(locked()) as registry:
        tables = make_tables(tmp_path / "tables", crates_mirror(registry.url))

        def run() -> rustbpe.BuildResult:
            return rustbpe.build(
                checkout=checkout, python=python, system=System(), tables=tables, say=said.append
            )

        result = run()
        assert result.built and result.origin == "loopback crates"
    assert result.log is not None and "Compiling pyo3 " in result.log.read_text()
    assert inspect(System(), python)["trouble"] is None
    assert not run().built and "nothing to do" in said[-1]
    os.utime(checkout / "rustbpe" / "src" / "lib.rs")
    found = inspect(System(), python)
    reason = out_of_date(found, read_crate(checkout))
    assert reason == "its source has changed since it was built"
    # the contents are the same: another environment takes the wheel that was kept, and needs no cargo
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    another = make_venv(tmp_path / "another")
    result = rustbpe.build(
        checkout=checkout, python=another, system=System(), tables=tables, say=said.append
    )
    assert result.origin == "the cache" and inspect(System(), another)["trouble"] is None

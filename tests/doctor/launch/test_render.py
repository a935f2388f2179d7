"""Scripts for seven machines: sound for bash and shellcheck, proof against hostile values, and really run on a CPU."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import warm

from doctor.errors import DoctorError, WrongUsage
from doctor.facts import Ascend as AscendFacts
from doctor.facts import Cann, Facts, Gpu, Host, Npu, Nvidia
from doctor.launch import render
from doctor.planner.terms.plan import Launch, Plan, StageSettings, TorchChoice

REPO = Path(__file__).resolve().parents[3]
BASH = "/bin/bash" if Path("/bin/bash").exists() else shutil.which("bash") or "bash"


# --- plans --------------------------------------------------------------------------------------


def stages(rows: int, length: int, total: int, ranks: int) -> dict[str, StageSettings]:
    passes = total // (rows * length * ranks)
    return {
        name: StageSettings(rows, length, total, passes, port)
        for name, port in {"base": 29500, "mid": 29600, "sft": 29700, "rl": 29800}.items()
    }


def launch(**changes: Any) -> Launch:
    """A launch on one RTX 5080, or what `changes` make of it."""
    ranks = changes.get("nproc_per_node", 1)
    values: dict[str, Any] = {
        "profile": "auto", "device_type": "cuda", "backend": "nccl", "nproc_per_node": ranks, "depth": 12,
        "head_dim": 128, "dtype": "bfloat16", "compile": True, "fp8": False, "recompute": False,
        "stages": stages(8, 2048, 524288, ranks), "vocab_size": 32768, "data": "climbmix", "shards": 24,
        "num_iterations": 2500, "tokens": 2500 * 524288, "parameters": 186_000_000, "peak_memory_mb": 12000,
        "device_memory_mb": 16303, "hours": 9.5, "energy_kwh": 3.2, "core_metric": True,
        "env": {"OMP_NUM_THREADS": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"},
    }  # fmt: skip
    return Launch(**(values | changes))


def make(torch: TorchChoice, python: str | None = None, **changes: Any) -> Plan:
    return Plan(
        route="stable-wheel",
        reason="the newest wheel with code for this card",
        rejected=(),
        torch=torch,
        build=None,
        steps=(),
        launch=launch(**changes),
        findings=(),
        python=python,
    )


def machine(**areas: Any) -> Facts:
    host = Host(
        os="Linux",
        arch="x86_64",
        distro_name="Ubuntu",
        distro_version="24.04",
        cores=24,
        memory_total=65536,
    )
    return Facts(host=host, **areas)


def gpus(count: int, name: str) -> Facts:
    cards = tuple(Gpu(index=i, name=name, memory_total=16303) for i in range(count))
    return machine(nvidia=Nvidia(gpus=cards, driver_version="580.95.05"))


def npus(count: int) -> Facts:
    cann = Cann(path="/usr/local/Ascend/ascend-toolkit/latest", version="8.3.RC1")
    cards = tuple(Npu(index=i, npu_id=i, chip_id=0, name="910B3") for i in range(count))
    return machine(ascend=AscendFacts(npus=cards, toolkits=(cann,), active_toolkit=cann.path))


NPU = {
    "device_type": "npu", "backend": "hccl", "compile": False,
    "env": {"TORCH_COMPILE_DISABLE": "1", "HCCL_CONNECT_TIMEOUT": "1200"},
    "source_files": ("/usr/local/Ascend/ascend-toolkit/set_env.sh", "/usr/local/Ascend/nnal/atb/set_env.sh"),
}  # fmt: skip
CUDA_TORCH = TorchChoice("2.15.0", cuda="13.0", libuv=True)
SMOKE = {
    "profile": "smoke", "device_type": "cpu", "backend": "gloo", "depth": 1, "head_dim": 32, "dtype": "float32",
    "compile": False, "vocab_size": 512, "data": "stdlib", "shards": 0, "num_iterations": 6, "tokens": 6 * 512,
    "parameters": 100_000, "core_metric": False, "env": {"OMP_NUM_THREADS": "1"},
}  # fmt: skip


def smoke(ranks: int = 1, **changes: Any) -> Plan:
    """The smallest run there is, on a CPU."""
    batch = stages(2, 64, 512, ranks)
    return make(
        TorchChoice("2.15.0"), **{**SMOKE, "nproc_per_node": ranks, "stages": batch, **changes}
    )


MACHINES: dict[str, tuple[Plan, Facts]] = {
    "rtx-5080": (make(CUDA_TORCH), gpus(1, "NVIDIA GeForce RTX 5080")),
    "two-rtx-5090-without-libuv": (
        make(
            TorchChoice("2.10.0a0+gitba93d56", path="/home/a b/pytorch", libuv=False, cuda="13.0"),
            nproc_per_node=2, libuv=False, recompute=True,
        ),
        gpus(2, "NVIDIA GeForce RTX 5090"),
    ),
    "rtx-4050-laptop": (
        make(CUDA_TORCH, depth=4, stages=stages(1, 256, 1024, 1), num_iterations=100, core_metric=False),
        gpus(1, "NVIDIA GeForce RTX 4050 Laptop GPU"),
    ),
    "eight-h100": (
        make(CUDA_TORCH, profile="speedrun", nproc_per_node=8, depth=24, fp8=True),
        gpus(8, "NVIDIA H100 80GB HBM3"),
    ),
    "four-npus": (make(TorchChoice("2.9.0", torch_npu="2.9.0"), nproc_per_node=4, **NPU), npus(4)),
    "sixteen-npus": (
        make(TorchChoice("2.9.0", torch_npu="2.9.0"), nproc_per_node=16, **NPU),
        npus(16),
    ),
    "cpu-smoke": (smoke(), machine()),
}  # fmt: skip


def rendered(plan: Plan, facts: Facts | None = None, checkout: str = str(REPO)) -> dict[str, str]:
    return render.render(plan, facts or machine(), version="0.1.0", checkout=checkout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


# --- the text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MACHINES)
def test_bash_and_shellcheck_have_nothing_to_say(name: str, folder: Path) -> None:
    render.write(rendered(*MACHINES[name]), folder)
    scripts = sorted(folder.glob("*.sh"))
    assert [path.name for path in scripts] == sorted(render.TARGETS["shell"].files)
    for path in scripts:
        assert os.access(path, os.X_OK)
        subprocess.run([BASH, "-n", path], check=True)
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if shellcheck is None:
        pytest.skip("no shellcheck here, so the scripts were parsed by bash alone")
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert not found.stdout + found.stderr


@pytest.mark.parametrize("name", MACHINES)
def test_the_same_plan_gives_the_same_bytes(name: str) -> None:
    plan, facts = MACHINES[name]
    again = dataclasses.replace(plan, launch=dataclasses.replace(plan.launch))
    assert rendered(plan, facts) == rendered(again, facts)
    for text in rendered(plan, facts).values():
        assert not re.search(r"20\d\d-\d\d-\d\d", text)
        assert socket.gethostname() not in text.split()


def test_the_header_tells_machine_and_plan() -> None:
    text = rendered(*MACHINES["two-rtx-5090-without-libuv"])["base.sh"]
    for line in (
        "# machine  Ubuntu 24.04 x86_64, 24 cores, 64 GiB of memory",
        "# machine  2 x NVIDIA GeForce RTX 5090, driver 580.95.05",
        "# route    stable-wheel: the newest wheel with code for this card",
        "# torch    2.10.0a0+gitba93d56, CUDA 13.0, without libuv",
        "# ports    base 29500, mid 29600, sft 29700, rl 29800",
    ):
        assert line in text.splitlines()
    assert (
        "# machine  16 x Ascend 910B3, CANN 8.3.RC1"
        in rendered(*MACHINES["sixteen-npus"])["env.sh"]
    )


def test_a_blocked_plan_and_an_unknown_target() -> None:
    blocked = dataclasses.replace(smoke(), launch=None, reason="There is no driver.")
    with pytest.raises(DoctorError, match=r"nothing to start.*There is no driver"):
        rendered(blocked)
    with pytest.raises(WrongUsage, match="no target 'slurm'; choose one of shell"):
        render.render(smoke(), machine(), version="1", checkout="/x", target="slurm")


@pytest.mark.parametrize("name", ["A B", "1X", "X;touch y", "", "X\n"])
def test_a_variable_that_no_shell_can_set(name: str) -> None:
    with pytest.raises(DoctorError, match="no shell can set"):
        rendered(smoke(env={name: "1"}))


def test_a_zero_byte_is_refused() -> None:
    with pytest.raises(DoctorError, match="zero byte"):
        rendered(smoke(env={"X": "a\0b"}))


def test_a_damaged_template_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "templates"
    shutil.copytree(REPO / "templates", copy)
    (copy / "shell" / "data.sh.j2").write_text("{{ no_such_value }}")
    monkeypatch.setattr(render, "templates_folder", lambda: copy)
    with pytest.raises(
        DoctorError, match=r"templates/shell/data\.sh\.j2.*'no_such_value' is undefined"
    ):
        rendered(smoke())


# --- what the scripts run -----------------------------------------------------------------------

RECORDER = """\
#!/bin/sh
# Stands for an interpreter on a machine with other devices: what it is told to run is written down.
case $1 in -I) exec {python} "$@" ;; esac
printf '%s\\0' "$@" >"$RECORD/argv"
env -0 >"$RECORD/env"
"""


@dataclasses.dataclass
class Recorded:
    """One stage, run with an interpreter that writes down what it is asked."""

    status: int
    out: str
    argv: list[str]
    env: dict[str, str]


def zeros(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\0")[:-1] if path.exists() else []


def record(
    folder: Path,
    stage: str,
    base: Path,
    env: Mapping[str, str] | None = None,
    python: Path | None = None,
    cwd: Path = REPO,
) -> Recorded:
    base.mkdir(parents=True, exist_ok=True)
    python = python or base / "python"
    python.write_text(RECORDER.format(python=shlex.quote(sys.executable)))
    python.chmod(0o755)
    (base / "record").mkdir(exist_ok=True)
    done = subprocess.run(
        [BASH, folder / f"{stage}.sh"],
        env={
            "PATH": os.environ["PATH"], "HOME": str(base), "NANOCHAT_BASE_DIR": str(base),
            "NANOCHAT_PYTHON": str(python), "RECORD": str(base / "record"), **(env or {}),
        },
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    seen = dict(item.split("=", 1) for item in zeros(base / "record" / "env"))
    return Recorded(
        done.returncode, done.stdout + done.stderr, zeros(base / "record" / "argv"), seen
    )


def test_eight_ranks_in_8_bits(folder: Path, tmp_path: Path) -> None:
    render.write(rendered(*MACHINES["eight-h100"]), folder)
    ran = record(folder, "base", tmp_path / "base")
    assert ran.status == 0, ran.out
    head = "-u -m nanochat.launch --first-port 29500 --nproc_per_node 8 -m scripts.base_train"
    assert ran.argv[:9] == head.split()
    for words in (
        "--fp8",
        "--depth 24",
        "--dtype bfloat16",
        "--compile on",
        "--model-tag speedrun-d24",
    ):
        assert f" {words} " in f" {' '.join(ran.argv)} "
    assert "--recompute" not in ran.argv
    assert "NANOCHAT_LIBUV" not in ran.env
    assert ran.env["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    evaluated = record(folder, "base_eval", tmp_path / "base")
    assert "--eval core,bpb --split-tokens 20971520" in " ".join(evaluated.argv)
    sampled = record(folder, "sample", tmp_path / "base")
    assert sampled.argv[:3] == ["-u", "-m", "scripts.chat_cli"]
    assert sampled.argv[-1] == "The capital of France is"


def test_two_ranks_without_libuv_and_one_rank_without_torchrun(
    folder: Path, tmp_path: Path
) -> None:
    render.write(rendered(*MACHINES["two-rtx-5090-without-libuv"]), folder)
    ran = record(folder, "base", tmp_path / "base")
    assert (ran.env["NANOCHAT_LIBUV"], "--recompute" in ran.argv) == ("0", True)
    one = record(folder, "base", tmp_path / "base", {"NANOCHAT_NPROC": "1"})
    assert "another start" not in one.out
    assert ran.argv[2] == "nanochat.launch"
    render.write(rendered(*MACHINES["rtx-4050-laptop"]), folder, force=True)
    alone = record(folder, "base", tmp_path / "base")
    assert alone.argv[:3] == ["-u", "-m", "scripts.base_train"]
    assert "--device-batch-size 1 --total-batch-size 1024 --num-iterations 100" in " ".join(
        alone.argv
    )


def test_cann_is_sourced_though_it_uses_unset_variables(folder: Path, tmp_path: Path) -> None:
    cann = tmp_path / "set env.sh"
    cann.write_text('export SEEN="was ${UNSET_BEFORE}"; export ASCEND_HOME_PATH=/cann; false\n')
    plan = make(TorchChoice("2.9.0"), nproc_per_node=4, **{**NPU, "source_files": (str(cann),)})
    render.write(rendered(plan, npus(4)), folder)
    ran = record(folder, "base", tmp_path / "base")
    assert ran.status == 0, ran.out
    assert (ran.env["SEEN"], ran.env["ASCEND_HOME_PATH"]) == ("was ", "/cann")
    assert ran.env["HCCL_CONNECT_TIMEOUT"] == "1200"
    cann.unlink()
    gone = record(folder, "data", tmp_path / "base")
    assert gone.status == 1
    assert "set env.sh cannot be read" in gone.out


def test_what_the_user_sets_wins_even_if_it_is_nothing(folder: Path, tmp_path: Path) -> None:
    render.write(
        rendered(smoke(env={"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "1"})), folder
    )
    env = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "5", "NANOCHAT_DEPTH": "3"}
    ran = record(folder, "base", tmp_path / "base", env)
    assert (ran.env["CUDA_VISIBLE_DEVICES"], ran.env["OMP_NUM_THREADS"]) == ("", "5")
    assert "--depth 3" in " ".join(ran.argv)
    assert ran.argv[ran.argv.index("--model-tag") + 1] == "smoke-d3"
    assert "CUDA_VISIBLE_DEVICES" in ran.env


def test_folders_may_be_relative_or_begin_with_a_tilde(folder: Path, tmp_path: Path) -> None:
    render.write(rendered(smoke()), folder)
    base = tmp_path / "base"
    ran = record(
        folder, "base", base, {"NANOCHAT_BASE_DIR": "~/x", "NANOCHAT_LOG_DIR": "logs"}, cwd=base
    )
    assert ran.status == 0, ran.out
    assert (ran.env["NANOCHAT_BASE_DIR"], ran.env["NANOCHAT_LOG_DIR"]) == (
        f"{base}/x",
        f"{base}/logs",
    )
    relative = record(
        folder, "base", base, {"NANOCHAT_PYTHON": "./python", "NANOCHAT_BASE_DIR": ""}, cwd=base
    )
    assert relative.status == 0, relative.out
    assert relative.env["NANOCHAT_BASE_DIR"] == f"{base}/.cache/nanochat"
    nowhere = record(folder, "base", base, {"NANOCHAT_PYTHON": "/no/python"})
    assert (nowhere.status, nowhere.out.count("error: /no/python is not there")) == (1, 1)


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_another_start_is_at_work(
    folder: Path, tmp_path: Path, sign: signal.Signals, status: int
) -> None:
    render.write(rendered(dataclasses.replace(smoke(), python=sys.executable)), folder)
    markers = tmp_path / "runs" / "smoke-d1" / "markers"
    markers.mkdir(parents=True)
    with (markers / "base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [BASH, folder / "base.sh"],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NANOCHAT_BASE_DIR": str(tmp_path)},
            text=True, stdout=subprocess.PIPE,
            # under nohup it would be ignored
            preexec_fn=lambda: signal.signal(sign, signal.SIG_DFL),
        )  # fmt: skip
        assert waiting.stdout is not None
        assert (
            waiting.stdout.readline()
            == "base: another start of it is at work; waiting until it ends\n"
        )
        waiting.send_signal(sign)
        waiting.communicate(timeout=20)
        assert waiting.returncode == status
    assert not processes_with(f"NANOCHAT_BASE_DIR={tmp_path}")


def test_a_stage_is_skipped_only_while_everything_is_as_it_was(
    folder: Path, tmp_path: Path
) -> None:
    render.write(rendered(smoke()), folder)
    base = tmp_path / "base"
    made = base / "base_checkpoints" / "smoke-d1" / "meta_000006.json"

    def trained(env: Mapping[str, str] | None = None) -> bool:
        (base / "record" / "argv").unlink(missing_ok=True)
        ran = record(folder, "base", base, env)
        assert ran.status == 0, ran.out
        assert ("done before" in ran.out) == (not ran.argv)
        return bool(ran.argv)

    assert trained()
    assert trained()  # it had left no checkpoint
    made.parent.mkdir(parents=True)
    made.write_text("{}")
    assert trained()  # the checkpoint is newer than the marker
    assert "--resume-from-step" in zeros(base / "record" / "argv")
    os.utime(made, (time.time() - 60,) * 2)
    assert not trained()
    assert trained({"NANOCHAT_BASE_STEPS": "9"})
    assert not trained()
    assert trained({"FORCE": "1"})
    assert "--resume-from-step" not in zeros(base / "record" / "argv")
    aside = base / "runs" / "smoke-d1" / "set-aside" / "1" / "meta_000006.json"
    assert (made.exists(), aside.read_text()) == (False, "{}")


# --- hostile values -----------------------------------------------------------------------------

HOSTILE = [
    "a b", "'", '"', '"$(touch canary)"', "`touch canary`", "x\ntouch canary\n# y", "'; touch canary; '",
    "$HOME ${PATH}", "*", "~", "\\", "a\\\nb", "!!", "{a,b}", "# no comment", "é€", "-n", "$'\\n'", "\t",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_stay_what_they_are(value: str, folder: Path) -> None:
    plan = smoke(
        profile=value, device_type=value, dtype=value, data=value, warnings=(value,),
        env={"FIRST": value, "HF_ENDPOINT": value},
    )  # fmt: skip
    plan = dataclasses.replace(plan, python=f"/no/{value}", reason=value, torch=TorchChoice(value))
    facts = machine(nvidia=Nvidia(gpus=(Gpu(index=0, name=value),), driver_version=value))
    render.write(rendered(plan, facts, f"/no/{value}"), folder)
    names = (
        "FIRST HF_ENDPOINT NANOCHAT_PYTHON NANOCHAT_CHECKOUT NANOCHAT_DEVICE NANOCHAT_DTYPE NANOCHAT_DATA "
        "NANOCHAT_MODEL_TAG"
    )
    show = f'set -euo pipefail; . ./env.sh; for v in {names}; do printf "%s\\0" "${{!v}}"; done'
    done = subprocess.run(
        [BASH, "-c", show], cwd=folder, env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    want = [value, value, f"/no/{value}", f"/no/{value}", value, value, value, f"{value}-d1"]
    assert done.stdout.decode().split("\0")[:-1] == want
    for path in folder.glob("*.sh"):
        subprocess.run([BASH, "-n", path], check=True)
    assert not list(folder.rglob("canary"))


@pytest.mark.parametrize("name", ["a b", "$(touch canary)", "x\ntouch canary\n#", "'\"`", "[a-z]*"])
def test_hostile_folders_are_folders(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    folder, base = place / "run", place / "base"
    (place / "checkout").mkdir(parents=True)
    file = place / "set_env.sh"
    file.write_text("export CANN=1\n")
    plan = smoke(source_files=(str(file),), env={"TORCHINDUCTOR_CACHE_DIR": f"{place}/cache"})
    render.write(rendered(plan, checkout=str(place / "checkout")), folder)
    ran = record(folder, "tokenizer", base, python=tmp_path / "python")
    assert ran.status == 0, ran.out
    assert (ran.env["CANN"], ran.env["PWD"]) == ("1", str(place / "checkout"))
    assert ran.env["NANOCHAT_BASE_DIR"] == str(base)
    events = [
        json.loads(line)
        for line in (base / "runs/smoke-d1/logs/status.jsonl").read_text().splitlines()
    ]
    assert [event["event"] for event in events] == ["start", "done"]
    assert Path(events[0]["log"]).is_file()
    assert not list(tmp_path.rglob("canary"))


# --- writing ------------------------------------------------------------------------------------


def test_what_was_edited_is_kept(folder: Path) -> None:
    first, second = rendered(smoke()), rendered(smoke(depth=2))
    assert {w.action for w in render.write(first, folder)} == {"written"}
    assert {w.action for w in render.write(first, folder)} == {"unchanged"}
    base = folder / "base.sh"
    mine = base.read_text().replace("# --recompute", "--recompute  ")
    base.write_text(mine)

    (kept,) = (w for w in render.write(first, folder) if w.path == base)
    assert (kept.action, kept.beside) == ("kept", None)
    assert "was edited" in kept.note
    changed = {w.path.name: w for w in render.write(second, folder)}
    assert changed["env.sh"].action == "written"
    assert (changed["base.sh"].action, base.read_text()) == ("kept", mine)
    assert changed["base.sh"].beside == folder / "base.sh.new"
    assert (folder / "base.sh.new").read_text() == second["base.sh"]
    assert "base.sh.new" in changed["base.sh"].note

    (forced,) = (w for w in render.write(second, folder, force=True) if w.path == base)
    assert forced.action == "replaced"
    assert base.read_text() == second["base.sh"]
    assert (folder / "base.sh.edited").read_text() == mine


def test_a_file_of_somebody_else_is_kept(folder: Path) -> None:
    folder.mkdir()
    (folder / "env.sh").write_bytes(b"\xff not ours\n")
    (written,) = render.write({"env.sh": rendered(smoke())["env.sh"]}, folder)
    assert (written.action, (folder / "env.sh").read_bytes()) == ("kept", b"\xff not ours\n")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DoctorError, match=r"cannot be written.*choose another folder with -o"):
        render.write(rendered(smoke()), tmp_path / "file" / "run")
    (tmp_path / "run" / "env.sh").mkdir(parents=True)
    with pytest.raises(DoctorError, match=r"env\.sh is there and cannot be read"):
        render.write(rendered(smoke()), tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))


def test_scripts_below_the_checkout_find_it_where_it_was_moved(tmp_path: Path) -> None:
    checkout = tmp_path / "one" / "checkout"
    folder = checkout / "runs" / "smoke"
    assert render.checkout_from(folder, checkout) == "../.."
    assert render.checkout_from(tmp_path / "elsewhere", checkout) == str(checkout)
    assert render.checkout_from(checkout, checkout) == str(checkout)
    render.write(rendered(smoke(), checkout="../.."), folder)
    (tmp_path / "one").rename(tmp_path / "two words")
    ran = record(tmp_path / "two words/checkout/runs/smoke", "data", tmp_path / "base")
    assert ran.status == 0, ran.out
    assert ran.env["PWD"] == str(tmp_path / "two words/checkout")


# --- speedrun.sh --------------------------------------------------------------------------------


def speedrun(folder: Path, *words: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BASH, folder / "speedrun.sh", *words],
        env=dict(env), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_list_only_from_and_wrong_words(folder: Path, tmp_path: Path) -> None:
    render.write(rendered(smoke()), folder)
    for stage in render.STAGES:
        (folder / f"{stage.name}.sh").write_text(
            f"echo stage {stage.name}; [ {stage.name} != sample ]"
        )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    listed = speedrun(folder, "--list", env=env)
    assert listed.stdout.split() == "data tokenizer base base_eval sample".split()
    assert speedrun(folder, "--only", "base", env=env).stdout == "stage base\n"
    rest = speedrun(folder, "--from", "base_eval", env=env)
    assert (rest.stdout, rest.returncode) == ("stage base_eval\nstage sample\n", 1)
    for words in (["--only"], ["--from", "sft"], ["--all"]):
        wrong = speedrun(folder, *words, env=env)
        assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)


# --- real runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trainer(torch_python: str) -> str:
    """An interpreter in which the trainer runs."""
    done = subprocess.run(
        [torch_python, "-c", "import pyarrow, torch; from rustbpe import NANOCHAT_PATTERN"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"the trainer does not run in {torch_python}: {done.stderr.strip()[-200:]}")
    return torch_python


@dataclasses.dataclass
class Runs:
    """Scripts of a small run, and the environment in which they are started."""

    folder: Path
    base: Path
    env: dict[str, str]

    def start(self, stage: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BASH, self.folder / f"{stage}.sh"],
            env=self.env | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def end(self, stage: str, **env: str) -> tuple[int, str]:
        started = self.start(stage, **env)
        out, _ = started.communicate(timeout=300)
        return started.returncode, out

    def events(self, tag: str = "smoke-d1") -> list[tuple[str, str, int]]:
        lines = (self.base / "runs" / tag / "logs" / "status.jsonl").read_text().splitlines()
        return [(line["stage"], line["event"], line["status"]) for line in map(json.loads, lines)]


@pytest.fixture(scope="module")
def prepared(trainer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder with data and tokenizer, made by the scripts themselves."""
    base = tmp_path_factory.mktemp("prepared")
    runs = make_runs(smoke(), base, warm.python(trainer))
    for stage in ("data", "tokenizer"):
        status, out = runs.end(stage)
        assert status == 0, out
    return base


def make_runs(plan: Plan, base: Path, python: str) -> Runs:
    folder = base / "scripts"
    render.write(rendered(dataclasses.replace(plan, python=python)), folder)
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("NANOCHAT_", "USE_LIBUV", "OMP_", "PYTHONPATH"))
    }  # fmt: skip
    return Runs(folder, base, kept | {"NANOCHAT_BASE_DIR": str(base)})


@pytest.fixture
def runs(prepared: Path, trainer: str, tmp_path: Path) -> Iterator[Callable[..., Runs]]:
    """Makes runs of plans, in copies of the prepared folder; nothing of them survives the test.

    They start quickly in a warm Python, and where a test is about their processes, in a plain one.
    """
    base = tmp_path / "base"
    shutil.copytree(prepared, base)
    yield lambda plan, plain=False: make_runs(
        plan, base, trainer if plain else warm.python(trainer)
    )
    left = processes_with(f"NANOCHAT_BASE_DIR={base}")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a run left processes behind"


def processes_with(variable: str) -> list[int]:
    """Processes whose environment holds a variable."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_for(text: str, folder: Path, seconds: float = 90) -> Path:
    """The log in which a text shows up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in folder.glob("*.log"):
            if text in path.read_text(errors="replace"):
                return path
        time.sleep(0.1)
    raise AssertionError(f"no log in {folder} says {text!r}")


@pytest.mark.timeout(400)  # what the others build on is made here, too
def test_data_and_tokenizer_are_made_once(runs: Callable[..., Runs]) -> None:
    run = runs(smoke())
    assert run.events() == [
        ("data", "start", 0), ("data", "done", 0), ("tokenizer", "start", 0), ("tokenizer", "done", 0),
    ]  # fmt: skip
    log = next((run.base / "runs/smoke-d1/logs").glob("tokenizer-*.log")).read_text()
    assert all(re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log.splitlines())
    assert "512 tokens" in log
    shutil.copy2(run.base / "tokenizer" / "tokenizer.bpe", run.base / "before")
    two = [run.start("tokenizer", FORCE="1"), run.start("tokenizer")]
    outs = [each.communicate(timeout=60)[0] for each in two]
    assert [each.returncode for each in two] == [0, 0], outs
    assert run.end("data")[1] == "data: done before; FORCE=1 does it again\n"


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(
    runs: Callable[..., Runs],
) -> None:
    run = runs(smoke())
    status, out = run.end("data", FORCE="1", NANOCHAT_DISK_MB="900000000000")
    assert status == 1
    assert "error: data and checkpoints take about 900000000000 MB, but" in out
    assert run.events()[-1] == ("data", "failed", 1)


def test_a_stage_that_fails_says_where_its_log_is(runs: Callable[..., Runs]) -> None:
    run = runs(smoke())
    done = speedrun(run.folder, "--from", "base", env=run.env | {"NANOCHAT_DTYPE": "int4"})
    assert done.returncode == 2, done.stderr
    assert "base: failed with status 2; see " in done.stderr
    assert "int4" in Path(done.stderr.rpartition("see ")[2].strip()).read_text()
    assert run.events()[-1] == ("base", "failed", 2)
    assert not list((run.base / "runs/smoke-d1/markers").glob("base-*.done"))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_whole_run_and_another_that_has_nothing_to_do(runs: Callable[..., Runs]) -> None:
    run = runs(smoke())
    done = speedrun(run.folder, env=run.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The function returns" in done.stdout
    names = [stage.name for stage in render.STAGES]
    assert [stage for stage, event, _ in run.events()[4:] if event != "start"] == names
    assert (run.base / "base_checkpoints/smoke-d1/meta_000006.json").exists()
    assert "-g smoke-d1\n" in done.stdout
    again = speedrun(run.folder, env=run.env)
    assert again.returncode == 0
    assert run.events()[-5:] == [(name, "skipped", 0) for name in names]


TELLING = """
# Every TCPStore of every process of the run tells what it is; the trainer knows nothing of it.
import os
try:
    import torch.distributed as dist
except ImportError:
    dist = None
if dist is not None:
    make = dist.TCPStore.__init__

    def telling(self, *args, **options):
        make(self, *args, **options)
        rank = os.environ.get("RANK", "agent")
        with open(os.environ["TELL"], "a") as file:
            file.write(f"{rank} {self.libuvBackend}\\n")

    dist.TCPStore.__init__ = telling
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_runs_of_two_ranks_at_once_with_libuv_and_without(
    runs: Callable[..., Runs], tmp_path: Path
) -> None:
    run = runs(smoke(2))
    (tmp_path / "sitecustomize.py").write_text(TELLING)
    tells = {"with": tmp_path / "with.txt", "without": tmp_path / "without.txt"}
    started = {
        tag: run.start(
            "base", NANOCHAT_MODEL_TAG=tag, TELL=str(tells[tag]), PYTHONPATH=str(tmp_path), NANOCHAT_BASE_PORT="29460",
            **({"NANOCHAT_LIBUV": "0"} if tag == "without" else {}),
        )
        for tag in tells
    }  # fmt: skip
    outs = {tag: each.communicate(timeout=300)[0] for tag, each in started.items()}
    assert [each.returncode for each in started.values()] == [0, 0], outs
    told = {
        tag: {tuple(line.split()) for line in path.read_text().splitlines()}
        for tag, path in tells.items()
    }
    # With libuv the agent tries one store to find out, and that one has it too.
    assert told["with"] == {("agent", "True"), ("0", "True"), ("1", "True")}
    assert told["without"] == {("agent", "False"), ("0", "False"), ("1", "False")}
    ports = [re.findall(r"ranks meet at 127\.0\.0\.1:(\d+)", out)[-1] for out in outs.values()]
    assert len(set(ports)) == 2, ports
    for tag, out in outs.items():
        assert "2 ranks" in out
        assert (run.base / "base_checkpoints" / tag / "meta_000006.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_leaves_no_process_and_the_next_start_goes_on(
    runs: Callable[..., Runs], ranks: int
) -> None:
    run = runs(smoke(ranks, num_iterations=100_000), plain=True)
    started = subprocess.Popen(
        [BASH, run.folder / "speedrun.sh", "--from", "base"],
        env=run.env | {"NANOCHAT_SAVE_EVERY": "2"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_for("saved     step 4 ", run.base / "runs/smoke-d1/logs")
    assert len(processes_with(f"NANOCHAT_BASE_DIR={run.base}")) > ranks
    started.send_signal(signal.SIGTERM)
    out, _ = started.communicate(timeout=100)
    assert started.returncode == 143, out
    assert "base: stopping (SIGTERM)" in out
    assert "base: failed with status 143" in out
    assert processes_with(f"NANOCHAT_BASE_DIR={run.base}") == []
    assert run.events()[-1] == ("base", "failed", 143)
    steps = [
        int(path.stem[5:]) for path in (run.base / "base_checkpoints/smoke-d1").glob("meta_*.json")
    ]
    last = max(steps)
    again = runs(smoke(ranks, num_iterations=100_000))
    status, out = again.end("base", NANOCHAT_BASE_STEPS=str(last + 2))
    assert status == 0, out
    assert f"resumed   step {last} in" in out


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_rank_that_hangs_is_killed(runs: Callable[..., Runs], tmp_path: Path) -> None:
    run = runs(smoke(2, num_iterations=100_000), plain=True)
    started = run.start("base", NANOCHAT_GRACE="1")
    wait_for("step 000003/", run.base / "runs/smoke-d1/logs")
    ranks = [
        pid for pid in processes_with(f"NANOCHAT_BASE_DIR={run.base}")
        if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]  # fmt: skip
    assert ranks
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    started.send_signal(signal.SIGINT)
    out, _ = started.communicate(timeout=100)
    assert started.returncode == 130, out
    assert "killing what still runs after 1 s" in out
    assert processes_with(f"NANOCHAT_BASE_DIR={run.base}") == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_start_waits_for_what_a_killed_one_left_at_work(runs: Callable[..., Runs]) -> None:
    run = runs(smoke(num_iterations=100))
    killed = run.start("base")
    wait_for("step 003/", run.base / "runs/smoke-d1/logs")
    killed.kill()
    killed.wait()
    status, out = run.end("base")
    assert status == 0, out
    assert out.startswith("base: another start of it is at work; waiting until it ends\n")
    assert "resumed   step 100 in" in out
    killed.communicate(timeout=10)

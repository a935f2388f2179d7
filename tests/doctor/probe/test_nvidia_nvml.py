"""NVML and nvidia-smi, asked about the same machines: the same facts, whoever tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
from cases import CASES
from machines import CARDS, Nvidia, build, nvidia
from machines.gpus import smi_row, uuid
from machines.nvml import Library
from verdicts import TABLES

from doctor.errors import Unknown
from doctor.facts import Facts, Gpu
from doctor.findings.rules.examine import examine
from doctor.machine.system import Completed, System
from doctor.planner.commands import Target
from doctor.planner.decide import plan
from doctor.planner.terms.plan import Wishes
from doctor.probe.nvidia import gpus as nvidia_probe
from doctor.probe.nvidia import nvidia_smi, nvml
from doctor.probe.survey import survey

DESCRIBED = {
    name: case.machine.nvidia
    for name, case in CASES.items()
    if case.machine.nvidia and case.machine.nvidia.driver and not case.machine.nvidia.wsl
}
NODE_REBOOT = "recovery by a restart of the node"
"""Its word is an older nvidia-smi's, of which NVML has only the number."""


class Printed(System):
    """A machine whose nvidia-smi prints what its description says, without a process for it."""

    def __init__(self, it: Nvidia) -> None:
        super().__init__()
        self.it = it

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}"

    def run(self, arguments: Sequence[str]) -> Completed:
        it, what = self.it, arguments[1] if len(arguments) > 1 else ""
        if it.says is not None:
            return Completed(9, it.says, "")
        if what.startswith("--query-gpu="):
            fields = what.removeprefix("--query-gpu=").split(",")
            rows = [smi_row(i, card, str(it.driver)) for i, card in enumerate(it.cards)]
            lines = [", ".join(row.get(field, "[N/A]") for field in fields) for row in rows]
            return Completed(0, "\n".join([it.warns, *lines]), "")
        if what.startswith("--query-compute-apps="):
            apps = [line.split(", ", 1) for line in it.apps.splitlines()]
            return Completed(0, "\n".join(f"{uuid(int(n))}, {rest}" for n, rest in apps), "")
        if what == "-L":
            return Completed(0, it.listing or "", "")
        cuda = f"CUDA Version: {it.cuda or '13.0'}"
        return Completed(0, cuda, "")

    def start(self, arguments: Sequence[str], seconds: float | None = None) -> None:  # type: ignore[override]
        """Nothing runs beside."""


def play(monkeypatch: pytest.MonkeyPatch, it: Nvidia) -> None:
    """Have pynvml meet a machine."""
    monkeypatch.setattr(pynvml, "nvmlLib", Library(it))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def comparable(gpu: Gpu) -> Gpu:
    """Without the address of a card that is lost: nvidia-smi has it, NVML gives no handle to ask."""
    return replace(gpu, bus_id=None) if gpu.name is None else gpu


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_same_facts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    it = DESCRIBED[name]
    if name == NODE_REBOOT:
        it = replace(it, cards=(CARDS["H100"].but(gpu_recovery_action="Reboot"),))
    told = nvidia_smi.ask(Printed(it))
    play(monkeypatch, it)
    answered = nvml.ask()
    assert [comparable(g) for g in answered.gpus] == [comparable(g) for g in told.gpus]
    assert bool(answered.source) == bool(told.source) == bool(told.gpus)
    assert bool(answered.error) == bool(told.error)
    if told.gpus and "Failed" not in (it.says or ""):
        assert answered.driver_version == told.driver_version or told.driver_version is None
    for words in ("Unknown Error", "No devices were found", "Driver/library version mismatch",
                  "GPU access blocked by the operating system"):  # fmt: skip
        said = (told.error or "").replace("devices found", "devices were found")  # since 590
        assert (words in (answered.error or "")) == (words in said)


def test_every_question_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No field is left out because the stand-in lacks its function."""
    card = CARDS["H100"].but(
        fabric__state="Completed", fabric__status="Success", remapped_rows__pending="Yes",
        mig__mode__current="Disabled", ecc__mode__current="Enabled",
        ecc__errors__uncorrected__volatile__total="3", gpu_recovery_action="Reset",
    )  # fmt: skip
    play(monkeypatch, nvidia(card, driver="580.95.05", apps="0, 4711, python, 900"))
    (gpu,) = nvml.ask().gpus
    empty = {name for name, value in vars(gpu).items() if value in (None, (), {})}
    assert empty == {"mig_instances", "unknown"}
    assert gpu.faults == ("remapped_rows.pending: Yes", "gpu_recovery_action: Reset")


def test_cards_of_others_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's cgroup: NVML counts all cards and refuses those of other jobs."""
    play(monkeypatch, replace(nvidia("2 * H100"), warns="Insufficient Permissions\n" * 6))
    assert len(nvml.ask().gpus) == 2
    play(monkeypatch, replace(nvidia(), warns="Insufficient Permissions\n" * 8))
    answer = nvml.ask()
    assert (answer.source, answer.error) == (None, "Insufficient Permissions")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nvidia-smi is asked: that there is no NVML says nothing of the cards."""
    it = nvidia("H100")
    play(monkeypatch, it)
    monkeypatch.setattr(pynvml.nvmlLib, "init", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    with pytest.raises(Unknown, match=r"libnvidia-ml\.so\.1"):
        nvml.ask()


@pytest.mark.parametrize("name", ["NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", "c_nvmlGpuFabricInfo_t",
                                  "nvmlDeviceGetGpuFabricInfo"])  # fmt: skip
def test_an_older_nvidia_ml_py(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What it does not know is not asked; all else is."""
    play(monkeypatch, nvidia("H100"))
    monkeypatch.delattr(pynvml, name)
    (gpu,) = nvml.ask().gpus
    assert (gpu.name, gpu.compute_mode, gpu.unknown) == ("NVIDIA H100 80GB HBM3", "Default", {})


# --- the whole way: pynvml's answer, the bus, the verdict, the plan --------------------------------


@pytest.mark.parametrize("name", ["no devices, with status 0", "the only card requires a reset",
                                  "one of eight is lost", "GPU lost", "the only card is prohibited",
                                  "docker that lost its devices", "MIG on, docker was given none",
                                  "fabric completed, and not for one card", "seven of eight",
                                  "cuda-compat on an A100", "exclusive, and held"])  # fmt: skip
def test_the_same_verdict_and_plan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """What a live machine gets is what a recorded one gets; an accelerator is never planned for its CPU."""
    case = CASES[name]
    described = case.machine.nvidia
    assert described
    if name.startswith("no devices"):
        described = replace(described, says="No devices were found")
    system = System(build(case.machine, tmp_path), execute=True)
    recorded = survey(system, TABLES, debug=True)
    play(monkeypatch, described)
    monkeypatch.setattr(nvidia_probe, "_ask_driver", lambda *_: nvml.ask())
    live = survey(system, TABLES, areas=("nvidia",), debug=True).nvidia
    assert live and recorded.nvidia
    facts = replace(recorded, nvidia=live)
    assert said(facts) == said(recorded)
    plans = [plan(f, TABLES, Wishes(), Target("python")) for f in (facts, recorded)]
    assert plans[0].route == plans[1].route
    assert plans[0].route == "blocked" or plans[0].launch.device_type == "cuda"  # type: ignore[union-attr]


def said(facts: Facts) -> set[tuple[str, str]]:
    return {(f.code, f.severity) for f in examine(facts, TABLES)}

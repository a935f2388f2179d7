"""Every row of every table goes through check and plan: a machine for which it is made is judged, and no rule fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from facts_of_machines import CUDA_TORCH, HOST, PC, PYTHON, torch_build, with_card
from verdicts import TABLES, check_shapes

from doctor.cli.decision import target_of
from doctor.errors import DoctorError
from doctor.facts import (
    Ascend,
    Cann,
    Endpoint,
    Facts,
    Gpu,
    Jetson,
    Network,
    Npu,
    Nvidia,
    PciDevice,
    Torch,
    TorchNpu,
)
from doctor.findings.rules.examine import examine
from doctor.knowledge.tables import Row
from doctor.planner.decide import plan
from doctor.planner.terms.plan import Wishes

Case = tuple[Facts, Mapping[str, Any]]
"""A machine, and what its user wishes."""

CPU = Facts(host=HOST, python=PYTHON, nvidia=Nvidia(), ascend=Ascend(), torch=Torch())
TREE = {"route": "source-build"}


def on(arch: str, facts: Facts) -> Facts:
    """The same machine with another processor."""
    os = "Darwin" if arch.endswith("macos") else "Linux"
    name = {"aarch64-macos": "arm64", "x86_64-macos": "x86_64"}.get(arch, arch)
    return replace(facts, host=replace(facts.host or HOST, os=os, arch=name))


def ends(found: Sequence[str]) -> list[str]:
    """The first and the last of a list."""
    return list(dict.fromkeys([*found[:1], *found[-1:]]))


def python(version: str, facts: Facts) -> Facts:
    """The same machine with another Python."""
    return replace(facts, python=replace(facts.python or PYTHON, version=f"{version}.1"))


def capability(arch: str) -> str:
    """`sm_90a`, `9.0a`, `90` -> `9.0`."""
    digits = re.sub(r"\D", "", arch)
    return f"{digits[:-1]}.{digits[-1]}"


def npu(
    cann: str = "8.5.0", name: str = "910B3", series: str | None = "910B", **more: Any
) -> Facts:
    """A machine with an NPU, its driver and CANN."""
    toolkit = Cann(path="/usr/local/Ascend/ascend-toolkit/latest", version=cann, kernels="Ascend910B",
                   set_env="/usr/local/Ascend/ascend-toolkit/set_env.sh")  # fmt: skip
    ascend = Ascend(
        device_nodes=("/dev/davinci0",), manager_nodes=("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"),
        driver_version="25.5.0", driver_library="/usr/local/Ascend/driver/lib64/driver/libascend_hal.so",
        driver_library_found=True, visible=(0,), toolkits=(toolkit,), active_toolkit=toolkit.path, env_sourced=True,
        npus=(Npu(index=0, npu_id=0, chip_id=0, name=name, series=series, health="OK", hbm_total=65536),),
    )  # fmt: skip
    return replace(CPU, ascend=replace(ascend, **more))


# --- the machines of a row --------------------------------------------------------------------------


def gpu(row: Row) -> Iterator[Case]:
    for driver, torch in ((None, None), ("580.95.05", None), ("580.95.05", CUDA_TORCH)):
        yield with_card(row["cc"], driver, torch, f"NVIDIA {row['name']}"), {}


def accelerator(row: Row) -> Iterator[Case]:
    yield npu(name=row["name"].removeprefix("Ascend "), series=row["series"]), {}


def wheel(row: Row) -> Iterator[Case]:
    codes = [capability(arch) for arch in (*row["sass"], *row["ptx"])]
    local = "" if row["cpu_arch"].endswith("macos") else f"+{row['variant']}"
    build = torch_build(f"{row['torch']}.0{local}", row["cuda"] or None, " ".join(codes))
    for facts in (CPU, *(with_card(cc, "580.95.05") for cc in ends(codes))):
        yield on(row["cpu_arch"], facts), {}
        yield on(row["cpu_arch"], replace(facts, torch=Torch(installed=build))), {}


def nightly(row: Row) -> Iterator[Case]:
    for facts, _ in wheel({**row, "torch": "2.16"}):
        yield facts, {"channel": "nightly"}


def release(row: Row) -> Iterator[Case]:
    for version in row["versions"]:
        build = torch_build(version, None)
        for minor in ("3.8", *ends(row["pythons"]), "3.15"):
            yield python(minor, replace(CPU, torch=Torch(installed=build))), {}


def companion(row: Row) -> Iterator[Case]:
    names = {name: row[name] for name in ("torchvision", "torchaudio") if row.get(name)}
    for torch in (row["torch"], "2.9.1"):
        facts = replace(CPU, torch=Torch(installed=torch_build(torch, None)))
        packages = {"torch": torch, **names}
        yield replace(facts, python=replace(PYTHON, packages=packages)), {}


def ended(row: Row) -> Iterator[Case]:
    for minor in (row["python"], "3.14"):
        yield python(minor, on(row["cpu_arch"], CPU)), {}


def pair(row: Row) -> Iterator[Case]:
    for arch in ("x86_64", "aarch64"):
        for minor in ends(row["pythons"] or ["3.10"]):
            facts = python(minor, on(arch, npu(row.get("cann", "8.5.0"))))
            yield facts, {}
            both = TorchNpu(version=row["torch_npu"], requires_torch=f"=={row['torch']}")
            ascend = replace(facts.ascend or Ascend(), torch_npu=both)
            torch = Torch(installed=torch_build(row["torch"], None))
            yield replace(facts, ascend=ascend, torch=torch), {}


def declares(row: Row) -> Iterator[Case]:
    for key in ("torch_npu_min", "torch_npu_max"):
        if key in row:
            yield npu(torch_npu=TorchNpu(version=row[key])), {}


def chip(row: Row) -> Iterator[Case]:
    name = re.sub(r"\[0-9\]\{2\}", "92", row["pattern"].strip("^$"))
    name = re.sub(r"\((\w*)\|[^)]*\)\??|\[0-9\]\?|\(_\.\*\)\?|\.\*", r"\1", name)
    assert re.match(row["pattern"], name)
    yield npu(name=name, series=row["series"]), {}


def ascend_driver(row: Row) -> Iterator[Case]:
    for cann in row["cann"]:
        inner = f"{row['generation']}SPC001B001"
        yield npu(cann, driver_version=row["release"], driver_inner_version=inner), {}


def floor(row: Row) -> Iterator[Case]:
    for version in (row["min_driver"], "23.0.0", "99.0"):
        yield npu(row["cann"], driver_version=version), {}


def ascend_python(row: Row) -> Iterator[Case]:
    for minor in row["pythons"]:
        torch = Torch(installed=torch_build(row["torch"], None))
        yield python(minor, replace(npu(), torch=torch)), {}


def requires(row: Row) -> Iterator[Case]:
    for key in ("missing_packages", "unfit_packages"):
        package = TorchNpu(version="2.9.0", **{key: (row["package"],)})  # type: ignore[arg-type]
        yield npu(torch_npu=package), {}


def bus(row: Row) -> Iterator[Case]:
    device = PciDevice(address="0000:01:00.0", vendor_id=row["vendor"], device_id=row["device"])
    yield replace(CPU, ascend=Ascend(pci_devices=(device,))), {}


def profile(row: Row) -> Iterator[Case]:
    for facts in (CPU, PC, npu(), on("aarch64-macos", CPU)):
        yield facts, {"profile": row["name"]}
        yield facts, {"profile": row["name"], "nproc": 1}


def built(row: Row) -> Iterator[Case]:
    """Source builds for cards of several generations."""
    for cc in ("5.0", "6.1", "8.6", "9.0", "12.0"):
        for libuv in (None, True, False):
            yield with_card(cc, "580.95.05"), {**TREE, "libuv": libuv}
    yield PC, {**TREE, "archs": ("9.0a", "12.0+PTX")}


def distribution(row: Row) -> Iterator[Case]:
    for word in ends(row["id"] or ["void"]):
        name, _, version = word.partition(":")
        host = replace(
            HOST,
            distro_id=name,
            distro_like=(),
            distro_version=version or "1",
            tools={},
            usr_include=False,
        )
        bare = replace(PYTHON, headers=None, venv_module=False)
        for facts in (CPU, PC, with_card("8.6", None), with_card("6.1", None)):
            yield replace(facts, host=host, python=bare), (TREE if facts is PC else {})


def address(row: Row) -> Iterator[Case]:
    for reachable in (True, False):
        asked = Endpoint(name=row["name"], kind=row.get("kind", "hub"), host="h", reachable=reachable,
                         latency=0.1 if reachable else None, trouble=None if reachable else "no answer")  # fmt: skip
        for facts in (CPU, PC):
            yield (
                replace(facts, network=Network(endpoints=(asked,))),
                {"profile": "gpt2"} if False else {},
            )


def jetson(row: Row) -> Iterator[Case]:
    for l4t in TABLES.rows("jetson", "l4t"):
        chips = TABLES.rows("jetson", "chip") if "release" in row else [row]
        for item in chips:
            board = Jetson(
                model=item["model"], chip=item["name"], compute_capability=item["cc"], l4t=f"{l4t['release']}.1.0",
                jetpack=l4t["jetpack"], nodes=("/dev/nvmap",), has_gpu_node=True,
            )  # fmt: skip
            card = Gpu(index=0, name=item["name"], compute_capability=item["cc"])
            for nvidia in (Nvidia(jetson=board), Nvidia(jetson=board, gpus=(card,), visible=(0,))):
                yield on("aarch64", replace(CPU, nvidia=nvidia)), {}


def fault(row: Row) -> Iterator[Case]:
    said = row["pattern"].split("|")[0] + "1"
    nvidia = PC.nvidia or Nvidia()
    card = replace(nvidia.gpus[0], faults=(said,))
    yield replace(PC, nvidia=replace(nvidia, gpus=(card,))), {}


def container(row: Row) -> Iterator[Case]:
    for facts in (PC, with_card("8.6", None), CPU):
        yield replace(facts, host=replace(HOST, container=row["name"])), {}


MACHINES: Mapping[str, Callable[[Row], Iterator[Case]]] = {
    "accelerators gpu": gpu,
    "accelerators npu": accelerator,
    "torch wheel": wheel,
    "torch nightly": nightly,
    "torch release": release,
    "torch companion": companion,
    "torch ended": ended,
    "ascend pair": pair,
    "ascend unpaired": pair,
    "ascend declares": declares,
    "ascend chip": chip,
    "ascend driver": ascend_driver,
    "ascend driver_floor": floor,
    "ascend python": ascend_python,
    "ascend requires": requires,
    "ascend pci": bus,
    "profiles profile": profile,
    "recipes tree": built,
    "recipes cost": built,
    "recipes compiler": lambda row: distribution(_manager(row["manager"])),
    "packages manager": distribution,
    "packages repository": distribution,
    "packages need": lambda row: distribution(
        _manager(next(name for name in MANAGERS if name in row))
    ),
    "drivers install": distribution,
    "mirrors endpoint": address,
    "mirrors mirror": address,
    "jetson chip": jetson,
    "jetson l4t": jetson,
    "cards fault": fault,
    "cards container": container,
}
"""Table -> the machines for which a row of it is made."""


MANAGERS = [str(row["name"]) for row in TABLES.rows("packages", "manager")]


def _manager(name: str) -> Row:
    return next(row for row in TABLES.rows("packages", "manager") if row["name"] == name)


ROWS = [
    pytest.param(make, row, id=f"{table} {number}")
    for table, make in MACHINES.items()
    for number, row in enumerate(TABLES.rows(*table.split()))
]


@pytest.mark.parametrize(("make", "row"), ROWS)
def test_every_row_goes_through_check_and_plan(
    make: Callable[[Row], Iterator[Case]], row: Row
) -> None:
    made = [judged(facts, wishes) for facts, wishes in make(row)]
    assert any(made), "no machine of this row has a plan"


JUDGED: dict[str, bool] = {}


def judged(facts: Facts, wishes: Mapping[str, Any]) -> bool:
    """Check and plan, once where several rows have a machine in common; whether there is a plan."""
    machine = repr((facts, wishes))
    if machine not in JUDGED:
        JUDGED[machine] = judge(facts, wishes)
    return JUDGED[machine]


def judge(facts: Facts, wishes: Mapping[str, Any]) -> bool:
    """Check and plan; whether there is a plan. Only a wish may be turned down, in a sentence."""
    check_shapes(examine(facts, TABLES))
    try:
        made = plan(facts, TABLES, Wishes(**wishes), target_of(facts))
    except DoctorError as error:
        assert wishes and str(error).endswith("."), error
        return False
    assert made.route and made.reason.endswith("."), made.reason
    assert "doctor.rule-failed" not in {f.code for f in made.findings}, made.findings
    assert all(step.commands and step.title for step in made.steps)
    return True

"""No machine with an accelerator is planned for its CPU without a finding that blocks or explains."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from verdicts import TABLES

from doctor.facts import Ascend, Cann, Facts, Gpu, GpuProcess, Host, Npu, Nvidia, PciDevice, Python
from doctor.planner.routes.order import decide
from doctor.planner.terms.plan import Wishes
from doctor.planner.terms.question import Question
from doctor.probe.nvidia.visibility import visible_devices

ON_BUS = {"0x2684": "8.9", "0x2330": "9.0", "0x1b80": "6.1", "0x2b85": "12.0", "0x9999": None}
NAMES = {"8.9": "NVIDIA GeForce RTX 4090", "9.0": "NVIDIA H100", "6.1": "NVIDIA GeForce GTX 1080"}
SAID = [None, "No devices were found", "Failed to initialize NVML: Unknown Error", "Insufficient Permissions",
        "Failed to initialize NVML: GPU access blocked by the operating system", "nvidia-smi is not installed",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "something new",
        "Unable to determine the device handle for GPU 0000:11:00.0: Unknown Error"]  # fmt: skip
FAULTS = [
    (),
    ("GPU is lost",),
    ("GPU requires reset",),
    ("name: Unknown Error",),
    ("remapped_rows.pending: Yes",),
]
LIBRARIES = [None, "/usr/lib/libcuda.so.580.95.05", "/opt/compat/libcuda.so.580.95.05"]
MASKS = [None, "", "0", "7", "GPU-x"]


@st.composite
def nvidias(draw: st.DrawFn) -> Nvidia:
    """Any state of any cards: what the bus, the kernel, the driver and the environment say goes together or not."""
    ids = draw(st.lists(st.sampled_from(sorted(ON_BUS)), min_size=1, max_size=3))
    devices = tuple(
        PciDevice(address=f"0000:{17 + i:02x}:00.0", vendor_id="0x10de", device_id=number,
                  compute_capability=ON_BUS[number],
                  driver=draw(st.sampled_from([None, "nvidia", "nouveau", "vfio-pci"])))
        for i, number in enumerate(ids)
    )  # fmt: skip
    answers = draw(st.booleans())
    count = draw(st.integers(0, len(ids))) if answers else 0
    gpus = tuple(
        Gpu(index=i, name=NAMES.get(d.compute_capability or ""), bus_id=d.address,
            compute_capability=d.compute_capability,
            memory_total=24576, memory_free=24000, faults=draw(st.sampled_from(FAULTS)),
            compute_mode=draw(st.sampled_from([None, "Default", "Prohibited", "Exclusive_Process"])),
            mig_mode=draw(st.sampled_from([None, "Disabled", "Enabled"])),
            fabric_state=draw(st.sampled_from([None, "Completed", "In Progress"])),
            processes=draw(st.sampled_from([(), (GpuProcess(pid=1),)])))
        for i, d in enumerate(devices[:count])
    )  # fmt: skip
    mask = draw(st.sampled_from(MASKS))
    env = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    shown = visible_devices(env, gpus)
    version = st.sampled_from([None, "535.183.01", "580.95.05"])
    values: dict[str, Any] = {
        "kernel_driver": draw(version), "driver_version": draw(version), "library_version": draw(version),
        "driver_library": draw(st.sampled_from(LIBRARIES)),
        "device_nodes": draw(st.sampled_from([(), ("/dev/nvidia0",)])),
        "uvm": draw(st.sampled_from([None, "there", "missing", "on demand"])),
        "closed_nodes": draw(st.sampled_from([(), ("/dev/nvidia0",)])),
        "choosers": draw(st.sampled_from([(), ("Slurm",), ("CUDA_VISIBLE_DEVICES",)])),
        "smi_error": draw(st.sampled_from(SAID)),
    }  # fmt: skip
    return Nvidia(
        pci_devices=devices, gpus=gpus, visible=shown.indices, invalid_visible=shown.invalid,
        visible_variable=mask, source=draw(st.sampled_from(["nvml", "nvidia-smi"])) if answers else None,
        **values,
    )  # fmt: skip


@st.composite
def ascends(draw: st.DrawFn) -> Ascend:
    """Any state of an NPU."""
    device = PciDevice(address="0000:c1:00.0", vendor_id="0x19e5", device_id="0xd802", chip="910B")
    npus = draw(
        st.sampled_from([(), (Npu(index=0, npu_id=0, chip_id=0, name="910B3", series="910B"),)])
    )
    return Ascend(
        pci_devices=(device,), npus=npus, visible=draw(st.sampled_from([(), (0,)])) if npus else (),
        device_nodes=draw(st.sampled_from([(), ("/dev/davinci0",)])),
        driver_version=draw(st.sampled_from([None, "25.2.0"])),
        smi_error=draw(st.sampled_from([None, "dcmi module initialize failed. ret is -8005"])),
        toolkits=(Cann(path="/usr/local/Ascend", version="8.2.RC1"),), active_toolkit="/usr/local/Ascend",
    )  # fmt: skip


hosts = st.builds(
    lambda container, wsl: Host(os="Linux", arch="x86_64", libc="glibc", libc_version="2.39",
                                container=container, wsl=wsl, memory_total=65536, cores=8),
    st.sampled_from([None, "docker", "lxc", "kubernetes", "systemd-nspawn"]), st.booleans(),
)  # fmt: skip
python = Python(executable="/venv/bin/python", version="3.12.3", venv=True, pip_version="25.0")


def explained(facts: Facts) -> None:
    """The property itself."""
    question = Question(facts, TABLES, Wishes(), None)
    assert not [f for f in question.findings if f.code == "doctor.rule-failed"]
    decision, _ = decide(question)
    assert decision.kind != "cpu", (decision.route, decision.reason)
    if decision.route == "blocked":
        assert [f for f in question.findings if f.severity == "error"], decision.reason


@settings(deadline=None, max_examples=60)
@given(nvidias(), hosts)
def test_any_gpu(nvidia: Nvidia, host: Host) -> None:
    explained(Facts(host=host, python=python, nvidia=nvidia))


@settings(deadline=None, max_examples=20)
@given(ascends(), hosts)
def test_any_npu(ascend: Ascend, host: Host) -> None:
    explained(Facts(host=host, python=python, nvidia=Nvidia(), ascend=ascend))

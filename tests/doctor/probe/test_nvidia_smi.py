"""What nvidia-smi prints, as it prints it, and as it should never print it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.errors import Unknown
from doctor.machine.system import Completed, System
from doctor.probe.nvidia import fields as nvidia_fields
from doctor.probe.nvidia import nvidia_smi
from doctor.probe.nvidia.fields import CORE, SMI_FIELDS
from doctor.probe.nvidia.nvidia_smi import complaint, parse_mig_list, parse_rows, parse_topology

SHORT = ("index", "name", "memory.total", "compute_cap", "mig.mode.current")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "0, NVIDIA GeForce RTX 4090, 24564, 8.9, [N/A]\n",
            [{"index": "0", "name": "NVIDIA GeForce RTX 4090", "memory.total": "24564",
              "compute_cap": "8.9"}],
        ),
        (
            "0, NVIDIA A100-SXM4-80GB, 81920, 8.0, Enabled\n1, NVIDIA A100-SXM4-80GB, 81920, 8.0, "
            "Disabled\n",
            [{"index": "0", "name": "NVIDIA A100-SXM4-80GB", "memory.total": "81920",
              "compute_cap": "8.0", "mig.mode.current": "Enabled"},
             {"index": "1", "name": "NVIDIA A100-SXM4-80GB", "memory.total": "81920",
              "compute_cap": "8.0", "mig.mode.current": "Disabled"}],
        ),
        (
            "0, NVIDIA GB10, [N/A], 12.1, [N/A]\n",
            [{"index": "0", "name": "NVIDIA GB10", "compute_cap": "12.1"}],
        ),
        (
            "0, Tesla V100, [Not Supported], [Unknown Error], [Insufficient Permissions]\n",
            [{"index": "0", "name": "Tesla V100", "compute_cap": "[Unknown Error]",
              "mig.mode.current": "[Insufficient Permissions]"}],
        ),
        ("0, NVIDIA L4, 23034, 8.9, N/A\r\n", [{"index": "0", "name": "NVIDIA L4",
                                               "memory.total": "23034", "compute_cap": "8.9"}]),
        ("", []),
        ("\n\n", []),
        ("No devices were found\n", []),
        ("index, name, memory.total [MiB], compute_cap, mig.mode.current\n", []),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", []),
        ("a, b, c, d, e\n", []),
        ("0, , 1, 8.9, x\n", []),
        ("0, NVIDIA L4, 23034\n", []),
        ("Warning, one, two, three, four\n0, X, 1, 8.9, [N/A]\n",
         [{"index": "0", "name": "X", "memory.total": "1", "compute_cap": "8.9"}]),
    ],
)  # fmt: skip
def test_rows(text: str, expected: list[dict[str, str]]) -> None:
    assert parse_rows(text, SHORT) == expected


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=200), st.sampled_from([SHORT, SMI_FIELDS]))
def test_any_text_as_rows(text: str, fields: tuple[str, ...]) -> None:
    for row in parse_rows(text, fields):
        assert row["index"] and row["name"]
        assert set(row) <= set(fields)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text("0123456789, \"[]N/A\r\t\0'", max_size=30), max_size=5))
def test_any_table_as_rows(lines: list[str]) -> None:
    parse_rows("\n".join(lines), SHORT)


def test_a_field_without_an_end() -> None:
    assert parse_rows("0, " + "x" * (1 << 18) + ", 1, 2, 3", SHORT) is not None


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (Completed(9, "No devices were found\n", ""), "No devices were found"),
        (
            Completed(
                9, "", "NVIDIA-SMI has failed because it couldn't communicate\n\nMake sure\n"
            ),
            "NVIDIA-SMI has failed because it couldn't communicate Make sure",
        ),
        (Completed(1, "", ""), "nvidia-smi printed nothing and ended with status 1"),
        (Completed(0, "\0\1", ""), "nvidia-smi printed bytes that are no text"),
        (Completed(0, "\ufffd" * 5, ""), "nvidia-smi printed bytes that are no text"),
    ],
)
def test_complaint(done: Completed, expected: str) -> None:
    assert complaint(done) == expected


@settings(deadline=None, max_examples=80)
@given(st.text(max_size=900), st.text(max_size=900), st.integers(-20, 255))
def test_any_complaint_is_one_short_line(out: str, err: str, status: int) -> None:
    said = complaint(Completed(status, out, err))
    assert said and len(said) <= 300 and "\n" not in said


# --- topology --------------------------------------------------------------------------------

TWO = """\
\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tPHB\t0-31\t0\t\tN/A
GPU1\tPHB\t X \t0-31\t0\t\tN/A

Legend:

  X    = Self
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
"""

WITH_NICS = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV18\tNV18\tPIX\tSYS\t0-55,112-167\t0\t\tN/A
GPU1\tNV18\t X \tNV18\tNODE\tSYS\t0-55,112-167\t0\t\tN/A
GPU2\tNV18\tNV18\t X \tSYS\tPIX\t56-111,168-223\t1\t\tN/A
NIC0\tPIX\tNODE\tSYS\t X \tSYS
NIC1\tSYS\tSYS\tPIX\tSYS\t X

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_1
"""


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        (TWO, 2, (("X", "PHB"), ("PHB", "X"))),
        (WITH_NICS, 3, (("X", "NV18", "NV18"), ("NV18", "X", "NV18"), ("NV18", "NV18", "X"))),
    ],
)
def test_topology(text: str, count: int, expected: tuple[tuple[str, ...], ...]) -> None:
    assert parse_topology(text, count) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 2), (TWO, 3), (TWO, 1), (TWO[:60], 2), ("GPU0 X\nGPU1", 2), ("Failed to init NVML", 2)],
)
def test_a_topology_that_is_not_whole(text: str, count: int) -> None:
    with pytest.raises(Unknown, match="no complete matrix"):
        parse_topology(text, count)


@settings(deadline=None, max_examples=100)
@given(st.text("GPU01 \t\nXNVS\x1b[0m", max_size=120), st.integers(0, 3))
def test_any_text_as_topology(text: str, count: int) -> None:
    try:
        matrix = parse_topology(text, count)
    except Unknown:
        return
    assert [len(row) for row in matrix] == [count] * count


# --- MIG -------------------------------------------------------------------------------------

LISTED = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5b2e8a3d-0000-1111-2222-333344445555)
  MIG 3g.40gb     Device  0: (UUID: MIG-7c1d1d2e-0000-1111-2222-333344445555)
  MIG 1g.10gb+me  Device  1: (UUID: MIG-GPU-5b2e8a3d-0000-1111-2222-333344445555/9/0)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-6b2e8a3d-0000-1111-2222-333344445555)
GPU 10: NVIDIA H100 80GB HBM3 (UUID: GPU-7b2e8a3d-0000-1111-2222-333344445555)
  MIG 1g.10gb     Device  0: (UUID: MIG-8c1d1d2e-0000-1111-2222-333344445555)
"""


def test_mig_list() -> None:
    assert parse_mig_list(LISTED) == {
        0: (
            "3g.40gb MIG-7c1d1d2e-0000-1111-2222-333344445555",
            "1g.10gb+me MIG-GPU-5b2e8a3d-0000-1111-2222-333344445555/9/0",
        ),
        10: ("1g.10gb MIG-8c1d1d2e-0000-1111-2222-333344445555",),
    }


@pytest.mark.parametrize("text", ["", "No devices found.", "  MIG 1g.5gb Device 0: (UUID: MIG-1)"])
def test_mig_list_of_nothing(text: str) -> None:
    assert parse_mig_list(text) == {}


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200), st.lists(st.sampled_from(LISTED.splitlines())))
def test_any_mig_list(text: str, lines: list[str]) -> None:
    parse_mig_list(text)
    parse_mig_list("\n".join([*lines, text]))


# --- asked below a root -----------------------------------------------------------------------

BANNER = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 570.172.08             Driver Version: 570.172.08     CUDA Version: 12.8     |
|-----------------------------------------+------------------------+----------------------+
"""
OLD = 'Field "compute_cap" is not a valid field to query.'


def smi(
    root: Path, *, rows: str, banner: str = BANNER, apps: str = "", refuses: str = ""
) -> System:
    """A tree whose nvidia-smi answers so; it refuses one field as older versions do."""
    place = root / "usr/bin/nvidia-smi"
    place.parent.mkdir(parents=True)
    place.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"'') cat <<'E'\n{banner}E\n;;\n"
        f"*compute-apps*) cat <<'E'\n{apps}E\n;;\n"
        f"-L) cat <<'E'\n{LISTED}E\n;;\n"
        f"*{refuses or 'nothing'}*) echo 'Field \"{refuses}\" is not a valid field to query.'; exit 2;;\n"
        f"*query-gpu*) cat <<'E'\n{rows}E\n;;\n"
        "esac\n"
    )
    place.chmod(0o755)
    return System(root, execute=True)


UUID = "GPU-5b2e8a3d-0000-1111-2222-333344445555"
CELLS = {
    "index": "0", "name": "NVIDIA H100 80GB HBM3", "uuid": UUID, "pci.bus_id": "00000000:19:00.0",
    "pci.device_id": "0x233010DE", "driver_version": "570.172.08", "memory.total": "81559",
    "memory.free": "81541", "compute_cap": "9.0", "compute_mode": "Exclusive_Process",
    "mig.mode.current": "Disabled", "ecc.mode.current": "Enabled",
    "ecc.errors.uncorrected.volatile.total": "3", "remapped_rows.pending": "Yes",
    "remapped_rows.failure": "No", "gpu_recovery_action": "Drain and Reset",
    "fabric.state": "Completed", "fabric.status": "Insufficient Resources",
}  # fmt: skip


def row(fields: Sequence[str] = SMI_FIELDS, **other: str) -> str:
    """A line of its csv, with dots of field names written as `__`."""
    cells = CELLS | {name.replace("__", "."): value for name, value in other.items()}
    return ", ".join(cells.get(field, "[N/A]") for field in fields) + "\n"


ROW = row()


def test_all_that_it_tells(tmp_path: Path) -> None:
    apps = f"{UUID}, 4711, /usr/bin/python3, 1024\n{UUID}, [N/A], x, y\nother, 1, z, [N/A]\n"
    answer = nvidia_smi.ask(smi(tmp_path, rows=ROW, apps=apps))
    assert (answer.source, answer.driver_version, answer.driver_cuda, answer.error) == (
        "nvidia-smi", "570.172.08", "12.8", None,
    )  # fmt: skip
    (gpu,) = answer.gpus
    assert (gpu.index, gpu.name, gpu.uuid) == (0, "NVIDIA H100 80GB HBM3", UUID)
    assert (gpu.device_id, gpu.compute_capability) == ("0x2330", "9.0")
    assert (gpu.memory_total, gpu.memory_free) == (81559, 81541)
    assert (gpu.mig_mode, gpu.ecc_mode, gpu.ecc_uncorrected) == ("Disabled", "Enabled", 3)
    assert (gpu.fabric_state, gpu.fabric_status) == ("Completed", "Insufficient Resources")
    assert gpu.compute_mode == "Exclusive_Process"
    assert gpu.faults == ("remapped_rows.pending: Yes", "gpu_recovery_action: Drain and Reset")
    assert [(p.pid, p.name, p.memory) for p in gpu.processes] == [(4711, "/usr/bin/python3", 1024)]


@pytest.mark.parametrize("field", ["compute_cap", "fabric.status", "gpu_recovery_action"])
def test_a_driver_that_does_not_know_a_field(tmp_path: Path, field: str) -> None:
    known = row([name for name in SMI_FIELDS if name != field])
    (gpu,) = nvidia_smi.ask(smi(tmp_path, rows=known, refuses=field)).gpus
    assert (gpu.memory_total, gpu.mig_mode) == (81559, "Disabled")
    told = (gpu.compute_capability, gpu.fabric_status, gpu.faults[1:])
    whole = ("9.0", "Insufficient Resources", ("gpu_recovery_action: Drain and Reset",))
    assert [a == b for a, b in zip(told, whole, strict=True)].count(False) == 1


def test_an_nvidia_smi_that_stumbles_over_the_question(tmp_path: Path) -> None:
    """It crashes at a field that it claims to know: what every version answers is still asked."""
    system = smi(tmp_path, rows=row(CORE))
    place = tmp_path / "usr/bin/nvidia-smi"
    place.write_text(
        place.read_text().replace('case "$*" in', 'case "$*" in\n*fabric*) exit 139;;', 1)
    )
    (gpu,) = nvidia_smi.ask(system).gpus
    assert (gpu.name, gpu.uuid, gpu.memory_total) == ("NVIDIA H100 80GB HBM3", UUID, 81559)


def test_mig_devices_are_asked_for_where_mig_is_on(tmp_path: Path) -> None:
    (gpu,) = nvidia_smi.ask(smi(tmp_path, rows=row(mig__mode__current="Enabled"))).gpus
    assert [i.split()[0] for i in gpu.mig_instances] == ["3g.40gb", "1g.10gb+me"]


@pytest.mark.parametrize(
    ("line", "index", "said"),
    [
        ("for GPU0000:21:00.0: GPU is lost.  Reboot the system to recover this GPU", 1, "GPU is lost"),
        ("for GPU 0000:21:00.0: Unknown Error", 1, "name: Unknown Error"),
        ("for GPU3: 0000:21:00.0: Unknown Error", 3, "name: Unknown Error"),
        ("for gpu 00000000:21:00.0: GPU requires reset", 1, "GPU requires reset"),
    ],
)  # fmt: skip
def test_a_lost_gpu_is_a_gpu(tmp_path: Path, line: str, index: int, said: str) -> None:
    told = f"Unable to determine the device handle {line}\n"
    sound, lost = nvidia_smi.ask(smi(tmp_path, rows=told + ROW)).gpus
    assert (sound.index, sound.name) == (0, "NVIDIA H100 80GB HBM3")
    assert (lost.index, lost.name, lost.faults) == (index, None, (said,))
    assert (lost.bus_id or "").endswith("0000:21:00.0")


def test_only_a_lost_gpu(tmp_path: Path) -> None:
    told = "Unable to determine the device handle for GPU0000:21:00.0: GPU is lost.\n"
    (lost,) = nvidia_smi.ask(smi(tmp_path, rows=told)).gpus
    assert (lost.index, lost.faults) == (0, ("GPU is lost",))


@pytest.mark.parametrize(
    ("field", "answer", "fault"),
    [
        ("name", "[Unknown Error]", "name: Unknown Error"),
        ("name", "ERR!", "name: ERR!"),
        ("uuid", "[GPU requires reset]", "GPU requires reset"),
        ("memory.total", "[Unknown Error]", "memory.total: Unknown Error"),
        ("compute_mode", "[GPU is lost]", "GPU is lost"),
        ("fabric.state", "[GPU requires reset]", "GPU requires reset"),
        ("gpu_recovery_action", "Reboot", "gpu_recovery_action: Reboot"),
        ("gpu_recovery_action", "Something new", "gpu_recovery_action: Something new"),
        ("retired_pages.pending", "Yes", "retired_pages.pending: Yes"),
        ("gpu_recovery_action", "None", None),
        ("gpu_recovery_action", "[N/A]", None),
        ("gpu_recovery_action", "[Unknown Error]", None),
        ("memory.total", "[N/A]", None),
        ("memory.free", "[Insufficient Permissions]", None),
        ("name", "[Insufficient Permissions]", None),
        ("mig.mode.current", "[Not Supported]", None),
        ("fabric.state", "[Unknown Error]", None),
    ],
)
def test_what_stands_in_place_of_an_answer(field: str, answer: str, fault: str | None) -> None:
    cells = {"remapped_rows.pending": "No", "gpu_recovery_action": "None", field: answer}
    text = row(**{name.replace(".", "__"): cell for name, cell in cells.items()})
    gpu = nvidia_fields.gpu(parse_rows(text, SMI_FIELDS)[0])
    assert gpu.faults == ((fault,) if fault else ())
    answered = nvidia_fields.trouble(answer) is None or nvidia_fields.ABSENT.match(answer)
    assert bool(answered) == (not gpu.unknown)


def test_rows_count_whatever_the_status(tmp_path: Path) -> None:
    """A corrupted infoROM is status 14, and all cards are listed."""
    system = smi(tmp_path, rows=ROW)
    place = tmp_path / "usr/bin/nvidia-smi"
    place.write_text(place.read_text() + "exit 14\n")
    assert len(nvidia_smi.ask(system).gpus) == 1


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("No devices were found\n", "No devices were found"),
        ("", "nvidia-smi printed nothing and ended with status 0"),
        ("Failed to initialize NVML: Driver/library version mismatch\n", "version mismatch"),
        ("\ufffd\ufffd\ufffd\ufffd\n", "bytes that are no text"),
    ],
)
def test_an_error_with_status_zero(tmp_path: Path, rows: str, error: str) -> None:
    answer = nvidia_smi.ask(smi(tmp_path, rows=rows))
    assert answer.error is not None and error in answer.error
    assert answer.gpus == ()


def test_no_nvidia_smi(tmp_path: Path) -> None:
    assert nvidia_smi.ask(System(tmp_path, execute=True)).error == "nvidia-smi is not installed"


@pytest.mark.parametrize("word", ["abc", "9", "9.0a", "-1.0", "12.10"])
def test_a_capability_that_is_none(tmp_path: Path, word: str) -> None:
    (gpu,) = nvidia_smi.ask(smi(tmp_path, rows=row(compute_cap=word))).gpus
    assert gpu.compute_capability is None

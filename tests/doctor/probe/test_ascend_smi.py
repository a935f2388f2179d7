"""What npu-smi draws, board by board, and what ASCEND_RT_VISIBLE_DEVICES leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.facts import PciDevice
from doctor.knowledge.tables import Tables
from doctor.machine.look import bracketed, key_values
from doctor.machine.system import System
from doctor.probe.ascend import npu_smi
from doctor.probe.ascend.npu_smi import parse_info
from doctor.probe.ascend.npus import visible_devices

A2 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.2.0                   Version: 25.2.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B2               | OK            | 93.1        36                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3418 / 65536         |
+===========================+===============+====================================================+
| 1     910B2               | Alarm         | 92.2        37                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          63405/ 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 0                                                            |
+===========================+===============+====================================================+
| 1       0                 | 2871          | python3.11               | 59873                   |
| 1       0                 | 2872          |                          | 121                     |
+===========================+===============+====================================================+
"""

A3 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.0.rc1.1               Version: 25.0.rc1.1                                           |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 178.5       36                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3416 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           36                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          3195 / 65536         |
+===========================+===============+====================================================+
| 1     Ascend910           | OK            | 186.3       36                0    / 0             |
| 0     2                   | 0000:99:00.0  | 0           0    / 0          3415 / 65536         |
+------------------------------------------------------------------------------------------------+
| 1     Ascend910           | OK            | -           36                0    / 0             |
| 1     3                   | 0000:9B:00.0  | 0           0    / 0          3196 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       1                 | 99            | torchrun                 | 512                     |
+===========================+===============+====================================================+
"""

INFERENCE = """\
+--------------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                                 Version: 24.1.rc2                                     |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 1       310P3                 | OK              | NA           59                0     / 0             |
| 0       0                     | 0000:01:00.0    | 0            1397 / 44280                            |
+-------------------------------+-----------------+------------------------------------------------------+
| 1       310P3                 | OK              | NA           58                0     / 0             |
| 1       1                     | 0000:01:00.0    | 0            1520 / 43693                            |
+===============================+=================+======================================================+
"""


def summary(text: str) -> list[tuple[object, ...]]:
    return [
        (n.index, n.npu_id, n.chip_id, n.name, n.health, n.bus_id, n.hbm_used, n.hbm_total)
        for n in parse_info(text)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            A2,
            [
                (0, 0, 0, "910B2", "OK", "0000:C1:00.0", 3418, 65536),
                (1, 1, 0, "910B2", "Alarm", "0000:01:00.0", 63405, 65536),
            ],
        ),
        (
            A3,
            [
                (0, 0, 0, "Ascend910", "OK", "0000:9D:00.0", 3416, 65536),
                (1, 0, 1, "Ascend910", "OK", "0000:9F:00.0", 3195, 65536),
                (2, 1, 0, "Ascend910", "OK", "0000:99:00.0", 3415, 65536),
                (3, 1, 1, "Ascend910", "OK", "0000:9B:00.0", 3196, 65536),
            ],
        ),
        (
            INFERENCE,
            [
                (0, 1, 0, "310P3", "OK", "0000:01:00.0", 1397, 44280),
                (1, 1, 1, "310P3", "OK", "0000:01:00.0", 1520, 43693),
            ],
        ),
    ],
    ids=["910B", "910C", "310P"],
)
def test_boards(text: str, expected: list[tuple[object, ...]]) -> None:
    assert summary(text) == expected
    # wider columns of later versions, and lines that end as on Windows, change nothing
    assert summary(text.replace("  |", "          |").replace("\n", "\r\n")) == expected


def test_processes_belong_to_their_chip() -> None:
    found = {(n.npu_id, n.chip_id): n.processes for n in parse_info(A2)}
    assert found[0, 0] == ()
    assert [(p.pid, p.name, p.memory) for p in found[1, 0]] == [
        (2871, "python3.11", 59873),
        (2872, "", 121),
    ]
    by_chip = [[(p.pid, p.name) for p in n.processes] for n in parse_info(A3)]
    assert by_chip == [[], [(99, "torchrun")], [], []]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dcmi module initialize failed. ret is -8005\n",
        "No NPU device found.\n",
        A2[:620],
        "+----+\n| NPU   Name |\n+----+\n",
        A2.replace("|", "¦"),
    ],
    ids=["empty", "dcmi", "none", "header", "half", "other frame"],
)
def test_tables_without_chips(text: str) -> None:
    assert parse_info(text) == ()


@pytest.mark.parametrize("table", [A2, A3, INFERENCE], ids=["910B", "910C", "310P"])
def test_a_table_cut_anywhere_lists_a_beginning(table: str) -> None:
    whole = summary(table)
    for end in range(0, len(table), 7):
        part = summary(table[:end])
        assert [row[:6] for row in part] == [row[:6] for row in whole[: len(part)]]


@settings(deadline=None, max_examples=120)
@given(st.text(max_size=200), st.data())
def test_any_table(text: str, data: st.DataObject) -> None:
    parse_info(text)
    lines = data.draw(st.lists(st.sampled_from((A2 + A3 + INFERENCE).splitlines()), max_size=12))
    for npu in parse_info("\n".join([*lines, text])):
        assert npu.npu_id >= 0 and npu.bus_id


@settings(deadline=None, max_examples=120)
@given(st.lists(st.tuples(st.integers(0, len(A3) - 1), st.characters(codec="utf-8")), max_size=12))
def test_a_table_with_wrong_characters(changes: list[tuple[int, str]]) -> None:
    letters = list(A3)
    for place, letter in changes:
        letters[place] = letter
    assert len(parse_info("".join(letters))) <= 4 + len(changes)


# --- asked below a root -----------------------------------------------------------------------


def smi(root: Path, info: str, board: str = "", status: int = 0) -> System:
    place = root / "usr/local/bin/npu-smi"
    place.parent.mkdir(parents=True)
    place.write_text(
        f"#!/bin/sh\nif [ $# -eq 1 ]; then cat <<'E'\n{info}E\nexit {status}; fi\n"
        f"cat <<'E'\n{board}E\n"
    )
    place.chmod(0o755)
    return System(root, execute=True)


def test_series_by_name(tmp_path: Path) -> None:
    answer = npu_smi.ask(smi(tmp_path, A2), Tables(), ())
    assert [(n.series, n.bf16) for n in answer.npus] == [("910B", True), ("910B", True)]


def test_series_by_the_bus_where_the_name_tells_nothing(tmp_path: Path) -> None:
    tables = Tables()
    row = next(r for r in tables.rows("ascend", "chip") if r["series"] == "910C" and r.get("pci"))
    places = ("9d", "9f", "99", "9b")
    on_bus = [
        PciDevice(address=f"0000:{p}:00.0", vendor_id="0x19e5", device_id=row["pci"])
        for p in places
    ]
    answer = npu_smi.ask(smi(tmp_path, A3), tables, on_bus)
    assert [n.series for n in answer.npus] == ["910C"] * 4


def test_series_by_the_board_page_else_unknown(tmp_path: Path) -> None:
    board = "\tNPU ID                         : 0\n\tNPU Name                       : {}\n"
    known = smi(tmp_path / "a", A3, board.format("910_9362"))
    assert {n.series for n in npu_smi.ask(known, Tables(), ()).npus} == {"910C"}
    other = smi(tmp_path / "b", A3, board.format("999X"))
    (reason,) = {n.unknown["series"] for n in npu_smi.ask(other, Tables(), ()).npus}
    assert "Ascend910" in reason


@pytest.mark.parametrize(
    ("text", "status", "error"),
    [
        ("dcmi module initialize failed. ret is -8005\n", 0, "dcmi module initialize failed"),
        ("", 3, "no output, status 3"),
        ("\ufffd\ufffd\ufffd", 0, "bytes that are no text"),
        ("x" * 5000, 1, "x" * 300),
    ],
)
def test_what_it_said_instead(tmp_path: Path, text: str, status: int, error: str) -> None:
    answer = npu_smi.ask(smi(tmp_path, text + "\n", status=status), Tables(), ())
    assert answer.npus == ()
    assert answer.error is not None and error in answer.error and len(answer.error) <= 300


def test_no_npu_smi(tmp_path: Path) -> None:
    assert (
        npu_smi.ask(System(tmp_path, execute=True), Tables(), ()).error
        == "npu-smi is not installed"
    )


# --- ASCEND_RT_VISIBLE_DEVICES ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "visible", "invalid"),
    [
        (None, (0, 1, 2, 3), ()),
        ("", (), ()),
        ("0", (0,), ()),
        ("3,1", (3, 1), ()),
        (" 0 , 2 ", (0, 2), ()),
        ("0,9,1", (0,), ("9",)),
        ("4", (), ("4",)),
        ("-1", (), ("-1",)),
        ("a", (), ("a",)),
        ("0,0", (0,), ("0",)),
        ("0-3", (), ("0-3",)),
    ],
)
def test_visible(mask: str | None, visible: tuple[int, ...], invalid: tuple[str, ...]) -> None:
    assert visible_devices(mask, 4) == (visible, invalid)


def test_visible_with_digits_that_are_no_numbers() -> None:
    assert visible_devices("²", 4) == ((), ("²",))


@settings(deadline=None, max_examples=150)
@given(st.text("0123456789,- ax", max_size=20), st.integers(0, 16))
def test_any_mask(mask: str, count: int) -> None:
    visible, invalid = visible_devices(mask, count)
    assert set(visible) <= set(range(count)) and len(set(visible)) == len(visible)
    assert len(invalid) <= 1


# --- shapes of text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[V100R001C19],[V100R001C20]", ("V100R001C19", "V100R001C20")),
        ("[V100R001C19,V100R001C25],[V100R001C30]", ("V100R001C19", "V100R001C30")),
        ("", ()),
        ("V100R001C19", ()),
        ("[]", ()),
        ("[V100R001C19", ()),
    ],
)
def test_bracketed(text: str, expected: tuple[str, ...]) -> None:
    assert bracketed(text) == expected


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("A=1\nB = 2\n", "=", {"A": "1", "B": "2"}),
        ("ID=\"ubuntu\"\nNAME='x y'\n", "=", {"ID": "ubuntu", "NAME": "x y"}),
        ("A=1\nA=2", "=", {"A": "1"}),
        ("A=b=c", "=", {"A": "b=c"}),
        ("\tNPU ID                         : 0\n", ":", {"NPU ID": "0"}),
        ("PCIe Bus Info : 0000:C1:00.0", ":", {"PCIe Bus Info": "0000:C1:00.0"}),
        ("no separator\n\n", "=", {}),
    ],
)
def test_key_values(text: str, separator: str, expected: dict[str, str]) -> None:
    assert key_values(text, separator) == expected


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=100), st.sampled_from("=:"))
def test_any_text_as_key_values(text: str, separator: str) -> None:
    assert all(separator not in key for key in key_values(text, separator))
    assert all(isinstance(part, str) for part in bracketed(text))

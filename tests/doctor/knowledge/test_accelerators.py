"""The table of accelerators: real names find their rows, numbers agree with each other and with other tables."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from doctor.knowledge.tables import Row, Tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parents[1]
TABLES = Tables()
GPUS = TABLES.rows("accelerators", "gpu")
NPUS = TABLES.rows("accelerators", "npu")
CARDS = tomllib.loads((HERE / "data" / "cards.toml").read_text(encoding="utf-8"))["card"]


def major(row: Row) -> int:
    return int(row["cc"].split(".")[0])


def found(name: str, **known: str) -> Row:
    row = TABLES.accelerator(name, **known)
    assert row is not None, f"{name} has no row"
    return row


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "cc", "memory", "bf16"),
    [
        ("NVIDIA GeForce RTX 5090", "GeForce RTX 5090", "12.0", 32, 209.5),
        ("NVIDIA GeForce RTX 5090 D", "GeForce RTX 5090 D", "12.0", 32, 148.4),
        ("NVIDIA GeForce RTX 5090 D V2", "GeForce RTX 5090 D v2", "12.0", 24, 148.4),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", "GeForce RTX 5090 Laptop GPU", "12.0", 24, 90.6),
        ("NVIDIA GeForce RTX 5080", "GeForce RTX 5080", "12.0", 16, 112.6),
        ("NVIDIA GeForce RTX 5070 Ti", "GeForce RTX 5070 Ti", "12.0", 16, 87.8),
        ("NVIDIA GeForce RTX 5070", "GeForce RTX 5070", "12.0", 12, 61.8),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090", "8.9", 24, 165.2),
        ("NVIDIA GeForce RTX 4090 D", "GeForce RTX 4090 D", "8.9", 24, 147),
        ("NVIDIA GeForce RTX 4070 SUPER", "GeForce RTX 4070 SUPER", "8.9", 12, 71),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "GeForce RTX 4070 Ti SUPER", "8.9", 16, 88.2),
        ("NVIDIA GeForce RTX 4050 Laptop GPU", "GeForce RTX 4050 Laptop GPU", "8.9", 6, 24.2),
        ("NVIDIA GeForce RTX 3090", "GeForce RTX 3090", "8.6", 24, 71),
        ("GeForce RTX 3090", "GeForce RTX 3090", "8.6", 24, 71),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "GeForce RTX 3060 Laptop GPU", "8.6", 6, 26.2),
        ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", "GeForce RTX 3050 6GB Laptop GPU", "8.6", 6, 15.3),
        ("NVIDIA GeForce RTX 2050", "GeForce RTX 2050", "8.6", 4, 12.1),
        ("NVIDIA GeForce RTX 2080 Super", "GeForce RTX 2080 SUPER", "7.5", 8, None),
        ("NVIDIA GeForce RTX 2060 with Max-Q Design", "GeForce RTX 2060 with Max-Q Design", "7.5", 6, None),
        ("NVIDIA GeForce GTX 1660 Ti", "GeForce GTX 1660 Ti", "7.5", 6, None),
        ("GeForce GTX 1080", "GeForce GTX 1080", "6.1", 8, None),
        ("NVIDIA GeForce GTX 1060 6GB", "GeForce GTX 1060", "6.1", 6, None),
        ("NVIDIA TITAN Xp", "TITAN Xp", "6.1", 12, None),
        ("Tesla V100-SXM2-16GB", "V100 SXM 16 GB", "7.0", 16, None),
        ("Tesla T4", "T4", "7.5", 16, None),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB", "8.0", 80, 312),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40 GB", "8.0", 40, 312),
        ("NVIDIA A800-SXM4-80GB", "A800 SXM 80 GB", "8.0", 80, 312),
        ("NVIDIA A10", "A10", "8.6", 24, 125),
        ("NVIDIA A2", "A2", "8.6", 16, 18),
        ("NVIDIA L40S", "L40S", "8.9", 48, 362),
        ("NVIDIA H100 80GB HBM3", "H100 SXM", "9.0", 80, 989),
        ("NVIDIA H100 PCIe", "H100 PCIe", "9.0", 80, 756),
        ("NVIDIA H100 NVL", "H100 NVL", "9.0", 94, 835),
        ("NVIDIA H200", "H200", "9.0", 141, 989),
        ("NVIDIA H20", "H20", "9.0", 96, 148),
        ("NVIDIA GH200 480GB", "GH200 480 GB", "9.0", 96, 989),
        ("NVIDIA B200", "B200", "10.0", 180, 2250),
        ("NVIDIA GB200", "GB200", "10.0", 186, 2500),
        ("NVIDIA B300 SXM6 AC", "B300", "10.3", 270, 2250),
        ("NVIDIA GB10", "GB10", "12.1", 128, 125),
        ("NVIDIA Thor", "Jetson AGX Thor", "11.0", 128, 258),
        ("Orin (nvgpu)", "Jetson AGX Orin", "8.7", 64, 42.5),
        ("NVIDIA RTX A6000", "RTX A6000", "8.6", 48, 154.8),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", "8.9", 48, 364.4),
        ("Quadro RTX 6000", "Quadro RTX 6000", "7.5", 24, None),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell", "12.0", 96, 504),
    ],
)  # fmt: skip
def test_real_names(name: str, row: str, cc: str, memory: float, bf16: float | None) -> None:
    for known in ({}, {"cc": cc}):
        shown = found(name, **known)
        assert (shown["name"], shown["cc"], shown["memory_gb"]) == (row, cc, memory)
        assert shown.get("tflops_bf16") == (bf16 and pytest.approx(bf16, rel=0.01))


@pytest.mark.parametrize(
    ("name", "series", "row"),
    [
        ("910B1", None, "Ascend 910B1"),
        ("910B2C", None, "Ascend 910B2C"),
        ("910B3", None, "Ascend 910B3"),
        ("Ascend910B3", "910B", "Ascend 910B3"),
        ("910B4", "910B", "Ascend 910B4"),
        ("910B4-1", "910B", "Ascend 910B4-1"),
        ("Ascend910_9392", None, "Ascend 910C"),
        ("9362", "910C", "Ascend 910C"),
        ("Ascend910", "910C", "Ascend 910C"),
        ("Ascend910", "910", "Ascend 910"),
        ("910A", None, "Ascend 910"),
        ("910B", "910", "Ascend 910"),
        ("910ProB", None, "Ascend 910"),
        ("310P3", "310P", "Ascend 310P"),
    ],
)
def test_real_npu_names(name: str, series: str | None, row: str) -> None:
    assert found(name, **({"series": series} if series else {}))["name"] == row


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA",
        "Tesla K80",
        "NVIDIA GeForce RTX 9090",
        "NVIDIA GeForce RTX 4070 Ti SUPER D",
        "NVIDIA RTX A5000 Laptop GPU",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA A40-48Q",
        "GRID T4-16Q",
        "AMD Instinct MI300X",
        "Ascend910",
        "Ascend 950PR",
    ],
)
def test_what_is_none_of_them_has_no_row(name: str) -> None:
    assert TABLES.accelerator(name) is None


def test_a_row_that_contradicts_the_driver_does_not_count() -> None:
    assert TABLES.accelerator("NVIDIA GeForce RTX 5090", cc="8.9") is None
    assert TABLES.accelerator("910B3", series="310P") is None
    assert TABLES.accelerator("910B3", cc="9.0") is None
    assert TABLES.accelerator("NVIDIA H100 PCIe", series="910B") is None


@pytest.mark.parametrize(
    "card",
    [card for card in CARDS if float(card["cc"]) >= 6 and "Xavier" not in card["name"]],
    ids=lambda card: f"{card['name']}, {card['pci']}",
)
def test_every_card_that_we_know_has_a_row_of_its_size(card: dict[str, Any]) -> None:
    row = found(card["name"], cc=card["cc"])
    # rows are those of their smaller brothers
    sizes = {"NVIDIA T1000 8GB": 8, "NVIDIA GeForce RTX 5060 Ti": 16}
    if card["memory_mib"]:
        printed = card["memory_mib"] / 1024
        assert printed == pytest.approx(sizes.get(card["name"], row["memory_gb"]), rel=0.12)


# --- numbers -------------------------------------------------------------------------------------


def peak_tflops() -> dict[str, float]:
    """PEAK_TFLOPS of nanochat/device.py, read without importing torch."""
    source = (HERE.parents[1] / "nanochat" / "device.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PEAK_TFLOPS":
            assert node.value is not None
            peaks: dict[str, float] = ast.literal_eval(node.value)
            return peaks
    raise AssertionError("nanochat/device.py has no PEAK_TFLOPS")


@pytest.mark.parametrize(("words", "tflops"), peak_tflops().items())
def test_peaks_are_those_that_the_trainer_reckons_with(words: str, tflops: float) -> None:
    names = {
        "A100": ["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"],
        "A800": ["NVIDIA A800-SXM4-80GB", "NVIDIA A800 80GB PCIe"],
        "H100": ["NVIDIA H100", "NVIDIA H100 80GB HBM3"],
    }
    if words == "MI300X":
        assert TABLES.accelerator("AMD Instinct MI300X") is None, "this table has no AMD"
        return
    for name in names.get(words, [f"NVIDIA {words}"]):
        assert found(name)["tflops_bf16"] == tflops


@pytest.mark.parametrize("row", GPUS, ids=lambda row: row["name"])
def test_numbers_of_a_gpu_agree(row: Row) -> None:
    assert row["cc"] in {r["cc"] for r in TABLES.rows("cuda", "arch")}
    cc = tuple(int(n) for n in row["cc"].split("."))
    assert ("tflops_bf16" in row) == (cc >= (8, 0)), "bfloat16 came with Ampere"
    assert ("tflops_fp8" in row) == (cc >= (8, 9)), "8-bit floats came with Ada"
    if "tflops_bf16" in row:
        assert row["tflops_bf16"] == row["tflops_fp16"] > row["tflops_fp32"]
    if "tflops_fp8" in row:
        assert row["tflops_fp8"] == pytest.approx(2 * row["tflops_bf16"], rel=0.04)
    if "GeForce" in row["name"] and cc >= (8, 0) and "5090 D" not in row["name"]:
        assert row["tflops_bf16"] == pytest.approx(2 * row["tflops_fp32"], rel=0.01)
    assert 2 <= row["memory_gb"] <= 288
    assert 20 <= row["watts"] <= 1400


@pytest.mark.parametrize("row", NPUS, ids=lambda row: row["name"])
def test_numbers_of_an_npu_agree_with_its_chip(row: Row) -> None:
    chips = [c for c in TABLES.rows("ascend", "chip") if c["series"] == row["series"]]
    assert chips
    assert ("tflops_bf16" in row) == chips[0]["bf16"]
    chip = TABLES.ascend_by_name(row["name"].removeprefix("Ascend "))
    if chip is not None and "hbm_gb" in chip:
        assert chip["hbm_gb"] == row["memory_gb"]


def test_no_geforce_hides_another() -> None:
    geforce = [row for row in GPUS if row["name"].startswith("GeForce")]
    assert geforce
    for row in geforce:
        assert found(f"NVIDIA {row['name']}") is row


def test_names_are_single() -> None:
    names = [row["name"] for row in (*GPUS, *NPUS)]
    assert len(set(names)) == len(names)


def test_all_generations_are_there() -> None:
    assert {major(row) for row in GPUS} == {6, 7, 8, 9, 10, 11, 12}
    assert {row["series"] for row in NPUS} == {"910", "910B", "910C", "310P"}

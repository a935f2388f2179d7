"""The tables of build/: whole, sourced, in order; and what a damaged one is told."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from doctor import compat
from doctor.errors import DoctorError
from doctor.tables import SHAPES, Tables, data_folder, read_table
from doctor.versions import cann_key, minor, parts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = data_folder()
FILES = sorted(path.stem for path in FOLDER.glob("*.toml"))
TABLES = Tables()


def rows(file: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Every row of a file with its table and number."""
    data = tomllib.loads((FOLDER / f"{file}.toml").read_text(encoding="utf-8"))
    lists = {name: table for name, table in data.items() if isinstance(table, list)}
    return [(name, i, row) for name, table in lists.items() for i, row in enumerate(table, 1)]


def values(file: str, table: str, key: str) -> list[Any]:
    return [row[key] for row in TABLES.rows(file, table)]


@pytest.mark.parametrize("file", FILES)
def test_file_is_whole(file: str) -> None:
    assert file in SHAPES, "a table that no shape describes is never checked"
    assert set(SHAPES[file]) <= set(read_table(FOLDER / f"{file}.toml"))


@pytest.mark.parametrize("file", [name for name in FILES if name != "codes"])
def test_every_row_has_source_and_date(file: str) -> None:
    for table, number, row in rows(file):
        place = f"{file}.toml, row {number} of [[{table}]]"
        assert row.get("source", "").strip(), place
        assert date(2023, 1, 1) <= date.fromisoformat(row["date"]), place


@pytest.mark.parametrize(
    ("file", "table", "key", "order"),
    [
        ("cuda", "toolkit", "version", parts),
        ("cuda", "cuda_major", "major", parts),
        ("cuda", "arch", "cc", parts),
        ("torch", "release", "torch", parts),
        ("pci", "nvidia", "first", lambda text: int(text, 16)),
        ("ascend", "python", "torch", lambda text: [-n for n in parts(text)]),
    ],
)
def test_rows_are_sorted_and_single(
    file: str, table: str, key: str, order: Callable[[str], Any]
) -> None:
    keys = [order(value) for value in values(file, table, key)]
    assert keys == sorted(keys)
    assert len({str(k) for k in keys}) == len(keys)


def test_pci_ranges_do_not_overlap() -> None:
    ranges = [(int(r["first"], 16), int(r["last"], 16)) for r in TABLES.rows("pci", "nvidia")]
    assert all(first <= last for first, last in ranges)
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_pci_chips_have_known_capabilities() -> None:
    known = set(values("cuda", "arch", "cc"))
    listed = {row["cc"] for row in TABLES.rows("pci", "nvidia") if row.get("cc")}
    assert listed <= known


def test_wheels_are_single_and_belong_to_releases() -> None:
    releases = set(values("torch", "release", "torch"))
    keys = [(r["torch"], r["variant"], r["cpu_arch"]) for r in TABLES.rows("torch", "wheel")]
    assert len(set(keys)) == len(keys)
    assert {key[0] for key in keys} <= releases


def test_wheels_hold_architectures_that_their_cuda_knows() -> None:
    for row in TABLES.rows("torch", "wheel"):
        if not row.get("cuda"):
            assert not row["sass"] and not row["ptx"], row
            continue
        assert row["variant"] == f"cu{row['cuda'].replace('.', '')}", row
        known = TABLES.toolkit_archs(row["cuda"])
        assert {a.rstrip("a") for a in (*row["sass"], *row["ptx"])} <= set(known), row
        assert TABLES.major_floor(row["cuda"]), row


def test_one_default_wheel_per_release_and_processor() -> None:
    default = [
        (r["torch"], r["cpu_arch"]) for r in TABLES.rows("torch", "wheel") if r.get("default")
    ]
    assert len(set(default)) == len(default)


def test_ascend_pairs() -> None:
    shown = values("ascend", "pair", "cann")
    assert [cann_key(c) for c in shown] == sorted((cann_key(c) for c in shown), reverse=True)
    pairs = values("ascend", "pair", "torch_npu")
    assert len(set(pairs)) == len(pairs), "a torch_npu goes with one CANN"
    for row in TABLES.rows("ascend", "pair"):
        assert row["torch_npu"].split(".post")[0] == row["torch"], row
        assert TABLES.npu_pythons(row["torch"]), row


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("910B3", "910B"),
        ("910B4-1", "910B"),
        ("Ascend910B2", "910B"),
        ("910_9392", "910C"),
        ("9392", "910C"),
        ("910A", "910"),
        ("910ProB", "910"),
        ("310P3", "310P"),
        ("310", "310"),
    ],
)
def test_ascend_names(name: str, series: str) -> None:
    row = TABLES.ascend_by_name(name)
    assert row is not None and row["series"] == series


def test_ascend910_alone_names_no_chip() -> None:
    assert TABLES.ascend_by_name("Ascend910") is None
    assert TABLES.ascend_by_name("nonsense") is None


def test_codes_are_single_and_well_formed() -> None:
    names = values("codes", "code", "name")
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+\.[a-z0-9-]+", name) for name in names)
    with pytest.raises(DoctorError, match=r"build/codes.toml has no row for 'no.such'"):
        TABLES.code("no.such")


def test_every_need_has_packages_for_the_big_managers() -> None:
    managers = {row["name"] for row in TABLES.rows("packages", "manager")}
    assert {"apt", "dnf", "pacman", "zypper", "apk"} <= managers
    for row in TABLES.rows("packages", "manager"):
        assert "{packages}" in row["install"], row


def test_rust_floor() -> None:
    assert parts(TABLES.msrv("rustbpe")) >= (1, 70)


def test_pythons_of_a_release() -> None:
    (row,) = (r for r in TABLES.rows("torch", "release") if r["torch"] == "2.9")
    assert "3.12" in compat.pythons(row, "x86_64")
    assert "3.14t" in compat.pythons(row, "x86_64")
    assert minor("2.9.1+cu128") == "2.9"


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the tables that may be damaged."""
    return shutil.copytree(FOLDER, tmp_path / "build", ignore=shutil.ignore_patterns("*.py"))


def damaged(copy: Path, file: str, old: str, new: str) -> Tables:
    """Tables with one passage of a file replaced."""
    path = copy / f"{file}.toml"
    text = path.read_text(encoding="utf-8")
    assert re.search(old, text, re.MULTILINE), "the passage to damage is not there"
    path.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE), encoding="utf-8")
    return Tables(folder=copy)


@pytest.mark.parametrize(
    ("file", "table", "old", "new", "message"),
    [
        ("torch", "wheel", r"\A", "= nonsense\n", r"build/torch.toml is no valid TOML: .*line 1"),
        ("torch", "release", r"^pythons = .*\n", "",
         r"build/torch.toml: row 1 of \[\[release\]\] lacks 'pythons'"),
        ("torch", "release", r"^pythons = .*$", 'pythons = "3.12"',
         r"build/torch.toml: 'pythons' in row 1 of \[\[release\]\] is '3.12', not a list"),
        ("cuda", "arch", r"^tegra = false$", "tegra = 0", r"build/cuda.toml: 'tegra' in row 1 .*not a bool"),
        ("cuda", "toolkit", r"^source = .*\n", "",
         r"build/cuda.toml: row 1 of \[\[toolkit\]\] lacks 'source'"),
        ("ascend", "pair", r"^\[\[pair\]\]$", "[pair]", r"build/ascend.toml"),
        ("rust", "crate", r"^\[\[crate\]\]$", "[[krate]]", r"build/rust.toml has no \[\[crate\]\] rows"),
        ("codes", "code", r"^title = .*\n", "", r"build/codes.toml: row 1 of \[\[code\]\] lacks 'title'"),
    ],
)  # fmt: skip
def test_damage_is_named_by_file_and_row(
    copy: Path, file: str, table: str, old: str, new: str, message: str
) -> None:
    tables = damaged(copy, file, old, new)
    with pytest.raises(DoctorError, match=message) as caught:
        tables.rows(file, table)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(copy: Path) -> None:
    (copy / "mirrors.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DoctorError, match=r"build/mirrors.toml is no valid TOML"):
        Tables(folder=copy).rows("mirrors", "endpoint")


def test_missing_file(copy: Path) -> None:
    (copy / "pci.toml").unlink()
    with pytest.raises(DoctorError, match=r"build/pci.toml cannot be read"):
        Tables(folder=copy).rows("pci", "nvidia")


def test_other_files_are_not_read(copy: Path) -> None:
    (copy / "torch.toml").unlink()
    assert Tables(folder=copy).rows("rust", "crate")


def test_copies_do_not_share_rows(copy: Path) -> None:
    other = damaged(copy, "rust", r'^name = "rustbpe"$', 'name = "other"')
    assert other.rows("rust", "crate") != TABLES.rows("rust", "crate")

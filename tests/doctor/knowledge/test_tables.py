"""The tables of build/: whole, sourced, in order; and what a damaged one is told."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from machines import Ascend, Machine, build, nvidia

from doctor.checkout import data_folder
from doctor.errors import DoctorError, WrongUsage
from doctor.findings.rules.examine import examine
from doctor.knowledge import compat
from doctor.knowledge.shapes import OPTIONAL, SHAPES
from doctor.knowledge.tables import Row, Tables, read_table
from doctor.knowledge.versions import cann_key, minor, parts
from doctor.machine.system import System
from doctor.probe.survey import survey
from doctor.text.toml import tomllib
from nanochat import sizing
from nanochat.config import ModelConfig

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


def test_fields_that_may_be_there_belong_to_tables_that_must() -> None:
    for file, tables in OPTIONAL.items():
        for table, shape in tables.items():
            assert not set(shape) & set(SHAPES[file][table]), (file, table)


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
        ("ascend", "driver", "release", lambda text: [-n for n in cann_key(text)]),
        ("ascend", "driver_floor", "cann", lambda text: [-n for n in cann_key(text)]),
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


def test_nightlies_are_for_architectures_that_their_cuda_knows() -> None:
    rows = TABLES.rows("torch", "nightly")
    keys = [(row["variant"], row["cpu_arch"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {
        ("cpu", "x86_64"),
        ("cpu", "aarch64"),
        ("cu132", "x86_64"),
        ("cu132", "aarch64"),
    } <= set(keys)
    for row in rows:
        assert row["index"].endswith(f"/nightly/{row['variant']}"), row
        archs = {*row["sass"], *row["ptx"]}
        assert bool(archs) == bool(row["cuda"]), row
        if row["cuda"] in values("cuda", "toolkit", "version"):
            assert archs <= set(TABLES.toolkit_archs(row["cuda"])), row


@pytest.mark.parametrize(
    ("torch", "variants"),
    [
        ("2.11", {"cpu", "cu126", "cu128", "cu129", "cu130"}),
        ("2.12", {"cpu", "cu126", "cu129", "cu130", "cu132"}),
        ("2.13", {"cpu", "cu126", "cu129", "cu130", "cu132"}),
        ("2.14", {"cpu", "cu126", "cu130", "cu132"}),
        ("2.15", {"cpu", "cu130", "cu132"}),
    ],
)
@pytest.mark.parametrize("cpu_arch", ["x86_64", "aarch64"])
def test_variants_of_a_release(torch: str, variants: set[str], cpu_arch: str) -> None:
    rows = [
        r for r in TABLES.rows("torch", "wheel") if (r["torch"], r["cpu_arch"]) == (torch, cpu_arch)
    ]
    assert {row["variant"] for row in rows} == variants


def test_what_torch_imports_is_named_as_pip_takes_it() -> None:
    from packaging.requirements import Requirement

    names = {Requirement(text).name for text in values("torch", "runtime", "package")}
    assert {"filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec"} <= names


PAIRS = {
    "9.1.0": ["2.12.0 2.12.0", "2.11.0 2.11.0", "2.10.0.post4 2.10.0", "2.9.0.post6 2.9.0", "2.7.1.post8 2.7.1"],
    "9.0.0": ["2.9.0.post2 2.9.0", "2.8.0.post4 2.8.0", "2.7.1.post4 2.7.1"],
    "8.5.0": ["2.9.0 2.9.0", "2.8.0.post2 2.8.0", "2.7.1.post2 2.7.1", "2.6.0.post5 2.6.0"],
    "8.3.RC1": ["2.8.0 2.8.0", "2.7.1 2.7.1", "2.6.0.post3 2.6.0", "2.1.0.post17 2.1.0"],
    "8.2.RC1": ["2.6.0 2.6.0", "2.5.1.post1 2.5.1", "2.1.0.post13 2.1.0"],
    "8.1.RC1": ["2.5.1 2.5.1", "2.4.0.post4 2.4.0", "2.3.1.post6 2.3.1", "2.1.0.post12 2.1.0"],
    "8.0.0": ["2.4.0.post2 2.4.0", "2.3.1.post4 2.3.1", "2.1.0.post10 2.1.0"],
    "8.0.RC3": ["2.4.0 2.4.0", "2.3.1.post2 2.3.1", "2.1.0.post8 2.1.0"],
    "8.0.RC2": ["2.3.1 2.3.1", "2.2.0.post2 2.2.0", "2.1.0.post6 2.1.0"],
    "8.0.RC1": ["2.2.0 2.2.0", "2.1.0.post4 2.1.0"],
}  # fmt: skip
"""CANN -> torch_npu and its torch, copied by hand from COMPATIBILITY.md of Ascend/pytorch, state of 2026-08-21."""


@pytest.mark.parametrize("cann", PAIRS)
def test_the_vendors_pairs_are_all_there_and_no_others(cann: str) -> None:
    assert [f"{r['torch_npu']} {r['torch']}" for r in TABLES.cann_pairs(cann)] == PAIRS[cann]
    assert set(values("ascend", "pair", "cann")) == set(PAIRS)


@pytest.mark.parametrize(
    ("torch", "first", "last"),
    [("2.13.0", "3.10", "3.14"), ("2.11.0", "3.10", "3.14"), ("2.10.0", "3.10", "3.13"), ("2.9.0", "3.10", "3.13"),
     ("2.8.0", "3.9", "3.13"), ("2.7.1", "3.9", "3.13"), ("2.6.0", "3.9", "3.11"), ("2.5.1", "3.9", "3.11"),
     ("2.4.0", "3.8", "3.11"), ("2.3.1", "3.8", "3.11"), ("2.2.0", "3.8", "3.10"), ("2.1.0", "3.8", "3.11")],
)  # fmt: skip
def test_pythons_of_torch_npu(torch: str, first: str, last: str) -> None:
    minors = range(parts(first)[1], parts(last)[1] + 1)
    assert TABLES.npu_pythons(torch) == tuple(f"3.{n}" for n in minors)


def test_every_cann_has_a_driver_floor() -> None:
    releases = values("ascend", "driver", "release")
    for cann in PAIRS:
        row = TABLES.npu_driver_floor(cann)
        assert row is not None and row["driver"] in releases, cann
        assert cann_key(row["min_driver"]) <= cann_key(row["driver"]), row
    floors = [cann_key(row["min_driver"]) for row in TABLES.rows("ascend", "driver_floor")]
    assert floors == sorted(floors, reverse=True), "a newer CANN does not run on an older driver"
    assert TABLES.npu_driver_floor("7.0.0") is None


@pytest.mark.parametrize(
    ("cann", "floor"),
    [("9.1.0", "25.2.0"), ("9.0.0", "25.0.RC1"), ("8.5.0", "25.0.RC1"), ("8.2.RC1", "24.1.RC2")],
)
def test_driver_floors_of_the_release_notes(cann: str, floor: str) -> None:
    row = TABLES.npu_driver_floor(cann)
    assert row is not None and row["min_driver"] == floor and row.get("verified", True)


def test_generations_of_drivers() -> None:
    known = {row["release"]: row["generation"] for row in TABLES.rows("ascend", "driver")}
    assert all(re.fullmatch(r"V\d+R\d+C\d+", generation) for generation in known.values())
    assert known["25.5.0"] == known["25.3.RC1"] == "V100R001C23"
    assert known["25.2.0"] == "V100R001C21"
    assert known["24.1.RC2"] == "V100R001C18"


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


class Recording(Tables):
    """Tables that remember which files they were asked for."""

    def rows(self, file: str, table: str) -> Sequence[Row]:
        """The rows, with the file noted."""
        self.asked.add(file)
        return super().rows(file, table)

    @functools.cached_property
    def asked(self) -> set[str]:
        """Names of files."""
        return set()


@pytest.mark.parametrize(
    ("machine", "needed"),
    [
        (Machine(nvidia=nvidia("RTX 5090"), torch="cu124"), {"cuda", "torch"}),
        (Machine(ascend=Ascend()), {"ascend"}),
    ],
)
def test_check_reads_no_tables_of_plans(machine: Machine, needed: set[str], tmp_path: Path) -> None:
    tables = Recording()
    system = System(build(machine, tmp_path), execute=True)
    examine(survey(system, tables, debug=True), tables)
    system.close()
    assert needed <= tables.asked
    assert not tables.asked & {"accelerators", "profiles", "launch", "recipes"}


# --- profiles ------------------------------------------------------------------------------------

PROFILES = TABLES.rows("profiles", "profile")


def test_profiles() -> None:
    assert {row["name"] for row in PROFILES} >= {
        "auto",
        "smoke",
        "laptop-6gb",
        "speedrun",
        "npu-4",
        "npu-8",
    }
    assert len({row["name"] for row in PROFILES}) == len(PROFILES)
    assert set(TABLES.profile("auto")) == {"name", "title", "source", "date"}, (
        "auto computes everything"
    )


def test_an_unknown_profile_is_told_the_known_ones() -> None:
    with pytest.raises(
        WrongUsage, match=r"no profile 'fast'; choose one of auto, smoke, .*npu-8\.$"
    ):
        TABLES.profile("fast")


@pytest.mark.parametrize("row", PROFILES, ids=lambda row: row["name"])
def test_a_profile_makes_sense(row: Row) -> None:
    assert re.fullmatch(r"[A-Z].*\.", row["title"])
    assert row.get("device_type", "cpu") in ("cpu", "cuda", "npu", "mps")
    assert row.get("data", "stdlib") in ("climbmix", "fineweb-edu", "stdlib")
    assert row.get("dtype", "float32") in ("float32", "bfloat16", "float16")
    for key, value in row.get("needs", {}).items():
        assert row[key] == value, "a profile needs what it uses"
    if "depth" in row:
        shape = {"head_dim": row["head_dim"]} if "head_dim" in row else {}
        config = ModelConfig.from_depth(
            row["depth"],
            vocab_size=row.get("vocab_size", 32768),
            sequence_len=row["max_seq_len"],
            **shape,
        )
        assert config.depth == row["depth"]
    if "total_batch_size" in row:
        passes = row.get("device_batch_size", 1) * row["max_seq_len"] * row["nproc"]
        assert row["total_batch_size"] % passes == 0


@pytest.mark.parametrize(
    ("name", "gib"), [("laptop-6gb", 5), ("npu-4", 60), ("npu-8", 60), ("speedrun", 79)]
)
def test_a_profile_fits_what_it_is_named_after(name: str, gib: int) -> None:
    row = TABLES.profile(name)
    config = ModelConfig.from_depth(
        row["depth"], vocab_size=row.get("vocab_size", 32768), sequence_len=row["max_seq_len"]
    )
    setting = sizing.Setting(
        config=config,
        rows=row["device_batch_size"],
        world=row["nproc"],
        block_bytes=512 << 20,
        tile_bytes=128 << 20,
        passes=2,
        window_kernel=name == "speedrun",  # an H100 has such a kernel
    )
    assert sizing.fits(setting, gib * sizing.GIB)


def test_smoke_is_the_example_of_the_readme() -> None:
    row = TABLES.profile("smoke")
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    for flag in (
        "vocab_size",
        "depth",
        "head_dim",
        "max_seq_len",
        "total_batch_size",
        "num_iterations",
    ):
        assert f"--{flag.replace('_', '-')} {row[flag]}" in readme, flag
    assert (row["device_type"], row["data"]) == ("cpu", "stdlib")


# --- addresses -----------------------------------------------------------------------------------

ADDRESSES = [
    (table, row)
    for table in ("endpoint", "mirror", "artifact")
    for row in TABLES.rows("mirrors", table)
]


def test_check_asks_for_what_every_machine_needs_only() -> None:
    assert {row["kind"] for row in TABLES.rows("mirrors", "endpoint")} == {
        "python",
        "pytorch",
        "hub",
    }


@pytest.mark.parametrize("kind", ["python", "pytorch", "hub", "crates", "rustup", "git"])
def test_every_kind_has_mirrors_that_say_how_to_switch(kind: str) -> None:
    how = {"pytorch": "option", "crates": "source_name", "git": "instead_of"}.get(kind, "variable")
    rows = TABLES.mirrors(kind)
    assert len(rows) >= (1 if kind == "hub" else 2)
    assert all(row["region"] and row[how] for row in rows)


def test_a_usual_place_is_no_mirror_and_stands_first() -> None:
    assert "Hugging Face" not in [row["name"] for row in TABLES.mirrors("hub")]
    for kind in ("pytorch", "hub"):
        rows = [row for row in TABLES.rows("mirrors", "endpoint") if row["kind"] == kind]
        assert ["region" in row for row in rows] == [False, *[True] * (len(rows) - 1)]
    assert TABLES.pytorch_index("cu132") == "https://download.pytorch.org/whl/cu132"


def test_addresses_are_whole_and_encrypted() -> None:
    for table, row in ADDRESSES:
        assert row["url"].removeprefix("sparse+").startswith("https://"), row
        if table == "mirror":
            assert row["probe"].startswith("https://"), row
        elif table == "endpoint":
            assert not row["url"].endswith("/") and row["probe"].startswith("/"), row


def test_the_default_registries_are_named_nowhere() -> None:
    hosts = {urlsplit(row["url"].removeprefix("sparse+")).hostname or "" for _, row in ADDRESSES}
    for word in ("pypi" + ".org", "python" + "hosted", "crates" + ".io", "npm" + "js"):
        assert not [host for host in hosts if word in host]


def test_crates_have_a_sparse_registry_for_cargo() -> None:
    for row in TABLES.mirrors("crates"):
        assert row["url"].startswith("sparse+") and row["url"].endswith("/"), "cargo wants both"
        assert re.fullmatch(r"[a-z-]+", row["source_name"])


def test_git_fetches_pytorch_and_its_submodules_from_a_mirror(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git here")
    for row in TABLES.mirrors("git"):
        told = subprocess.run(
            [git, "-c", f"url.{row['url']}.insteadOf={row['instead_of']}", "ls-remote", "--get-url",
             "https://github.com/pytorch/pytorch"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert told.stdout.strip() == f"{row['url']}pytorch/pytorch"


def test_artifacts() -> None:
    bundle = TABLES.artifact("eval-bundle")
    assert bundle["url"].endswith("/eval_bundle.zip") and bundle["size_mb"] == 162
    with pytest.raises(DoctorError, match=r"build/mirrors.toml has no artifact 'nothing'"):
        TABLES.artifact("nothing")


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
        ("accelerators", "gpu", r"\A", "[[gpu]\n", r"build/accelerators.toml is no valid TOML: .*line 1"),
        ("accelerators", "gpu", r"^cc = .*\n", "", r"build/accelerators.toml: row 1 of \[\[gpu\]\] lacks 'cc'"),
        ("accelerators", "gpu", r"^watts = .*$", "watts = 0", r"'watts' in row 1 .* is 0, not a positive number"),
        ("accelerators", "gpu", r"^watts = .*$", "watts = -5.5", r"'watts' in row 1 .* is -5.5, not a positive"),
        ("accelerators", "gpu", r"^watts = .*$", "watts = inf", r"'watts' in row 1 .* is inf, not a positive"),
        ("accelerators", "gpu", r"^watts = .*$", "watts = true", r"'watts' in row 1 .* is True, not a positive"),
        ("accelerators", "gpu", r"^tflops_fp8 = .*$", 'tflops_fp8 = "1"', r"'tflops_fp8' in row 1 .* is '1', not a"),
        ("accelerators", "gpu", r"^tflops_bf16 =", "tflops_bf61 =", r"row 1 .* has 'tflops_bf61', which its table"),
        ("accelerators", "gpu", r"^pattern = .*$", "pattern = 'RTX ('", r"'pattern' in row 1 .* not a regular exp"),
        ("accelerators", "npu", r"^series = .*$", "series = 910", r"'series' in row 1 of \[\[npu\]\] is 910, not"),
        ("accelerators", "gpu", r"(?s)\A.*\Z", "gpu = [1]\nnpu = []", r"row 1 of \[\[gpu\]\] is 1, not a table"),
        ("profiles", "profile", r"^depth = 2$", 'depth = "2"', r"'depth' in row 2 .* is '2', not a positive whole"),
        ("profiles", "profile", r"^depth = 2$", "depth = 2.5", r"'depth' in row 2 .* is 2.5, not a positive whole"),
        ("profiles", "profile", r"^depth = 2$", "dephts = 2", r"row 2 of \[\[profile\]\] has 'dephts', which"),
        ("profiles", "profile", r"^needs = .*$", "needs = { gpus = 1 }", r"'needs' .* not a table of device_type and"),
        ("profiles", "profile", r"^title = .*\n", "", r"build/profiles.toml: row 1 of \[\[profile\]\] lacks 'title'"),
        ("mirrors", "artifact", r"^size_mb = .*$", "size_mb = 0", r"'size_mb' in row 1 of \[\[artifact\]\] is 0, not"),
        ("mirrors", "mirror", r"^whole = .*$", 'whole = "no"', r"'whole' in row 1 of \[\[mirror\]\] is 'no', not"),
        ("ascend", "driver_floor", r"^min_driver = .*\n", "", r"row 1 of \[\[driver_floor\]\] lacks 'min_driver'"),
        ("torch", "nightly", r"^(\[\[nightly\]\])\n.*$", r"\1", r"row 1 of \[\[nightly\]\] lacks 'variant'"),
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

"""A build planned from facts: architectures, toolkit, compiler, variables, jobs, obstacles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from doctor.errors import DoctorError, WrongUsage
from doctor.facts import Facts, Gpu, Host, Library, Nvidia, Python, Storage, Tool, Toolkit
from doctor.findings.finding import ERROR
from doctor.knowledge.tables import Tables
from doctor.planner.build.draft import draft
from doctor.planner.build.jobs import fit_jobs, pace, usable_gb
from doctor.planner.build.planning import plan_build
from doctor.planner.build.recipe import settings
from doctor.planner.build.toolchain import Compiler, accepts
from doctor.planner.build.wish import canonical_archs
from doctor.planner.terms.plan import Wishes

TABLES = Tables()
CUDA_13 = tuple(TABLES.toolkit_archs("13.0"))
CUDA_124 = tuple(TABLES.toolkit_archs("12.4"))


def tools(**versions: str) -> dict[str, Tool]:
    names = {name.replace("gxx", "g++"): version for name, version in versions.items()}
    return {name: Tool(path=f"/usr/bin/{name}", version=v) for name, v in names.items()}


def machine(
    *cards: str, toolkits: Sequence[Toolkit] = (), gcc: str = "13.3.0", **host: Any
) -> Facts:
    """A healthy Ubuntu with cards of these capabilities."""
    gpus = tuple(
        Gpu(index=i, name=f"card {cc}", compute_capability=cc) for i, cc in enumerate(cards)
    )
    given = {
        "os": "Linux",
        "arch": "x86_64",
        "distro_id": "ubuntu",
        "distro_version": "24.04",
        "cores": 16,
        "memory_available": 64 << 10,
        "usr_include": True,
        "tools": tools(gcc=gcc, gxx=gcc, ld="2.42", cmake="3.28.3", ninja="1.11.1"),
        **host,
    }
    return Facts(
        host=Host(**given),
        python=Python(
            executable="/usr/bin/python3", version="3.12.3", headers="/usr/include/python3.12"
        ),
        nvidia=Nvidia(
            gpus=gpus,
            visible=tuple(range(len(gpus))),
            toolkits=tuple(toolkits),
            nvcc=toolkits[0].nvcc if toolkits else None,
            nvcc_version=toolkits[0].version if toolkits else None,
        ),
        storage=Storage(base_dir="/home/u/.cache/nanochat", free=200 << 10),
    )


def toolkit(version: str, archs: Sequence[str] = ()) -> Toolkit:
    path = f"/usr/local/cuda-{version}"
    known = tuple(archs) or TABLES.toolkit_archs(version)
    return Toolkit(path=path, version=version, nvcc=f"{path}/bin/nvcc", archs=known)


def codes(facts: Facts, *archs: str) -> list[str]:
    return [f.code for f in plan_build(facts, TABLES, Wishes(archs=archs))[1]]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["12.0"], ("12.0",)),
        (["sm_120"], ("12.0",)),
        (["SM120"], ("12.0",)),
        (["compute_90"], ("9.0",)),
        (["120"], ("12.0",)),
        (["12"], ("12.0",)),
        (["9"], ("9.0",)),
        (["75"], ("7.5",)),
        (["10"], ("10.0",)),
        (["sm_90a"], ("9.0a",)),
        (["9.0a+PTX"], ("9.0a+PTX",)),
        (["12.0+ptx"], ("12.0+PTX",)),
        (["8.6;12.0", "9.0,12.0"], ("8.6", "9.0", "12.0")),
        (["8.0 8.6"], ("8.0", "8.6")),
        (["native"], ("8.9", "12.0")),
        (["native+PTX"], ("8.9+PTX", "12.0+PTX")),
        (["blackwell"], ("12.0",)),
        (["Hopper"], ("9.0",)),
        (["ampere"], ("8.0",)),
        ([], ()),
    ],
)
def test_names_of_architectures(words: list[str], wanted: tuple[str, ...]) -> None:
    assert canonical_archs(words, TABLES, native=["8.9", "12.0"], known=CUDA_13) == wanted


def test_a_family_without_a_card_of_it_is_its_lowest_of_each_major() -> None:
    assert canonical_archs(["blackwell"], TABLES, native=[], known=CUDA_13) == ("10.0", "12.0")
    assert canonical_archs(["blackwell"], TABLES, native=[], known=()) == ("10.0", "12.0")


@pytest.mark.parametrize("word", ["13.9", "139", "rtx5090", "12.", "sm_", "12.0+PTY", "-1", "１２"])
def test_a_wrong_name_is_refused_with_the_list(word: str) -> None:
    with pytest.raises(WrongUsage, match=r"this nvcc knows 7\.5, 8\.0.*12\.0, 12\.1"):
        canonical_archs([word], TABLES, native=[], known=CUDA_13)


def test_native_without_a_device() -> None:
    with pytest.raises(DoctorError, match="none is visible"):
        canonical_archs(["native"], TABLES, native=[], known=CUDA_13)


def test_a_healthy_machine_builds_for_its_own_cards() -> None:
    facts = machine("12.0", "8.9", toolkits=[toolkit("13.0")])
    build, found, hours, disk, network = plan_build(facts, TABLES, Wishes())
    assert build.archs == ("8.9", "12.0")
    assert build.cuda_home == "/usr/local/cuda-13.0"
    assert build.libuv is True
    assert build.env["TORCH_CUDA_ARCH_LIST"] == "8.9;12.0"
    assert build.env["USE_TENSORPIPE"] == "1"
    assert build.env["MAX_JOBS"] == str(build.jobs)
    assert found == ()
    assert 1 < hours < 4 and disk == 30 and network > 500


def test_no_libuv_is_no_tensorpipe() -> None:
    facts = machine("12.0", toolkits=[toolkit("13.0")])
    build = plan_build(facts, TABLES, Wishes(libuv=False))[0]
    assert build.env["USE_TENSORPIPE"] == "0" and build.libuv is False
    assert "USE_LIBUV" not in build.env


def test_without_a_gpu_it_is_a_cpu_build() -> None:
    build, found, *_ = plan_build(machine(), TABLES, Wishes())
    assert build.archs == () and build.cuda_home is None
    assert build.env["USE_CUDA"] == "0" and "TORCH_CUDA_ARCH_LIST" not in build.env
    assert found == ()


def test_another_toolkit_is_taken_where_the_usual_one_does_not_know_the_card() -> None:
    facts = machine("12.0", toolkits=[toolkit("12.4"), toolkit("12.8"), toolkit("13.0")])
    build, found, *_ = plan_build(facts, TABLES, Wishes())
    assert build.cuda_home == "/usr/local/cuda-13.0" and found == ()
    assert build.env["CUDACXX"] == "/usr/local/cuda-13.0/bin/nvcc"


def test_a_toolkit_that_is_too_old_or_too_new() -> None:
    found = plan_build(machine("12.0", toolkits=[toolkit("12.4")]), TABLES, Wishes())[1]
    assert [f.code for f in found] == ["cuda.toolkit-too-old-for-arch"]
    assert "12.8 or newer" in found[0].remedy.text and "9.0" in found[0].cause
    found = plan_build(machine("6.1", toolkits=[toolkit("13.0")]), TABLES, Wishes())[1]
    assert "CUDA 12.9, the last that does" in found[0].remedy.text


def test_all_obstacles_at_once() -> None:
    facts = machine(
        "12.0",
        toolkits=[toolkit("12.8")],
        gcc="15.1.0",
        memory_available=3 << 10,
        tools=tools(gcc="15.1.0", gxx="15.1.0"),
    )
    facts = replace(
        facts,
        python=replace(facts.python or Python(), headers=None),
        storage=Storage(base_dir="/x", free=4 << 10),
    )
    found = plan_build(facts, TABLES, Wishes())[1]
    assert [f.code for f in found] == [
        "cuda.host-compiler-unsupported",
        "host.python-headers-missing",
        "host.memory-low",
        "host.disk-full",
    ]
    by_code = {f.code: f for f in found}
    compiler = by_code["cuda.host-compiler-unsupported"]
    assert "up to 14" in compiler.cause and "15.1.0" in compiler.cause
    assert compiler.remedy.commands == ("sudo apt-get install -y gcc-14 g++-14",)
    assert by_code["host.python-headers-missing"].remedy.commands == (
        "sudo apt-get install -y python3.12-dev",
    )


def test_clang_serves_where_gcc_is_too_new() -> None:
    facts = machine(
        "12.0",
        toolkits=[toolkit("12.8")],
        tools=tools(gcc="15.1.0", gxx="15.1.0", clang="18.1.3"),
    )
    build, found, *_ = plan_build(facts, TABLES, Wishes())
    assert found == () and build.env["CUDAHOSTCXX"] == "/usr/bin/clang++"


def test_an_older_gcc_beside_the_usual_one_serves() -> None:
    facts = machine("12.0", toolkits=[toolkit("12.8")], gcc="15.1.0")
    other = Compiler("gcc", "14.2.0", "/usr/bin/gcc-14", "/usr/bin/g++-14")
    assert draft(facts, TABLES, Wishes()).compiler is None
    assert draft(facts, TABLES, Wishes(), others=[other]).compiler == other


def test_no_compiler_and_no_nvcc() -> None:
    assert codes(machine("12.0", tools={})) == ["cuda.toolkit-missing", "host.compiler-missing"]


def test_a_compiler_below_the_floor_is_no_compiler_for_it() -> None:
    row = TABLES.toolkit("13.5")
    assert (
        not accepts(row, "gcc", "5.5.0")
        and accepts(row, "gcc", "16.1")
        and accepts(None, "gcc", "99")
    )


def test_libraries_and_launchers_that_are_there_are_used() -> None:
    facts = machine("12.0", toolkits=[toolkit("13.0")])
    assert facts.host is not None and facts.nvidia is not None
    facts = replace(
        facts,
        host=replace(facts.host, tools={**facts.host.tools, **tools(ccache="4.9", cmake="4.1.0")}),
        nvidia=replace(
            facts.nvidia,
            libraries=(
                Library(name="libcudnn.so.9", path="/l", header="/h"),
                Library(name="libnccl.so.2", path="/l", header="/h"),
            ),
        ),
    )
    env = plan_build(facts, TABLES, Wishes())[0].env
    assert env["USE_CUDNN"] == env["USE_SYSTEM_NCCL"] == "1"
    assert env["CMAKE_CUDA_COMPILER_LAUNCHER"] == "/usr/bin/ccache"
    assert env["CMAKE_POLICY_VERSION_MINIMUM"] == "3.5"
    assert facts.nvidia is not None
    bare = tuple(replace(lib, header=None) for lib in facts.nvidia.libraries)
    without = replace(facts, nvidia=replace(facts.nvidia, libraries=bare))
    env = plan_build(without, TABLES, Wishes())[0].env
    assert env["USE_CUDNN"] == env["USE_SYSTEM_NCCL"] == "0", "libraries without headers"


def test_settings_by_version() -> None:
    rows = TABLES.rows("recipes", "setting")
    new = settings(rows, {"cmake-4"}, {"jobs": "1"}, "2.9.1")
    old = settings(rows, {"cmake-4"}, {"jobs": "1"}, "2.6.0a0")
    assert "CMAKE_POLICY_VERSION_MINIMUM" in old and "CMAKE_POLICY_VERSION_MINIMUM" not in new
    assert "USE_XPU" not in settings(rows, (), {"jobs": "1"}, "2.3.1")


@pytest.mark.parametrize(
    ("cores", "gb"), [(1, 1.0), (2, 8.0), (16, 30.0), (24, 250.0), (96, 64.0), (8, 6.0)]
)
def test_jobs_fit_into_memory(cores: int, gb: float) -> None:
    jobs = fit_jobs(cores, gb, TABLES.rows("recipes", "weight"), 0.4)
    assert 1 <= jobs.heavy <= jobs.wide <= cores
    taken = jobs.heavy * jobs.heavy_gb + (jobs.wide - jobs.heavy) * jobs.light_gb
    assert taken <= gb + 1e-9 or (jobs.wide, jobs.heavy) == (1, 1)
    more = fit_jobs(cores, gb * 2, TABLES.rows("recipes", "weight"), 0.4)
    assert pace(more.wide, more.heavy, 0.4) <= pace(jobs.wide, jobs.heavy, 0.4)


def test_neither_pool_holds_up_the_other() -> None:
    """18 cores and 49 GB: all 18 wide would leave one job for heavy objects, 40 % of the work."""
    jobs = fit_jobs(18, 49.0, TABLES.rows("recipes", "weight"), 0.4)
    assert 14 <= jobs.wide < 18 and 5 <= jobs.heavy < jobs.wide
    every = [
        pace(wide, heavy, 0.4)
        for wide in range(1, 19)
        for heavy in range(1, wide + 1)
        if heavy * jobs.heavy_gb + (wide - heavy) * jobs.light_gb <= 49.0
    ]
    assert pace(jobs.wide, jobs.heavy, 0.4) == min(every)


def test_a_cpu_build_has_no_heavy_objects() -> None:
    jobs = fit_jobs(16, 64.0, TABLES.rows("recipes", "weight"), 0.0)
    assert (jobs.wide, jobs.heavy) == (16, 16) and jobs.heavy_from_gb > 2.5


def test_a_control_group_limits_memory() -> None:
    host = Host(memory_available=64 << 10, cgroup_memory_limit=8 << 10)
    assert usable_gb(host) == pytest.approx(7.0)
    assert usable_gb(Host()) is None


def test_every_finding_stops_or_warns_and_has_a_cure() -> None:
    facts = machine("12.0", gcc="15.1.0", memory_available=1 << 10)
    for finding in plan_build(facts, TABLES, Wishes())[1]:
        assert finding.severity in (ERROR, "warning") and finding.remedy.text and finding.evidence

"""The route of every machine of tests/cases, what was turned down, and what wishes change."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from cases import CASES
from cases.describe import atlas, pc
from machines import Machine
from verdicts import SLIP, TABLES, facts_of, look

from doctor.cli.pages.plan import page
from doctor.errors import DoctorError, WrongUsage
from doctor.facts import Facts
from doctor.knowledge.offers import Offer, Offers
from doctor.planner.commands import Target
from doctor.planner.decide import open_errors, plan
from doctor.planner.routes.order import ORDER
from doctor.planner.terms.plan import ROUTES, Plan, Step, Wishes

TARGET = Target(".venv/bin/python", uv=True)


def facts(machine: Machine) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        return look(machine, Path(folder))[0]


def planned(machine: Machine | Facts, offers: Offers | None = None, **wishes: object) -> Plan:
    known = machine if isinstance(machine, Facts) else facts(machine)
    return plan(known, TABLES, Wishes(**wishes), TARGET, offers)  # type: ignore[arg-type]


EXPECTED = {
    # what is there and does
    "RTX 4090, driver 535, CUDA 12.8 wheel": ("keep", "2.9.1+cu128"),
    "CPU only, the CUDA wheel of the default index": ("keep", "2.9.1+cu128"),
    "display card too old for any torch, CPU wheel": ("keep", "2.9.1+cpu"),
    "no NCCL, one GPU": ("keep", "2.9.1"),
    "no libuv": ("keep", "2.9.1"),
    "CANN 8.5 not sourced": ("keep", "2.9.0"),
    "910B2 and an RTX 4090: NPUs count first": ("keep", "2.6.0"),
    "older CUDA first on LD_LIBRARY_PATH": ("keep", "2.9.1"),
    "torchvision of another torch": ("keep", "2.9.1"),
    "a user outside the group": ("keep", "2.6.0"),
    "a built tree": ("local-build", "2.10.0a0"),
    # a wheel that has the code and that the driver runs
    "driver 535 and a CUDA 13 wheel": ("stable-wheel", "2.14.1+cu126"),
    "GTX 1080, driver 580: architecture before novelty": ("stable-wheel", "2.14.1+cu126"),
    "V100, torch 2.11 of CUDA 12.8": ("stable-wheel", "2.14.1+cu126"),
    "V100 and 5090 side by side, nothing installed": ("stable-wheel", "2.10.0+cu129"),
    "RTX 5090, driver 570, nothing installed": ("stable-wheel", "2.13.0+cu129"),
    "RTX 5090, torch 2.6 of CUDA 12.4": ("stable-wheel", "2.15.0"),
    "CPU wheel beside a GPU": ("stable-wheel", "2.15.0"),
    "K80, driver 470": ("stable-wheel", "2.7.1+cu118"),
    "no NCCL, two GPUs": ("stable-wheel", "2.15.0"),
    "glibc 2.17 holds torch at 2.6": ("stable-wheel", "2.6.0+cu126"),
    "torch for another Python": ("cpu-wheel", "2.15.0+cpu"),
    "source tree on PYTHONPATH, nothing installed": ("cpu-wheel", "2.15.0+cpu"),
    "Python 3.13t": ("cpu-wheel", "2.11.0+cpu"),
    # the pair that goes with the CANN
    "torch_npu of another CANN": ("torch-npu-wheel", "2.6.0"),
    "torch 2.9 with torch_npu 2.8": ("torch-npu-wheel", "2.9.0"),
    "neither torch nor torch_npu": ("torch-npu-wheel", "2.6.0"),
    # a person must act
    "nouveau holds the card": ("blocked", "nouveau"),
    "container without --gpus": ("blocked", "given no GPU"),
    "CUDA_VISIBLE_DEVICES is empty": ("blocked", "hides"),
    "MIG on, no instance": ("blocked", "MIG"),
    "RTX 5090, driver 550.144.03, nothing installed": ("blocked", "570"),
    "GTX TITAN: too old for every wheel": ("blocked", "3.5"),
    "5090 and 1080 side by side, nothing installed": ("blocked", "hide one kind"),
    "fabric manager failed": ("blocked", "fabric manager"),
    "no CANN": ("blocked", "CANN"),
    "driver older than CANN accepts": ("blocked", "C18"),
    "another container owns the NPUs": ("blocked", "another"),
    "Python 3.12 with CANN 8.0": ("blocked", "3.11"),
    "Python 3.16": ("blocked", "3.16"),
    "Python 3.8": ("blocked", "3.8"),
    "32-bit Python": ("blocked", "32-bit"),
    "musl": ("blocked", "musl"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_route_of_a_machine(name: str) -> None:
    route, says = EXPECTED[name]
    made = planned(facts_of(name))
    assert made.route == route, made.reason
    if route == "blocked":
        assert says in made.reason and made.torch is None and made.launch is None
        assert not made.steps
    else:
        assert made.torch and made.launch
        assert f"{made.torch.requirement or made.torch.version}".removeprefix("torch==").startswith(
            says
        )


@pytest.mark.parametrize("name", CASES)
def test_every_machine_gets_a_whole_plan(name: str) -> None:
    try:
        made = planned(facts_of(name))
    except DoctorError as error:
        assert str(error).endswith(".") and "launch" not in CASES[name].errors
        return
    assert made.route in ROUTES
    sentences = [made.reason, *made.notes, *(item.reason for item in made.rejected)]
    sentences += made.launch.warnings if made.launch else []
    for sentence in sentences:
        assert sentence.endswith(".") and not SLIP.search(sentence.replace(" ../", " ")), sentence
    data = made.to_json()
    for key in ("route", "reason", "rejected", "torch", "build", "steps", "launch", "findings"):
        assert key in data
    if made.route not in ("keep", "blocked"):
        assert any(step.id == "torch" for step in made.steps)
        # Whatever is chosen, what stood before it in the order was turned down aloud.
        assert {"keep"} <= {item.route for item in made.rejected}
    assert "\n".join(page(made))


def test_ground_that_a_person_must_clear_is_told_apart_from_what_the_plan_cures() -> None:
    assert open_errors(planned(facts_of("GTX 1080, CUDA 13 wheel"))) == []
    assert open_errors(planned(facts_of("CANN 8.5 not sourced"))) == []
    assert open_errors(planned(facts_of("a user outside the group"))) == ["npu.permission"]
    assert open_errors(planned(facts_of("libatb missing"))) == ["npu.library-missing"]


def test_the_last_torch_for_an_old_card_says_for_how_long() -> None:
    notes = " ".join(planned(facts_of("GTX 1080, CUDA 13 wheel")).notes)
    assert "2.15" in notes and "hold" in notes
    # A card that the newest wheel serves has nothing to hold.
    assert "hold" not in " ".join(planned(facts_of("CPU wheel beside a GPU")).notes)


# --- wishes ------------------------------------------------------------------------------------------


def test_wishes_change_the_route() -> None:
    healthy = facts(pc("RTX 4090"))
    assert planned(healthy).route == "keep"
    assert planned(healthy, route="stable-wheel").route == "stable-wheel"
    nightly = planned(healthy, channel="nightly")
    assert nightly.route == "nightly-wheel" and nightly.torch
    assert nightly.torch.index_url == "https://download.pytorch.org/whl/nightly/cu134"
    assert planned(healthy, route="cpu-wheel").route in ("keep", "cpu-wheel")
    without_libuv = facts_of("no libuv")
    assert planned(without_libuv).route == "keep"
    made = planned(without_libuv, libuv=True)
    assert made.route == "stable-wheel"
    assert any("libuv" in item.reason for item in made.rejected if item.route == "keep")


def test_a_profile_for_the_cpu_does_not_take_the_card_s_torch_away() -> None:
    made = planned(facts(pc("RTX 4090", torch=None)), profile="smoke")
    assert made.route == "stable-wheel" and made.launch and made.launch.device_type == "cpu"
    without_driver = planned(facts(pc("RTX 4090", driver=None, torch=None)), profile="smoke")
    assert without_driver.route == "cpu-wheel"
    assert any("driver" in item.reason for item in without_driver.rejected)


def test_a_card_to_build_for_must_be_in_the_wheel() -> None:
    healthy = facts(pc("RTX 4090", driver="570.172.08"))
    assert planned(healthy, archs=("8.9",)).route == "keep"
    made = planned(healthy, archs=("sm_61",))
    assert made.route == "stable-wheel" and made.torch and "cu126" in str(made.torch.requirement)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"route": "fast"}, "no route"),
        ({"channel": "weekly"}, "no channel"),
        ({"profile": "huge"}, "huge"),
        ({"depth": 0}, "at least 1"),
        ({"nproc": -2}, "at least 1"),
        ({"archs": ("13.9",)}, "13.9"),
        ({"route": "stable-wheel", "channel": "nightly"}, "contradict"),
    ],
)
def test_a_wish_that_is_wrong_in_itself(wishes: dict[str, object], says: str) -> None:
    with pytest.raises(WrongUsage, match=says):
        planned(facts_of("RTX 4090, driver 535, CUDA 12.8 wheel"), **wishes)


@pytest.mark.parametrize(
    ("name", "wishes"),
    [
        ("CPU only, CPU wheel", {"route": "torch-npu-wheel"}),
        ("CPU only, CPU wheel", {"route": "stable-wheel"}),
        ("CPU only, CPU wheel", {"profile": "npu-4"}),
        ("GTX TITAN: too old for every wheel", {"route": "stable-wheel"}),
        ("RTX 4090, driver 535, CUDA 12.8 wheel", {"route": "local-build"}),
        ("RTX 4090, driver 535, CUDA 12.8 wheel", {"nproc": 2}),
    ],
)
def test_a_wish_that_the_machine_cannot_fulfil(name: str, wishes: dict[str, object]) -> None:
    with pytest.raises(DoctorError) as caught:
        planned(facts_of(name), **wishes)
    assert not isinstance(caught.value, WrongUsage) and str(caught.value).endswith(".")


def test_a_wished_build_tells_what_stands_in_its_way() -> None:
    made = planned(facts(pc("RTX 4090", torch=None)), route="source-build", libuv=True)
    assert made.route == "source-build" and made.build
    assert (made.build.archs, made.build.libuv) == (("8.9",), True)
    assert "cuda.toolkit-missing" in {f.code for f in made.findings}
    assert "cuda.toolkit-missing" in open_errors(made)
    tools, build = (s for s in made.steps if s.id in ("build-tools", "torch"))
    assert "scikit-build-core>=1.0" in tools.commands[0] and "cmake>=3.27" in tools.commands[0]
    assert "build-torch --arch 8.9 --libuv" in build.commands[0]


# --- what indexes say ---------------------------------------------------------------------------------

CU130 = "https://download.pytorch.org/whl/cu130"
CU126 = "https://download.pytorch.org/whl/cu126"
CPU = "https://download.pytorch.org/whl/cpu"


def offers(
    *wheels: Offer, answered: tuple[str, ...] = (), unreachable: tuple[str, ...] = ()
) -> Offers:
    return Offers(wheels, dict.fromkeys(unreachable, "no answer within 2 s"), frozenset(answered))


def offer(version: str, index: str | None) -> Offer:
    tag = version.partition("+")[2]
    return Offer(version, tag, index, "3.12", "x86_64", 900)


def test_an_index_knows_a_newer_release_than_the_tables() -> None:
    fresh = facts(pc("RTX 5090", torch=None))
    made = planned(
        fresh, offers(offer("2.15.0+cu130", CU130), offer("2.16.0+cu130", CU130), answered=(CU130,))
    )
    assert made.torch and (made.torch.version, made.torch.index_url) == ("2.16.0", CU130)
    assert made.torch.requirement == "torch==2.16.0+cu130"
    assert any("newer than the tables" in note for note in made.notes)


def test_a_release_that_the_index_does_not_have_is_not_chosen() -> None:
    old = facts(pc("GTX 1080", torch=None))
    made = planned(old, offers(offer("2.13.0+cu126", CU126), answered=(CU126,)))
    assert made.torch and made.torch.requirement == "torch==2.13.0+cu126"


def test_what_can_be_reached_comes_before_what_is_newest() -> None:
    fresh = facts(pc("RTX 5090", torch=None))
    made = planned(
        fresh,
        offers(offer("2.13.0+cu130", CU130), answered=(CU130,), unreachable=("", CPU)),
    )
    assert made.torch and made.torch.requirement == "torch==2.13.0+cu130"


def test_only_the_default_index_answers_on_a_machine_without_an_accelerator() -> None:
    bare = facts(Machine())
    made = planned(bare, offers(offer("2.15.0", None), answered=("",), unreachable=(CPU,)))
    assert made.route == "cpu-wheel" and made.torch
    assert (made.torch.requirement, made.torch.index_url) == ("torch==2.15.0", None)
    assert any("2.5 GB" in note for note in made.notes)
    network = sum(step.network_mb for step in made.steps if step.id == "torch")
    assert network == 900 + 2500


def test_nothing_answers() -> None:
    made = planned(facts(Machine()), offers(unreachable=("", CPU)))
    assert made.route == "blocked" and "reached" in made.reason
    assert any("PIP_INDEX_URL" in note for note in made.notes)
    # What is installed still serves.
    kept = planned(facts(Machine(torch="cpu")), offers(unreachable=("", CPU)))
    assert kept.route == "keep"


def test_a_nightly_is_pinned_to_its_day() -> None:
    index = "https://download.pytorch.org/whl/nightly/cu132"
    days = [offer(f"2.16.0.dev2026111{n}+cu132", index) for n in (7, 9, 8)]
    made = planned(facts(pc("RTX 5090")), offers(*days, answered=(index,)), channel="nightly")
    assert made.torch and made.torch.requirement == "torch==2.16.0.dev20261119+cu132"


# --- steps --------------------------------------------------------------------------------------------


def test_steps_of_an_npu_machine() -> None:
    made = planned(replace(atlas(npu=None), torch=None))
    ids = [step.id for step in made.steps]
    assert ids[:4] == ["rustbpe", "torch", "torch-npu", "trainer"]
    torch, npu = (step.commands[0] for step in made.steps[1:3])
    assert "torch==2.6.0+cpu" in torch and "/whl/cpu" in torch
    assert "torch_npu==2.6.0" in npu and "numpy" in npu and "index" not in npu


def test_a_kept_torch_npu_gets_the_packages_that_it_lacks() -> None:
    made = planned(facts_of("packages missing"))
    step = next(step for step in made.steps if step.id == "torch-npu")
    assert all(name in step.commands[0] for name in ("pyyaml", "decorator", "attrs", "scipy"))
    made = planned(facts_of("NumPy 2 with CANN 8.2"))
    step = next(step for step in made.steps if step.id == "torch-npu")
    assert "numpy>=1.19.2,<2.0" in step.commands[0]


def step(name: str, made: Plan) -> Step:
    return next(each for each in made.steps if each.id == name)


def test_another_build_is_installed_over_the_one_that_is_there() -> None:
    made = planned(facts_of("CPU wheel beside a GPU"))
    assert "--reinstall-package torch" in step("torch", made).commands[0]
    pip = plan(facts_of("CPU wheel beside a GPU"), TABLES, Wishes(), Target("py"))
    assert "--force-reinstall" in step("torch", pip).commands[0]


def test_an_environment_that_must_be_made_comes_first() -> None:
    target = Target("/srv/env/bin/python", "/usr/bin/python3")
    made = plan(facts(Machine()), TABLES, Wishes(), target)
    assert made.steps[0].commands == ("/usr/bin/python3 -m venv /srv/env",)


def test_routes_are_all_in_an_order() -> None:
    assert {route for order in ORDER.values() for route in order} == set(ROUTES) - {"blocked"}


def test_the_same_question_has_the_same_answer() -> None:
    known = facts_of("GTX 1080, CUDA 13 wheel")
    assert planned(known).to_json() == planned(known).to_json()


# --- mirrors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mirror", "option"),
    [
        ("https://mirror.sjtu.edu.cn/pytorch-wheels", "--default-index"),
        ("https://mirrors.aliyun.com/pytorch-wheels", "--find-links"),
    ],
)
def test_the_mirror_that_answers_is_the_one_to_install_from(mirror: str, option: str) -> None:
    index = f"{mirror}/cu130"
    answer = Offers(
        (offer("2.14.1+cu130", index),),
        {CU130: "no answer within 2 s"},
        frozenset({index}),
        mirror=mirror,
    )
    made = planned(facts(pc("RTX 5090", torch=None)), answer)
    assert made.torch and made.torch.index_url == index
    assert f"{option} {index}" in step("torch", made).commands[0]
    assert any(mirror in note for note in made.notes)


def test_an_offer_for_a_newer_c_library_is_left_out() -> None:
    old = facts(pc("RTX 4090", torch=None, glibc="2.28"))
    wheels = (
        replace(offer("2.16.0+cu130", CU130), glibc="2.34"),
        replace(offer("2.15.0+cu130", CU130), glibc="2.28"),
    )
    made = planned(old, offers(*wheels, answered=(CU130,)))
    assert made.torch and made.torch.requirement == "torch==2.15.0+cu130"


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("NCCL of an older torch, and a function is missing",
         ["uv pip install --python .venv/bin/python nvidia-nccl-cu12==2.27.5"]),
        ("NCCL for CUDA 12 over that for 13",
         ["uv pip uninstall --python .venv/bin/python nvidia-nccl-cu12",
          "uv pip install --python .venv/bin/python --reinstall-package nvidia-nccl-cu13 --no-deps "
          "nvidia-nccl-cu13==2.27.5"]),
        ("Triton of another torch", ["uv pip install --python .venv/bin/python triton==3.5.1"]),
    ],
)  # fmt: skip
def test_packages_are_brought_back_and_the_torch_is_kept(name: str, commands: list[str]) -> None:
    made = planned(facts_of(name))
    step = next(step for step in made.steps if step.id == "torch-packages")
    assert made.route == "keep" and list(step.commands) == commands
    assert "torch.version-conflict" not in open_errors(made)


def test_a_healthy_torch_is_left_alone() -> None:
    made = planned(facts_of("all as torch asks for it"))
    assert made.route == "keep" and "torch-packages" not in [step.id for step in made.steps]


def test_a_torch_that_no_package_mends_is_replaced() -> None:
    """The system's NCCL is too old for this torch: a wheel brings its own."""
    assert planned(facts_of("NCCL of the system, too old for torch")).route == "stable-wheel"

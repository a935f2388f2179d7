"""What apply does for a route: commands, and what they cost in network, disk and time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from doctor.checkout import CHECKOUT
from doctor.errors import DoctorError
from doctor.facts import Facts, TorchNpu
from doctor.findings.rules.torch import mending
from doctor.knowledge.tables import Row, Tables
from doctor.planner import tokenizer
from doctor.planner.commands import Target, doctor, install, make_environment, module, uninstall
from doctor.planner.terms.plan import Launch, Step
from doctor.planner.terms.question import Decision
from doctor.planner.tokenizer import Way
from doctor.text.quantities import about, disk
from doctor.text.toml import tomllib

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MB_PER_MINUTE = 750
"""Of a line of 100 Mbit/s, the assumption behind all minutes."""

SHARD_MB = 100
"""A published shard (nanochat.dataset), on the line and on disk."""

INSTALLING = ("keep", "local-build", "torch-npu-wheel", "stable-wheel", "nightly-wheel", "source-build",
              "cpu-wheel", "mps-wheel")  # fmt: skip
"""Routes after which the trainer can be installed."""


def steps(
    decision: Decision,
    launch: Launch | None,
    facts: Facts,
    tables: Tables,
    target: Target,
    option: str = "--index-url",
    way: Way | None = None,
) -> tuple[Step, ...]:
    """The steps of a decision, in order; what is there already is found out when they are carried out.

    Args:
        target: where to install.
        option: how pip is pointed to torch's index.
        way: how the tokenizer is come by; its steps come before the gigabytes, and need nothing of them.
    """
    if decision.route not in INSTALLING:
        return ()
    way = way or tokenizer.choose(facts, tables, None)
    found = [*_environment(target), *tokenizer.steps(way, tables, target)]
    found += [*_torch(decision, facts, tables, target, option), _trainer(tables, target)]
    if launch:
        found += _data(launch, tables, target)
    return tuple(found)


def _environment(target: Target) -> Iterator[Step]:
    if target.base_python:
        title = f"Make an environment in {target.folder}"
        yield Step("environment", title, (make_environment(target),), disk_mb=30, minutes=0.2)


def _torch(
    decision: Decision, facts: Facts, tables: Tables, target: Target, option: str
) -> Iterator[Step]:
    torch = decision.torch
    assert torch is not None
    if decision.route == "keep":
        yield from _wrong_packages(facts, tables, target)
        yield from _lacking_packages(decision, facts, target)
        return
    if decision.route == "local-build":
        needs = [str(row["package"]) for row in tables.rows("torch", "runtime")]
        in_the_way = facts.torch and facts.torch.installed
        commands = (
            *([uninstall(target, "torch")] if in_the_way else []),
            install(target, needs),
            module(target, "doctor.environment.local_tree", torch.path or ""),
        )
        yield Step("torch", f"Use the PyTorch tree at {torch.path}", commands, 20, 60, 0.2)
        return
    if decision.route == "source-build":
        from doctor.planner.build.planning import build_tools

        assert decision.build is not None
        tools = install(target, build_tools(facts.python, tables))
        cost = footprint(tables, "build-tools")
        yield _sized(
            "build-tools",
            "Install what PyTorch is built with",
            (tools,),
            int(cost["network_mb"]),
            int(cost["disk_mb"]),
        )
        words = [word for arch in decision.build.archs for word in ("--arch", arch)]
        words += ["--libuv" if decision.build.libuv else "--no-libuv"]
        words += ["--python", target.python, "--install"]
        yield Step(
            "torch",
            f"Build PyTorch for {', '.join(decision.build.archs)} and install it",
            (doctor(target, "build-torch", *words),),
            decision.network_mb,
            decision.disk_mb,
            decision.hours * 60,
        )
        return
    assert torch.requirement is not None
    again = ["torch"] if facts.torch and facts.torch.installed else []
    cost = footprint(tables, torch.cuda)
    pick = decision.pick
    network = int(cost["network_mb"])
    if pick and pick.size_mb:
        network = pick.size_mb + int(cost["libraries_mb"])
    command = install(
        target,
        [torch.requirement],
        index=torch.index_url,
        option=option,
        again=again,
        pre=decision.route == "nightly-wheel",
    )
    name = f"torch {torch.version}" if torch.version else "the newest nightly of torch"
    yield _sized("torch", f"Install {name}", (command,), network, int(cost["disk_mb"]))
    if torch.torch_npu:
        npu = footprint(tables, "npu")
        yield _sized(
            "torch-npu",
            f"Install torch_npu {torch.torch_npu} and what it imports",
            (install(target, torch.companions),),
            int(npu["network_mb"]),
            int(npu["disk_mb"]),
        )


def _wrong_packages(facts: Facts, tables: Tables, target: Target) -> Iterator[Step]:
    """CUDA and Triton packages that are not those which the installed torch asks for."""
    found = facts.torch
    if found is None or found.installed is None:
        return
    out, wanted = mending.intruders(found), mending.unmet(found)
    once_more = mending.again(found.shared_files)
    index = mending.index(found, tables)
    commands = [uninstall(target, *out)] if out else []
    commands += [install(target, wanted, index=index)] if wanted else []
    if once_more:
        names = [requirement.partition("==")[0] for requirement in once_more]
        commands.append(install(target, once_more, again=names, deps=False))
    if commands:
        cost, count = footprint(tables, "torch-package"), len(wanted) + len(once_more)
        yield _sized(
            "torch-packages",
            f"Bring back the packages that torch {found.installed.version} asks for",
            tuple(commands),
            count * int(cost["network_mb"]),
            count * int(cost["disk_mb"]),
        )


def _lacking_packages(decision: Decision, facts: Facts, target: Target) -> Iterator[Step]:
    """What an installed torch_npu imports and nobody installed."""
    npu = facts.ascend.torch_npu if facts.ascend and decision.kind == "npu" else None
    if npu is None or not (npu.missing_packages or npu.unfit_packages):
        return
    wanted = [*npu.missing_packages, *unmet_requirements(npu)]
    title = "Install what torch_npu imports and is not here"
    yield Step("torch-npu", title, (install(target, wanted),), 60, 200, 0.3)


def unmet_requirements(npu: TorchNpu) -> list[str]:
    """`numpy 2.1.0 (needs <2)` -> `numpy<2`."""
    matches = (re.match(r"(\S+) \S+ \(needs (.*)\)", text) for text in npu.unfit_packages)
    return [match[1] + match[2] for match in matches if match]


def footprint(tables: Tables, flavour: str | None) -> Row:
    """What a torch costs: the row of a CUDA's major version, of `npu`, or of the CPU build."""
    wanted = "cpu" if flavour is None else flavour.partition(".")[0]
    rows = {row["flavour"]: row for row in tables.rows("torch", "footprint")}
    return rows.get(wanted) or rows[max(name for name in rows if name.isdigit())]


def _trainer(tables: Tables, target: Target) -> Step:
    cost = footprint(tables, "trainer")
    return _sized(
        "trainer",
        "Install what else the trainer imports",
        (install(target, trainer_requirements()),),
        int(cost["network_mb"]),
        int(cost["disk_mb"]),
    )


def trainer_requirements(checkout: Path = CHECKOUT) -> tuple[str, ...]:
    """The requirements of this distribution's extra `train`, without torch, which the plan chooses.

    A checkout's own pyproject.toml counts more than the metadata of the day on which it was installed.

    Raises:
        DoctorError: neither says what the trainer needs.
    """
    from packaging.requirements import Requirement

    pyproject = checkout / "pyproject.toml"
    try:
        if pyproject.is_file():
            project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
            lines = [Requirement(line) for line in project["optional-dependencies"]["train"]]
        else:
            lines = [*_of_extra("train")]
        return tuple(f"{r.name}{r.specifier}" for r in lines if r.name != "torch")
    except (OSError, KeyError, TypeError, ValueError, ImportError) as error:
        raise DoctorError(
            f"{pyproject} does not say what the trainer needs ({error}); run this in a checkout of the repository."
        ) from error


def _of_extra(extra: str) -> Iterator[Requirement]:
    """What an extra of the installed distribution adds."""
    import importlib.metadata  # slow, and not needed in a checkout

    from packaging.requirements import Requirement

    for requirement in map(Requirement, importlib.metadata.requires("nanochat-doctor") or ()):
        marker = requirement.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield requirement


def _data(launch: Launch, tables: Tables, target: Target) -> Iterator[Step]:
    if launch.shards:
        arguments = ["--num-files", str(launch.shards), "--source", launch.data]
        size = (launch.shards + 1) * SHARD_MB  # and the one that validation reads
        yield _sized(
            "data",
            f"Fetch {launch.shards} shards of {launch.data}",
            (module(target, "nanochat.dataset", *arguments, env=_hub(launch)),),
            size,
            size,
        )
    if launch.core_metric:
        bundle = tables.artifact("eval-bundle")
        yield _sized(
            "eval-bundle",
            "Fetch the evaluation bundle",
            (module(target, "nanochat.bundle"),),
            int(bundle["size_mb"]),
            int(bundle["disk_mb"]),
        )


def _hub(launch: Launch) -> Mapping[str, str]:
    """The mirror from which data come, as in the scripts of the run."""
    return {name: value for name, value in launch.env.items() if name == "HF_ENDPOINT"}


def _sized(name: str, title: str, commands: tuple[str, ...], network_mb: int, disk_mb: int) -> Step:
    minutes = network_mb / MB_PER_MINUTE + disk_mb / 10000
    return Step(name, title, commands, network_mb, disk_mb, round(minutes, 1))


def cost(steps: Sequence[Step]) -> str:
    """What steps cost together: `3.2 GB to download, 6.1 GB of disk, about 5 minutes`."""
    network, taken = (sum(getattr(s, n) for s in steps) for n in ("network_mb", "disk_mb"))
    parts = [f"{disk(network)} to download"] if network else ["nothing to download"]
    parts += [f"{disk(taken)} of disk"] if taken else []
    return ", ".join([*parts, about(sum(step.minutes for step in steps) * 60)])

"""What a plan is: values that the planner makes, and that apply, render and speedrun carry out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from doctor.findings.finding import Finding

SCHEMA = 1

ROUTES = (
    "keep",
    "local-build",
    "torch-npu-wheel",
    "stable-wheel",
    "nightly-wheel",
    "source-build",
    "cpu-wheel",
    "mps-wheel",
    "blocked",
)
"""How a machine gets its PyTorch, in the order in which they are tried."""

CHANNELS = ("stable", "nightly")

STAGES = ("base", "mid", "sft", "rl")
"""Training stages that have settings of their own."""


@dataclass(frozen=True)
class Wishes:
    """What the user asks for; None is no wish."""

    route: str | None = None
    channel: str | None = None
    archs: tuple[str, ...] = ()
    """Architectures to build for, `12.0`, `9.0+PTX`."""
    libuv: bool | None = None
    profile: str | None = None
    depth: int | None = None
    nproc: int | None = None


@dataclass(frozen=True)
class Rejection:
    """A route that was turned down, and why, in a sentence with this machine's values."""

    route: str
    reason: str


@dataclass(frozen=True)
class TorchChoice:
    """The torch that the plan ends with."""

    version: str | None
    """To install; under `keep` and `local-build` the one that is there."""
    index_url: str | None = None
    """None is the Python index that pip is set to."""
    requirement: str | None = None
    """What to ask pip for, `torch==2.14.0`; None where nothing is installed."""
    torch_npu: str | None = None
    """A bare version, `2.9.0.post2`."""
    companions: tuple[str, ...] = ()
    """Requirements that go in with it: torch_npu and what it imports, the Triton of a nightly."""
    path: str | None = None
    """Folder of the source tree under `local-build`."""
    libuv: bool | None = None
    """Whether its TCPStore has libuv; None is unknown."""
    cuda: str | None = None


@dataclass(frozen=True)
class Build:
    """A build of PyTorch from source."""

    archs: tuple[str, ...]
    libuv: bool
    cuda_home: str | None
    jobs: int
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One thing that `apply` does. What is shown is what is run.

    Attributes:
        id: name in journal, output and tests: rust-toolchain, rustbpe, torch, trainer, data, eval-bundle.
        commands: shell-quoted lines that a person could type in the checkout.
        network_mb: megabytes to download; 0 where nothing is.
        disk_mb: megabytes of disk that it takes.
        minutes: a rough time, on a line of 100 Mbit/s.
    """

    id: str
    title: str
    commands: tuple[str, ...]
    network_mb: int = 0
    disk_mb: int = 0
    minutes: float = 0.0


@dataclass(frozen=True)
class StageSettings:
    """Batch of one training stage, and the port at which its ranks meet."""

    device_batch_size: int
    max_seq_len: int
    total_batch_size: int
    """Tokens in an optimizer step, over all ranks."""
    grad_accum_steps: int
    port: int


@dataclass(frozen=True)
class Launch:
    """How the trainer is started."""

    profile: str
    device_type: str
    backend: str
    nproc_per_node: int
    depth: int
    head_dim: int
    dtype: str
    compile: bool
    fp8: bool
    recompute: bool
    stages: Mapping[str, StageSettings]
    """By name of `STAGES`."""
    vocab_size: int
    data: str
    """Data set: `climbmix`, `fineweb-edu` or `stdlib`."""
    shards: int
    """Training shards to fetch; 0 for a data set that is made on the spot."""
    num_iterations: int
    """Optimizer steps of the base stage."""
    tokens: int
    """Tokens that the base stage trains on."""
    parameters: int
    peak_memory_mb: int
    """Of one rank on its device, in the base stage, as `nanochat.sizing` reckons."""
    device_memory_mb: int | None
    """What the smallest device offers; None is unknown."""
    hours: float | None
    """Of the base stage; None where the device's speed is not known."""
    energy_kwh: float | None
    core_metric: bool
    """Whether the run ends with CORE on the evaluation bundle."""
    env: Mapping[str, str]
    source_files: tuple[str, ...] = ()
    """Shell files to source first: CANN's set_env.sh."""
    libuv: bool | None = None
    """False: torchrun must be kept from asking for libuv; None: found out at run time."""
    warnings: tuple[str, ...] = ()
    tokenizer_chars: int = 2_000_000_000
    """Characters that the tokenizer is trained on, at most."""


@dataclass(frozen=True)
class Plan:
    """The decision: a route, why, what was turned down and why, steps, launch settings."""

    route: str
    reason: str
    rejected: tuple[Rejection, ...]
    torch: TorchChoice | None
    build: Build | None
    steps: tuple[Step, ...]
    launch: Launch | None
    """None where the route is `blocked`."""
    findings: tuple[Finding, ...]
    python: str | None = None
    """The interpreter that the steps install into."""
    notes: tuple[str, ...] = ()
    """What the user should know: mirrors, hidden cards, for how long a version will do."""

    def to_json(self) -> dict[str, Any]:
        """The contract's shape; keys beyond the contract come after its own."""
        torch = self.torch or TorchChoice(None)
        return {
            "schema": SCHEMA,
            "route": self.route,
            "reason": self.reason,
            "rejected": [dataclasses.asdict(item) for item in self.rejected],
            "torch": _plain(torch),
            "build": _plain(self.build) if self.build else None,
            "steps": [_plain(step) for step in self.steps],
            "launch": _launch(self.launch) if self.launch else None,
            "findings": [finding.to_json() for finding in self.findings],
            "python": self.python,
            "notes": list(self.notes),
        }


def _launch(launch: Launch) -> dict[str, Any]:
    """A launch as JSON: the base stage's batch stands at the top, as the contract has it."""
    base = launch.stages["base"]
    data = _plain(launch)
    return {
        "device_type": launch.device_type,
        "backend": launch.backend,
        "nproc_per_node": launch.nproc_per_node,
        "depth": launch.depth,
        "device_batch_size": base.device_batch_size,
        "max_seq_len": base.max_seq_len,
        "total_batch_size": base.total_batch_size,
        "grad_accum_steps": base.grad_accum_steps,
        "dtype": launch.dtype,
        "compile": launch.compile,
        "ports": {name: stage.port for name, stage in launch.stages.items()},
        "env": dict(launch.env),
        "warnings": list(launch.warnings),
        **data,
    }


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value

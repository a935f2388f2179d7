"""The step that brings back what an installed torch asks for, carried out by uv and by pip."""

from __future__ import annotations

from apply_world import World, torch_wheel
from index_server import make_wheel

from doctor.install import effects
from doctor.install.effects import Effect
from doctor.planner.commands import Target, install, uninstall
from doctor.planner.terms.plan import Step, TorchChoice

pytest_plugins = ("apply_fixtures",)

FILE = "nvidia/nccl/lib/libnccl.so.2"


def test_what_another_cuda_wrote_over_comes_back(world: World) -> None:
    wheels = [
        make_wheel(f"nvidia-nccl-cu{cuda}", version, modules={FILE: f"of CUDA {cuda}\n" * size})
        for cuda, version, size in ((13, "2.27.5", 3), (12, "2.27.3", 4))
    ]
    torch = torch_wheel("2.14.0", requires=["nvidia-nccl-cu13==2.27.5"])
    world.serve("simple", torch, *wheels)
    world.put("torch")
    world.put("nvidia-nccl-cu12")
    lib = world.target.site / FILE
    assert "CUDA 12" in lib.read_text()

    target = Target(world.python, uv=world.tool == "uv")
    again = install(target, ["nvidia-nccl-cu13==2.27.5"], again=["nvidia-nccl-cu13"], deps=False)
    commands = (uninstall(target, "nvidia-nccl-cu12"), again)
    step = Step("torch-packages", "Bring back", commands, 1, 1)
    plan = world.plan(step, torch=TorchChoice("2.14.0"), route="keep")
    assert "nvidia-nccl-cu12 2.27.3" in str(effects.missing(Effect(plan, step, world.target)))
    world.apply(plan)
    assert effects.missing(Effect(plan, step, world.target)) is None
    assert "CUDA 13" in lib.read_text() and "nvidia-nccl-cu12" not in world.packages()
    assert world.unbroken()


def test_another_version_than_torch_asks_for(uv_world: World) -> None:
    world = uv_world
    old, right = (make_wheel("nvidia-nccl-cu13", version) for version in ("2.21.5", "2.27.5"))
    torch = torch_wheel("2.14.0", requires=["nvidia-nccl-cu13==2.27.5"])
    world.serve("simple", torch, old, right)
    world.put("torch")
    world.put("nvidia-nccl-cu13==2.21.5")
    step = Step("torch-packages", "Bring back", (world.install("nvidia-nccl-cu13==2.27.5"),), 1, 1)
    plan = world.plan(step, torch=TorchChoice("2.14.0"), route="keep")
    assert "torch asks for ==2.27.5" in str(effects.missing(Effect(plan, step, world.target)))
    world.apply(plan)
    assert world.packages()["nvidia-nccl-cu13"] == "2.27.5"
    assert effects.missing(Effect(plan, step, world.target)) is None

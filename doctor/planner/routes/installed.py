"""Routes that use a torch which is on the machine already: keep and local-build."""

from __future__ import annotations

from doctor.facts import TorchBuild
from doctor.findings.advice import TRAINER_FLOOR, active_cann
from doctor.findings.context import joined
from doctor.planner.terms import fitness
from doctor.planner.terms.plan import TorchChoice
from doctor.planner.terms.question import Decision, Question


def keep(q: Question, kind: str) -> Decision | str:
    torch = q.facts.torch
    build = (torch.shadowed or torch.installed) if torch else None
    if build is None:
        why = q.facts.unknown.get("torch")
        return (
            f"whether torch is installed is unknown: {why}." if why else "torch is not installed."
        )
    if not build.built:
        return f"the torch at {build.path} was not built."
    reason = next(fitness.objections(build, q.facts, q.tables, q.wishes, kind), None)
    if reason is None and kind == "npu" and q.facts.ascend and q.facts.ascend.torch_npu is None:
        reason = f"torch {build.version} is installed without torch_npu."
    if reason is not None:
        return reason
    if kind == "cuda" and build.flavour != "cuda":
        kind = "cpu"  # a card that no build serves, beside which a CPU build is right
    npu = q.facts.ascend.torch_npu if q.facts.ascend and kind == "npu" else None
    choice = TorchChoice(
        version=build.version,
        torch_npu=npu.version if npu else None,
        path=build.path,
        libuv=build.libuv,
        cuda=build.cuda,
    )
    text = f"torch {build.version} is installed{_and_covers(q, kind, build)}"
    if npu:
        cann = active_cann(q.context)
        text = f"torch {build.version} and torch_npu {npu.version} are installed and go with CANN {cann}"
    return Decision("keep", kind, text + ".", choice, notes=_age(build))


def _and_covers(q: Question, kind: str, build: TorchBuild) -> str:
    if kind != "cuda":
        return " and runs on the CPU" if kind == "cpu" else ""
    cards = f"compute capability {joined(q.context.capabilities)}"
    if not build.archs:
        return (
            f"; for which cards it has code could not be read ({cards} here): check --deep tries it"
        )
    compat = " (by cuda-compat)" if q.context.forward_compat else ""
    return (
        f", has code for {cards}, and driver {q.context.driver}{compat} runs its CUDA {build.cuda}"
    )


def _age(build: TorchBuild) -> tuple[str, ...]:
    remark = fitness.old_for_trainer(build, TRAINER_FLOOR)
    return (remark,) if remark else ()


def local_build(q: Question, kind: str) -> Decision | str:
    trees = q.facts.torch.local_trees if q.facts.torch else ()
    if not trees:
        return "there is no PyTorch tree at TORCH_LOCAL_PATH, ../pytorch, ~/Tools/pytorch or ~/pytorch."
    reasons = []
    for tree in trees:
        if not tree.built:
            reasons.append(f"the tree at {tree.path} was not built.")
            continue
        reason = next(fitness.objections(tree, q.facts, q.tables, q.wishes, kind), None)
        if reason is None:
            libuv = (
                "; it lacks libuv, so torchrun is kept from asking for it"
                if tree.libuv is False
                else ""
            )
            choice = TorchChoice(
                version=tree.version, path=tree.path, libuv=tree.libuv, cuda=tree.cuda
            )
            text = f"The tree at {tree.path} was built here{_and_covers(q, kind, tree)}{libuv}."
            return Decision("local-build", kind, text, choice, notes=_age(tree))
        reasons.append(reason)
    return reasons[0]

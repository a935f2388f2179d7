"""The route of last resort: PyTorch from source."""

from __future__ import annotations

from doctor.findings.advice import jetson_wheel
from doctor.findings.context import joined
from doctor.findings.finding import ERROR
from doctor.planner.terms.plan import TorchChoice
from doctor.planner.terms.question import Decision, Question


def source_build(q: Question, kind: str) -> Decision | str:
    """A build that this machine can do; whoever asks for one is told what stands in its way."""
    from doctor.planner.build.planning import plan_build

    build, findings, hours, disk_gb, network_mb = plan_build(q.facts, q.tables, q.wishes)
    wished = q.wishes.route == "source-build"
    if not wished and (row := jetson_wheel(q.context)):
        return f"{row['index']} has torch {row['torch']} for this JetPack: minutes, where a build takes hours."
    problems = [f for f in findings if f.severity == ERROR]
    if problems and not wished:
        return problems[0].cause
    why = "You asked for a build" if wished else "No wheel serves these devices and wishes: a build"
    text = f"{why} from source for {joined(list(build.archs))}, {'with' if build.libuv else 'without'} libuv."
    nvidia = q.facts.nvidia
    return Decision(
        "source-build",
        kind,
        text,
        TorchChoice(version=None, libuv=build.libuv, cuda=nvidia.nvcc_version if nvidia else None),
        build=build,
        findings=findings,
        hours=hours,
        network_mb=network_mb,
        disk_mb=round(disk_gb * 1000),
    )

"""The route of Ascend NPUs: the torch_npu and torch that go with the CANN that is there."""

from __future__ import annotations

from doctor.findings.advice import active_cann, best_npu_pair
from doctor.findings.context import joined
from doctor.knowledge.versions import parts
from doctor.planner.terms import wheels
from doctor.planner.terms.plan import TorchChoice
from doctor.planner.terms.question import Decision, Question


def torch_npu_wheel(q: Question, kind: str) -> Decision | str:
    context = q.context
    cann, pair = active_cann(context), best_npu_pair(context)
    if cann is None:
        return "the release of the CANN toolkit could not be read."
    if pair is None:
        rows = context.tables.cann_pairs(cann)
        if not rows:
            known = joined(
                list(dict.fromkeys(r["cann"] for r in context.tables.rows("ascend", "pair")))
            )
            return f"no torch_npu is listed for CANN {cann}; the vendor's table has {known}."
        pythons = joined(sorted({p for row in rows for p in row["pythons"]}, key=parts))
        return f"no torch_npu for CANN {cann} is made for Python {context.python_minor}; there are some for {pythons}."
    host = q.facts.host
    version = str(pair["torch"])
    x86 = bool(host and host.arch == "x86_64")
    needs = context.tables.npu_requirements(version, cann, (context.python_minor or "").rstrip("t"))
    specs: dict[str, str] = {}
    for need in needs:
        specs[need.name] = max(specs.get(need.name, ""), need.specifier, key=len)
    companions = (
        f"torch_npu=={pair['torch_npu']}",
        *(f"{name}{spec}" for name, spec in specs.items()),
    )
    choice = TorchChoice(
        version=version,
        # Beside a CUDA build torch_npu refuses to start; x86-64 has CPU builds on PyTorch's own index only.
        index_url=wheels.at(context.tables.pytorch_index("cpu"), context.tables, q.offers),
        requirement=f"torch=={version}" + ("+cpu" if x86 else ""),
        torch_npu=str(pair["torch_npu"]),
        companions=companions,
        libuv=True,
    )
    text = f"CANN {cann} goes with torch_npu {choice.torch_npu} and torch {version}"
    return Decision(
        "torch-npu-wheel", kind, f"{text}, on Python {context.python_minor} too.", choice
    )

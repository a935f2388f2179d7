"""Which route: each is asked in turn, and answers with a decision or with the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from doctor.errors import DoctorError
from doctor.findings.context import joined
from doctor.planner.routes.installed import keep, local_build
from doctor.planner.routes.npu import torch_npu_wheel
from doctor.planner.routes.source import source_build
from doctor.planner.routes.wheel import nightly_wheel, plain_wheel, stable_wheel
from doctor.planner.terms.plan import Rejection, Wishes
from doctor.planner.terms.question import Decision, Question, kinds

ORDER: Mapping[str, tuple[str, ...]] = {
    "npu": ("keep", "torch-npu-wheel"),
    "cuda": ("keep", "local-build", "stable-wheel", "nightly-wheel", "source-build"),
    "mps": ("keep", "local-build", "mps-wheel"),
    "cpu": ("keep", "local-build", "cpu-wheel"),
}
"""Routes that can serve a kind of device, in the order in which they serve the user best."""

ROUTES: Mapping[str, Callable[[Question, str], Decision | str]] = {
    "keep": keep,
    "local-build": local_build,
    "torch-npu-wheel": torch_npu_wheel,
    "stable-wheel": stable_wheel,
    "nightly-wheel": nightly_wheel,
    "source-build": source_build,
    "cpu-wheel": plain_wheel("cpu-wheel"),
    "mps-wheel": plain_wheel("mps-wheel"),
}
"""What is asked for each route, with the kind of device that is to be served."""


def decide(question: Question) -> tuple[Decision, list[Rejection]]:
    """The route for a machine, and those turned down on the way.

    Raises:
        DoctorError: the route that the user wishes does not serve this machine.
    """
    rejected: list[Rejection] = []
    for kind in kinds(question):
        blockers = question.blockers(kind)
        if blockers and question.wishes.route in (None, *ORDER[kind]):
            rejected.append(Rejection(ORDER[kind][0], blockers[0].cause))
            continue
        for route in _candidates(question.wishes, kind):
            answer = ROUTES[route](question, kind)
            if isinstance(answer, Decision):
                return answer, rejected
            rejected.append(Rejection(route, sentence(answer)))
    if question.wishes.route not in (None, "blocked"):
        raise DoctorError(_no_such_route(question, rejected))
    return _blocked(question, rejected), rejected


def _candidates(wishes: Wishes, kind: str) -> Sequence[str]:
    order = ORDER[kind]
    if wishes.route is not None:
        return [wishes.route] if wishes.route in order else []
    if wishes.channel == "nightly" and "nightly-wheel" in order:
        return ["keep", "nightly-wheel"]
    return order


def _no_such_route(question: Question, rejected: Sequence[Rejection]) -> str:
    wished = question.wishes.route
    reasons = [item.reason for item in rejected]
    if reasons:
        return f"The route {wished} does not serve this machine: {reasons[-1]} Leave out --route to see which does."
    has = joined(kinds(question))
    return f"The route {wished} does not serve this machine, which has {has}; leave out --route to see which does."


def sentence(text: str) -> str:
    """With a capital at its beginning, unless that is a name."""
    return text if text.startswith("torch") else text[:1].upper() + text[1:]


def _blocked(q: Question, rejected: Sequence[Rejection]) -> Decision:
    kind = kinds(q)[0]
    wheel = [r for r in rejected if r.route.endswith("-wheel")]
    reason = (wheel or rejected)[0].reason if rejected else "You asked for it."
    blockers = q.blockers(kind)
    if blockers:
        reason = f"{blockers[0].cause} {blockers[0].remedy.text}"
    notes = ("To train on the CPU meanwhile: --route cpu-wheel.",) if kind != "cpu" else ()
    return Decision("blocked", kind, sentence(reason), None, notes=notes)

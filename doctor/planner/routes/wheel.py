"""Routes that install a wheel of torch: stable-wheel, nightly-wheel, cpu-wheel, mps-wheel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from doctor.findings.advice import jetson_advice, left_behind
from doctor.findings.context import joined
from doctor.findings.rules.others import names
from doctor.knowledge import compat
from doctor.knowledge.versions import older, parts
from doctor.planner.terms import wheels
from doctor.planner.terms.plan import TorchChoice
from doctor.planner.terms.question import Decision, Question


def stable_wheel(q: Question, kind: str) -> Decision | str:
    context = q.context
    if not context.capabilities:
        return "the compute capability of the GPU is unknown."
    picks = wheels.stable(context, context.capabilities, q.offers)
    served = [p for p in picks if not _lacks(p, q)]
    if picks and not served:
        return _lacks_the_wish(q, picks[0])
    picks = served
    if not picks or picks[0].reachable is False:
        return _why_no_wheel(q, picks)
    return _wheel_decision(q, "stable-wheel", kind, picks[0])


def _lacks_the_wish(q: Question, pick: wheels.Pick) -> str:
    name = f"torch {pick.wheel.version}" if pick.wheel.version else "the newest nightly"
    asked = joined(list(q.wishes.archs))
    return f"{name} ({pick.wheel.variant}) and all others that run here lack code for {asked}, which was asked for."


def _lacks(pick: wheels.Pick, q: Question) -> bool:
    """Whether a wheel has no code for an architecture that the user names."""
    row = pick.wheel.row
    return any(
        compat.code_runs(
            arch.removesuffix("+PTX").rstrip("f"),
            pick.wheel.cuda,
            row["sass"],
            row["ptx"],
            (),
            q.tables,
        )
        is compat.Runs.NO
        for arch in q.wishes.archs
    )


def _wheel_decision(q: Question, route: str, kind: str, pick: wheels.Pick) -> Decision:
    wheel, context = pick.wheel, q.context
    version = wheel.version or None
    choice = TorchChoice(
        version=version,
        index_url=pick.index,
        requirement=pick.requirement,
        libuv=True,
        cuda=wheel.cuda,
    )
    what = f"torch {version} ({wheel.variant})" if version else f"A nightly ({wheel.variant})"
    text = f"{what} is the newest with code for compute capability {joined(context.capabilities)}"
    if context.driver:
        text += f" and a CUDA that driver {context.driver} runs"
    return Decision(route, kind, text + ".", choice, pick=pick, notes=tuple(_wheel_notes(q, pick)))


def _wheel_notes(q: Question, pick: wheels.Pick) -> Iterator[str]:
    wheel = pick.wheel
    if not pick.known:
        yield (
            f"torch {wheel.version} is newer than the tables; it is taken to hold the code that {wheel.variant} wheels "
            "held last, and is checked once it is there."
        )
    newest = max(
        (r["torch"] for r in q.tables.rows("torch", "release")), key=parts, default=wheel.version
    )
    if wheel.version and wheel.cuda and older(wheel.version, newest):
        last = q.context.wheels[0] if q.context.wheels else wheel
        if not older(wheel.version, last.version):
            why = _left_behind(q, newest)
            if why:
                yield why
    if pick.reachable is None and q.offers is None:
        return
    if q.offers and q.offers.mirror:
        yield f"PyTorch's own index did not answer; {q.offers.mirror} did."


def _left_behind(q: Question, newest: str) -> str | None:
    """Why the newest torch is not the one, where cards or driver were left behind by it."""
    every = compat.wheels(q.tables, python=q.context.python_minor, cpu_arch=_arch(q), glibc=None)
    capabilities = q.context.capabilities
    reasons = {
        wheels.refusal(w, capabilities, q.context.driver, q.tables)
        for w in every
        if w.cuda and not older(w.version, newest)
    }
    reasons.discard(None)
    if not reasons:
        return None
    first = sorted(str(reason) for reason in reasons)
    if any("no code" in reason for reason in first):
        return (
            f"From torch {newest} on no wheel has code for compute capability {joined(capabilities)}: this release "
            "is the last that serves the card, so hold it, or build a newer one (--route source-build)."
        )
    return f"torch {newest} asks for more than this driver: {first[0]}. A newer driver would do."


def _this_machine(q: Question) -> str:
    """Python, processor and C library in words."""
    host = q.facts.host
    libc = f" with {host.libc} {host.libc_version or ''}".rstrip() if host and host.libc else ""
    return f"Python {q.context.python_minor} on {_arch(q)}{libc}"


def _arch(q: Question) -> str | None:
    return compat.cpu_arch(q.facts.host)


def _why_no_wheel(q: Question, picks: Sequence[wheels.Pick]) -> str:
    context = q.context
    if picks:
        pick = picks[0]
        reason = (q.offers.unreachable if q.offers else {}).get(pick.index or "", "no answer")
        return (
            f"torch {pick.wheel.version} ({pick.wheel.variant}) would run here, but its index "
            f"{pick.index or 'of Python packages'} cannot be reached ({reason})."
        )
    if about_jetson := jetson_advice(context):
        return about_jetson
    capabilities = context.capabilities
    cards = f"compute capability {joined(capabilities)}"
    anywhere = [
        w
        for w in compat.wheels(q.tables, python=None, cpu_arch=_arch(q), glibc=None)
        if w.cuda and not wheels.refusal(w, capabilities, context.driver, q.tables)
    ]
    if wheels.has_musl(context):
        return f"no wheel is made for {_this_machine(q)}."
    if anywhere:
        pythons = sorted({p for w in anywhere for p in w.pythons if not p.endswith("t")}, key=parts)
        every = {p for w in anywhere for p in w.pythons}
        if context.python_minor not in every:
            return (
                f"no wheel with code for {cards} is made for Python {context.python_minor}; there are some for "
                f"{joined(pythons)}."
            )
        return f"no wheel with code for {cards} goes with this machine's C library."
    with_code = [
        w
        for w in compat.wheels(q.tables, python=None, cpu_arch=_arch(q), glibc=None)
        if w.cuda and not wheels.refusal(w, capabilities, None, q.tables)
    ]
    if with_code:
        floors = {compat.driver_floor(w.cuda or "", capabilities, q.tables) for w in with_code}
        lowest = min((floor for floor in floors if floor), key=parts, default="?")
        return f"every wheel with code for {cards} needs driver {lowest} or newer, and this is {context.driver}."
    if len(capabilities) > 1:
        return f"no one wheel has code for {cards}: hide one kind of card by CUDA_VISIBLE_DEVICES, or build for all."
    return f"no wheel has code for {cards}."


def nightly_wheel(q: Question, kind: str) -> Decision | str:
    context = q.context
    if q.wishes.channel == "stable":
        return "--channel stable was asked for."
    if not context.capabilities:
        return "the compute capability of the GPU is unknown."
    if not wheels.newest_installs(context):
        return f"no nightly is made for {_this_machine(q)}."
    picks = wheels.nightly(context, context.capabilities, q.offers)
    if not picks:
        return (
            f"no nightly has code for compute capability {joined(context.capabilities)} and a CUDA that driver "
            f"{context.driver} runs."
        )
    served = [p for p in picks if not _lacks(p, q)]
    if not served:
        return _lacks_the_wish(q, picks[0])
    picks = served
    if picks[0].reachable is False:
        reason = (q.offers.unreachable if q.offers else {}).get(picks[0].index or "", "no answer")
        return f"the nightly index {picks[0].index} cannot be reached ({reason})."
    return _wheel_decision(q, "nightly-wheel", kind, picks[0])


def plain_wheel(route: str) -> Callable[[Question, str], Decision | str]:
    """The wheel for a machine without CUDA: the CPU's, or Apple's, which is the same file."""

    def choose(q: Question, kind: str) -> Decision | str:
        picks = wheels.stable(q.context, [], q.offers)
        if not picks:
            return left_behind(q.context) or f"no wheel is made for {_this_machine(q)}."
        pick = picks[0]
        if pick.reachable is False:
            reason = (q.offers.unreachable if q.offers else {}).get(pick.index or "", "no answer")
            return f"torch {pick.wheel.version} would run here, but no index that has it can be reached ({reason})."
        choice = TorchChoice(
            version=pick.wheel.version,
            index_url=pick.index,
            requirement=pick.requirement,
            libuv=True,
            cuda=pick.wheel.cuda,
        )
        notes = list(_wheel_notes(q, pick))
        text = f"There is no accelerator here: torch {pick.wheel.version} for the CPU."
        if others := q.facts.host.accelerators if q.facts.host else ():
            text = f"This version does not train on {names(others)}: torch {pick.wheel.version} for the CPU."
        if route == "mps-wheel":
            text = f"Apple silicon: torch {pick.wheel.version}, whose macOS wheel drives the GPU through MPS."
        elif pick.wheel.cuda:
            notes.append(
                "PyTorch's own index cannot be reached, so torch comes from the default Python index: a CUDA build "
                "that runs on a CPU too, at 0.55 GB and 2.5 GB of CUDA libraries that nothing here will use."
            )
        return Decision(route, kind, text, choice, pick=pick, notes=tuple(notes))

    return choose

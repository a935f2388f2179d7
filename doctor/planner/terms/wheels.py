"""Which wheel of torch: what the tables know, corrected by what the indexes say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from doctor.findings.context import Context
from doctor.knowledge import compat
from doctor.knowledge.compat import Runs, Wheel
from doctor.knowledge.offers import Offer, Offers
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import minor, older, parts

DEFAULT_INDEX = ""
"""The name of the default Python index among those that were asked."""


@dataclass(frozen=True)
class Pick:
    """A wheel, and where to get it.

    Attributes:
        index: None is the Python index that the tools are set to.
        requirement: what to ask pip for, exact where the version is known.
        size_mb: of the torch wheel itself, where an index said it.
        known: whether its row of the tables is of this very release, not of the one before it.
        reachable: None where no index was asked, or it did not refuse.
    """

    wheel: Wheel
    index: str | None
    requirement: str
    size_mb: int | None = None
    known: bool = True
    reachable: bool | None = None


def stable(context: Context, devices: Sequence[str], offers: Offers | None) -> list[Pick]:
    """Stable wheels that run on all devices, best first; with no devices, those for the CPU.

    What can be reached comes before what cannot; then newest torch, then newest CUDA.
    """
    offers = _installable(context, offers)
    known = () if has_musl(context) else compat.wheels(context.tables, **_machine(context))
    every = [replace(w, index=at(w.index, context.tables, offers)) for w in known]
    serving = [w for w in every if _serves(w, devices, context)]
    if not devices and not serving:
        serving = [w for w in every if w.default]
    picks = [pick for wheel in serving for pick in _from_table(wheel, offers)]
    for wheel, offer in _newer(serving, every, offers):
        picks.append(_from_offer(wheel, offer))
    if not devices and offers and not any(p.reachable for p in picks):
        # The default Python index has no CPU build for x86-64, but its CUDA build also runs on a CPU.
        picks += [p for w in every if w.default for p in _from_table(w, offers) if p.reachable]
    return sorted(picks, key=_rank, reverse=True)


def nightly(context: Context, devices: Sequence[str], offers: Offers | None) -> list[Pick]:
    """Nightly wheels that run on all devices, best first: newest date, then newest CUDA."""
    picks = []
    offers = _installable(context, offers)
    for row in context.tables.rows("torch", "nightly"):
        host = context.facts.host
        if host and host.arch and row["cpu_arch"] != host.arch:
            continue
        wheel = Wheel(
            version="",
            variant=row["variant"],
            cuda=row.get("cuda") or None,
            pythons=(),
            index=at(row["index"], context.tables, offers),
            default=False,
            row=row,
        )
        if not _serves(wheel, devices, context):
            continue
        found = [o for o in offers.wheels if o.index_url == wheel.index] if offers else []
        if found:
            newest = max(found, key=lambda o: _date(o.version))
            picks.append(_from_offer(wheel, newest))
        elif offers is None or wheel.index not in offers.answered:
            picks.append(Pick(wheel, wheel.index, "torch", reachable=_silent(wheel.index, offers)))
    return sorted(
        picks,
        key=lambda p: (
            p.reachable is not False,
            _date(p.wheel.version),
            parts(p.wheel.cuda or "0"),
        ),
        reverse=True,
    )


def at(index: str, tables: Tables, offers: Offers | None) -> str:
    """Where one of PyTorch's indexes is found: at itself, or at the mirror that answered in its place."""
    if offers is None or offers.mirror is None:
        return index
    return f"{offers.mirror}/{index.removeprefix(tables.pytorch_index(''))}"


def index_option(tables: Tables, offers: Offers | None) -> str:
    """How pip is pointed to PyTorch's wheels: some mirrors are indexes, some are lists of files."""
    mirror = offers.mirror if offers else None
    rows = tables.rows("mirrors", "endpoint")
    return next((str(r["option"]) for r in rows if mirror and r["url"] == mirror), "--index-url")


def _installable(context: Context, offers: Offers | None) -> Offers | None:
    """The offers without those that this system's C library is too old for."""
    host = context.facts.host
    if offers is None or host is None or not host.libc_version:
        return offers
    glibc = host.libc_version
    fitting = (o for o in offers.wheels if not (o.glibc and older(glibc, o.glibc)))
    return replace(offers, wheels=tuple(fitting))


def has_musl(context: Context) -> bool:
    """Whether the system's C library is the one that no torch wheel is made for."""
    host = context.facts.host
    return bool(host and host.libc == "musl")


def newest_installs(context: Context) -> bool:
    """Whether the newest release, and so a nightly, is made for this Python, processor and C library."""
    newest = max((row["torch"] for row in context.tables.rows("torch", "release")), key=parts)
    every = compat.wheels(context.tables, **_machine(context))
    return not has_musl(context) and any(minor(wheel.version) == newest for wheel in every)


def _date(version: str) -> int:
    digits = version.partition(".dev")[2].partition("+")[0]
    return int(digits) if digits.isdigit() else 0


def _machine(context: Context) -> dict[str, str | None]:
    host = context.facts.host
    return {
        "python": context.python_minor,
        "cpu_arch": compat.cpu_arch(host),
        "glibc": host.libc_version if host and host.libc == "glibc" else None,
    }


def _serves(wheel: Wheel, devices: Sequence[str], context: Context) -> bool:
    if not devices:
        return wheel.cuda is None
    return not refusal(wheel, devices, context.driver, context.tables)


def refusal(wheel: Wheel, devices: Sequence[str], driver: str | None, tables: Tables) -> str | None:
    """Why a wheel does not run on some devices with a driver, or None where it does."""
    if wheel.cuda is None:
        return "it has no GPU code"
    for device in devices:
        runs = compat.code_runs(device, wheel.cuda, wheel.row["sass"], wheel.row["ptx"], (), tables)
        if runs not in (Runs.NATIVE, Runs.PTX):
            return f"it has no code for compute capability {device}"
    if driver and not compat.driver_runs(driver, wheel.cuda, devices, tables):
        floor = compat.driver_floor(wheel.cuda, devices, tables)
        return f"its CUDA {wheel.cuda} needs driver {floor}, and this is {driver}"
    return None


def _from_table(wheel: Wheel, offers: Offers | None) -> Iterator[Pick]:
    """A wheel of the tables, from each index that has it; corrected where the index answered."""
    places: list[str | None] = [None, wheel.index] if wheel.default else [wheel.index]
    for place in places:
        exact = wheel.version + local_tag(wheel, place)
        if offers is None:
            yield Pick(wheel, place, f"torch=={exact}")
            return  # without an answer, the first place is as good as any
        if (place or DEFAULT_INDEX) not in offers.answered:
            yield Pick(wheel, place, f"torch=={exact}", reachable=_silent(place, offers))
            continue
        offer = _offered(wheel, place, offers)
        if offer:
            yield Pick(wheel, place, f"torch=={exact}", offer.size_mb, reachable=True)


def _silent(place: str | None, offers: Offers | None) -> bool | None:
    """Whether an index that has not answered can be reached: False, or None where nobody knows."""
    return None if offers is None or (place or DEFAULT_INDEX) in offers.unsure else False


def _offered(wheel: Wheel, place: str | None, offers: Offers) -> Offer | None:
    return next(
        (
            offer
            for offer in offers.wheels
            if offer.index_url == place and offer.version.partition("+")[0] == wheel.version
        ),
        None,
    )


def _newer(
    serving: Iterable[Wheel], every: Iterable[Wheel], offers: Offers | None
) -> Iterator[tuple[Wheel, Offer]]:
    """Releases that an index has and the tables do not know: taken to hold what the last known one holds."""
    if offers is None:
        return
    for place in {wheel.index for wheel in serving} | {None}:
        rows = [w for w in every if (w.default if place is None else w.index == place)]
        if not rows:
            continue
        last = max(rows, key=lambda w: parts(w.version))
        if last not in serving:
            continue
        news = [
            offer
            for offer in offers.wheels
            if offer.index_url == place
            and "dev" not in offer.version
            and parts(offer.version) > parts(last.version)
        ]
        if news:
            yield last, max(news, key=lambda offer: parts(offer.version))


def _from_offer(wheel: Wheel, offer: Offer) -> Pick:
    version = offer.version.partition("+")[0]
    # A patch release is what the tables' row of its series is about.
    known = bool(wheel.version) and minor(version) == minor(wheel.version)
    return Pick(
        replace(wheel, version=version),
        offer.index_url,
        f"torch=={offer.version}",
        offer.size_mb,
        known=known,
        reachable=True,
    )


def local_tag(wheel: Wheel, index: str | None) -> str:
    """What follows the version on PyTorch's own indexes, `+cu130`; nothing on the default one and for macOS."""
    mac = str(wheel.row["cpu_arch"]).endswith("macos")
    return "" if index is None or mac else f"+{wheel.variant}"


def _rank(pick: Pick) -> tuple[bool, tuple[int, ...], tuple[int, ...], bool]:
    return (
        pick.reachable is not False,
        parts(pick.wheel.version),
        parts(pick.wheel.cuda or "0"),
        pick.index is None,
    )


def variants(context: Context, route: str) -> list[str]:
    """The parts of PyTorch's index to ask for a machine and the kind of wheel that it takes."""
    if route in ("cpu-wheel", "mps-wheel", "torch-npu-wheel"):
        return ["cpu"]
    folder = {"stable-wheel": "wheel", "nightly-wheel": "nightly"}[route]
    prefix = "nightly/" if folder == "nightly" else ""
    rows = [
        row
        for row in context.tables.rows("torch", folder)
        if row.get("cuda") and not _too_new(row["cuda"], context)
    ]
    return list(dict.fromkeys(prefix + row["variant"] for row in reversed(rows)))


def _too_new(cuda: str, context: Context) -> bool:
    return bool(context.driver) and not compat.driver_runs(
        context.driver or "", cuda, context.capabilities, context.tables
    )

"""Asks package indexes what torch wheels they have: PyTorch's own, its mirrors, and the default Python index.

All are asked at once, and nobody waits longer than the time limit. A mirror counts only where PyTorch's own indexes
gave no answer at all, and is not waited for where they did.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from doctor.errors import Unknown
from doctor.index.cache import Answer, Cache
from doctor.index.fetch import fetch
from doctor.index.page import fits
from doctor.knowledge.offers import Offer, Offers
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import minor, release
from doctor.machine.background import Background

if TYPE_CHECKING:
    from packaging.version import Version

PROJECT = "torch"
SECONDS = 5.0
"""Most mirrors and proxies answer within one; an index that is still silent then is slow, not gone."""

SHORTEST = 0.01
"""Seconds that a question gets at least; sockets know no time-out of 0."""
DEFAULT = ""
"""Stands for the default Python index in `Offers.answered` and `Offers.unreachable`."""
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class PageRequest:
    """A page to ask for.

    Attributes:
        index: the index's URL, as pip would need it.
        url: of the page.
        variant: of the wheels on it, `cu128`; None is the default Python index, which has some of each.
        mirror: base URL, where it is a mirror's.
    """

    index: str
    url: str
    variant: str | None = None
    mirror: str | None = None


def ask(
    tables: Tables,
    *,
    python: str | None,
    cpu_arch: str | None,
    variants: Sequence[str],
    default_index: str | None,
    cache: Path | None,
    seconds: float = SECONDS,
    now: float | None = None,
) -> Offers:
    """What the indexes have for a Python and a processor. Trouble with the network is part of the answer.

    Args:
        tables: build/mirrors.toml has PyTorch's indexes, build/torch.toml what the default index serves.
        python: `3.12` or `3.13t`; None asks for all.
        cpu_arch: as in build/torch.toml, or as uname says it; None asks for all.
        variants: of PyTorch's indexes, `cpu`, `cu130`, `nightly/cu130`.
        default_index: base URL of the default Python index, without `torch/`. Where it is None, that index is
            not asked and is neither among those that answered nor among the unreachable.
        cache: folder of earlier answers, see `doctor.index.cache.cache_folder`; None for none.
        seconds: limit of it all.
        now: seconds since the epoch; the clock's by default.
    """
    variants = list(dict.fromkeys(variants))
    asking = _Asking(Cache(cache, time.time() if now is None else now), seconds)
    pytorch = [_page(tables.pytorch_index(variant), variant) for variant in variants]
    default = (
        [PageRequest(DEFAULT, f"{default_index.rstrip('/')}/{PROJECT}/")] if default_index else []
    )
    mirrors = list(_mirror_pages(tables, variants))
    asking.begin([*pytorch, *default])
    if not asking.answered(pytorch):
        asking.begin(mirrors)
    answers = asking.collect([*pytorch, *default])
    if not asking.answered(pytorch):
        answers |= asking.collect(mirrors)
    return _Reading(tables, python, cpu_arch).offers(answers)


# --- what to ask -----------------------------------------------------------------------------


def _page(index: str, variant: str, mirror: Row | None = None) -> PageRequest:
    """The page of torch on an index of one variant; a flat one has the wheels of all projects on its only page."""
    flat = mirror is not None and mirror.get("option") == "--find-links"
    return PageRequest(
        index=index,
        url=f"{index}/" if flat else f"{index}/{PROJECT}/",
        variant=variant.rpartition("/")[2],
        mirror=mirror["url"] if mirror else None,
    )


def _mirror_pages(tables: Tables, variants: Sequence[str]) -> Iterator[PageRequest]:
    for row in tables.mirrors("pytorch"):
        for variant in variants:
            yield _page(f"{row['url']}/{variant}", variant, row)


# --- asking ----------------------------------------------------------------------------------


class _Asking:
    """Answers to questions, from the cache or from the network, until the time is over."""

    def __init__(self, store: Cache, seconds: float) -> None:
        self._store = store
        self._limit = f"{seconds:.2g} s"
        self._end = time.monotonic() + seconds
        self._answers: dict[PageRequest, Answer] = {}
        self._calls: dict[PageRequest, Background[Answer]] = {}

    def begin(self, questions: Sequence[PageRequest]) -> None:
        """Look into the cache, and start asking for what is not there."""
        for question in questions:
            kept = self._store.read(question.url)
            if kept is not None:
                self._answers[question] = kept
                continue
            call = partial(fetch, question.url, PROJECT, max(SHORTEST, self._left()), self._limit)
            self._calls[question] = Background(call, question.url)

    def answered(self, questions: Sequence[PageRequest]) -> bool:
        """Whether any of these has an answer by now, or there is none of them."""
        known = (self._answers.get(question) for question in questions)
        return not questions or any(answer and answer.trouble is None for answer in known)

    def collect(self, questions: Sequence[PageRequest]) -> dict[PageRequest, Answer]:
        """Wait for answers, at most until the time is over, and keep them for the next time."""
        for question in questions:
            if question not in self._answers:
                self._answers[question] = self._wait(self._calls[question])
                self._store.write(question.url, self._answers[question])
        return {question: self._answers[question] for question in questions}

    def _wait(self, call: Background[Answer]) -> Answer:
        try:
            return call.result(self._left())
        except Unknown:
            return Answer(trouble=f"no answer within {self._limit}", unsure=True)

    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())


# --- what the answers mean -------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """Turns answers into offers for one Python and one processor."""

    tables: Tables
    python: str | None
    cpu_arch: str | None

    def offers(self, answers: Mapping[PageRequest, Answer]) -> Offers:
        """Offers of all indexes, of one mirror at most: the one that has most of what was asked."""
        wheels = {question: list(self._wheels(question, answers[question])) for question in answers}
        mirror = _best_mirror(wheels)
        used = [question for question in answers if question.mirror in (None, mirror)]
        told = used if mirror else list(answers)
        return Offers(
            wheels=tuple(offer for question in used for offer in wheels[question]),
            unreachable={q.index: trouble for q in told if (trouble := answers[q].trouble)},
            answered=frozenset(q.index for q in told if answers[q].trouble is None),
            unsure=frozenset(q.index for q in told if answers[q].unsure),
            mirror=mirror,
        )

    def _wheels(self, question: PageRequest, answer: Answer) -> Iterator[Offer]:
        """Offers of one index, newest first; of several files for one version the first is enough."""
        found: dict[tuple[Version, str, str], Offer] = {}
        for file in answer.files:
            for fit in fits(file, self.python, self.cpu_arch):
                variant = self._variant(question, fit.version, fit.cpu_arch)
                if variant is None:
                    continue
                offer = Offer(
                    version=str(fit.version),
                    variant=variant,
                    index_url=question.index or None,
                    python=fit.python,
                    cpu_arch=fit.cpu_arch,
                    size_mb=max(1, round(file.size / MEGABYTE)) if file.size else None,
                    glibc=fit.glibc,
                )
                found.setdefault((fit.version, fit.python, fit.cpu_arch), offer)
        for key in sorted(found, reverse=True):
            yield found[key]

    def _variant(self, question: PageRequest, version: Version, cpu_arch: str) -> str | None:
        """What a wheel was built for; None for special builds such as `2.6.0+cpu.cxx11.abi`."""
        if question.variant is None:
            return version.local or self._default_variant(str(version), cpu_arch)
        return question.variant if version.local in (None, question.variant) else None

    def _default_variant(self, version: str, cpu_arch: str) -> str:
        """What the default Python index serves as a release, by the tables; "" for one that they do not know."""
        for row in self._default_rows.get((minor(version), cpu_arch), ()):
            if release(version) in row.get("versions", (release(version),)):
                return str(row["variant"])
        return ""

    @cached_property
    def _default_rows(self) -> Mapping[tuple[str, str], Sequence[Row]]:
        rows: dict[tuple[str, str], list[Row]] = {}
        for row in self.tables.rows("torch", "wheel"):
            if row.get("default"):
                rows.setdefault((row["torch"], row["cpu_arch"]), []).append(row)
        return rows


def _best_mirror(wheels: Mapping[PageRequest, Sequence[Offer]]) -> str | None:
    """The mirror that has wheels of most variants; of equals the one that the table names first."""
    counts: dict[str, int] = {}
    for question, offers in wheels.items():
        if question.mirror and offers:
            counts[question.mirror] = counts.get(question.mirror, 0) + 1
    return max(counts, key=lambda mirror: counts[mirror], default=None)

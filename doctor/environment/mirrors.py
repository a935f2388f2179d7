"""Which mirrors of a kind answer, for the moment when the usual place does not."""

from __future__ import annotations

from functools import partial

from doctor.errors import Unknown
from doctor.facts import Endpoint
from doctor.knowledge.tables import Row, Tables
from doctor.machine.background import Background
from doctor.probe.network import SECONDS, Address, ask


def answering(tables: Tables, kind: str) -> list[Row]:
    """Mirrors of a kind that answer in time, best first; all are asked at once.

    Args:
        kind: as for `Tables.mirrors`.
    """
    rows = tables.mirrors(kind)
    calls = [Background(partial(ask, _question(row)), str(row["name"])) for row in rows]
    return [row for row, call in zip(rows, calls, strict=True) if _answers(call)]


def _question(row: Row) -> Address:
    """A probe is a whole address, or the end of one."""
    probe = str(row.get("probe", ""))
    url = str(row["url"]).removeprefix("sparse+")
    return Address(row["name"], row["kind"], probe if "://" in probe else url + probe)


def _answers(call: Background[Endpoint]) -> bool:
    try:
        return call.result(SECONDS + 0.5).reachable
    except Unknown:
        return False

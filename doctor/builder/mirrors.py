"""Which mirrors of a kind answer, for the moment when the usual place does not."""

from __future__ import annotations

from functools import partial

from doctor.background import Background
from doctor.errors import Unknown
from doctor.facts import Endpoint
from doctor.probe.network import SECONDS, Question, ask
from doctor.tables import Row, Tables


def mirrors(tables: Tables, kind: str) -> list[Row]:
    """Rows of build/mirrors.toml that stand for a usual place, best first.

    Args:
        kind: `crates`, `rustup`, `python`: those whose usual place is no row of the table.
    """
    rows = (*tables.rows("mirrors", "endpoint"), *tables.rows("mirrors", "mirror"))
    return [row for row in rows if row["kind"] == kind]


def answering(tables: Tables, kind: str) -> list[Row]:
    """The same, but only those that answer within two seconds; all are asked at once."""
    rows = mirrors(tables, kind)
    calls = [Background(partial(ask, _question(row)), str(row["name"])) for row in rows]
    return [row for row, call in zip(rows, calls, strict=True) if _answers(call)]


def _question(row: Row) -> Question:
    """A probe is a whole address, or the end of one."""
    probe = str(row.get("probe", ""))
    url = str(row["url"]).removeprefix("sparse+")
    return Question(row["name"], row["kind"], probe if "://" in probe else url + probe)


def _answers(call: Background[Endpoint]) -> bool:
    try:
        return call.result(SECONDS + 0.5).reachable
    except Unknown:
        return False

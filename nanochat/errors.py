"""The two ways in which a person is told that something cannot go on."""

from __future__ import annotations


class NanochatError(Exception):
    """Data or machine do not fit; the message is one sentence: what happened, why, what to do."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What an error says first, for the middle of a sentence, at most 300 letters; else its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")


class WrongUsage(NanochatError):
    """A value is wrong in itself, whatever the machine."""

    exit_code = 2

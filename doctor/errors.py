"""The two ways in which work can end badly, and what the shell is told about each."""

from __future__ import annotations


class DoctorError(Exception):
    """The work failed because data or machine do not fit.

    Its text is one sentence for a person: what happened, why, and what to do.
    """

    exit_code = 1


class WrongUsage(DoctorError):
    """A value that is wrong in itself: an unknown area, a path that is no Python."""

    exit_code = 2


class Unknown(Exception):
    """A fact that cannot be had; its text is the reason, and becomes part of the facts.

    It is not an error of the program: a hanging tool and an unreadable file are answers too.
    """

"""Command lines of the scripts: flags with dashes or underscores, one-sentence errors, exit codes."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from nanochat.errors import NanochatError, WrongUsage
from nanochat.visible import visible

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended, as shells have it."""


class Parser(argparse.ArgumentParser):
    """An argument parser for which `--max-seq-len 512`, `--max_seq_len 512` and `--max_seq_len=512` are one."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--debug", action="store_true", help="show a traceback when something fails"
        )

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """As argparse's own, after underscores in the names of flags have become dashes."""
        words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args([dashed(word) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        """One sentence and status 2, without argparse's page of usage."""
        self.exit(WrongUsage.exit_code, f"{self.prog}: {message}; see {self.prog} --help\n")


def dashed(word: str) -> str:
    """`--max_seq_len=a_b` -> `--max-seq-len=a_b`; everything that is no long flag stays as it is."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def positive(text: str) -> int:
    """A whole number of at least 1, for `type=`."""
    return at_least(1)(text)


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers not below `least`, for `type=`."""

    def parse(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return parse


def rate(text: str) -> float:
    """A finite number of at least 0, for `type=`: a learning rate, a decay."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number from 0 up")
    return value


def share(text: str) -> float:
    """A number from 0 to 1, for `type=`."""
    value = rate(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def folder_name(text: str) -> str:
    """The name of one folder and no way out of the one it lies in, for `type=`."""
    if not text or text.startswith(".") or not text.isprintable() or set(text) & set("/\\:"):
        raise argparse.ArgumentTypeError(
            f"{visible(text)!r} is no plain name of a folder: no slashes, no colon, no dot in front"
        )
    return text


def run(
    main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None
) -> NoReturn:
    """Call a script's `main` and leave with its status; a failure is one line, unless --debug asks for more."""
    words = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in words
    try:
        main(argv)
    except NanochatError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {visible(error)}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has left (`| head`). Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(
            f"error: unexpected {type(error).__name__}: {error}; run again with --debug for the traceback",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(1)
    sys.exit(0)

r"""Makes visible what no terminal should obey: control characters in a model's words, a name or a text of others.

`\x1b`, `\x9b`, `\u202e` are shown as they are spelled here. Joiners inside of words stay: Persian, Hindi and many
emoji are written with them.
"""

from __future__ import annotations

import logging
import unicodedata

JOINERS = "\u200c\u200d"


class _Escapes(dict[int, str]):
    """Code point -> how it is shown; worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        # A byte that was no UTF-8 reaches us as a lone surrogate.
        byte = chr(code - 0xDC00) if 0xDC80 <= code <= 0xDCFF else letter
        harmless = letter.isprintable() or unicodedata.category(letter) == "Zs"
        self[code] = letter if harmless else ascii(byte)[1:-1]
        return self[code]


_ESCAPES = _Escapes({ord(letter): letter for letter in f"\n\t{JOINERS}"})


def visible(value: object) -> str:
    """The text of a value with all that is not printable shown as an escape; lines and tabs are kept."""
    text = str(value)
    return text if text.isprintable() else text.translate(_ESCAPES)


def show_warnings() -> None:
    """Let warnings of the log appear on standard error, as plain sentences."""

    class Plain(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return visible(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(Plain("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)

r"""Makes visible what no terminal should obey: control characters that came with a foreign value.

The name of a device, a line of a log, the page of an index and an environment variable may hold sequences that rename
a window, write to the clipboard, move the cursor over what was said, or turn the direction of text. Everything that is
printed goes through `Stream`, which shows them as `\x1b`, `\x9b`, `\u202e`; `visible` does the same for one value,
where a line break in it would be taken for ours.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from typing import IO, Any

from doctor.text.credentials import without_secrets

OWN_COLOURS = re.compile(r"(\x1b\[(?:0|1|2|4|3[1-7]|9[1-7])m)")
"""What we colour with; not among them what hides text (concealed, black, a background)."""


class _Escapes(dict[int, str]):
    """Code point -> how it is shown; worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        # Spaces of other widths (a Chinese text has them) are Zs; isprintable() counts them out.
        harmless = letter.isprintable() or unicodedata.category(letter) == "Zs"
        self[code] = letter if harmless else _escape(code)
        return self[code]


def _escape(code: int) -> str:
    r"""`\r`, `\x1b`, `\u202e`, `\U000e0041`; a byte that was no UTF-8 is shown as that byte."""
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return ascii(chr(code))[1:-1]


_LINE = _Escapes()
_TEXT = _Escapes({ord("\n"): "\n", ord("\t"): "\t"})


def visible(value: object, *, lines: bool = False) -> str:
    """The text of a foreign value with all that is not printable shown as an escape.

    Args:
        lines: whether it may have more than one line; else line breaks and tabs are shown too.
    """
    text = str(value)
    return text if text.isprintable() else text.translate(_TEXT if lines else _LINE)


def json_text(data: Any, **options: Any) -> str:
    """A value as JSON in which all that is not printable is escaped.

    Lone surrogates (of names that are no UTF-8), which no reader takes, become `?`.
    """
    text = json.dumps(data, ensure_ascii=False, **options).encode("utf-8", "replace").decode()
    return text if text.isprintable() else text.translate(_JSON)


class _JsonEscapes(_Escapes):
    """The same in JSON's way; line breaks between values are its own."""

    def __missing__(self, code: int) -> str:
        if super().__missing__(code) != chr(code):
            self[code] = json.dumps(chr(code))[1:-1] if code != 0x7F else r"\u007f"
        return self[code]


_JSON = _JsonEscapes({ord("\n"): "\n", ord("\t"): "\t"})


class Stream(io.TextIOWrapper):
    """Standard output or error: what is not printable is shown, secrets are not.

    Our own colours are kept on a terminal.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer, stream.encoding, "replace", line_buffering=stream.line_buffering
        )
        self._former = stream  # it would close what we write to, once nobody held it
        self._colours = self.isatty()

    @property
    def buffer(self) -> Any:
        """Hidden: click would write past us where the encoding is ASCII."""
        raise AttributeError("buffer")

    def write(self, text: str) -> int:
        """Write it so that it can be read.

        Raises:
            TypeError: bytes; click tries some to learn what kind of stream this is.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        length, text = len(text), without_secrets(text)
        if not self._colours:
            super().write(visible(text, lines=True))
            return length
        parts = OWN_COLOURS.split(text)
        parts[::2] = (visible(part, lines=True) for part in parts[::2])
        super().write("".join(parts))
        return length

    def control(self, sequence: str) -> None:
        """Write a control sequence of our own as it is."""
        super().write(sequence)


def control(stream: IO[str], sequence: str) -> None:
    """Write a control sequence of our own, such as one that takes a line away."""
    stream.control(sequence) if isinstance(stream, Stream) else stream.write(sequence)

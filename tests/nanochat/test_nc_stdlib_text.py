from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nanochat import stdlib_text
from nanochat.errors import NanochatError

SOURCE = '''\
"""What the module is for, in a sentence that is long enough to be kept as a document of its own."""

# Licensed to nobody in particular,
# for no particular purpose.

TABLE = [0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9]

# ------------------------------

class Thing:
    """A thing."""

    def method(self, size=3):
        """Do it
        in two lines."""
        text = """
        # no comment
        """
        return text  # stays
'''


def test_manual_notes_and_code_share_nothing(tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    path.write_text(SOURCE)
    manual, notes, code = stdlib_text._module(path, "thing")
    assert manual.split("\n\n") == [
        "# thing",
        ast.get_docstring(ast.parse(SOURCE)),
        "# class Thing",
        "A thing.",
        "## method(self, size=3)",
        "Do it\nin two lines.",
    ]
    assert notes == (
        "# Notes on thing\n\nLicensed to nobody in particular,\nfor no particular purpose."
    )
    assert code == textwrap.dedent('''\
        class Thing:

            def method(self, size=3):
                text = """
                # no comment
                """
                return text  # stays''')


def test_what_is_no_python_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    for contents in (b"def (", b"'\xff'", b"\0"):
        path.write_bytes(contents)
        assert list(stdlib_text._module(path, "x")) == []


def test_a_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdlib_text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(NanochatError, match="holds no sources"):
        list(stdlib_text.documents())


@pytest.mark.slow
def test_the_library_of_this_python() -> None:
    documents = list(stdlib_text.documents())
    total = sum(map(len, documents))
    assert 5_000_000 < total < 40_000_000
    assert len(documents) > 1000
    text = "\n".join(documents)
    assert "Copy data from src to dst" in text  # shutil.copyfile
    assert all(len(document) >= stdlib_text.SHORTEST for document in documents)
    # What depends on the machine, and not on the version of Python, would show here.
    assert sys.prefix not in text
    script = (
        "import hashlib, json; from nanochat.stdlib_text import documents\n"
        "print(json.dumps(hashlib.sha256('\\0'.join(documents()).encode('utf-8', 'replace')).hexdigest()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    ours = hashlib.sha256("\0".join(documents).encode("utf-8", "replace")).hexdigest()
    assert json.loads(done.stdout) == ours

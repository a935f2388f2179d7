"""A small corpus that every machine has: the texts of the standard library of the Python that runs.

The docstrings of each module as a manual, its comments, the topics of `help()`, the manuals of modules
written in C; and the code without these, so that no sentence stands in two documents. About ten million
characters, the same for one version of Python.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from nanochat.errors import NanochatError

LEFT_OUT = {
    "test", "tests", "idle_test",  # data made to be odd
    "site-packages", "dist-packages", "__pycache__", "lib-dynload", "_bundled",  # not of the library
    "encodings", "pydoc_data",  # tables; the topics are read as text
}  # fmt: skip
OF_THE_MACHINE = ("config-", "_sysconfigdata")
"""How names begin of what tells where and how this Python was compiled."""
SHORTEST = 80
"""Characters; what is shorter says too little to be a document."""
LETTERS = 0.5
"""The share of letters in what is not white space, below which lines are a table."""

_Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_RULE = re.compile(r"^[^\w]*$")


def documents() -> Iterator[str]:
    """All documents, in an order that depends on nothing but the version of Python.

    Raises:
        NanochatError: this Python came without the sources of its library.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(
        path.relative_to(root)
        for path in root.rglob("*.py")
        if not LEFT_OUT & set(path.relative_to(root).parts)
        and not path.relative_to(root).parts[0].startswith(OF_THE_MACHINE)
    )
    found = (text for path in paths for text in _module(root / path, _dotted(path)))
    for text in (*_topics(), *_builtin_manuals(), *found):
        if len(text) >= SHORTEST:
            yield text
    if not paths:
        raise NanochatError(
            f"{root} holds no sources of the standard library; make a corpus of your own text with "
            f"python -m nanochat.dataset --source FOLDER"
        )


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _module(path: Path, name: str) -> Iterator[str]:
    """The manual, the comments and the code of a module."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError):
        return
    sections = list(_sections(tree, name))
    yield "\n\n".join(f"{title}\n\n{text}" for title, text, _ in sections)
    lines = source.splitlines()
    docs = {number for *_, span in sections for number in span}
    strings = _string_lines(tree)
    comments = {
        number
        for number, line in enumerate(lines, 1)
        if line.lstrip().startswith("#") and number not in strings
    }
    yield f"# Notes on {name}\n\n" + "\n\n".join(_paragraphs(lines, comments))
    told = docs | comments
    yield _code([line for number, line in enumerate(lines, 1) if number not in told])


def _sections(tree: ast.AST, name: str) -> Iterator[tuple[str, str, range]]:
    """Heading, docstring and its lines, for all that has one, in the order of the source."""
    if isinstance(tree, _Documented) and (text := ast.get_docstring(tree)):
        first = tree.body[0]
        yield _heading(tree, name), text, range(first.lineno, (first.end_lineno or 0) + 1)
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.stmt):
            inner = f"{name}.{child.name}" if isinstance(child, _Documented[1:]) else name
            yield from _sections(child, inner)


def _heading(node: ast.AST, name: str) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"## {name.rpartition('.')[2]}({ast.unparse(node.args)})"
    if isinstance(node, ast.ClassDef):
        return f"# class {node.name}"
    return f"# {name}"


def _string_lines(tree: ast.AST) -> set[int]:
    """The lines of strings over several lines, where `#` begins no comment."""
    return {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (node.end_lineno or 0) > node.lineno
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    }


def _paragraphs(lines: list[str], comments: set[int]) -> Iterator[str]:
    """Comments on neighbouring lines, without their marks."""
    run: list[str] = []
    for number in [*sorted(comments), 0]:
        if run and (number == 0 or number - 1 not in comments):
            yield "\n".join(run)
            run = []
        text = lines[number - 1].strip().lstrip("#").strip() if number else ""
        if text and not _RULE.match(text):
            run.append(text)


def _code(lines: list[str]) -> str:
    """Code without trailing blanks, tables and runs of empty lines."""
    blocks = re.split(r"\n{2,}", "\n".join(line.rstrip() for line in lines))
    return "\n\n".join(block for block in blocks if _is_text(block))


def _is_text(block: str) -> bool:
    dense = "".join(block.split())
    return bool(dense) and sum(map(str.isalpha, dense)) / len(dense) >= LETTERS


def _topics() -> Iterator[str]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):  # some distributions leave it out
        return
    yield from (topics[name].strip() for name in sorted(topics))


def _builtin_manuals() -> Iterator[str]:
    """The documentation of what is written in C and therefore has no source here."""
    seen: set[str] = set()
    for name in sorted({"builtins", *sys.builtin_module_names} - {"__main__"}):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        yield "\n\n".join(_entries(module, name, seen))


def _entries(thing: object, name: str, seen: set[str]) -> Iterator[str]:
    """Docstrings of a module or class and of what is in it, each text once."""
    text = (
        inspect.getdoc(thing) if isinstance(thing, ModuleType | type) or callable(thing) else None
    )
    if text and text not in seen:
        seen.add(text)
        yield f"## {name}\n\n{text}"
    if isinstance(thing, ModuleType | type):
        for key, value in sorted(vars(thing).items()):
            if callable(value) and (not isinstance(value, type) or isinstance(thing, ModuleType)):
                yield from _entries(value, f"{name}.{key}", seen)

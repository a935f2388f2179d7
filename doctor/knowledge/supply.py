"""What can be had from here for the tokenizer, known before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Supply:
    """Answers of the places from which a tokenizer's parts come.

    Attributes:
        crates: whether a registry of crates answers, or cargo has all of them already.
        rustup: whether a server with Rust toolchains answers.
        published: whether the Python index has `rustbpe` and `tiktoken` for this machine. No answer counts as yes:
            torch comes from there, too, and a slow index is no empty one.
        linker: the same for `ziglang`.
        troubles: what gave no answer -> why.
    """

    crates: bool = True
    rustup: bool = True
    published: bool = True
    linker: bool = True
    troubles: Mapping[str, str] = field(default_factory=dict)

"""Which module does the byte-pair encoding: our own crate, or the published packages in its place."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from nanochat.errors import NanochatError

BUILD = "nanochat-doctor build-rustbpe"


def module() -> ModuleType:
    """A module with `Tokenizer` and the patterns.

    Raises:
        NanochatError: neither is installed.
    """
    try:
        import rustbpe
    except ImportError:
        raise NanochatError(
            f"rustbpe, the compiled part of the tokenizer, is not installed; run '{BUILD}'"
        ) from None
    if hasattr(rustbpe, "NANOCHAT_PATTERN"):
        return rustbpe
    if importlib.util.find_spec("tiktoken") is None or not hasattr(rustbpe, "Tokenizer"):
        raise NanochatError(
            "the rustbpe that is installed is another package of that name, and tiktoken, which encodes in its place, "
            f"is not there; run '{BUILD}', or '{BUILD} --prebuilt' where Rust cannot be had"
        )
    from nanochat import published_bpe

    return published_bpe

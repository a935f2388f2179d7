"""Says what the rustbpe of the running interpreter is, and whether it does what the trainer needs of it.

    python rustbpe_check.py [FOLDER]         with what lies in FOLDER before all that is installed

The examined Python runs it, so it needs nothing but Python. What needs numpy is tried only where numpy is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from importlib import metadata
from typing import Any, Dict, Optional

DISTRIBUTIONS = ("nanochat-rustbpe", "rustbpe")
MODULE_NAMES = ("NANOCHAT_PATTERN", "GPT2_PATTERN", "GPT4_PATTERN", "Tokenizer")
TOKENIZER_NAMES = (
    "add_special_tokens",
    "batch_encode_to_numpy",
    "decode",
    "decode_bytes",
    "encode",
    "from_hf_json",
    "from_tiktoken",
    "load",
    "special_tokens",
    "to_bytes",
    "to_hf_json",
    "token_byte_lengths",
    "train_from_iterator",
    "vocab_size",
)
"""What nanochat/tokenizer.py, nanochat/vocabularies.py and the export ask of it."""

TEXT = "Low, lower, lowest: the lowest of 2 slow wolves, na\u00efve \u2603 <|s|>"
SPECIAL = "<|s|>"
PATTERN = r"\p{L}+|\p{N}{1,2}|[^\p{L}\p{N}]+"


def main() -> None:
    """Print what was found as one line of JSON."""
    if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]  # nothing may be imported from beside this script
    sys.path[:0] = sys.argv[1:]
    found: Dict[str, Any] = {
        "distributions": distributions(),
        "path": None,
        "version": None,
        "trouble": None,
        "published": False,
    }
    try:
        import rustbpe
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError)
        found["trouble"] = None if absent else "cannot be imported: %s" % one_line(error)
    else:
        # a folder of that name, such as the crate's in a checkout, is no module
        found["path"] = getattr(rustbpe, "__file__", None)
        found["version"] = getattr(rustbpe, "__version__", None)
        if found["path"] is not None:
            found["published"] = is_published(rustbpe)
            found["trouble"] = (published_trouble if found["published"] else trouble)(rustbpe)
            if found["version"] is None:
                found["version"] = found["distributions"].get("rustbpe")
    print(json.dumps(found))


def distributions() -> Dict[str, str]:
    """Installed distributions that bring a rustbpe, with their versions."""
    found: Dict[str, str] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def is_published(module: Any) -> bool:
    """Whether it is the package of the Python index, which trains and leaves the rest to tiktoken."""
    tokenizer = getattr(module, "Tokenizer", None)
    names = ("train_from_iterator", "get_mergeable_ranks")
    return not hasattr(module, "NANOCHAT_PATTERN") and all(hasattr(tokenizer, n) for n in names)


def published_trouble(module: Any) -> Optional[str]:
    """What is wrong with the published package and tiktoken together, or None."""
    try:
        import tiktoken
    except Exception as error:
        return "lacks tiktoken, which encodes for it: %s" % one_line(error)
    try:
        tokenizer = module.Tokenizer()
        tokenizer.train_from_iterator(iter([TEXT] * 4), 270, pattern=PATTERN)
        ranks = {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}
        encoding = tiktoken.Encoding(
            "check", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={SPECIAL: len(ranks)}
        )
        ids = encoding.encode_ordinary(TEXT)
        if encoding.decode(ids) != TEXT or len(ids) >= len(TEXT.encode("utf-8")):
            return "encodes a text and gives another one back"
    except Exception as error:
        return "fails at a small text: %s" % one_line(error)
    return None


def trouble(module: Any) -> Optional[str]:
    """What is wrong with a module, or None."""
    tokenizer = getattr(module, "Tokenizer", None)
    lacking = [name for name in MODULE_NAMES if not hasattr(module, name)]
    lacking += ["Tokenizer." + name for name in TOKENIZER_NAMES if not hasattr(tokenizer, name)]
    if lacking:
        return "lacks %s" % ", ".join(lacking)
    try:
        return use(module)
    except Exception as error:
        return "fails at a small text: %s" % one_line(error)


def use(module: Any) -> Optional[str]:
    """Train a vocabulary of a few tokens, and take a text there and back."""
    tokenizer = module.Tokenizer()
    tokenizer.train_from_iterator(
        iter([TEXT] * 4), 270, pattern=module.NANOCHAT_PATTERN, special_tokens=[SPECIAL]
    )
    ids = tokenizer.encode(TEXT)
    if tokenizer.decode(ids) != TEXT or len(ids) >= len(TEXT.encode("utf-8")):
        return "encodes a text and gives another one back"
    again = module.Tokenizer.from_bytes(tokenizer.to_bytes())
    if again.encode(TEXT) != ids or again.special_tokens != tokenizer.special_tokens:
        return "loses something of a tokenizer that it saves"
    if importlib.util.find_spec("numpy") is not None:
        joined, offsets = tokenizer.batch_encode_to_numpy([TEXT, ""], prepend=SPECIAL)
        special = tokenizer.special_tokens[SPECIAL]
        if joined.tolist() != [special, *ids, special] or offsets.tolist()[-1] != len(joined):
            return "encodes several texts in another way than one"
    return None


def one_line(error: Exception) -> str:
    """Kind and text of an exception."""
    return " ".join(("%s: %s" % (type(error).__name__, error)).split())[:300]


if __name__ == "__main__":
    main()

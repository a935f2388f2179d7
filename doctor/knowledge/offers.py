"""What package indexes say they have: values that the planner prefers over its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Offer:
    """One wheel of torch on an index.

    Attributes:
        version: as in its file name, `2.9.1+cu128`, `2.16.0.dev20261120+cu130`.
        variant: `cu128`, `cpu`; of the default Python index the one that its tables row names, else "".
        index_url: what pip needs as --index-url; None is the default Python index.
        python: `3.12`, or `3.13t` for the free-threaded one.
        cpu_arch: as in build/torch.toml: `x86_64`, `aarch64`, `arm64-macos`.
        size_mb: download, where the index says it.
        glibc: lowest glibc by its platform tag, `2.28`; None where that tells none.
    """

    version: str
    variant: str
    index_url: str | None
    python: str
    cpu_arch: str
    size_mb: int | None = None
    glibc: str | None = None


@dataclass(frozen=True)
class Offers:
    """The answers of all indexes that were asked.

    Attributes:
        wheels: wheels of torch for this machine's Python and processor.
        unreachable: index URL -> why it gave no answer; "" is the key of the default Python index.
        answered: index URLs (and "" for the default one) that gave a whole answer.
        unsure: those of the unreachable that may well serve pip and uv: silent ones, which whoever waits longer
            may hear, and those that ask for a password, which is theirs to have.
        mirror: base URL of the PyTorch wheels that answered, where it is not PyTorch's own.
    """

    wheels: tuple[Offer, ...] = ()
    unreachable: Mapping[str, str] = field(default_factory=dict)
    answered: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    mirror: str | None = None

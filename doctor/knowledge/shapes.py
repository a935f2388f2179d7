"""What the rows of the tables in build/ must look like, and what is wrong with one that does not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """A kind of number that a field may hold, called as it is in errors."""

    called: str
    whole: bool = False
    zero: bool = False

    def fits(self, value: Any) -> bool:
        """Whether a value is such a number; truth values and infinities are none."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return 0 < value < math.inf or (self.zero and value == 0)


POSITIVE = Number("positive number")
WHOLE = Number("positive whole number", whole=True)
COUNT = Number("whole number, 0 or more", whole=True, zero=True)

Kind = type | Number | dict[str, type | Number]
Shape = Mapping[str, Kind]

SOURCED: Shape = {"source": str, "date": str}
REMARKS: Shape = {"verified": bool, "note": str}

ACCELERATOR: Shape = {
    "pattern": str,
    "name": str,
    "memory_gb": POSITIVE,
    "tflops_fp16": POSITIVE,
    "bandwidth_gbs": POSITIVE,
    "watts": POSITIVE,
    **SOURCED,
}

SHAPES: Mapping[str, Mapping[str, Shape]] = {
    "cuda": {
        "toolkit": {"version": str, "archs": list, **SOURCED},
        "takes": {"since": str, "min_cuda": str, "targets": list, **SOURCED},
        "target": {"suffix": str, "min_cc": str, "min_cuda": str, **SOURCED},
        "wheel": {
            "cuda": str,
            "release": str,
            "beside": list,
            "download_mb": WHOLE,
            "disk_mb": WHOLE,
            "cpu_archs": list,
            **SOURCED,
        },
        "part": {"package": str, "extras": list, "pinned": list, **SOURCED},
        "cuda_major": {"major": str, "min_driver": str, "min_tegra_driver": str, **SOURCED},
        "arch": {"cc": str, "family": str, "min_cuda": str, "tegra": bool, **SOURCED},
    },
    "drivers": {
        "install": {"id": list, "modules": list, "name": str, "commands": list, **SOURCED},
        "key": {"path": str, "tool": str, **SOURCED},
    },
    "jetson": {
        "chip": {
            "name": str,
            "compatible": str,
            "soc_id": str,
            "model": str,
            "cc": str,
            **SOURCED,
        },
        "l4t": {"release": str, "jetpack": str, "cuda": str, "driver": str, **SOURCED},
    },
    "torch": {
        "release": {"torch": str, "pythons": list, **SOURCED},
        "wheel": {
            "torch": str,
            "variant": str,
            "cpu_arch": str,
            "sass": list,
            "ptx": list,
            "index": str,
            **SOURCED,
        },
        "nightly": {
            "variant": str,
            "cpu_arch": str,
            "cuda": str,
            "sass": list,
            "ptx": list,
            "index": str,
            **SOURCED,
        },
        "companion": {"torch": str, **SOURCED},
        "ended": {
            "cpu_arch": str,
            "name": str,
            "torch": str,
            "python": str,
            "numpy": str,
            **SOURCED,
        },
        "runtime": {"package": str, **SOURCED},
        "footprint": {
            "flavour": str,
            "network_mb": int,
            "libraries_mb": int,
            "disk_mb": int,
            **SOURCED,
        },
    },
    "ascend": {
        "pair": {"cann": str, "torch_npu": str, "torch": str, **SOURCED},
        "python": {"torch": str, "pythons": list, **SOURCED},
        "requires": {"package": str, "module": str, "when": str, "spec": str, **SOURCED},
        "driver": {"release": str, "generation": str, "cann": list, **SOURCED},
        "driver_floor": {"cann": str, "min_driver": str, "driver": str, **SOURCED},
        "chip": {"series": str, "pattern": str, "bf16": bool, **SOURCED},
    },
    "packages": {
        "manager": {"name": str, "id": list, "install": str, **SOURCED},
        "need": {"name": str, **SOURCED},
        "repository": {"id": list, "for": list, "commands": list, **SOURCED},
    },
    "pci": {
        "nvidia": {"first": str, "last": str, "chip": str, **SOURCED},
        "vendor": {"id": str, "name": str, "software": str, "gpu": bool, **SOURCED},
        "other": {"vendor": str, "first": str, "last": str, "name": str, **SOURCED},
    },
    "cards": {
        "fault": {"pattern": str, "stops": bool, "cure": str, **SOURCED},
        "container": {
            "name": str,
            "give": str,
            "uvm": str,
            "mig": str,
            "compute": str,
            "restart": str,
            **SOURCED,
        },
        "chooser": {"name": str, "job": bool, "variables": list, "give": str, **SOURCED},
        "forward_compat": {"pattern": str, "works": bool, **SOURCED},
    },
    "installers": {"cause": {"name": str, "pattern": str, "cause": str, "cure": str, **SOURCED}},
    "rust": {"crate": {"name": str, "msrv": str, **SOURCED}},
    "codes": {"code": {"name": str, "title": str}},
    "mirrors": {
        "endpoint": {"name": str, "kind": str, "url": str, **SOURCED},
        "mirror": {"name": str, "kind": str, "url": str, "probe": str, **SOURCED},
        "artifact": {"name": str, "url": str, "size_mb": POSITIVE, **SOURCED},
    },
    "accelerators": {
        "gpu": {"cc": str, **ACCELERATOR, "tflops_fp32": POSITIVE},
        "npu": {"series": str, **ACCELERATOR},
    },
    "profiles": {"profile": {"name": str, "title": str, **SOURCED}},
    "launch": {
        "family": {
            "kind": str,
            "backend": str,
            "block_mb": WHOLE,
            "tile_mb": WHOLE,
            "fused_norm": bool,
            "fused_adamw": bool,
            "noun": str,
            "context_mb": COUNT,
            "ranks_mb": COUNT,
            "host_share": POSITIVE,
            "unknown_depth": WHOLE,
            **SOURCED,
        },
        "display": {"pattern": str, "mb": COUNT, **SOURCED},
        "auto": {
            "hours": POSITIVE,
            "depths": list,
            "lengths": list,
            "most_rows": WHOLE,
            "pass_tokens": WHOLE,
            "unknown_mb": WHOLE,
            "head_dim": WHOLE,
            "ratio": POSITIVE,
            "vocab_size": WHOLE,
            "data": str,
            **SOURCED,
        },
        "speed": {"kind": str, "mfu": POSITIVE, "eager": POSITIVE, **SOURCED},
        "processor": {"dtype": str, "flags": list, "gflops_per_core": POSITIVE, **SOURCED},
        "stage": {"name": str, "port": WHOLE, "most_rows": COUNT, "sequences": COUNT, **SOURCED},
        "data": {
            "name": str,
            "chars": WHOLE,
            "chars_per_token": POSITIVE,
            "kept": POSITIVE,
            "spare": POSITIVE,
            "tokenizer": COUNT,
            "most": COUNT,
            **SOURCED,
        },
        "env": {"name": str, "value": str, "kinds": list, **SOURCED},
    },
    "recipes": {
        "setting": {"name": str, "value": str, "when": list, **SOURCED},
        "ignored": {"name": str, "instead": str, **SOURCED},
        "steering": {"effect": str, "names": list, **SOURCED},
        "weight": {"pattern": str, "memory_gb": POSITIVE, "seconds": POSITIVE, **SOURCED},
        "cost": {"disk_gb": POSITIVE, "network_mb": WHOLE, **SOURCED},
        "tree": {
            "since": str,
            "driver": str,
            "cmake": str,
            "gcc": str,
            "requires": list,
            **SOURCED,
        },
        "driver": {
            "name": str,
            "needs": list,
            "configure": list,
            "compile": list,
            "pack": list,
            **SOURCED,
        },
        "origin": {"name": str, "url": str, **SOURCED},
        "compiler": {"manager": str, "packages": list, **SOURCED},
    },
}
"""File -> table -> fields that every row must have; a `pattern` must be a regular expression."""

OPTIONAL: Mapping[str, Mapping[str, Shape]] = {
    "drivers": {
        "install": {"branch": str, "text": str, "picks": bool, **REMARKS},
        "key": REMARKS,
    },
    "jetson": {
        "chip": REMARKS,
        "l4t": {"index": str, "torch": str, "python": str, "advice": str, **REMARKS},
    },
    "ascend": {"driver": REMARKS, "driver_floor": REMARKS},
    "mirrors": {
        "endpoint": {
            "region": str,
            "probe": str,
            "variable": str,
            "uv_variable": str,
            "option": str,
            **REMARKS,
        },
        "mirror": {
            "region": str,
            "source_name": str,
            "whole": bool,
            "variable": str,
            "root_variable": str,
            "root_url": str,
            "installer": str,
            "instead_of": str,
            **REMARKS,
        },
        "artifact": {"disk_mb": POSITIVE, **REMARKS},
    },
    "accelerators": {
        "gpu": {"tflops_bf16": POSITIVE, "tflops_fp8": POSITIVE, **REMARKS},
        "npu": {
            "tflops_bf16": POSITIVE,
            "tflops_fp8": POSITIVE,
            "tflops_fp32": POSITIVE,
            **REMARKS,
        },
    },
    "profiles": {
        "profile": {
            "needs": {"device_type": str, "nproc": WHOLE},
            "device_type": str,
            "nproc": WHOLE,
            "dtype": str,
            "fp8": bool,
            "depth": WHOLE,
            "head_dim": WHOLE,
            "max_seq_len": WHOLE,
            "device_batch_size": WHOLE,
            "total_batch_size": WHOLE,
            "num_iterations": WHOLE,
            "ratio": POSITIVE,
            "vocab_size": WHOLE,
            "data": str,
            "shards": WHOLE,
            "max_chars": WHOLE,
            "core_metric": bool,
            **REMARKS,
        }
    },
}
"""The same for fields that a row may have besides. A table that stands here knows no others, because a misspelt one
would never be read."""


def fault(row: Any, place: str, shape: Shape, more: Shape | None = None) -> str | None:
    """What is wrong with a row, in half a sentence; None for a sound one.

    Args:
        place: the row in words, `row 3 of [[gpu]]`.
        more: fields that it may have; None is any.
    """
    if not isinstance(row, dict):
        return f"{place} is {row!r}, not a table"
    for key, kind in {**shape, **(more or {})}.items():
        if key in row and not _fits(row[key], kind):
            return f"{key!r} in {place} is {row[key]!r}, not a {_called(kind)}"
        if key in shape and key not in row:
            return f"{place} lacks {key!r}"
    if more is not None:
        for key in row:
            if key not in shape and key not in more:
                return f"{place} has {key!r}, which its table does not know"
    return _bad_pattern(row["pattern"], place) if "pattern" in shape else None


def _fits(value: Any, kind: Kind) -> bool:
    if isinstance(kind, Number):
        return kind.fits(value)
    if isinstance(kind, dict):
        inside = isinstance(value, dict) and value.keys() <= kind.keys()
        return inside and all(_fits(value[key], kind[key]) for key in value)
    return isinstance(value, kind)


def _called(kind: Kind) -> str:
    if isinstance(kind, Number):
        return kind.called
    return f"table of {' and '.join(kind)}" if isinstance(kind, dict) else kind.__name__


def _bad_pattern(pattern: str, place: str) -> str | None:
    try:
        re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        return f"'pattern' in {place} is {pattern!r}, not a regular expression: {error}"
    return None

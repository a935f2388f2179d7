"""Files of tensors: whole or not there at all, with a checksum, and read without running any code of
theirs."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypedDict

import numpy as np
import torch

from nanochat.errors import NanochatError, first_line
from nanochat.files import atomic


class Entry(TypedDict):
    """What is known of a file that was written."""

    size: int
    crc32: str


def write(path: Path, contents: Any) -> Entry:
    """Write tensors, arrays, numbers, strings and nests of these, for `read`.

    Tensors come from any device; of a view, only the part that it shows is written. The checksum is taken on
    the way.

    Raises:
        NanochatError: the file cannot be written.
    """
    with atomic(path) as file:
        summing = _Summing(file)
        try:
            torch.save(_portable(contents), summing)
        except RuntimeError:
            # torch's writer says "enforce fail at inline_container.cc" whatever the disk said.
            if summing.failure is None:
                raise
            raise summing.failure from None
    return {"size": summing.size, "crc32": f"{summing.crc:08x}"}


def read(path: Path) -> Any:
    """What `write` was given, on the CPU; arrays come back as tensors. Pages are read when they are touched.

    Raises:
        NanochatError: the file is missing, cut, or holds more than data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise NanochatError(
            f"{path} cannot be read ({first_line(error)}); choose another checkpoint"
        ) from error


class _Summing:
    """A file to write to that keeps the CRC-32 and the number of its bytes, and why it could not be written."""

    def __init__(self, file: IO[Any]) -> None:
        self._file, self.crc, self.size = file, 0, 0
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self.crc = zlib.crc32(data, self.crc)
        self.size += memoryview(data).nbytes
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _portable(value: Any) -> Any:
    """The same, of types that `weights_only` admits, on the CPU, without what lies around a view in
    memory."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().to("cpu")
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor.contiguous() if whole else tensor.clone(memory_format=torch.contiguous_format)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    return value

"""As much of torch as proving a build asks for."""
# ruff: noqa: ANN001, ANN201, F401

from torch import _C
from torch.version import __version__
from torch.version import cuda as _cuda


class Tensor(list):
    """Numbers in a row."""

    def sum(self):
        return Scalar(sum(self))


class Scalar(float):
    """One number."""

    def item(self):
        return float(self)


def full(shape, value, device="cpu"):
    """A tensor of one number."""
    return Tensor([float(value)] * shape[0])

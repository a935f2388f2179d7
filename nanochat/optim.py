"""Muon for matrices and AdamW for the rest, in one optimizer whose state is shared out over the ranks.

There is no DistributedDataParallel: each rank computes gradients of its own rows, and the step sums them where they
are needed. A parameter's state lives on one rank only, in equal slices that are padded where they do not divide, so
that any number of ranks works. Reductions, updates and gathers overlap: all reductions start at once, each update
starts its gather, and the last phase waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

from nanochat.distributed import Wait, World
from nanochat.errors import NanochatError
from nanochat.schedule import ADAM_EPSILON

SMALL = 1024
"""Parameters of fewer elements are summed together and updated by every rank; slices would cost more than they save."""

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients (a, b, c) of five rounds X <- aX + (bA + cA²)X with A = XXᵀ, which bring all singular values near 1
(Amsel et al., "The Polar Express", 2025, for a lower bound of 1e-3 and a safety factor of 1.01)."""


@dataclass
class Hyper:
    """What a group's update needs; the trainer changes it before each step."""

    lr: float
    initial_lr: float
    betas: tuple[float, float]
    weight_decay: float
    epsilon: float = ADAM_EPSILON
    """What AdamW adds to the size of a gradient before it divides by it."""


class Optimizer:
    """Updates all parameters of a model from their gradients.

    Args:
        groups: name -> parameters; those of `muon` must be matrices.
        hyper: the same names -> rates.
        muon: names of the groups that Muon updates.
        muon_dtype: in what the orthogonalisation multiplies; bfloat16 is enough where it is fast.
        fused_adamw: use torch's own fused kernel for AdamW, where the device has one.
        compiler: applied to the two update functions.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        hyper: Mapping[str, Hyper],
        world: World,
        *,
        muon: frozenset[str] = frozenset({"matrices"}),
        muon_dtype: torch.dtype = torch.float32,
        fused_adamw: bool = True,
        compiler: Callable[[Any], Any] | None = None,
    ) -> None:
        self.world, self.hyper, self.muon = world, dict(hyper), muon
        self.groups = {name: list(params) for name, params in groups.items() if params}
        self.steps = 0
        compiled = compiler is not None
        self._adamw = _fused_adamw if fused_adamw else _maybe(compiler, plain_adamw)
        self._muon = _maybe(compiler, muon_update)
        self._as_tensors = compiled
        self._units = list(self._make_units(muon, muon_dtype))

    def _make_units(self, muon: frozenset[str], muon_dtype: torch.dtype) -> Iterator[_Unit]:
        for name, params in self.groups.items():
            if name in muon:
                shapes: dict[torch.Size, list[nn.Parameter]] = {}
                for param in params:
                    shapes.setdefault(param.shape, []).append(param)
                for shape, same in shapes.items():
                    yield _MuonUnit(
                        self, name, f"{name} {'x'.join(map(str, shape))}", same, muon_dtype
                    )
                continue
            small = [p for p in params if p.numel() < SMALL]
            if small:
                yield _ReplicatedUnit(self, name, f"{name} small", small)
            for index, param in enumerate(p for p in params if p.numel() >= SMALL):
                yield _SlicedUnit(self, name, f"{name} {index}", param)

    # --- stepping -------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> torch.Tensor:
        """Apply the gradients, summed over ranks and multiplied by `scale`; they are left as they were.

        Returns:
            The norm of the applied gradient of each group, in the order of `self.groups`: (groups,) float32. A number
            that is not finite tells that some rank's gradient was broken, and that parameters are now broken too.
        """
        self.steps += 1
        for unit in self._units:
            unit.reduce()
        for unit in self._units:
            unit.update(scale)
        for unit in self._units:
            unit.finish()
        return self._norms()

    @torch.no_grad()
    def local_norms(self) -> dict[str, float]:
        """The norm of each group's gradient on this rank alone, before anything is summed: to find a culprit."""
        squares = {
            name: sum(
                (p.grad.float().square().sum() for p in params if p.grad is not None),
                torch.zeros(()),
            )
            for name, params in self.groups.items()
        }
        return {
            name: math.sqrt(value) if (value := float(s)) >= 0 else value
            for name, s in squares.items()
        }

    @torch.no_grad()
    def squares(self) -> dict[str, float]:
        """The sum of the squares of each group's parameters, in single precision; the same on every rank."""
        sums = [
            torch.stack([p.float().square().sum() for p in params])
            for params in self.groups.values()
        ]
        return dict(zip(self.groups, torch.stack([s.sum() for s in sums]).tolist(), strict=True))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for params in self.groups.values():
            for param in params:
                param.grad = None

    def _norms(self) -> torch.Tensor:
        names = list(self.groups)
        # What is sliced is summed over ranks; what is replicated is known to each of them already.
        sliced, replicated = torch.zeros(2, len(names), device=self._units[0].square.device)
        for unit in self._units:
            (replicated if unit.replicated else sliced)[names.index(unit.group)] += unit.square
        return (self.world.sum(sliced.clone()) + replicated).sqrt()

    def number(self, value: float, like: torch.Tensor) -> float | torch.Tensor:
        """A hyperparameter as the update functions want it: a tensor on the device if these are compiled, so that a
        new value is no new program. (Not on the CPU: an NPU does not mix the two.)"""
        return torch.tensor(value, device=like.device) if self._as_tensors else value

    # --- saving ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """This rank's share: what `nanochat.checkpoint` writes and reshards."""
        return {
            "steps": self.steps,
            "world": self.world.size,
            "rank": self.world.rank,
            "groups": {
                unit.key: {
                    "length": unit.length,
                    "replicated": unit.replicated,
                    "tensors": unit.state,
                }
                for unit in self._units
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a share that was cut for this rank.

        Raises:
            NanochatError: it belongs to other parameters.
        """
        mine, saved = {unit.key: unit for unit in self._units}, state["groups"]
        if mine.keys() != saved.keys():
            odd = sorted(mine.keys() ^ saved.keys())
            raise NanochatError(
                f"the optimizer state is of another model: {', '.join(odd[:3])} only on one side; "
                "resume with the flags that the run was started with"
            )
        self.steps = int(state["steps"])
        for key, unit in mine.items():
            for name, tensor in unit.state.items():
                tensor.copy_(saved[key]["tensors"][name])


# --- units: parameters that travel and are updated together ---------------------------------------


class _Unit:
    """Some parameters of one group; `state` are this rank's tensors, `length` the whole along dimension 0."""

    replicated = False

    def __init__(self, optimizer: Optimizer, group: str, key: str) -> None:
        self.optimizer, self.world, self.group, self.key = optimizer, optimizer.world, group, key
        self.state: dict[str, torch.Tensor] = {}
        self.length = 0
        self.square = torch.zeros(())
        self._wait: Wait | None = None

    @property
    def hyper(self) -> Hyper:
        return self.optimizer.hyper[self.group]

    def reduce(self) -> None:
        """Start summing gradients."""
        raise NotImplementedError

    def update(self, scale: float) -> None:
        """Wait for the sum, update what is ours, start telling the others."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait until our parameters hold everybody's updates."""

    def wait(self) -> None:
        if self._wait is not None:
            self._wait()
            self._wait = None

    def adamw(
        self, param: torch.Tensor, grad: torch.Tensor, first: torch.Tensor, second: torch.Tensor
    ) -> None:
        number, h = self.optimizer.number, self.hyper
        self.optimizer._adamw(
            param, grad, first, second, step=number(self.optimizer.steps, param), lr=number(h.lr, param),
            beta1=h.betas[0], beta2=h.betas[1], weight_decay=h.weight_decay, epsilon=h.epsilon,
        )  # fmt: skip


class _SlicedUnit(_Unit):
    """One large parameter under AdamW, cut into as many equal slices as there are ranks."""

    def __init__(self, optimizer: Optimizer, group: str, key: str, param: nn.Parameter) -> None:
        super().__init__(optimizer, group, key)
        self.param, self.length = param, param.numel()
        self.slice = -(-self.length // self.world.size)
        start = min(self.world.rank * self.slice, self.length)
        self.mine = slice(start, min(start + self.slice, self.length))
        flat = param.detach().view(-1)
        self.state = {name: flat.new_zeros(self.slice) for name in ("first", "second")}

    @property
    def padded(self) -> int:
        return self.slice * self.world.size

    def reduce(self) -> None:
        grad = _gradient(self.param).reshape(-1)
        if self.world.size == 1:
            self.part = grad
            return
        if self.padded != self.length:
            grad = torch.nn.functional.pad(grad, (0, self.padded - self.length))
        self.part = grad.new_empty(self.slice)
        self._wait = self.world.scatter_sum_later(self.part, grad)

    def update(self, scale: float) -> None:
        self.wait()
        own = self.param.detach().view(-1)[self.mine]
        grad = self.part[: len(own)]
        if scale != 1.0:
            grad = grad * scale
        self.square = grad.float().square().sum() if grad.dtype != torch.float32 else grad.dot(grad)
        first, second = (self.state[name][: len(own)] for name in ("first", "second"))
        self.adamw(own, grad, first, second)
        if self.world.size == 1:
            return
        part = (
            own.clone()
            if len(own) == self.slice
            else torch.nn.functional.pad(own, (0, self.slice - len(own)))
        )
        self.whole = own.new_empty(self.padded)
        self._wait = self.world.gather_later(self.whole, part)

    def finish(self) -> None:
        if self.world.size > 1:
            self.wait()
            self.param.detach().view(-1).copy_(self.whole[: self.length])
            del self.whole
        del self.part


class _ReplicatedUnit(_Unit):
    """Small parameters under AdamW; every rank does the same update."""

    replicated = True

    def __init__(
        self, optimizer: Optimizer, group: str, key: str, params: list[nn.Parameter]
    ) -> None:
        super().__init__(optimizer, group, key)
        self.params = params
        self.sizes = [p.numel() for p in params]
        self.length = sum(self.sizes)
        self.state = {
            name: torch.zeros(self.length, device=params[0].device) for name in ("first", "second")
        }

    def reduce(self) -> None:
        self.part = torch.cat([_gradient(p).float().reshape(-1) for p in self.params])
        self._wait = self.world.sum_later(self.part)

    def update(self, scale: float) -> None:
        self.wait()
        grad = self.part * scale
        self.square = grad.dot(grad)
        flat = torch.cat([p.detach().float().reshape(-1) for p in self.params])
        self.adamw(flat, grad, self.state["first"], self.state["second"])
        for param, values in zip(self.params, flat.split(self.sizes), strict=True):
            param.detach().copy_(values.view_as(param))


class _MuonUnit(_Unit):
    """Matrices of one shape under Muon: (count, rows, columns), shared out over ranks by whole matrices."""

    def __init__(
        self,
        optimizer: Optimizer,
        group: str,
        key: str,
        params: list[nn.Parameter],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(optimizer, group, key)
        self.params, self.length, self.dtype = params, len(params), dtype
        self.share = -(-self.length // self.world.size)
        start = min(self.world.rank * self.share, self.length)
        self.mine = params[start : start + self.share]
        rows, columns = params[0].shape
        device = params[0].device
        line = (self.share, rows, 1) if rows >= columns else (self.share, 1, columns)
        self.state = {
            "momentum": torch.zeros(self.share, rows, columns, device=device),
            "second": torch.zeros(line, device=device),
        }

    def reduce(self) -> None:
        grads = [_gradient(p) for p in self.params]
        if self.world.size == 1:
            self.part: Sequence[torch.Tensor] = grads
            return
        blank = torch.zeros_like(grads[0])
        whole = torch.stack(grads + [blank] * (self.share * self.world.size - self.length))
        part = whole.new_empty(self.share, *whole.shape[1:])
        self._wait = self.world.scatter_sum_later(part, whole)
        self.part = part

    def update(self, scale: float) -> None:
        self.wait()
        self.square = self.params[0].new_zeros(())
        number, h = self.optimizer.number, self.hyper
        rows, columns = self.params[0].shape
        for index, param in enumerate(self.mine):
            grad = self.part[index].float()
            if scale != 1.0:
                grad = grad * scale
            self.square += grad.square().sum()
            self.optimizer._muon(
                param.detach(),
                grad,
                self.state["momentum"][index],
                self.state["second"][index],
                lr=number(h.lr * math.sqrt(max(1.0, rows / columns)), param),
                momentum=number(h.betas[0], param),
                beta2=h.betas[1],
                weight_decay=number(h.weight_decay, param),
                dtype=self.dtype,
            )
        if self.world.size == 1:
            return
        own = torch.stack(
            [p.detach() for p in self.mine]
            + [torch.zeros_like(self.params[0])] * (self.share - len(self.mine))
        )
        self.whole = own.new_empty(self.share * self.world.size, rows, columns)
        self._wait = self.world.gather_later(self.whole, own)

    def finish(self) -> None:
        if self.world.size > 1:
            self.wait()
            for param, values in zip(self.params, self.whole, strict=False):
                param.detach().copy_(values)
            del self.whole
        del self.part


def _gradient(param: nn.Parameter) -> torch.Tensor:
    """A parameter that took no part in this step has a gradient of zero, like on every other rank."""
    return torch.zeros_like(param) if param.grad is None else param.grad


def _maybe(
    compiler: Callable[[Any], Any] | None, function: Callable[..., None]
) -> Callable[..., None]:
    return function if compiler is None else compiler(function)


# --- the updates ----------------------------------------------------------------------------------


def _fused_adamw(
    param: torch.Tensor, grad: torch.Tensor, first: torch.Tensor, second: torch.Tensor,
    *, step: Any, lr: Any, beta1: float, beta2: float, weight_decay: float, epsilon: float = ADAM_EPSILON,
) -> None:  # fmt: skip
    """One pass over memory, by torch's kernel, which counts the step up itself."""
    before = torch.tensor(float(step) - 1, device=param.device)
    adamw(
        [param], [grad], [first], [second], [], [before], fused=True, amsgrad=False, maximize=False,
        beta1=beta1, beta2=beta2, lr=float(lr), weight_decay=weight_decay, eps=epsilon,
    )  # fmt: skip


def plain_adamw(
    param: torch.Tensor, grad: torch.Tensor, first: torch.Tensor, second: torch.Tensor,
    *, step: Any, lr: Any, beta1: float, beta2: float, weight_decay: float, epsilon: float = ADAM_EPSILON,
) -> None:  # fmt: skip
    """AdamW in place (Loshchilov and Hutter, 2019), worked out in single precision whatever the types are."""
    g = grad.float()
    m = first.float() * beta1 + g * (1 - beta1)
    v = second.float() * beta2 + g * g * (1 - beta2)
    first.copy_(m)
    second.copy_(v)
    denominator = (v / (1 - beta2**step)).sqrt() + epsilon
    p = param.float() * (1 - lr * weight_decay)
    param.copy_(p - lr / (1 - beta1**step) * m / denominator)


def muon_update(
    param: torch.Tensor, grad: torch.Tensor, buffer: torch.Tensor, second: torch.Tensor,
    *, lr: Any, momentum: Any, beta2: float, weight_decay: Any, dtype: torch.dtype,
) -> None:  # fmt: skip
    """One Muon step in place: (rows, columns) each; `second` is (rows, 1) or (1, columns), the longer side.

    Nesterov momentum, orthogonalisation (Jordan et al., 2024), a second moment per row or column (Li et al.,
    "NorMuon", 2025), and weight decay only where it does not work against the step (Liang et al., 2024).
    """
    buffer.mul_(momentum).add_(grad * (1 - momentum))
    direction = orthogonal(grad * (1 - momentum) + buffer * momentum, dtype)
    across = 1 if param.shape[0] >= param.shape[1] else 0
    size = direction.norm()
    second.mul_(beta2).add_(direction.square().mean(dim=across, keepdim=True) * (1 - beta2))
    direction = direction * second.clamp(min=1e-10).rsqrt()
    direction = direction * (size / direction.norm().clamp(min=1e-10))
    shrink = param * (direction * param >= 0)
    param.sub_(lr * (direction + weight_decay * shrink))


def orthogonal(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest matrix whose singular values are all 1, nearly: (rows, columns) float32 of norm sqrt(min)."""
    rows = matrix.norm(dim=1, keepdim=True)
    x = matrix * (rows.square().mean().sqrt() / rows.clamp(min=1e-6))
    x = (x / (1.01 * x.norm() + 1e-6)).to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.t()
    for a, b, c in POLAR_EXPRESS:
        square = x @ x.t()
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    x = (x.t() if tall else x).float()
    return x * (math.sqrt(min(x.shape)) / x.norm().clamp(min=1e-10))

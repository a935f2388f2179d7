"""The transformer: parameters, forward pass, and the passes with a cache that generation needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nanochat.attention import Attention, sdpa, sdpa_cached
from nanochat.config import GATE_INPUTS, SMEAR_INPUTS, ModelConfig
from nanochat.loss import HeadProducts, cross_entropy, softcapped, token_losses

SOFTCAP = 15.0
QK_SCALE = 1.2
"""Factor on normalised queries and on keys: sharper attention than unit vectors allow."""

ROTARY_BASE = 100_000.0

MOST_BACKOUT = 0.8
"""The largest share of the middle layer that is taken out again before the head. At 1 nothing of it would be left,
and beyond it comes back with the other sign: with two layers, where the middle is the last, of everything."""


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMS norm over the last dimension, without parameters."""
    return F.rms_norm(x, (x.shape[-1],))


class Linear(nn.Linear):
    """Without bias; weights are kept in single precision and cast to the type of the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

        self.product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
        """What multiplies in training, where it is not the usual product."""

    def reset_parameters(self) -> None:
        """Nothing: `GPT.init_weights` fills all, and on the meta device torch's own way imports its compiler."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.product is not None and self.training:
            return self.product(x, self.weight)
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Embedding):
    """A table of vectors."""

    def reset_parameters(self) -> None:
        """Nothing, as in `Linear`."""


class Cache:
    """Keys and values of the tokens so far, for `rows` sequences of equal length."""

    def __init__(
        self, config: ModelConfig, rows: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.depth, rows, length, config.kv_heads, config.head_dim)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0
        self.last_embedding: torch.Tensor | None = None
        """(rows, 1, width): what the next token is smeared with."""

    def repeat(self, rows: int) -> Cache:
        """The cache of one sequence, for `rows` sequences that begin with it."""
        new = object.__new__(Cache)
        new.keys = self.keys.repeat(1, rows, 1, 1, 1)
        new.values = self.values.repeat(1, rows, 1, 1, 1)
        new.length = self.length
        new.last_embedding = (
            None if self.last_embedding is None else self.last_embedding.repeat(rows, 1, 1)
        )
        return new

    def extend(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append to a layer; all its keys and values up to here."""
        end = self.length + k.shape[1]
        self.keys[layer][:, self.length : end] = k
        self.values[layer][:, self.length : end] = v
        return self.keys[layer][:, :end], self.values[layer][:, :end]


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, self.window = config, layer, config.windows[layer]
        self.attend: Attention = sdpa
        self.query = Linear(config.width, config.width)
        self.key = Linear(config.width, config.kv_width)
        self.value = Linear(config.width, config.kv_width)
        self.output = Linear(config.width, config.width)
        self.value_gate = (
            Linear(min(GATE_INPUTS, config.width), config.kv_heads)
            if layer in config.value_layers
            else None
        )

    def forward(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        value_embedding: torch.Tensor | None,
        cache: Cache | None,
    ) -> torch.Tensor:
        batch, length, width = x.shape
        c = self.config
        q = self.query(x).view(batch, length, c.heads, c.head_dim)
        k = self.key(x).view(batch, length, c.kv_heads, c.head_dim)
        v = self.value(x).view(batch, length, c.kv_heads, c.head_dim)
        if self.value_gate is not None and value_embedding is not None:
            gate = 3 * torch.sigmoid(self.value_gate(x[..., :GATE_INPUTS]))
            v = v + gate.unsqueeze(-1) * value_embedding.view_as(v)
        q, k = norm(rotate(q, *rotary)) * QK_SCALE, norm(rotate(k, *rotary)) * QK_SCALE
        if cache is None:
            out = self.attend(q, k, v, self.window)
        else:
            k, v = cache.extend(self.layer, k, v)
            out = sdpa_cached(q, k, v, self.window)
        return self.output(out.reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = SelfAttention(config, layer)
        self.expand = Linear(config.width, 4 * config.width)
        self.contract = Linear(4 * config.width, config.width)

    def forward(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        value_embedding: torch.Tensor | None,
        cache: Cache | None,
    ) -> torch.Tensor:
        x = x + self.attention(norm(x), rotary, value_embedding, cache)
        return x + self.contract(F.relu(self.expand(norm(x))).square())


class GPT(nn.Module):
    """The model. Made with `torch.device("meta")` in force, it takes no memory until `init_weights`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = Embedding(config.padded_vocab, width)
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): Embedding(config.padded_vocab, config.kv_width)
                for layer in config.value_layers
            }
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.head = Linear(width, config.padded_vocab)
        self.residual_scale = nn.Parameter(torch.ones(config.depth))
        self.embedding_scale = nn.Parameter(torch.zeros(config.depth))
        self.smear_gate = Linear(min(SMEAR_INPUTS, width), 1)
        self.smear_scale = nn.Parameter(torch.zeros(1))
        self.backout_scale = nn.Parameter(torch.zeros(1))
        self.compute_dtype = torch.float32
        self.block_bytes, self.tile_bytes = 64 << 20, 2 << 20
        self.head_products = HeadProducts
        """What multiplies with the head in training."""
        self.run_block: Callable[..., torch.Tensor] = _run
        self.run_hidden: Callable[[GPT, torch.Tensor], torch.Tensor] = GPT.hidden
        """How `hidden` is done in training."""
        self._rotary: tuple[torch.Tensor, torch.Tensor] | None = None

    # --- making one -----------------------------------------------------------------------

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fill all parameters with fresh random numbers.

        Output projections start at zero, so that each block begins as the identity; the head starts nearly at zero, so
        that all tokens begin equally likely.
        """
        bound = math.sqrt(3 / self.config.width)

        def uniform(weight: torch.Tensor, limit: float) -> None:
            nn.init.uniform_(weight, -limit, limit, generator=generator)

        nn.init.normal_(self.embedding.weight, std=0.8, generator=generator)
        nn.init.normal_(self.head.weight, std=0.001, generator=generator)
        for table in self.value_embeddings.values():
            uniform(table.weight, bound)
        for block in self.blocks:
            attention = block.attention
            for linear in (attention.query, attention.key, attention.value):
                uniform(linear.weight, bound)
            uniform(block.expand.weight, 0.4 * bound)
            nn.init.zeros_(attention.output.weight)
            nn.init.zeros_(block.contract.weight)
            if attention.value_gate is not None:
                nn.init.uniform_(attention.value_gate.weight, 0, 0.02, generator=generator)
        nn.init.uniform_(self.smear_gate.weight, 0, 0.02, generator=generator)
        depth = self.config.depth
        self.residual_scale.copy_(torch.linspace(1.15, 1.05, depth))
        self.embedding_scale.copy_(torch.linspace(0.20, 0.05, depth))
        self.smear_scale.zero_()
        self.backout_scale.fill_(0.2)

    def use(
        self,
        *,
        dtype: torch.dtype,
        embedding_dtype: torch.dtype,
        attend: Attention = sdpa,
        block_bytes: int = 64 << 20,
        tile_bytes: int = 2 << 20,
    ) -> GPT:
        """Say how to compute: the types of activations and of stored embeddings, the attention kernel, and the sizes
        of what `nanochat.loss` works on."""
        self.compute_dtype = dtype
        self.block_bytes, self.tile_bytes = block_bytes, tile_bytes
        self._rotary = None
        self.embedding.to(embedding_dtype)
        self.value_embeddings.to(embedding_dtype)
        for block in self.blocks:
            block.attention.attend = attend
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by how they are optimised; the names are those of `nanochat.schedule.GROUPS`."""
        return {
            "head": [self.head.weight],
            "embedding": [self.embedding.weight],
            "value_embeddings": [table.weight for table in self.value_embeddings.values()],
            "residual_scale": [self.residual_scale],
            "embedding_scale": [self.embedding_scale],
            "smear_backout": [self.smear_gate.weight, self.smear_scale, self.backout_scale],
            "matrices": list(self.blocks.parameters()),
        }

    @torch.no_grad()
    def keep_bounds(self) -> None:
        """After an update: what must not grow beyond a bound is taken back to it."""
        self.backout_scale.clamp_(-MOST_BACKOUT, MOST_BACKOUT)

    # --- running one ----------------------------------------------------------------------

    def forward(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor | None = None,
        reduction: str = "mean",
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Logits of the next tokens, or the loss when there are targets.

        Args:
            tokens: (batch, time) int64.
            targets: (batch, time) int64; -1 does not count.
            reduction: "mean" for one number with a gradient, "none" for (batch, time) losses in nats without one.
            cache: tokens before these; extended by these.

        Returns:
            (batch, time, vocab_size) float32 logits, a 0-D loss, or (batch, time) losses.
        """
        training = self.training and cache is None
        hidden = self.run_hidden(self, tokens) if training else self.hidden(tokens, cache)
        if targets is None:
            return self.logits(hidden)
        how: dict[str, Any] = {
            "vocab_size": self.config.vocab_size,
            "softcap": SOFTCAP,
            "block_bytes": self.block_bytes,
        }
        flat, flat_targets = hidden.flatten(0, 1), targets.flatten()
        if reduction == "none":
            return token_losses(flat, self.head.weight, flat_targets, **how).view_as(targets)
        return cross_entropy(
            flat,
            self.head.weight,
            flat_targets,
            tile_bytes=self.tile_bytes,
            products=self.head_products if self.training else HeadProducts,
            **how,
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Softcapped scores of the next token after each of `hidden`: (…, width) -> (…, vocab_size) float32."""
        return softcapped(self.head(hidden)[..., : self.config.vocab_size], SOFTCAP)

    def hidden(self, tokens: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """What the head sees: (batch, time, width), normalised."""
        start = cache.length if cache else 0
        rotary = self.rotary(start, tokens.shape[1], tokens.device)
        x = norm(self.embedding(tokens).to(self.compute_dtype))
        x = first = self.smear(x, cache)
        middle = x
        for layer, block in enumerate(self.blocks):
            values = (
                self.value_embeddings[str(layer)](tokens).to(x.dtype)
                if layer in self.config.value_layers
                else None
            )
            # A slice and not a number: torch then multiplies in single precision, where a weight of 1.1 can change by
            # less than the 1/128 that bf16 knows.
            own = slice(layer, layer + 1)
            x = (self.residual_scale[own] * x + self.embedding_scale[own] * first).to(x.dtype)
            x = self.run_block(block, x, rotary, values, cache)
            if layer == self.config.depth // 2:
                middle = x
        if cache is not None:
            cache.length += tokens.shape[1]
        return norm((x - self.backout_scale * middle).to(x.dtype))

    def smear(self, x: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        """Add to each token a gated share of the one before it."""
        before = x[:, :-1]
        if cache is not None and cache.last_embedding is not None:
            before = torch.cat((cache.last_embedding, before), dim=1)
        if cache is not None:
            cache.last_embedding = x[:, -1:]
        gated = x[:, x.shape[1] - before.shape[1] :]
        gate = torch.sigmoid(self.smear_gate(gated[..., : self.smear_gate.in_features]))
        gated = (gated + self.smear_scale * gate * before).to(x.dtype)
        return gated if gated.shape[1] == x.shape[1] else torch.cat((x[:, :1], gated), dim=1)

    def rotary(
        self, start: int, length: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the angles of positions: (1, length, 1, head_dim / 2) each."""
        end = start + length
        if (
            self._rotary is None
            or self._rotary[0].shape[1] < end
            or self._rotary[0].device != device
        ):
            self._rotary = _angles(
                max(end, 2 * self.config.sequence_len),
                self.config.head_dim,
                device,
                self.compute_dtype,
            )
        cos, sin = self._rotary
        return cos[:, start:end], sin[:, start:end]


def _run(block: nn.Module, *inputs: Any) -> torch.Tensor:
    return block(*inputs)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + half) of each head by minus the angle of their position (Su et al., RoFormer)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1)


def _angles(
    length: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.outer(
        torch.arange(length, dtype=torch.float32, device=device), ROTARY_BASE**-steps
    )
    return angles.cos().to(dtype)[None, :, None], angles.sin().to(dtype)[None, :, None]

"""What a model needs before it is made: parameters, arithmetic, memory, time. Numbers only, without torch.

Memory is reckoned moment by moment from tables of what each part of the trainer holds, which stand at the end of this
file: model and attention, loss, optimizer. Whoever changes one of these changes its table; tests compare the sum with
torch's allocator. It is the memory of eager code; compiled code keeps less.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nanochat.config import GATE_INPUTS, SMEAR_INPUTS, ModelConfig
from nanochat.errors import WrongUsage

GIB = 1 << 30

BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a number."""

SINGLE = 4
"""Bytes of a number in single precision, in which master weights, Muon's state and sums are kept."""

INDEX = 8
"""Bytes of a token's number."""

SMALL = 1024
"""As in `nanochat.optim`: parameters of fewer numbers are updated by every rank."""

MARGIN = 1.1
"""A step "fits" if this many times its predicted peak does: the prediction is good to 10 %."""

MOST_ROWS, MOST_DEPTH = 4096, 128
"""Where the searches for what fits end."""

LEAST_LENGTH = 128
"""The shortest sequence worth advising."""

ADAMW_COPIES = 6
"""Intermediate results of AdamW's update where torch has no fused kernel for it."""

MUON_COPIES = 4
"""The same for Muon's update, of a (4·width, width) matrix; the products of smaller ones stay below."""


# --- parameters and arithmetic --------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """How many numbers each group of parameters has."""

    head: int
    embedding: int
    value_embeddings: int
    matrices: int
    scalars: int

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(dataclasses.astuple(self))

    @property
    def scaling(self) -> int:
        """The parameters that training horizons are measured by: the matrices of linear layers."""
        return self.matrices + self.head


def shapes(config: ModelConfig) -> dict[str, Counter[tuple[int, ...]]]:
    """Group -> shape -> how many parameters have it; the groups are those of `nanochat.schedule.GROUPS`."""
    c, valued = config, len(config.value_layers)
    table = (c.padded_vocab, c.width)
    matrices: Counter[tuple[int, ...]] = Counter()
    for shape, count in (
        ((c.width, c.width), 2 * c.depth),  # query, output
        ((c.kv_width, c.width), 2 * c.depth),  # key, value
        ((4 * c.width, c.width), c.depth),
        ((c.width, 4 * c.width), c.depth),
        ((c.kv_heads, min(GATE_INPUTS, c.width)), valued),
    ):
        matrices[shape] += count
    return {
        "head": Counter({table: 1}),
        "embedding": Counter({table: 1}),
        "value_embeddings": Counter({(c.padded_vocab, c.kv_width): valued}),
        "residual_scale": Counter({(c.depth,): 1}),
        "embedding_scale": Counter({(c.depth,): 1}),
        "smear_backout": Counter({(1, min(SMEAR_INPUTS, c.width)): 1, (1,): 2}),
        "matrices": matrices,
    }


def parameters(config: ModelConfig) -> Parameters:
    """The parameters of a model by group; all that is neither table nor matrix counts as scalars."""
    numbers = {
        group: sum(math.prod(shape) * count for shape, count in kinds.items())
        for group, kinds in shapes(config).items()
    }
    large = {
        name: numbers.pop(name) for name in ("head", "embedding", "value_embeddings", "matrices")
    }
    return Parameters(**large, scalars=sum(numbers.values()))


def flops_per_token(config: ModelConfig) -> int:
    """Forward and backward of one token: 6 for each weight of a linear layer, 12·width for each token attended to.

    As Chowdhery et al. count ("PaLM", 2022, appendix B), with the window in place of the length; softmax, norms and
    tables do not count.
    """
    seen = sum(min(window, config.sequence_len) for window in config.windows)
    return 6 * parameters(config).scaling + 12 * config.width * seen


def training_seconds(tokens: float, flops_of_token: float, flops_per_second: float) -> float:
    """How long `tokens` take at a rate that the whole machine reaches, all ranks together."""
    return tokens * flops_of_token / flops_per_second


def nearest_batch(total: int, rows: int, length: int, ranks: int) -> int:
    """The total batch nearest to a wish, in tokens, that `schedule.accumulation` accepts; at least one pass."""
    unit = rows * length * ranks
    return max(1, (total + unit // 2) // unit) * unit


# --- memory: what is asked and what is answered -----------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model, and how a step of its training is done."""

    config: ModelConfig
    rows: int = 1
    """Sequences per pass and rank: the device batch size."""
    world: int = 1
    """Ranks, which share the optimizer's state."""
    dtype: str = "bfloat16"
    """Of activations and products."""
    embedding_dtype: str = "float32"
    """Of stored embeddings."""
    block_bytes: int = 64 << 20
    """The size of a block of logits, counted in single precision."""
    tile_bytes: int = 2 << 20
    """The size of the parts of a block that are worked on at once."""
    passes: int = 1
    """Gradients are summed over this many passes: from the second on, they lie beside the activations."""
    recompute: bool = False
    """Whether layers keep their inputs only, and the backward pass works them out again."""
    fused_norm: bool = False
    """Whether RMS norm is one kernel, which keeps its input as it is; else a copy in single precision is kept."""
    window_kernel: bool = False
    """Whether the attention kernel knows windows; else they are cut out of queries, keys and values."""
    fused_adamw: bool = True
    """Whether AdamW is one kernel."""
    muon: bool = True
    """Whether matrices are updated by Muon; else by AdamW as all the rest."""

    def __post_init__(self) -> None:
        for name in ("rows", "world", "block_bytes", "tile_bytes", "passes"):
            if getattr(self, name) < 1:
                raise WrongUsage(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name in (self.dtype, self.embedding_dtype):
            if name not in BYTES:
                raise WrongUsage(
                    f"'{name}' is no type to train in; choose one of {', '.join(BYTES)}"
                )

    @property
    def tokens(self) -> int:
        """In one pass of one rank."""
        return self.rows * self.config.sequence_len

    @property
    def number(self) -> int:
        """Bytes of a number in activations."""
        return BYTES[self.dtype]

    @property
    def norm_number(self) -> int:
        """Bytes of a number that a norm keeps of its input."""
        return self.number if self.fused_norm else SINGLE

    def stored_number(self, group: str) -> int:
        """Bytes of a stored number in a group of parameters, and of its gradient and AdamW's moments."""
        narrow = group in ("embedding", "value_embeddings")
        return BYTES[self.embedding_dtype] if narrow else SINGLE


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one rank holds at one moment, in bytes."""

    weights: int
    optimizer: int
    gradients: int
    activations: int = 0
    """What the backward pass will read."""
    casts: int = 0
    """Weights in the type of activations."""
    logits: int = 0
    """A block of logits and what is made of it, and the gradients of hidden states and head."""
    workspace: int = 0
    """What is allocated and freed within the moment."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Memory:
    """A training step on one rank, moment by moment."""

    moments: Mapping[str, Held]

    @property
    def worst(self) -> str:
        """The name of the moment that holds most."""
        return max(self.moments, key=lambda name: self.moments[name].total)

    @property
    def held(self) -> Held:
        """What is held then."""
        return self.moments[self.worst]

    @property
    def peak(self) -> int:
        """How much that is, in bytes."""
        return self.held.total


def memory(setting: Setting) -> Memory:
    """The memory of a training step on one rank, without what device and libraries take for themselves."""
    return Memory(dict(_moments(setting)))


# --- what fits --------------------------------------------------------------------------------------


def fits(setting: Setting, memory_bytes: int) -> bool:
    """Whether a step can be expected to fit into this much memory of each rank."""
    return MARGIN * memory(setting).peak <= memory_bytes


def largest_batch(setting: Setting, memory_bytes: int) -> int:
    """The largest device batch size that fits, whatever `setting.rows` is; 0 if not even one row does."""
    return _largest(
        lambda rows: fits(dataclasses.replace(setting, rows=rows), memory_bytes), MOST_ROWS
    )


def fitting_depth(setting: Setting, memory_bytes: int) -> int:
    """The largest depth that fits with all else the same and the width in proportion; 0 if none does."""
    return _largest(lambda depth: fits(_at_depth(setting, depth), memory_bytes), MOST_DEPTH)


def fitting_length(setting: Setting, memory_bytes: int) -> int:
    """The longest sequence that fits, of those that halving `setting`'s own gives; 0 if none does."""
    length = setting.config.sequence_len
    while length >= LEAST_LENGTH:
        config = dataclasses.replace(setting.config, sequence_len=length)
        if fits(dataclasses.replace(setting, config=config), memory_bytes):
            return length
        length //= 2
    return 0


def explain_fit(setting: Setting, memory_bytes: int) -> str:
    """Half a sentence for people: what a step needs, what there is, and which flags would make it fit."""
    need = (
        f"a step of depth {setting.config.depth} with {setting.rows} x {setting.config.sequence_len} tokens per rank "
        f"needs about {MARGIN * memory(setting).peak / GIB:.2f} GiB of {memory_bytes / GIB:.2f} GiB"
    )
    if fits(setting, memory_bytes):
        return f"{need}, which should fit; see whether other programs hold memory of this device"
    rows = largest_batch(setting, memory_bytes)
    recomputed = dataclasses.replace(setting, recompute=True)
    length, depth = fitting_length(setting, memory_bytes), fitting_depth(setting, memory_bytes)
    ways = [
        # A power of two, as automatic total batches are, so that it divides them.
        f"--device-batch-size {1 << (rows.bit_length() - 1)}" if rows else "",
        "--recompute" if not setting.recompute and fits(recomputed, memory_bytes) else "",
        f"--max-seq-len {length}" if length else "",
        f"--depth {depth}" if depth else "",
    ]
    if any(ways):
        return f"{need}; it fits with {' or '.join(way for way in ways if way)}"
    return f"{need}, and no smaller model fits; use a device with more memory"


def _largest(good: Callable[[int], bool], most: int) -> int:
    """The number up to `most` that is good while the next is not; 0 if 1 is not good.

    One row more can cut the logits into smaller blocks and need less, so that a larger one may be good again.
    """
    return bisect.bisect_left(range(1, most + 1), True, key=lambda number: not good(number))


def _at_depth(setting: Setting, depth: int) -> Setting:
    c = setting.config
    at_ratio = functools.partial(
        ModelConfig.from_depth,
        vocab_size=c.vocab_size,
        sequence_len=c.sequence_len,
        head_dim=c.head_dim,
        window_pattern=c.window_pattern,
    )
    # Width was rounded up, so that the ratio is not known for certain; the usual one if it may be that.
    usual = at_ratio(c.depth).width == c.width
    config = at_ratio(depth) if usual else at_ratio(depth, aspect_ratio=max(1, c.width // c.depth))
    return dataclasses.replace(setting, config=config)


# --- the moments of a step --------------------------------------------------------------------------


def _moments(setting: Setting) -> Iterator[tuple[str, Held]]:
    """Those at which a step can be at its largest, in order."""
    c, stream = setting.config, setting.tokens * setting.config.width * setting.number
    weights, matrices = _weights(setting), SINGLE * parameters(c).matrices // c.depth
    lasting = functools.partial(Held, weights=weights, optimizer=_optimizer_state(setting))
    summing = setting.passes > 1
    summed = weights if summing else 0

    ends = _kept_at_ends(setting)
    inside = [_kept_inside(setting, layer) for layer in range(c.depth)]
    beside = [_kept_beside(setting, layer) for layer in range(c.depth)]
    casts = 0 if setting.number == SINGLE else setting.number * parameters(c).matrices // c.depth

    def kept(layers: int) -> tuple[int, int]:
        """Activations and casts of the first `layers` layers, the last of which is being worked on."""
        if setting.recompute:
            return ends + sum(beside[:layers]) + inside[layers - 1], casts
        return ends + sum(beside[:layers]) + sum(inside[:layers]), casts * layers

    activations, cast = kept(c.depth)
    # The last layer's expansion, before ReLU, after it and squared; the first of them is not kept.
    yield (
        "forward",
        lasting(gradients=summed, activations=activations, casts=cast, workspace=4 * stream),
    )

    if setting.recompute:
        activations, cast = ends + sum(beside), 0
    logits, workspace = _loss(setting)
    yield (
        "loss",
        lasting(
            gradients=summed,
            activations=activations,
            casts=cast,
            logits=logits,
            workspace=workspace,
        ),
    )

    gradients = SINGLE * c.padded_vocab * c.width
    for layer in reversed(range(c.depth)):
        activations, cast = kept(layer + 1)
        contraction = SINGLE * 4 * c.width**2
        # The square in reverse: it is gone, and four of its size are there. Beside them runs what comes from above,
        # what has come together for the first layer's input, and for the middle's output.
        streams = 16 - 4 + 1 + (layer < c.depth - 1) + (layer >= c.depth // 2)
        yield (
            f"backward of layer {layer}",
            lasting(
                gradients=summed or gradients + contraction,
                activations=activations - _last_norm(setting),
                casts=cast,
                workspace=streams * stream + contraction * summing,
            ),
        )
        gradients += matrices
        if layer in c.value_layers:
            gradients += c.padded_vocab * c.kv_width * setting.stored_number("value_embeddings")

    table = c.padded_vocab * c.width * setting.stored_number("embedding")
    yield (
        "backward of embedding",
        lasting(gradients=weights, activations=ends, workspace=table * summing),
    )
    yield "optimizer", lasting(gradients=weights, workspace=_update(setting))


# --- the tables: what each part of the trainer holds ------------------------------------------------


def _kept_inside(setting: Setting, layer: int) -> int:
    """What the backward pass of a block reads, in bytes: `Block` and `SelfAttention` of `nanochat.model`."""
    c, e, f = setting.config, setting.number, setting.norm_number
    per_token = {
        "attention norm, input and output": (f + e) * c.width,
        "queries and keys before their norm": f * (c.width + c.kv_width),
        "queries, keys and values": e * (c.width + 2 * c.kv_width),
        "gates of value embeddings": e * 2 * c.kv_heads * (layer in c.value_layers),
        "windows": e * _cut(setting, layer),
        "output of attention": e * c.width,
        "expansion norm, input and output": (f + e) * c.width,
        "ReLU and its square": e * 8 * c.width,
        "inverse norms and sums of attention": SINGLE * (2 + 2 * c.heads + c.kv_heads),
    }
    return setting.tokens * sum(per_token.values())


def _cut(setting: Setting, layer: int) -> int:
    """Numbers per token of the copies that attention in blocks of a window makes: `nanochat.attention`."""
    c = setting.config
    window, length = c.windows[layer], c.sequence_len
    if setting.window_kernel or window >= length or length % window:
        return 0
    # Queries once, keys and values twice, but for the first block; and the blocks' outputs joined.
    blocks = length // window
    return (c.width + 4 * c.kv_width) * (blocks - 1) // blocks + c.width


def _kept_beside(setting: Setting, layer: int) -> int:
    """What the backward pass reads between two blocks, in bytes: the loop of `GPT.hidden`."""
    c, e = setting.config, setting.number
    # The last output is only kept where it is the middle one, too.
    read_again = layer < c.depth - 1 or layer == c.depth // 2
    per_token = {
        "value embeddings": e * c.kv_width * (layer in c.value_layers),
        "output": e * c.width * read_again,
        "input, to start from again": e * c.width * setting.recompute,
    }
    return setting.tokens * sum(per_token.values())


def _kept_at_ends(setting: Setting) -> int:
    """What is kept before the first block and after the last, in bytes: the rest of `GPT.hidden`."""
    c, e, f = setting.config, setting.number, setting.norm_number
    per_token = {
        "embedding": f * c.width,
        "embedding, normalised": e * c.width,
        "embedding, smeared": e * c.width,
        "smear gate": e * (min(SMEAR_INPUTS, c.width) + 2),
        "tokens, targets, which of them count": 3 * INDEX,
        "inverse norms": SINGLE * 2,
    }
    angles = 2 * c.sequence_len * c.head_dim * e
    return setting.tokens * sum(per_token.values()) + _last_norm(setting) + angles


def _last_norm(setting: Setting) -> int:
    """The input of the norm before the head, in bytes."""
    return setting.tokens * setting.config.width * setting.norm_number


def _loss(setting: Setting) -> tuple[int, int]:
    """`nanochat.loss`: logits with the two gradients that they are turned into, and the rest, in bytes."""
    c, e = setting.config, setting.number
    narrow = e < SINGLE
    gradients = SINGLE * c.width * (setting.tokens + c.padded_vocab)
    block_rows = _rows(setting.tokens, c.vocab_size, setting.block_bytes)
    tile_rows = _rows(block_rows, c.vocab_size, setting.tile_bytes)
    scores = block_rows * c.vocab_size * e
    per_logit = {"softmax and gradient": 2 * SINGLE, "sigmoid": SINGLE * narrow}
    hidden, head = e * setting.tokens * c.width, e * c.vocab_size * c.width * narrow
    block = max(
        scores + tile_rows * c.vocab_size * sum(per_logit.values()),
        # Its share of the head's gradient, and the same in the type of the sum; if that is one type, neither is made.
        scores + head + narrow * SINGLE * c.vocab_size * c.width,
    )
    return gradients + block, hidden + head


def _rows(tokens: int, vocab_size: int, most_bytes: int) -> int:
    """Rows of each of the nearly equal blocks that `nanochat.loss` cuts logits in single precision into."""
    most = max(1, most_bytes // (SINGLE * vocab_size))
    return -(-tokens // -(-tokens // most))


def _weights(setting: Setting) -> int:
    """Bytes of all weights, or of all gradients: each has the type of its weight."""
    return sum(
        numbers * count * setting.stored_number(group)
        for group, numbers, count, _ in _parameters(setting.config)
    )


def _optimizer_state(setting: Setting) -> int:
    """One rank's share in bytes: two moments of a number, or under Muon one and a line of second moments."""
    total = 0
    for group, numbers, count, longest in _parameters(setting.config):
        share = _share(setting, group, numbers, count)
        if setting.muon and group == "matrices":
            total += SINGLE * (share + share // numbers * longest)
        else:
            # Small parameters of whatever type are updated in single precision.
            total += 2 * share * (SINGLE if numbers < SMALL else setting.stored_number(group))
    return total


def _update(setting: Setting) -> int:
    """What the updates of `nanochat.optim` take beside gradients and state, in bytes."""
    c, several = setting.config, setting.world > 1
    table = -(-c.padded_vocab * c.width // setting.world)
    # With several ranks each gradient is divided by their number, into a copy.
    one_at_a_time = [
        SINGLE * (MUON_COPIES * setting.muon + several) * 4 * c.width**2,
        SINGLE * ((0 if setting.fused_adamw else ADAMW_COPIES) + several) * table,
    ]
    if setting.stored_number("embedding") < SINGLE:
        # The norm of its gradient: converted, then squared.
        one_at_a_time.append(2 * SINGLE * table)
    travelling = 0
    if several:
        for group, numbers, count, _ in _parameters(c):
            # What a rank sends (gradients, then weights) waits until all ranks' updates have come in.
            share = setting.stored_number(group) * _share(setting, group, numbers, count)
            travelling += (setting.world + 2) * share
    return max(one_at_a_time) + travelling


def _share(setting: Setting, group: str, numbers: int, count: int) -> int:
    """How many numbers of `count` parameters of one shape belong to a rank, with padding."""
    if setting.muon and group == "matrices":
        return -(-count // setting.world) * numbers
    return count * (numbers if numbers < SMALL else -(-numbers // setting.world))


def _parameters(config: ModelConfig) -> Iterator[tuple[str, int, int, int]]:
    """For each shape: its group, the numbers in it, how many parameters have it, its longest side."""
    for group, kinds in shapes(config).items():
        for shape, count in kinds.items():
            yield group, math.prod(shape), count, max(shape)

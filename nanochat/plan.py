"""What the flags of pretraining come to on this machine: model, batch, horizon."""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass

import torch

from nanochat import schedule, sizing
from nanochat.config import ModelConfig
from nanochat.device import Device, dtype_name
from nanochat.distributed import World
from nanochat.errors import NanochatError, WrongUsage

MOST_ROWS = 32
"""Device batch size where memory does not ask for less."""

REFERENCE_DEPTH = 12
"""The depth at which learning rates, batch and weight decay were tuned."""

USUAL_RATIO = 12.0
"""Tokens per parameter of blocks and head."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the flags come to on this machine."""

    config: ModelConfig
    rows: int
    total_batch: int
    accumulation: int
    steps: int
    flops_per_token: float
    weight_decay: float
    shape: schedule.Shape
    tag: str

    @property
    def tokens(self) -> int:
        """Tokens that will be trained on."""
        return self.steps * self.total_batch


def make_plan(
    args: argparse.Namespace, vocab_size: int, device: Device, dtype: torch.dtype, world: World
) -> Plan:
    """Work out model, batch and horizon.

    Raises:
        WrongUsage: numbers do not fit together.
        NanochatError: the machine has too little memory.
    """
    shape_of = functools.partial(
        ModelConfig.from_depth,
        vocab_size=vocab_size,
        sequence_len=args.max_seq_len,
        aspect_ratio=args.aspect_ratio,
        head_dim=args.head_dim,
        window_pattern=args.window_pattern,
    )
    config, reference = shape_of(args.depth), shape_of(REFERENCE_DEPTH)
    scaling = sizing.parameters(config).scaling
    rows = fitting_rows(args, config, device, dtype, world)
    ratio = args.target_param_data_ratio
    tokens = (ratio if ratio > 0 else USUAL_RATIO) * scaling
    reference_tokens = tokens / scaling * sizing.parameters(reference).scaling
    total = args.total_batch_size
    if total == -1:
        wished = schedule.batch_tokens(tokens, reference_tokens)
        total = sizing.nearest_batch(wished, rows, config.sequence_len, world.size)
    accumulation = schedule.accumulation(total, rows, config.sequence_len, world.size)
    flops = sizing.flops_per_token(config)
    steps = schedule.steps_for(
        iterations=args.num_iterations,
        target_flops=args.target_flops,
        ratio=ratio,
        flops_per_token=flops,
        scaling_parameters=scaling,
        batch=total,
    )
    return Plan(
        config=config,
        rows=rows,
        total_batch=total,
        accumulation=accumulation,
        steps=steps,
        flops_per_token=flops,
        weight_decay=schedule.muon_weight_decay(args.weight_decay, total, tokens, reference_tokens),
        shape=schedule.Shape(
            steps=steps,
            warmup_steps=schedule.warmup_steps(steps)
            if args.warmup_steps == -1
            else args.warmup_steps,
            warmdown_ratio=args.warmdown_ratio,
            final_fraction=args.final_lr_frac,
        ),
        tag=args.model_tag or f"d{args.depth}",
    )


def fitting_rows(
    args: argparse.Namespace, config: ModelConfig, device: Device, dtype: torch.dtype, world: World
) -> int:
    """The device batch size: the one asked for, else as many rows as fit.

    Raises:
        WrongUsage: it is below 1.
        NanochatError: the rows asked for do not fit, or not even one does.
    """
    asked = args.device_batch_size
    if asked != -1 and asked < 1:
        raise WrongUsage(f"--device-batch-size is {asked}, but must be at least 1")
    # All ranks must come to one answer, so the one with least memory decides.
    known = [free for free in world.gather_objects(device.free_memory()) if free is not None]
    if not known:
        return MOST_ROWS if asked == -1 else int(asked)
    free = min(known)
    setting = memory_setting(args, config, device, dtype, world, max(1, asked))
    if asked != -1:
        if sizing.memory(setting).peak > free:
            raise NanochatError(sizing.explain_fit(setting, free))
        return int(asked)
    rows = min(sizing.largest_batch(setting, free), MOST_ROWS)
    if rows == 0:
        raise NanochatError(sizing.explain_fit(setting, free))
    if args.total_batch_size == -1:
        return 1 << (rows.bit_length() - 1)  # a power of two, as the total batch will be
    unit = config.sequence_len * world.size
    dividing = (n for n in range(rows, 0, -1) if args.total_batch_size % (n * unit) == 0)
    return next(dividing, rows)


def memory_setting(
    args: argparse.Namespace,
    config: ModelConfig,
    device: Device,
    dtype: torch.dtype,
    world: World,
    rows: int = 1,
) -> sizing.Setting:
    """What `nanochat.sizing` has to know to tell the memory of a step."""
    return sizing.Setting(
        config=config,
        rows=rows,
        world=world.size,
        dtype=dtype_name(dtype),
        embedding_dtype=dtype_name(device.embedding_dtype(dtype)),
        block_bytes=device.family.block_bytes,
        tile_bytes=device.family.tile_bytes,
        passes=2,  # gradients of a pass before lie beside its activations, unless it is the only one
        recompute=args.recompute,
        fused_norm=device.fused_norm,
        fused_adamw=device.fused_adamw,
        muon=args.optimizer == "muon",
    )

"""What a run of pretraining works with: data, plan, model, optimizer and loader, new or as a checkpoint left them."""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint

from nanochat import attention, checkpoint, compiling, fp8, sizing
from nanochat.checkpoint import Checkpoint, stage_folder, together
from nanochat.compiling import Compiling
from nanochat.dataloader import ALL, CUT, TokenLoader, survey
from nanochat.dataset import resolve
from nanochat.device import AUTO, Device, dtype_name
from nanochat.distributed import World
from nanochat.engine import Engine
from nanochat.errors import NanochatError, WrongUsage
from nanochat.metrics import Progress, Sinks, open_sinks
from nanochat.model import GPT
from nanochat.plan import make_plan
from nanochat.tokenizer import Tokenizer
from nanochat.training import Trainer, make_optimizer
from nanochat.visible import visible
from nanochat.watch import Heartbeat

STAGE = "base"
LATEST = "latest"


class Run:
    """Everything that one run of pretraining works with; `nanochat.pretraining` is what it does with it."""

    def __init__(
        self, args: argparse.Namespace, device: Device, world: World, watch: Heartbeat
    ) -> None:
        self.args, self.device, self.world, self.watch = args, device, world, watch
        self.began = time.monotonic()
        self.dtype = device.dtype(args.dtype)
        self.tokenizer = Tokenizer.load()
        # Shards may arrive while ranks look, and all must read the same ones: those that the first rank saw.
        self.dataset = together(world, lambda: resolve(args.data, say=self.say))[0]
        self.plan = make_plan(args, self.tokenizer.vocab_size, device, self.dtype, world)
        self.folder = stage_folder(STAGE) / self.plan.tag
        checkpoint.claim(self.folder, world)
        self.resumed = self._find_resumed()
        self._describe()
        self.model = self._make_model()
        self.trainer = self._make_trainer()
        self.progress = Progress()
        if self.resumed is not None:
            self._restore(self.resumed)
        self.engine = Engine(self.model, self.tokenizer)
        self.sinks = self._open_sinks()
        self.val_bpb: float | None = None
        self.last_save = time.monotonic()

    @property
    def first(self) -> int:
        """The step to begin with."""
        return self.resumed.step if self.resumed else 0

    def close(self) -> None:
        """End threads and files, on all ranks."""
        self.sinks.close()
        self.loader.close()
        self.trainer.close()
        self.world.barrier()

    def say(self, line: str) -> None:
        """For people; from the first rank alone."""
        if self.world.first:
            print(visible(line), flush=True)  # noqa: T201

    # --- setting up -----------------------------------------------------------------------

    def _find_resumed(self) -> Checkpoint | None:
        wish = self.args.resume_from_step
        if wish == "-1":
            self._require_empty()
            return None
        try:
            step = None if wish == LATEST else int(wish)
        except ValueError:
            raise WrongUsage(
                f"--resume-from-step takes a step or '{LATEST}', not '{wish}'"
            ) from None
        found = checkpoint.find(STAGE, self.plan.tag, step, world=self.world)
        checkpoint.check_tokenizer(found, self.tokenizer)
        if later := [s for s in checkpoint.complete_steps(self.folder) if s > found.step]:
            raise NanochatError(
                f"{self.folder} holds a later step {later[-1]}, which would mix with what follows step {found.step}; "
                f"move it away, or go on with --resume-from-step {LATEST}"
            )
        if found.step > self.plan.steps:
            raise NanochatError(
                f"{found} lies beyond the {self.plan.steps} steps of this run; give more with --num-iterations"
            )
        return found

    def _require_empty(self) -> None:
        """A new run must not mix its checkpoints with those of another, and never replaces them."""
        if steps := checkpoint.complete_steps(self.folder):
            raise NanochatError(
                f"{self.folder} already holds a run up to step {steps[-1]}; go on with --resume-from-step {LATEST}, "
                "or give the new run another --model-tag"
            )

    def _describe(self) -> None:
        plan, config = self.plan, self.plan.config
        for note in self.device.notes:
            self.say(f"note: {note}")
        counts = sizing.parameters(config)
        ranks = f", {self.world.size} ranks" if self.world.size > 1 else ""
        self.say(
            f"device    {self.device.kind} ({self.device.name}), {dtype_name(self.dtype)}{ranks}"
        )
        self.say(
            f"data      {self.dataset.name}, {len(self.dataset.train)} shards, "
            f"validation {self.dataset.validation.name}"
        )
        self.say(
            f"model     depth {config.depth}, width {config.width}, {config.heads} heads, "
            f"{config.sequence_len} tokens, vocabulary {config.vocab_size}: {counts.total / 1e6:.1f} M parameters, "
            f"{plan.flops_per_token / 1e6:.0f} MFLOP a token"
        )
        self.say(
            f"batch     {plan.total_batch} tokens = {self.world.size} x {plan.rows} rows x {config.sequence_len} x "
            f"{plan.accumulation} passes; {plan.steps} steps, {plan.tokens / 1e6:,.1f} M tokens"
        )

    def _make_model(self) -> GPT:
        config = self.plan.config
        kernel, attend = attention.choose(self.device, self.dtype, config.head_dim)
        with torch.device("meta"):
            model = GPT(config)
        model.use(
            dtype=self.dtype,
            embedding_dtype=self.device.embedding_dtype(self.dtype),
            attend=attend,
            block_bytes=self.device.family.block_bytes,
            tile_bytes=self.device.family.tile_bytes,
        )
        model.to_empty(device=self.device.torch_device)
        if self.resumed is None:
            self.device.seed(self.args.seed)
            model.init_weights()
        else:
            checkpoint.load_into(model, self.resumed.model_state(), str(self.resumed))
        for parameter in model.parameters():
            self.world.broadcast(parameter.detach())
        if self.args.fp8:
            self.say(
                f"fp8       {fp8.enable(model, self.device)} layers, the head among them if it fits"
            )
        self.compiling = self._choose_compiling()
        self.compiling.apply(model)
        if self.args.recompute:
            model.run_block = functools.partial(_recomputed, model.run_block)
        self.say(f"attention {kernel}{', compiled' if self.compiling.compiler else ''}")
        return model

    def _choose_compiling(self) -> Compiling:
        """As asked, or as the run did that goes on (compiled code rounds differently), or what the first rank finds."""
        wish = self.args.compile
        before = self.resumed.meta["loop"].get("compiled") if self.resumed else None
        if wish == AUTO and before is not None and self.device.may_compile:
            wish = compiling.ON if before else compiling.OFF

        def choose(wish: str) -> Compiling:
            flops = self.plan.flops_per_token * self.plan.tokens / self.world.size
            return compiling.choose(
                wish,
                self.device,
                seconds=lambda: compiling.estimate_seconds(self.device, self.dtype, flops),
                depth=self.plan.config.depth,
                recompute=self.args.recompute,
            )

        if wish == AUTO:
            wish, why = together(self.world, lambda: choose(wish).outcome)[0]
            if why:
                self.say(f"compile   {wish}: {why} (--compile says otherwise)")
        return choose(wish)

    def _make_trainer(self) -> Trainer:
        args, plan = self.args, self.plan
        optimizer = make_optimizer(
            self.model,
            self.device,
            self.world,
            rates={
                "head": args.unembedding_lr,
                "embedding": args.embedding_lr,
                "value_embeddings": args.embedding_lr / 2,
                "embedding_scale": args.scalar_lr,
                "residual_scale": args.scalar_lr / 100,
                "matrices": args.matrix_lr,
            },
            batch=plan.total_batch,
            weight_decay=plan.weight_decay,
            compiler=self.compiling.compiler,
            muon=args.optimizer == "muon",
        )
        state = None
        if self.resumed is not None:
            optimizer.load_state_dict(self.resumed.optimizer_state(self.world))
            state = loader_state(self.resumed)
        self.loader = TokenLoader(
            self.dataset.train,
            self.tokenizer,
            packing=self._packing(state),
            rows=plan.rows,
            length=plan.config.sequence_len,
            rank=self.world.rank,
            world=self.world.size,
            state=state,
        )
        return Trainer(
            model=self.model,
            optimizer=optimizer,
            device=self.device,
            world=self.world,
            batches=self.loader,
            accumulation=plan.accumulation,
            shape=plan.shape,
        )

    def _packing(self, state: dict[str, Any] | None) -> str:
        """The one that was asked for, or that of the run which goes on, or what the supply of text suggests."""
        if self.args.packing != AUTO:
            return str(self.args.packing)
        if state is not None:
            return str(state.get("packing", CUT))
        length = self.plan.config.sequence_len
        supply = together(self.world, lambda: survey(self.dataset.train, self.tokenizer, length))[0]
        packing = supply.packing(self.plan.tokens)
        self.say(
            f"packing   {packing}: about {supply.tokens / 1e6:,.1f} M tokens of text, of which rows that begin with a "
            f"document's beginning use {supply.cut_share:.0%} ({CUT}), others all ({ALL}); "
            f"{self.plan.tokens / 1e6:,.1f} M are trained on"
        )
        return packing

    def _restore(self, resumed: Checkpoint) -> None:
        loop = resumed.meta["loop"]
        self.progress = Progress.from_dict(loop["progress"])
        self.trainer.loss_scale.restore(loop["loss_scale"])
        if loop["steps"] != self.plan.steps:
            self.say(
                f"note: the run was planned for {loop['steps']} steps and goes on to {self.plan.steps}, "
                "so that the learning rate jumps to where it would be then"
            )
        if resumed.meta["validation_shard"] != self.dataset.validation.name:
            self.say(
                f"note: validation was on {resumed.meta['validation_shard']} and is now on "
                f"{self.dataset.validation.name}, so that bits per byte do not compare"
            )
        self.watch.last_good = str(resumed)
        self.say(f"resumed   {resumed}")

    def _open_sinks(self) -> Sinks:
        if not self.world.first:
            return Sinks()
        return open_sinks(
            self.folder / "metrics.jsonl",
            run=self.args.run,
            tensorboard=None if self.args.tensorboard is None else Path(self.args.tensorboard),
            config=vars(self.args),
            resume_at=None if self.resumed is None else self.resumed.step,
        )


def loader_state(saved: Checkpoint) -> dict[str, Any] | None:
    """Where a checkpoint stood in the data; None if it had used none."""
    state = {
        key: value.numpy() if isinstance(value, torch.Tensor) else value
        for key, value in saved.loop_state().items()
    }
    return state or None


def _recomputed(run_block: Any, *inputs: Any) -> torch.Tensor:
    return torch.utils.checkpoint.checkpoint(run_block, *inputs, use_reentrant=False)

"""A run of pretraining, from its plan to its last checkpoint."""

from __future__ import annotations

import argparse
import functools
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint

from nanochat import attention, checkpoint, core, fp8, sizing
from nanochat.bundle import default_folder, read_bundle
from nanochat.checkpoint import Checkpoint, stage_folder, together
from nanochat.dataloader import ALL, CUT, TokenLoader, survey
from nanochat.dataset import resolve
from nanochat.device import AUTO, Device, dtype_name, warn_once
from nanochat.distributed import World
from nanochat.engine import Engine
from nanochat.errors import NanochatError, WrongUsage
from nanochat.evaluation import PROMPTS, evaluating, text_bpb
from nanochat.metrics import Progress, Sinks, StepLine, open_sinks, utilisation
from nanochat.model import GPT
from nanochat.plan import make_plan, memory_setting
from nanochat.tokenizer import Tokenizer
from nanochat.training import Step, Trainer, make_optimizer
from nanochat.visible import visible
from nanochat.watch import Heartbeat, check_finite, check_weights, explain_collectives

STAGE = "base"
LATEST = "latest"
MOST_EVAL_TOKENS = 80 * 524288

SAVE_SECONDS = 1800
"""Time between checkpoints when --save-every does not say."""


class Run:
    """One run from its flags to its last checkpoint."""

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
        self.compile = self.device.compiler(self.args.compile)
        if self.compile is not None:
            model.run_block = self.compile(model.run_block)
        if self.args.recompute:
            model.run_block = functools.partial(_recomputed, model.run_block)
        self.say(f"attention {kernel}{', compiled' if self.compile else ''}")
        return model

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
            compiler=self.compile,
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
            f"document's beginning use {supply.shares[CUT]:.0%} ({CUT}), others all ({ALL}); "
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

    # --- running --------------------------------------------------------------------------

    def go(self) -> None:
        """Train to the end; evaluate, sample and save on the way."""
        first = self.resumed.step if self.resumed else 0
        steps = self.plan.steps
        for step in range(first, steps + 1):
            last = step == steps
            with self.watch.pause():
                self._pause_for(step, last, fresh=step == first and self.resumed is not None)
            if last:
                break
            with explain_collectives(self.world.rank, step, self.watch.last_good):
                if self._train(step):
                    with self.watch.pause():
                        self._save(step + 1)
                    raise NanochatError(
                        f"asked to stop (SIGTERM), so the run ended after step {step}, which is saved; go on with "
                        f"--resume-from-step {LATEST}"
                    )
        self.sinks.close()
        self.loader.close()
        self.trainer.close()
        self.world.barrier()
        minutes = (time.monotonic() - self.began) / 60
        self.say(
            f"done      {steps} steps in {minutes:.1f} min, peak memory {gib(self.device.memory().peak)}, {self.folder}"
        )

    def _train(self, step: int) -> bool:
        """One step with everything that is said about it; whether the run must stop."""
        began = time.perf_counter()
        try:
            result = self.trainer.step(step)
        except torch.OutOfMemoryError as error:
            free = self.device.memory().total or 0
            setting = memory_setting(
                self.args, self.plan.config, self.device, self.dtype, self.world, self.plan.rows
            )
            raise NanochatError(
                f"{self.device.name} ran out of memory with {self.plan.rows} rows: {sizing.explain_fit(setting, free)}"
            ) from error
        seconds = time.perf_counter() - began
        self._check(step, result)
        self.watch.step(step)
        plan = self.plan
        self.progress.add(result.loss, seconds, plan.flops_per_token * plan.total_batch)
        line = StepLine(
            step=step,
            total=plan.steps,
            loss=self.progress.loss,
            lrm=result.lr_factor,
            seconds=seconds,
            tokens=plan.total_batch,
            mfu=utilisation(
                plan.flops_per_token,
                plan.total_batch,
                seconds,
                self.device.peak_flops,
                self.world.size,
            ),
            memory=self.device.memory().peak,
            epoch=result.epoch,
            position=result.position,
            elapsed=self.progress.seconds,
            eta=self.progress.eta(plan.steps - step - 1),
        )
        self.say(str(line))
        self.sinks.write(step, {**line.values(), "train/raw_loss": result.loss})
        return result.stop

    def _check(self, step: int, result: Step) -> None:
        norms = result.norms
        if math.isfinite(result.loss) and all(map(math.isfinite, norms.values())):
            return
        # The sums are broken on all ranks; what each had before tells whose fault it is.
        mine = result.local_loss, self.trainer.optimizer.local_norms()
        reports = [*self.world.gather_objects(mine), (result.loss, norms)]
        for rank, (loss, groups) in enumerate(reports):
            check_finite(
                loss,
                groups,
                step=step,
                rank=rank,
                dtype=dtype_name(self.dtype),
                last_good=self.watch.last_good,
            )

    def _check_weights(self, step: int) -> None:
        """Before weights are judged or saved: the last update has not been seen by any loss yet."""
        if step == 0:
            return
        check_weights(
            self.trainer.optimizer.squares(),
            step=step,
            dtype=dtype_name(self.dtype),
            last_good=self.watch.last_good,
        )

    # --- between steps --------------------------------------------------------------------

    def _pause_for(self, step: int, last: bool, fresh: bool) -> None:
        """Evaluate, sample and save, where it is time. At the step that was resumed all this was done before."""
        args = self.args
        due = functools.partial(is_due, step, last)
        if due(args.eval_every):
            self.val_bpb = (
                self.resumed.meta["val_bpb"] if self.resumed and fresh else self._evaluate(step)
            )
            self._record_bpb(step)
        if fresh:
            return
        if due(args.core_metric_every) and step > 0:
            self._core(step)
        if due(args.sample_every) and step > 0:
            self._sample()
        if last or self._save_is_due(step):
            self._save(step)

    def _evaluate(self, step: int) -> float:
        self._check_weights(step)
        plan = self.plan
        tokens = self.args.eval_tokens
        if tokens == -1:
            between = self.args.eval_every if self.args.eval_every > 0 else plan.steps
            tokens = min(MOST_EVAL_TOKENS, between * plan.total_batch // 8)
        return text_bpb(
            self.model, self.tokenizer, [self.dataset.validation], device=self.device, world=self.world,
            rows=plan.rows, length=plan.config.sequence_len, tokens=tokens,
        )  # fmt: skip

    def _record_bpb(self, step: int) -> None:
        if self.val_bpb is None:
            return
        self.say(f"step {step} | validation bits per byte {self.val_bpb:.6f}")
        self.sinks.write(
            step,
            {
                "val/bpb": self.val_bpb,
                "total_training_flops": self.progress.flops,
                "total_training_time": self.progress.seconds,
            },
        )

    def _core(self, step: int) -> None:
        if not default_folder().is_dir():
            warn_once(f"no CORE metric: there is no evaluation bundle in {default_folder()}")
            return
        subject = core.Subject(
            model=self.model,
            tokenizer=self.tokenizer,
            device=self.device.torch_device,
            world=self.world,
            sequence_len=self.plan.config.sequence_len,
            batch_size=self.plan.rows,
        )
        with evaluating(self.model):
            scores = core.evaluate(
                subject, read_bundle(default_folder()), self.args.core_metric_max_per_task
            )
        self.say(f"step {step} | {scores.name} {scores.value:.4f}")
        self.sinks.write(step, {"core_metric": scores.value})

    def _sample(self) -> None:
        if not self.world.first:
            return
        with evaluating(self.model):
            for prompt in PROMPTS:
                ids = [self.tokenizer.bos, *self.tokenizer.encode(prompt)]
                rows = self.engine.complete(ids, max_tokens=16, temperature=0)
                self.say(f"  {prompt}{self.tokenizer.decode(rows[0])!r}")

    def _save_is_due(self, step: int) -> bool:
        every = self.args.save_every
        if every > 0:
            return step > 0 and step % every == 0
        if every == 0 or step == 0:
            return False
        # By the clock of rank 0, so that all ranks save at the same step.
        late = torch.tensor([float(time.monotonic() - self.last_save > SAVE_SECONDS)])
        late = late.to(self.device.torch_device)
        self.world.broadcast(late)
        return bool(late.item())

    def _save(self, step: int) -> None:
        self._check_weights(step)
        used = self.trainer.used
        saved = checkpoint.save(
            self.folder,
            step,
            model=self.model.state_dict(),
            optimizer=self.trainer.optimizer.state_dict(),
            state={} if used is None else used.state(),
            meta={
                "val_bpb": self.val_bpb,
                "model_config": self.plan.config.to_dict(),
                "user_config": vars(self.args),
                "device_batch_size": self.plan.rows,
                "max_seq_len": self.plan.config.sequence_len,
                "total_batch_size": self.plan.total_batch,
                "validation_shard": self.dataset.validation.name,
                "tokenizer": checkpoint.describe_tokenizer(self.tokenizer),
                "loop": {
                    "steps": self.plan.steps,
                    "progress": self.progress.to_dict(),
                    "loss_scale": self.trainer.loss_scale.to_dict(),
                },
            },
            keep=self.args.keep,
            world=self.world,
        )
        self.last_save = time.monotonic()
        self.watch.last_good = str(saved)
        self.say(f"saved     {saved}")


def is_due(step: int, last: bool, every: int) -> bool:
    """Whether something that is done every so many steps, and at the end, is done now."""
    return every > 0 and (last or step % every == 0)


def loader_state(saved: Checkpoint) -> dict[str, Any] | None:
    """Where a checkpoint stood in the data; None if it had used none."""
    state = {
        key: value.numpy() if isinstance(value, torch.Tensor) else value
        for key, value in saved.loop_state().items()
    }
    return state or None


def gib(size: int | None) -> str:
    """A size in bytes, for people."""
    return "unknown" if size is None else f"{size / 2**30:.2f} GiB"


def _recomputed(run_block: Any, *inputs: Any) -> torch.Tensor:
    return torch.utils.checkpoint.checkpoint(run_block, *inputs, use_reentrant=False)

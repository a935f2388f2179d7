"""Pretraining: from text to a base model.

python -m scripts.base_train --depth 4 --max-seq-len 512 --device-batch-size 4 --total-batch-size 8192
torchrun --nproc_per_node 8 -m scripts.base_train --depth 24
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import device as devices  # first: it sets what torch reads when it is imported

import torch  # isort: skip
import torch.utils.checkpoint  # isort: skip

from nanochat import attention, checkpoint, core, fp8, schedule, sizing
from nanochat.bundle import default_folder, read_bundle
from nanochat.checkpoint import Checkpoint, stage_folder
from nanochat.config import ModelConfig
from nanochat.dataloader import TokenLoader
from nanochat.dataset import resolve
from nanochat.device import Device
from nanochat.distributed import World, join
from nanochat.engine import Engine
from nanochat.errors import NanochatError, WrongUsage
from nanochat.evaluation import PROMPTS, evaluating, text_bpb
from nanochat.flags import Parser, at_least, positive, run
from nanochat.metrics import NO_RUN, Progress, Sinks, StepLine, open_sinks, utilisation
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer
from nanochat.training import Step, Trainer, make_optimizer
from nanochat.watch import Heartbeat, check_finite, connect, explain_collectives

STAGE = "base"
LATEST = "latest"
MOST_ROWS = 32
"""Device batch size where memory does not ask for less."""

MOST_EVAL_TOKENS = 80 * 524288

SAVE_SECONDS = 1800
"""Time between checkpoints when --save-every does not say."""


def parser() -> Parser:
    """The flags, in groups."""
    p = Parser("Train a base model on text.")
    p.add_argument("--run", default=NO_RUN, help="name at wandb; 'dummy' for none")
    p.add_argument("--tensorboard", metavar="DIR", help="write TensorBoard events, too")
    p.add_argument("--data", default=None, help="dataset: climbmix, fineweb-edu, stdlib, a name or a folder of shards; "
                   "default: what is there, else stdlib")  # fmt: skip

    g = p.add_argument_group("device")
    g.add_argument("--device-type", default=devices.AUTO, help=" | ".join(devices.KINDS))
    g.add_argument("--dtype", default=devices.AUTO, help="auto | " + " | ".join(devices.DTYPES))
    g.add_argument("--compile", default=devices.AUTO, help="auto | on | off")
    g.add_argument("--fp8", action="store_true", help="multiply in 8 bits where the device can")
    g.add_argument(
        "--recompute",
        action="store_true",
        help="forget activations and work them out again: less memory, a third slower",
    )

    g = p.add_argument_group("model")
    g.add_argument(
        "--depth", type=positive, default=20, help="layers; everything else follows from it"
    )
    g.add_argument("--aspect-ratio", type=positive, default=64, help="width per layer of depth")
    g.add_argument("--head-dim", type=positive, default=128)
    g.add_argument("--max-seq-len", type=positive, default=2048, help="tokens in a row")
    g.add_argument(
        "--window-pattern",
        default="SSSL",
        help="S: a quarter of the context, L: all of it; tiled over layers",
    )

    g = p.add_argument_group("how long; the first that is set counts")
    g.add_argument("--num-iterations", type=int, default=-1, help="steps")
    g.add_argument("--target-flops", type=float, default=-1.0)
    g.add_argument(
        "--target-param-data-ratio",
        type=float,
        default=12.0,
        help="tokens per parameter of blocks and head",
    )

    g = p.add_argument_group("batch")
    g.add_argument("--device-batch-size", type=int, default=-1,
                   help=f"rows on a device at once; -1: as many as fit, at most {MOST_ROWS}")  # fmt: skip
    g.add_argument(
        "--total-batch-size", type=int, default=-1, help="tokens in a step; -1: by a rule"
    )

    g = p.add_argument_group("optimizer")
    g.add_argument("--embedding-lr", type=float, default=schedule.GROUPS["embedding"].lr)
    g.add_argument("--unembedding-lr", type=float, default=schedule.GROUPS["head"].lr)
    g.add_argument("--matrix-lr", type=float, default=schedule.GROUPS["matrices"].lr)
    g.add_argument("--scalar-lr", type=float, default=schedule.GROUPS["embedding_scale"].lr)
    g.add_argument("--weight-decay", type=float, default=schedule.GROUPS["matrices"].weight_decay)
    g.add_argument("--warmup-steps", type=at_least(0), default=40)
    g.add_argument("--warmdown-ratio", type=float, default=0.65)
    g.add_argument("--final-lr-frac", type=float, default=0.05)
    g.add_argument(
        "--optimizer",
        default="muon",
        choices=("muon", "adamw"),
        help="adamw: for all parameters, to compare with",
    )
    g.add_argument("--seed", type=int, default=42)

    g = p.add_argument_group("evaluation; -1 or 0 leaves it out")
    g.add_argument(
        "--eval-every", type=int, default=250, help="steps between bits per byte of validation text"
    )
    g.add_argument(
        "--eval-tokens",
        type=int,
        default=-1,
        help="-1: an eighth of the tokens trained on between two evaluations, at most 80 x 524,288",
    )
    g.add_argument("--core-metric-every", type=int, default=2000)
    g.add_argument("--core-metric-max-per-task", type=int, default=500)
    g.add_argument("--sample-every", type=int, default=2000)

    g = p.add_argument_group("checkpoints")
    g.add_argument(
        "--save-every",
        type=int,
        default=-1,
        help="steps; -1: every half hour; 0: at the end only. Always at the end",
    )
    g.add_argument("--keep", type=positive, default=2, help="how many to keep")
    g.add_argument("--resume-from-step", default="-1", help=f"a step, or '{LATEST}'")
    g.add_argument("--model-tag", default=None, help="folder of the checkpoints; default d<depth>")
    return p


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
    config, reference = shape_of(args.depth), shape_of(12)
    scaling = sizing.parameters(config).scaling
    rows = fitting_rows(args, config, device, dtype, world)
    ratio = args.target_param_data_ratio
    tokens = (ratio if ratio > 0 else 12) * scaling
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
            warmup_steps=args.warmup_steps,
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
        NanochatError: not even one row fits.
    """
    if args.device_batch_size != -1:
        if args.device_batch_size < 1:
            raise WrongUsage(
                f"--device-batch-size is {args.device_batch_size}, but must be at least 1"
            )
        return int(args.device_batch_size)
    free = device.free_memory()
    if free is None:
        return MOST_ROWS
    if device.kind == "cpu":
        free //= world.size  # the ranks of one machine share it
    setting = memory_setting(args, config, device, dtype, world)
    rows = sizing.largest_batch(setting, free)
    if rows == 0:
        raise NanochatError(sizing.explain_fit(setting, free))
    rows = min(rows, MOST_ROWS)
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
        dtype=devices.dtype_name(dtype),
        embedding_dtype=devices.dtype_name(device.embedding_dtype(dtype)),
        block_bytes=device.family.chunk_bytes,
        recompute=args.recompute,
        fused_norm=device.fused_norm,
        window_kernel=bool(device.attention_packages()),
        fused_adamw=device.fused_adamw,
    )


class Run:
    """One run from its flags to its last checkpoint."""

    def __init__(
        self, args: argparse.Namespace, device: Device, world: World, watch: Heartbeat
    ) -> None:
        self.args, self.device, self.world, self.watch = args, device, world, watch
        self.began = time.monotonic()
        self.dtype = device.dtype(args.dtype)
        self.tokenizer = Tokenizer.load()
        self.dataset = resolve(args.data, say=self.say)
        self.plan = make_plan(args, self.tokenizer.vocab_size, device, self.dtype, world)
        self.folder = stage_folder(STAGE) / self.plan.tag
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
            print(line, flush=True)

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
                "move it "
                f"away, or go on with --resume-from-step {LATEST}"
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
            f"device    {self.device.kind} ({self.device.name}), {devices.dtype_name(self.dtype)}{ranks}"
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
            block_bytes=self.device.family.chunk_bytes,
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
            count = fp8.enable(
                [m for m in model.blocks.modules() if isinstance(m, torch.nn.Linear)], self.device
            )
            self.say(f"fp8       {count} layers")
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
            batch_factor=schedule.lr_factor(plan.total_batch),
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

    def _restore(self, resumed: Checkpoint) -> None:
        loop = resumed.meta["loop"]
        self.progress = Progress.from_dict(loop["progress"])
        self.trainer.loss_scale.restore(loop["loss_scale"])
        if loop["steps"] != self.plan.steps:
            self.say(
                f"note: the run was planned for {loop['steps']} steps and goes on to {self.plan.steps}, "
                "so that the learning rate jumps to where it would be then"
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
                dtype=devices.dtype_name(self.dtype),
                last_good=self.watch.last_good,
            )

    # --- between steps --------------------------------------------------------------------

    def _pause_for(self, step: int, last: bool, fresh: bool) -> None:
        """Evaluate, sample and save, where it is time. At the step that was resumed all this was done before."""
        args = self.args
        due = functools.partial(is_due, step, last)
        if due(args.eval_every):
            self.val_bpb = (
                self.resumed.meta["val_bpb"] if self.resumed and fresh else self._evaluate()
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

    def _evaluate(self) -> float:
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
            devices.warn_once(
                f"no CORE metric: there is no evaluation bundle in {default_folder()}"
            )
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
    return torch.utils.checkpoint.checkpoint(run_block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the flags say."""
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    device = devices.find(args.device_type)
    world = join(device)
    try:
        store = connect() if world.size > 1 else None
        with Heartbeat(rank=world.rank, world=world.size, store=store) as watch:
            with explain_collectives(world.rank, 0):
                training = Run(args, device, world, watch)
            training.go()
    finally:
        world.close()


if __name__ == "__main__":
    run(main)

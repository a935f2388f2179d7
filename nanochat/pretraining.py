"""The loop of pretraining. `nanochat.run` makes what it works with; a step is `Trainer.step` in `nanochat.training`."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nanochat import checkpoint, core, sizing
from nanochat.bundle import default_folder, read_bundle
from nanochat.compiling import explain_failure
from nanochat.device import dtype_name, warn_once
from nanochat.errors import NanochatError
from nanochat.evaluation import PROMPTS, evaluating, text_bpb
from nanochat.metrics import StepLine, utilisation
from nanochat.plan import memory_setting
from nanochat.run import LATEST, Run
from nanochat.training import Step
from nanochat.watch import check_finite, check_weights, explain_collectives

MOST_EVAL_TOKENS = 80 * 524288

SAVE_SECONDS = 1800
"""Time between checkpoints when --save-every does not say."""


def pretrain(run: Run) -> None:
    """Train to the end; evaluate, sample and save on the way.

    Raises:
        NanochatError: numbers broke, a rank is gone, memory ran out, or a stop was asked for.
    """
    for step in range(run.first, run.plan.steps):
        with run.watch.pause():
            _pause_for(run, step)
        with explain_collectives(run.world.rank, step, run.watch.last_good):
            began = time.perf_counter()
            with _explain_memory(run), explain_failure(run.compiling.compiler is not None):
                result = run.trainer.step(step)
            _check(run, step, result)
            _report(run, step, result, time.perf_counter() - began)
            if result.stop:
                with run.watch.pause():
                    _save(run, step + 1)
                raise NanochatError(
                    f"asked to stop (SIGTERM), so the run ended after step {step}, which is saved; go on with "
                    f"--resume-from-step {LATEST}"
                )
    with run.watch.pause():
        _pause_for(run, run.plan.steps)
    run.close()
    minutes = (time.monotonic() - run.began) / 60
    run.say(
        f"done      {run.plan.steps} steps in {minutes:.1f} min, peak memory {gib(run.device.memory().peak)}, "
        f"{run.folder}"
    )


def _report(run: Run, step: int, result: Step, seconds: float) -> None:
    plan = run.plan
    run.watch.step(step)
    run.progress.add(result.loss, seconds, plan.flops_per_token * plan.total_batch)
    line = StepLine(
        step=step,
        total=plan.steps,
        loss=run.progress.loss,
        lrm=result.lr_factor,
        seconds=seconds,
        tokens=plan.total_batch,
        mfu=utilisation(
            plan.flops_per_token,
            plan.total_batch,
            seconds,
            run.device.peak_flops,
            run.world.size,
        ),
        memory=run.device.memory().peak,
        epoch=result.epoch,
        position=result.position,
        elapsed=run.progress.seconds,
        eta=run.progress.eta(plan.steps - step - 1),
    )
    run.say(str(line))
    run.sinks.write(step, {**line.values(), "train/raw_loss": result.loss})


# --- what ends a run --------------------------------------------------------------------------


@contextmanager
def _explain_memory(run: Run) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        free = run.device.memory().total or 0
        setting = memory_setting(
            run.args, run.plan.config, run.device, run.dtype, run.world, run.plan.rows
        )
        raise NanochatError(
            f"{run.device.name} ran out of memory with {run.plan.rows} rows: {sizing.explain_fit(setting, free)}"
        ) from error


def _check(run: Run, step: int, result: Step) -> None:
    norms = result.norms
    if math.isfinite(result.loss) and all(map(math.isfinite, norms.values())):
        return
    # The sums are broken on all ranks; what each had before tells whose fault it is.
    mine = result.local_loss, run.trainer.optimizer.local_norms()
    reports = [*run.world.gather_objects(mine), (result.loss, norms)]
    for rank, (loss, groups) in enumerate(reports):
        check_finite(
            loss,
            groups,
            step=step,
            rank=rank,
            dtype=dtype_name(run.dtype),
            last_good=run.watch.last_good,
        )


def _check_weights(run: Run, step: int) -> None:
    """Before weights are judged or saved: the last update has not been seen by any loss yet."""
    if step == 0:
        return
    check_weights(
        run.trainer.optimizer.squares(),
        step=step,
        dtype=dtype_name(run.dtype),
        last_good=run.watch.last_good,
    )


# --- between steps ----------------------------------------------------------------------------


def _pause_for(run: Run, step: int) -> None:
    """Evaluate, sample and save, where it is time. At the step that was resumed all this was done before."""
    args = run.args
    last = step == run.plan.steps
    fresh = run.resumed is not None and step == run.first
    due = functools.partial(is_due, step, last)
    if due(args.eval_every):
        run.val_bpb = run.resumed.meta["val_bpb"] if run.resumed and fresh else _evaluate(run, step)
        _record_bpb(run, step)
    if fresh:
        return
    if due(args.core_metric_every) and step > 0:
        _core(run, step)
    if due(args.sample_every) and step > 0:
        _sample(run)
    if last or _save_is_due(run, step):
        _save(run, step)


def _evaluate(run: Run, step: int) -> float:
    _check_weights(run, step)
    plan = run.plan
    tokens = run.args.eval_tokens
    if tokens == -1:
        between = run.args.eval_every if run.args.eval_every > 0 else plan.steps
        tokens = min(MOST_EVAL_TOKENS, between * plan.total_batch // 8)
    return text_bpb(
        run.model, run.tokenizer, [run.dataset.validation], device=run.device, world=run.world,
        rows=plan.rows, length=plan.config.sequence_len, tokens=tokens,
    )  # fmt: skip


def _record_bpb(run: Run, step: int) -> None:
    if run.val_bpb is None:
        return
    run.say(f"step {step} | validation bits per byte {run.val_bpb:.6f}")
    run.sinks.write(
        step,
        {
            "val/bpb": run.val_bpb,
            "total_training_flops": run.progress.flops,
            "total_training_time": run.progress.seconds,
        },
    )


def _core(run: Run, step: int) -> None:
    if not default_folder().is_dir():
        warn_once(f"no CORE metric: there is no evaluation bundle in {default_folder()}")
        return
    subject = core.Subject(
        model=run.model,
        tokenizer=run.tokenizer,
        device=run.device.torch_device,
        world=run.world,
        sequence_len=run.plan.config.sequence_len,
        batch_size=run.plan.rows,
    )
    with evaluating(run.model):
        scores = core.evaluate(
            subject, read_bundle(default_folder()), run.args.core_metric_max_per_task
        )
    run.say(f"step {step} | {scores.name} {scores.value:.4f}")
    run.sinks.write(step, {"core_metric": scores.value})


def _sample(run: Run) -> None:
    if not run.world.first:
        return
    with evaluating(run.model):
        for prompt in PROMPTS:
            ids = [run.tokenizer.bos, *run.tokenizer.encode(prompt)]
            rows = run.engine.complete(ids, max_tokens=16, temperature=0)
            run.say(f"  {prompt}{run.tokenizer.decode(rows[0])!r}")


def _save_is_due(run: Run, step: int) -> bool:
    every = run.args.save_every
    if every > 0:
        return step > 0 and step % every == 0
    if every == 0 or step == 0:
        return False
    # By the clock of rank 0, so that all ranks save at the same step.
    late = torch.tensor([float(time.monotonic() - run.last_save > SAVE_SECONDS)])
    late = late.to(run.device.torch_device)
    run.world.broadcast(late)
    return bool(late.item())


def _save(run: Run, step: int) -> None:
    _check_weights(run, step)
    used = run.trainer.used
    saved = checkpoint.save(
        run.folder,
        step,
        model=run.model.state_dict(),
        optimizer=run.trainer.optimizer.state_dict(),
        state={} if used is None else used.state(),
        meta={
            "val_bpb": run.val_bpb,
            "model_config": run.plan.config.to_dict(),
            "user_config": vars(run.args),
            "device_batch_size": run.plan.rows,
            "max_seq_len": run.plan.config.sequence_len,
            "total_batch_size": run.plan.total_batch,
            "validation_shard": run.dataset.validation.name,
            "tokenizer": checkpoint.describe_tokenizer(run.tokenizer),
            "loop": {
                "steps": run.plan.steps,
                "progress": run.progress.to_dict(),
                "loss_scale": run.trainer.loss_scale.to_dict(),
                "compiled": run.compiling.compiler is not None,
            },
        },
        keep=run.args.keep,
        world=run.world,
    )
    run.last_save = time.monotonic()
    run.watch.last_good = str(saved)
    run.say(f"saved     {saved}")


def is_due(step: int, last: bool, every: int) -> bool:
    """Whether something that is done every so many steps, and at the end, is done now."""
    return every > 0 and (last or step % every == 0)


def gib(size: int | None) -> str:
    """A size in bytes, for people."""
    return "unknown" if size is None else f"{size / 2**30:.2f} GiB"

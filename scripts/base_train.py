"""Pretraining: from text to a base model.

python -m scripts.base_train --depth 4 --max-seq-len 512 --device-batch-size 4 --total-batch-size 8192
torchrun --nproc_per_node 8 -m scripts.base_train --depth 24
"""

from __future__ import annotations

from collections.abc import Sequence

from nanochat import device as devices  # first: it sets what torch reads when it is imported

from nanochat import compiling, schedule  # isort: skip
from nanochat.dataloader import ALL, CUT
from nanochat.distributed import join
from nanochat.flags import Parser, at_least, folder_name, positive, rate, run, share
from nanochat.metrics import NO_RUN
from nanochat.plan import MOST_ROWS, USUAL_RATIO
from nanochat.pretraining import pretrain
from nanochat.run import LATEST, Run
from nanochat.visible import show_warnings
from nanochat.watch import Heartbeat, connect, explain_collectives


def parser() -> Parser:
    """The flags, in groups."""
    p = Parser("Train a base model on text.")
    p.add_argument("--run", default=NO_RUN, help="name at wandb; 'dummy' for none")
    p.add_argument("--tensorboard", metavar="DIR", help="write TensorBoard events, too")
    p.add_argument("--data", default=None, help="dataset: climbmix, fineweb-edu, stdlib, a name or a folder of shards; "
                   "default: what is there, else stdlib")  # fmt: skip

    p.add_argument("--packing", choices=(devices.AUTO, CUT, ALL), default=devices.AUTO,
                   help="cut: of a document longer than a row only its beginning; all: its rest in rows of its own; "
                   "auto: all where the text would not last otherwise")  # fmt: skip

    g = p.add_argument_group("device")
    g.add_argument("--device-type", default=devices.AUTO, help=" | ".join(devices.KINDS))
    g.add_argument("--dtype", default=devices.AUTO, help="auto | " + " | ".join(devices.DTYPES))
    g.add_argument("--compile", default=devices.AUTO, choices=compiling.WISHES,
                   help="auto: where it pays; model, blocks: as one or layer by layer")  # fmt: skip
    g.add_argument("--fp8", action="store_true", help="multiply in 8 bits where the device can")
    g.add_argument(
        "--fp8-recipe", choices=("tensorwise",), default="tensorwise", help="one scale a tensor"
    )
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
        default=USUAL_RATIO,
        help="tokens per parameter of blocks and head",
    )

    g = p.add_argument_group("batch")
    g.add_argument("--device-batch-size", type=int, default=-1,
                   help=f"rows on a device at once; -1: as many as fit, at most {MOST_ROWS}")  # fmt: skip
    g.add_argument(
        "--total-batch-size", type=int, default=-1, help="tokens in a step; -1: by a rule"
    )

    g = p.add_argument_group("optimizer")
    g.add_argument("--embedding-lr", type=rate, default=schedule.GROUPS["embedding"].lr)
    g.add_argument("--unembedding-lr", type=rate, default=schedule.GROUPS["head"].lr)
    g.add_argument("--matrix-lr", type=rate, default=schedule.GROUPS["matrices"].lr)
    g.add_argument("--scalar-lr", type=rate, default=schedule.GROUPS["embedding_scale"].lr)
    g.add_argument("--weight-decay", type=rate, default=schedule.GROUPS["matrices"].weight_decay)
    g.add_argument(
        "--warmup-steps",
        type=at_least(-1),
        default=-1,
        help="-1: 40, but at most a tenth of the run",
    )
    g.add_argument("--warmdown-ratio", type=share, default=0.65)
    g.add_argument("--final-lr-frac", type=share, default=0.05)
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
    g.add_argument(
        "--model-tag",
        type=folder_name,
        default=None,
        help="folder of the checkpoints; default d<depth>",
    )
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the flags say."""
    args = parser().parse_args(argv)
    show_warnings()
    device = devices.find(args.device_type)
    world = join(device)
    try:
        store = connect() if world.size > 1 else None
        with Heartbeat(rank=world.rank, world=world.size, store=store) as watch:
            with explain_collectives(world.rank, 0):
                training = Run(args, device, world, watch)
            pretrain(training)
    finally:
        world.close()


if __name__ == "__main__":
    run(main)

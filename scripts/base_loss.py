"""Bits per byte of a base model on training and validation text, and samples: python -m scripts.base_loss"""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.dataset import resolve
from nanochat.flags import Parser, at_least, run
from scripts.base_eval import add_flags, examined, report_bpb, report_samples


def main(argv: Sequence[str] | None = None) -> None:
    """Examine as the flags say."""
    parser = Parser("Bits per byte of a base model on training and validation text, and samples.")
    parser.add_argument("--model-step", type=at_least(0), default=None, help="default: the last")
    add_flags(parser, split_tokens=20 * 524_288)
    args = parser.parse_args(argv)
    with examined(args, args.model_step) as candidate:
        dataset = resolve(args.data, say=candidate.say)
        report_bpb(candidate, dataset, args.device_batch_size, args.split_tokens)
        report_samples(candidate)


if __name__ == "__main__":
    run(main)

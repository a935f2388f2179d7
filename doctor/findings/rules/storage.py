"""Rules about the trainer's files: what is damaged, and what is not there yet."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, INFO, Finding

POINTER = "LFS pointer"


def damaged(c: Context) -> Iterator[Finding]:
    """Files that are there and cannot be used."""
    storage = c.facts.storage
    if storage is None:
        return
    for shards in storage.shards:
        for code, chosen in (
            ("hub.lfs-pointer", [d for d in shards.damaged if POINTER in d]),
            ("data.corrupt", [d for d in shards.damaged if POINTER not in d]),
        ):
            if chosen:
                yield c.finding(
                    code,
                    ERROR,
                    f"{len(chosen)} of {shards.count} shards in {shards.path} cannot be read: "
                    f"{joined(chosen[:3])}{' and more' if len(chosen) > 3 else ''}.",
                    [f"{shards.path}/{item}" for item in chosen[:8]],
                    "Remove those files and download them again.",
                )
    if storage.tokenizer_damage:
        code = "hub.lfs-pointer" if POINTER in storage.tokenizer_damage else "tokenizer.corrupt"
        yield c.finding(
            code,
            ERROR,
            f"The tokenizer {storage.tokenizer} cannot be used: {storage.tokenizer_damage}.",
            [f"{storage.tokenizer}: {storage.tokenizer_damage}"],
            "Remove it and train it again.",
        )
    if storage.checkpoint_damage:
        yield c.finding(
            "train.checkpoint-corrupt",
            ERROR,
            f"{joined(list(storage.checkpoint_damage[:3]))} was cut short: it has no directory at its "
            "end.",
            list(storage.checkpoint_damage),
            "Remove it; training resumes from the one before.",
        )


def not_yet(c: Context) -> Iterator[Finding]:
    """What a first run will make."""
    storage = c.facts.storage
    if storage is None or storage.base_dir is None:
        return
    for there, code, what, how in (
        (storage.shards, "data.shards-missing", "no data shard", "the first step of training"),
        (storage.tokenizer, "tokenizer.missing", "no trained tokenizer", "tokenizer training"),
        (storage.checkpoints, "train.checkpoint-missing", "no checkpoint", "training"),
    ):
        if not there:
            yield c.finding(
                code,
                INFO,
                f"There is {what} below {storage.base_dir} yet.",
                [f"{storage.base_dir}: none found"],
                f"Nothing to mend: {how} makes it.",
            )


RULES = (damaged, not_yet)

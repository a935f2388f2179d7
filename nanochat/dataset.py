"""Which data there is: published sets of shards, text of one's own, and a corpus that needs no network.

python -m nanochat.dataset -n 8                    the first 8 shards of ClimbMix, and the one for validation
python -m nanochat.dataset --source stdlib         a small corpus from this Python's own library
python -m nanochat.dataset --source ~/my-texts     shards from a folder of text
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nanochat import checksums, corpus, flags, stdlib_text
from nanochat.download import Patience, Remote, download
from nanochat.errors import NanochatError, WrongUsage
from nanochat.files import BASE_VARIABLE, base_dir
from nanochat.lock import locked
from nanochat.shards import (
    COMMAND,
    Dataset,
    damage,
    open_folder,
    parquet_files,
    read_manifest,
    shard_name,
)
from nanochat.visible import visible

HUB = "https://huggingface.co"
"""Where published sets lie, unless HF_ENDPOINT names a mirror."""
STDLIB = "stdlib"
AUTO = "auto"
CUSTOM_FOLDER = "base_data_custom"
STDLIB_FOLDER = "base_data_stdlib"
STDLIB_LONGEST = 2000
"""Characters of a document: about a row of 512 tokens, since small models are what this corpus is for."""
STDLIB_CHARS = 1_500_000
"""Characters of a shard: several, so that all that is done with shards is done with these too."""

Say = Callable[[str], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A set of shards on the hub; the last of them is for validation."""

    name: str
    repo: str
    shards: int
    folders: tuple[str, ...]
    """Below the base folder; the first is where new shards go."""
    shard_bytes: int = 100_000_000

    @property
    def validation(self) -> str:
        """Name of the shard for validation."""
        return shard_name(self.shards - 1)

    @property
    def folder(self) -> Path:
        """The first of its folders that holds shards, or else the first."""
        choices = [base_dir() / name for name in self.folders]
        return next((folder for folder in choices if parquet_files(folder)), choices[0])

    def url(self, shard: str) -> str:
        """Where a shard is fetched from."""
        return f"{endpoint()}/datasets/{self.repo}/resolve/main/{shard}"

    def command(self, shards: int) -> str:
        """What fetches the first so many shards."""
        return f"{COMMAND} --source {self.name} -n {max(1, shards)}"


PUBLISHED = {
    published.name: published
    for published in (
        Published("climbmix", "karpathy/climbmix-400b-shuffle", 6543, ("base_data_climbmix",)),
        Published(
            "fineweb-edu",
            "karpathy/fineweb-edu-100b-shuffle",
            1823,
            ("base_data", "base_data_fineweb_edu"),
        ),
    )
}


def endpoint() -> str:
    """`HF_ENDPOINT`, or the hub itself; without a slash at the end.

    Raises:
        WrongUsage: it is no address.
    """
    named = os.environ.get("HF_ENDPOINT") or HUB
    if urlsplit(named).scheme not in ("http", "https"):
        raise WrongUsage(f"HF_ENDPOINT is '{named}', but must begin with https://")
    return named.rstrip("/")


# --- for the trainer


def resolve(name: str | None = None, say: Say = _log.info) -> Dataset:
    """The dataset of a name: a published set, `stdlib`, a folder with shards, or own text made into shards.

    None or `auto` takes the first that is there: climbmix, fineweb-edu, own text if it is one only, stdlib.
    If none is, the corpus of the standard library is made and `say` tells so. Ranks may call this at once.

    Raises:
        NanochatError: there is no such dataset, or shards are missing or cut; tells the command that helps.
    """
    if name is None or name == AUTO:
        name = _first_there()
    if name == STDLIB:
        return _checked(_stdlib(say), f"delete {_stdlib_folder()}, it will be made again")
    if name in PUBLISHED:
        return _open_published(PUBLISHED[name])
    for folder in (Path(name).expanduser(), _custom_folder() / name):
        if folder.is_dir() and (parquet_files(folder) or read_manifest(folder)):
            cure = f"restore it, or make shards anew with {COMMAND} --source FOLDER"
            return _checked(open_folder(folder, cure=cure), cure)
    if Path(name).expanduser().exists():
        raise NanochatError(
            f"{name} holds no shards; make some of it with {COMMAND} --source {name}"
        )
    known = ", ".join([*PUBLISHED, STDLIB, *(path.name for path in _custom())])
    raise NanochatError(f"there is no dataset or folder '{name}'; known are {known}")


def _first_there() -> str:
    for name, published in PUBLISHED.items():
        if parquet_files(published.folder):
            return name
    own = _custom()
    if len(own) > 1:
        names = ", ".join(path.name for path in own)
        raise NanochatError(f"{_custom_folder()} holds several datasets; name one of {names}")
    return str(own[0]) if own else STDLIB


def _custom_folder() -> Path:
    return base_dir() / CUSTOM_FOLDER


def _custom() -> list[Path]:
    """What own text was made into, by name; hidden folders are not ready."""
    paths = sorted(_custom_folder().glob("*"))
    return [path for path in paths if path.name[0] != "." and parquet_files(path)]


def _open_published(published: Published) -> Dataset:
    folder = published.folder
    numbers = [
        int(match[1])
        for path in parquet_files(folder)
        if (match := re.fullmatch(r"shard_(\d{5})\.parquet", path.name))
    ]
    wanted = max((number for number in numbers if number < published.shards - 1), default=7) + 1
    cure = f"fetch with {published.command(wanted)}"
    dataset = open_folder(folder, name=published.name, validation=published.validation, cure=cure)
    return _checked(dataset, cure)


def _checked(dataset: Dataset, cure: str) -> Dataset:
    for path in (*dataset.train, dataset.validation):
        if problem := damage(path):
            raise NanochatError(f"{path} {problem}; {cure}")
    return dataset


# --- making and fetching


def fetch(
    published: Published,
    shards: int = -1,
    *,
    workers: int = 4,
    patience: Patience | None = None,
    say: Say = lambda line: None,
) -> Dataset:
    """Fetch the first so many shards for training (-1: all) and the one for validation, if they are missing.

    Raises:
        NanochatError: they cannot be had, or the disk is too small.
    """
    folder = published.folder
    most = published.shards - 1
    names = [shard_name(number) for number in range(most if shards < 0 else min(shards, most))]
    names.append(published.validation)
    absent = [name for name in names if damage(folder / name)]
    _require_room(folder, len(absent) * published.shard_bytes, len(absent))
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    remotes = [Remote(published.url(name), folder / name, headers) for name in names]
    new = download(
        remotes,
        check=damage,
        workers=workers,
        patience=patience,
        say=say,
        what=published.name,
    )
    noted = checksums.known(folder)
    checksums.record(folder / name for name in names if name in absent or name not in noted)
    cure = f"fetch more with {published.command(1)}"
    dataset = open_folder(folder, name=published.name, validation=published.validation, cure=cure)
    say(f"{folder}: {new} shards fetched, {len(dataset.train)} to train on and one for validation")
    return dataset


def _require_room(folder: Path, needed: int, files: int) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise NanochatError(
            f"{files} shards need about {needed / 1e9:.1f} GB, but {there} has {free / 1e9:.1f} GB free; "
            f"fetch fewer with -n, or choose another disk with {BASE_VARIABLE}"
        )


def make_custom(
    source: Path, name: str | None = None, *, longest: int = corpus.LONGEST, say: Say
) -> Dataset:
    """Make shards of a file or folder of text; what was made of the same text before is taken as it is.

    Raises:
        NanochatError: there is no text, or the name belongs to other text.
    """
    source = source.expanduser().absolute()
    if not source.exists():
        raise NanochatError(
            f"{source} does not exist; --source takes {', '.join([*PUBLISHED, STDLIB])} or a folder of text"
        )
    name = name or re.sub(r"[^\w.-]+", "-", source.name.partition(".")[0]).strip("-.") or "text"
    if Path(name).name != name or name.startswith(".") or name in (*PUBLISHED, STDLIB, AUTO):
        raise WrongUsage(f"'{name}' cannot be the name of own text; choose another --name")
    reading = corpus.Reading(source)
    origin = f"{source} {reading.mark()} {longest}"
    folder = _custom_folder() / name
    with _turn(folder, say):
        manifest = read_manifest(folder)
        if manifest and manifest.get("source") == origin:
            say(f"{folder} was made of this text already")
            return open_folder(folder, name=name)
        if folder.exists():
            raise NanochatError(
                f"{folder} was made of other text; choose another --name, or delete that folder"
            )
        dataset = corpus.build(reading, folder, name=name, source=origin, longest=longest, say=say)
    say(f"read {reading.summary()}")
    return dataset


def _stdlib_folder() -> Path:
    return base_dir() / STDLIB_FOLDER


def _stdlib(say: Say) -> Dataset:
    """The corpus of the standard library, made by the first who asks for it."""
    folder = _stdlib_folder()
    if not folder.exists():
        with _turn(folder, say):
            _make_stdlib(folder, say)
    return open_folder(folder, name=STDLIB, cure=f"delete {folder}, it will be made again")


def _make_stdlib(folder: Path, say: Say) -> None:
    if folder.exists():  # by now: another process was faster
        return
    say(f"making a small corpus from the standard library of this Python in {folder}")
    corpus.build(
        stdlib_text.documents(),
        folder,
        name=STDLIB,
        source=f"Python {platform.python_version()}",
        longest=STDLIB_LONGEST,
        chars=STDLIB_CHARS,
        say=say,
    )


def _turn(folder: Path, say: Say) -> AbstractContextManager[None]:
    """One process at a time makes a folder; a second one finds it made."""
    return locked(
        folder.with_name(f".{folder.name}.lock"),
        lambda: say(f"waiting for another process that makes {folder}"),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = flags.Parser("Fetch published shards, or make shards of text.")
    parser.add_argument(
        "-n", "--num-files", type=flags.at_least(-1), default=-1,
        help="shards to train on, the one for validation comes too; -1 = all",
    )  # fmt: skip
    parser.add_argument(
        "-w", "--num-workers", type=flags.positive, default=4, help="fetched at a time"
    )
    parser.add_argument(
        "--source", default="climbmix",
        help=f"{', '.join(PUBLISHED)}, {STDLIB}, or a folder or file of text",
    )  # fmt: skip
    parser.add_argument(
        "--name", help="of the dataset made from a folder; default: that of the folder"
    )
    parser.add_argument(
        "--max-doc-chars", type=flags.at_least(100), default=corpus.LONGEST,
        help="longer documents of a folder are cut; about four times --max-seq-len is good",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.source in PUBLISHED:
        fetch(PUBLISHED[args.source], args.num_files, workers=args.num_workers, say=_say)
    elif args.source == STDLIB:
        dataset = _stdlib(_say)
        _say(f"{dataset.folder}: {len(dataset.train)} shards to train on and one for validation")
    else:
        make_custom(Path(args.source), args.name, longest=args.max_doc_chars, say=_say)


def _say(line: str) -> None:
    print(visible(line), flush=True)


if __name__ == "__main__":
    flags.run(main)

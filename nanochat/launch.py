"""torchrun for any build of torch: its arguments, its ranks, and no libuv where this torch has none.

python -m nanochat.launch --nproc_per_node 2 -m scripts.base_train --depth 4
python -m nanochat.launch --first-port 29500 --nproc_per_node 2 -m scripts.base_train --depth 4

A torch that was built without libuv refuses every TCPStore that asks for it. USE_LIBUV=0 reaches some of them only:
torchrun's own store and the clients of its ranks ask all the same (seen in torch 2.15). So where libuv is missing, or
NANOCHAT_LIBUV=0 or USE_LIBUV=0 says so, each store is made without, by the agent here and by the ranks, which are
started through `--worker`. On one machine the agent's store listens on loopback alone.

`--first-port N` is ours: the ranks of this one machine meet at the first free port from N on.
"""

from __future__ import annotations

import argparse
import copy
import errno
import os
import runpy
import socket
import sys
from collections.abc import Iterator, Sequence

from nanochat import device as _device  # noqa: F401  (first: it sets what torch reads when it is imported)

import torch  # isort: skip
from torch import distributed as dist

from nanochat.errors import NanochatError, WrongUsage
from nanochat.flags import run
from nanochat.stores import avoid_libuv, stay_on_loopback, wants_libuv
from nanochat.visible import visible

WORKER = "--worker"
"""The first word of a rank's own command line, before its script or `-m` and its module."""
PORTS_TRIED = 100
"""The stages of a run have their first ports so far apart."""


def main(argv: Sequence[str] | None = None) -> None:
    """Start the ranks as torchrun would, or be one of them (`--worker`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [WORKER]:
        be_worker(words[1:])
    else:
        be_agent(words)


# --- the agent: the one process that starts and watches the ranks -----------------------------


def be_agent(words: Sequence[str]) -> None:
    """Run torchrun's agent until all ranks have ended.

    Raises:
        NanochatError: this torch cannot run several ranks, or no port is free.
        WrongUsage: flags that contradict each other.
        SystemExit: torchrun's flags are wrong, or a rank failed: then with the status of the first one that did.
    """
    if not dist.is_available():
        raise NanochatError(
            f"torch {torch.__version__} was built without torch.distributed, so it trains in one process only; "
            "start the script with plain python, or install another torch"
        )
    args = _parse(words)
    stay_on_loopback()
    if args.standalone and args.local_addr is None:
        # Otherwise the ranks are sent to this machine's name, which need not resolve.
        args.local_addr = "127.0.0.1"
    if not wants_libuv():
        avoid_libuv()
        _start_as_worker(args)
    if args.first_port is None:
        _run(args)
    else:
        _run_from_port(args)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """torchrun's own flags, and ours."""
    from torch.distributed import run as torchrun

    parser = torchrun.get_args_parser()
    parser.prog = "python -m nanochat.launch"
    # Before Python 3.12 an abbreviation is looked for among the script's own flags, too: `--run` would be ambiguous.
    parser.allow_abbrev = False
    parser.add_argument(
        "--first-port",
        "--first_port",
        type=int,
        help="Meet at the first free port from here on; for one machine, in place of --master-port.",
    )
    args = parser.parse_args(words)
    if args.master_port == 0 and not args.standalone:
        raise WrongUsage(
            "--master-port 0 would hang, since torchrun tells the ranks 0 and listens elsewhere; "
            "take --standalone, or --first-port 29500"
        )
    if args.first_port is not None:
        # The default is not None in every torch.
        _check_first_port(args, args.master_port != parser.get_default("master_port"))
    return args


def _check_first_port(args: argparse.Namespace, port_is_chosen: bool) -> None:
    if args.standalone or args.rdzv_endpoint or port_is_chosen:
        raise WrongUsage(
            "--first-port chooses where the ranks meet, and so do --standalone, --master-port and --rdzv-endpoint; "
            "give one of them"
        )
    if args.nnodes.rpartition(":")[2] != "1":
        raise WrongUsage(
            f"--first-port is for one machine, since {args.nnodes} machines must agree on a port; give them the "
            "same --master-port"
        )
    if not 1 <= args.first_port <= 65535:
        raise WrongUsage(
            f"--first-port {args.first_port} is no port; choose one from 1024 to 65535"
        )


def _start_as_worker(args: argparse.Namespace) -> None:
    """Let the ranks be this module, which then runs their script; a program that is not Python looks after itself."""
    if args.no_python:
        return
    module = ["-m"] if args.module else []
    args.training_script_args = [
        WORKER,
        *module,
        args.training_script,
        *args.training_script_args,
    ]
    args.training_script, args.module, args.run_path = "nanochat.launch", True, False


def _run(args: argparse.Namespace) -> None:
    """torchrun itself; a rank's failure becomes its exit status, and its words stay the last ones."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(copy.copy(args))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(_tell_failure(rank, failure.exitcode))
    except SignalException as error:
        _tell(f"stopped by {error.sigval.name}, and so were the ranks")
        sys.exit(128 + int(error.sigval))


def _tell_failure(rank: int, status: int) -> int:
    """Say which rank failed first; the status is as a shell would have it."""
    if status < 0:
        _tell(f"error: rank {rank} was the first to fail, killed by signal {-status}")
        return 128 - status
    _tell(f"error: rank {rank} was the first to fail, with status {status}; see its words above")
    return status or 1


def _run_from_port(args: argparse.Namespace) -> None:
    first: int = args.first_port
    for port in free_ports(first):
        args.master_port = port
        _tell(f"ranks meet at {args.master_addr}:{port}")
        try:
            return _run(args)
        except dist.DistNetworkError as error:
            # Somebody was faster, which shows before any rank is started.
            if "in use" not in str(error):
                raise
    raise NanochatError(
        f"no port from {first} to {min(first + PORTS_TRIED, 65536) - 1} is free; choose another --first-port"
    )


def free_ports(first: int) -> Iterator[int]:
    """Ports from `first` on at which nobody listens on any address of this machine."""
    return (port for port in range(first, min(first + PORTS_TRIED, 65536)) if _nobody_listens(port))


def _nobody_listens(port: int) -> bool:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # a machine without this family
            continue
        with probe:
            # As torch does: what is left of a connection that ended takes no port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    return False
    return True


# --- a rank -----------------------------------------------------------------------------------


def be_worker(words: Sequence[str]) -> None:
    """Run a script or module as this process's own program, without libuv.

    Raises:
        WrongUsage: no script is named.
    """
    module = words[:1] == ["-m"]
    command = list(words[1:] if module else words)
    if not command:
        raise WrongUsage(f"{WORKER} takes a script, or -m and a module, and their arguments")
    avoid_libuv()
    sys.argv = command
    if module:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        return
    if not getattr(sys.flags, "safe_path", False):
        # Python puts the folder of its script first, and for `-m`, with which it was started, the current one.
        sys.path[0] = os.path.dirname(os.path.realpath(command[0]))
    runpy.run_path(command[0], run_name="__main__")


def _tell(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        main()  # what a rank's script raises is shown by Python, as it would be without us
    else:
        run(main)

"""How the TCPStores of a run are made: without libuv where torch has none, on loopback where that will do.

A torch that was built without libuv refuses every TCPStore that asks for it, and asking is the default. A store that
serves listens on all addresses of the machine, though ranks of one machine meet at 127.0.0.1, and whoever reaches it
can write into it. torch.distributed makes its stores in half a dozen modules, each with its own arguments, and holds
the class under its name in all of them; so it is the class itself that changes.
"""

from __future__ import annotations

import functools
import os
import socket
from typing import Any

from torch import distributed as dist

from nanochat.errors import WrongUsage

LIBUV_VARIABLE = "NANOCHAT_LIBUV"
"""`0` keeps libuv out; `1`, empty or unset leaves it to what this torch can."""
TORCH_VARIABLE = "USE_LIBUV"
"""torch's own; anything but `1` means no."""
ARGUMENTS = (
    "host_name", "port", "world_size", "is_master", "timeout", "wait_for_workers", "multi_tenant",
    "master_listen_fd", "use_libuv",
)  # fmt: skip
"""Of TCPStore, in their order, which has been this since torch 2.1."""
LOOPBACK = {
    "127.0.0.1": (socket.AF_INET, "127.0.0.1"),
    "localhost": (socket.AF_INET, "127.0.0.1"),
    "::1": (socket.AF_INET6, "::1"),
}
"""Names of this machine that no other machine can mean -> where to listen."""
LOOPBACK_INTERFACES = {"lo", "lo0"}


def wants_libuv() -> bool:
    """Whether TCPStores of this run may use libuv: the user allows it and this torch has it.

    Raises:
        WrongUsage: NANOCHAT_LIBUV is something else than 0 or 1.
    """
    own = os.environ.get(LIBUV_VARIABLE, "")
    if own not in ("", "0", "1"):
        raise WrongUsage(f"{LIBUV_VARIABLE} is '{own}', but takes 0 or 1, or leave it unset")
    if own == "0" or os.environ.get(TORCH_VARIABLE, "1") != "1":
        return False
    return has_libuv()


def has_libuv() -> bool:
    """Whether this torch was built with libuv. Python is not told; but a store that asks for it is refused."""
    try:
        dist.TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False, use_libuv=True)
    except RuntimeError as error:
        # Any other trouble, as with a loopback that is down, is for the run itself to meet.
        return "libuv" not in str(error)
    return True


def avoid_libuv() -> None:
    """Make every TCPStore of this process without libuv from now on, whatever is asked for.

    The environment is for what this process starts.
    """
    os.environ[LIBUV_VARIABLE] = os.environ[TORCH_VARIABLE] = "0"
    _change("without_libuv", _without_libuv)


def stay_on_loopback() -> None:
    """Let every TCPStore of this process that serves at a name of loopback listen there alone from now on."""
    _change("on_loopback", _on_loopback)


def name_loopback_for_gloo() -> None:
    """Let gloo, whose ranks listen for each other, do so on loopback, unless the user names an interface."""
    names = LOOPBACK_INTERFACES.intersection(name for _, name in socket.if_nameindex())
    if os.environ.get("MASTER_ADDR") in LOOPBACK and names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", min(names))


def _change(mark: str, change: Any) -> None:
    """Put a change of its options before the making of a TCPStore; once each."""
    make = dist.TCPStore.__init__
    if mark in getattr(make, "changes", ()):
        return

    @functools.wraps(make)
    def make_changed(self: Any, *args: Any, **options: Any) -> None:
        make(self, **change({**dict(zip(ARGUMENTS, args, strict=False)), **options}))

    make_changed.changes = (*getattr(make, "changes", ()), mark)  # type: ignore[attr-defined]
    dist.TCPStore.__init__ = make_changed


def _without_libuv(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "use_libuv": False}


def _on_loopback(options: dict[str, Any]) -> dict[str, Any]:
    where = LOOPBACK.get(options["host_name"])
    if not where or not options.get("is_master") or options.get("master_listen_fd") is not None:
        return options
    family, address = where
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch does
        listener.bind((address, options["port"]))
        listener.listen(socket.SOMAXCONN)
    except OSError:
        # Taken: by a store of this very process, which torch then shares, or by somebody, which torch says best.
        listener.close()
        return options
    return {**options, "port": listener.getsockname()[1], "master_listen_fd": listener.detach()}

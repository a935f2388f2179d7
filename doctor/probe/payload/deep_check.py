"""Experiments with the torch of the interpreter that runs this; one JSON line per result.

    python deep_check.py kernels
    python deep_check.py store
    python deep_check.py rank RANK PORT BACKEND

Each line is {"name": …, "ok": true|false|null, "detail": …, "seconds": …}. It needs nothing but
Python 3.8 and torch, and imports nothing of nanochat-doctor.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Callable, Dict, List, Optional

if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    # nothing may be imported from beside this script; a run would start in the current folder
    sys.path[0] = os.getcwd()

RELATIVE_ERROR = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-3}
"""Largest error of a 256x256 product against float64, relative to its largest element. float32
leaves room for TF32."""


def say(name: str, ok: Optional[bool], detail: str, start: float) -> None:
    """Print one result; flushed, since the next experiment may crash the process."""
    line: Dict[str, Any] = {"name": name, "ok": ok, "detail": detail}
    line["seconds"] = round(time.perf_counter() - start, 3)
    print(json.dumps(line), flush=True)


def attempt(name: str, experiment: Callable[[], str]) -> bool:
    """Run an experiment and report it."""
    start = time.perf_counter()
    try:
        detail = experiment()
    except Exception as error:
        text = " ".join(str(error).split())
        say(name, False, "{}: {}".format(type(error).__name__, text[:400]), start)
        return False
    say(name, True, detail, start)
    return True


def import_torch() -> str:
    """Import torch, and torch_npu where it is installed and not loaded by torch itself."""
    import torch

    try:
        import torch_npu  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch_npu":
            raise
    return "torch {} from {}".format(torch.__version__, os.path.dirname(torch.__file__))


def devices() -> List[str]:
    """Names of all devices that torch sees, `cpu` last."""
    import torch

    found = []
    if hasattr(torch, "npu") and torch.npu.is_available():
        found += ["npu:{}".format(i) for i in range(torch.npu.device_count())]
    if torch.cuda.is_available():
        found += ["cuda:{}".format(i) for i in range(torch.cuda.device_count())]
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def multiply(device: str, dtype: str) -> str:
    """Multiply two matrices on a device and compare with float64 on the CPU."""
    import torch

    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(256, 256, generator=generator).to(device, kind)
    b = torch.randn(256, 256, generator=generator).to(device, kind)
    product = (a @ b).cpu().double()
    exact = a.cpu().double() @ b.cpu().double()
    error = float((product - exact).abs().max() / exact.abs().max())
    if not error < RELATIVE_ERROR[dtype]:
        raise ArithmeticError("wrong result, relative error {:.2g}".format(error))
    name = "CPU" if device == "cpu" else device
    if device.startswith("cuda"):
        name = "{} ({}.{})".format(
            torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device)
        )
    return "{}, relative error {:.1g}".format(name, error)


def kernels() -> None:
    """Import torch, list its devices, and multiply on each in each dtype."""
    if not attempt("import", import_torch):
        return
    found: List[str] = []

    def list_devices() -> str:
        found.extend(devices())
        return ", ".join(found)

    if not attempt("devices", list_devices):
        return
    for device in found:
        for dtype in RELATIVE_ERROR:
            attempt("matmul {} {}".format(device, dtype), lambda: multiply(device, dtype))  # noqa: B023


def start_store() -> str:
    """Start a TCPStore with libuv on a free port, set a key and read it back."""
    import datetime

    from torch.distributed import TCPStore

    timeout = datetime.timedelta(seconds=20)
    store = TCPStore("127.0.0.1", 0, 1, True, timeout, use_libuv=True)
    store.set("key", "value")
    if store.get("key") != b"value":
        raise RuntimeError("the store gave back another value")
    return "libuv backend: {}".format(getattr(store, "libuvBackend", "asked for"))


def reduce(rank: int, port: int, backend: str) -> str:
    """Sum one number per rank over two ranks."""
    import datetime

    import torch
    import torch.distributed as dist

    device = "cpu"
    if backend == "nccl":
        device = "cuda:{}".format(rank)
        torch.cuda.set_device(rank)
    elif backend == "hccl":
        import torch_npu  # noqa: F401

        device = "npu:{}".format(rank)
        torch.npu.set_device(rank)
    dist.init_process_group(
        backend,
        init_method="tcp://127.0.0.1:{}".format(port),
        world_size=2,
        rank=rank,
        timeout=datetime.timedelta(seconds=45),
    )
    value = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(value)
    total = float(value.sum().item())
    dist.destroy_process_group()
    if total != 3 * 1024:
        raise ArithmeticError("the sum over two ranks is {}, not {}".format(total, 3 * 1024))
    return "{}, two ranks".format(backend)


def main(arguments: List[str]) -> None:
    """Run one group of experiments."""
    if arguments[0] == "kernels":
        kernels()
    elif arguments[0] == "store":
        attempt("TCPStore with libuv", start_store)
    else:
        rank, port, backend = int(arguments[1]), int(arguments[2]), arguments[3]
        attempt("all-reduce", lambda: reduce(rank, port, backend))


if __name__ == "__main__":
    main(sys.argv[1:])

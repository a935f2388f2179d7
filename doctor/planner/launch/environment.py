"""The environment in which ranks are started: variables by kind of device, shell files to source first."""

from __future__ import annotations

from collections.abc import Sequence

from doctor.facts import Facts, Host
from doctor.knowledge.card_state import stopped
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import at_least
from doctor.planner.launch.devices import Accelerator, faulty
from doctor.planner.terms.plan import TorchChoice


def environment(
    facts: Facts,
    tables: Tables,
    torch: TorchChoice,
    kind: str,
    ranks: int,
    used: Sequence[Accelerator],
    *,
    compiled: bool,
    hub: str | None = None,
) -> dict[str, str]:
    """Variables of a run, by name; what the user has set decides in the scripts that use them.

    Args:
        used: the devices of the run.
        hub: mirror of the Hugging Face hub, where the hub itself cannot be reached.
    """
    rows = tables.rows("launch", "env")
    found = {str(row["name"]): str(row["value"]) for row in rows if _applies(row, torch, kind)}
    if kind == "cpu":
        found["OMP_NUM_THREADS"] = str(max(1, cores(facts.host) // ranks))
    found |= _visible(facts, tables, kind, used)
    base = facts.storage.base_dir if facts.storage else None
    if compiled and base and base.startswith("/"):
        # By default kernels are kept in /tmp, and compiled again after each start of the machine.
        found["TORCHINDUCTOR_CACHE_DIR"] = f"{base}/inductor"
    if hub:
        found["HF_ENDPOINT"] = hub
    return found


def _applies(row: Row, torch: TorchChoice, kind: str) -> bool:
    if row["kinds"] and kind not in row["kinds"]:
        return False
    version = torch.version
    if version is None:
        return "until_torch" not in row
    if "from_torch" in row and not at_least(version, row["from_torch"]):
        return False
    return "until_torch" not in row or not at_least(version, row["until_torch"])


def cores(host: Host | None) -> int:
    """Processors that a run may use: those of this process, within a container's quota."""
    count = (host.cores if host else None) or 1
    quota = host.cgroup_cpu_limit if host else None
    return max(1, min(count, int(quota))) if quota else count


def _visible(
    facts: Facts, tables: Tables, kind: str, used: Sequence[Accelerator]
) -> dict[str, str]:
    """The user's choice of devices, which must hold wherever the script is run; else what leaves out faulty ones."""
    nvidia, ascend = facts.nvidia, facts.ascend
    if kind == "cuda" and nvidia is not None:
        cards = {gpu.index: gpu for gpu in nvidia.gpus}
        if any(stopped(cards[i], tables) for i in nvidia.visible if i in cards):
            numbers = [device.index for device in used]
            names = [(cards[n].uuid if n in cards else None) or str(n) for n in numbers]
            return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if kind == "cuda" and nvidia is not None and nvidia.visible_variable is not None:
        found = {"CUDA_VISIBLE_DEVICES": nvidia.visible_variable}
        # Numbers mean what they meant here only in the order of here.
        return found | ({"CUDA_DEVICE_ORDER": nvidia.device_order} if nvidia.device_order else {})
    if kind == "npu" and ascend is not None:
        seen = [npu for npu in ascend.npus if npu.index in ascend.visible]
        if len(used) < len(seen) and any(faulty(npu) for npu in seen):
            return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(str(device.index) for device in used)}
        if ascend.visible_variable is not None:
            return {"ASCEND_RT_VISIBLE_DEVICES": ascend.visible_variable}
    return {}


def source_files(facts: Facts, kind: str) -> tuple[str, ...]:
    """CANN's set_env.sh, and NNAL's where it is installed; sourcing them again does no harm."""
    ascend = facts.ascend
    if kind != "npu" or ascend is None:
        return ()
    found = []
    if ascend.active and ascend.active.set_env:
        found.append(ascend.active.set_env)
    if ascend.nnal and ascend.nnal.rstrip("/").endswith("/nnal"):
        # The folder is named by itself, not by NNAL's own variable: its environment is not there yet.
        found.append(f"{ascend.nnal.rstrip('/')}/atb/set_env.sh")
    return tuple(found)

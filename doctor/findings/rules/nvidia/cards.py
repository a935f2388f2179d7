"""Rules about single NVIDIA cards: faults, compute mode, MIG, visibility, cards that the driver does not list."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.facts import Gpu, PciDevice
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, INFO, WARNING, Finding
from doctor.findings.rules.nvidia.driver import unserved
from doctor.knowledge.card_state import container_cure, fault_row, refuses
from doctor.knowledge.versions import older, parts

KERNEL_LOG = "sudo dmesg | grep -iE 'nvrm|xid' | tail -n 20"

NOT_HERE = "This is done on the host, not from inside of the container: "


def faults(c: Context) -> Iterator[Finding]:
    """Faults that a driver remembers: lost cards, uncorrected ECC errors, rows to remap, a reset asked for."""
    nvidia = c.facts.nvidia
    for gpu in nvidia.gpus if nvidia else ():
        signs = list(gpu.faults)
        if gpu.ecc_uncorrected:
            signs.append(
                f"{gpu.ecc_uncorrected} uncorrected ECC errors since the driver was loaded"
            )
        if not signs:
            continue
        rows = [row for sign in signs if (row := fault_row(sign, c.tables))]
        cures = list(dict.fromkeys(str(row["cure"]) for row in rows))
        yield c.finding(
            "cuda.hardware-fault",
            ERROR,
            f"{_card(gpu)} reports a fault: {joined(signs)}.",
            [f"GPU {gpu.index}: {sign}" for sign in signs],
            (NOT_HERE if c.container else "")
            + (" ".join(cures) or "Look for its Xid in the kernel's log, and restart the machine.")
            + _meanwhile(c, gpu),
            [] if c.container or c.wsl else [KERNEL_LOG],
        )


def _card(gpu: Gpu) -> str:
    """`GPU 3 (NVIDIA H100 80GB HBM3)`, or its address where it does not tell its name."""
    return f"GPU {gpu.index} ({gpu.name or gpu.bus_id or 'which does not tell its name'})"


def _meanwhile(c: Context, gpu: Gpu) -> str:
    others = [g for g in c.sound_gpus if g.index != gpu.index]
    if not others:
        return ""
    return " Until then, train on what else is here: a plan leaves out cards that cannot start."


def compute_mode(c: Context) -> Iterator[Finding]:
    """Cards whose compute mode keeps a new program off them."""
    closed = [gpu for gpu in c.gpus if refuses(gpu)]
    if not closed:
        return
    sentences = []
    for gpu in closed:
        holders = joined(
            [f"PID {p.pid}" + (f" ({p.name})" if p.name else "") for p in gpu.processes]
        )
        why = f"and {holders} holds it" if holders else "so no CUDA program may use it"
        sentences.append(f"{_card(gpu)} is in compute mode {gpu.compute_mode}, {why}")
    yield c.finding(
        "cuda.no-devices-visible",
        ERROR,
        f"{'; '.join(sentences)} (CUDA says: all CUDA-capable devices are busy or unavailable).",
        [f"GPU {gpu.index}: compute_mode {gpu.compute_mode}" for gpu in closed],
        (NOT_HERE if c.container else "")
        + "End the process that holds it, or set the compute mode to Default as root."
        + _meanwhile(c, closed[0]),
        [] if c.container else [f"sudo nvidia-smi -i {gpu.index} -c DEFAULT" for gpu in closed],
    )


def visibility(c: Context) -> Iterator[Finding]:
    """GPUs that the driver lists and CUDA_VISIBLE_DEVICES takes from a process."""
    nvidia = c.facts.nvidia
    if nvidia is None or not nvidia.gpus:
        return
    mask = nvidia.visible_variable
    if nvidia.invalid_visible:
        named = joined([repr(entry) for entry in nvidia.invalid_visible])
        yield c.finding(
            "cuda.invalid-device",
            ERROR,
            f"CUDA_VISIBLE_DEVICES={mask} names {named}, and {_range(len(nvidia.gpus))}; CUDA ignores "
            "that entry and all after it (all, where a device is named twice).",
            [f"CUDA_VISIBLE_DEVICES={mask}", _range(len(nvidia.gpus))],
            "Name only devices that exist.",
            ["unset CUDA_VISIBLE_DEVICES"],
        )
    if mask is not None and not nvidia.visible:
        value = f"'{mask}'" if not mask.strip() else mask
        yield c.finding(
            "cuda.no-devices-visible",
            ERROR,
            f"CUDA_VISIBLE_DEVICES={value} hides {c.gpu_names}: a process sees no GPU.",
            [f"CUDA_VISIBLE_DEVICES={value}"],
            "Unset the variable, or name the devices to use.",
            ["unset CUDA_VISIBLE_DEVICES"],
        )


def _range(count: int) -> str:
    return "there is one GPU here, 0" if count == 1 else f"the GPUs here are 0 to {count - 1}"


def mig(c: Context) -> Iterator[Finding]:
    """A card in MIG mode without an instance is no device for CUDA."""
    nvidia = c.facts.nvidia
    if nvidia is None or nvidia.visible_variable is not None:
        return
    idle = [gpu for gpu in nvidia.gpus if gpu.mig_mode == "Enabled" and not gpu.mig_instances]
    if not idle:
        return
    which = f"GPU {joined([str(gpu.index) for gpu in idle])}"
    state = (
        f"MIG is on for {which} and this container was given no instance"
        if c.container
        else f"MIG is on for {which} and no instance was made"
    )
    cure = (
        container_cure(c.container, "mig", c.tables)
        if c.container
        else "Make instances as root (nvidia-smi mig, with -cgi and -C), or switch MIG off with no "
        "program using the card, which takes all instances away."
    )
    yield c.finding(
        "cuda.no-devices-visible",
        WARNING if nvidia.visible else ERROR,
        f"{state}: {'a process does not see it' if nvidia.visible else 'a process sees no GPU'}.",
        [f"GPU {gpu.index}: MIG {gpu.mig_mode}, no instances" for gpu in idle],
        cure,
        [] if c.container else ["nvidia-smi mig -lgip"],
    )


def unlisted(c: Context) -> Iterator[Finding]:
    """Cards on the bus that the driver does not list, unless someone hides them on purpose."""
    nvidia = c.facts.nvidia
    if nvidia is None or not nvidia.source or not nvidia.gpus or c.hidden_on_purpose:
        return
    explained = {device.address for device, _ in unserved(c, nvidia)}
    left = [d for d in c.unlisted_devices if d.driver != "vfio-pci" and d.address not in explained]
    if not left:
        return
    listed = len(nvidia.gpus)
    retired = all(_before_wheels(c, device.compute_capability) for device in left)
    yield c.finding(
        "cuda.no-devices-visible",
        INFO if retired else WARNING,
        f"{_devices(left)} on the bus, and driver {nvidia.driver_version or 'here'} does not list "
        f"{'it' if len(left) == 1 else 'them'}: of {listed + len(left)} cards it runs {listed}."
        + (" No current torch has code for so old a card." if retired else ""),
        [
            f"/sys/bus/pci/devices/{d.address}: {d.vendor_id[2:]}:{d.device_id[2:]}, "
            f"kernel driver {d.driver or 'none'}"
            for d in left[:4]
        ],
        "Training goes on without it."
        if retired
        else "Look for its address in the kernel's log: a card that this driver does not run, that "
        "lacks power, or that fell off the bus says so there. Training works on the others meanwhile.",
        []
        if retired
        else [f"sudo dmesg | grep -iE 'nvrm|xid|{left[0].address[-7:]}' | tail -n 20"],
    )


def _devices(devices: list[PciDevice]) -> str:
    words = [f"{d.chip or 'NVIDIA GPU ' + d.device_id} at {d.address}" for d in devices]
    return f"{joined(words)} {'is' if len(words) == 1 else 'are'}"


def _before_wheels(c: Context, capability: str | None) -> bool:
    """Whether a card is older than any that a wheel of the tables has code for."""
    known = {cc for row in c.tables.rows("torch", "wheel") for cc in row["sass"]}
    oldest = min(known, key=parts, default="0")
    return bool(capability) and older(capability or "", oldest)


def beyond_torch(c: Context) -> Iterator[Finding]:
    """Cards that are too old for every wheel, beside a torch for the CPU, which is then the right one."""
    torch = c.torch
    cards = [gpu for gpu in c.gpus if gpu.compute_capability]
    if torch is None or torch.flavour != "cpu" or not cards or len(cards) < len(c.gpus):
        return
    if not all(_before_wheels(c, gpu.compute_capability) for gpu in cards):
        return
    yield c.finding(
        "torch.arch-missing",
        INFO,
        f"{c.gpu_names} (compute capability {joined(c.capabilities)}) is too old for every torch wheel: "
        "training runs on the CPU here.",
        [f"GPU {gpu.index}: compute capability {gpu.compute_capability}" for gpu in cards],
        "Nothing is to be done; a newer card would be used.",
    )


RULES = (faults, compute_mode, visibility, mig, unlisted, beyond_torch)

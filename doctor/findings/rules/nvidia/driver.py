"""Rules about the NVIDIA driver against the cards: what is not loaded, what it does not serve, and why."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.facts import KernelModule, Nvidia, PciDevice
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, INFO, WARNING, Finding
from doctor.findings.rules.nvidia.driver_install import advice, bus_capabilities, why_apart
from doctor.knowledge import compat
from doctor.knowledge.bus import bus_key
from doctor.knowledge.compat import Runs
from doctor.knowledge.drivers import first_branch, refusals, serving
from doctor.knowledge.versions import at_least

LOG = "sudo dmesg | grep -iE 'nvrm|xid' | tail -n 20"


def missing(c: Context, nvidia: Nvidia, evidence: list[str]) -> Finding:
    """No driver, or one that is installed and not loaded: the reason decides the cure."""
    if nvidia.kernel_driver is not None:
        state = f"kernel module {nvidia.kernel_driver} is loaded, but libcuda.so.1 is not installed"
        return _install(c, state, evidence)
    refused = serves_none(c, nvidia)
    if nvidia.driver_library is not None and refused:
        state = (
            f"driver {nvidia.driver_version} is installed, which does not serve it: {refused}. Its module finds "
            "no GPU and does not stay loaded"
        )
        return _install(c, state, [*evidence, "build/cuda.toml"])
    if nvidia.driver_library is not None:
        return _not_loaded(c, nvidia, evidence)
    if nvidia.conflicting_module:
        state = f"the {nvidia.conflicting_module} module holds it, which has no CUDA"
        return _install(c, state, evidence)
    return _install(c, "no NVIDIA driver is installed", evidence)


def _install(c: Context, state: str, evidence: list[str]) -> Finding:
    to_do = advice(c)
    return c.finding(
        "cuda.driver-missing",
        ERROR,
        f"{c.gpus_are} on the PCI bus, and {state}.",
        evidence,
        to_do.text + _no_torch(c),
        to_do.commands,
    )


def _no_torch(c: Context) -> str:
    """A word on cards for which there is no torch, whatever the driver."""
    if served_by_some_wheel(c, bus_capabilities(c)):
        return ""
    return (
        f" No torch wheel has code for compute capability {joined(bus_capabilities(c))}: with or without a driver "
        "this machine trains on its CPU (--route cpu-wheel)."
    )


def served_by_some_wheel(c: Context, capabilities: list[str]) -> bool:
    """Whether there is a CUDA wheel for any of the cards; true where none is known."""
    host = c.facts.host
    arch = host.arch if host else None
    found = [w for w in compat.wheels(c.tables, python=None, cpu_arch=arch, glibc=None) if w.cuda]
    return not capabilities or any(
        compat.code_runs(cc, w.cuda, w.row["sass"], w.row["ptx"], (), c.tables) is not Runs.NO
        for cc in capabilities
        for w in found
    )


def serves_none(c: Context, nvidia: Nvidia) -> str | None:
    """Why the installed driver serves none of the cards; None where it serves one, or nothing is known."""
    cards = bus_capabilities(c)
    reasons = [
        next(refusals(cc, nvidia.driver_version, nvidia.kernel_open, c.tables), None)
        for cc in cards
    ]
    known = [reason for reason in reasons if reason]
    return joined(list(dict.fromkeys(known))) if cards and len(known) == len(cards) else None


# --- installed, not loaded ---------------------------------------------------------------------


def _not_loaded(c: Context, nvidia: Nvidia, evidence: list[str]) -> Finding:
    module = nvidia.module or KernelModule()
    state = f"the libraries of driver {nvidia.driver_version or '?'} are installed, but its kernel module is not loaded"
    why, cure, commands = _why_not_loaded(c, nvidia, module)
    return c.finding(
        "cuda.driver-missing",
        ERROR,
        f"{c.gpus_are} on the PCI bus, and {state}{why}.",
        [*evidence, *_module_evidence(module)],
        cure,
        commands,
    )


def _why_not_loaded(c: Context, nvidia: Nvidia, module: KernelModule) -> tuple[str, str, list[str]]:
    """Why, how to cure it, and commands; what is certain comes before what is likely."""
    host = c.facts.host
    if host and host.container:
        return "", "Load the module on the host: a container uses the driver of its host.", []
    if module.blacklisted_by:
        return (
            f": {module.blacklisted_by} forbids it (blacklist nvidia)",
            f"Take that line out of {module.blacklisted_by}, or switch the GPU on with the tool that wrote it "
            "(prime-select, optimus-manager, supergfxctl); make the initial RAM disk again and restart.",
            [],
        )
    if module.failed_build and not module.file:
        error = f": {module.build_error}" if module.build_error else ""
        return (
            f": DKMS could not build {module.failed_build} for kernel {module.kernel}{error}",
            _cure_of_failed_build(module),
            [*(_headers(c) if not module.headers else []), "sudo dkms autoinstall"],
        )
    if module.kernel_known and not module.file:
        others = (
            f" (there is one for {joined(list(module.other_kernels[:3]))})"
            if module.other_kernels
            else ""
        )
        return (
            f": none was built for the running kernel {module.kernel}{others}",
            "Install the headers of the running kernel and build the module for it, or start the kernel that it was "
            "built for.",
            [*_headers(c), "sudo dkms autoinstall", "sudo modprobe nvidia"],
        )
    if nvidia.conflicting_module:
        return (
            f", and {nvidia.conflicting_module} holds the card",
            f"Restart; if {nvidia.conflicting_module} comes back, it is still in the initial RAM disk: make that again "
            "(update-initramfs -u, dracut --force or mkinitcpio -P), and restart.",
            [],
        )
    if module.secure_boot and "/kernel/nvidia-" not in (module.file or ""):
        return _unsigned(c, module)
    return (
        "",
        "Load the module; if it does not load, the kernel's log says why (no memory for it, no power, another module "
        "in its place).",
        ["sudo modprobe nvidia", LOG],
    )


def _cure_of_failed_build(module: KernelModule) -> str:
    if not module.headers:
        return f"Install the headers of kernel {module.kernel}, then build again."
    return (
        "A driver older than the kernel does not build for it: install a newer driver of the same branch, or start "
        "the kernel before."
    )


def _headers(c: Context) -> list[str]:
    return c.system_install("kernel-headers")


def _unsigned(c: Context, module: KernelModule) -> tuple[str, str, list[str]]:
    """Secure Boot is on, and the module is there: what is missing is a signature that the firmware knows."""
    if module.key_enrolled:
        return (
            f", though Secure Boot is on and the key {module.key} is enrolled",
            "The module was built before the key, or signed by another: build it again, then load it.",
            ["sudo dkms autoinstall --force", "sudo modprobe nvidia"],
        )
    keys = joined([f"{r['path']} ({r['tool']})" for r in c.tables.rows("drivers", "key")], "or")
    where = f" ({module.key})" if module.key else f"; the key is usually {keys}"
    return (
        f": Secure Boot is on, and the kernel takes only a module whose signer the firmware knows{where}",
        "Enrol the key that signs it: mokutil asks for a password, and at the next start the firmware's MOK manager "
        "asks for it again (Enroll MOK). Or take your distribution's signed modules, or switch Secure Boot off in the "
        "firmware. Neither building nor loading it again helps.",
        [f"sudo mokutil --import {module.key}"] if module.key else ["mokutil --sb-state"],
    )


def _module_evidence(module: KernelModule) -> Iterator[str]:
    if module.file:
        yield f"{module.file}: built for the running kernel"
    elif module.kernel_known:
        yield f"/lib/modules/{module.kernel}: no nvidia.ko"
    if module.failed_build:
        yield f"/var/lib/dkms: a failed build of {module.failed_build}"
    if module.secure_boot:
        yield "EFI variable SecureBoot: 1"
    if module.key_enrolled is not None:
        yield f"MokListRT: {module.key} is {'' if module.key_enrolled else 'not '}in it"


# --- loaded, and a card that it does not serve -------------------------------------------------


def nothing_listed(c: Context, nvidia: Nvidia, evidence: list[str]) -> Iterator[Finding]:
    """A driver that runs and lists no card, though there is one."""
    rows = [row for row in map(c.tables.arch, c.capabilities) if row]
    floors = [first for row in rows if (first := first_branch(row, c.tables))]
    if any(not at_least(c.driver or "", floor) for floor in floors):
        return  # `driver_age` says so
    refused = serves_none(c, nvidia)
    to_do = advice(c)
    yield c.finding(
        "cuda.no-devices-visible",
        ERROR,
        f"Driver {c.driver} is loaded and {'serves' if refused else 'lists'} no device, though {c.gpus_are} there"
        + (f": {refused}." if refused else "."),
        evidence,
        to_do.text
        if refused
        else "Look for the reason in the kernel's log; the card may lack power or be reserved.",
        to_do.commands if refused else [LOG],
    )


def unserved_cards(c: Context) -> Iterator[Finding]:
    """Cards on the bus beside those that the driver lists, which it cannot serve: it says nothing about them."""
    nvidia = c.facts.nvidia
    if nvidia is None or not nvidia.gpus or not nvidia.source or c.hidden_on_purpose:
        return
    for device, reason in unserved(c, nvidia):
        yield _unserved(c, nvidia, device, reason)


def unserved(c: Context, nvidia: Nvidia) -> Iterator[tuple[PciDevice, str]]:
    """Cards that the driver does not list, with the reason that the tables know, in half a sentence."""
    listed = {bus_key(gpu.bus_id) for gpu in nvidia.gpus if gpu.bus_id}
    for device in nvidia.pci_devices if listed else ():
        cc = device.compute_capability
        if cc is None or device.driver == "vfio-pci" or bus_key(device.address) in listed:
            continue
        reason = next(refusals(cc, c.driver, nvidia.kernel_open, c.tables), None)
        if reason:
            yield device, reason


def _unserved(c: Context, nvidia: Nvidia, device: PciDevice, reason: str) -> Finding:
    cards = bus_capabilities(c)
    chip = f"{device.chip or device.device_id}, compute capability {device.compute_capability}"
    possible = serving(cards, c.tables).possible
    to_do = advice(c)
    useful = served_by_some_wheel(c, [str(device.compute_capability)])
    listed = joined([gpu.name or f"GPU {gpu.index}" for gpu in nvidia.gpus[:4]])
    cure = (
        to_do.text
        if possible
        else f"Nothing serves it beside the others: {why_apart(c, cards)}. Leave it, or put it into another machine."
    )
    if not useful:
        cure = "Nothing is lost: no torch wheel has code for it."
    return c.finding(
        "cuda.no-devices-visible",
        WARNING if useful else INFO,
        f"The card at {device.address} ({chip}) is on the bus and driver {c.driver} does not list it: {reason}. "
        f"Training uses {listed}.",
        [
            f"/sys/bus/pci/devices/{device.address}: {device.vendor_id[2:]}:{device.device_id[2:]}",
            f"driver {c.driver}: lists {listed}",
        ],
        cure,
        to_do.commands if possible and useful else (),
    )


RULES = (unserved_cards,)

"""Huawei Ascend NPUs: devices, driver, firmware, CANN, its environment, torch_npu."""

from __future__ import annotations

import os
import re

from doctor.errors import Unknown
from doctor.facts import Ascend, TorchNpu
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import release
from doctor.machine.linker import Linker
from doctor.machine.look import Look, bracketed, key_values
from doctor.machine.pyenv import PythonEnvironment, python_tags
from doctor.machine.system import NOT_RUN, System
from doctor.probe.ascend import cann as ascend_cann
from doctor.probe.ascend import npu_smi
from doctor.probe.host import pci

VENDOR = "0x19e5"
NPU_CLASSES = ("0x1200",)
INSTALL_INFO = "/etc/ascend_install.info"
BASE = "/usr/local/Ascend"
LOADER_CONFIG = "/etc/ld.so.conf.d/ascend_driver_so.conf"
"""The driver's installer writes its folders here; a container seldom has this file."""

DRIVER_LIBRARY = "libascend_hal.so"
DRIVER_FOLDERS = ("driver/lib64/driver", "driver/lib64/common", "driver/lib64")
MANAGERS = ("davinci_manager", "devmm_svm", "hisi_hdc")


def start(system: System) -> None:
    """Begin to run the programs that `probe` will ask."""
    npu_smi.start(system)


def probe(system: System, linker: Linker, tables: Tables, env: PythonEnvironment | None) -> Ascend:
    """Describe all that concerns Ascend NPUs."""
    look = Look()
    on_bus = pci.devices(system, VENDOR, NPU_CLASSES, tables.ascend_chip)
    nodes = sorted(
        (n for n in system.glob("/dev", "davinci") if re.fullmatch(r".*/davinci\d+", n)),
        key=lambda n: int(re.sub(r"\D", "", n)),
    )
    install = key_values(look("device_group", system.text, INSTALL_INFO) or "")
    base = _driver_base(system, install.get("Driver_Install_Path_Param", ""))
    library = next(
        (f"{base}/{f}/{DRIVER_LIBRARY}" for f in DRIVER_FOLDERS
         if system.exists(f"{base}/{f}/{DRIVER_LIBRARY}")),
        None,
    )  # fmt: skip
    driver = key_values(look("driver_version", _info, system, base, "driver") or "")
    firmware = key_values(look("firmware_version", _info, system, base, "firmware") or "")
    there = bool(on_bus or nodes or driver)
    smi = npu_smi.ask(system, tables, on_bus) if there and system.runs else None
    npus = smi.npus if smi else ()
    if there and not system.runs:
        look.reasons["npus"] = NOT_RUN
        npus = npu_smi.npus_of_bus(tables, on_bus) if nodes else ()
    group = install.get("UserGroup") or ("HwHiAiUser" if nodes else None)
    cann = ascend_cann.probe(system, linker)
    mask = system.env.get("ASCEND_RT_VISIBLE_DEVICES")
    count = len(npus) or len(nodes)
    visible, invalid = visible_devices(mask, count)
    return Ascend(
        pci_devices=on_bus,
        device_nodes=tuple(nodes),
        manager_nodes=tuple(f"/dev/{n}" for n in MANAGERS if system.exists(f"/dev/{n}")),
        driver_version=driver.get("Version"),
        driver_inner_version=driver.get("Innerversion"),
        driver_accepts_cann=bracketed(driver.get("compatible_version", "")),
        driver_library=library,
        driver_library_found=linker.find(DRIVER_LIBRARY) is not None if library else None,
        firmware_version=firmware.get("Version"),
        firmware_accepts_drivers=bracketed(firmware.get("compatible_version_drv", "")),
        smi_path=system.which("npu-smi"),
        smi_error=smi.error if smi else None,
        npus=npus,
        unreadable_nodes=tuple(
            node for node in nodes if system.may(node, os.R_OK | os.W_OK) is False
        ),
        device_group=group,
        user_in_group=look("user_in_group", _user_in_group, system, group),
        installed_for_all={"yes": True, "no": False}.get(
            install.get("Driver_Install_For_All", "").lower()
        ),
        toolkits=cann.toolkits,
        active_toolkit=cann.active,
        env_sourced=cann.sourced,
        env_missing=cann.missing,
        nnal=cann.nnal,
        visible_variable=mask,
        visible=visible,
        invalid_visible=invalid,
        torch_npu=look("torch_npu", _torch_npu, system, linker, tables, env, cann.active_version),
        unknown=look.reasons,
    )


def _driver_base(system: System, stated: str) -> str:
    """The folder below which the driver lies: where its installer says, or where a container has it mounted."""
    listed = (system.text(LOADER_CONFIG, 1 << 16) or "").split()
    listed += system.list_variable("LD_LIBRARY_PATH")
    known = [entry.split("/driver/lib64", 1)[0] for entry in listed if "/driver/lib64" in entry]
    places = [place.rstrip("/") for place in (stated, BASE, *known) if place.startswith("/")]
    return next(
        (
            place
            for place in places
            if system.exists(f"{place}/driver/version.info")
            or system.is_dir(f"{place}/driver/lib64")
        ),
        places[0],
    )


def _info(system: System, base: str, part: str) -> str | None:
    return system.text(f"{base}/{part}/version.info")


def visible_devices(mask: str | None, count: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What ASCEND_RT_VISIBLE_DEVICES leaves of `count` devices, and entries that name none.

    Unset shows all, empty none; the runtime refuses the list from the first wrong entry on.
    """
    if mask is None:
        return tuple(range(count)), ()
    chosen: list[int] = []
    for entry in (part.strip() for part in mask.split(",") if part.strip()):
        if not (entry.isascii() and entry.isdigit()) or int(entry) >= count or int(entry) in chosen:
            return tuple(chosen), (entry,)
        chosen.append(int(entry))
    return tuple(chosen), ()


def _user_in_group(system: System, group: str | None) -> bool | None:
    """Whether this user belongs to the group that owns the devices; root always does."""
    if group is None:
        return None
    if system.live:
        import grp

        if os.geteuid() == 0:
            return True
        names = []
        for number in {*os.getgroups(), os.getegid()}:
            try:
                names.append(grp.getgrgid(number).gr_name)
            except KeyError:
                continue
        return group in names
    if system.runs and system.which("id"):
        text = system.output(["id"])
        return bool(re.search(r"\buid=0\(", text)) or f"({group})" in text.partition("gid=")[2]
    groups = system.text("/etc/group") or ""
    user = system.env.get("USER") or system.env.get("LOGNAME")
    line = re.search(rf"^{re.escape(group)}:[^:]*:[^:]*:(.*)$", groups, re.MULTILINE)
    if user is None or line is None:
        raise Unknown("neither id nor /etc/group tells this user's groups")
    return user == "root" or user in line.group(1).split(",")


def _torch_npu(
    system: System,
    linker: Linker,
    tables: Tables,
    env: PythonEnvironment | None,
    cann: str | None,
) -> TorchNpu | None:
    """The installed torch_npu and what keeps it from being imported."""
    item = env.distributions().get("torch-npu") if env else None
    module = env.find_module("torch_npu") if env else None
    if env is None or (item is None and module is None):
        return None
    folder = module.path if module else f"{item.site}/torch_npu" if item else ""
    look = Look()
    version = item.version if item else look("version", _stated_version, system, folder)
    torch = env.find_module("torch")
    bundled = [f"{folder}/lib", f"{torch.path}/lib"] if torch else [f"{folder}/lib"]
    extensions = system.glob(folder, "_C", ".so")
    libraries = [*extensions, *system.glob(f"{folder}/lib", "libtorch_npu", ".so")]
    closure = linker.closure(libraries, bundled)
    required = look("requires_torch", _required_torch, env) or None
    missing, unfit = _packages(tables, env, version or "", cann)
    return TorchNpu(
        version=version or "unknown",
        path=folder or None,
        requires_torch=required,
        python_tags=python_tags([path.rsplit("/", 1)[-1] for path in extensions]),
        missing_libraries=tuple(sorted(item.soname for item in closure.missing())),
        missing_packages=missing,
        unfit_packages=unfit,
        unknown=look.reasons,
    )


def _stated_version(system: System, folder: str) -> str:
    version = key_values(system.text(f"{folder}/version.py") or "").get("__version__")
    if version is None:
        raise Unknown(f"{folder}/version.py names no version")
    return version


def _required_torch(env: PythonEnvironment) -> str | None:
    for line in env.requirements("torch-npu"):
        match = re.match(r"torch\s*\(?([^;)]*)", line)
        if match and re.match(r"torch\b(?![-_])", line):
            return match.group(1).strip() or None
    return None


def _packages(
    tables: Tables, env: PythonEnvironment, version: str, cann: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Python packages that torch_npu and CANN import: those absent, those of a wrong version."""
    from packaging.specifiers import SpecifierSet

    missing: list[str] = []
    unfit: list[str] = []
    for package in tables.npu_requirements(release(version), cann, env.minor):
        found = env.version(package.name)
        if found is None and env.find_module(package.module) is None:
            if package.name not in missing:
                missing.append(package.name)
        elif found and package.specifier and found not in SpecifierSet(package.specifier):
            unfit.append(f"{package.name} {found} (needs {package.specifier})")
    return tuple(missing), tuple(unfit)

"""Rules about Ascend NPUs: driver, firmware, CANN, torch_npu, and what lies between them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doctor.facts import Ascend
from doctor.findings.advice import apply_command, best_npu_pair, torch_commands
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.knowledge.versions import cann_key, release
from doctor.text.quantities import memory

BAD_HEALTH = ("alarm", "critical", "offline", "fault")
GENERATION = re.compile(r"V\d+R\d+C\d+")
CANN_LIBRARIES = re.compile(
    r"^lib(ascendcl|hccl|acl_|ge_|graph|runtime|register|platform|tiling|msprofiler|profapi|error|"
    r"opapi|nnopbase|ascend_dump|te_|unified)"
)
MEMORY_HELD = 0.5

PORTAL = "hiascend.com/hardware/firmware-drivers and hiascend.com/software/cann"


def driver(c: Context) -> Iterator[Finding]:
    """NPUs on the bus or in /dev without a driver, or one that does not answer."""
    ascend, host = c.facts.ascend, c.facts.host
    if ascend is None or not c.has_npu:
        return
    count = len(ascend.npus) or len(ascend.device_nodes) or len(ascend.pci_devices)
    what = f"{count} Ascend NPU{'s' if count > 1 else ''}"
    evidence = [
        f"driver/version.info: {ascend.driver_version or 'absent'}",
        f"npu-smi: {ascend.smi_error or ascend.smi_path or 'not found'}",
        f"/dev: {joined([*ascend.device_nodes[:4], *ascend.manager_nodes]) or 'no davinci nodes'}",
    ]
    if ascend.npus or _permission(ascend):
        return
    container = host.container if host else None
    if ascend.driver_version is None and ascend.driver_library is None:
        mounted = (
            " (mount it: -v /usr/local/Ascend/driver:/usr/local/Ascend/driver)" if container else ""
        )
        yield c.finding(
            "npu.driver-missing",
            ERROR,
            f"{what} found, and no Ascend driver{' in this container' if container else ''}: there is "
            "no driver/version.info, no libascend_hal.so, and npu-smi does not list them.",
            evidence,
            f"Install the driver and then the firmware of this NPU{mounted}; they are at {PORTAL}.",
        )
    elif not ascend.device_nodes and not container:
        yield c.finding(
            "npu.driver-missing",
            ERROR,
            f"{what} on the machine, and driver {ascend.driver_version} is installed but not loaded: "
            "there are no /dev/davinci* nodes.",
            evidence,
            "Load the driver's modules or restart; after a kernel update install the driver again.",
        )
    elif not ascend.device_nodes:
        yield c.finding(
            "npu.no-devices-visible",
            ERROR,
            f"{what} on the machine and driver {ascend.driver_version} found, but no /dev/davinci* "
            "was given to this container.",
            evidence,
            "Start the container with --device /dev/davinci0 (and the others), "
            "/dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc.",
        )
    elif ascend.smi_error and ("-8005" in ascend.smi_error or "-8020" in ascend.smi_error):
        yield c.finding(
            "npu.no-devices-visible",
            ERROR,
            f"The device nodes are there, but the driver refuses them ({ascend.smi_error}): another "
            "container or process holds these NPUs.",
            evidence,
            "Give each container its own /dev/davinciN, and end the one that holds these.",
        )
    elif _off_the_path(ascend):
        return  # `driver_library` says what npu-smi lacks, too
    elif ascend.smi_error and "libdcmi" in ascend.smi_error:
        yield c.finding(
            "npu.library-missing",
            WARNING,
            f"npu-smi cannot load libdcmi.so ({ascend.smi_error}), so health and memory of the NPUs are unknown; "
            "training does not need it.",
            evidence,
            "Mount /usr/local/dcmi into the container, too, as in -v /usr/local/dcmi:/usr/local/dcmi."
            if container
            else "Install the driver again; libdcmi.so comes with it, in /usr/local/dcmi.",
        )
    elif ascend.smi_error:
        yield c.finding(
            "npu.init-failed",
            WARNING,
            f"Driver {ascend.driver_version or 'of unknown version'} is installed, but npu-smi gives no usable "
            f"answer: {ascend.smi_error}.",
            evidence,
            "Run npu-smi by hand and look at the kernel's log.",
            ["npu-smi info"],
        )


def driver_library(c: Context) -> Iterator[Finding]:
    """The driver's own library, off the loader's path: CANN's runtime cannot be loaded, nor torch_npu."""
    ascend, host = c.facts.ascend, c.facts.host
    if ascend is None or not _off_the_path(ascend) or not (c.has_npu or ascend.torch_npu):
        return
    assert ascend.driver_library is not None
    root = ascend.driver_library.rsplit("/lib64", 1)[0] + "/lib64"
    folders = [f"{root}/driver", f"{root}/common", root]
    where = " in this container" if host and host.container else ""
    yield c.finding(
        "npu.library-missing",
        ERROR,
        f"The Ascend driver is there{where}, but the loader does not find its libascend_hal.so: neither "
        f"LD_LIBRARY_PATH nor the loader's cache has {ascend.driver_library.rsplit('/', 1)[0]}, so importing "
        "torch_npu, and torch with it, fails (libascend_hal.so: cannot open shared object file).",
        [f"{ascend.driver_library}: there", "libascend_hal.so: not found by the loader"],
        "Put the driver's folders on LD_LIBRARY_PATH before anything is started"
        + (
            "; in an image, by ENV, or by sourcing CANN's set_env.sh when it starts, not when it is built."
            if where
            else ", or list them in /etc/ld.so.conf.d/ascend_driver_so.conf and run ldconfig."
        ),
        [f'export LD_LIBRARY_PATH="{":".join(folders)}:$LD_LIBRARY_PATH"'],
    )


def _off_the_path(ascend: Ascend) -> bool:
    """Whether the loader misses the driver's library, for no other reason than its path.

    CANN's set_env.sh brings the driver's folders too, so one that was not sourced comes first.
    """
    return ascend.driver_library_found is False and ascend.env_sourced is True


def _permission(ascend: Ascend) -> bool:
    """Whether this user is kept from the devices by owner and group."""
    if ascend.unreadable_nodes:
        return True
    outside = ascend.user_in_group is False and bool(ascend.device_nodes)
    return outside and (ascend.smi_error is not None or ascend.installed_for_all is False)


def permission(c: Context) -> Iterator[Finding]:
    """The devices belong to a group that this user is not in."""
    ascend = c.facts.ascend
    if ascend is None or not _permission(ascend):
        return
    nodes = ascend.unreadable_nodes or ascend.device_nodes
    group = ascend.device_group or "HwHiAiUser"
    yield c.finding(
        "npu.permission",
        ERROR,
        f"This user may not open {nodes[0]}"
        + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else "")
        + f": the devices belong to group {group}.",
        [f"{nodes[0]}: no read and write access", f"member of {group}: no"]
        + ([f"npu-smi: {ascend.smi_error}"] if ascend.smi_error else []),
        f"Add the user to group {group} and log in again.",
        [f'sudo usermod -aG {group} "$USER"'],
    )


def health(c: Context) -> Iterator[Finding]:
    """What npu-smi says of each chip's health."""
    ascend = c.facts.ascend
    for npu in ascend.npus if ascend else ():
        word = (npu.health or "OK").lower()
        if word in ("ok", "normal"):
            continue
        yield c.finding(
            "npu.hardware-fault",
            ERROR if word in BAD_HEALTH else WARNING,
            f"NPU {npu.npu_id} chip {npu.chip_id} ({npu.name}) reports health {npu.health}.",
            [f"npu-smi info: NPU {npu.npu_id}, health {npu.health}"],
            "Read the error code; most are kernel or driver faults that a reset clears. Leave the chip "
            "out by ASCEND_RT_VISIBLE_DEVICES meanwhile.",
            [f"npu-smi info -t health -i {npu.npu_id} -c {npu.chip_id}"],
        )


def visibility(c: Context) -> Iterator[Finding]:
    """ASCEND_RT_VISIBLE_DEVICES that leaves nothing, or names what is not there."""
    ascend = c.facts.ascend
    if ascend is None or ascend.visible_variable is None or not c.has_npu:
        return
    count = len(ascend.npus) or len(ascend.device_nodes)
    mask = ascend.visible_variable
    if not count or (ascend.visible and not ascend.invalid_visible):
        return
    if ascend.invalid_visible:
        cause = (
            f"ASCEND_RT_VISIBLE_DEVICES={mask} names {joined(list(ascend.invalid_visible))}, and the "
            f"devices here are 0 to {count - 1}: "
            + ("those after it are lost." if ascend.visible else "no device is left.")
        )
    else:
        cause = f"ASCEND_RT_VISIBLE_DEVICES='{mask}' hides all {count} devices."
    yield c.finding(
        "npu.no-devices-visible",
        ERROR,
        cause,
        [f"ASCEND_RT_VISIBLE_DEVICES={mask!r}", f"{count} devices"],
        "Unset the variable, or name the devices to use, as in 0,1,2,3.",
        ["unset ASCEND_RT_VISIBLE_DEVICES"],
    )


def memory_held(c: Context) -> Iterator[Finding]:
    """NPUs whose memory other processes hold."""
    ascend = c.facts.ascend
    for npu in ascend.npus if ascend else ():
        if not npu.hbm_total or npu.hbm_used is None:
            continue
        if npu.hbm_used < npu.hbm_total * MEMORY_HELD:
            continue
        holders = [f"PID {p.pid} ({p.name}, {memory(p.memory or 0)})" for p in npu.processes]
        yield c.finding(
            "npu.oom",
            WARNING,
            f"{memory(npu.hbm_used)} of {memory(npu.hbm_total)} on NPU {npu.npu_id} are taken by "
            f"{joined(holders[:3]) or 'processes not shown here'}.",
            [f"npu-smi info: NPU {npu.npu_id}, {npu.hbm_used}/{npu.hbm_total} MB"],
            "End those processes if they are leftovers of a run.",
            ["npu-smi info"],
        )


# --- CANN ------------------------------------------------------------------------------------


def cann(c: Context) -> Iterator[Finding]:
    """No CANN, one without operators, or one whose environment is not set."""
    ascend = c.facts.ascend
    if ascend is None or not (c.has_npu or ascend.torch_npu):
        return
    active = ascend.active
    if active is None:
        if not c.has_npu:
            return
        yield c.finding(
            "npu.cann-missing",
            ERROR,
            "No CANN toolkit is installed: there is none below /usr/local/Ascend, and the "
            "environment names none.",
            ["/usr/local/Ascend: no ascend-toolkit, no cann-*", "ASCEND_HOME_PATH: not set"],
            f"Install the CANN toolkit and the operator package of this chip, from {PORTAL}.",
        )
        return
    if ascend.env_sourced is False:
        script = active.set_env or f"{active.path}/set_env.sh"
        yield c.finding(
            "npu.cann-env-not-set",
            ERROR,
            f"CANN {active.version or ''} is installed at {active.path}, but its set_env.sh was not "
            f"sourced: {joined(list(ascend.env_missing))} lack{'s' if len(ascend.env_missing) == 1 else ''}"
            " its paths, so libascendcl.so and libhccl.so cannot be opened.",
            [f"{name}: without {active.path}" for name in ascend.env_missing],
            "Source it in the shell that starts the run; launch scripts should do so first.",
            [f"source {script}"],
        )
    if active.kernels is None:
        yield c.finding(
            "npu.kernels-missing",
            ERROR,
            f"CANN {active.version} at {active.path} is there without its operator package (kernels, "
            "from 8.5 on ops): operators have no binary for this chip.",
            [f"{active.path}: no *kernels*install.info, no *ops*install.info"],
            f"Install the package of the same release and chip, from {PORTAL}.",
        )


def driver_cann(c: Context) -> Iterator[Finding]:
    """CANN names the driver generations that it accepts; firmware names the drivers."""
    ascend = c.facts.ascend
    if ascend is None:
        return
    active = ascend.active
    inner = GENERATION.match(ascend.driver_inner_version or "")
    own = GENERATION.match((active.inner_version if active else None) or "")
    # the list leaves out the CANN's own generation, and cannot name those that came after it
    fitting = {*active.accepts_drivers, own.group(0) if own else ""} if active else set()
    if active and active.accepts_drivers and inner and inner.group(0) not in fitting:
        accepted = sorted(active.accepts_drivers)
        newer = _is_newer(c, ascend.driver_version, inner.group(0), fitting)
        yield c.finding(
            "npu.driver-cann-mismatch",
            WARNING if newer else ERROR,
            f"Driver {ascend.driver_version} is of generation {inner.group(0)}, and CANN "
            f"{active.version} names {joined(accepted)}"
            + (": it is newer than all of them." if newer else "."),
            [
                f"driver/version.info: Innerversion={ascend.driver_inner_version}",
                f"{active.path}: compatible_version={','.join(active.accepts_drivers)}",
            ],
            "Newer drivers mostly serve an older CANN; if it does not start, install a newer CANN."
            if newer
            else f"Update driver and firmware, or install an older CANN; both are at {PORTAL}.",
        )
    accepted_drivers = ascend.firmware_accepts_drivers
    version = ascend.driver_version
    if (
        accepted_drivers
        and version
        and not any(
            version == a.rstrip(".") or version.startswith(f"{a.rstrip('.')}.")
            for a in accepted_drivers
        )
    ):
        yield c.finding(
            "npu.driver-cann-mismatch",
            WARNING,
            f"Firmware {ascend.firmware_version} does not name driver {version} among those that it "
            f"goes with ({joined(list(accepted_drivers))}).",
            [f"firmware/version.info: compatible_version_drv={','.join(accepted_drivers)}"],
            f"Install the firmware of the driver's release, from {PORTAL}.",
        )


def _is_newer(c: Context, driver: str | None, generation: str, accepted: set[str]) -> bool:
    """Whether a driver is newer than all accepted generations: by its release, since generations began anew at 26.0."""
    rows = c.tables.rows("ascend", "driver")
    releases = [str(row["release"]) for row in rows if row["generation"] in accepted]
    if driver and releases:
        return cann_key(driver) > max(map(cann_key, releases))
    return generation > max(accepted)


# --- torch_npu -------------------------------------------------------------------------------


def torch_npu(c: Context) -> Iterator[Finding]:
    """torch_npu beside this torch and this CANN."""
    ascend, build = c.facts.ascend, c.torch
    if ascend is None or (not c.has_npu and ascend.torch_npu is None):
        return
    npu = ascend.torch_npu
    if npu is None:
        if build is not None and "torch_npu" not in ascend.unknown:
            pair = best_npu_pair(c)
            commands = [apply_command(c.facts)] if pair else []
            yield c.finding(
                "npu.torch-npu-missing",
                ERROR,
                f"torch {build.version} is installed without torch_npu: it does not see the NPUs.",
                ["no distribution torch_npu"],
                "Install the torch_npu that goes with this CANN"
                + (f": {pair['torch_npu']}, with torch {pair['torch']}." if pair else "."),
                commands,
            )
        return
    if build is not None and build.version and release(npu.version) != release(build.version):
        yield _mismatch(
            c,
            f"torch_npu {npu.version} belongs to torch {release(npu.version)}, and torch "
            f"{build.version} is installed.",
            [f"torch_npu {npu.version}", f"torch {build.version}"],
        )
        return
    yield from _pair_with_cann(c, npu.version)
    yield from _python_of(c)


def _pair_with_cann(c: Context, version: str) -> Iterator[Finding]:
    ascend = c.facts.ascend
    active = ascend.active if ascend else None
    if active is None or active.version is None:
        return
    rows = c.tables.rows("ascend", "pair")
    fitting = [row["torch_npu"] for row in c.tables.cann_pairs(active.version)]
    others = [str(row["cann"]) for row in rows if row["torch_npu"] == version]
    if not fitting or version in fitting or not others:
        return
    wanted = joined(sorted(others, key=cann_key), "or")
    yield _mismatch(
        c,
        f"torch_npu {version} needs CANN {wanted}, and CANN {active.version} is in use.",
        [
            f"torch_npu {version}",
            f"{active.path}: CANN {active.version}",
            f"build/ascend.toml: CANN {active.version} goes with {joined(fitting)}",
        ],
    )


def _python_of(c: Context) -> Iterator[Finding]:
    ascend = c.facts.ascend
    npu = ascend.torch_npu if ascend else None
    wanted = f"cp{str(c.python_minor).replace('.', '')}" if c.python_minor else None
    if npu is None or wanted is None or not npu.python_tags or wanted in npu.python_tags:
        return
    yield _mismatch(
        c,
        f"torch_npu {npu.version} was built for {joined(list(npu.python_tags))}, and this Python is "
        f"{wanted}.",
        [f"{npu.path}: {joined(list(npu.python_tags))}"],
    )


def _mismatch(c: Context, cause: str, evidence: list[str]) -> Finding:
    pair = best_npu_pair(c)
    text = f"Take torch, torch_npu and CANN of one row of the vendor's table ({PORTAL})."
    if pair:
        text = f"Install torch {pair['torch']} with torch_npu {pair['torch_npu']}, or another CANN."
    return c.finding("npu.torch-npu-mismatch", ERROR, cause, evidence, text, torch_commands(c))


def packages(c: Context) -> Iterator[Finding]:
    """Python packages that torch_npu's metadata does not ask for and that it needs."""
    ascend = c.facts.ascend
    npu = ascend.torch_npu if ascend else None
    if npu is None or not (npu.missing_packages or npu.unfit_packages):
        return
    wrong = [*(f"{name} is missing" for name in npu.missing_packages), *npu.unfit_packages]
    requirements = list(npu.missing_packages)
    for text in npu.unfit_packages:
        match = re.match(r"(\S+) \S+ \(needs (.*)\)", text)
        if match:
            requirements.append(match.group(1) + match.group(2))
    yield c.finding(
        "npu.python-deps-missing",
        ERROR,
        f"torch_npu {npu.version} and CANN import packages that are not as they need them: "
        f"{joined(wrong)}.",
        wrong,
        f"Install {joined(requirements)}; torch_npu's own metadata asks for few of them.",
        [apply_command(c.facts)],
    )


def libraries(c: Context) -> Iterator[Finding]:
    """Libraries of torch_npu that the loader does not find, by where they should come from."""
    ascend = c.facts.ascend
    npu = ascend.torch_npu if ascend else None
    if ascend is None or npu is None:
        return
    missing = list(npu.missing_libraries)
    hal = [name for name in missing if name.startswith("libascend_hal")]
    of_cann = [name for name in missing if CANN_LIBRARIES.match(name)]
    others = [name for name in missing if name not in hal and name not in of_cann]
    if of_cann and not ascend.toolkits and not c.has_npu:  # with an NPU `cann` says so
        yield c.finding(
            "npu.cann-missing",
            ERROR,
            f"torch_npu {npu.version} needs {joined(of_cann)} of CANN, and no CANN is installed: "
            "importing it fails.",
            [f"{npu.path}: needs {name}, not found" for name in of_cann],
            f"Install the CANN that goes with it, from {PORTAL}, and source its set_env.sh.",
        )
    elif of_cann and ascend.env_sourced:
        yield c.finding(
            "npu.library-missing",
            ERROR,
            f"torch_npu {npu.version} needs {joined(of_cann)}, which the CANN in use does not have.",
            [f"{npu.path}: needs {name}, not found" for name in of_cann],
            "Install the CANN release that goes with this torch_npu.",
        )
    if hal and ascend.driver_version is None and ascend.driver_library is None:
        yield c.finding(
            "npu.driver-missing",
            ERROR,
            f"torch_npu {npu.version} needs {joined(hal)} of the Ascend driver, which is not "
            "installed or not mounted here.",
            [f"{npu.path}: needs {name}, not found" for name in hal],
            "Install the driver; in a container mount /usr/local/Ascend/driver.",
        )
    for name in others:
        atb = name.startswith("libatb")
        yield c.finding(
            "npu.library-missing",
            ERROR,
            f"torch_npu {npu.version} needs {name}, and the loader finds it nowhere"
            + (
                f"; it belongs to NNAL, which is {'not sourced' if ascend.nnal else 'not installed'}."
                if atb
                else "."
            ),
            [f"{npu.path}: needs {name}, not found"],
            "Install NNAL of the same CANN release and source its set_env.sh."
            if atb
            else "Install torch_npu and torch again as a pair.",
            [f"source {ascend.nnal}/atb/set_env.sh"] if atb and ascend.nnal else [],
        )


RULES = (
    driver,
    driver_library,
    permission,
    health,
    visibility,
    memory_held,
    cann,
    driver_cann,
    torch_npu,
    packages,
    libraries,
)

"""Ascend: chips, driver and firmware, npu-smi, CANN in its two layouts."""

from __future__ import annotations

from collections.abc import Iterable

from machines.describe import Ascend, Machine
from machines.elf import elf
from machines.tree import Tree, bus, pci

CANN_LIBRARIES = ("libascendcl", "libhccl", "libacl_op_compiler", "libge_runner", "libgraph",
                  "libruntime")  # fmt: skip
RULE = "+---------------------------+---------------+------------------------------------+"


def _cann_home(it: Ascend) -> tuple[str, str]:
    """Where a toolkit lies, and what its environment calls it: the layout changed with 8.5."""
    base = "/usr/local/Ascend"
    if tuple(int(n) for n in str(it.cann).split(".")[:2]) < (8, 5):
        return f"{base}/ascend-toolkit/{it.cann}", f"{base}/ascend-toolkit/latest"
    return f"{base}/cann-{it.cann}", f"{base}/cann-{it.cann}"


def sourced(machine: Machine) -> dict[str, str]:
    """What set_env.sh sets, if it was sourced."""
    it = machine.ascend
    if it is None or it.cann is None or not it.sourced:
        return {}
    home = _cann_home(it)[1]
    tbe = f"{home}/opp/built-in/op_impl/ai_core/tbe"
    driver = "/usr/local/Ascend/driver/lib64"
    return {
        "LD_LIBRARY_PATH": f"{home}/lib64:{home}/lib64/plugin/opskernel:{driver}:{driver}/common/:{driver}/driver/",
        "PYTHONPATH": f"{home}/python/site-packages:{tbe}",
        "ASCEND_TOOLKIT_HOME": home,
        "ASCEND_HOME_PATH": home,
        "ASCEND_OPP_PATH": f"{home}/opp",
    }


def write_ascend(tree: Tree, it: Ascend, machine: Machine) -> None:
    """Write chips, driver and CANN."""
    for i in range(it.count):
        if it.on_bus:
            pci(tree, bus(i), "19e5", it.pci, "0x120000")
        if it.nodes:
            tree.file(f"/dev/davinci{i}")
    for node in ("davinci_manager", "devmm_svm", "hisi_hdc") if it.nodes else ():
        tree.file(f"/dev/{node}")
    if it.driver:
        _ascend_driver(tree, it)
    if it.cann:
        _cann(tree, it, machine)


def _brackets(generations: Iterable[str]) -> str:
    return ",".join(f"[V100R001{c}]" for c in generations)


def _ascend_driver(tree: Tree, it: Ascend) -> None:
    base = "/usr/local/Ascend"
    tree.file(
        "/etc/ascend_install.info",
        f"UserName=HwHiAiUser\nUserGroup=HwHiAiUser\nDriver_Install_Path_Param={base}\n"
        "Driver_Install_For_All=no\n",
    )
    tree.file("/proc/modules", "drv_davinci_intf_host 20480 12 - Live 0x0 (OE)\n")
    tree.file(
        f"{base}/driver/version.info",
        f"Version={it.driver}\nascendhal_version=7.35.23\nInnerversion={it.inner}SPC008B208\n"
        f"compatible_version={_brackets(it.driver_accepts)}\ncompatible_version_fw=[7.0.0,8.9.9]\n"
        f"package_version={it.driver}\n",
    )
    tree.file(
        f"{base}/firmware/version.info",
        f"Version=7.7.0.6.236\npackage_version={it.driver}\ncompatible_version_drv="
        "[24.1,24.1.],[25.0,25.0.],[25.2,25.2.],[25.3,25.3.],[25.5,25.5.],[26.0,26.0.]\n",
    )
    tree.file(f"{base}/driver/lib64/driver/libascend_hal.so", elf("libascend_hal.so"))
    said, status = (it.says, 1) if it.says else (_npu_table(it), 0)
    board = f"\tNPU ID : 0\n\tChip Name : {it.name}\n\tNPU Name : 9392\n\tPCI Device ID : 0xD803"
    tree.program(
        "/usr/local/bin/npu-smi",
        f"""case "$*" in "info -t board"*) cat <<'EOF'\n{board}\nEOF\nexit;; info) ;;
*) echo 'Command or option is not found.'; exit 1;; esac\ncat <<'EOF'\n{said}\nEOF\nexit {status}""",
    )


def _npu_table(it: Ascend) -> str:
    lines = [
        RULE,
        f"| npu-smi {it.driver}   Version: {it.driver}   |",
        RULE,
        "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages |",
        "| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage |",
    ]
    held = []  # fmt: skip
    for i in range(it.count):
        npu, chip = divmod(i, it.chips)
        numbers = f"{chip}" if it.chips == 1 else f"{chip}     {i}"
        used = it.used.get(i, 3400)
        lines += [f"| {npu}     {it.name:<19} | {it.health.get(i, 'OK'):<13} | 93.1   36   0    / 0   |",
                  f"| {numbers:<25} | {bus(i).upper()}  | 0      0    / 0          {used} / 65536 |",
                  RULE]  # fmt: skip
        if i in it.used and it.lists_processes:
            held.append(
                f"| {npu}       {chip}                 | {4242 + i}          | python  | {used}  |"
            )
    lines += [
        "| NPU     Chip              | Process id    | Process name | Process memory(MB) |",
        RULE,
    ]
    return "\n".join([*lines, *(held or ["| No running processes found in NPU 0 |"])])


def _cann(tree: Tree, it: Ascend, machine: Machine) -> None:
    home, _ = _cann_home(it)
    base, platform = "/usr/local/Ascend", f"{machine.arch}-linux"
    version = f"Version={it.cann}.0.201\nversion_dir={it.cann}\ntimestamp=20250724_194044950\n"
    for part in ("runtime", "toolkit", "opp"):
        tree.file(f"{home}/{part}/version.info", version)
    info = f"version={it.cann}\ninnerversion=V100R001C22SPC001B231\n"
    info += f"compatible_version={_brackets(it.accepts)}\narch={machine.arch}\nos=linux\n"
    new = home.startswith(f"{base}/cann-")
    packages = {"toolkit": "toolkit", "ops" if new else "kernels": "kernels-910b"}
    for name, package in packages.items():
        if name == "toolkit" or it.kernels:
            text = f"package_name=Ascend-cann-{package}\n{info}path={home}/{platform}\n"
            tree.file(f"{home}/{platform}/ascend_{name}_install.info", text)
    for library in CANN_LIBRARIES:
        tree.file(f"{home}/{platform}/lib64/{library}.so", elf(f"{library}.so", arch=machine.arch))
    tree.link(f"{home}/lib64", f"{platform}/lib64")
    tree.file(f"{home}/python/site-packages/tbe/__init__.py")
    tree.file(f"{home}/opp/built-in/op_impl/ai_core/tbe/impl/__init__.py")
    tree.file(f"{base}/ascend-toolkit/set_env.sh", "export ASCEND_HOME_PATH=…\n")
    if new:
        tree.file(f"{home}/set_env.sh", "export ASCEND_HOME_PATH=…\n")
        tree.link(f"{base}/cann", f"cann-{it.cann}")
        tree.link(f"{base}/ascend-toolkit/latest", "../cann")
    else:
        for part in ("runtime", "toolkit", "opp", "python", "lib64"):
            tree.link(f"{base}/ascend-toolkit/latest/{part}", f"../{it.cann}/{part}")

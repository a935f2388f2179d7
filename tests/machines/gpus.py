"""NVIDIA: cards on the bus, driver, an nvidia-smi that answers and refuses, toolkits."""

from __future__ import annotations

import itertools

from machines.describe import CARDS, DATA_CENTER, Gpu, Machine, Nvidia
from machines.elf import elf
from machines.tree import Libraries, Tree, bus, pci

NVIDIA_SMI = r"""
apps() { cat <<'EOF'
@APPS@
EOF
}
data() { cat <<'EOF'
@DATA@
EOF
}
case "$1" in
--query-gpu=*)
  cat <<'EOF' | sed '/^$/d'
@WARNS@
EOF
  data | awk -F'|' -v q="${1#--query-gpu=}" '
  NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; n = split(q, field, ",")
    for (i = 1; i <= n; i++) if (field[i] !~ /^(index|name|uuid|driver_version|compute_cap|compute_mode|serial|gpu_recovery_action|(pci|memory|mig|ecc|retired_pages|remapped_rows|fabric|power|utilization|temperature|clocks)\..*)$/ || (@KNOWS@)) {
      printf "Field \"%s\" is not a valid field to query.\n\n", field[i]; status = 2; exit }
    next }
  { for (i = 1; i <= n; i++) printf "%s%s", (i > 1 ? ", " : ""), (field[i] in column ? $column[field[i]] : "[N/A]"); print "" }
  END { exit status }' ;;
--query-compute-apps=*) apps | sed '/^$/d' ;;
-L) cat <<'EOF'
@LIST@
EOF
;;
topo) printf '@TOPO@' ;;
"") cat <<'EOF'
| NVIDIA-SMI @DRIVER@             Driver Version: @DRIVER@     CUDA Version: @CUDA@     |
EOF
;;
*) echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help."; exit 2 ;;
esac
"""  # noqa: E501

DRIVER_CUDA = {"470": "11.4", "525": "12.0", "535": "12.2", "545": "12.3", "550": "12.4",
               "560": "12.6", "570": "12.8", "575": "12.9", "580": "13.0", "581": "13.0",
               "590": "13.1"}  # fmt: skip


def uuid(number: int) -> str:
    return f"GPU-0000000{number}-1111-2222-3333-444444444444"


def smi(it: Nvidia) -> str:
    """An nvidia-smi that answers for some cards."""
    if it.says is not None:
        return f"cat <<'EOF'\n{it.says}\nEOF\nexit 9"
    driver = str(it.driver)
    rows = [smi_row(i, card, driver) for i, card in enumerate(it.cards)]
    fields = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    table = ["|".join(fields), *("|".join(row.get(f, "[N/A]") for f in fields) for row in rows)]
    listed = [f"GPU {i}: {c.name} (UUID: {uuid(i)})" for i, c in enumerate(it.cards)]
    numbers = range(len(it.cards))
    links = [
        f"GPU{i}" + "".join("\\t X " if i == j else "\\tNV18" for j in numbers) for i in numbers
    ]
    apps = [line.split(", ", 1) for line in it.apps.splitlines()]
    values = {
        "APPS": "\n".join(f"{uuid(int(number))}, {rest}" for number, rest in apps),
        "DATA": "\n".join(table),
        "WARNS": it.warns,
        "LIST": it.listing if it.listing is not None else "\n".join(listed),
        "TOPO": "".join(f"\\tGPU{i}" for i in numbers) + "\\n" + "\\n".join(links) + "\\n",
        "DRIVER": driver,
        "CUDA": it.cuda or DRIVER_CUDA.get(driver.split(".")[0], "13.0"),
        "KNOWS": f"field[i] ~ /{it.knows}/" if it.knows else "0",
    }
    script = NVIDIA_SMI
    for key, value in values.items():
        script = script.replace(f"@{key}@", value)
    return script


def smi_row(number: int, card: Gpu, driver: str) -> dict[str, str]:
    """What nvidia-smi answers of a card, by field."""
    memory = {"memory.total": str(card.memory), "memory.free": str((card.memory or 0) - 18)}
    reliable = card in [CARDS[name] for name in DATA_CENTER]
    answers = {
        "index": str(number),
        "name": card.name,
        "uuid": uuid(number),
        "pci.bus_id": f"0000{bus(number).upper()}",
        "pci.device_id": f"0x{card.pci.upper()}10DE",
        "driver_version": driver,
        "compute_cap": card.cc,
        "compute_mode": "Default",
        "gpu_recovery_action": "None",
    }
    if reliable or card.fields.keys() & {"mig.mode.current", "ecc.mode.current"}:
        answers |= {"mig.mode.current": "Disabled", "ecc.mode.current": "Enabled",
                    "ecc.errors.uncorrected.volatile.total": "0", "remapped_rows.pending": "No",
                    "remapped_rows.failure": "No", "retired_pages.pending": "No"}  # fmt: skip
    return answers | (memory if card.memory else {}) | dict(card.fields)


def write_nvidia(tree: Tree, it: Nvidia, machine: Machine, libraries: Libraries) -> None:
    """Write cards and driver."""
    on_bus = (*it.cards, *(CARDS[name] for name in it.unlisted))
    for i, card in enumerate(on_bus if not it.wsl else ()):
        pci(tree, bus(i), "10de", card.pci, "0x030200" if card.memory else "0x030000")
    if it.driver is None:
        return
    if it.wsl:
        tree.file("/dev/dxg")
        if it.library == "":  # a container that was given nvidia-smi alone
            tree.program("nvidia-smi", smi(it))
            return
        libraries.add("/usr/lib/wsl/lib/libcuda.so.1")
        tree.program("/usr/lib/wsl/lib/nvidia-smi", smi(it))
        tree.link("/usr/bin/nvidia-smi", "../lib/wsl/lib/nvidia-smi")
        return
    tree.file("/sys/module/nvidia/version", f"{it.driver}\n")
    # the open module serves nothing before Turing
    of_nvidia = it.says is None and any(float(card.cc) < 7.5 for card in it.cards)
    module = (
        f"{machine.arch} Kernel Module" if of_nvidia else f"Open Kernel Module for {machine.arch}"
    )
    tree.file(
        "/proc/driver/nvidia/version",
        f"NVRM version: NVIDIA UNIX {module}  {it.driver}  Release "
        "Build  (dvs-builder@U22-I3-AM02-24-3)\nGCC version:  gcc version 13.3.0\n",
    )
    for i, card in enumerate(it.cards):
        about = f"Model: \t\t {card.name}\nBus Location: \t {bus(i)}\n"
        tree.file(f"/proc/driver/nvidia/gpus/{bus(i)}/information", about)
    if it.nodes:
        for node in ("nvidiactl", "nvidia-uvm", *(f"nvidia{i}" for i in range(len(it.cards)))):
            tree.file(f"/dev/{node}")
    library = it.driver if it.library is None else it.library
    if library:
        for name in ("libcuda.so", "libnvidia-ml.so"):
            libraries.add(f"{libraries.folder}/{name}.1", f"{name}.{library}")
    tree.program("nvidia-smi", smi(it))


TOOLKIT_ARCHS = {"11": "52 60 61 70 75 80 86 87 89 90", "12": "52 60 61 70 75 80 86 89 90",
                 "12.8": "52 60 61 70 75 80 86 89 90 100 120",
                 "13": "75 80 86 87 88 89 90 100 110 103 120 121"}  # fmt: skip


def write_toolkit(tree: Tree, version: str, machine: Machine, *, first: bool) -> None:
    """Write a CUDA toolkit."""
    home, major = f"/usr/local/cuda-{version}", version.split(".")[0]
    targets = f"{home}/targets/{machine.arch}-linux/lib"
    tree.file(
        f"{home}/version.json", f'{{"cuda": {{"name": "CUDA SDK", "version": "{version}.1"}}}}'
    )
    archs = TOOLKIT_ARCHS.get(version, TOOLKIT_ARCHS[major])
    tree.program(
        f"{home}/bin/nvcc",
        f'case "$1" in --list-gpu-arch) for a in {archs}; do echo compute_$a; done;;\n'
        f"*) echo 'Cuda compilation tools, release {version}, V{version}.88';; esac",
    )
    for name in (f"libcudart.so.{major}", f"libcublas.so.{major}", f"libnvJitLink.so.{major}"):
        tree.file(f"{targets}/{name}", elf(name, arch=machine.arch))
    tree.link(f"{home}/lib64", f"targets/{machine.arch}-linux/lib")
    if first:
        tree.link("/usr/local/cuda", f"cuda-{version}")

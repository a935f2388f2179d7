"""Drivers, visibility, faults, memory, and the code that a torch has for a card."""

from __future__ import annotations

from machines import CARDS, even

from cases.describe import (
    LOST_SAYS,
    MIG_ON,
    MISMATCH_SAYS,
    NO_DRIVER_SAYS,
    NVSWITCH,
    OUTSIDE_FABRIC,
    Case,
    case,
    container,
    pc,
    torch,
    wsl,
)

CARDS_AND_DRIVERS: dict[str, Case] = {
    # --- driver -----------------------------------------------------------------------------
    "nouveau holds the card": case(
        pc("RTX 4090", driver=None, torch=None,
           files={"/proc/modules": "nouveau 3227648 4 - Live 0x0\n", "/sys/module/nouveau/x": ""}),
        "cuda.driver-missing torch.missing", says=("nouveau",),
    ),
    "no driver at all": case(
        pc("H100", driver=None), "cuda.driver-missing", says=("no NVIDIA driver is installed",)
    ),
    "libraries there, module not loaded": case(
        pc("RTX 4090", smi={"says": NO_DRIVER_SAYS}, without=("/sys/module/nvidia", "/proc/driver")),
        "cuda.driver-missing", says=("module is not loaded",),
    ),
    "module loaded, libraries missing": case(
        pc("RTX 4090", smi={"library": ""}, without=("/usr/bin/nvidia-smi",)),
        "cuda.driver-missing", says=("libcuda.so.1 is not installed",),
    ),
    "driver updated, old module still loaded": case(
        pc("RTX 4090", driver="570.133.07", smi={"library": "570.172.08", "says": MISMATCH_SAYS}),
        "cuda.driver-library-mismatch", says=("570.133.07", "570.172.08"),
    ),
    "container without --gpus": case(
        container(pc("RTX 4090", smi={"library": "", "nodes": False}, without=("/usr/bin/nvidia-smi",))),
        "cuda.no-devices-visible", says=("--gpus all",),
    ),
    "container without --gpus, libcuda in the image": case(
        container(pc("RTX 4090", smi={"nodes": False, "says": "Failed to initialize NVML: Unknown Error"})),
        "cuda.no-devices-visible", says=("--gpus all",),
    ),
    "pod without a GPU": case(
        pc("H100", smi={"library": "", "nodes": False}, without=("/usr/bin/nvidia-smi",),
           env={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}),
        "cuda.no-devices-visible",
    ),
    "driver answers that there are no devices": case(
        pc("RTX 4090", smi={"says": "No devices were found"}), "cuda.no-devices-visible",
    ),
    "driver without nvidia-smi": case(
        pc("RTX 4090", without=("/usr/bin/nvidia-smi",)),
    ),
    "driver 535 and a CUDA 13 wheel": case(
        pc("RTX 4090", driver="535.183.01", torch="cu130"), "cuda.driver-too-old", says=("580.65.06",),
        never=("cu132",),
    ),
    "driver 575 and a CUDA 13 wheel": case(
        pc("RTX 4090", driver="575.64.03", torch="cu130"), "cuda.driver-too-old"
    ),
    "driver 515 and a CUDA 12 wheel": case(
        pc("A100", driver="515.105.01"), "cuda.driver-too-old", says=("525.60.13",)
    ),
    **{
        f"RTX 5090, driver {driver}, nothing installed": case(
            pc("RTX 5090", driver=driver, torch=None), "cuda.driver-too-old torch.missing",
            never=("cu126", "pip install torch"),
        )
        for driver in ("535.183.01", "550.144.03", "560.35.03")
    },
    "RTX 5090, driver 565 and a wheel with its code": case(
        pc("RTX 5090", driver="565.57.01"), "cuda.driver-too-old", says=("570",)
    ),
    "RTX 5090, driver 570, nothing installed": case(
        pc("RTX 5090", driver="570.133.07", torch=None), "torch.missing", says=(r"cu12[89]",),
    ),
    "RTX 5090 that driver 560 does not know": case(
        pc("RTX 5090", driver="560.35.03", torch=None, smi={"says": "No devices were found"}),
        "cuda.driver-too-old torch.missing",
    ),
    "GTX 1080, driver 470: an old wheel runs": case(
        pc("GTX 1080", driver="470.256.02", torch=None), "torch.missing", says=("cu118",)
    ),
    "GTX 1080, driver 580: architecture before novelty": case(
        pc("GTX 1080", torch=None), "torch.missing", says=("cu126",)
    ),
    "K80, driver 470": case(
        pc("2 * K80", driver="470.256.02", torch=None), "torch.missing", says=("cu118",)
    ),
    "GTX TITAN: too old for every wheel": case(
        pc("GTX TITAN", driver="470.256.02", torch=None), "torch.missing", says=("3.5",),
        never=("see the other findings",),
    ),
    "display card too old for any torch, CPU wheel": case(
        pc("GTX TITAN", driver="470.256.02", torch="cpu"), infos="torch.arch-missing",
    ),
    # --- visibility ---------------------------------------------------------------------------
    "CUDA_VISIBLE_DEVICES is empty": case(
        pc("RTX 4090", env={"CUDA_VISIBLE_DEVICES": ""}), "cuda.no-devices-visible"
    ),
    "CUDA_VISIBLE_DEVICES=-1": case(
        pc("RTX 4090", env={"CUDA_VISIBLE_DEVICES": "-1"}), "cuda.no-devices-visible"
    ),
    "CUDA_VISIBLE_DEVICES out of range": case(
        pc("2 * RTX 4090", env={"CUDA_VISIBLE_DEVICES": "0,1,2"}), "cuda.invalid-device"
    ),
    "CUDA_VISIBLE_DEVICES names only what is not there": case(
        pc("RTX 4090", env={"CUDA_VISIBLE_DEVICES": "4"}),
        "cuda.invalid-device cuda.no-devices-visible",
    ),
    "CUDA_VISIBLE_DEVICES names an unknown UUID": case(
        pc("RTX 4090", env={"CUDA_VISIBLE_DEVICES": "GPU-99999999"}),
        "cuda.invalid-device cuda.no-devices-visible",
    ),
    "MIG on, no instance": case(pc(MIG_ON), "cuda.no-devices-visible", says=("MIG",)),
    "GPU given to a virtual machine": case(
        pc("RTX 4090", driver=None,
           files={"/sys/bus/pci/drivers/vfio-pci/bind": ""},
           links={"/sys/bus/pci/devices/0000:11:00.0/driver": "../../drivers/vfio-pci"}),
        "cuda.no-devices-visible", says=("vfio-pci",),
    ),
    "GPU given to a virtual machine, link of a copied sysfs": case(
        pc("RTX 4090", driver=None,
           links={"/sys/bus/pci/devices/0000:11:00.0/driver": "../../../../bus/pci/drivers/vfio-pci"}),
        "cuda.no-devices-visible",
    ),
    "fabric manager inactive": case(
        pc("8 * H200", files=NVSWITCH, programs={"systemctl": "echo inactive; exit 3"}),
        "cuda.init-failed", says=("802", "fabric"),
    ),
    "fabric manager failed": case(
        pc("8 * A100", files=NVSWITCH, programs={"systemctl": "echo failed; exit 3"}),
        "cuda.init-failed",
    ),
    "fabric never came up, as the driver says": case(
        pc(*[OUTSIDE_FABRIC] * 8, files=NVSWITCH), "cuda.init-failed", says=("802",)
    ),
    "fabric never came up, switches outside of this virtual machine": case(
        pc(*[OUTSIDE_FABRIC] * 8), "cuda.init-failed", says=("802",)
    ),
    # --- faults, memory ---------------------------------------------------------------------
    "uncorrected ECC errors": case(
        pc("A100", CARDS["A100"].but(ecc__errors__uncorrected__volatile__total="17")),
        "cuda.hardware-fault", says=("17 uncorrected", "GPU 1"),
    ),
    "row remapping failed": case(
        pc(CARDS["H100"].but(remapped_rows__failure="Yes")), "cuda.hardware-fault"
    ),
    "driver asks for a reset": case(
        pc(CARDS["H100"].but(gpu_recovery_action="Reset")), "cuda.hardware-fault"
    ),
    "GPU lost": case(pc("RTX 4090", smi={"says": LOST_SAYS}), "cuda.hardware-fault"),
    "memory held by a dead run": case(
        pc(CARDS["RTX 4090"].but(memory__free="1210"), smi={"apps": "0, 4711, python, 23300"}),
        warnings="cuda.oom", says=("4711", "python"),
    ),
    "memory held, by whom is not shown": case(
        pc(CARDS["RTX 4090"].but(memory__free="1210")), warnings="cuda.oom"
    ),
    "memory held on a hidden GPU": case(
        pc(CARDS["RTX 4090"].but(memory__free="1210"), "RTX 4090", env={"CUDA_VISIBLE_DEVICES": "1"}),
    ),
    # --- torch against the card -----------------------------------------------------------------
    "GTX 1080, CUDA 13 wheel": case(
        pc("GTX 1080", torch="cu130"), "torch.arch-missing", "torch.triton-device-too-old",
        says=("cu126",),
    ),
    "GTX 1080, CUDA 12.6 wheel": case(
        pc("GTX 1080", torch="cu126"), warnings="torch.triton-device-too-old"
    ),
    "RTX 5090, torch 2.6 of CUDA 12.4": case(
        pc("RTX 5090", torch="cu124"), "torch.arch-missing", "torch.ptxas-too-old",
    ),
    "V100, torch 2.11 of CUDA 12.8": case(
        pc("V100", torch="cu128 2.11"), "torch.arch-missing", says=("cu126",)
    ),
    "4090 and 1080 side by side": case(
        pc("GTX 1080", "RTX 4090", torch="cu130"), "torch.arch-missing", "torch.triton-device-too-old",
        says=("6.1",),
    ),
    "the new card hidden": case(
        pc("GTX 1080", "RTX 4090", torch="cu130", env={"CUDA_VISIBLE_DEVICES": "1"}),
        "torch.arch-missing", "torch.triton-device-too-old",
    ),
    "code for this card in a few kernels only": case(
        pc("RTX 4090", torch=torch("cu132", sass=even("7.5 9.0 10.0 12.0") | {"8.9": 1})),
        "torch.arch-missing", says=("few special kernels",),
    ),
    "PTX that this driver is too old to compile": case(
        pc("RTX 4090", driver="535.183.01",
           torch=torch("cu128", sass=even("7.5"), ptx=even("8.0"))),
        "torch.arch-missing", says=("PTX", "535"),
    ),
    "PTX that the driver compiles": case(
        pc("RTX 4090", torch=torch("cu128", sass=even("7.5"), ptx=even("8.0")))
    ),
    "CPU wheel beside a GPU": case(pc("RTX 4090", torch="cpu"), "torch.cpu-only-build"),
    "ROCm wheel beside an NVIDIA GPU": case(
        pc("RTX 4090", torch="rocm"), "torch.cpu-only-build", says=("ROCm",)
    ),
    "CPU wheel in WSL": case(wsl(torch="cpu"), "torch.cpu-only-build"),
}  # fmt: skip

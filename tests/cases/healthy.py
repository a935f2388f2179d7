"""Machines of which nothing is to be said."""

from __future__ import annotations

from dataclasses import replace

from machines import Machine, Torch, elf, even, nvidia

from cases.describe import (
    BUILT_TREE,
    CANN_LIBRARIES,
    DRIVER,
    DRIVER_INFO,
    MIG_LIST,
    MIG_ON,
    NVSWITCH,
    OUTSIDER,
    PTXAS,
    SITE,
    SOURCE_TREE,
    atlas,
    cann85,
    container,
    pc,
    torch,
    wsl,
)

HEALTHY: dict[str, Machine] = {
    "RTX 4090, driver 535, CUDA 12.8 wheel": pc("RTX 4090", driver="535.183.01"),
    "RTX 4090, CUDA 13.2 wheel that has one kernel for 8.9": pc("RTX 4090", torch="cu132"),
    "RTX 4090, wheel of CUDA 12.6": pc("RTX 4090", driver="535.54.03", torch="cu126"),
    "H100 x8": pc("8 * H100", driver="570.172.08"),
    "H100 x8 with NVSwitch and its manager": pc(
        "8 * H100", files=NVSWITCH, programs={"systemctl": "echo active"}
    ),
    "H200 x8 with NVSwitch, no systemctl": pc("8 * H200", files=NVSWITCH),
    "A100": pc("A100", driver="535.230.02"),
    "A100 cut into MIG instances": pc(MIG_ON, smi={"listing": MIG_LIST}),
    "A100, MIG instance chosen": pc(
        MIG_ON,
        smi={"listing": MIG_LIST},
        env={"CUDA_VISIBLE_DEVICES": "MIG-bbbbbbbb-1111-5222-8333-444444444444"},
    ),
    "T4 in the cloud, Debian": pc("T4", driver="550.54.14", distro="debian", glibc="2.36"),
    "T4 with an nvidia-smi of driver 470 that knows few fields": pc(
        "T4", driver="470.256.02", torch=Torch(version="2.6.0+cu118", cuda="11.8", triton="3.2.0",
                                              sass=even("5.0 6.0 7.0 7.5 8.0 8.6 9.0")),
        smi={"knows": "compute_cap|gpu_recovery_action|remapped_rows"},
    ),
    "V100, wheel of CUDA 12.6": pc("V100", driver="535.183.01", torch="cu126"),
    "V100, torch 2.9 of CUDA 12.8 still has 7.0": pc("V100", driver="570.172.08"),
    "RTX 3060 laptop": pc("RTX 3060 Laptop", driver="560.35.03"),
    "L4": pc("L4", driver="550.90.07"),
    "RTX 5090 x2": pc("2 * RTX 5090", driver="575.64.03"),
    "RTX 5090, CUDA 13": pc("RTX 5090", torch="cu130"),
    "B200 x8": pc("8 * B200", driver="580.95.05", torch="cu130"),
    "GB10 shares the host's memory": pc(
        "GB10", arch="aarch64", torch=torch("cu130 arm", ptxas="13.0")
    ),
    "GB10 with a newer ptxas by variable": pc(
        "GB10", arch="aarch64", torch=torch("cu130 arm", ptxas="12.8"),
        env={"TRITON_PTXAS_PATH": "/usr/local/cuda/bin/ptxas"},
        files={"/usr/local/cuda/bin/ptxas": PTXAS.format("13.0")},
    ),
    "GB10 with a newer second ptxas by variable": pc(
        "GB10", arch="aarch64", torch=torch("cu130 arm", ptxas="12.8"),
        env={"TRITON_PTXAS_BLACKWELL_PATH": "/opt/ptxas"},
        files={"/opt/ptxas": PTXAS.format("13.1"),
               f"{SITE}/triton/backends/nvidia/bin/ptxas-blackwell": PTXAS.format("12.8")},
    ),
    "RTX 4090 in a container": container(pc("RTX 4090")),
    "RTX 4090, the old card hidden by number": pc(
        "GTX 1080", "RTX 4090", torch="cu130", env={"CUDA_VISIBLE_DEVICES": "0"}
    ),
    "RTX 4090, the old card hidden, bus order": pc(
        "GTX 1080", "RTX 4090", torch="cu130",
        env={"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    ),
    "RTX 4090, the old card hidden by UUID": pc(
        "GTX 1080", "RTX 4090", torch="cu130", env={"CUDA_VISIBLE_DEVICES": "GPU-00000001"}
    ),
    "RTX 4090, toolkit of the same CUDA": pc("RTX 4090", toolkits=("12.8",)),
    "RTX 4090, nvcc 12.4 with a CUDA 12.8 torch": pc("RTX 4090", toolkits=("12.4",)),
    "RTX 4090, newer CUDA on LD_LIBRARY_PATH": pc(
        "RTX 4090", toolkits=("12.9",), env={"LD_LIBRARY_PATH": "/usr/local/cuda-12.9/lib64"}
    ),
    "RTX 4090, another CUDA major on LD_LIBRARY_PATH": pc(
        "RTX 4090", env={"LD_LIBRARY_PATH": "/usr/local/cuda-11.8/lib64"},
        files={"/usr/local/cuda-11.8/lib64/libcublas.so.11": elf("libcublas.so.11")},
    ),
    "RTX 4090 with its torchvision and torchaudio": pc(
        "RTX 4090",
        packages={"torchvision": "0.24.1+cu128 torch==2.9.1",
                  "torchaudio": "2.9.1+cu128 torch==2.9.1"},
    ),
    "RTX 4090, free-threaded Python": pc("RTX 4090", python="3.13.5t", rustbpe=None),
    "RTX 4090, Python 3.14": pc("RTX 4090", python="3.14.0"),
    "RTX 4090 beside a built tree": pc(
        "RTX 4090",
        files=SOURCE_TREE | {"/home/user/pytorch/torch/lib/libtorch_cpu.so": elf("libtorch_cpu.so")},
    ),
    "CPU only, CPU wheel": Machine(torch="cpu"),
    "CPU only, the CUDA wheel of the default index": Machine(torch="cu128"),
    "CPU only, ARM": Machine(arch="aarch64", torch="cpu"),
    "CPU only, plain 1024 open files, full shm": Machine(
        torch="cpu",
        files={"/proc/self/limits": "Max open files            1024                 524288    files\n"},
    ),
    "conda": pc("RTX 4090", prefix="/opt/conda", files={"/opt/conda/conda-meta/history": ""}),
    "NGC-like container: torch in Debian's /usr/local, CUDA in the image": container(pc(
        "H100", torch=torch("cu130", version="2.9.0a0+145a3a7bda.nv25.10"), prefix="/usr/local",
        site_name="dist-packages", toolkits=("13.0",),
        without=("/usr/local/bin/python", "/usr/local/bin/python3"),
    )),
    "RTX 4090, nightly with its torchvision": pc(
        "RTX 4090", torch=torch("cu130", version="2.10.0.dev20251101+cu130"),
        packages={"torchvision": "0.25.0.dev20251101+cu130 torch==2.10.0.dev20251101"},
    ),
    "H100 x8, half of them": pc(
        "8 * H100", driver="570.172.08", env={"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    ),
    "H100 x8, NVSwitch, half of them cut off by -1": pc(
        "8 * H100", env={"CUDA_VISIBLE_DEVICES": "0,1,-1"}
    ),
    "RTX 5090 and RTX 3060": pc("RTX 5090", "RTX 3060 Laptop"),
    "GTX 1650-like Turing with CUDA 13": pc("T4", torch="cu130"),
    "one GPU of eight in a container": container(pc("H100", files={
        "/sys/bus/pci/devices/0000:c1:00.0/vendor": "0x10de\n",
        "/sys/bus/pci/devices/0000:c1:00.0/device": "0x2330\n",
        "/sys/bus/pci/devices/0000:c1:00.0/class": "0x030200\n"})),
    "no PCI bus to be seen": pc("RTX 4090", without=("/sys/bus",)),
    "integrated graphics beside the card": pc("RTX 4090", files={
        "/sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
        "/sys/bus/pci/devices/0000:00:02.0/device": "0x4680\n",
        "/sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n"}),
    "torch by an editable install": pc("RTX 4090", torch=None, files={
        f"{SITE}/__editable__.torch-2.9.1.pth": "/home/user/pytorch\n",
        f"{SITE}/torch-2.9.1.dist-info/METADATA": "Name: torch\nVersion: 2.9.1\n",
        f"{SITE}/triton-3.5.1.dist-info/METADATA": "Name: triton\nVersion: 3.5.1\n",
        **BUILT_TREE}),
    "WSL": wsl(torch="cu128"),
    "WSL, no NVIDIA driver in Windows": Machine(
        kernel="6.6.87.2-microsoft-standard-WSL2", torch="cpu", files={"/dev/dxg": ""}
    ),
    "910B2 x8, CANN 8.2, Python 3.10": atlas(),
    "910B3 x4, CANN 8.5": atlas("2.9.0", "2.9.0", python="3.11.9",
                                chips=cann85(count=4, name="910B3")),
    "910C: 16 chips of 8 NPUs, CANN 8.5": atlas(
        "2.9.0", "2.9.0", python="3.11.9", arch="aarch64", distro="openeuler",
        chips=cann85(count=16, chips=2, name="Ascend910", pci="d803"),
    ),
    "910B2, driver of CANN's own generation": atlas(
        chips={"driver": "25.3.0", "inner": "V100R001C22"}
    ),
    "910B2, some devices chosen": atlas(env={"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3"}),
    "910B2, driver for all users": atlas(
        programs=OUTSIDER,
        files={"/etc/ascend_install.info": "UserGroup=HwHiAiUser\nDriver_Install_For_All=yes\n"},
    ),
    "910B2, two releases of CANN, the older in use": atlas(
        files={"/usr/local/Ascend/cann-8.5.0/runtime/version.info": "Version=8.5.0\nversion_dir=8.5.0\n"}
    ),
    "910A: the first generation": atlas(chips={"name": "910A", "pci": "d801"}),
    "910B2, NNAL there": atlas(
        needs=("libatb.so",),
        env={"ATB_HOME_PATH": "/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_1",
             "LD_LIBRARY_PATH": "/usr/local/Ascend/ascend-toolkit/latest/lib64:/usr/local/Ascend/nnal/lib:"
                                "/usr/local/Ascend/driver/lib64/driver"},
        files={"/usr/local/Ascend/nnal/lib/libatb.so": elf("libatb.so"),
               "/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_1/x": ""},
    ),
    "910B2, one of eight in a container": container(atlas(chips={"count": 1})),
    "910B2, torch of the default index": replace(atlas(), torch=Torch(version="2.6.0")),
    "910B2, root": atlas(programs={"id": "echo 'uid=0(root) gid=0(root) groups=0(root)'"}),
    "910B2, the driver's libraries by the loader's cache": atlas(
        env={"LD_LIBRARY_PATH": CANN_LIBRARIES},
        programs={"/usr/sbin/ldconfig": f"echo '\tlibascend_hal.so (libc6) => {DRIVER}/driver/libascend_hal.so'"},
    ),
    "910B2, driver below another prefix": atlas(
        env={"LD_LIBRARY_PATH": f"{CANN_LIBRARIES}:/opt/driver/driver/lib64/driver"},
        files={"/etc/ascend_install.info": "Driver_Install_Path_Param=/opt/driver/\nUserGroup=HwHiAiUser\n",
               "/opt/driver/driver/version.info": DRIVER_INFO,
               "/opt/driver/driver/lib64/driver/libascend_hal.so": elf("libascend_hal.so")},
        without=("/usr/local/Ascend/driver",),
    ),
    "910B2 in a container": container(atlas(chips={"on_bus": False})),
    "910B2, CANN 8.5, torch_npu post release": atlas(
        "2.7.1", "2.7.1.post2", python="3.11.9", chips=cann85()
    ),
    "910B2 and an RTX 4090: NPUs count first": atlas(nvidia=nvidia("RTX 4090")),
}  # fmt: skip

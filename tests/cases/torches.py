"""What is wrong with an installed torch and what stands around it."""

from __future__ import annotations

from machines import Machine, elf

from cases.describe import (
    BUILT_TREE,
    NO_DRIVER_SAYS,
    OLD_JITLINK,
    PTXAS,
    SITE,
    SOURCE_TREE,
    Case,
    case,
    container,
    pc,
    torch,
)

TORCHES: dict[str, Case] = {
    # --- torch itself ------------------------------------------------------------------------------
    "another torch than apply put in": case(
        pc("RTX 4090", files={"/opt/venv/nanochat-doctor/constraints.txt": "# by apply\ntorch==2.8.0+cu128\n"}),
        warnings="torch.replaced", says=("instead of 2.8.0",),
    ),
    "the torch that apply put in": case(
        pc("RTX 4090", files={"/opt/venv/nanochat-doctor/constraints.txt": "torch==2.9.1+cu128\n"}),
    ),
    "libcudnn missing": case(
        pc("RTX 4090", torch=torch("cu128", lacks=("libcudnn",))),
        "cuda.library-missing", says=("libcudnn.so.9", "2.9.1"),
    ),
    "CUDA 13 libraries missing": case(
        pc("RTX 4090", torch=torch("cu130", lacks=("libcublas",))), "cuda.library-missing"
    ),
    "libgomp missing": case(
        Machine(torch=torch("cpu", needs=("libgomp.so.1",)),
                without=("/usr/lib/x86_64-linux-gnu/libgomp.so.1",)),
        "host.library-missing", says=("apt",),
    ),
    "one of torch's own libraries missing": case(
        Machine(torch="cpu", without=(f"{SITE}/torch/lib/libc10.so",)), "torch.import-fails",
    ),
    "older CUDA first on LD_LIBRARY_PATH": case(
        pc("RTX 4090", **OLD_JITLINK), "torch.nvjitlink-mismatch", says=("cuda-12.1",)
    ),
    "older CUDA first, by the link /usr/local/cuda": case(
        pc("RTX 4090", **(OLD_JITLINK | {"env": {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}})),
        "torch.nvjitlink-mismatch",
    ),
    "source tree on PYTHONPATH": case(
        pc("RTX 4090", env={"PYTHONPATH": "/home/user/pytorch"}, files=SOURCE_TREE), "torch.shadowed",
    ),
    "source tree on PYTHONPATH, nothing installed": case(
        Machine(env={"PYTHONPATH": "/home/user/pytorch"}, files=SOURCE_TREE), "torch.shadowed",
    ),
    "torch.py on PYTHONPATH": case(
        Machine(torch="cpu", env={"PYTHONPATH": "/home/user/code"}, files={"/home/user/code/torch.py": ""}),
        "torch.shadowed",
    ),
    "torch without __init__": case(
        Machine(torch="cpu", without=(f"{SITE}/torch/__init__.py",)), "torch.import-fails"
    ),
    "torch without its extension": case(
        Machine(torch="cpu", without=(f"{SITE}/torch/_C.cpython-312-x86_64-linux-gnu.so",)),
        "torch.import-fails",
    ),
    "torch for another Python": case(
        Machine(torch=torch("cpu", tag="310")), "torch.import-fails", says=("cp310", "cp312")
    ),
    "torch for another processor": case(
        Machine(torch="cpu", programs={"uname": "case $1 in -m) echo aarch64;; *) echo Linux;; esac"},
                rustbpe=None),
        "torch.import-fails",
    ),
    "torchvision of another torch": case(
        pc("RTX 4090", packages={"torchvision": "0.23.0+cu128 torch==2.8.0"}),
        warnings="torch.abi-mismatch", says=("0.24",),
    ),
    "torchvision of the CPU": case(
        pc("RTX 4090", packages={"torchvision": "0.24.1+cpu torch==2.9.1"}), warnings="torch.abi-mismatch"
    ),
    "pins that cannot be met together": case(
        pc("RTX 4090", packages={"torchvision": "0.24.1 torch==2.9.1", "torchaudio": "2.8.0 torch==2.8.0"}),
        warnings="torch.version-conflict torch.abi-mismatch",
    ),
    "vLLM of another torch": case(
        pc("RTX 4090", packages={"vllm": "0.11.0 torch==2.8.0"}), warnings="torch.abi-mismatch",
    ),
    "no Triton": case(
        pc("RTX 4090", torch=torch("cu128", triton=None)), warnings="torch.triton-missing", says=("3.5.1",)
    ),
    "ptxas older than the card": case(
        pc("RTX 5090", torch=torch("cu128", ptxas="12.4")), warnings="torch.ptxas-too-old"
    ),
    "ptxas older than GB10": case(
        pc("GB10", arch="aarch64", torch=torch("cu130 arm", ptxas="12.8")), warnings="torch.ptxas-too-old"
    ),
    "a ptxas by variable, older than the card": case(
        pc("RTX 5090", torch=torch("cu128", ptxas="12.8"), env={"TRITON_PTXAS_PATH": "/opt/old/ptxas"},
           files={"/opt/old/ptxas": PTXAS.format("12.4")}),
        warnings="torch.ptxas-too-old", says=("/opt/old/ptxas",),
    ),
    "a variable for ptxas that names no file": case(
        pc("GB10", arch="aarch64", torch=torch("cu130 arm", ptxas="12.8"),
           env={"TRITON_PTXAS_PATH": "/usr/local/cuda/bin/ptxas"}),
        warnings="torch.ptxas-too-old", says=("brings ptxas",),
    ),
    "two ptxas, the variable of the other": case(
        pc("GB10", arch="aarch64", torch=torch("cu130 arm", ptxas="12.8"),
           env={"TRITON_PTXAS_PATH": "/opt/ptxas"},
           files={"/opt/ptxas": PTXAS.format("13.0"),
                  f"{SITE}/triton/backends/nvidia/bin/ptxas-blackwell": PTXAS.format("12.8")}),
        warnings="torch.ptxas-too-old", says=("Point TRITON_PTXAS_BLACKWELL_PATH",),
    ),
    "no libuv": case(
        pc("RTX 4090", torch=torch("cu128", parts=("gloo", "nccl"))), warnings="torch.no-libuv"
    ),
    "no NCCL, two GPUs": case(
        pc("2 * RTX 4090", torch=torch("cu128", parts=("gloo", "libuv"))), "torch.no-nccl"
    ),
    "no NCCL, one GPU": case(
        pc("RTX 4090", torch=torch("cu128", parts=("gloo", "libuv"))), warnings="torch.no-nccl"
    ),
    "no torch.distributed": case(
        pc("2 * RTX 4090", torch=torch("cu128", parts=())), "torch.no-distributed"
    ),
    "older CUDA first, under libraries with a RUNPATH": case(
        pc("RTX 4090", torch=torch("cu128", search="runpath"), **OLD_JITLINK),
        "torch.nvjitlink-mismatch",
    ),
    "older cuBLAS first, no nvJitLink there": case(
        pc("RTX 4090", torch=torch("cu128", search="runpath"),
           env={"LD_LIBRARY_PATH": "/usr/local/cuda-12.1/lib64"},
           files={"/usr/local/cuda-12.1/lib64/libcublasLt.so.12": elf("libcublasLt.so.12"),
                  "/usr/local/cuda-12.1/lib64/libcublas.so.12": elf("libcublas.so.12")}),
        "torch.nvjitlink-mismatch",
    ),
    "older CUDA's folder holds the libraries itself": case(
        pc("RTX 4090", env={"LD_LIBRARY_PATH": "/usr/local/cuda-12.1/lib64"},
           files={"/usr/local/cuda-12.1/lib64/libnvJitLink.so.12": elf("libnvJitLink.so.12")}),
        "torch.nvjitlink-mismatch",
    ),
    "flash-attn of another torch": case(
        pc("RTX 4090", packages={"flash-attn": "2.8.3+cu12torch2.8cxx11abiTRUE torch"}),
        warnings="torch.abi-mismatch",
    ),
    "flash-attn of this torch": case(
        pc("RTX 4090", packages={"flash-attn": "2.8.3+cu12torch2.9cxx11abiTRUE torch"})
    ),
    "torchvision of another torch, no pin in its metadata": case(
        pc("RTX 4090", packages={"torchvision": "0.21.0"}), warnings="torch.abi-mismatch"
    ),
    "5090 and 1080 side by side, nothing installed": case(
        pc("RTX 5090", "GTX 1080", torch=None), "torch.missing", says=("hide one kind",)
    ),
    "V100 and 5090 side by side, nothing installed": case(
        pc("RTX 5090", "V100", torch=None), "torch.missing", says=("cu12[89]",)
    ),
    "a built tree for another Python": case(
        Machine(files={k.replace("-312-", "-310-"): v for k, v in BUILT_TREE.items()}), "torch.missing",
        never=("on PYTHONPATH to use it",),
    ),
    "a built tree": case(Machine(files=BUILT_TREE), "torch.missing", says=("on PYTHONPATH to use it",)),
    "driver too old, CPU wheel": case(
        pc("A100", driver="470.256.02", torch="cpu"), "torch.cpu-only-build", says=("cu118",)
    ),
    "driver too old for any wheel, CPU wheel": case(
        pc("RTX 5090", driver="550.144.03", torch="cpu"), "torch.cpu-only-build cuda.driver-too-old",
    ),
    "GTX 1080, the default wheel of 2.15": case(
        pc("GTX 1080", torch="cu132"), "torch.arch-missing", "torch.triton-device-too-old", says=("cu126",)
    ),
    "NVML fails in a container that had its GPU": case(
        container(pc("RTX 4090", smi={"says": "Failed to initialize NVML: Unknown Error"})),
        "cuda.init-failed",
    ),
    "nvidia-smi fails and says so with status 0": case(
        pc("RTX 4090", without=("/sys/module/nvidia", "/proc/driver"),
           programs={"nvidia-smi": f"echo \"{NO_DRIVER_SAYS}\""}),
        "cuda.driver-missing",
    ),
    "container on a host without a driver": case(
        container(pc("RTX 4090", driver=None)), "cuda.driver-missing"
    ),
}  # fmt: skip

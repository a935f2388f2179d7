"""Packages around a torch: other versions, files of two packages, parts of cuDNN, missing functions."""

from __future__ import annotations

from machines import Machine, elf

from cases.describe import SITE, Case, case, pc, torch

NCCL, NCCL_13 = 'nvidia-nccl-cu12==2.27.5; platform_system == "Linux"', "nvidia-nccl-cu13==2.27.5"
CUDNN = 'nvidia-cudnn-cu12==9.10.2.21; platform_system == "Linux"'
TRITON = 'triton==3.5.1; platform_system == "Linux"'
TOOLKIT = 'cuda-toolkit[cublas,cudart]==13.0.2; platform_system == "Linux"'
CUDA_13 = f"{SITE}/cuda_toolkit-13.0.2.dist-info/METADATA"
TOOLKIT_ASKS = """Name: cuda-toolkit
Requires-Dist: nvidia-cublas==13.1.0.3.*; (sys_platform == 'linux') and extra == 'all'
Requires-Dist: nvidia-cublas==13.1.0.3.*; (sys_platform == 'linux') and extra == 'cublas'
Requires-Dist: nvidia-cuda-runtime==13.0.96.*; (sys_platform == 'linux') and extra == 'cudart'
Requires-Dist: nvidia-cufft==12.0.0.61.*; (sys_platform == 'linux') and extra == 'cufft'
"""
NCCL_FILE = "nvidia/nccl/lib/libnccl.so.2"
CUDNN_FILE = "nvidia/cudnn/lib/libcudnn.so.9"
PARTS = (
    "graph",
    "ops",
    "cnn",
    "adv",
    "engines_precompiled",
    "engines_runtime_compiled",
    "heuristic",
)
OLD_NCCL = ("ncclAllReduce",)
NEW_NCCL = ("ncclAllReduce", "ncclAlltoAll", "ncclCommResume")
SIZE = len(elf("libnccl.so.2", defines=NEW_NCCL))
LIB = "/usr/lib/x86_64-linux-gnu"


def system_cudnn(version: str, *parts: str, folder: str = LIB) -> dict[str, dict[str, object]]:
    """The system's cuDNN: files with their full names, and links."""
    names = [f"libcudnn_{part}.so.9" for part in parts] + ["libcudnn.so.9"]
    return {
        "files": {f"{folder}/{n.removesuffix('9')}{version}": elf(n) for n in names},
        "links": {f"{folder}/{n}": f"{n.removesuffix('9')}{version}" for n in names},
    }


def recorded(size: int | None, digest: str = "") -> tuple[str, ...]:
    """A RECORD of NCCL's library."""
    return ("nvidia/__init__.py,,", f"{NCCL_FILE},{digest},{size or ''}")


PACKAGES: dict[str, Case] = {
    # --- other versions ----------------------------------------------------------------------------
    "NCCL of an older torch": case(
        pc("RTX 4090", torch=torch("cu128", requires=(NCCL, TRITON)), packages={"nvidia-nccl-cu12": "2.21.5"}),
        warnings="torch.version-conflict", says=("nvidia-nccl-cu12==2.27.5", "2.21.5"),
    ),
    "NCCL of an older torch, and a function is missing": case(
        pc("RTX 4090", torch=torch("cu128", requires=(NCCL,), asks=NEW_NCCL, has={"libnccl": OLD_NCCL}),
           packages={"nvidia-nccl-cu12": "2.21.5"}),
        "torch.version-conflict", says=("ncclAlltoAll", "install nvidia-nccl-cu12==2.27.5"),
    ),
    "cuDNN newer than torch asks for": case(
        pc("RTX 4090", torch=torch("cu128", requires=(CUDNN,)), packages={"nvidia-cudnn-cu12": "9.20.0.48"}),
        warnings="torch.version-conflict", says=("cuDNN", "nvidia-cudnn-cu12==9.10.2.21"),
    ),
    "Triton of another torch": case(
        pc("RTX 4090", torch=torch("cu128", requires=(TRITON,), triton="3.2.0")),
        warnings="torch.version-conflict", says=("triton==3.5.1", "3.2.0", "compile"),
    ),
    "no Triton where torch names one": case(
        pc("RTX 4090", torch=torch("cu128", requires=('triton==3.5.0; platform_system == "Linux"',), triton=None)),
        warnings="torch.triton-missing", says=("triton==3.5.0",),
    ),
    "cuBLAS of another CUDA 13": case(
        pc("RTX 4090", torch=torch("cu130", requires=(TOOLKIT,)),
           packages={"cuda-toolkit": "13.0.2", "nvidia-cublas": "13.4.1.3", "nvidia-cuda-runtime": "13.0.96"},
           files={CUDA_13: TOOLKIT_ASKS}),
        warnings="torch.version-conflict", says=(r"nvidia-cublas==13\.1\.0\.3\.\*",),
        never=("cufft", "cuda-runtime=="),
    ),
    "the whole toolkit of another CUDA 13": case(
        pc("RTX 4090", torch=torch("cu130", requires=(TOOLKIT,)), packages={"cuda-toolkit": "13.2.2"}),
        warnings="torch.version-conflict", says=(r"cuda-toolkit\[cublas,cudart\]==13.0.2",),
    ),
    "NCCL for CUDA 12 in place of that for 13": case(
        pc("RTX 4090", torch=torch("cu130", requires=(NCCL_13,)), packages={"nvidia-nccl-cu12": "2.27.3"}),
        warnings="torch.version-conflict",
        says=("in its place", "uninstall --yes nvidia-nccl-cu12", "install nvidia-nccl-cu13==2.27.5"),
    ),
    # --- files of two packages -----------------------------------------------------------------------
    "NCCL for CUDA 12 over that for 13": case(
        pc("RTX 4090",
           torch=torch("cu130", requires=(NCCL_13,), asks=NEW_NCCL, has={"libnccl": OLD_NCCL}),
           packages={"nvidia-nccl-cu13": "2.27.5", "nvidia-nccl-cu12": "2.27.3"},
           records={"nvidia-nccl-cu13": recorded(None), "nvidia-nccl-cu12": recorded(None)}),
        "torch.version-conflict",
        says=("ncclCommResume", "uninstall --yes nvidia-nccl-cu12", "--force-reinstall --no-deps nvidia-nccl-cu13=="),
    ),
    "NCCL for CUDA 12 over that for 13, by its size": case(
        pc("RTX 4090", torch=torch("cu130", requires=(NCCL_13,), has={"libnccl": NEW_NCCL}),
           packages={"nvidia-nccl-cu13": "2.27.5", "nvidia-nccl-cu12": "2.27.3"},
           records={"nvidia-nccl-cu13": recorded(SIZE + 1), "nvidia-nccl-cu12": recorded(SIZE)}),
        warnings="torch.version-conflict", says=("nvidia-nccl-cu12's lies there now",),
    ),
    "what wrote over it is needed by another package": case(
        pc("RTX 4090", torch=torch("cu130", requires=(NCCL_13,)),
           packages={"nvidia-nccl-cu13": "2.27.5", "nvidia-nccl-cu12": "2.27.3",
                     "cupy-cuda12x": "13.4 nvidia-nccl-cu12"},
           records={"nvidia-nccl-cu13": recorded(None), "nvidia-nccl-cu12": recorded(None)}),
        warnings="torch.version-conflict", says=("--no-deps nvidia-nccl-cu13==2.27.5",), never=("uninstall",),
    ),
    "cuDNN for CUDA 12 over that for 13": case(
        pc("RTX 4090", torch=torch("cu130", requires=("nvidia-cudnn-cu13==9.13.0.50",)),
           packages={"nvidia-cudnn-cu13": "9.13.0.50", "nvidia-cudnn-cu12": "9.10.2.21"},
           records={name: (f"{CUDNN_FILE},,", f"{CUDNN_FILE.replace('.so', '_ops.so')},,")
                    for name in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")}),
        warnings="torch.version-conflict", says=("libcudnn.so.9 and 1 more", "uninstall --yes nvidia-cudnn-cu12"),
    ),
    "another maker's Triton over torch's": case(
        pc("RTX 4090", torch=torch("cu128", requires=(TRITON,)), packages={"pytorch-triton": "3.4.0"},
           records={"triton": ("triton/_C/libtriton.so,,",), "pytorch-triton": ("triton/_C/libtriton.so,,",)}),
        warnings="torch.version-conflict", says=("uninstall --yes pytorch-triton",),
    ),
    "a library that went with the package of another CUDA": case(
        pc("RTX 4090", torch=torch("cu130", requires=(NCCL_13,), lacks=("libnccl",)),
           packages={"nvidia-nccl-cu13": "2.27.5"}, records={"nvidia-nccl-cu13": recorded(SIZE)}),
        "cuda.library-missing", says=("--force-reinstall --no-deps nvidia-nccl-cu13==2.27.5",),
    ),
    "a library whose package was never installed": case(
        pc("RTX 4090", torch=torch("cu128", requires=(CUDNN, TRITON), lacks=("libcudnn",))),
        "cuda.library-missing", says=("install nvidia-cudnn-cu12==9.10.2.21",), never=("force",),
    ),
    # --- functions -----------------------------------------------------------------------------------
    "NCCL of the system, too old for torch": case(
        pc("RTX 4090", torch=torch("cu128", lacks=("libnccl",), asks=NEW_NCCL),
           files={f"{LIB}/libnccl.so.2": elf("libnccl.so.2", defines=OLD_NCCL)}),
        "torch.import-fails", says=("ncclAlltoAll and ncclCommResume", LIB),
    ),
    "NCCL by LD_LIBRARY_PATH, too old for torch": case(
        pc("RTX 4090", torch=torch("cu128", search="runpath", asks=NEW_NCCL, has={"libnccl": NEW_NCCL}),
           env={"LD_LIBRARY_PATH": "/opt/nccl/lib"},
           files={"/opt/nccl/lib/libnccl.so.2": elf("libnccl.so.2", defines=OLD_NCCL)}),
        "torch.nvjitlink-mismatch", says=("ncclAlltoAll", "unset LD_LIBRARY_PATH"),
    ),
    "cuBLASLt without a function": case(
        pc("RTX 4090", torch=torch("cu128", asks=("cublasLtMatmul", "cublasLtGroupedMatrixLayoutInit_internal"),
                                   has={"libcublasLt": ("cublasLtMatmul",)})),
        "torch.import-fails", says=("cublasLtGroupedMatrixLayoutInit_internal",),
    ),
    # --- cuDNN's parts -------------------------------------------------------------------------------
    "a part of cuDNN that only the system has": case(
        pc("RTX 4090", torch=torch("cu130", requires=("nvidia-cudnn-cu13==9.20.0.48",), cudnn=PARTS),
           packages={"nvidia-cudnn-cu13": "9.20.0.48"}, **system_cudnn("9.21.1", *PARTS, "engines_tensor_ir")),
        warnings="torch.version-conflict", says=("libcudnn_engines_tensor_ir", "9.21.1", "SUBLIBRARY"),
    ),
    "cuDNN's parts by LD_LIBRARY_PATH": case(
        pc("RTX 4090",
           torch=torch("cu128", search="runpath", requires=(CUDNN,), cudnn=PARTS),
           packages={"nvidia-cudnn-cu12": "9.10.2.21"}, env={"LD_LIBRARY_PATH": "/opt/cudnn/lib"},
           without=("/opt/cudnn/lib/libcudnn.so.9",),
           **system_cudnn("9.21.1", *PARTS, folder="/opt/cudnn/lib")),
        warnings="torch.version-conflict", says=("Take /opt/cudnn/lib off LD_LIBRARY_PATH", "libcudnn_graph"),
    ),
    "a part of cuDNN is nowhere": case(
        pc("RTX 4090", torch=torch("cu128", requires=(CUDNN,), cudnn=PARTS[1:]),
           packages={"nvidia-cudnn-cu12": "9.10.2.21"}),
        warnings="cuda.library-missing", says=("libcudnn_graph.so.9", "nvidia-cudnn-cu12==9.10.2.21"),
    ),
    # --- libstdc++ -----------------------------------------------------------------------------------
    "a libstdc++ by LD_LIBRARY_PATH that is too old": case(
        Machine(torch=torch("cpu", glibcxx="3.4.30"), env={"LD_LIBRARY_PATH": "/opt/old"},
                files={"/opt/old/libstdc++.so.6": elf("libstdc++.so.6", defines=("GLIBCXX_3.4.19",))}),
        "host.glibc-too-old", says=("/opt/old",),
    ),
    "the system's libstdc++ is too old": case(
        Machine(torch=torch("cpu", glibcxx="3.4.33")), "host.glibc-too-old", says=("this system",),
    ),
}  # fmt: skip

HEALTHY_PACKAGES: dict[str, Machine] = {
    "all as torch asks for it": pc(
        "RTX 4090",
        torch=torch("cu128", requires=(NCCL, CUDNN, TRITON), asks=NEW_NCCL, has={"libnccl": NEW_NCCL}, cudnn=PARTS),
        packages={"nvidia-nccl-cu12": "2.27.5", "nvidia-cudnn-cu12": "9.10.2.21"},
        records={"nvidia-nccl-cu12": recorded(SIZE)},
    ),
    "CUDA 13 by its toolkit": pc(
        "RTX 4090", torch=torch("cu130", requires=(TOOLKIT, NCCL_13)),
        packages={"cuda-toolkit": "13.0.2", "nvidia-cublas": "13.1.0.3", "nvidia-cuda-runtime": "13.0.96",
                  "nvidia-nccl-cu13": "2.27.5"},
        files={CUDA_13: TOOLKIT_ASKS},
    ),
    "packages of CUDA 12 left over, those of 13 over them": pc(
        "RTX 4090", torch=torch("cu130", requires=(NCCL_13,), has={"libnccl": NEW_NCCL}),
        packages={"nvidia-nccl-cu13": "2.27.5", "nvidia-nccl-cu12": "2.27.3", "nvidia-cublas-cu12": "12.8.4.1"},
        records={"nvidia-nccl-cu13": recorded(SIZE), "nvidia-nccl-cu12": recorded(SIZE + 7)},
    ),
    "pins for another processor and for Windows": pc(
        "RTX 4090",
        torch=torch("cu128", requires=('nvidia-nccl-cu12==2.26.2; platform_machine == "aarch64"',
                                       'triton-windows==3.4; sys_platform == "win32"')),
        packages={"nvidia-nccl-cu12": "2.27.5", "triton-windows": "3.3"},
    ),
    "NVIDIA's libraries of the system, none by pip": pc(
        "RTX 4090", torch=torch("cu128", lacks=("libnccl",), asks=NEW_NCCL),
        files={f"{LIB}/libnccl.so.2": elf("libnccl.so.2", defines=NEW_NCCL)},
    ),
    "conda-forge's PyTorch: no packages by pip, libraries in the environment": pc(
        "RTX 4090", prefix="/opt/conda",
        torch=torch("cu128", version="2.9.1", lacks=("lib",), folders="$ORIGIN/../../../..",
                    glibcxx="3.4.33", asks=NEW_NCCL),
        files={"/opt/conda/conda-meta/history": "",
               "/opt/conda/lib/libstdc++.so.6": elf("libstdc++.so.6", defines=("GLIBCXX_3.4.34",)),
               "/opt/conda/lib/libnccl.so.2": elf("libnccl.so.2", defines=NEW_NCCL),
               **{f"/opt/conda/lib/{name}": elf(name)
                  for name in ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.9",
                               "libcusparse.so.12", "libnvJitLink.so.12")}},
    ),
    "a wheel in conda, which brings a newer libstdc++": pc(
        "RTX 4090", prefix="/opt/conda", torch=torch("cu128", glibcxx="3.4.33"),
        files={"/opt/conda/conda-meta/history": "",
               "/opt/conda/lib/libstdc++.so.6": elf("libstdc++.so.6", defines=("GLIBCXX_3.4.34",))},
    ),
    "a newer libstdc++ by LD_LIBRARY_PATH": Machine(
        torch=torch("cpu", glibcxx="3.4.33"), env={"LD_LIBRARY_PATH": "/opt/gcc/lib64"},
        files={"/opt/gcc/lib64/libstdc++.so.6": elf("libstdc++.so.6", defines=("GLIBCXX_3.4.34",))},
    ),
    "a nightly with its Triton": pc(
        "RTX 4090",
        torch=torch("cu130", version="2.10.0.dev20251101+cu130", triton=None,
                    requires=('pytorch-triton==3.5.1+git0123456; platform_system == "Linux"',)),
        packages={"pytorch-triton": "3.5.1+git0123456"},
    ),
    "a whole cuDNN beside an older one of the system": pc(
        "RTX 4090",
        torch=torch("cu130", requires=("nvidia-cudnn-cu13==9.26.0.51",), cudnn=(*PARTS, "engines_tensor_ir")),
        packages={"nvidia-cudnn-cu13": "9.26.0.51"}, **system_cudnn("9.21.1", *PARTS, "engines_tensor_ir"),
    ),
    "the system's cuDNN of the same release": pc(
        "RTX 4090", torch=torch("cu130", requires=("nvidia-cudnn-cu13==9.20.0.48",), cudnn=PARTS),
        packages={"nvidia-cudnn-cu13": "9.20.0.48"}, **system_cudnn("9.20.0", *PARTS, "engines_tensor_ir"),
    ),
    "an older cuDNN, which does not ask for the later part": pc(
        "RTX 4090", torch=torch("cu128", requires=(CUDNN,), cudnn=PARTS),
        packages={"nvidia-cudnn-cu12": "9.10.2.21"}, **system_cudnn("9.21.1", *PARTS, "engines_tensor_ir"),
    ),
}  # fmt: skip

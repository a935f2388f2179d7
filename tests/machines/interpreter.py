"""A Python environment: packages, torch with its libraries, torch_npu."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from machines.describe import Machine, Torch, TorchNpu
from machines.elf import elf, fatbin
from machines.tree import Tree

NPU_PACKAGES = {
    "numpy": "1.26.4",
    "PyYAML": "6.0.2",
    "decorator": "5.1.1",
    "attrs": "24.2.0",
    "psutil": "6.0.0",
    "scipy": "1.13.1",
}
MODULES = {"PyYAML": "yaml", "attrs": "attr"}


def write_python(tree: Tree, machine: Machine) -> None:
    """Write the environment and all that is installed in it."""
    version = machine.python.rstrip("t")
    if machine.prefix == "/opt/venv":
        tree.file(
            f"{machine.prefix}/pyvenv.cfg",
            f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n",
        )
    refuse = "echo 'this interpreter must not be executed' >&2; exit 99"
    for name in ("python", "python3"):
        tree.program(f"{machine.prefix}/bin/{name}", refuse)
    tree.program("python3", f'[ "$1" = --version ] && echo "Python {version}" || {{ {refuse}; }}')
    npu = NPU_PACKAGES if machine.torch_npu else {}
    for name, spec in ({"pip": "24.0"} | npu | machine.packages).items():
        if spec != "-":
            number, _, pin = spec.partition(" ")
            _package(tree, machine, name, number, requires=[pin] if pin else [])
    if machine.rustbpe:
        tag = machine.rustbpe if machine.rustbpe == "abi3" else f"cpython-{machine.rustbpe}"
        suffix = "abi3.so" if tag == "abi3" else f"{tag}-{machine.arch}-linux-gnu.so"
        tree.file(f"{machine.site}/rustbpe/__init__.py")
        tree.file(f"{machine.site}/rustbpe/rustbpe.{suffix}", elf(arch=machine.arch))
    if machine.wheel:
        _torch(tree, machine.wheel, machine)
    if machine.torch_npu:
        _torch_npu(tree, machine.torch_npu, machine)


def _package(
    tree: Tree, machine: Machine, name: str, version: str, requires: Sequence[str] = ()
) -> None:
    """A distribution's metadata and an empty module."""
    folder = f"{machine.site}/{name.replace('-', '_')}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {item}" for item in requires]
    tree.file(f"{folder}/METADATA", "\n".join(lines) + "\n")
    if name in machine.records:
        tree.file(f"{folder}/RECORD", "\n".join(machine.records[name]) + "\n")
    module = MODULES.get(name, name.replace("-", "_"))
    tree.file(f"{machine.site}/{module}/__init__.py")


NVIDIA_PACKAGES = {
    "cuda_runtime": "libcudart.so",
    "cublas": "libcublas.so libcublasLt.so",
    "cudnn": "libcudnn.so.9",
    "cusparse": "libcusparse.so",
    "nccl": "libnccl.so.2",
    "nvjitlink": "libnvJitLink.so",
}


def _torch(tree: Tree, it: Torch, machine: Machine) -> None:
    lib = f"{machine.site}/torch/lib"
    major = it.cuda.split(".")[0] if it.cuda else ""
    libraries = _nvidia_libraries(major) if it.cuda else {}
    _bundle(tree, it, machine, libraries)
    folders = [f"$ORIGIN/../../nvidia/{folder}/lib" for folder in libraries]
    rpath = ":".join([*folders, "$ORIGIN", *([it.folders] if it.folders else [])])
    versions = {"libc.so.6": [f"GLIBC_{it.glibc}"]} if it.glibc else {}
    versions |= {"libstdc++.so.6": [f"GLIBCXX_{it.glibcxx}"]} if it.glibcxx else {}
    needs = [*it.needs, *["libstdc++.so.6"] * bool(it.glibcxx)]
    cpu = (
        ["c10d ProcessGroupMPI is not built"]
        + ["N4c10d6detail16LibUVStoreDaemonE"] * ("libuv" in it.parts)
        + ["ProcessGroupGloo"] * ("gloo" in it.parts)
    )
    cuda = ["ProcessGroupNCCL"] * ("nccl" in it.parts)
    flat = [name for names in libraries.values() for name in names]
    makes: dict[str, dict[str, object]] = {
        "libc10.so": {},
        "libtorch_cpu.so": {
            "needed": ["libc10.so", *needs],
            "strings": cpu,
            "versions": versions,
        },
        "libtorch.so": {"needed": ["libtorch_cpu.so", *["libtorch_cuda.so"] * bool(it.cuda)]},
        "libtorch_python.so": {"needed": ["libtorch.so", "libc10.so"]},
    }
    if it.cuda:
        asked = [name for name in flat if not name.startswith(("libnvJitLink",))]
        makes["libc10_cuda.so"] = {"needed": ["libc10.so"]}
        makes["libtorch_cuda.so"] = {
            "needed": ["libc10_cuda.so", *asked],
            "asks": it.asks,
            "strings": cuda,
            "code": fatbin(it.sass, it.ptx),
        }
    if it.hip:
        makes["libtorch_hip.so"] = {"needed": ["libc10.so"]}
    for name, options in makes.items():
        data = elf(name, arch=machine.arch, **{it.search: rpath}, **options)  # type: ignore[arg-type]
        tree.file(f"{lib}/{name}", data)
    tree.file(f"{machine.site}/torch/__init__.py")
    assigned = {"__version__": it.version, "cuda": it.cuda, "hip": it.hip, "git_version": "0" * 40}
    lines = "".join(f"{name} = {value!r}\n" for name, value in assigned.items())
    tree.file(f"{machine.site}/torch/version.py", f"{lines}debug = False\n")
    extension = f"_C.cpython-{it.tag or machine.tag}-{machine.arch}-linux-gnu.so"
    bridge = elf(needed=["libtorch_python.so"], rpath="$ORIGIN/lib", arch=machine.arch)
    tree.file(f"{machine.site}/torch/{extension}", bridge)
    _package(tree, machine, "torch", it.version, it.requires)
    python = f"cp{it.tag or machine.tag}"
    tree.file(
        f"{machine.site}/torch-{it.version}.dist-info/WHEEL",
        f"Wheel-Version: 1.0\nTag: {python}-{python}-{it.platform}_{machine.arch}\n",
    )
    _triton(tree, it, machine)


def _nvidia_libraries(major: str) -> dict[str, list[str]]:
    """Folder below site-packages/nvidia -> libraries; from CUDA 13 on most share one."""
    found: dict[str, list[str]] = {}
    for package, names in NVIDIA_PACKAGES.items():
        shared = package if major == "12" or package in ("cudnn", "nccl") else f"cu{major}"
        for name in names.split():
            found.setdefault(shared, []).append(name if name[-1].isdigit() else f"{name}.{major}")
    return found


def _bundle(
    tree: Tree, it: Torch, machine: Machine, libraries: Mapping[str, Sequence[str]]
) -> None:
    for folder, names in libraries.items():
        for name in names:
            if name.startswith(it.lacks):
                continue
            more = {}
            if name.startswith("libcusparse"):
                major = name.rsplit(".", 1)[-1]
                more = {
                    "needed": [f"libnvJitLink.so.{major}"],
                    "runpath": "$ORIGIN/../../nvjitlink/lib",
                }
            defines = [
                f for start, names in it.has.items() if name.startswith(start) for f in names
            ]
            data = elf(name, arch=machine.arch, defines=defines, **more)  # type: ignore[arg-type]
            tree.file(f"{machine.site}/nvidia/{folder}/lib/{name}", data)
    for part in it.cudnn:
        name = f"libcudnn_{part}.so.9"
        tree.file(f"{machine.site}/nvidia/cudnn/lib/{name}", elf(name, arch=machine.arch))


def _triton(tree: Tree, it: Torch, machine: Machine) -> None:
    minor = ".".join(it.version.split(".")[:2])
    version = it.triton
    if not it.cuda or version is None:
        return
    _package(tree, machine, "triton", version)
    release = it.ptxas or (it.cuda if minor in ("2.6", "2.9") else "13.0")
    text = f"Cuda compilation tools, release {release}, V{release}.93"
    tree.file(
        f"{machine.site}/triton/backends/nvidia/bin/ptxas", elf(strings=[text], arch=machine.arch)
    )


def _torch_npu(tree: Tree, it: TorchNpu, machine: Machine) -> None:
    site, arch = machine.site, machine.arch
    release = it.version.split(".post")[0]
    _package(tree, machine, "torch_npu", it.version, [it.requires or f"torch=={release}"])
    tree.file(f"{site}/torch_npu/version.py", f"__version__ = '{it.version}'\n")
    rpath = "$ORIGIN/lib/:$ORIGIN/:$ORIGIN/../../torch_npu.libs"
    cann = (
        "libhccl.so",
        "libascendcl.so",
        "libacl_op_compiler.so",
        "libge_runner.so",
        "libgraph.so",
    )
    own = ("libtorch_python.so", "libtorch.so", "libtorch_cpu.so", "libc10.so")
    library = elf(
        "libtorch_npu.so", needed=[*cann, *own, *it.needs, "libc.so.6"], rpath=rpath, arch=arch
    )
    tree.file(f"{site}/torch_npu/lib/libtorch_npu.so", library)
    extension = f"_C.cpython-{it.tag or machine.tag}-{arch}-linux-gnu.so"
    bridge = elf(needed=["libtorch_npu.so", "libhccl.so", *own], rpath="$ORIGIN/lib", arch=arch)
    tree.file(f"{site}/torch_npu/{extension}", bridge)

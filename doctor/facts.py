"""What is known of a machine: frozen values that travel as JSON and can be replayed anywhere.

A value that is None is absent, or unknown where `unknown` says why (see `doctor.fact`). Sizes are
in MiB, times in seconds, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from doctor.errors import DoctorError
from doctor.fact import Fact, fact, read_json, shortened, to_json

__all__ = ["AREAS", "SCHEMA", "Facts", "from_json", "to_json"]

SCHEMA = 1


# --- host ------------------------------------------------------------------------------------


@fact
class Tool(Fact):
    """A program found on the PATH."""

    path: str
    version: str | None = None


@fact
class OtherAccelerator(Fact):
    """A GPU or accelerator of a maker for which there is no family."""

    address: str
    vendor_id: str
    device_id: str
    vendor: str | None = None
    name: str = ""
    """As the tables call it, else its number."""
    software: str | None = None
    """What its maker's software is called: ROCm, XPU."""
    integrated: bool = False
    """Whether it is a part of the processor."""
    driver: str | None = None


@fact
class Host(Fact):
    """The machine under everything: system, processor, memory, limits, build tools."""

    os: str | None = None
    """`Linux`, `Darwin`, … as uname says."""
    kernel: str | None = None
    arch: str | None = None
    """Processor architecture in uname's words: `x86_64`, `aarch64`, `arm64`."""
    distro_id: str | None = None
    distro_like: tuple[str, ...] = ()
    distro_name: str | None = None
    distro_version: str | None = None
    cpu_model: str | None = None
    cores: int | None = None
    """Logical processors that this process may use."""
    physical_cores: int | None = None
    cpu_flags: tuple[str, ...] = ()
    """Only those that decide something here: AVX-512, AMX, bf16, SVE and their like."""
    memory_total: int | None = None
    memory_available: int | None = None
    swap_total: int | None = None
    cgroup_memory_limit: int | None = None
    cgroup_cpu_limit: float | None = None
    """CPU quota in cores."""
    libc: str | None = None
    """`glibc` or `musl`."""
    libc_version: str | None = None
    libstdcxx: str | None = None
    """Newest GLIBCXX symbol version that the system's libstdc++ offers."""
    wsl: bool | None = None
    container: str | None = None
    """`docker`, `podman`, `lxc`, `kubernetes`, …; None outside of one."""
    shm_total: int | None = None
    shm_free: int | None = None
    open_files_soft: int | None = None
    open_files_hard: int | None = None
    user_is_root: bool | None = None
    usr_include: bool = False
    """Whether there is a /usr/include at all, so that a missing header means something."""
    accelerators: tuple[OtherAccelerator, ...] = ()
    """GPUs and accelerators on the bus that are neither NVIDIA's nor Huawei's."""
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """gcc, g++, clang, ld, cmake, ninja, ccache, git, uv, … by name; only those found."""
    pip_index: str | None = None
    """The package index that pip is set to; None is pip's default."""
    uv_index: str | None = None
    proxy_variables: tuple[str, ...] = ()
    """Names of the proxy variables that are set; never their values."""


@fact
class Python(Fact):
    """The examined interpreter. Under `--root` it is read from its files, never run."""

    executable: str | None = None
    chosen_by: str = ""
    """Why this one: `--python`, an active environment, …"""
    version: str | None = None
    implementation: str | None = None
    bits: int | None = None
    free_threaded: bool | None = None
    prefix: str | None = None
    prefix_free: int | None = None
    """Space left on the disk that holds the environment."""
    venv: bool | None = None
    conda: bool | None = None
    externally_managed: bool | None = None
    headers: str | None = None
    """Folder that holds Python.h."""
    venv_module: bool | None = None
    """Whether `python -m venv` can work (ensurepip is there)."""
    pip_version: str | None = None
    import_path: tuple[str, ...] = ()
    """Where `import` looks, in order, .pth files counted; the current folder is not in it."""
    shadowed_modules: tuple[str, ...] = ()
    """Files of the current folder or PYTHONPATH that hide a module of the standard library."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version, of those that matter here."""


# --- nvidia ----------------------------------------------------------------------------------


@fact
class PciDevice(Fact):
    """A graphics or compute function on the PCI bus, seen without any driver."""

    address: str
    vendor_id: str
    device_id: str
    chip: str | None = None
    compute_capability: str | None = None
    """As the chip's table row says; a live driver's word counts more."""
    driver: str | None = None
    """Kernel driver bound to it: `nvidia`, `nouveau`, `vfio-pci`."""


@fact
class GpuProcess(Fact):
    """A process that holds memory of a GPU."""

    pid: int
    name: str | None = None
    memory: int | None = None


@fact
class Gpu(Fact):
    """One GPU as the driver shows it."""

    index: int
    name: str | None = None
    uuid: str | None = None
    bus_id: str | None = None
    device_id: str | None = None
    """PCI device id, `0x2b85`."""
    compute_capability: str | None = None
    """`12.0`; from the driver, else from the tables (see `unknown`)."""
    compute_mode: str | None = None
    """Who may use it: `Default`, `Exclusive_Process`, `Prohibited`."""
    memory_total: int | None = None
    """None without a reason for a device that shares the host's memory (GB10, Jetson)."""
    memory_free: int | None = None
    mig_mode: str | None = None
    """`Enabled`, `Disabled`; None where the device knows no MIG."""
    mig_instances: tuple[str, ...] = ()
    """Profiles of its MIG devices, `1g.10gb`."""
    ecc_mode: str | None = None
    ecc_uncorrected: int | None = None
    """Uncorrected volatile ECC errors."""
    fabric_state: str | None = None
    """Its state in the NVSwitch fabric: `Completed`, `In Progress`, `Not Started`."""
    fabric_status: str | None = None
    """How that came out once it is completed: `Success`, or an error."""
    faults: tuple[str, ...] = ()
    """Faults that last, as the driver words them: `GPU is lost`, `GPU requires reset`,
    `remapped_rows.pending: Yes`, `gpu_recovery_action: Reset`, `name: Unknown Error`."""
    processes: tuple[GpuProcess, ...] = ()


@fact
class Toolkit(Fact):
    """A CUDA toolkit on disk."""

    path: str
    version: str | None = None
    nvcc: str | None = None
    archs: tuple[str, ...] = ()
    """Architectures that its nvcc knows (`--list-gpu-arch`), `12.0`."""
    found_by: tuple[str, ...] = ()
    """CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, conda, pip, …"""
    headers: tuple[str, ...] = ()
    """Of libraries that are no part of a toolkit and lie in it all the same: cudnn.h, nccl.h."""


@fact
class Library(Fact):
    """A shared library found on the machine."""

    name: str
    path: str
    version: str | None = None
    header: str | None = None
    """What is included to compile against it; None where there is no such file."""


@fact
class KernelModule(Fact):
    """NVIDIA's kernel module on disk; looked at where a card is there and no module is loaded."""

    kernel: str | None = None
    """Release of the running kernel."""
    file: str | None = None
    """The module that was built for the running kernel."""
    other_kernels: tuple[str, ...] = ()
    """Other kernels that have one."""
    kernel_known: bool = False
    """Whether the running kernel's folder of modules is there, so that a missing file means something."""
    headers: bool = False
    failed_build: str | None = None
    """Driver version whose last build by DKMS for this kernel failed."""
    build_error: str | None = None
    """First error in the log of that build."""
    secure_boot: bool | None = None
    """Whether the firmware starts only what is signed; None where there is no EFI, or it cannot be read."""
    key: str | None = None
    """Public key of the tool that signs modules here."""
    key_enrolled: bool | None = None
    """Whether the firmware's list of the owner's keys holds it."""
    blacklisted_by: str | None = None
    """File of modprobe.d that keeps it from loading."""


@fact
class Jetson(Fact):
    """A Tegra chip, whose GPU is on no PCI bus (before Thor)."""

    model: str | None = None
    """The board, as the device tree names it."""
    chip: str | None = None
    compute_capability: str | None = None
    l4t: str | None = None
    """Release of Linux for Tegra, `36.4.3`."""
    jetpack: str | None = None
    nodes: tuple[str, ...] = ()
    """/dev/nvhost-*, /dev/nvgpu, /dev/nvmap."""
    has_gpu_node: bool = False
    """Whether one of the GPU itself is among them."""


@fact
class Nvidia(Fact):
    """All that concerns NVIDIA GPUs."""

    pci_devices: tuple[PciDevice, ...] = ()
    device_nodes: tuple[str, ...] = ()
    kernel_driver: str | None = None
    """Version of the loaded kernel module."""
    kernel_open: bool | None = None
    """Whether it is NVIDIA's open module, the only one that runs Blackwell."""
    conflicting_module: str | None = None
    """`nouveau` where it holds the card."""
    module: KernelModule | None = None
    """What lies on disk where no module is loaded."""
    jetson: Jetson | None = None
    driver_version: str | None = None
    """Version of the user-space driver, as NVML or nvidia-smi says."""
    driver_cuda: str | None = None
    """Highest CUDA that the driver runs natively."""
    driver_library: str | None = None
    """Path of libcuda.so.1 as the loader would find it."""
    library_version: str | None = None
    """Its driver version, as its file's name tells; None where the name has none (WSL)."""
    stray_library: str | None = None
    """Path of a libcuda.so.1 that is there and off the loader's path; only looked for without one on it."""
    uvm: str | None = None
    """/dev/nvidia-uvm, without which CUDA does not start: `there`, `on demand` (made by
    nvidia-modprobe at the first start of CUDA), `missing`; None where none is needed (WSL, Jetson)."""
    closed_nodes: tuple[str, ...] = ()
    """Device nodes of GPUs that this process may not open: by its rights, or by the rules of a cgroup."""
    choosers: tuple[str, ...] = ()
    """Schedulers and variables that may leave this process only some GPUs (build/cards.toml)."""
    driver_capabilities: str | None = None
    """Value of NVIDIA_DRIVER_CAPABILITIES: what of the driver a container was given."""
    source: str | None = None
    """`nvml` or `nvidia-smi`; `L4T` where a Jetson has neither."""
    smi_error: str | None = None
    """What NVML or nvidia-smi said instead of an answer."""
    gpus: tuple[Gpu, ...] = ()
    topology: tuple[tuple[str, ...], ...] = ()
    """Matrix of link names between GPUs, as in `nvidia-smi topo -m` (NV18, PHB, SYS, X)."""
    fabric_manager: str | None = None
    """`running`, `not running`; None where the machine needs none."""
    visible_variable: str | None = None
    """Value of CUDA_VISIBLE_DEVICES; None when unset, empty when set to nothing."""
    device_order: str | None = None
    visible: tuple[int, ...] = ()
    """Indices (of nvidia-smi) of the GPUs that a CUDA process would see."""
    invalid_visible: tuple[str, ...] = ()
    """Entries of CUDA_VISIBLE_DEVICES that name no device."""
    toolkits: tuple[Toolkit, ...] = ()
    nvcc: str | None = None
    """The nvcc that a build would take: CUDA_HOME's, else PATH's, else /usr/local/cuda's."""
    nvcc_version: str | None = None
    libraries: tuple[Library, ...] = ()
    """cuDNN and NCCL outside of Python environments."""


# --- ascend ----------------------------------------------------------------------------------


@fact
class Npu(Fact):
    """One Ascend chip: a device of its own for ASCEND_RT_VISIBLE_DEVICES."""

    index: int
    """Logical number over all chips."""
    npu_id: int
    chip_id: int
    name: str | None = None
    """As npu-smi prints it (910B3, Ascend910)."""
    series: str | None = None
    """Row of build/ascend.toml: 910A, 910B, 910C, 310P."""
    bus_id: str | None = None
    health: str | None = None
    hbm_total: int | None = None
    hbm_used: int | None = None
    bf16: bool | None = None
    processes: tuple[GpuProcess, ...] = ()


@fact
class Cann(Fact):
    """A CANN toolkit on disk."""

    path: str
    version: str | None = None
    """`8.5.0`, `8.2.RC1`."""
    inner_version: str | None = None
    """`V100R001C25…`: the generation that drivers are matched with."""
    accepts_drivers: tuple[str, ...] = ()
    """Driver generations that it names in its install.info: `V100R001C23`."""
    kernels: str | None = None
    """Name of the installed operator (kernels) package, None where there is none."""
    set_env: str | None = None
    """Path of its set_env.sh."""


@fact
class TorchNpu(Fact):
    """The torch_npu package of the examined Python."""

    version: str
    path: str | None = None
    requires_torch: str | None = None
    python_tags: tuple[str, ...] = ()
    missing_libraries: tuple[str, ...] = ()
    """Libraries that the loader would not find."""
    missing_packages: tuple[str, ...] = ()
    """Python packages that it or CANN imports and that are not installed."""
    unfit_packages: tuple[str, ...] = ()
    """Packages of a version that does not do: `numpy 2.1.0 (needs <2)`."""


@fact
class Ascend(Fact):
    """All that concerns Huawei Ascend NPUs."""

    pci_devices: tuple[PciDevice, ...] = ()
    device_nodes: tuple[str, ...] = ()
    """/dev/davinci0 …; without the managers."""
    manager_nodes: tuple[str, ...] = ()
    driver_version: str | None = None
    driver_inner_version: str | None = None
    """`V100R001C23…`."""
    driver_accepts_cann: tuple[str, ...] = ()
    driver_library: str | None = None
    """libascend_hal.so among the driver's own files."""
    driver_library_found: bool | None = None
    """Whether the loader finds it: by LD_LIBRARY_PATH or its cache; None where there is no such file."""
    firmware_version: str | None = None
    firmware_accepts_drivers: tuple[str, ...] = ()
    smi_path: str | None = None
    smi_error: str | None = None
    npus: tuple[Npu, ...] = ()
    unreadable_nodes: tuple[str, ...] = ()
    """Device nodes that this user may not open."""
    device_group: str | None = None
    """Group that owns the devices (HwHiAiUser)."""
    user_in_group: bool | None = None
    installed_for_all: bool | None = None
    """Whether the driver was installed for all users, whatever their groups."""
    toolkits: tuple[Cann, ...] = ()
    active_toolkit: str | None = None
    """Path of the toolkit that the environment points to, else that `latest` does."""
    env_sourced: bool | None = None
    """Whether set_env.sh took effect: its variables set and its libraries on the loader's path."""
    env_missing: tuple[str, ...] = ()
    """What of it is missing: names of variables or `LD_LIBRARY_PATH`."""
    nnal: str | None = None
    """Folder of NNAL (ATB), if installed."""
    visible_variable: str | None = None
    visible: tuple[int, ...] = ()
    invalid_visible: tuple[str, ...] = ()
    torch_npu: TorchNpu | None = None

    @property
    def active(self) -> Cann | None:
        """The toolkit that `active_toolkit` names."""
        return next((t for t in self.toolkits if t.path == self.active_toolkit), None)


# --- torch -----------------------------------------------------------------------------------


@fact
class ArchCode(Fact):
    """Compiled code for one GPU architecture in a library's fatbin."""

    arch: str
    """`9.0`; with the suffix of an architecture-specific target, `9.0a`."""
    sass: int = 0
    """Entries with machine code."""
    ptx: int = 0
    """Entries with PTX."""


@fact
class MissingLibrary(Fact):
    """A library that the loader would not find."""

    name: str
    needed_by: str
    package: str | None = None
    """The installed package that had it: `nvidia-nccl-cu13==2.29.7`."""


@fact
class SymbolGap(Fact):
    """Functions that a library asks of another, and that the one it gets does not have."""

    library: str
    """Path of the one that does not have them."""
    package: str
    """Whose part it is, without the CUDA that pip's name ends with: `nvidia-nccl`."""
    needed_by: str
    names: tuple[str, ...] = ()
    via: str = ""
    """The rule by which the loader finds that one: `LD_LIBRARY_PATH`, `rpath`, …"""


@fact
class ForeignPart(Fact):
    """A part that a library opens by its name, and gets from another release than its own."""

    name: str
    path: str
    version: str
    of: str
    """Path of the library that opens it."""
    of_version: str
    via: str = ""


@fact
class UnmetPin(Fact):
    """A package that torch asks for in one version, and of which another one is installed, or none."""

    name: str
    wanted: str
    """As metadata has it: `==2.27.5`."""
    extras: tuple[str, ...] = ()
    installed: str | None = None
    rival: str | None = None
    """What is there in its place: `nvidia-nccl-cu12 2.27.3`."""


@fact
class SharedFiles(Fact):
    """Files that two packages have installed in the same place; the later wrote over the earlier."""

    owner: str
    """The one that torch asks for."""
    owner_version: str
    other: str
    other_version: str
    path: str
    """The first of the files."""
    count: int = 1
    holds: str | None = None
    """The package whose bytes lie there now; None where nothing tells."""
    other_needed_by: str | None = None
    """A further package that asks for the other."""


@fact
class Companion(Fact):
    """A package with code compiled against one torch."""

    name: str
    version: str
    requires_torch: str | None = None
    """The requirement its metadata declares, `==2.9.1`."""


@fact
class TorchBuild(Fact):
    """A PyTorch as its files tell, without importing it."""

    path: str
    """Folder of the package (the one with version.py)."""
    version: str | None = None
    local_tag: str | None = None
    """What follows the `+` in its version."""
    flavour: str | None = None
    """`cuda`, `cpu`, `rocm`, `xpu`."""
    cuda: str | None = None
    git_commit: str | None = None
    debug: bool | None = None
    cpu_arch: str | None = None
    python_tags: tuple[str, ...] = ()
    """Interpreters its extension was built for: `cp312`."""
    built: bool = False
    """Whether the compiled libraries are there."""
    archs: tuple[ArchCode, ...] = ()
    """What libtorch_cuda.so holds, in order of architecture."""
    sibling_archs: Mapping[str, tuple[ArchCode, ...]] = field(default_factory=dict)
    """The same for its sibling libraries, by file name."""
    archs_covered: tuple[str, ...] = ()
    """Architectures with SASS for (nearly) all kernels."""
    archs_partial: tuple[str, ...] = ()
    """Architectures with SASS for a few special kernels only."""
    archs_ptx: tuple[str, ...] = ()
    distributed: bool | None = None
    libuv: bool | None = None
    nccl: bool | None = None
    gloo: bool | None = None
    mpi: bool | None = None
    cxx11_abi: bool | None = None
    needed_libraries: tuple[str, ...] = ()
    """CUDA and other libraries outside of torch that it needs, by soname."""
    missing_libraries: tuple[MissingLibrary, ...] = ()
    foreign_libraries: tuple[str, ...] = ()
    """Libraries that an earlier path (LD_LIBRARY_PATH) takes from another CUDA than torch's own."""
    undefined_symbols: tuple[str, ...] = ()
    """Symbols that a library asks of a resolved one which does not have them."""
    symbol_gaps: tuple[SymbolGap, ...] = ()
    """The same by library."""
    foreign_parts: tuple[ForeignPart, ...] = ()
    """Parts of cuDNN that would come from another cuDNN."""
    missing_parts: tuple[str, ...] = ()
    """Parts of cuDNN that neither its own folder has nor the loader finds."""
    glibc_needed: str | None = None
    glibcxx_needed: str | None = None
    libstdcxx: str | None = None
    """Newest GLIBCXX symbol version of the libstdc++ that it gets, which may be conda's."""
    libstdcxx_path: str | None = None


@fact
class Torch(Fact):
    """The torch of the examined Python, and other PyTorch trees on this machine."""

    installed: TorchBuild | None = None
    """The torch that an import would take."""
    installed_by: str | None = None
    """`wheel`, `editable`, `path` (PYTHONPATH or a .pth file), `current folder`."""
    shadowed: TorchBuild | None = None
    """The installed distribution that a torch earlier on the path hides."""
    shadowing_path: str | None = None
    """Entry of the import path that hides it."""
    import_blocker: str | None = None
    """A file or folder named torch that would be imported and is no PyTorch."""
    triton: str | None = None
    triton_ptxas: str | None = None
    """CUDA version of the ptxas that Triton takes: its own, or the one that a variable names."""
    triton_ptxas_blackwell: str | None = None
    """The same for its second ptxas, used from compute capability 10.0 on."""
    triton_ptxas_set: Mapping[str, str] = field(default_factory=dict)
    """Variable -> the ptxas that it puts in the place of Triton's own."""
    companions: tuple[Companion, ...] = ()
    unmet_pins: tuple[UnmetPin, ...] = ()
    shared_files: tuple[SharedFiles, ...] = ()
    replaced: tuple[str, ...] = ()
    """What apply put in and pinned, and is no longer so: `torch 2.15.0 instead of 2.14.1+cu126`."""
    local_trees: tuple[TorchBuild, ...] = ()
    """PyTorch source trees found at the usual places, best first."""


# --- rust, storage, network -------------------------------------------------------------------


@fact
class Rust(Fact):
    """Toolchain and crate."""

    rustc: str | None = None
    cargo: str | None = None
    rustc_path: str | None = None
    rustup: bool | None = None
    off_path: str | None = None
    """Folder with a cargo that is not on the PATH (~/.cargo/bin)."""
    toolchain_file: str | None = None
    mirror: str | None = None
    """Registry that replaces crates.io in cargo's configuration."""
    maturin: str | None = None
    crate: str | None = None
    """Folder of the crate's source, where nanochat-doctor runs from a checkout."""
    module_path: str | None = None
    """The `rustbpe` extension that the examined Python would import."""
    module_version: str | None = None
    module_distribution: str | None = None
    module_stale: str | None = None
    """Why it does not serve: built for another interpreter or architecture, or older than its source."""
    module_published: bool = False
    """Whether it is the package of the Python index, which trains and does not encode."""
    tiktoken: str | None = None
    """Version of the package that encodes beside the published one."""
    linker: str | None = None
    """Path of what rustc links by."""
    own_toolchain: bool = False
    """Whether a Rust of our own lies in our folder."""
    own_linker: bool = False
    wheel: str | None = None
    """A wheel of this checkout's crate that was built earlier and is for the examined Python."""


@fact
class Shards(Fact):
    """The parquet shards of a data set."""

    path: str
    count: int = 0
    total_mib: int = 0
    damaged: tuple[str, ...] = ()
    """Names of files whose footer is not whole, or which are LFS pointers."""


@fact
class Storage(Fact):
    """The trainer's base folder."""

    base_dir: str | None = None
    base_dir_set: bool = False
    exists: bool = False
    writable: bool | None = None
    free: int | None = None
    """Space left where the base folder is or would be."""
    shards: tuple[Shards, ...] = ()
    tokenizer: str | None = None
    """Path of its file."""
    tokenizer_damage: str | None = None
    checkpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stage (base, mid, sft, rl) -> newest checkpoint files, `d12/model_001000.pt`."""
    checkpoint_damage: tuple[str, ...] = ()


@fact
class Endpoint(Fact):
    """One address that was asked."""

    name: str
    kind: str
    host: str
    reachable: bool
    latency: float | None = None
    trouble: str | None = None


@fact
class Network(Fact):
    """What can be reached; only looked at on demand."""

    endpoints: tuple[Endpoint, ...] = ()


@fact
class DeepCheck(Fact):
    """One experiment that ran in a child of the examined interpreter."""

    name: str
    ok: bool | None
    """None: not applicable here."""
    detail: str = ""
    seconds: float | None = None


@fact
class Deep(Fact):
    """What happened when torch was really imported and used."""

    checks: tuple[DeepCheck, ...] = ()


@fact
class Facts(Fact):
    """A machine. An area that was not looked at is None; a probe that failed is in `unknown`."""

    schema: int = SCHEMA
    tool: str = ""
    """Version of nanochat-doctor that looked."""
    root: bool = False
    """Whether this describes a tree below `--root` rather than a live machine."""
    host: Host | None = None
    python: Python | None = None
    nvidia: Nvidia | None = None
    ascend: Ascend | None = None
    torch: Torch | None = None
    rust: Rust | None = None
    storage: Storage | None = None
    network: Network | None = None
    deep: Deep | None = None


AREAS = ("host", "python", "nvidia", "ascend", "torch", "rust", "storage", "network")
"""Fields of `Facts` that a probe fills, in the order in which they are shown."""


def from_json(data: Any) -> Facts:
    """Read facts back.

    Raises:
        DoctorError: another schema, an unknown field, or a value of the wrong type, with its place.
    """
    if not isinstance(data, Mapping) or "schema" not in data:
        raise DoctorError("This is no facts file: it has no schema; make one with `facts`.")
    if data["schema"] != SCHEMA:
        raise DoctorError(
            f"The facts file has schema {shortened(data['schema'])} and this version reads {SCHEMA}; "
            "make a new one with `facts` on that machine."
        )
    facts: Facts = read_json(Facts, data, "facts")
    return facts

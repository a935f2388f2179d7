"""What rules look at: facts, tables, and questions that several of them ask."""

from __future__ import annotations

import functools
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from doctor.facts import Facts, Gpu, Host, Jetson, PciDevice, TorchBuild
from doctor.findings.finding import Finding, Remedy
from doctor.knowledge import compat
from doctor.knowledge.bus import bus_key
from doctor.knowledge.card_state import forward_compatible, stopped
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import minor, older

NVIDIA_ARCH = {"aarch64": "sbsa", "arm64": "sbsa"}
"""NVIDIA's repositories call ARM servers so."""


class Context:
    """One machine under examination. All properties are derived from the facts alone."""

    def __init__(self, facts: Facts, tables: Tables) -> None:
        self.facts = facts
        self.tables = tables

    def finding(
        self,
        code: str,
        severity: str,
        cause: str,
        evidence: Sequence[str],
        remedy: str,
        commands: Sequence[str] = (),
    ) -> Finding:
        """A finding with the title of its code."""
        cause = cause[:1].upper() + cause[1:] if cause.startswith(("an ", "a ")) else cause
        title = str(self.tables.code(code)["title"])
        return Finding(
            code, severity, title, cause, tuple(evidence), Remedy(remedy, tuple(commands))
        )

    # --- devices -------------------------------------------------------------------------

    @functools.cached_property
    def has_nvidia(self) -> bool:
        """Whether there is any NVIDIA GPU, visible or not."""
        nvidia = self.facts.nvidia
        return bool(
            nvidia and (nvidia.pci_devices or nvidia.gpus or nvidia.device_nodes or nvidia.jetson)
        )

    @property
    def jetson(self) -> Jetson | None:
        """The Tegra chip, where its own GPU is the one to use: a card on the bus comes before it."""
        nvidia = self.facts.nvidia
        if nvidia is None or nvidia.jetson is None:
            return None
        row = self.tables.arch(self.capabilities[0]) if self.capabilities else None
        return nvidia.jetson if row is None or row["tegra"] else None

    @functools.cached_property
    def has_npu(self) -> bool:
        """Whether there is any Ascend NPU, usable or not."""
        ascend = self.facts.ascend
        return bool(ascend and (ascend.npus or ascend.device_nodes or ascend.pci_devices))

    @functools.cached_property
    def gpus(self) -> list[Gpu]:
        """GPUs that a CUDA process would see, in its order."""
        nvidia = self.facts.nvidia
        by_index = {gpu.index: gpu for gpu in nvidia.gpus} if nvidia else {}
        return [by_index[i] for i in nvidia.visible if i in by_index] if nvidia else []

    @functools.cached_property
    def capabilities(self) -> list[str]:
        """Compute capabilities of the visible GPUs, each once; without a driver, of the bus."""
        nvidia = self.facts.nvidia
        known = [gpu.compute_capability for gpu in self.gpus]
        if nvidia and not nvidia.gpus:
            known = [device.compute_capability for device in nvidia.pci_devices]
            if nvidia.jetson and not nvidia.pci_devices:
                known = [nvidia.jetson.compute_capability]
        return list(dict.fromkeys(cc for cc in known if cc))

    @functools.cached_property
    def driver(self) -> str | None:
        """Version of the NVIDIA driver that CUDA meets: in user space, or else in the kernel.

        Where forward compatibility works, it is that of cuda-compat's libcuda.
        """
        nvidia = self.facts.nvidia
        if nvidia is None:
            return None
        return self.forward_compat or nvidia.driver_version or nvidia.kernel_driver

    @functools.cached_property
    def forward_compat(self) -> str | None:
        """Version of a libcuda of cuda-compat, newer than the kernel module, on cards that take it."""
        nvidia = self.facts.nvidia
        if nvidia is None or not nvidia.library_version or not nvidia.kernel_driver:
            return None
        if "compat" not in (nvidia.driver_library or ""):
            return None
        newer = older(nvidia.kernel_driver, nvidia.library_version)
        works = newer and forward_compatible([gpu.name for gpu in nvidia.gpus], self.tables)
        return nvidia.library_version if works else None

    @functools.cached_property
    def sound_gpus(self) -> list[Gpu]:
        """Visible GPUs of a driver that answers, without those on which CUDA would not start."""
        nvidia = self.facts.nvidia
        if nvidia is None or not nvidia.source:
            return []
        return [gpu for gpu in self.gpus if not stopped(gpu, self.tables)]

    @functools.cached_property
    def unlisted_devices(self) -> list[PciDevice]:
        """NVIDIA GPUs on the bus that the driver does not list."""
        nvidia = self.facts.nvidia
        if nvidia is None:
            return []
        listed = {bus_key(gpu.bus_id) for gpu in nvidia.gpus}
        return [d for d in nvidia.pci_devices if bus_key(d.address) not in listed]

    @functools.cached_property
    def gpu_names(self) -> str:
        """What NVIDIA GPUs the machine has, in words."""
        nvidia = self.facts.nvidia
        names = [gpu.name for gpu in nvidia.gpus if gpu.name] if nvidia else []
        if names:
            return _counted(names)
        chips = [d.chip or str(d.device_id) for d in nvidia.pci_devices] if nvidia else []
        some = "an NVIDIA GPU" if len(chips) < 2 else f"{len(chips)} NVIDIA GPUs"
        return f"{some} ({_counted(chips)})" if chips else some

    @functools.cached_property
    def gpus_are(self) -> str:
        """The same as the subject of a sentence, `is` or `are` with it."""
        nvidia = self.facts.nvidia
        listed = sum(1 for gpu in nvidia.gpus if gpu.name) if nvidia else 0
        count = listed or (len(nvidia.pci_devices) if nvidia else 0)
        return f"{self.gpu_names} {'are' if count > 1 else 'is'}"

    # --- who gives devices -----------------------------------------------------------------

    @property
    def container(self) -> str | None:
        """Kind of the container that this is, if it is one."""
        return self.facts.host.container if self.facts.host else None

    @property
    def wsl(self) -> bool:
        """Whether this is Windows' Linux."""
        return bool(self.facts.host and self.facts.host.wsl)

    @functools.cached_property
    def job(self) -> Row | None:
        """The scheduler in whose job this runs, which gives it some of the machine's GPUs."""
        names = self.facts.nvidia.choosers if self.facts.nvidia else ()
        rows = self.tables.rows("cards", "chooser")
        return next((row for row in rows if row["job"] and row["name"] in names), None)

    @property
    def hidden_on_purpose(self) -> bool:
        """Whether a container, a scheduler or the user may have left out cards that are on the bus."""
        nvidia = self.facts.nvidia
        return bool(self.container or (nvidia and (nvidia.choosers or nvidia.closed_nodes)))

    # --- torch and Python ------------------------------------------------------------------

    @property
    def torch(self) -> TorchBuild | None:
        """The torch that an import takes."""
        return self.facts.torch.installed if self.facts.torch else None

    @property
    def python_minor(self) -> str | None:
        """`3.12`, `3.13t`."""
        python = self.facts.python
        if python is None or python.version is None:
            return None
        return minor(python.version) + ("t" if python.free_threaded else "")

    @functools.cached_property
    def wheels(self) -> list[compat.Wheel]:
        """Wheels that would run on this machine as it is, best first."""
        host = self.facts.host
        return compat.fitting_wheels(
            self.tables,
            python=self.python_minor,
            cpu_arch=compat.cpu_arch(host),
            glibc=host.libc_version if host and host.libc == "glibc" else None,
            devices=[] if self.has_npu else self.capabilities,
            driver=None if self.has_npu else self.driver,
        )

    # --- commands --------------------------------------------------------------------------

    def pip_install(self, *requirements: str, index: str | None = None) -> str:
        """The command that installs packages into the examined Python."""
        python = self.facts.python
        executable = (python.executable if python else None) or "python3"
        words = [executable, "-m", "pip", "install"]
        if self.has_tool("uv") and (python is None or python.pip_version is None):
            words = ["uv", "pip", "install", "--python", executable]
        words += requirements
        if index:
            words += ["--index-url", index]
        command = shlex.join(words)
        if words[0] != "uv" and python is not None and python.pip_version is None:
            return f"{shlex.quote(executable)} -m ensurepip && {command}"
        return command

    def pip_reinstall(self, *requirements: str) -> str:
        """The command that puts packages in again as they are, and nothing that they ask for."""
        uv = self.pip_install().startswith("uv ")
        names = [re.split(r"[=<>~!\[]", requirement)[0] for requirement in requirements]
        options = [f"--reinstall-package={name}" for name in names] if uv else ["--force-reinstall"]
        return self.pip_install(*options, "--no-deps", *requirements)

    def pip_uninstall(self, *names: str) -> str:
        """The command that takes packages out."""
        command = self.pip_install(*names)
        if command.startswith("uv "):
            return command.replace(" install ", " uninstall ", 1)
        return command.replace(" -m pip install ", " -m pip uninstall --yes ", 1)

    def has_tool(self, name: str) -> bool:
        """Whether a program was found on the PATH."""
        return bool(self.facts.host and name in self.facts.host.tools)

    @functools.cached_property
    def distribution(self) -> list[str]:
        """This distribution's names in the tables, most telling first: `centos:7`, `centos`, `rhel`."""
        host = self.facts.host
        if host is None:
            return []
        if host.os == "Darwin":
            return ["macos"]
        names = [name for name in (host.distro_id, *host.distro_like) if name]
        major = (host.distro_version or "").partition(".")[0]
        return [f"{names[0]}:{major}", *names] if names and major else names

    def _row(self, table: str) -> Row | None:
        """The row of build/packages.toml for this distribution, else for one it is like."""
        rows = self.tables.rows("packages", table)
        for name in self.distribution:
            for row in rows:
                if name in row["id"]:
                    return row
        return None

    def system_install(self, need: str, cuda: str = "") -> list[str]:
        """Commands that install a system package; none where the distribution is not known.

        Args:
            cuda: version of the toolkit, for packages that are named after it.
        """
        manager = self._row("manager")
        needs = self.tables.rows("packages", "need")
        row = next((r for r in needs if r["name"] == need), None)
        if row is None or manager is None:
            return []
        packages = row.get(manager["name"], [])
        if self.facts.python is not None and self.facts.python.prefix == "/usr":
            packages = row.get(f"{manager['name']}_system", packages)
        if not packages:
            return []
        python = (self.python_minor or "3").removesuffix("t")
        text = " ".join(str(package) for package in packages)
        placeholders = {
            "{python}": python,
            "{python_nodot}": python.replace(".", ""),
            "{cuda}": cuda,
            "{cuda_dashed}": cuda.replace(".", "-"),
        }
        text = filled(text, placeholders)
        return [*self._repository(need), str(manager["install"]).replace("{packages}", text)]

    def _repository(self, need: str) -> list[str]:
        """Commands that add the repository which has a package; none where the distribution's own has it."""
        host = self.facts.host
        rows = [r for r in self.tables.rows("packages", "repository") if need in r["for"]]
        row = next((r for name in self.distribution for r in rows if name in r["id"]), None)
        if row is None or host is None:
            return []
        return [filled(str(command), self.repository_values) for command in row["commands"]]

    @property
    def repository_values(self) -> dict[str, str]:
        """What stands for the placeholders in the commands that add NVIDIA's repository."""
        host = self.facts.host or Host()
        name, version = host.distro_id or "", host.distro_version or ""
        major = version.partition(".")[0]
        return {
            "{arch}": NVIDIA_ARCH.get(host.arch or "", host.arch or "x86_64"),
            "{distro}": name + (version.replace(".", "") if name == "ubuntu" else major),
            "{major}": major,
        }


def _counted(names: Sequence[str]) -> str:
    """`A and 2 × B`."""
    return joined([k if n == 1 else f"{n} × {k}" for k, n in Counter(names).items()])


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text with values in the place of its placeholders."""
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def joined(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"

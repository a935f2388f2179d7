"""Takes out of facts what names a person or a machine, so that they can be posted.

Keys are never touched. What has the shape of an identifier or a secret is replaced everywhere. Names that are known
(user, host, home folder, account and name of a job) are replaced in text and paths, and never in a value that decides:
a user called `cuda` must not turn the flavour of a torch into `…`.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from doctor.errors import Unknown
from doctor.machine.system import System
from doctor.text.credentials import PRIVATE, is_public, without_secrets

DECIDING = frozenset(
    """
    accepts_drivers active address arch archs archs_covered archs_partial archs_ptx bits bus_id cargo chip
    compute_capability conflicting_module container cpu_arch cpu_flags cpu_model cuda debug device_id
    device_nodes device_order distro_id distro_like distro_name distro_version driver driver_accepts_cann
    driver_cuda driver_inner_version driver_version ecc_mode env_missing fabric_manager fabric_state faults
    firmware_accepts_drivers firmware_version flavour foreign_libraries found_by git_commit glibc_needed
    glibcxx_needed health implementation inner_version invalid_visible kernel kernel_driver kernels kind libc
    libc_version libstdcxx local_tag manager_nodes maturin mig_instances mig_mode missing_libraries
    missing_packages module_distribution module_version name needed_by needed_libraries nvcc_version os packages
    pip_version proxy_variables python_tags replaced requires_torch rustc series sibling_archs soname source
    stage tool topology triton triton_ptxas triton_ptxas_blackwell undefined_symbols unfit_packages vendor_id
    version visible_variable
    """.split()
)
"""Fields in which a name is no name, and four numbers with points between them are a version."""

FREE = frozenset({"unknown", "processes", "checks", "endpoints", "import_path"})
"""Fields below which nothing decides, whatever it is called."""

DROPPED = frozenset({"uuid"})

NAME_VARIABLES = (
    "USER LOGNAME USERNAME SUDO_USER HOSTNAME HOST COMPUTERNAME USERDOMAIN NAME SLURM_JOB_USER SLURM_JOB_ACCOUNT "
    "SLURM_JOB_NAME SLURM_CLUSTER_NAME SLURM_SUBMIT_HOST SLURMD_NODENAME SBATCH_ACCOUNT SALLOC_ACCOUNT PBS_O_HOST "
    "PBS_O_LOGNAME PBS_ACCOUNT PBS_JOBNAME LSB_JOBNAME LSB_PROJECT_NAME WANDB_ENTITY KUBERNETES_NODE_NAME POD_NAME"
).split()
FIRST_USER = 1000
"""Smallest number of a person's account (login.defs)."""

COMMON_NAMES = frozenset(
    """
    root user users localhost ubuntu debian fedora centos admin host vm nobody docker linux home usr opt bin lib local
    share etc dev proc sys var tmp run srv mnt media data scratch work python python3 venv conda base main test bash
    """.split()
)
"""Names that everyone has, and words of which paths are made."""

HEX = "0-9a-fA-F"
IDENTIFIERS: tuple[tuple[str, str], ...] = (
    (rf"\b(GPU|MIG|NPU|VGPU)-[{HEX}]{{4,12}}(?:-[{HEX}]{{1,12}})*(?![\w])", r"\1-…"),
    (rf"\b[{HEX}]{{8}}-[{HEX}]{{4}}-[{HEX}]{{4}}-[{HEX}]{{4}}-[{HEX}]{{12}}\b", "…"),
    (r"(?i)\b(serial(?:[ _-]?(?:numbers?|no\.?|nr\.?))?|s/n|asset[ _-]?tag|board[ _-]?id)(\s*[=:#]\s*)\S+", r"\1\2…"),
    (rf"\b(?:[{HEX}]{{2}}[:-]){{5}}[{HEX}]{{2}}(?![\w-])(?!:[{HEX}])", "…"),
    (rf"\b[{HEX}]{{4}}\.[{HEX}]{{4}}\.[{HEX}]{{4}}\b", "…"),
    (rf"(?<![\w:.])(?:[{HEX}]{{1,4}}:){{7}}[{HEX}]{{1,4}}(?!\w)(?!:[{HEX}])", "…"),
    (rf"(?<![\w:.])(?:[{HEX}]{{1,4}}:){{1,6}}(?::[{HEX}]{{1,4}}){{1,6}}(?:%\w+)?(?!\w)(?!:[{HEX}])", "…"),
    (rf"(?<![\w:.])(?:[{HEX}]{{1,4}}:){{2,6}}:(?![\w:.])", "…"),
    (r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "…"),
    (r"(?i)((?:[a-z]:)?\\(?:users|documents and settings)\\)(?:[^\\/:'\"\n]+(?=\\)|[^\\/:\s'\"]+)", r"\1…"),
    (r"(?<![\w\\])\\\\[\w.$-]+(?:\\[^\\\s'\"]+)+", r"\\\\…"),
    (r"(?i)(?<![\w.-])(?:[\w-]+\.)+(?:internal|corp|intranet|intra|lan|localdomain|private|local)(?![\w.-])", "…"),
    (r"/(home\d*|homes|[Uu]sers|u)/(?:[^/\s:'\"]+(?: [^/\s:'\"]+)*(?=/)|[^/\s:'\"]+)", r"/\1/…"),
    (
        r"(?i)\b((?:account|job[_-]?name|user(?:[_-]?(?:id|name))?|login|logname|host(?:[_-]?name)?"
        r"|node(?:[_-]?(?:name|list))?|wckey|reservation)=)[^\s,;'\"…]+",
        r"\1…",
    ),
    (r"(?i)(--(?:account|job-name|uid|wckey)[ =])[^\s,;'\"…]+", r"\1…"),
)  # fmt: skip
"""What has the shape of an identifier -> what is shown."""

IN_TEXT: tuple[tuple[str, str], ...] = (
    (r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])", "…"),
    (
        r"(?i)(?<!git )(?<!commit )(?<!sha1 )(?<![0-9a-f])(?:[0-9a-f]{40}|[0-9a-f]{32})(?![0-9a-f])",
        "…",
    ),
)
"""The same where no version and no commit can stand."""

URL = re.compile(r"\b([a-z][a-z0-9+.-]{0,30})://[^\s\"'<>]+", re.IGNORECASE)


def redact(data: Any, system: System) -> Any:
    """The same JSON value with identifying parts replaced by `…`, `~` or a neutral name."""
    return _Redactor(system).walk(data)


class _Redactor:
    """The rules for one machine."""

    def __init__(self, system: System) -> None:
        self._everywhere = _compiled(IDENTIFIERS)
        self._in_text = [*_home(system), *_names(system), *_compiled(IN_TEXT)]

    def walk(self, value: Any, deciding: bool = False, free: bool = False) -> Any:
        """Redact one value and all that is in it.

        Args:
            deciding: it lies in a field that decides.
            free: no field below it decides.
        """
        if isinstance(value, str):
            return self._text(value, deciding)
        if isinstance(value, Mapping):
            return {
                key: None
                if key in DROPPED
                else self.walk(
                    item,
                    (key in DECIDING or (deciding and key not in FREE)) and not free,
                    free or key in FREE,
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.walk(item, deciding, free) for item in value]
        return value

    def _text(self, text: str, deciding: bool) -> str:
        text = URL.sub(_shown_url, without_secrets(text))
        rules = self._everywhere if deciding else [*self._in_text, *self._everywhere]
        for pattern, shown in rules:
            text = pattern.sub(shown, text)
        return text


def _shown_url(found: re.Match[str]) -> str:
    """A public address as it is; of any other its scheme."""
    known = PRIVATE in found.group() or is_public(found.group())
    return found.group() if known else f"{found.group(1)}://{PRIVATE}"


@functools.cache
def _compiled(rules: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), shown) for pattern, shown in rules]


def _home(system: System) -> Iterator[tuple[re.Pattern[str], str]]:
    home = system.home()
    if home and home != "/" and home.count("/") >= 2:
        yield re.compile(re.escape(home.rstrip("/")) + r"(?![\w.-])"), "~"


def _names(system: System) -> Iterator[tuple[re.Pattern[str], str]]:
    """Rules for the names of this machine and its people.

    A word of our own tables says nothing of a person, and is part of values and paths all over: it stays.
    """
    words = _words_of_tables() | COMMON_NAMES
    for name in sorted(_known_names(system), key=len, reverse=True):
        plain = name.lower() in words or re.fullmatch(r"[\d.]+", name)
        if len(name) > 2 and not plain:
            yield re.compile(rf"(?i)(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])"), "…"


def _known_names(system: System) -> set[str]:
    """User, host, job: by the environment, the system's files and, live, the kernel."""
    names = {system.env.get(variable, "") for variable in NAME_VARIABLES}
    names.add((system.home() or "").rstrip("/").rsplit("/", 1)[-1])
    with contextlib.suppress(Unknown):
        names.add((system.text("/etc/hostname") or "").strip())
        names.update(_people((system.text("/etc/passwd") or "").splitlines()))
    if system.live:
        names.add(os.uname().nodename)
        with contextlib.suppress(KeyError, OSError):
            names.add(getpass.getuser())
    return names | {name.split(".")[0] for name in names}


def _people(lines: list[str]) -> Iterator[str]:
    """Account and full name of everyone in /etc/passwd who is no part of the system."""
    for fields in (line.split(":") for line in lines):
        if len(fields) > 4 and fields[2].isdecimal() and FIRST_USER <= int(fields[2][:9]) < 65000:
            yield fields[0]
            yield fields[4].split(",")[0]


@functools.cache
def _words_of_tables() -> frozenset[str]:
    """Words that stand alone in a value of our tables: `cuda`, `x86_64`, `nightly`."""
    from doctor.checkout import data_folder

    text = "".join(path.read_text("utf-8") for path in sorted(data_folder().glob("*.toml")))
    values = re.findall(r"\"([\w.+/-]+)\"", text)
    return frozenset(word for value in values for word in re.split(r"[/+-]", value.lower()))

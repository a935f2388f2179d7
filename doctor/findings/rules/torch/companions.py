"""Rules about packages whose compiled code belongs to one torch."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doctor.facts import TorchBuild
from doctor.findings.context import Context, joined
from doctor.findings.finding import WARNING, Finding
from doctor.knowledge.tables import Row
from doctor.knowledge.versions import minor, release


def companions(c: Context) -> Iterator[Finding]:
    """Packages compiled against another torch."""
    torch, build = c.facts.torch, c.torch
    if torch is None or build is None or build.version is None:
        return
    pins = {
        item.name: item.requires_torch
        for item in torch.companions
        if item.requires_torch and "==" in item.requires_torch
    }
    asked = {pin.split("==", 1)[1].split(",")[0].split("+")[0].strip() for pin in pins.values()}
    if len(asked) > 1:
        yield c.finding(
            "torch.version-conflict",
            WARNING,
            f"{joined([f'{n} asks for torch{p}' for n, p in pins.items()])}: no torch meets them all.",
            [f"{name}: Requires-Dist: torch{pin}" for name, pin in pins.items()],
            "Install the versions that belong to one torch, or remove those you do not use; "
            "training here needs none of them.",
        )
    for item in torch.companions:
        problem = _companion_problem(c, item.name, item.version, item.requires_torch, build)
        if problem:
            yield c.finding(
                "torch.abi-mismatch",
                WARNING,
                f"{item.name} {item.version} {problem}, and torch {build.version} is installed; "
                "importing it fails (undefined symbol, or operator torchvision::nms does not exist).",
                [f"{item.name} {item.version}", f"torch {build.version}"],
                f"Install the {item.name} of this torch, or remove it; training here does not need it.",
                _companion_command(c, item.name, build),
            )


def _companion_problem(
    c: Context, name: str, version: str, pin: str | None, build: TorchBuild
) -> str | None:
    """Why a package does not go with a torch; None where it does, or nothing tells."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    own = release(build.version or "")
    if pin and own:
        try:
            specifier = SpecifierSet(pin)
            fits = any(specifier.contains(v, prereleases=True) for v in (build.version or own, own))
        except (InvalidSpecifier, InvalidVersion):
            return None
        if not fits:
            return f"was built for torch{pin}"
    row = _companion_row(c, own)
    paired = row.get(name) if row and not pin else None
    if paired and minor(str(paired)) != minor(version):
        return f"was not built for torch {own} (its {name} is {paired})"
    tag, torch_tag = version.partition("+")[2], build.local_tag or ""
    named = re.search(r"torch(\d+\.\d+)", tag)
    if named and named.group(1) != minor(own):
        return f"was built for torch {named.group(1)}"
    cuda, torch_cuda = (re.match(r"cu(\d\d)", t) for t in (tag, torch_tag))
    if cuda and torch_cuda and cuda.group(1) != torch_cuda.group(1):
        return f"was built for CUDA {cuda.group(1)}"
    if tag == "cpu" and build.flavour == "cuda":
        return "is a CPU build"
    return None


def _companion_row(c: Context, torch: str) -> Row | None:
    rows = c.tables.rows("torch", "companion")
    return next((row for row in rows if release(row["torch"]) == torch), None)


def _companion_command(c: Context, name: str, build: TorchBuild) -> list[str]:
    row = _companion_row(c, release(build.version or ""))
    if row is None or name not in row:
        return []
    index = c.tables.pytorch_index(build.local_tag) if build.local_tag else None
    return [c.pip_install(f"{name}=={row[name]}", "--no-deps", index=index)]


RULES = (companions,)

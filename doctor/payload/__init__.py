"""Scripts that run inside the examined interpreter. They need its Python alone, from 3.8 on."""

from pathlib import Path


def path(name: str) -> Path:
    """The script of that name, as a file to hand to an interpreter."""
    return Path(__file__).with_name(f"{name}.py")

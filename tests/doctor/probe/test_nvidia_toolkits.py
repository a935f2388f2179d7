"""CUDA toolkits in trees: where they are found, which version they have, which nvcc counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from doctor.knowledge.tables import Tables
from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.probe.nvidia import toolkits
from doctor.probe.nvidia.toolkits import Toolkits

NVCC = """\
#!/bin/sh
case $1 in
--version) cat <<'E'
nvcc: NVIDIA (R) Cuda compiler driver
Cuda compilation tools, release {version}, V{version}.93
E
;;
--list-gpu-arch) printf 'compute_75\\ncompute_90\\ncompute_120\\ncompute_103\\n';;
esac
"""


def version_json(version: str) -> str:
    return json.dumps({"cuda": {"name": "CUDA SDK", "version": version}})


def probe(root: Path, files: Mapping[str, str], links: Mapping[str, str] | None = None) -> Toolkits:
    for name, text in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        if "/bin/" in name:
            place.chmod(0o755)
    for name, target in (links or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    system = System(root, execute=True)
    sites = ["/usr/lib/python3.12/site-packages"]
    env = PythonEnvironment(system, "3.12", [], sites)
    return toolkits.probe(system, env, Tables())


def test_one_toolkit_behind_its_usual_link(tmp_path: Path) -> None:
    found = probe(
        tmp_path,
        {"usr/local/cuda-12.8/bin/nvcc": NVCC.format(version="12.8"),
         "usr/local/cuda-12.8/version.json": version_json("12.8.1")},
        {"usr/local/cuda": "/usr/local/cuda-12.8"},
    )  # fmt: skip
    (toolkit,) = found.found
    assert (toolkit.path, toolkit.version) == ("/usr/local/cuda-12.8", "12.8")
    assert toolkit.found_by == ("PATH", "/usr/local/cuda", "/usr/local/cuda-12.8")
    assert toolkit.archs == ("7.5", "9.0", "10.3", "12.0")
    assert (found.nvcc, found.nvcc_version) == ("/usr/local/cuda-12.8/bin/nvcc", "12.8")


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"version.json": version_json("13.0.48")}, "13.0"),
        ({"version.txt": "CUDA Version 11.8.89\n"}, "11.8"),
        ({"include/cuda.h": "#define CUDA_VERSION 12060\n"}, "12.6"),
        ({"include/cuda.h": "  #define  CUDA_VERSION  13020 \n"}, "13.2"),
        ({"version.json": "{", "include/cuda.h": "#define CUDA_VERSION 12040"}, "12.4"),
        ({"version.json": "[]", "version.txt": "garbage"}, None),
        ({"version.json": '{"cuda": {"version": 12}}'}, "12"),
        ({"version.json": '{"cuda": null}', "version.txt": "\0\0"}, None),
        ({}, None),
    ],
)
def test_version_from_files(tmp_path: Path, files: dict[str, str], version: str | None) -> None:
    base = "usr/local/cuda-x/"
    listed = {base + name: text for name, text in files.items()} | {
        base + "bin/nvcc": "#!/bin/sh\n"
    }
    (toolkit,) = probe(tmp_path, listed).found
    assert toolkit.version == version
    assert bool(toolkit.unknown) == (version is None)


def test_a_folder_without_compiler_and_version_is_no_toolkit(tmp_path: Path) -> None:
    assert probe(tmp_path, {"usr/local/cuda-12.8/lib64/libcudart.so.12": ""}).found == ()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("", "/usr/local/cuda-12.8/bin/nvcc"),
        ("CUDA_HOME=/opt/cuda-11.8\n", "/opt/cuda-11.8/bin/nvcc"),
        ("CUDA_PATH=/opt/cuda-11.8/\n", "/opt/cuda-11.8/bin/nvcc"),
        ("CUDA_HOME=/usr/local/cuda-13.0\nCUDA_PATH=/opt/cuda-11.8\n",
         "/usr/local/cuda-13.0/bin/nvcc"),
        ("CUDA_HOME=/nowhere\n", "/usr/local/cuda-12.8/bin/nvcc"),
        ("CUDA_HOME=relative\n", "/usr/local/cuda-12.8/bin/nvcc"),
    ],
)  # fmt: skip
def test_which_nvcc_a_build_takes(tmp_path: Path, environment: str, expected: str) -> None:
    files = {
        f"{place}/bin/nvcc": NVCC.format(version=version)
        for place, version in (("usr/local/cuda-12.8", "12.8"), ("usr/local/cuda-13.0", "13.0"),
                               ("opt/cuda-11.8", "11.8"))
    }  # fmt: skip
    files["etc/environment"] = environment
    found = probe(tmp_path, files, {"usr/local/cuda": "cuda-12.8"})
    assert found.nvcc == expected
    assert {t.path for t in found.found} >= {"/usr/local/cuda-12.8", "/usr/local/cuda-13.0"}


def test_pip_and_conda_toolkits(tmp_path: Path) -> None:
    site = "usr/lib/python3.12/site-packages/nvidia/"
    found = probe(
        tmp_path,
        {
            f"{site}cuda_nvcc/bin/nvcc": "",
            f"{site}cu13/bin/nvcc": "",
            f"{site}cu13/include/cuda.h": "#define CUDA_VERSION 13000",
            "opt/conda/envs/x/bin/nvcc": "",
            "etc/environment": "CONDA_PREFIX=/opt/conda/envs/x\n",
        },
    )
    assert {(t.path.rsplit("/", 1)[-1], t.found_by, t.version) for t in found.found} == {
        ("x", ("conda",), None), ("cuda_nvcc", ("pip",), None), ("cu13", ("pip",), "13.0"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "body", ["exit 1", "echo nothing useful", "printf '\\000\\001'", "kill -SEGV $$", "sleep 60"]
)
def test_an_nvcc_that_does_not_answer(tmp_path: Path, body: str) -> None:
    files = {
        "usr/local/cuda/bin/nvcc": f"#!/bin/sh\n{body}\n",
        "usr/local/cuda/version.json": version_json("12.8.0"),
    }
    for name, text in files.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o755)
    found = toolkits.probe(System(tmp_path, seconds=0.5, execute=True), None, Tables())
    assert (found.nvcc, found.nvcc_version) == ("/usr/local/cuda/bin/nvcc", "12.8")
    assert set(found.reasons) == {"nvcc_version", "nvcc_archs"}
    # what the compiler does not say, its table row does
    assert "12.0" in found.found[0].archs

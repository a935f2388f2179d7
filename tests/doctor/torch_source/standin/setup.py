"""The contract of PyTorch's setup.py: its commands, variables and folders."""
# ruff: noqa: ANN001, ANN201

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

CMAKE_ONLY = "--cmake-only" in sys.argv
if CMAKE_ONLY:
    sys.argv.remove("--cmake-only")

from setuptools import Extension, find_packages, setup  # noqa: E402

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"


def report(text):
    print(text, flush=True)


def version():
    stated = os.getenv("PYTORCH_BUILD_VERSION")
    if stated:
        assert os.getenv("PYTORCH_BUILD_NUMBER") is not None
        return stated
    return (HERE / "version.txt").read_text().strip()


def check_submodules():
    if not any((HERE / "third_party" / "tensorpipe").glob("*")):
        report("Could not find any of CMakeLists.txt in third_party/tensorpipe")
        report("Did you run 'git submodule update --init --recursive'?")
        sys.exit(1)


def configure():
    if (BUILD / "CMakeCache.txt").exists() and (BUILD / "build.ninja").exists():
        return
    BUILD.mkdir(exist_ok=True)
    passed = {k: v for k, v in os.environ.items() if k.startswith(("BUILD_", "USE_", "CMAKE_"))}
    if "TORCH_CUDA_ARCH_LIST" in os.environ:
        passed["TORCH_CUDA_ARCH_LIST"] = os.environ["TORCH_CUDA_ARCH_LIST"]
    passed["CMAKE_INSTALL_PREFIX"] = str(HERE / "torch")
    defines = [f"-D{k}={v}" for k, v in sorted(passed.items())]
    command = ["cmake", "-GNinja", *defines, f"-DPython_EXECUTABLE={sys.executable}", str(HERE)]
    subprocess.check_call(command, cwd=BUILD)


def build():
    check_submodules()
    (HERE / "torch" / "version.py").write_text(
        f"__version__ = {version()!r}\ndebug = False\n"
        f"cuda = {'13.5' if os.getenv('USE_CUDA', '1') == '1' else None!r}\n"
        f"git_version = {os.getenv('GIT_VERSION', 'unknown')!r}\nhip = None\n"
    )
    configure()
    if CMAKE_ONLY:
        report("Finished running cmake.")
        sys.exit(0)
    jobs = os.getenv("MAX_JOBS")
    command = ["cmake", "--build", ".", "--target", "install", "--config", "Release"]
    subprocess.check_call([*command, *(["--", "-j", jobs] if jobs else [])], cwd=BUILD)


if any(word in sys.argv for word in ("build", "bdist_wheel", "install", "develop")):
    build()

setup(
    name="torch",
    version=version(),
    packages=find_packages(include=["torch", "torch.*"]),
    package_data={"torch": ["lib/*.so*"]},
    ext_modules=[
        Extension(
            "torch._C",
            sources=["torch/csrc/stub.c"],
            libraries=["torch_python"],
            library_dirs=["torch/lib"],
            extra_link_args=["-Wl,-rpath,$ORIGIN/lib"],
            include_dirs=[sysconfig.get_path("include")],
        )
    ],
    zip_safe=False,
)

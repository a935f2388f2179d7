"""Ascend: driver, CANN, torch_npu."""

from __future__ import annotations

from dataclasses import replace

from machines import TorchNpu, elf

from cases.describe import (
    CANN_LIBRARIES,
    DCMI,
    DRIVER,
    DRIVER_INFO,
    OUTSIDER,
    Case,
    atlas,
    cann85,
    case,
    container,
)

NPUS: dict[str, Case] = {
    # --- Ascend: driver --------------------------------------------------------------------------------
    "NPUs without a driver": case(
        atlas(chips={"driver": None, "nodes": False}), "npu.driver-missing"
    ),
    "container without the driver mounted": case(
        container(atlas(chips={"driver": None, "nodes": True})), "npu.driver-missing"
    ),
    "container without device nodes": case(
        container(atlas(chips={"nodes": False, "says": DCMI.format(-8005)})), "npu.no-devices-visible",
        says=("--device",),
    ),
    "driver installed, modules not loaded": case(
        atlas(chips={"nodes": False, "says": DCMI.format(-8005)}, without=("/proc/modules",)),
        "npu.driver-missing",
    ),
    "another container owns the NPUs": case(
        container(atlas(chips={"says": DCMI.format(-8005)})), "npu.no-devices-visible"
    ),
    "the NPUs are used": case(
        container(atlas(chips={"says": "dcmi model initialized failed, because the device is used. "
                                       "ret is -8020"})),
        "npu.no-devices-visible",
    ),
    "a user outside the group": case(
        atlas(chips={"says": DCMI.format(-8005)}, programs=OUTSIDER), "npu.permission",
        says=("HwHiAiUser", "usermod"),
    ),
    "a user outside the group, no program id": case(
        atlas(chips={"says": DCMI.format(-8005)}, without=("/usr/bin/id",), env={"USER": "user"},
              files={"/etc/group": "root:x:0:\nHwHiAiUser:x:1000:\nuser:x:1001:\n"}),
        "npu.permission",
    ),
    "driver older than CANN accepts": case(
        atlas(chips={"driver": "24.1.0", "inner": "V100R001C18", "accepts": ("C20", "C21", "C23"),
                     "driver_accepts": ("C17", "C18", "C19")}),
        "npu.driver-cann-mismatch", says=("C18", "C20"),
    ),
    "driver newer than CANN knows": case(
        atlas(chips={"driver": "26.0.0", "inner": "V100R001C25"}), warnings="npu.driver-cann-mismatch",
    ),
    "driver of 26.0, where generations began anew": case(
        atlas(chips={"driver": "26.0.rc1", "inner": "V100R001C10"}), warnings="npu.driver-cann-mismatch",
    ),
    "firmware for other drivers": case(
        atlas(chips={"driver": "23.0.7"}), warnings="npu.driver-cann-mismatch", says=("[Ff]irmware",)
    ),
    "a chip in alarm": case(
        atlas(chips={"health": {3: "Alarm"}}), "npu.hardware-fault", says=("NPU 3",)
    ),
    "a chip with a warning": case(
        atlas(chips={"health": {3: "Warning"}}), warnings="npu.hardware-fault"
    ),
    "HBM held, by whom is not shown": case(
        container(atlas(chips={"used": {2: 60000}, "lists_processes": False})),
        warnings="npu.oom",
    ),
    "HBM held by a dead run": case(
        atlas(chips={"used": {0: 60000}}), warnings="npu.oom", says=("4242",)
    ),
    "ASCEND_RT_VISIBLE_DEVICES is empty": case(
        atlas(env={"ASCEND_RT_VISIBLE_DEVICES": ""}), "npu.no-devices-visible"
    ),
    "ASCEND_RT_VISIBLE_DEVICES out of range": case(
        atlas(env={"ASCEND_RT_VISIBLE_DEVICES": "9"}), "npu.no-devices-visible", says=("0 to 7",)
    ),
    "container, the driver's libraries off the path": case(
        container(atlas(env={"LD_LIBRARY_PATH": CANN_LIBRARIES})), "npu.library-missing",
        says=("libascend_hal", f"{DRIVER}/driver"), never=("ldconfig",),
    ),
    "host whose loader has no cache of the driver": case(
        atlas(env={"LD_LIBRARY_PATH": CANN_LIBRARIES}), "npu.library-missing", says=("libascend_hal", "ldconfig"),
    ),
    "the driver's libraries off the path, npu-smi fails of it": case(
        container(atlas(
            env={"LD_LIBRARY_PATH": CANN_LIBRARIES},
            chips={"says": "npu-smi: error while loading shared libraries: libdrvdsmi_host.so: cannot open "
                           "shared object file: No such file or directory"})),
        "npu.library-missing", says=("libascend_hal",),
    ),
    "the driver below another prefix, off the path": case(
        container(atlas(
            env={"LD_LIBRARY_PATH": CANN_LIBRARIES},
            files={"/etc/ascend_install.info": "Driver_Install_Path_Param=/opt/driver/\nUserGroup=HwHiAiUser\n",
                   "/opt/driver/driver/version.info": DRIVER_INFO,
                   "/opt/driver/driver/lib64/driver/libascend_hal.so": elf("libascend_hal.so")},
            without=("/usr/local/Ascend/driver",))),
        "npu.library-missing", says=("/opt/driver/driver/lib64/driver:",),
    ),
    "ascend_install.info of the host, the driver mounted elsewhere": case(
        container(atlas(
            env={"LD_LIBRARY_PATH": CANN_LIBRARIES},
            files={"/etc/ascend_install.info": "Driver_Install_Path_Param=/data/Ascend\nUserGroup=HwHiAiUser\n"})),
        "npu.library-missing", says=(f"{DRIVER}/driver",),
    ),
    "container with npu-smi and without the driver": case(
        container(atlas(
            chips={"says": "npu-smi: error while loading shared libraries: libdcmi.so: cannot open shared "
                           "object file: No such file or directory"},
            without=("/usr/local/Ascend/driver", "/usr/local/Ascend/firmware"))),
        "npu.driver-missing", says=("-v /usr/local/Ascend/driver",),
    ),
    "container without libdcmi": case(
        container(atlas(chips={
            "says": "npu-smi: error while loading shared libraries: libdcmi.so: cannot open shared object file"})),
        warnings="npu.library-missing", says=("/usr/local/dcmi",),
    ),
    # --- Ascend: CANN --------------------------------------------------------------------------------
    "no CANN": case(atlas(torch="2.6.0", npu=None, chips={"cann": None}),
                    "npu.cann-missing npu.torch-npu-missing"),
    "no CANN, torch_npu there": case(
        atlas(chips={"cann": None}), "npu.cann-missing", says=("libhccl.so|No CANN",),
    ),
    "CANN 8.2 not sourced": case(
        atlas(chips={"sourced": False}), "npu.cann-env-not-set", says=("ascend-toolkit/set_env.sh",)
    ),
    "CANN 8.5 not sourced": case(
        atlas("2.9.0", "2.9.0", python="3.11.9", chips=cann85(sourced=False)), "npu.cann-env-not-set",
        says=("cann-8.5.0/set_env.sh",),
    ),
    "CANN without operators": case(atlas(chips={"kernels": False}), "npu.kernels-missing"),
    "CANN 8.5 without operators": case(
        atlas("2.9.0", "2.9.0", python="3.11.9", chips=cann85(kernels=False)), "npu.kernels-missing"
    ),
    # --- Ascend: torch_npu -----------------------------------------------------------------------------
    "torch without torch_npu": case(
        atlas(npu=None), "npu.torch-npu-missing", says=("torch_npu.* 2.6.0",), never=("cpu-only",)
    ),
    "neither torch nor torch_npu": case(
        replace(atlas(npu=None), torch=None), "torch.missing", says=("torch_npu.* 2.6.0",)
    ),
    "torch 2.9 with torch_npu 2.8": case(
        atlas("2.9.0", "2.8.0.post2", python="3.11.9", chips=cann85()), "npu.torch-npu-mismatch"
    ),
    "torch_npu of another CANN": case(
        atlas("2.8.0", "2.8.0"), "npu.torch-npu-mismatch", says=("8.3.RC1", "2.6.0")
    ),
    "torch_npu for another Python": case(
        replace(atlas(), torch_npu=TorchNpu(version="2.6.0", tag="39")), "npu.torch-npu-mismatch"
    ),
    "Python 3.12 with CANN 8.0": case(
        replace(atlas(npu=None, python="3.12.3", chips={"cann": "8.0.0"}), torch=None),
        "host.python-too-new torch.missing", says=("3.11",),
    ),
    "packages missing": case(
        atlas(packages={"PyYAML": "-", "decorator": "-", "attrs": "-", "scipy": "-"}),
        "npu.python-deps-missing", says=("pyyaml", "decorator", "attrs", "scipy"),
    ),
    "NumPy 2 with CANN 8.2": case(
        atlas(packages={"numpy": "2.1.0"}), "npu.python-deps-missing", says=("numpy 2.1.0",)
    ),
    "NumPy missing": case(atlas(packages={"numpy": "-"}), "npu.python-deps-missing"),
    "libatb missing": case(
        atlas(needs=("libatb.so",)), "npu.library-missing", says=("libatb.so", "NNAL")
    ),
}  # fmt: skip

"""Errors of devices: access, containers, memory and hardware."""

from __future__ import annotations

from typing import Final

from shufflenet_fn_backends.known_errors.entry import KnownError, code

ENTRIES: Final = (
    KnownError(
        key="out of memory",
        pattern=rf"(NPU|CUDA) out of memory|EL0004|EI0011|{code('207001|207018')}|Memory_Allocation_Failure",
        meaning="the device's memory is full",
        fix="Lower --batch-size, or keep it and raise --accumulate; --precision bf16 or O2 halves the "
        "activations. See npu-smi info (or nvidia-smi) for other processes on the device. Where much is "
        "reserved but not allocated, PYTORCH_NPU_ALLOC_CONF=expandable_segments:True helps",
        source="vllm-omni issue 1199; TouchNet issue 100; vllm-ascend issue 3141; hicann/hccl, "
        "fault_diagnosis/param_link_stage.md",
    ),
    KnownError(
        key="Bus error",
        pattern=r"killed by signal: Bus error|[Uu]nexpected bus error encountered in worker",
        meaning="a process that loads data ran out of shared memory: /dev/shm of a container has 64 MB if "
        "nothing else was asked for",
        fix="Start the container with --shm-size=32g or --ipc=host; df -h /dev/shm shows the size",
        source="pytorch issue 5040; mmdetection issue 1997",
    ),
    KnownError(
        key="dcmi module initialize failed",
        pattern=r"dcmi mod(ule|el) initialized? failed",
        meaning="the driver gives no access to the devices: another container has them, or this one was not "
        "given all of them",
        fix="Give each container its own devices (--device /dev/davinciN) and the shared ones "
        "(/dev/davinci_manager, /dev/devmm_svm, /dev/hisi_hdc), and stop others that hold them",
        source="vllm-ascend issue 2698; Ascend/cann-container-image issue 46",
    ),
    KnownError(
        key="Failed to obtain the SOC version (507008)",
        pattern=rf"{code('507008')}|aclInit\([^)]*\) failed ?: ?507008",
        meaning="CANN started without a device that it may ask for its kind; seen in containers whose driver "
        "or devices are not all there",
        fix="Mount the host's driver (/usr/local/Ascend/driver, /usr/local/dcmi), pass /dev/davinciN, "
        "/dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc, and see that npu-smi info works inside",
        source="PaddleOCR issue 16162; Paddle issue 72458; Ascend/pytorch, NPUErrorCodes.h",
    ),
    KnownError(
        key="drvGetPlatformInfo, Get physical device number failed",
        pattern=r"drvGetPlatformInfo, ret=\d|Get physical device number failed, err: ?\d|"
        r"halGetDeviceInfo get device type version failed",
        meaning="the driver does not answer this process: it may not open the device files, or the container "
        "was not given them",
        fix="Pass --device /dev/davinciN, /dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc, and let a "
        "user who is not root be in the group that owns them (HwHiAiUser; in a container the host's group "
        "number: --group-add)",
        source="lmdeploy issue 2585; vllm-ascend issue 167; hicann/runtime 681ef76, src/dfx/msprof",
    ),
    KnownError(
        key="set ASCEND_RT_VISIBLE_DEVICES error (207004)",
        pattern=rf"set ASCEND_RT_VISIBLE_DEVICES:\S+ error|{code('207004')}",
        meaning="CANN finds no device: ASCEND_RT_VISIBLE_DEVICES names one that this process does not have, "
        "or its numbers do not ascend",
        fix="Unset it, or number from 0 in ascending order: in a container that was given some of the "
        "devices, these count from 0. If it is not set, see npu-smi info, and whether this user may open "
        "/dev/davinci*",
        source="gpustack issues 2527 and 3352",
    ),
    KnownError(
        key="invalid device (107001)",
        pattern=rf"valid device range is \[0|{code('107001')}|Invalid device ID",
        meaning="a device was asked for that this process does not see",
        fix="Devices count from 0 among those that ASCEND_RT_VISIBLE_DEVICES names: lower --devices, or "
        "correct --device-list or the variable",
        source="Ascend/pytorch, TORCH_NPU_COMPACT_ERROR_OUTPUT.md",
    ),
    KnownError(
        key="E30006, Failed to verify the OPP",
        pattern=r"E30006|Failed to verify the OPP",
        meaning="CANN's operator package is not the one for this chip or not of CANN's version",
        fix="Install the ops package of the same version as the toolkit, for this chip: 910b-ops for Atlas "
        "A2, A3-ops for Atlas A3, 910-ops for Atlas training series",
        source="vllm-ascend issue 4284",
    ),
    KnownError(
        key="Resource_Busy (EL0005)",
        pattern=r"EL0005|Resource_Busy|The resources are busy",
        meaning="the device is held by another process, is being reset, or an ended process has not left it "
        "yet",
        fix="See npu-smi info for processes, end those that are left, and start again. Ranks that are "
        "restarted here wait until their devices are free",
        source="PTOAS pull requests 344 and 765",
    ),
    KnownError(
        key="Failed to start the device (507033)",
        pattern=rf"{code('507033')}|Failed to start the device",
        meaning="the device could not be opened: it is held by another process or not yet free after one, it "
        "has a fault, or driver and CANN do not go together",
        fix="See npu-smi info for health and processes, and compare the driver's version with the one that "
        "CANN's release notes ask for. Ranks that are restarted here wait until their devices are free",
        source="vllm-ascend issue 4284; Ascend/samples issues 16 and 21",
    ),
    KnownError(
        key="Unsupported soc version",
        pattern=r"Unsupported soc version",
        meaning="this torch_npu does not know the chip",
        fix="Install a newer torch_npu, with the torch and CANN that go with it",
        source="Ascend/pytorch, torch_npu/csrc/core/npu/NpuVariables.cpp",
    ),
    KnownError(
        key="Cannot re-initialize NPU in forked subprocess",
        pattern=r"Cannot re-initialize (NPU|CUDA) in forked subprocess",
        meaning="a process that uses the device was forked",
        fix="Start processes by spawn, as --devices does; do not fork after the first use of the device",
        source="Ascend/pytorch, torch_npu/npu/__init__.py; vllm-ascend issue 4502",
    ),
    KnownError(
        key="context is empty (107002)",
        pattern=rf"{code('107002')}|The context is empty",
        meaning="a thread or process used the NPU before it had chosen a device",
        fix="Call torch.npu.set_device in every process and thread first; training here does",
        source="FastChat pull request 2843",
    ),
    KnownError(
        key="ECC error",
        pattern=r"reason=\[?(hbm Multi-bit ECC error|device mem error|suspect device mem error)|UCE ERROR|"
        + code("50705[345]"),
        meaning="the device's memory has a hardware fault",
        fix="See npu-smi info -t ecc, leave this device out with --device-list, and report it to your vendor",
        source="Ascend/pytorch, torch_npu/csrc/core/npu/NPUException.h",
    ),
)

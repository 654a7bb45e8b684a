"""Errors of importing: libraries that are not found, versions that do not go together, wrong packages."""

from __future__ import annotations

from typing import Final

from shufflenet_fn_backends.known_errors.entry import KnownError

SET_ENV: Final = "source /usr/local/Ascend/cann/set_env.sh"

ENTRIES: Final = (
    KnownError(
        key="libhccl.so, libascendcl.so",
        pattern=r"lib(hccl|ascendcl|acl_op_compiler|ge_runner|graph|acl_tdt_channel|opapi|runtime)\.so"
        r"[\w.]*: cannot open shared object",
        meaning="CANN's libraries are not found: CANN is not installed, or its environment is not set in "
        "this shell",
        fix=f"Run `{SET_ENV}` (in ascend-toolkit/ before CANN 8.5) in the shell, or in the container's entry "
        "point, before Python is started",
        source="MinerU issue 2537; vllm-ascend issue 262; Ascend/pytorch, installation_guide/faq.md",
    ),
    KnownError(
        key="libascend_hal.so",
        pattern=r"lib(ascend_hal|drvdsmi_host|dcmi|devdrv)\.so[\w.]*: cannot open shared object",
        meaning="the NPU driver's libraries are not found: no driver on this host, or it is not mounted in "
        "this container",
        fix="Install the driver and add /usr/local/Ascend/driver/lib64/driver and .../lib64/common to "
        "LD_LIBRARY_PATH; for a container mount /usr/local/Ascend/driver and /usr/local/dcmi",
        source="MinerU issue 3252",
    ),
    KnownError(
        key="libatb.so",
        pattern=r"libatb\.so[\w.]*: cannot open shared object",
        meaning="this torch_npu looks for NNAL, Ascend's library for transformers, which is not in its path",
        fix="Install NNAL of CANN's version and run `source /usr/local/Ascend/nnal/atb/set_env.sh`",
        source="vllm-ascend issue 152",
    ),
    KnownError(
        key="Two accelerators, pinned_reserve_segment_size_mb",
        pattern=r"Two accelerators cannot be used at the same time|"
        r"Duplicated key 'pinned_reserve_segment_size_mb'",
        meaning="torch is a build for CUDA, and torch_npu works beside a CPU build only: it refuses, or "
        "aborts the process",
        fix="Install torch's CPU build: pip install 'torch==2.13.*' --index-url "
        "https://download.pytorch.org/whl/cpu (PyPI's wheels for aarch64 are CPU builds)",
        source="Ascend/pytorch, torch_npu/__init__.py; seen with torch 2.14.1+cu130 and torch_npu 2.13.0",
    ),
    KnownError(
        key="libtorch_npu.so: undefined symbol",
        pattern=r"(libtorch_npu|torch_npu/[\w/.]*)\.so[\w.]*: undefined symbol|"
        r"nnal/[\w/.]*\.so: undefined symbol",
        meaning="torch_npu was built for another version of torch, or of CANN's libraries",
        fix="Install the pair that goes together (docs/ascend.md): torch and torch_npu of the same minor "
        "version, and the CANN that this torch_npu is listed with",
        source="Ascend/pytorch issues 35 and 99; sglang issue 28628; vllm-ascend issue 117",
    ),
    KnownError(
        key="No module named 'torch_npu._C'",
        pattern=r"No module named 'torch_npu\._C'",
        meaning="Python imports the folder torch_npu of a source tree instead of the installed package",
        fix="Start from another directory than the clone of Ascend/pytorch",
        source="Ascend/pytorch issue 24 and installation_guide/faq.md",
    ),
    KnownError(
        key="static TLS block",
        pattern=r"cannot allocate memory in static TLS block",
        meaning="on aarch64 a library with thread-local storage, mostly libgomp, was loaded too late",
        fix="Load it first: export LD_PRELOAD= and the path that the message names, before starting Python",
        source="Ascend/pytorch issue 7; LlamaFactory issue 8768",
    ),
    KnownError(
        key="torchvision::nms does not exist",
        pattern=r"operator torchvision::nms does not exist|Couldn't load custom C\+\+ ops|"
        r"libtorch_cuda\.so: cannot open shared object",
        meaning="torchvision does not fit the installed torch: PyPI's wheel for x86-64 needs a CUDA build, "
        "or it is of another version",
        fix="Training does not need it. For benchmarks install the one that fits: pip install torchvision "
        "--index-url https://download.pytorch.org/whl/cpu, with torch 2.13 it is 0.28; or pip uninstall "
        "torchvision",
        source="pytorch issue 122494; hallo issue 98; seen with torch 2.13.0+cpu and PyPI's torchvision",
    ),
    KnownError(
        key="PyPI's apex",
        pattern=r"cannot import name 'UnencryptedCookieSessionFactoryConfig'|"
        r"cannot import name '(amp|optimizers)' from 'apex'|No module named 'apex\.\w+'",
        meaning="the installed package apex is PyPI's, a web framework that has nothing to do with mixed "
        "precision",
        fix="Remove it: pip uninstall apex. Neither NVIDIA's nor Ascend's apex is needed here; "
        "--amp --opt-level O1, O2 and O3 are built in",
        source="NVIDIA/apex issues 971, 1063 and 1804; TransFG issue 1",
    ),
    KnownError(
        key="triton-ascend",
        pattern=r"TritonMissing|Cannot find a working triton installation|No module named 'triton'|"
        r"loop_x0 is not defined",
        meaning="torch.compile's default code generator is not there, or failed: on NPUs it is "
        "triton-ascend, which was reported to fail on batch norm in training",
        fix="Leave out --compile; or install triton-ascend of torch_npu's version, or name another generator "
        "in TORCHINDUCTOR_NPU_BACKEND (mlir, dvm, ascendc)",
        source="triton-ascend issue 808; triton issue 4034; Ascend/pytorch, torch_compile/.../inductor.md",
    ),
    KnownError(
        key="Failed to load the backend extension: torch_npu",
        pattern=r"Failed to load the backend extension: torch_npu|has no attribute '_autoload'",
        meaning="`import torch` loads torch_npu by itself where it is installed, and that failed, so that "
        "torch cannot be imported at all",
        fix="The cause is named further up in the text. Until it is mended, export "
        "TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch be imported without torch_npu",
        source="MinerU issue 2537; flash-linear-attention-npu issue 2",
    ),
)

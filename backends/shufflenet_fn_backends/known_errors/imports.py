"""Errors of installing and importing: libraries that are not found, versions that do not go together."""

from __future__ import annotations

from typing import Final

from shufflenet_fn_backends.known_errors.entry import KnownError

SET_ENV: Final = "source /usr/local/Ascend/cann/set_env.sh"
# CANN's own documents name the one place, those of torch_npu and vllm-ascend for CANN 9.1 the other.
_SET_ENV_OF_EITHER: Final = (
    f"Run `{SET_ENV}`, or the one in /usr/local/Ascend/ascend-toolkit/, whichever exists"
)

ENTRIES: Final = (
    KnownError(
        key="ascend-cann-toolkit is a placeholder",
        pattern=r"This project is not functional and is a placeholder form HUAWEI",
        meaning="PyPI's package ascend-cann-toolkit holds only its name and refuses to be installed; CANN is "
        "not on PyPI",
        fix="Install CANN from Huawei: its .run files, yum, conda, its container image ascend/cann, or "
        "pip with Huawei's own index, as CANN's installation guide shows",
        source="pip install ascend-cann-toolkit, version 0.0.1.dev1; CANN 9.1 installation guide",
    ),
    KnownError(
        key="libhccl.so, libascendcl.so",
        pattern=r"lib(hccl|ascendcl|acl_op_compiler|ge_runner|graph|acl_tdt_channel|opapi|runtime)\.so"
        r"[\w.]*: cannot open shared object",
        meaning="CANN's libraries are not found: CANN is not installed, or its environment is not set in "
        "this shell",
        fix=f"{_SET_ENV_OF_EITHER}, in the shell or in the container's entry point, before Python is "
        "started. Where pip installed CANN it lies in site-packages/ascend/cann-VERSION/",
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
        fix="Install torch's CPU build, of the same minor version as torch_npu: pip install 'torch==VERSION' "
        "--index-url https://download.pytorch.org/whl/cpu (PyPI's wheels for aarch64 are CPU builds)",
        source="Ascend/pytorch, torch_npu/__init__.py; seen with torch 2.14.1+cu130 and torch_npu 2.13.0",
    ),
    KnownError(
        key="libtbe_adapter.so: undefined symbol",
        pattern=r"(nnal/[\w/.-]*|libtbe_adapter|libatb\w*)\.so[\w.]*: undefined symbol|"
        r"undefined symbol: _ZNK?3(atb|Mki)",
        meaning="NNAL, Ascend's library for transformers, is of another version than CANN's toolkit or than "
        "torch_npu expects",
        fix="Install NNAL of the toolkit's version and source its set_env.sh after that of CANN. Training "
        "here calls nothing of NNAL",
        source="Ascend/pytorch issue 99; vllm-ascend issues 117 and 750",
    ),
    KnownError(
        key="undefined symbol: MsprofSysCycleTime",
        pattern=r"undefined symbol: Msprof\w+",
        meaning="torch_npu and CANN are of different releases, so that CANN's profiling library lacks, or no "
        "longer exports where torch_npu looks, a function that it calls",
        fix="Install the torch_npu that is listed with this CANN (docs/ascend.md): the post release counts "
        "as well. Reported: torch_npu 2.7.1, which is for CANN 8.3, with CANN 9.0, where 2.7.1.post4 works",
        source="triton-ascend issues 326 and 328",
    ),
    KnownError(
        key="libtorch_npu.so: undefined symbol",
        pattern=r"(libtorch_npu|torch_npu/[\w/.]*)\.so[\w.]*: undefined symbol",
        meaning="torch_npu was built for another version of torch, or of CANN's libraries",
        fix="Install the pair that goes together (docs/ascend.md): torch and torch_npu of the same minor "
        "version, and the CANN that this torch_npu is listed with",
        source="Ascend/pytorch issue 35; sglang issue 28628",
    ),
    KnownError(
        key="GLIBCXX_3.4.30 or GLIBC_2.29 not found",
        pattern=r"version [`']GLIBC(XX)?_[\d.]+' not found",
        meaning="a package was built for a newer system than this: its libstdc++ (GLIBCXX) or its C library "
        "(GLIBC) is too old. Seen on openEuler 22.03",
        fix="For GLIBCXX install a newer libstdc++, such as conda's libstdcxx-ng, and put its folder first "
        "in LD_LIBRARY_PATH. For GLIBC use a newer system or a container image: torch needs 2.28",
        source="FlagTree issue 376; Ascend/triton-ascend issue 1",
    ),
    KnownError(
        key="No module named 'tbe'",
        pattern=r"No module named '(tbe|te|te_fusion)(\.\w+)*'",
        meaning="CANN's operator compiler does not find its own Python packages: set_env.sh was not sourced, "
        "or another Python than the one it was set up for is running",
        fix=f"{_SET_ENV_OF_EITHER}, and keep the PYTHONPATH that it sets. The packages come with CANN's "
        "toolkit; PyPI's tbe and te are something else",
        source="Ascend/pytorch issue 29",
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
        fix="Training does not need it: pip uninstall torchvision. For benchmarks install the one that fits "
        "from https://download.pytorch.org/whl/cpu: torch 2.7 goes with torchvision 0.22, 2.12 with 0.27, "
        "2.13 with 0.28",
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
        key="NoTritonConfigsError",
        pattern=r"NoTritonConfigsError|No valid triton configs",
        meaning="triton-ascend found no way to run a kernel that torch.compile made; reported for the "
        "backward pass of training",
        fix="Leave out --compile: training does not need it",
        source="triton-ascend issues 424 and 558",
    ),
    KnownError(
        key="triton-ascend",
        pattern=r"TritonMissing|Cannot find a working triton installation|No module named 'triton'|"
        r"loop_x0 is not defined",
        meaning="torch.compile's default code generator is not there, or failed. On NPUs it is "
        "triton-ascend, which supports torch 2.7.1 and 2.9.0 only",
        fix="Leave out --compile; with one of these versions of torch, pip install triton-ascend. Other "
        "generators (mlir, dvm, ascendc) are chosen by TORCHINDUCTOR_NPU_BACKEND, set before Python starts",
        source="Ascend/pytorch, installation_via_pip.md; triton issue 3708; triton-ascend issue 808, closed "
        "as invalid",
    ),
    KnownError(
        key="Failed to load the backend extension: torch_npu",
        pattern=r"Failed to load the backend extension: torch_npu|has no attribute '_autoload'",
        meaning="`import torch` loads torch_npu by itself where it is installed, and that failed, so that "
        "torch cannot be imported at all",
        fix="The cause is named further up in the text. Until it is removed, export "
        "TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch be imported without torch_npu",
        source="MinerU issue 2537; flash-linear-attention-npu issue 2",
    ),
)

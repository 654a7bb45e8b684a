"""Every function of CANN's runtime that the real torch_npu wants is there, or left out knowingly."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

from ascend_emulator.installed import find_installed
from ascend_emulator.symbols import needed, torch_npu_libraries

_RUNTIME = re.compile(rb"(?<=\x00)((?:aclrt|aclmdl|aclsys|aclop|aclprof)[A-Z]\w*)\x00")

# What torch_npu does where the function is missing, in its AclInterface.cpp and MsProfilerInterface.cpp.
LEFT_OUT = {
    "aclmdlRIGetId": "gives graphs no number",
    "aclprofGetSupportedFeatures": "takes the profiler's features as unsupported",
    "aclprofGetSupportedFeaturesV2": "asks the function before",
    "aclprofRegisterDeviceCallback": "takes it as unsupported",
    "aclrtDeviceTaskAbort": "goes on without",
    "aclrtGetErrorVerbose": "reports an error without the chip's details",
    "aclrtGetMemUceInfo": "goes on without",
    "aclrtGetMemUsageInfo": "says that it is unsupported",
    "aclrtMemUceRepair": "goes on without",
    "aclrtRepairError": "never asked without aclrtGetErrorVerbose",
    "aclrtValueWait": "makes external events as ordinary ones",
    "aclrtValueWrite": "as aclrtValueWait",
}


def test_looked_up_functions_are_present_or_listed(libraries: Path) -> None:
    torch_npu = find_installed().torch_npu / "lib" / "libtorch_npu.so"
    looked_up = {name.decode() for name in _RUNTIME.findall(torch_npu.read_bytes())}
    assert "aclrtMallocAlign32" in looked_up  # the search finds names
    library = ctypes.CDLL("libascendcl.so")
    absent = {name for name in looked_up if not hasattr(library, name)}
    assert absent == set(LEFT_OUT)


def test_all_load_time_functions_are_implemented(libraries: Path) -> None:
    # The build would make a function that fails for each that is not: that is for other versions.
    wanted = needed(torch_npu_libraries(find_installed().torch_npu))
    assert len(wanted) > 50
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", *map(str, libraries.glob("lib*.so"))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    defined = set(re.findall(r" [TWi] (\w+)$", listed, re.MULTILINE))
    assert wanted - defined == set()

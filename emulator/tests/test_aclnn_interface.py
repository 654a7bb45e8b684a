"""The operator library called as torch_npu calls it, in C: what it refuses before anything is computed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ascend_emulator.installed import find_installed
from ascend_emulator.missing import operators_looked_up
from ascend_emulator.pytest_plugin import OnEmulator

CALLER = """
import ctypes
import torch
from tests.cann import Cann

cann = Cann()
opapi = ctypes.CDLL("libopapi.so")
for maker in ("aclCreateTensor", "aclCreateScalar", "aclCreateTensorList"):
    getattr(opapi, maker).restype = ctypes.c_void_p
FLOAT, DOUBLE, INT64, ND = 0, 11, 9, 2


def tensor(pointer, *shape, dtype=FLOAT, strides=None):
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    if strides is None:
        strides = torch.empty(shape).stride()
    steps = (ctypes.c_int64 * len(shape))(*strides)
    rank = ctypes.c_uint64(len(shape))
    return ctypes.c_void_p(
        opapi.aclCreateTensor(
            sizes, rank, dtype, steps, ctypes.c_int64(0), ND, sizes, rank, pointer
        )
    )


def scalar(value):
    return ctypes.c_void_p(opapi.aclCreateScalar(ctypes.byref(ctypes.c_double(value)), DOUBLE))


def launch(name, *arguments):
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    prepare = getattr(opapi, name + "GetWorkspaceSize")
    code = prepare(*arguments, ctypes.byref(size), ctypes.byref(executor))
    if code:
        return code
    return getattr(opapi, name)(None, ctypes.c_uint64(0), executor, None)


_, memory = cann.allocate(1024)
values = (ctypes.c_float * 4)(1, 2, 3, 4)
assert cann.copy(memory, values, 16, 1) == 0
"""


def _answers(on_emulator: OnEmulator, script: str) -> list[str]:
    ran = on_emulator(CALLER + script, imported=True)
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


def test_an_operator_computes_on_the_callers_memory(on_emulator: OnEmulator) -> None:
    """Through strides: the four numbers as a transposed 2 × 2."""
    lines = _answers(
        on_emulator,
        """
x = tensor(memory, 2, 2, strides=(1, 2))
y = tensor(ctypes.c_void_p(memory.value + 512), 2, 2)
print(launch("aclnnMuls", x, scalar(10), y))
assert cann.copy(values, ctypes.c_void_p(memory.value + 512), 16, 2) == 0
print(list(values))
for handle in (x, y):
    assert opapi.aclDestroyTensor(handle) == 0
""",
    )
    assert lines == ["0", "[10.0, 30.0, 20.0, 40.0]"]


def test_what_is_refused_says_which_argument_and_why(on_emulator: OnEmulator) -> None:
    lines = _answers(
        on_emulator,
        """
x = tensor(memory, 4)
host = (ctypes.c_float * 4)()
cases = [
    (None, scalar(1), x),
    (x, None, x),
    (tensor(host, 4), scalar(1), x),
    (tensor(memory, 10**7), scalar(1), x),
    (tensor(memory, 4, strides=(10**7,)), scalar(1), x),
    (x, x, x),
    (x, scalar(1), tensor(memory, 2, 2)),
]
for arguments in cases:
    print(launch("aclnnMuls", *arguments), cann.message().strip())
print(opapi.aclCreateTensor(None, ctypes.c_uint64(0), 999, None, ctypes.c_int64(0), ND, None,
      ctypes.c_uint64(0), None), cann.message().strip())
""",
    )
    starts = [
        "161001 [emulated CANN] aclnnMuls: self is a null pointer",
        "161001 [emulated CANN] aclnnMuls: other is a null pointer",
        "161002 [emulated CANN] aclnnMuls: tensor self is in host memory, which a chip cannot read",
        "161002 [emulated CANN] aclnnMuls: tensor self with shape [10000000] and strides [1] reaches ",
        "161002 [emulated CANN] aclnnMuls: tensor self with shape [4] and strides [10000000] reaches",
        "161002 [emulated CANN] aclnnMuls: what is passed as argument other is of another kind",
        "161002 [emulated CANN] aclnnMuls: the result has shape [4], and the output [2, 2]",
        "None [emulated CANN] aclCreateTensor: the emulator has no tensors of aclDataType 999",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start), line


def test_data_dependent_output_reports_its_length(on_emulator: OnEmulator) -> None:
    lines = _answers(
        on_emulator,
        """
_, room = cann.allocate(1024)
out = tensor(room, 4, 1, dtype=INT64)
assert cann.copy(memory, (ctypes.c_float * 4)(0, 5, 0, 7), 16, 1) == 0
print(launch("aclnnNonzero", tensor(memory, 4), out))
shape, rank = ctypes.POINTER(ctypes.c_int64)(), ctypes.c_uint64()
print(opapi.aclGetViewShape(out, ctypes.byref(shape), ctypes.byref(rank)), shape[: rank.value])
""",
    )
    assert lines == ["0", "0 [2, 1]"]


def test_every_looked_up_operator_is_defined(libraries: Path) -> None:
    """Emulated (an indirect function) or failing by its name (a weak one); and no other is emulated."""
    done = subprocess.run(
        ["nm", "--dynamic", "--defined-only", str(libraries / "libopapi.so")],
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = {name: kind for _, kind, name in map(str.split, done.stdout.splitlines())}
    looked_up = operators_looked_up(find_installed().torch_npu / "lib" / "libtorch_npu.so")
    found = {kinds.get(f"{name}GetWorkspaceSize") for name in looked_up}
    assert found == {"i", "W"}
    ending = "GetWorkspaceSize"
    emulated = {name.removesuffix(ending) for name, kind in kinds.items() if kind == "i"}
    assert len(emulated) > 300
    assert emulated <= set(looked_up)

"""``ascend-emulator`` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ascend_emulator.report import read_reports
from tests.conftest import Command

_SCRIPT = """
import sys, torch, torch_npu
x = torch.ones(1 << 20, device="npu:1")
print((x + 1).sum().item())
sys.exit(9)
"""


def test_run_reports_counts_and_the_exit_code(libraries: Path, process: Command, tmp_path: Path) -> None:
    options = "--devices", "2", "--report", "--counts", "kept"
    ended = process("run", *options, "--", sys.executable, "-c", _SCRIPT)
    assert ended.code == 9, ended.err
    assert ended.out == "2097152.0\n"  # standard output is the command's alone
    lines = ended.err.splitlines()
    (sums,) = (line for line in lines if "│ aclnnReduceSum" in line)
    assert [cell.strip() for cell in sums.strip("│ ").split("│")] == ["aclnnReduceSum", "1", "4.194", "0.000"]
    assert any("wait: aclrtSynchronizeStream" in line for line in lines)
    assert any("Ascend910B1 1" in line for line in lines)
    said = " ".join(ended.err.split())
    assert "That proves that they exist, take these types and shapes and compose" in said
    assert "device kernels, derived from the sources of CANN" in said
    assert any(line.startswith("│ Fill") or "│ ReduceSum" in line for line in lines)
    assert "it does not prove speed, memory use, or the rounding of Ascend's own kernels." in said
    (counts,) = read_reports(tmp_path / "kept")
    assert counts.devices[1].kernels["aclnnReduceSum"].bytes_read == 4 << 20


def test_a_run_that_uses_no_npu_says_so(libraries: Path, process: Command) -> None:
    ended = process("run", "--report", "--", sys.executable, "-c", "")
    assert ended.code == 0
    assert "No process used an NPU, or none came to its end: nothing was counted." in ended.err


def test_env_is_for_a_shell(libraries: Path, tmp_path: Path) -> None:
    emulator = f"{sys.executable} -m ascend_emulator.main env --devices 3 --memory 1GiB"
    script = f"""
eval "$({emulator})"
{sys.executable} -c "
import torch, torch_npu
print(torch.npu.device_count(), torch.npu.mem_get_info()[1])"
"""
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"3 {1 << 30}\n", done.stderr


def test_build_says_where_it_is(libraries: Path, process: Command) -> None:
    ended = process("build")
    assert (ended.code, ended.out) == (0, f"{libraries}\n"), ended.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--devices", "65"), "error: --devices is 65; it must be from 0 to 64."),
        (("--memory", "8GB"), "error: --memory is '8GB'; it must be a size such as 512MiB or 8GiB"),
        (("--soc", "Ascend310P3"), "error: --soc is 'Ascend310P3'; it must be one of: Ascend910A,"),
        (("--faults", "alloc"), "error: --faults has 'alloc'; each must be alloc@N,"),
    ],
)
def test_an_option_that_cannot_be(process: Command, options: tuple[str, str], words: str) -> None:
    ended = process("run", *options, "--", "true")
    assert ended.code == 2
    assert ended.err.startswith(words)


def test_a_program_that_is_not_there(process: Command) -> None:
    ended = process("run", "--", "no-such-program")
    assert ended.code == 2
    assert ended.err.startswith("error: cannot run 'no-such-program': it is not a program here.")

"""Our runtime for NPUs, over the real torch_npu on emulated chips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ascend_emulator.environment import SOCS
from ascend_emulator.pytest_plugin import OnEmulator
from shufflenet_fn_backends.runtimes.npu.chip import has_bfloat16
from shufflenet_fn_backends.runtimes.npu.probe import look
from tests.conftest import Command

START = """
import torch
from shufflenet_fn_backends.runtimes.npu.runtime import runtime
runtime = runtime()
runtime.prepare()
runtime.set_device(0)
notes = runtime.tune()
npu = torch.npu
"""

OLD = "Ascend910A"


def test_the_probe_counts_without_touching_this_process(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import sys
from shufflenet_fn_backends.runtimes.select import select_runtime
runtime, reason = select_runtime("auto")
print(runtime.name, runtime.device_count(), runtime.chip(), "torch_npu" in sys.modules)
""",
        devices=5,
        soc="Ascend910B3",
        environ={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )
    assert ran.out.split() == ["npu", "5", "Ascend910B3", "False"], ran.err


def test_a_machine_whose_devices_are_hidden(npu: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "7")
    assert "ASCEND_RT_VISIBLE_DEVICES=7" in str(look().problem)


# One of each kind, of those whose names mislead: B without a number is the older one.
@pytest.mark.parametrize(
    "soc",
    [
        pytest.param("Ascend910B", marks=pytest.mark.campaign),
        "Ascend910B4-1",
        pytest.param("Ascend910_9362", marks=pytest.mark.campaign),
    ],
)
def test_bfloat16_is_where_torch_npu_has_it(on_emulator: OnEmulator, soc: str) -> None:
    ran = on_emulator(
        START + "print(npu.is_bf16_supported(), runtime.chip(), runtime.overflow() is None)",
        imported=True,
        soc=soc,
    )
    assert soc in SOCS
    able, chip, infinities = ran.out.split()
    assert chip == soc, ran.err
    assert able == str(has_bfloat16(soc))
    # The chips that have bfloat16 are those that compute infinities.
    assert infinities == able


def test_runtime_applies_its_settings(on_emulator: OnEmulator) -> None:
    """On a chip whose own default is to compile operators; deterministic operators and collectives too."""
    ran = on_emulator(
        START
        + """
import os
print(npu.is_jit_compile_false(), *(os.environ[name] for name in (
    "TASK_QUEUE_ENABLE", "PYTORCH_NPU_ALLOC_CONF", "HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT")))
print(*notes)
runtime.deterministic()
print(os.environ["HCCL_DETERMINISTIC"], torch.are_deterministic_algorithms_enabled())
x = torch.randn(2, 3, 8, 8, device="npu", requires_grad=True)
torch.nn.functional.conv2d(x, torch.randn(4, 3, 3, 3, device="npu")).square().mean().backward()
print(bool(x.grad.isfinite().all()))
""",
        soc=OLD,
    )
    values, notes, deterministic, computed = ran.out.splitlines()
    assert values == "True 2 expandable_segments:True 300 544", ran.err
    assert "jit_compile=False" in notes and "HF32" in notes
    assert deterministic == "true True" and computed == "True"


def test_memory_and_generator(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        START
        + """
before = runtime.memory()
held = torch.ones(2**20, device="npu")
after = runtime.memory()
assert 4 * 2**20 <= after.allocated - before.allocated < 4 * 2**20 + 4096, (before, after)
assert after.reserved >= after.allocated and after.peak >= after.allocated
assert after.total == 2**30, after.total
del held
assert runtime.memory().allocated == before.allocated and runtime.memory().peak == after.peak

from shufflenet_fn.checkpoint.format import generator_states, restore_generators
states = generator_states(runtime)
assert set(states) == {"cpu", "npu"} and all(s.device.type == "cpu" for s in states.values())
first = torch.rand(5, device="npu"), torch.rand(5)
torch.rand(100, device="npu"), torch.rand(100)
restore_generators(states, runtime)
again = torch.rand(5, device="npu"), torch.rand(5)
assert all(torch.equal(a, b) for a, b in zip(first, again)), (first, again)
print("well")
""",
        imported=True,
        memory="1GiB",
    )
    assert ran.out == "well\n", ran.err


def test_the_overflow_flag(on_emulator: OnEmulator) -> None:
    """Set by what overflows and by nothing else, cleared, and read without waiting for the device."""
    ran = on_emulator(
        START
        + """
from ascend_emulator.counters import reset, snapshot
overflow = runtime.overflow()
large = torch.full((4,), 60000.0, dtype=torch.float16, device="npu")
overflow.clear()
fine = overflow.raised()
product = large * 2
reset()
raised = overflow.raised()
overflow.clear()
cleared = overflow.raised()
npu.current_stream().npu_stream
waits = snapshot().total.host_syncs
print(raised.device.type, raised.dtype, raised.dim(), waits)
print(*(float(flag) for flag in (fine, raised, cleared)), float(product[0]))
""",
        imported=True,
        soc=OLD,
    )
    kind, values = ran.out.splitlines()
    assert kind == "npu torch.float32 0 0", ran.err
    # It saturates: no gradient would tell.
    assert values == "0.0 1.0 0.0 65504.0"


def train(on_emulator: OnEmulator, images: Path, *arguments: str, **machine: object) -> tuple[int, str, str]:
    """``shufflenet-fn train`` with four updates on small images."""
    ran = on_emulator(
        "from shufflenet_fn_cli.main import main; import sys; "
        "sys.argv[:] = ['shufflenet-fn', *sys.argv[1:]]; main()",
        *("train", "--data", str(images), "--device", "npu", "--arch", "x0_5", "--epochs", "2"),
        *("--image-size", "32", "--batch-size", "8", "--max-steps", "4", "--print-freq", "1"),
        *arguments,
        imported=True,
        timeout=300.0,
        **machine,
    )
    assert "Traceback" not in ran.err
    return ran.code, ran.out, ran.err


def test_bfloat16_is_refused_on_the_first_generation(
    on_emulator: OnEmulator, image_folder: Path, tmp_path: Path
) -> None:
    code, _, err = train(
        on_emulator, image_folder, "--precision", "bf16", "--run-dir", f"{tmp_path}/run", soc=OLD
    )
    assert code == 2
    assert OLD in err and "--precision O2" in err


@pytest.mark.campaign
def test_overflow_skips_update_on_first_generation(
    on_emulator: OnEmulator, image_folder: Path, tmp_path: Path
) -> None:
    run = f"{tmp_path}/run"
    code, _, err = train(
        on_emulator,
        image_folder,
        *("--precision", "O2", "--loss-scale", "64", "--run-dir", run),
        soc=OLD,
        # In the second step, of 56 convolutions each, where no ReLU before it masks what it gives.
        faults="overflow:aclnnConvolutionBackward@58",
    )
    assert code == 0, err
    with open(f"{run}/metrics.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    assert sum(record["skipped"] for record in records if record["kind"] == "epoch") == 1


def test_memory_that_runs_out_is_one_message(
    on_emulator: OnEmulator, image_folder: Path, tmp_path: Path
) -> None:
    code, _, err = train(on_emulator, image_folder, "--run-dir", f"{tmp_path}/run", memory="16MiB")
    assert code == 1
    (message,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "NPU out of memory" in message and "--batch-size" in message


@pytest.mark.campaign
def test_a_trace_of_a_run(on_emulator: OnEmulator, image_folder: Path, tmp_path: Path) -> None:
    code, out, err = train(
        on_emulator, image_folder, "--run-dir", f"{tmp_path}/run", "--profile", f"{tmp_path}/traces"
    )
    assert code == 0, err
    assert "profile: steps 2 to 4" in out
    (trace,) = Path(f"{tmp_path}/traces").glob("rank0_*/ASCEND_PROFILER_OUTPUT/trace_view.json")
    names = {event.get("name") for event in json.loads(trace.read_text())}
    assert {"ProfilerStep#1", "ProfilerStep#2", "ProfilerStep#3"} <= names
    assert any(str(name).startswith("aten::") for name in names)


def test_precision_auto_and_resuming_elsewhere(command: Command, image_folder: Path, tmp_path: Path) -> None:
    """What ``auto`` chose is stored, and the run goes on with it, the NPU's generator included."""
    run = tmp_path / "run"
    small = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--epochs", 2, "--max-steps", 4)
    trained = command(
        *("train", "--data", image_folder, "--device", "npu", *small),
        *("--precision", "auto", "--run-dir", run),
    )
    assert trained.code == 0, trained.err
    assert "precision bf16: auto, Ascend910B1 computes in bfloat16" in trained.out
    checkpoint = max(Path(run, "checkpoints").glob("step-*"))
    assert set(load_file(checkpoint / "generators.safetensors")) == {"cpu", "npu"}
    config = json.loads(Path(run, "config.json").read_text())
    assert config["settings"]["precision"] == "bf16"
    resumed = command("train", "--resume", run, "--device", "cpu", "--max-steps", 6)
    assert resumed.code == 0, resumed.err
    assert "device is cpu and was npu" in resumed.err

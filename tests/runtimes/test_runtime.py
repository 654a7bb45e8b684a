"""The interface of runtimes, tested with the CPU, and its use in training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.format import generator_states, restore_generators
from shufflenet_fn.run.timing import fitted
from shufflenet_fn_backends.runtimes import cpu, cuda
from shufflenet_fn_backends.runtimes.base import Window
from shufflenet_fn_backends.runtimes.npu import runtime as npu
from shufflenet_fn_backends.support.errors import UsageError
from tests.conftest import pytest_configure

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--epochs", 1, "--device", "cpu")


@pytest.mark.parametrize(("name", "module"), [("cuda", cuda), ("npu", npu)])
def test_parity_tests_refuse_an_absent_device(name: str, module: Any) -> None:
    reason = module.unavailable_reason()
    if reason is None:
        pytest.skip(f"{name} is there")
    config: Any = SimpleNamespace(getoption=lambda option: name)
    with pytest.raises(pytest.UsageError, match=re.escape(reason)):
        pytest_configure(config)


def test_memory_of_the_cpu() -> None:
    held = torch.ones(2**25)  # 128 MiB
    after = cpu.runtime().memory()
    # Not by how much it grows: earlier tests may have left memory that is used again or given back.
    assert after.allocated > held.numel() * 4
    assert after.peak >= after.allocated
    assert after.total > after.peak


def test_dtypes_that_a_device_lacks() -> None:
    narrow = replace(cpu.runtime(), dtypes=lambda: (torch.float32,), chip=lambda: "Z80")
    narrow.check_dtypes((torch.float32,), "--precision fp32")
    with pytest.raises(UsageError, match=r"--precision O2.*float16.*Z80.*float32"):
        narrow.check_dtypes((torch.float32, torch.float16), "--precision O2")


def test_generators_go_on_where_they_were() -> None:
    runtime = cpu.runtime()
    states = generator_states(runtime)
    expected = torch.rand(3)
    torch.rand(100)
    restore_generators(states, runtime)
    assert torch.equal(torch.rand(3), expected)
    # Of another device's generator nothing is taken.
    restore_generators({"npu": torch.zeros(16, dtype=torch.uint8)}, runtime)


@pytest.mark.parametrize(
    ("steps", "window"),
    [
        (1, Window(0, 0, 1)),
        (2, Window(0, 1, 1)),
        (4, Window(0, 1, 3)),
        (7, Window(3, 1, 3)),
        (14, Window(10, 1, 3)),
        (10_000, Window(10, 1, 3)),
    ],
)
def test_the_window_of_a_profile_fits_the_run(steps: int, window: Window) -> None:
    assert fitted(steps) == window
    assert window.length <= steps


def test_a_profile_of_a_run(
    process: Callable[..., Any], command: Callable[..., Any], image_folder: Path, tmp_path: Path
) -> None:
    outcome = process(
        *("train", *TINY, "--data", image_folder, "--epochs", 2, "--run-dir", "run"),
        *("--profile", "traces", "--devices", 2),
    )
    assert outcome.code == 0, outcome.err
    assert "profile: steps 4 to 6" in outcome.out
    (trace,) = (tmp_path / "traces").iterdir()
    assert trace.name.startswith("rank0.")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {f"ProfilerStep#{number}" for number in (3, 4, 5)} <= names
    assert "gloo:all_reduce" in names
    # It is not a part of the recipe.
    resumed = command("train", "--resume", "run", "--epochs", 3, "--devices", 1)
    assert resumed.code == 0, resumed.err
    assert len(list((tmp_path / "traces").iterdir())) == 1


def test_a_folder_for_profiles_that_cannot_be(command: Callable[..., Any], image_folder: Path) -> None:
    outcome = command(
        *("train", *TINY, "--data", image_folder, "--run-dir", "run", "--profile", "/proc/nothing")
    )
    assert outcome.code == 1
    assert "/proc/nothing" in outcome.err and "--profile" in outcome.err


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("restored")
def test_a_deterministic_run(command: Callable[..., Any], image_folder: Path, tmp_path: Path) -> None:
    arguments = ("train", *TINY, "--data", image_folder, "--deterministic")
    for name in ("a", "b"):
        outcome = command(*arguments, "--run-dir", name)
        assert outcome.code == 0, outcome.err
        assert "torch takes deterministic operators" in outcome.out
    first, second = (next((tmp_path / name / "checkpoints").glob("step-*")) for name in ("a", "b"))
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    assert (first / "generators.safetensors").exists()
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert 0 < results["memory_peak_bytes"] < results["memory_total_bytes"]
    assert results["memory_reserved_bytes"] > 0


def test_known_errors_are_one_message_and_others_a_traceback(
    command: Callable[..., Any], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "NPU out of memory. Tried to allocate 52.00 MiB (NPU 0; 60.96 GiB total capacity)"
    raised: list[Exception] = [torch.OutOfMemoryError(f"{text}\nand many more lines")]

    def fails(*arguments: object, **options: object) -> None:
        raise raised[-1]

    monkeypatch.setattr("shufflenet_fn.run.rank.train", fails)
    outcome = command("train", *TINY, "--data", image_folder, "--run-dir", "known")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err and "many more lines" not in outcome.err
    assert text in outcome.err and "--batch-size" in outcome.err
    log = Path("known", "log.txt").read_text()
    assert "Traceback" in log and "and many more lines" in log

    raised.append(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command("train", *TINY, "--data", image_folder, "--run-dir", "other")
    assert "ZeroDivisionError: a bug" in Path("other", "log.txt").read_text()

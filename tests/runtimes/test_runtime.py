"""The interface of runtimes, tested with the CPU, and its use in training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.format import generator_states, restore_generators
from shufflenet_fn.run.timing import fitted
from shufflenet_fn_backends.runtimes import cpu
from shufflenet_fn_backends.runtimes.base import Window
from shufflenet_fn_backends.support.errors import UsageError

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--epochs", 1, "--device", "cpu")


def test_memory_of_the_cpu() -> None:
    held = torch.ones(2**25)  # 128 MiB
    after = cpu.runtime().memory()
    # Not by how much it grows: earlier tests may have left memory that is used again or given back.
    assert after.allocated > held.numel() * 4
    assert after.peak >= after.allocated
    assert after.total > after.peak


def test_dtypes_that_a_device_lacks() -> None:
    from dataclasses import replace

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
    weights = [next((tmp_path / name / "checkpoints").glob("step-*")) for name in ("a", "b")]
    first, second = ((path / "weights.safetensors").read_bytes() for path in weights)
    assert first == second


def test_results_have_the_memory(command: Callable[..., Any], image_folder: Path, tmp_path: Path) -> None:
    outcome = command("train", *TINY, "--data", image_folder, "--run-dir", "run")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 < results["memory_peak_bytes"] < results["memory_total_bytes"]
    assert results["memory_reserved_bytes"] > 0
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert (checkpoint / "generators.safetensors").exists()


def test_a_known_error_in_training_is_one_message(
    command: Callable[..., Any], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "NPU out of memory. Tried to allocate 52.00 MiB (NPU 0; 60.96 GiB total capacity)"

    def runs_out(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError(f"{text}\nand many more lines")

    monkeypatch.setattr("shufflenet_fn.run.rank.train", runs_out)
    outcome = command("train", *TINY, "--data", image_folder, "--run-dir", "run")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err and "many more lines" not in outcome.err
    assert text in outcome.err and "--batch-size" in outcome.err
    log = Path("run", "log.txt").read_text()
    assert "Traceback" in log and "and many more lines" in log


def test_other_errors_keep_their_traceback(
    command: Callable[..., Any], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("shufflenet_fn.run.rank.train", fails)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command("train", *TINY, "--data", image_folder, "--run-dir", "run")
    assert "ZeroDivisionError: a bug" in Path("run", "log.txt").read_text()

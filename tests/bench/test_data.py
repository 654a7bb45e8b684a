"""``data bench``: candidates that read the same tree, CPU time with children, and what is reported."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.bench.data import make_tree
from shufflenet_fn.bench.loading import STAGES, WHOLE, Loading, Reader, build_loading, measured
from shufflenet_fn.bench.rounds import cpu_seconds
from shufflenet_fn.data.opening import open_split, open_train_val
from shufflenet_fn.errors import UsageError
from shufflenet_fn_cli.bench_table import print_data_table

BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


def test_cpu_time_counts_running_and_ended_children() -> None:
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    ended = cpu_seconds()
    assert ended - before >= 0.28
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY + "print(flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds() - ended >= 0.28
    finally:
        child.communicate(b"\n")


@pytest.mark.parametrize("images", [7, 24, 60])
def test_a_tree_of_any_size(image_folder: Path, tmp_path: Path, images: int) -> None:
    train, val = open_train_val(make_tree(image_folder, tmp_path / "tree", images))
    assert len(train) == images and len(val) == 3
    assert set(train.labels.tolist()) == {0, 1, 2}
    source = open_split(image_folder, "train")
    originals = {bytes(source.read(i).data) for i in range(len(source))}
    found = {bytes(train.read(i).data) for i in range(images)}
    assert found <= originals and len(found) == min(images, 24)


def test_turn_does_not_count_prefetched_batches() -> None:
    asked: list[int] = []

    def batches() -> Iterator[torch.Tensor]:
        for number in range(1000):
            asked.append(number)
            time.sleep(0.003)
            yield torch.empty(3, 1)

    loaded = measured(batches(), together=2, seconds=0.02)
    assert loaded.images == 3 * (len(asked) - 4) and (len(asked) - 4) % 2 == 0
    assert loaded.seconds >= 0.02
    assert loaded.per_image == loaded.seconds / loaded.images
    asked.clear()
    paced = measured(batches(), together=2, seconds=0.02, step_seconds=0.001)
    steps = len(asked) - 8
    assert paced.images == 3 * steps
    assert 0.003 * steps <= paced.waited <= paced.seconds - 0.001 * steps


@pytest.mark.parametrize(("loader", "workers"), [("ours", 1), ("torchvision", 0), ("torchvision", 1)])
def test_candidates_bring_normalised_batches(
    image_folder: Path, loader: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loader == "torchvision":
        pytest.importorskip("torchvision")
    from shufflenet_fn.bench import loading

    seen: list[torch.Tensor] = []

    def looked_at(batches: Iterator[torch.Tensor], *rest: Any) -> None:
        seen.append(next(batches))

    monkeypatch.setattr(loading, "measured", looked_at)
    reader = Reader(loader, str(image_folder), workers, 0.2)
    build_loading("it", "", Loading({"it": reader}, 8, 32, 0.01))()
    (images,) = seen
    assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32
    # Images of one colour over dark noise: normalised values lie around zero, on both sides of it.
    assert -2.2 < images.min() < -1 and 0 < images.max() < 2.7


SMALL = ("--images", 32, "--image-size", 32, "--batch-size", 8, "--rounds", 3)
SHORT = ("--turn-seconds", 0.01, "--workers", 1)
OURS = {"files", "packed JPEG 256", "packed raw 256"}


@pytest.mark.interop
def test_one_json_object_and_its_table(
    process: Callable[..., Any], image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchvision")
    outcome = process(*("data", "bench", image_folder, *SMALL, *SHORT, "--peer-workers", "0,1", "--json"))
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert set(result["contenders"]) == {*OURS, "torchvision"}
    assert set(result["ratios"]) == set(result["stages"]) == OURS
    assert {result["contenders"][name]["workers"] for name in OURS} == {1}
    for over in result["ratios"].values():
        assert over["interval"][0] <= over["ratio"] <= over["interval"][1]
        assert (over["advice"] is None) is over["conclusive"]
    for stages in result["stages"].values():
        assert set(stages) == {*STAGES, WHOLE} and min(stages.values()) > 0
    tried = result["peer_workers"]
    assert set(tried) == {"0", "1"}
    best = result["contenders"]["torchvision"]["workers"]
    assert tried[str(best)] == max(tried.values())
    print_data_table(result)
    table = capsys.readouterr().out
    assert f"torchvision, {best}" in table and "(trial): 0: " in table
    assert all(word in table for word in (*OURS, *STAGES, WHOLE))


def test_packed_data_is_no_source(command: Callable[..., Any], image_folder: Path, tmp_path: Path) -> None:
    outcome = command("data", "pack", image_folder, tmp_path / "packed")
    assert outcome.code == 0, outcome.err
    with pytest.raises(UsageError, match="packed already"):
        make_tree(tmp_path / "packed", tmp_path / "tree", 8)
    outcome = command("data", "bench", image_folder, "--packed", image_folder)
    assert outcome.code == 2 and "no packed data" in outcome.err

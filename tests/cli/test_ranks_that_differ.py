"""Two ranks of one run, as torchrun starts them: messages name the rank that differs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from shufflenet_fn import get_config, init, to_torchvision
from shufflenet_fn.run.divergence import STEP
from tests.conftest import Outcome

Ranks = Callable[[Sequence[tuple[object, ...]]], list[Outcome]]

TRAIN = ("train", "--arch", "x0_5", "--image-size", 32, "--batch-size", 4, "--device", "cpu")
RECIPE = ("--threads", 1, "--epochs", 4, "--lr", 0.02, "--weight-decay", 0, "--label-smoothing", 0)


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    """Start a rank for each of some arguments, in ``tmp_path/rank-N``, and wait for all of them."""

    def run(arguments: Sequence[tuple[object, ...]]) -> list[Outcome]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started = []
        for rank, own in enumerate(arguments):
            folder = tmp_path / f"rank-{rank}"
            folder.mkdir(exist_ok=True)
            place = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
            sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), len(arguments))
            env = {**place, **sizes, "MASTER_PORT": port}
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "shufflenet_fn_cli.main", *map(str, own)],
                    cwd=folder,
                    env={**os.environ, **{name: str(value) for name, value in env.items()}},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        try:
            said = [process.communicate(timeout=300) for process in started]
        finally:
            for process in started:
                process.kill()
        return [
            Outcome(process.returncode, out, err) for process, (out, err) in zip(started, said, strict=True)
        ]

    return run


def write_weights(path: Path, *, seed: int, classes: int, impossible: int | None = None) -> None:
    """Fresh weights, by which the class ``impossible`` has no probability at all."""
    config = get_config("x0_5", num_classes=classes)
    state_dict = to_torchvision(init(config, torch.Generator().manual_seed(seed)), config)
    if impossible is not None:
        state_dict["fc.weight"][impossible] = -3e38  # features are not negative
    path.parent.mkdir(exist_ok=True)
    torch.save(state_dict, path)


def test_different_weights_on_one_rank(
    ranks: Ranks, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(2):
        write_weights(tmp_path / f"rank-{rank}" / "weights.pth", seed=rank, classes=3)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import atexit\natexit.register(print, 'taken down')\n")
    start = (*TRAIN, "--data", image_folder, *RECIPE, "--run-dir", tmp_path / "run")
    for outcome in ranks([(*start, "--pretrained", "weights.pth")] * 2):
        assert outcome.code == 1 and "Traceback" not in outcome.err
        assert "the initial state differs between ranks: ranks [1] do not hold" in outcome.err
        # It ends inside its process group, which an ordinary end takes down in any order.
        assert "taken down" not in outcome.out
    (ordinary,) = ranks([("--version",)])
    assert "taken down" in ordinary.out


@pytest.mark.parametrize("differing", ["run_dir", "learning_rate"])
def test_different_settings_on_one_rank(
    ranks: Ranks, image_folder: Path, tmp_path: Path, differing: str
) -> None:
    first, other = tmp_path / "run", tmp_path / "other"
    start = (*TRAIN, "--data", image_folder, *RECIPE, "--run-dir", first)
    own, said = {
        "run_dir": (("--run-dir", other), f"run_dir is {other}, and {first} on rank 0."),
        "learning_rate": (("--lr", 0.03), "learning_rate is 0.03, and 0.02 on rank 0."),
    }[differing]
    for outcome in ranks([start, (*start, *own)]):
        assert outcome.code == 2 and "Traceback" not in outcome.err
        assert f"other settings than rank 0: {said}" in outcome.err


OTHER_RATE_ON_RANK_1 = """
import os
if os.environ.get("RANK") == "1":
    from shufflenet_fn.run import build
    made = build.build_schedule
    build.build_schedule = lambda *given: lambda step: 1.5 * made(*given)(step)
"""


def test_different_computation_on_one_rank(
    ranks: Ranks, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No setting shows it, as with different code on one machine.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(OTHER_RATE_ON_RANK_1)
    start = (*TRAIN, "--data", image_folder, *RECIPE, "--run-dir", tmp_path / "run")
    for outcome in ranks([(*start, "--checkpoint-freq", 2)] * 2):
        assert outcome.code == 1 and "Traceback" not in outcome.err
        assert "the state after step 2 differs between ranks: ranks [1] do not" in outcome.err
    # A state that ranks do not share is never saved.
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_rank_with_infinite_loss_is_named(ranks: Ranks, image_folder: Path, tmp_path: Path) -> None:
    data, weights = tmp_path / "data", tmp_path / "weights.pth"
    for split, counts in (("train", {"blue": 7, "red": 1}), ("val", {"blue": 1, "red": 1})):
        for name, count in counts.items():
            (data / split / name).mkdir(parents=True)
            for image in sorted((image_folder / split / name).iterdir())[:count]:
                shutil.copy(image, data / split / name)
    write_weights(weights, seed=0, classes=2, impossible=1)
    start = (*TRAIN, "--data", data, *RECIPE, "--run-dir", tmp_path / "run")
    first, second = ranks([(*start, "--pretrained", weights)] * 2)
    assert first.code == second.code == 1
    (dump,) = (tmp_path / "run").glob("dump-step-*")
    told = json.loads((dump / STEP).read_text())
    (place,) = (place for place, name in enumerate(told["samples"]) if "/red/" in name)
    assert f"the loss is inf at step {told['step']} (epoch 0)" in first.err
    assert f", in the share of rank {place // 2}. Start again" in first.err
    assert [rank["loss"] == "inf" for rank in told["ranks"]] == [place < 2, place >= 2]

"""``shufflenet-fn checkpoint``: what it says, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.describe import compare
from shufflenet_fn.checkpoint.format import STATE, WEIGHTS
from shufflenet_fn.checkpoint.inventory import point_to
from shufflenet_fn.checkpoint.read import read_checkpoint
from shufflenet_fn.checkpoint.write import write_checkpoint
from tests.checkpoint.support import flip, small

Command = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints, the last of them damaged."""
    folder = tmp_path / "run" / "checkpoints"
    folder.parent.mkdir()
    for step, score in ((2, 60.0), (4, 50.0), (6, None)):
        scores = None if score is None else {"accuracy1": score}
        about = {"settings": {"learning_rate": 0.1 * step}, "saved_at": 1.7e9 + step}
        small(folder, step, steps_per_epoch=4, scores=scores, classes=["a", "b"], **about)
    point_to(folder, "latest", folder / "step-00000004")
    point_to(folder, "best", folder / "step-00000002")
    flip(folder / "step-00000006" / STATE)
    return tmp_path / "run"


def test_list(command: Command, run: Path) -> None:
    outcome = command("checkpoint", "list", run, "--json")
    assert outcome.code == 0
    listed = json.loads(outcome.out)["checkpoints"]
    assert [item["step"] for item in listed] == [2, 4, 6]
    assert [item["epoch"] for item in listed] == [0.5, 1.0, 1.5]
    assert [item["accuracy1"] for item in listed] == [60.0, 50.0, None]
    assert [(item["latest"], item["best"]) for item in listed] == [
        (False, True),
        (True, False),
        (False, False),
    ]
    assert [bool(item["problem"]) for item in listed] == [False, False, True]
    assert STATE in listed[2]["problem"] and all(item["bytes"] > 500 for item in listed)
    text = command("checkpoint", "list", run).out
    for word in ("step-00000002", "best", "latest", "damaged", "60.000", f"{STATE} is not what"):
        assert word in text


def test_verify(command: Command, run: Path) -> None:
    whole = command("checkpoint", "verify", run)
    assert whole.code == 1 and "step-00000004: good" in whole.out and STATE in whole.out
    good = command("checkpoint", "verify", run / "checkpoints" / "step-00000002", "--json")
    assert good.code == 0
    assert json.loads(good.out) == {"checkpoints": {"step-00000002": None}, "good": True}
    bad = command("checkpoint", "verify", run / "checkpoints" / "step-00000006", "--json")
    assert bad.code == 1 and not json.loads(bad.out)["good"]


def test_show(command: Command, run: Path) -> None:
    outcome = command("checkpoint", "show", run, "--json")  # the newest good one
    assert outcome.code == 0
    shown = json.loads(outcome.out)
    assert shown["step"] == 4 and shown["settings"] == {"learning_rate": 0.4}
    assert shown["tensors"] == [
        {"file": WEIGHTS, "name": "value", "dtype": "float32", "shape": [3]},
        {"file": STATE, "name": "step", "dtype": "int64", "shape": []},
    ]
    text = command("checkpoint", "show", run).out
    for word in ("learning_rate=0.4", "classes: 2: a, b", "float32", "(3,)"):
        assert word in text
    # The newer one that was passed over is named, where it is in no program's way.
    assert "step-00000006 is damaged" in outcome.err
    damaged = command("checkpoint", "show", run / "checkpoints" / "step-00000006")
    assert damaged.code == 1 and damaged.err.startswith("error: ")


def test_diff(command: Command, run: Path) -> None:
    folder = run / "checkpoints"
    outcome = command("checkpoint", "diff", folder / "step-00000002", folder / "step-00000004", "--json")
    assert outcome.code == 1
    told = json.loads(outcome.out)
    assert not told["identical"] and told["tensors"] == 2
    assert {item["name"]: item["largest"] for item in told["different"]} == {"value": 2, "step": 2}
    assert {"name": "settings.learning_rate", "first": 0.2, "second": 0.4} in told["values"]
    outcome = command("checkpoint", "diff", folder / "step-00000002", run)
    text = outcome.out
    assert "2 of 2 tensors differ" in text and "settings.learning_rate: 0.2 | 0.4" in text
    assert f"{folder / 'step-00000002'} | {folder / 'step-00000004'}" in text
    assert "step-00000006 is damaged" in outcome.err
    # The same tensors, saved at another time by other settings.
    small(run / "other", 4, settings={"learning_rate": 3})
    same = command("checkpoint", "diff", run, run / "other" / "step-00000004")
    assert same.code == 0 and "all 2 tensors are byte-identical" in same.out


def test_a_hostile_manifest_does_not_reach_the_terminal(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.parent.mkdir()
    evil = "\x1b]0;title\x07\x1b[2J"
    small(folder, 1, classes=[evil, "half a \ud83d"], saved_at=1e300, scores={"accuracy1": 10**400})
    small(folder, 2, classes=["a"], settings={evil: evil})
    first, second = (folder / f"step-0000000{step}" for step in (1, 2))
    for arguments, code in ((("list", "run"), 0), (("show", first), 0), (("diff", first, second), 1)):
        outcome = command("checkpoint", *arguments)
        assert outcome.code == code, outcome.err
        assert "\x1b" not in outcome.out and "\x07" not in outcome.out
        if arguments[0] != "list":
            assert "\\x1b]0;title" in outcome.out


@pytest.mark.parametrize("verb", ["list", "verify", "show"])
def test_nothing_there_is_one_message(command: Command, tmp_path: Path, verb: str) -> None:
    for path in (tmp_path, tmp_path / "none"):
        outcome = command("checkpoint", verb, path)
        assert outcome.code == 2 and outcome.err.startswith("error: ") and str(path) in outcome.err


def test_what_kind_of_difference(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    first = {
        "same": torch.tensor([nan, inf, -0.0]),
        "zero": torch.tensor([0.0, 1.0]),
        "nan": torch.tensor([1.0, 2.0]),
        "half": torch.ones(2),
        "gone": torch.ones(1),
        "int": torch.tensor([1, 2, 3]),
        "bool": torch.tensor([True]),
    }
    second = {
        "same": torch.tensor([nan, inf, -0.0]),
        "zero": torch.tensor([-0.0, 1.5]),
        "nan": torch.tensor([1.0, nan]),
        "half": torch.ones(2, dtype=torch.float16),
        "new": torch.ones(1),
        "int": torch.tensor([1, 2, 7]),
        "bool": torch.tensor([False]),
    }
    contents = [
        read_checkpoint(
            write_checkpoint(tmp_path / name, 1, {WEIGHTS: tensors, STATE: {"step": torch.tensor(1)}}, {}),
            finite=False,
        )
        for name, tensors in (("first", first), ("second", second))
    ]
    found = {item.name: item for item in compare(*contents).different}
    assert found.keys() == {"zero", "nan", "half", "gone", "new", "int", "bool"}
    assert (found["zero"].largest, found["zero"].elements) == (0.5, 2)
    assert found["nan"].largest != found["nan"].largest and found["nan"].elements == 1
    assert (found["int"].largest, found["bool"].largest) == (4, 1)
    assert found["half"].how == "float32 (2,) and float16 (2,)"
    assert found["gone"].how == "missing in the second" and found["new"].how == "missing in the first"
    assert compare(contents[0], contents[0]).identical

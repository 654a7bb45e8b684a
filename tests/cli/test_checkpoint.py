"""``shufflenet-fn checkpoint``: what it says, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

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
    assert [item["latest"] for item in listed] == [False, True, False]
    assert [item["best"] for item in listed] == [True, False, False]
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


NAN, INF = float("nan"), float("inf")


def test_what_kind_of_difference(tmp_path: Path) -> None:
    T = torch.tensor
    pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {
        "same": (T([NAN, INF, -0.0]), T([NAN, INF, -0.0])),
        "empty": (torch.zeros(0), torch.zeros(0)),
        "zero": (T([0.0, 1.0]), T([-0.0, 1.5])),
        "nan": (T([1.0, 2.0]), T([1.0, NAN])),
        "half": (torch.ones(2), torch.ones(2, dtype=torch.float16)),
        "gone": (torch.ones(1), None),
        "new": (None, torch.ones(1)),
        "int": (T([1, 2, 3]), T([1, 2, 7])),
        "bool": (T([True]), T([False])),
    }
    contents = []
    for side in (0, 1):
        tensors = {name: pair[side] for name, pair in pairs.items() if pair[side] is not None}
        files = {WEIGHTS: tensors, STATE: {"step": T(1)}}
        path = write_checkpoint(tmp_path / str(side), 1, files, {})
        contents.append(read_checkpoint(path, finite=False))
    found = {item.name: (item.how, str(item.largest), item.elements) for item in compare(*contents).different}
    assert found == {
        "zero": ("values", "0.5", 2),
        "nan": ("values", "nan", 1),
        "half": ("float32 (2,) and float16 (2,)", "None", None),
        "gone": ("missing in the second", "None", None),
        "new": ("missing in the first", "None", None),
        "int": ("values", "4.0", 1),
        "bool": ("values", "1.0", 1),
    }
    assert compare(contents[0], contents[0]).identical

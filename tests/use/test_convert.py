"""``convert`` writes weights that other tools load, and that read back with their class names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from shufflenet_fn.checkpoint.torchvision import canonical_keys, from_torchvision, to_torchvision
from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.model.config import get_config
from tests.model.support import assert_trees_equal
from tests.use.conftest import CLASSES, three_classes

Command = Callable[..., Any]
CONFIG = get_config("x0_5", num_classes=3)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (".safetensors", ".pth", True),
        (".pth", ".pth.tar", True),
        (".pth.tar", ".safetensors", True),
        (".pt", ".pth.tar", False),
        (".pth.tar", ".safetensors", False),
    ],
)
def test_converted_weights_read_back(
    command: Command, weights: Path, tmp_path: Path, first: str, second: str, named: bool
) -> None:
    names = ("--names", weights.with_name("names.txt")) if named else ()
    outcome = command("convert", weights, "-o", f"a{first}", "--arch", "x0_5", *names)
    assert outcome.code == 0 and f"wrote a{first}" in outcome.out and "3 classes" in outcome.out, outcome.err
    assert command("convert", f"a{first}", "-o", f"b{second}", "--arch", "x0_5").code == 0
    for file in (f"a{first}", f"b{second}"):
        read = read_weights(tmp_path / file)
        assert read.classes == (CLASSES if named else None)
        assert_trees_equal(from_torchvision(read.tensors, CONFIG), three_classes())


def test_forms_are_those_of_other_tools(command: Command, weights: Path, tmp_path: Path) -> None:
    options = ("--arch", "x0_5", "--names", weights.with_name("names.txt"))
    for ending in (".safetensors", ".pth", ".pth.tar"):
        assert command("convert", weights, "-o", f"w{ending}", *options).code == 0
    state_dict = torch.load(tmp_path / "w.pth", weights_only=True)
    assert list(state_dict) == list(to_torchvision(three_classes(), CONFIG))
    original = torch.load(tmp_path / "w.pth.tar", weights_only=True)
    assert original["arch"] == "shufflenet_v2_x0_5" and original["epoch"] == 0
    assert {key.removeprefix("module.") for key in original["state_dict"]} == set(state_dict)
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as opened:
        assert opened.metadata()["arch"] == "shufflenet_v2_x0_5"

    models = pytest.importorskip("torchvision.models")
    module = models.shufflenet_v2_x0_5(num_classes=3)
    module.load_state_dict(state_dict, strict=True)
    module.load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"), strict=True)
    torch.nn.DataParallel(module).load_state_dict(original["state_dict"], strict=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=1, momentum=0.9)
    optimizer.load_state_dict(original["optimizer"])


@pytest.mark.parametrize("head", [(), ("head.1", "head.3")], ids=len)
def test_weights_without_our_classifier_are_converted(
    command: Command, weights: Path, image_folder: Path, tmp_path: Path, head: tuple[str, ...]
) -> None:
    tensors = safetensors.torch.load_file(weights)
    body = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    other = {f"{name}.weight": torch.ones(3, 3) for name in head}
    torch.save({**body, **other}, tmp_path / "w.pt")
    for ending in (".safetensors", ".pth", ".pth.tar"):
        outcome = command("convert", "w.pt", "-o", f"a{ending}", "--arch", "x0_5")
        assert outcome.code == 0 and "no classifier" in outcome.out, outcome.err
        assert "have no classifier" in outcome.err and all(name in outcome.err for name in head)
        read = read_weights(tmp_path / f"a{ending}")
        assert read.classes is None and read.tensors.keys() == canonical_keys(body).keys()
    for source, file in (("w.pt", "a.npz"), (weights, "b.npz")):
        outcome = command("embed", source, image_folder / "val" / "red", "-o", file, "--arch", "x0_5")
        assert outcome.code == 0, outcome.err
    found, wanted = (np.load(tmp_path / file)["features"] for file in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(found, wanted)
    outcome = command(
        "convert", "w.pt", "-o", "b.pth", "--arch", "x0_5", "--names", weights.with_name("names.txt")
    )
    assert outcome.code == 2 and "no classifier" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "w.onnx"), ("w.onnx must end in .safetensors", "shufflenet-fn export")),
        (("-o", "w"), ("must end in",)),
        (("-o", "none/w.pth"), ("none/w.pth: there is no folder",)),
        (("-o", "no\nne/w.pth"), ("no\\nne/w.pth: there is no folder",)),
        (("-o", "w.pth", "--arch", "x1_0"), ("They are of shufflenet_v2_x0_5",)),
        (("-o", "w.pth", "--names", "none.txt"), ("cannot read --names none.txt",)),
    ],
)
def test_bad_request_is_refused(
    command: Command, weights: Path, tmp_path: Path, arguments: tuple[object, ...], said: tuple[str, ...]
) -> None:
    arch = () if "--arch" in arguments else ("--arch", "x0_5")
    outcome = command("convert", weights, *arguments, *arch)
    assert outcome.code == 2 and all(words in outcome.err for words in said), outcome.err
    assert not list(tmp_path.iterdir())

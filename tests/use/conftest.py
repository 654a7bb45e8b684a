"""Weights of a network with three classes, whose logits differ from image to image."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import safetensors.torch

from shufflenet_fn.bench.infer import seasoned_variables
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.variables import Variables

CLASSES = ("blue", "green", "red")


@functools.cache  # with other threads, its statistics have other last bits
def three_classes() -> Variables:
    variables = seasoned_variables("x0_5")
    head = {key: value[:3].clone() for key, value in variables.params["fc"].items()}
    return variables._replace(params={**variables.params, "fc": head})


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    config = get_config("x0_5", num_classes=3)
    safetensors.torch.save_file(to_torchvision(three_classes(), config), file)
    file.with_name("names.txt").write_text("\n".join(CLASSES) + "\n")
    return file

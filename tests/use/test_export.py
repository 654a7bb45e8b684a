"""Exported files compute what the model computes, from the file to the logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch

from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.inference import fold, infer
from shufflenet_fn.use.onnx_graph import Graph
from shufflenet_fn.use.onnx_image import add_transform
from tests.use.conftest import CLASSES, three_classes

Command = Callable[..., Any]

OPTIONS = ("--arch", "x0_5", "--image-size", 32)


def session(file: Path) -> Any:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def wanted(images: torch.Tensor) -> np.ndarray:
    config = get_config("x0_5", num_classes=3)
    return infer(config, fold(config, three_classes()), images).detach().numpy()


@pytest.mark.parametrize("batch", ["dynamic", "2"])
def test_tensor_export_has_no_shuffle(command: Command, weights: Path, tmp_path: Path, batch: str) -> None:
    options = (*OPTIONS, "--input", "tensor", "--batch", batch)
    outcome = command("export", weights, "-o", "m.onnx", *options)
    assert outcome.code == 0, outcome.err
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    expected = {"Conv", "Relu", "MaxPool", "Split", "Concat", "GlobalAveragePool", "Flatten", "Gemm"}
    assert kinds == expected
    run = session(tmp_path / "m.onnx").run
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(run(None, {"images": images.numpy()})[0], wanted(images), atol=1e-5)
    if batch == "2":
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            run(None, {"images": images[:1].numpy()})


@pytest.mark.parametrize(
    "shape", [(40, 48), (300, 401), (32, 32), (37, 36), (10, 620), (1, 9), (9, 1), (400, 37), (5, 4)], ids=str
)
def test_graph_resizes_and_crops_to_the_same_bytes(shape: tuple[int, int]) -> None:
    graph, kinds = Graph(onnx), onnx.TensorProto
    out = add_transform(graph, "image", resize=37, size=32, mean=[0, 0, 0])
    value = onnx.helper.make_tensor_value_info
    source = value("image", kinds.UINT8, ["N", "H", "W", 3])
    model = graph.model([source], [value(out, kinds.FLOAT, ["N", 3, 32, 32])], {})
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run
    (pixels,) = run(None, {"image": np.stack((image, 255 - image))})
    for found, given in zip(pixels, (image, 255 - image), strict=True):
        np.testing.assert_array_equal(found.transpose(1, 2, 0), EvalTransform(37, 32)(given))


def test_description_and_metadata_say_how_to_use_the_file(
    command: Command, weights: Path, tmp_path: Path
) -> None:
    names = weights.with_name("names.txt")
    outcome = command("export", weights, "-o", "m.onnx", *OPTIONS, "--names", names)
    assert outcome.code == 0, outcome.err
    assert "uint8 (N, H, W, 3)" in outcome.out
    described = json.loads((tmp_path / "m.onnx.json").read_text())
    model = onnx.load(tmp_path / "m.onnx")
    assert (model.ir_version, model.opset_import[0].version) == (8, 13)
    inside = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(inside["classes"]) == described["classes"] == list(CLASSES)
    assert json.loads(inside["preprocessing"])["center_crop"] == 32
    assert described["weights"]["path"] == str(weights)


def test_torch_export_computes_the_same(command: Command, weights: Path, tmp_path: Path) -> None:
    outcome = command("export", weights, "-o", "m.pt2", "--format", "torch", *OPTIONS)
    assert outcome.code == 0, outcome.err
    program = torch.export.load(tmp_path / "m.pt2").module()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(program(images).numpy(), wanted(images), atol=1e-6)


def test_verify_compares_files_and_refuses_other_weights(
    command: Command, weights: Path, image_folder: Path, tmp_path: Path
) -> None:
    names = ("--names", weights.with_name("names.txt"))
    assert command("export", weights, "-o", "m.onnx", *OPTIONS, *names).code == 0
    outcome = command("export", "verify", "m.onnx", "--data", image_folder, "--json")
    assert outcome.code == 0, outcome.err
    (found,) = [each for each in json.loads(outcome.out) if each["engine"] == "onnxruntime"]
    assert found["agreement"] == 1 and found["largest"] < 1e-4 and not found["differ"]
    assert found["accuracy"] == found["model_accuracy"]

    other = {
        key: value.flip(0) if key.startswith("fc.") else value
        for key, value in safetensors.torch.load_file(weights).items()
    }
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in other.items()}, tmp_path / "other.safetensors"
    )
    against = ("--against", tmp_path / "other.safetensors")
    outcome = command("export", "verify", "m.onnx", "--data", image_folder, *against)
    assert outcome.code == 1 and "agreement" in outcome.err and "another top-1" in outcome.out
    (tmp_path / "other.safetensors").rename(weights.with_name("moved.safetensors"))
    (tmp_path / "m.onnx.json").write_text(
        (tmp_path / "m.onnx.json").read_text().replace(weights.name, "moved.safetensors")
    )
    outcome = command("export", "verify", "m.onnx", "--data", image_folder)
    assert outcome.code == 2 and "not those that were exported" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "m.pt"), ("m.pt", ".onnx")),
        (("-o", "m.onnx", "--format", "tflite"), ("tflite", "onnx, torch, om")),
        (("-o", "m.onnx", "--input", "video"), ("video", "image, tensor")),
        (("-o", "m.pt2", "--format", "torch", "--input", "image"), ("--input tensor",)),
        (("-o", "m.onnx", "--batch", "many"), ("many", "dynamic")),
        (("-o", "m.onnx", "--batch", "0"), ("--batch 0", "1 to 65535")),
        (("-o", "m.onnx", "--batch", "65536"), ("--batch 65536", "1 to 65535")),
        (("-o", "m.onnx", "--batch", "9" * 5000), ("1 to 65535", "dynamic")),
        (("-o", "nowhere/m.onnx"), ("nowhere",)),
        (("-o", "m.onnx", "--names", "none.txt"), ("none.txt",)),
        (("-o", "m.onnx", "--arch", "x1_0"), ("x0_5",)),
        (("-o", "m.onnx", "--eval-resize", "8"), ("resize",)),
    ],
)
def test_bad_request_writes_nothing(
    command: Command, weights: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    outcome = command("export", weights, *OPTIONS, *arguments)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert not list(tmp_path.iterdir())

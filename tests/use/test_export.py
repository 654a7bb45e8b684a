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
from shufflenet_fn.use.quantize import paired_drop
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
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    kinds = {node.op_type for node in nodes}
    assert {"conv1", "stage4.3.branch2.dw", "conv5", "fc"} <= {node.name for node in nodes}
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

    # The export's own names, in another order than the folders, say what the outputs mean.
    (tmp_path / "reversed.txt").write_text("\n".join(reversed(CLASSES)))
    assert command("export", weights, "-o", "r.onnx", *OPTIONS, "--names", "reversed.txt").code == 0
    outcome = command("export", "verify", "r.onnx", "--data", image_folder, "--json")
    (found,) = [each for each in json.loads(outcome.out) if each["engine"] == "onnxruntime"]
    rows = command("predict", "r.onnx", image_folder / "val", "--format", "jsonl").out.splitlines()
    right = [json.loads(row)["correct"] for row in rows]
    assert found["accuracy"][0] == found["model_accuracy"][0] == pytest.approx(100 * sum(right) / len(right))

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


@pytest.mark.parametrize("kind", ["image", "tensor"])
def test_int8_export_is_close_and_repeatable(
    command: Command, weights: Path, image_folder: Path, tmp_path: Path, kind: str
) -> None:
    options = (*OPTIONS, "--input", kind, "--names", weights.with_name("names.txt"), "--batch", "2")
    assert command("export", weights, "-o", "f.onnx", *options).code == 0
    int8 = (*options, "--int8", "--data", image_folder, "--calibration", "6", "--max-drop", "100")
    outcome = command("export", weights, "-o", "m.onnx", *int8)
    assert outcome.code == 0 and "10 images tell little" in outcome.err, outcome.err
    assert "95 % interval" in outcome.out and len(outcome.err.splitlines()) == 1
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
    x = (
        {"image": images}
        if kind == "image"
        else {"images": images[:, :32, :32].transpose(0, 3, 1, 2) / 99 - 1}
    )
    x = {name: value.astype(np.uint8 if kind == "image" else np.float32) for name, value in x.items()}
    (found,), (exact,) = (session(tmp_path / name).run(None, x) for name in ("m.onnx", "f.onnx"))
    assert found.shape == exact.shape and np.linalg.norm(found - exact) < 0.2 * np.linalg.norm(exact)
    model = onnx.load(tmp_path / "m.onnx")
    assert (model.ir_version, model.opset_import[0].version) == (8, 13)
    stored = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    weights_int8 = [array for array in stored if array.dtype == np.int8 and array.ndim > 1]
    # 7 bits: with 8, sums saturate in processors without VNNI.
    assert len(weights_int8) == 57 and max(int(abs(array.astype(int)).max()) for array in weights_int8) == 64
    described = json.loads((tmp_path / "m.onnx.json").read_text())["quantization"]
    inside = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(inside["quantization"]) == described
    assert described["calibration"]["images"] == 6 and described["drop"]["images"] == 10
    content = (tmp_path / "m.onnx").read_bytes()
    assert command("export", weights, "-o", "m.onnx", *int8).code == 0
    assert (tmp_path / "m.onnx").read_bytes() == content


def test_int8_export_keeps_parts_in_float(
    command: Command, weights: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = (*OPTIONS, "--input", "tensor", "--names", weights.with_name("names.txt"), "--int8")
    allowed = (*options, "--data", image_folder, "--max-drop", "100", "--keep-float")
    assert (
        command("export", weights, "-o", "m.onnx", *allowed, "conv1,stage2.0, stage2.1.branch2.dw").code == 0
    )
    graph = onnx.load(tmp_path / "m.onnx").graph
    held = {each.name: each.data_type for each in graph.initializer}
    kinds = {node.name: held.get(node.input[1]) for node in graph.node if node.op_type == "Conv"}
    in_float = {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT}
    assert {"conv1", "stage2.1.branch2.dw"} < in_float and len(in_float) == 7
    # All in float: scaled channels, but the same function.
    everything = "conv1,stage2,stage3,stage4,conv5,fc"
    assert command("export", weights, "-o", "m.onnx", *allowed, everything).code == 0
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (found,) = session(tmp_path / "m.onnx").run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, wanted(images), atol=2e-2)


def test_int8_is_judged_by_the_end_of_the_interval(
    command: Command, weights: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = (*OPTIONS, "--names", weights.with_name("names.txt"), "--int8", "--data", image_folder)
    # Fewer parts to try.
    outcome = command("export", weights, "-o", "m.onnx", *options, "--keep-float", "stage2,stage3,stage4")
    assert outcome.code == 1 and "Traceback" not in outcome.err and not list(tmp_path.iterdir())
    for word in ("on 10 images", "at most 0.2 is", "Nothing was written", "--keep-float", "--max-drop"):
        assert word in outcome.err, outcome.err
    assert command("export", weights, "-o", "m.onnx", *options, "--max-drop", "100").code == 0
    outcome = command("export", "verify", "m.onnx", "--data", image_folder)
    assert outcome.code == 0 and "judged by the --max-drop of its export, 100" in outcome.out, outcome.err
    file = tmp_path / "m.onnx.json"
    file.write_text(file.read_text().replace('"max_drop": 100.0', '"max_drop": 0.5'))
    outcome = command("export", "verify", "m.onnx", "--data", image_folder)
    assert (
        outcome.code == 1 and "error: onnxruntime: the drop" in outcome.err and "at most 0.5" in outcome.err
    )


@pytest.mark.parametrize(
    ("lost", "won", "count", "interval", "refused"),
    [
        (0, 0, 2000, (0.0, -0.14, 0.14), ""),
        (9, 6, 2000, (0.15, -0.25, 0.55), "about 130,300 images"),
        (40, 10, 2000, (1.5, 0.796, 2.2), "but at most 0.2 is allowed"),
        (100, 150, 50_000, (-0.1, -0.16, -0.04), ""),
        (0, 0, 1, (0.0, -92.4, 92.4), "may be up to 92"),
    ],
)
def test_drop_has_a_paired_interval(
    lost: int, won: int, count: int, interval: tuple[float, ...], refused: str
) -> None:
    exact, ours = np.ones(count, bool), np.ones(count, bool)
    ours[:lost], exact[lost : lost + won] = False, False
    drop = paired_drop(ours, exact)
    assert drop[:3] == pytest.approx(interval, abs=0.01) and drop.images == count
    refusal = drop.refusal(0.2)
    assert refused in refusal and bool(refused) == bool(refusal), refusal


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
        (("-o", "m.onnx", "--int8"), ("--data DIR",)),
        (("-o", "m.onnx", "--int8", "--data", ""), ("--data DIR",)),
        (("-o", "m.onnx", "--max-drop", "1"), ("--max-drop", "--int8")),
        (("-o", "m.onnx", "--data", "demo"), ("--int8",)),
        (("-o", "m.onnx", "--keep-float", "fc"), ("--int8",)),
        (("-o", "m.onnx", "--int8", "--data", "nowhere"), ("nowhere",)),
        (("-o", "m.onnx", "--int8", "--data", "demo", "--keep-float", "fc,conv9"), ("'conv9'", "stage2.0")),
        (("-o", "m.onnx", "--int8", "--data", "demo", "--max-drop", "-1"), ("--max-drop -1", "0 to 100")),
        (("-o", "m.onnx", "--int8", "--data", "demo", "--max-drop", "nan"), ("--max-drop nan",)),
        (("-o", "m.pt2", "--format", "torch", "--int8", "--data", "demo"), ("--format onnx",)),
    ],
)
def test_bad_request_writes_nothing(
    command: Command, weights: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    outcome = command("export", weights, *OPTIONS, *arguments)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert not list(tmp_path.iterdir())

"""``predict`` finds images, agrees with ``evaluate``, and continues a file that was broken off."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from shufflenet_fn.errors import UsageError
from shufflenet_fn.use.engines import choose_engine
from shufflenet_fn.use.predict import Predictor

Command = Callable[..., Any]
ENGINES = ("torch", "onnxruntime")


@pytest.fixture
def model(weights: Path) -> tuple[object, ...]:
    return (weights, "--arch", "x0_5", "--names", weights.with_name("names.txt"))


def rows_of(outcome: Any) -> list[dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_accuracy_equals_that_of_evaluate(
    command: Command, model: tuple[object, ...], image_folder: Path
) -> None:
    found = {}
    for engine in ENGINES:
        options = ("--format", "jsonl", "--engine", engine, "--top-k", 9)
        outcome = command("predict", *model, image_folder / "val", *options)
        found[engine] = rows_of(outcome)
        assert "10 images" in outcome.err and f"engine {engine}" in outcome.err
    assert [row["classes"] for row in found["torch"]] == [row["classes"] for row in found["onnxruntime"]]
    row = found["torch"][0]
    assert sorted(row["classes"]) == ["blue", "green", "red"]
    assert sum(row["probabilities"]) == pytest.approx(1)
    right = sum(row["correct"] for row in found["torch"])
    for engine in ENGINES:
        scored = command("evaluate", *model[:3], "--data", image_folder, "--engine", engine, "--json")
        # The file names no classes, so `evaluate` takes those of train/, which are the same.
        result = json.loads(scored.out)
        assert result["accuracy1"] == pytest.approx(100 * right / 10) and result["engine"] == engine


@pytest.mark.parametrize(
    ("package", "code", "said"),
    [
        ("onnx", None, "is not installed"),
        ("onnxruntime", None, "is not installed"),
        ("onnx", "import absent", "cannot be imported (ModuleNotFoundError: No module named 'absent'"),
        ("onnxruntime", "raise OSError('wrong ELF class')", "cannot be imported (OSError: wrong ELF class)"),
    ],
)
def test_engine_on_a_cpu_is_onnx_runtime_if_it_works(
    command: Command,
    model: tuple[object, ...],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    code: str | None,
    said: str,
) -> None:
    assert choose_engine("auto", "cpu")[0] == "onnxruntime"
    assert choose_engine("auto", "npu")[0] == choose_engine("torch", "cpu")[0] == "torch"
    (tmp_path / f"{package}.py").write_text(code or "")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package)
    if code is None:
        monkeypatch.setitem(sys.modules, package, None)
    arguments = ("predict", *model, image_folder / "val" / "red")
    outcome = command(*arguments)
    assert outcome.code == 0 and f"engine torch: {package} {said}" in outcome.err, outcome.err
    assert "pip install 'shufflenet-fn[export]'" in outcome.err
    outcome = command(*arguments, "--engine", "onnxruntime")
    assert outcome.code == 2 and f"needs {package}, which {said}" in outcome.err, outcome.err


@pytest.mark.parametrize("option", [("--precision", "bf16"), ("--backend", "reference")])
def test_evaluate_refuses_another_precision_in_onnx_runtime(
    option: tuple[str, str], command: Command, model: tuple[object, ...], image_folder: Path
) -> None:
    outcome = command("evaluate", *model[:3], "--data", image_folder, "--engine", "onnxruntime", *option)
    assert outcome.code == 2 and "--engine torch" in outcome.err


def test_sources_are_files_folders_patterns_and_lists(
    command: Command,
    model: tuple[object, ...],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    red = image_folder / "val" / "red"
    files = sorted(map(str, red.iterdir()))
    (tmp_path / "list.txt").write_text("\n".join(files) + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(files)))
    for sources in (files, [red], [f"{red}/*.jpg"], ["@list.txt"], ["-"], [red, red, *files]):
        outcome = command("predict", *model, *sources, "--format", "jsonl")
        assert [row["name"] for row in rows_of(outcome)] == files, sources


def test_resume_refuses_another_model(
    command: Command, model: tuple[object, ...], image_folder: Path, tmp_path: Path
) -> None:
    weights, *options = model
    red, both = image_folder / "val" / "red", image_folder / "val"
    tensors = safetensors.torch.load_file(str(weights))
    safetensors.torch.save_file(
        {**tensors, "fc.bias": tensors["fc.bias"].flip(0)}, tmp_path / "other.safetensors"
    )
    for kind in ("csv", "jsonl"):
        rest = (*options, "-o", f"rows.{kind}", "--resume")
        assert command("predict", weights, red, *rest, "--top-k", 2).code == 0
        before = (tmp_path / f"rows.{kind}").read_bytes()
        for other, top, words in (("other.safetensors", 2, "another model"), (weights, 3, "--top-k")):
            outcome = command("predict", other, both, *rest, "--top-k", top)
            assert outcome.code == 2 and words in outcome.err, outcome.err
            assert (tmp_path / f"rows.{kind}").read_bytes() == before
        again = command("predict", weights, both, *rest, "--top-k", 2, "--engine", "onnxruntime")
        assert again.code == 0 and "3 were there already" in again.err, again.err


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_resume_keeps_a_file_that_it_did_not_begin(
    kind: str, command: Command, model: tuple[object, ...], image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / f"notes.{kind}").write_text("important notes")
    outcome = command("predict", *model, image_folder / "val", "-o", f"notes.{kind}", "--resume")
    assert outcome.code == 2 and "no whole row" in outcome.err
    assert (tmp_path / f"notes.{kind}").read_text() == "important notes"


def test_packed_data_resumes_and_lacks_classes(
    command: Command, model: tuple[object, ...], image_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_folder, tmp_path / "own")
    for split in ("train", "val"):
        (tmp_path / "own" / split / "red").rename(tmp_path / "own" / split / "rose")
    assert command("data", "pack", "own", "packed").code == 0
    arguments = ("predict", *model, "packed", "-o", "rows.jsonl", "--resume")
    assert command(*arguments).code == 0
    whole = (tmp_path / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["correct"] is None for row in rows] == ["rose" in row["name"] for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(whole.splitlines(keepends=True)[:4]))
    assert "4 were there already" in command(*arguments).err
    assert (tmp_path / "rows.jsonl").read_text() == whole


def test_interrupted_command_says_how_to_go_on(
    command: Command, model: tuple[object, ...], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    arguments = ("predict", *model, image_folder / "val", "-o", "rows.csv")
    with monkeypatch.context() as patch:
        patch.setattr("shufflenet_fn.use.rows.Rows.write", interrupted)
        outcome = command(*arguments)
    assert outcome.code == 130 and "interrupted: go on with the same command and --resume" in outcome.err
    assert command(*arguments, "--resume").code == 0


def test_unreadable_images_are_counted_and_named(
    command: Command, model: tuple[object, ...], image_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(image_folder / "val" / "red", tmp_path / "photos"))
    (folder / "broken.jpg").write_bytes(b"no image")
    outcome = command("predict", *model, folder)
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 3
    assert "1 unreadable" in outcome.err and "broken.jpg" in outcome.err
    outcome = command("predict", *model, folder, "--on-bad-image", "stop")
    assert outcome.code == 1 and "broken.jpg" in outcome.err
    (tmp_path / "list.txt").write_text("gone.jpg\n\n")
    outcome = command("predict", *model, "@list.txt", folder / "broken.jpg")
    assert outcome.code == 1 and "none of the 2 images can be read: gone.jpg (No such file" in outcome.err


@pytest.mark.parametrize("kind", ["weights", "image"])
def test_number_of_threads_does_not_matter(
    command: Command, model: tuple[object, ...], image_folder: Path, kind: str
) -> None:
    if kind == "image":
        assert command("export", *model, "-o", "m.onnx", "--input", kind).code == 0
        model = ("m.onnx",)
    arguments = ("predict", *model, image_folder / "val", "--format", "jsonl")
    found = [
        rows_of(command(*arguments, "--workers", workers, "--batch-size", size))
        for workers, size in ((0, 64), (1, 1), (3, 64))
    ]
    for rows in found[1:]:
        assert [row["name"] for row in rows] == [row["name"] for row in found[0]]
        shares = [[row["probabilities"] for row in some] for some in (rows, found[0])]
        np.testing.assert_allclose(*shares, atol=1e-6)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_resume_writes_no_row_twice(
    command: Command, model: tuple[object, ...], image_folder: Path, tmp_path: Path, kind: str
) -> None:
    arguments = ("predict", *model, image_folder / "val", "--top-k", 2, "-o", f"rows.{kind}")
    assert command(*arguments).code == 0
    whole = (tmp_path / f"rows.{kind}").read_text()
    assert command(*arguments).code == 2  # it exists
    lines = whole.splitlines(keepends=True)
    (tmp_path / f"rows.{kind}").write_text("".join(lines[:4]) + lines[4][:7])
    outcome = command(*arguments, "--resume")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / f"rows.{kind}").read_text() == whole
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(whole)))
        assert len(rows) == 10 and {"path", "class1", "probability2", "correct"} < set(rows[0])
    assert "nothing to do" in command(*arguments, "--resume").err


@pytest.mark.parametrize("kind", ["image", "tensor"])
def test_exported_file_predicts_the_same(
    command: Command, model: tuple[object, ...], image_folder: Path, kind: str
) -> None:
    exported = command("export", *model, "-o", "m.onnx", "--input", kind, "--batch", 4)
    assert exported.code == 0, exported.err
    wanted, found = (
        rows_of(command("predict", *each, image_folder / "val", "--format", "jsonl"))
        for each in (model, ("m.onnx",))
    )
    assert [row["classes"] for row in found] == [row["classes"] for row in wanted]
    shares = [[row["probabilities"] for row in rows] for rows in (found, wanted)]
    np.testing.assert_allclose(*shares, atol=1e-4)


def test_exported_file_without_class_names_numbers_them(
    command: Command, weights: Path, image_folder: Path
) -> None:
    exported = command("export", weights, "-o", "m.onnx", "--arch", "x0_5", "--image-size", 32)
    assert exported.code == 0 and "name no classes" in exported.err
    rows = rows_of(command("predict", "m.onnx", image_folder / "val" / "red", "--format", "jsonl"))
    assert {name for row in rows for name in row["classes"]} <= {"0", "1", "2"}


def test_predictor_takes_paths_and_arrays(weights: Path, tmp_path: Path) -> None:
    predictor = Predictor.open(weights, arch="x0_5")
    # Of the crop's size, which is resized all the same.
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    by_path, by_array = predictor.predict([tmp_path / "x.png", pixels], top=3)
    assert by_path[1:] == by_array[1:]
    with pytest.raises(UsageError, match=r"uint8, \(height, width, 3\), but is float64"):
        predictor.predict([pixels / 255])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.jpg",), ("nowhere.jpg", "patterns")),
        (("@none.txt",), ("none.txt",)),
        ((".",), ("no image in",)),
        (("-",), ("no path in standard input",)),
        (("-", "--format", "xml"), ("xml", "table, csv, jsonl")),
        (("-", "--engine", "tensorrt"), ("tensorrt", "onnxruntime")),
        (("-", "--resume"), ("--resume", "-o")),
        (("-", "--engine", "openvino", "--device", "npu"), ("openvino computes on the CPU", "--device npu")),
        (("-", "-o", "nowhere/x.csv"), ("nowhere/x.csv", "no folder")),
        (("-", "-o", "."), ("is a folder",)),
        (("-", "--device", "tpu"), ("'tpu'", "cuda, npu")),
        (("-", "--on-bad-image", "ignore"), ("ignore", "skip, stop")),
    ],
)
def test_bad_request_is_one_message(
    command: Command,
    model: tuple[object, ...],
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    outcome = command("predict", *model, *arguments)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words), outcome.err

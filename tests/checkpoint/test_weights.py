"""Weights from files of every kind, and from files that are none."""

from __future__ import annotations

import argparse
import functools
import io
import os
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.serialization import get_safe_globals

from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.errors import UsageError
from shufflenet_fn.model.variables import init_classifier
from shufflenet_fn.run.build import load_pretrained
from tests.model.support import TINY, assert_trees_equal, generator, tiny_variables


def read_tensors(path: Path) -> dict[str, Tensor]:
    return read_weights(path).tensors


def weights() -> dict[str, Tensor]:
    return to_torchvision(tiny_variables(), TINY)


def original_checkpoint() -> dict[str, Any]:
    """What the original's ``save_checkpoint`` puts into its ``.pth.tar``."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": 240,
        "arch": "shufflenet_v2_x1_0",
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in weights().items()),
        "best_acc1": torch.tensor(69.4),
        "optimizer": optimizer.state_dict(),
    }


BESIDE: tuple[Any, ...] = (
    argparse.Namespace(lr=0.1, path=Path("data")),
    *(np.float64(71.2), np.int64(3), np.ones(2), np.random.get_state()),
    *(datetime.now(timezone.utc), timedelta(1), Decimal("0.1"), frozenset({1}), range(3), 3j),
    *(defaultdict(list, {"a": [1]}), deque([1.0], 5), types.SimpleNamespace(a=1)),
    *(torch.Size([1]), torch.device("cpu"), torch.float16, torch.__version__, b"bytes"),
)


def averaged(prefix: str = "") -> dict[str, Tensor]:
    """What an ``AveragedModel`` of other weights gives."""
    other = to_torchvision(tiny_variables(1), TINY)
    return {f"{prefix}n_averaged": torch.tensor(5)} | named(f"{prefix}module.", other)


def named(prefix: str, tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in (tensors or weights()).items()}


def with_head(*names: str) -> dict[str, Tensor]:
    """The weights with another classifier under these names."""
    tensors = {key: value for key, value in weights().items() if not key.startswith("fc.")}
    return tensors | dict(zip(names, (weights()["fc.weight"], weights()["fc.bias"]), strict=True))


CONTENTS: dict[str, Any] = {
    "plain": weights,
    "ordered": lambda: OrderedDict(weights()),
    "original": original_checkpoint,
    **{
        prefix: lambda prefix=prefix: named(prefix)
        for prefix in (
            *("module.", "_orig_mod.", "module._orig_mod.", "module.module.", "model.", "net."),
            *("backbone.", "encoder.", "_model.", "any_other.name."),
        )
    },
    **{
        key: lambda key=key: {key: weights(), "epoch": 3, "optimizer": {"param_groups": []}}
        for key in ("model", "model_ema", "model_state_dict", "net", "network", "weights", "params")
    },
    "nested": lambda: {"trainer": {"model": named("module.")}, "best_acc1": torch.ones(())},
    "flat": lambda: {**weights(), "epoch": 3},
    "lightning": lambda: {"state_dict": named("model.") | {"criterion.weight": torch.ones(5)}},
    "compiled layers": lambda: {
        re.sub(r"(stage\d\.\d\.)", r"\1_orig_mod.", key): value for key, value in weights().items()
    },
    "averaged": lambda: {n: t for n, t in averaged().items() if n == "n_averaged"} | named("module."),
    "beside": lambda: {"model": weights(), "args": BESIDE},
    "dropout": lambda: with_head("fc.1.weight", "fc.1.bias"),
    "sequential": lambda: with_head("classifier.1.weight", "classifier.1.bias"),
    "head": lambda: with_head("head.fc.weight", "head.fc.bias"),
    "outside": lambda: {
        key if key.startswith("head") else f"backbone.{key}": value
        for key, value in with_head("head.weight", "head.bias").items()
    },
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save(tmp_path: Path, kind: str, zipped: bool) -> None:
    file = tmp_path / ("w.pth.tar" if zipped else "w.safetensors")  # what it is decides, not its name
    torch.save(CONTENTS[kind](), file, _use_new_zipfile_serialization=zipped)
    assert_trees_equal(from_torchvision(read_tensors(file), TINY), tiny_variables())
    assert not any("argparse.Namespace" in item for item in map(str, get_safe_globals()))


def test_tensors_that_an_old_torch_npu_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torch_npu.utils.storage")
    for name in ("torch_npu", "torch_npu.utils", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)

    def _rebuild_npu_tensor() -> None: ...

    _rebuild_npu_tensor.__module__ = module.__name__
    _rebuild_npu_tensor.__qualname__ = "_rebuild_npu_tensor"
    module.__dict__["_rebuild_npu_tensor"] = _rebuild_npu_tensor

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> tuple[Any, ...]:
            storage = torch.storage.TypedStorage(
                wrap_storage=self.tensor.untyped_storage(), dtype=torch.float32, _internal=True
            )
            shape, stride = self.tensor.shape, self.tensor.stride()
            return _rebuild_npu_tensor, (storage, 0, tuple(shape), stride, False, OrderedDict(), 2)

    floats = {key: Saved(t) for key, t in weights().items() if t.is_floating_point()}
    torch.save({"state_dict": floats}, tmp_path / "w.pth")
    read = read_tensors(tmp_path / "w.pth")
    assert_trees_equal(from_torchvision(read, TINY), tiny_variables())


@pytest.mark.parametrize(
    ("content", "taken", "left"),
    [
        (lambda: {"model": weights(), "model_ema": averaged()}, "model_ema.module", "model"),
        (
            lambda: {"state_dict_ema": named("", averaged("x.")), "state_dict": weights()},
            "state_dict_ema.x.module",
            "state_dict",
        ),
        (lambda: {"net": {"raw": weights(), "ema": named("y.", averaged())}}, "net.ema.y", "net.raw"),
        (
            lambda: {"state_dict": named("model.") | averaged("ema_model.")},
            "state_dict.ema_model.module",
            "state_dict.model",
        ),
    ],
)
def test_average_is_taken_and_named(tmp_path: Path, content: Any, taken: str, left: str) -> None:
    torch.save(content(), tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert_trees_equal(from_torchvision(read.tensors, TINY), tiny_variables(1))
    (note,) = read.notes
    assert f"averaged weights ({taken}" in note and f"are taken, not {left}" in note


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "there is no classifier in"),
        (("fc.0.weight", "fc.3.weight"), "is of another form (fc.0.weight, fc.3.weight)"),
        (("fc.weight", "fc.bias"), "has 5 classes"),
    ],
)
def test_classifier_that_does_not_fit_is_fresh(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    content = with_head(*names) if names else named("model.", with_head("fc.weight", "fc.bias"))
    torch.save({k: v for k, v in content.items() if names or ".fc." not in k}, tmp_path / "w.pth")
    config = replace(TINY, num_classes=7)
    variables, notes = load_pretrained(tmp_path / "w.pth", config, generator())
    assert said in notes[-1] and "fresh one of 7" in notes[-1]
    assert torch.equal(variables.params["fc"]["weight"], init_classifier(config, generator())["weight"])
    assert torch.equal(variables.params["conv1"]["conv"]["weight"], weights()["conv1.0.weight"])


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": list("ebcda")},
        {"class_names": tuple("ebcda")},
        {"class_to_idx": {name: index for index, name in enumerate("ebcda")}},
        {"names": dict(enumerate("ebcda")), "classes": 5},
    ],
)
def test_class_names_in_a_file(tmp_path: Path, beside: dict[str, Any]) -> None:
    torch.save({"state_dict": weights(), **beside}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").classes == tuple("ebcda")
    torch.save({"state_dict": with_head("fc.0.weight", "fc.1.weight"), **beside}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").classes is None


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "none", "."])
def test_missing_weights_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"no weights at {tmp_path / name}"):
        read_tensors(tmp_path / name)


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"0")
    return content.getvalue()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"hello, I am no weights\n", "damaged"),
        (b"\x80\x02", "damaged"),
        (bytes(1000), "damaged"),
        (b"PK\x03\x04", "cut short or damaged (4 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\r\n<!DOCTYPE html><html>404</html>", "web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "web page"),
        (b'{"weight_map": {}}', "JSON"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (zipped("fc.weight.npy"), "NumPy"),
        (b"\x1f\x8b\x08" + bytes(100), "Unpack it"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "Unpack it"),
        (zipped("w.pth", "readme.txt"), "Unpack it"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x05" + bytes(100), "ONNX"),
        (zipped("w/constants.pkl", "w/data.pkl", "w/code/net.py"), "TorchScript"),
        (zipped("w/archive_format", "w/models/model.json"), "torch.export"),
        (pickle.dumps({"fc.weight": [1.0]}, protocol=4), "written by pickle"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"cannot read weights from {file}") as error:
        read_tensors(file)
    assert said in str(error.value) or (said == "damaged" and name.endswith("safetensors"))


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_a_truncated_file_is_refused(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    file = tmp_path / "weights"
    save(weights(), file)
    content = file.read_bytes()
    for length in (1, 7, 8, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UsageError, match="cannot read weights"):
            read_tensors(file)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_file_gives_weights_or_usage_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    small = {"state_dict": {"fc.bias": torch.ones(3)}, "epoch": 3}
    file = folder / "damaged.pth"
    torch.save(small, file, _use_new_zipfile_serialization=data.draw(st.booleans()))
    content = bytearray(data.draw(st.one_of(st.just(file.read_bytes()), st.binary(min_size=1, max_size=40))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        state_dict = read_tensors(file)
    except UsageError as error:
        assert str(file) in str(error)
    else:
        assert all(isinstance(value, Tensor) for value in state_dict.values())


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_pickle_with_code_is_refused_and_named(tmp_path: Path, form: str) -> None:
    target, file = tmp_path / "was-run", tmp_path / "w.pth.tar"
    bomb = {"state_dict": {**weights(), "fc.bias": Bomb(target)}}
    cases: dict[str, Any] = {"posix.mkdir beside tensors": bomb}
    if form == "pickle":
        cases = {"written by pickle": {"state_dict": Bomb(target)}}
    else:
        cases["a whole pickled model"] = torch.nn.Sequential(torch.nn.Linear(2, 2))
        cases["torch.nn.functional.relu"] = {"model": weights(), "norm": torch.nn.functional.relu}
        cases["functools.partial"] = {"model": weights(), "f": functools.partial(int)}
    for said, content in cases.items():
        if form == "pickle":
            file.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
        with pytest.raises(UsageError, match=said) as error:
            read_tensors(file)
        message = str(error.value)
        assert "torch.save(model.state_dict()" in message
        assert form == "pickle" or "could run code and is not loaded" in message
        # torch's own message advises to switch the check off.
        assert "weights_only" not in message and not target.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(1)], "holds no state_dict"),
        (torch.ones(3), "holds no state_dict"),
        ({"epoch": 3, "best_acc1": torch.tensor(3.0)}, "holds no state_dict"),
        ({"state_dict": [1]}, "holds no state_dict"),
        ({"state_dict": {"fc.bias": 3}}, "holds no state_dict"),
        ({"optimizer": {"state": {0: {"a": torch.ones(3)}}, "param_groups": []}}, "only the state of"),
        ({"student": weights(), "teacher": weights()}, "2 networks: student, teacher"),
        (named("a.") | named("b."), "2 networks: a, b"),
        ({**weights(), "fc.bias": torch.full((5,), torch.nan)}, "finite (NaN or infinite): fc.bias (5 of 5"),
        ({**weights(), "fc.bias": torch.ones(5).to_sparse()}, "fc.bias as a sparse"),
        ({**weights(), "fc.bias": torch.ones(5, device="meta")}, "fc.bias as a sparse"),
    ],
)
def test_a_file_without_usable_weights_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        read_tensors(tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in str(error.value)

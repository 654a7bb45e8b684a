"""Weights from files of every kind, and from files that are none."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shufflenet_fn.checkpoint.format import EMA, MANIFEST, WEIGHTS
from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.checkpoint.weights import read_state_dict
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.errors import UsageError, UserError
from shufflenet_fn.training import schedules
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import create_train_state
from tests.checkpoint.support import flip
from tests.model.support import TINY, assert_trees_equal, tiny_variables


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


CONTENTS: dict[str, Any] = {
    "plain": weights,
    "ordered": lambda: OrderedDict(weights()),
    "state_dict": original_checkpoint,
    "model": lambda: {"model": weights(), "args": {"lr": 0.1}},
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.pth.tar", "w"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save(tmp_path: Path, kind: str, name: str, zipped: bool) -> None:
    file = tmp_path / name
    torch.save(CONTENTS[kind](), file, _use_new_zipfile_serialization=zipped)
    assert_trees_equal(from_torchvision(read_state_dict(file), TINY), tiny_variables())


def test_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(weights(), tmp_path / "w.safetensors")
    back = read_state_dict(tmp_path / "w.safetensors")
    assert_trees_equal(from_torchvision(back, TINY), tiny_variables())


def test_a_checkpoint_folder_gives_its_average_if_it_has_one(tmp_path: Path) -> None:
    optimizer = sgd(schedules.constant(0.1))
    state = create_train_state(tiny_variables(0), optimizer, ema=True)
    averaged = save_checkpoint(
        tmp_path, TINY, state._replace(ema=tiny_variables(1)), {"arch": "tiny"}
    )
    assert_trees_equal(from_torchvision(read_state_dict(averaged), TINY), tiny_variables(1))
    plain = save_checkpoint(tmp_path / "plain", TINY, state._replace(ema=()), {})
    assert_trees_equal(from_torchvision(read_state_dict(plain), TINY), tiny_variables(0))
    (averaged / EMA).unlink()
    with pytest.raises(UserError, match=EMA):
        read_state_dict(averaged)
    (averaged / MANIFEST).unlink()  # weights that somebody copied out of one
    assert_trees_equal(from_torchvision(read_state_dict(averaged), TINY), tiny_variables(0))


def test_a_run_whose_pointers_are_gone_gives_its_newest_good_one(tmp_path: Path) -> None:
    state = create_train_state(tiny_variables(0), sgd(schedules.constant(0.1)))
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, TINY, state, {})
    newer = save_checkpoint(folder, TINY, state._replace(step=torch.tensor(1)), {})
    flip(newer / WEIGHTS)
    assert_trees_equal(from_torchvision(read_state_dict(tmp_path), TINY), tiny_variables(0))


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "none"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no weights at") as error:
        read_state_dict(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights at"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"hello, I am no weights\n", b"\x80\x02", b"PK\x03\x04", bytes(1000)]
)
def test_garbage_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UsageError, match="cannot read weights") as error:
        read_state_dict(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name.endswith(".pth"):
        torch.save(weights(), file)
    else:
        safetensors.torch.save_file(weights(), file)
    content = file.read_bytes()
    for length in (1, 7, 8, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UsageError, match="cannot read weights"):
            read_state_dict(file)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_damage_gives_anything_but_weights_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Unpicklers answer garbage with IndexError, struct.error, AssertionError and more."""
    folder = tmp_path_factory.getbasetemp()
    small = {"state_dict": {"fc.bias": torch.ones(3)}, "epoch": 3}
    zipped = data.draw(st.booleans())
    file = folder / "damaged.pth"
    torch.save(small, file, _use_new_zipfile_serialization=zipped)
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        content = bytearray(data.draw(st.binary(max_size=40)))
    for _ in range(data.draw(st.integers(1, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        state_dict = read_state_dict(file)
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
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    target, file = tmp_path / "was-run", tmp_path / "w.pth.tar"
    content = {"state_dict": {**weights(), "fc.bias": Bomb(target)}}
    if form == "pickle":
        file.write_bytes(pickle.dumps({"state_dict": Bomb(target)}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UsageError, match="could run code") as error:
        read_state_dict(file)
    assert not target.exists()
    # torch's own message advises to switch the check off.
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(1)],
        torch.ones(3),
        {"epoch": 3},
        {"state_dict": [1]},
        {"state_dict": {"fc.bias": 3}},
    ],
    ids=["list", "tensor", "no weights", "not nested", "not tensors"],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="holds no state_dict"):
        read_state_dict(tmp_path / "w.pth")

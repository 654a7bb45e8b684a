"""Overflow flags of devices that saturate."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn.training import schedules
from shufflenet_fn.training.loss_scale import LossScale, LossScaling
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, Reducible, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map
from shufflenet_fn_backends.runtimes.base import Overflow
from tests.model.support import TINY, examples, tiny_variables


class Register:
    """A float status register: set by whoever overflows, cleared and read by the step."""

    def __init__(self) -> None:
        self.flag, self.read = 0.0, 0

    def overflow_flag(self) -> Overflow:
        return Overflow(clear=self._clear, raised=self._raised)

    def _clear(self) -> None:
        self.flag = 0.0

    def _raised(self) -> torch.Tensor:
        self.read += 1
        return torch.tensor(self.flag)


def step_with(register: Register, scaling: LossScaling, *, overflows: bool, ranks: int = 1):
    """One step whose images overflow on the way if told to; of ``ranks``, only this one sees it."""
    optimizer = sgd(schedules.constant(0.1))

    def prepare(images: torch.Tensor) -> torch.Tensor:
        if overflows:
            register.flag = 1.0
        return images

    def reduce(tree: Reducible) -> Reducible:
        shares = tree._replace(flags=tree_map(lambda leaf: leaf / ranks, tree.flags))
        return shares

    step = make_train_step(
        TINY,
        optimizer,
        loss_scaling=scaling,
        microbatches=2,
        prepare=prepare,
        reduce=reduce,
        overflow=register.overflow_flag(),
    )
    state = create_train_state(tiny_variables(), optimizer, loss_scaling=scaling)
    new, _, flags = step(state, Examples(*examples(8)), no_flags())
    return state, new, flags


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("ranks", [1, 8])
def test_a_step_that_raised_the_flag_is_skipped(kind: str, ranks: int) -> None:
    scaling = LossScaling(kind, initial=64.0)
    state, new, flags = step_with(Register(), scaling, overflows=True, ranks=ranks)
    assert flags.skipped == 1
    assert int(new.step) == 1
    for before, after in zip(tree_leaves(state.params), tree_leaves(new.params), strict=True):
        assert torch.equal(before, after)
    assert isinstance(new.loss_scale, LossScale)
    assert new.loss_scale.scale == (32.0 if kind == "dynamic" else 64.0)


def test_overflow_flag_from_before_the_step_is_ignored() -> None:
    register = Register()
    register.flag = 1.0  # an evaluation that overflowed
    state, new, flags = step_with(register, LossScaling("dynamic", initial=64.0), overflows=False)
    assert flags.skipped == 0
    assert not torch.equal(state.params["fc"]["weight"], new.params["fc"]["weight"])


def test_without_a_scale_the_flag_is_not_read() -> None:
    register = Register()
    state, new, _ = step_with(register, LossScaling(), overflows=True)
    assert register.read == 0
    assert not torch.equal(state.params["fc"]["weight"], new.params["fc"]["weight"])

"""Parts of the network that are not trained."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.config.derived import check_values
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.errors import UsageError
from shufflenet_fn.model.channel_order import in_order_of, to_canonical
from shufflenet_fn.training.decay import of_classifier
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.gradients import grads_by_engine, grads_by_func
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import adamw, scaled_rate, sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, Reducible, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_paths
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import (
    TINY,
    assert_trees_close,
    assert_trees_equal,
    examples,
    tiny_variables,
    unchanged,
)

BODY = ("conv1", "stage2", "stage3", "stage4", "conv5")
SGD = sgd(constant(0.1), momentum=0.9, weight_decay=0.1)
ADAMW = adamw(constant(0.01), weight_decay=0.1)


def trained(
    frozen: tuple[str, ...],
    backend: str = "reference",
    *,
    flat: bool = False,
    images: int = 6,
    optimizer: Any = SGD,
    scaling: LossScaling | None = None,
    **options: Any,
) -> TrainState:
    """The plain canonical state after three steps."""
    optimizer = scaled_rate(optimizer, 3.0, of_classifier)
    state = create_train_state(tiny_variables(), optimizer, loss_scaling=scaling, ema=True, frozen=frozen)
    state, computing = in_order_of(TINY, state, get_backend(backend))
    step = make_train_step(
        TINY, optimizer, backend=computing, loss_scaling=scaling, ema_decay=0.9, frozen=frozen, **options
    )
    state = flatten_state(state, frozen) if flat else state
    with unchanged(state):
        new = state
        for seed in range(3):
            new, _, _ = step(new, Examples(*examples(images, seed=seed)), no_flags())
    new = unflatten_state(new)
    return to_canonical(TINY, new) if computing is not get_backend(backend) else new


@pytest.mark.parametrize("frozen", [("conv1", "stage2"), BODY, ("stage3", "conv5"), ()], ids=len)
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("reference", {"microbatches": 3, "optimizer": ADAMW}),
        ("native", {"gradients": grads_by_engine, "policy": get_policy("bf16"), "flat": True}),
        ("gather", {"skip_bad": True}),
        ("routed", {"flat": True, "stats_in_kernel": True, "gradients": grads_by_engine}),
        ("cpu", {"gradients": grads_by_engine, "optimizer": ADAMW}),
        (
            "routed",
            {"scaling": LossScaling("dynamic", initial=64.0), "policy": get_policy("O2"), "flat": True},
        ),
        (
            "reference",
            {"gradients": grads_by_engine, "compiler": partial(torch.compile, backend="aot_eager")},
        ),
    ],
)
def test_frozen_parts_stay_and_others_change(
    frozen: tuple[str, ...], backend: str, options: dict[str, Any]
) -> None:
    before, after = tiny_variables(), trained(frozen, backend, **options)
    for variables in (after.variables, after.ema):
        for tree, old in zip(variables, before, strict=True):
            for name in tree:
                pairs = zip(tree_leaves(tree[name]), tree_leaves(old[name]), strict=True)
                same = [torch.equal(new, leaf) for new, leaf in pairs]
                assert all(same) if name in frozen else not any(same), name
    owned = {part for path, _ in tree_paths(after.opt_state) for part in path.split(".") if part in BODY}
    assert owned == set(BODY) - set(frozen)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "O2"])
@pytest.mark.parametrize("frozen", [("conv1", "stage3"), BODY], ids=len)
def test_flat_state_computes_the_same_bits(frozen: tuple[str, ...], precision: str, optimizer: Any) -> None:
    scaling = LossScaling("static", initial=64.0) if precision == "O2" else None
    options: dict[str, Any] = {"policy": get_policy(precision), "scaling": scaling, "microbatches": 2}
    plain, flat = (trained(frozen, optimizer=optimizer, flat=flat, **options) for flat in (False, True))
    assert_trees_equal(flat, plain)
    assert_trees_equal(trained(frozen, optimizer=optimizer, gradients=grads_by_engine, **options), plain)


@pytest.mark.parametrize("backend", ["native", "gather", "routed", "cpu"])
def test_backends_agree(backend: str) -> None:
    ours, wanted = (
        trained(("conv1", "stage3"), name, gradients=grads_by_func) for name in (backend, "reference")
    )
    assert_trees_close(ours.variables, wanted.variables, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["reference", "routed", "cpu"])
def test_frozen_prefix_saves_no_activations(backend: str) -> None:
    sides: list[int] = []

    def pack(x: Tensor) -> Tensor:
        sides.extend(x.shape[2:] if x.ndim == 4 and x.shape[0] == 6 else ())
        return x

    for frozen, largest in (((), 16), (("conv1", "stage2"), 4), (BODY, 0)):
        sides.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            trained(frozen, backend, gradients=grads_by_engine)
        assert max(sides, default=0) in (largest, 2 * largest)


@pytest.mark.parametrize("flat", [False, True])
def test_skipped_step_changes_nothing(flat: bool) -> None:
    scaling = LossScaling("dynamic", initial=1e38)
    state = trained(("conv1",), optimizer=ADAMW, flat=flat, scaling=scaling, policy=get_policy("O2"))
    assert_trees_equal(state.variables, tiny_variables())
    assert state.step == 3 and state.opt_state.updates == 0


def test_single_image_trains_if_all_norms_are_frozen() -> None:
    parts = ",".join(BODY)
    check_values(1, TrainSettings(image_size=32, batch_size=1, freeze=parts))
    trained(BODY, images=1)
    with pytest.raises(UsageError, match="1 image per microbatch"):
        check_values(1, TrainSettings(image_size=32, batch_size=1, freeze=parts.removesuffix(",conv5")))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        trained(BODY[:-1], images=1)


def test_reduction_gets_the_trainable_part_only() -> None:
    seen: list[Reducible] = []
    trained(BODY[:3], reduce=lambda tree: seen.append(tree) or tree)
    assert set(seen[0].grads) == {"stage4", "conv5", "fc"} and set(seen[0].batch_stats) == {"stage4", "conv5"}


def test_frozen_parts_that_do_not_fit() -> None:
    for name in ("fc", "stage5"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be frozen: choose among conv1, stage2"):
            create_train_state(tiny_variables(), SGD, frozen=(name,))
    state = flatten_state(create_train_state(tiny_variables(), SGD, frozen=("conv1",)), ("conv1",))
    with pytest.raises(ValueError, match="flattened with other parts frozen"):
        make_train_step(TINY, SGD)(state, Examples(*examples(4)), no_flags())

"""Optimizers compared with torch's, on random trees in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.training import schedules
from shufflenet_fn.training.decay import DecayFilter, decay_weights, of_classifier
from shufflenet_fn.training.optim import (
    GradientTransformation,
    SGDState,
    adamw,
    apply_updates,
    chain,
    clip_by_global_norm,
    scaled_rate,
    sgd,
)
from shufflenet_fn.tree import global_norm, tree_leaves, tree_map, tree_paths
from tests.model.support import (
    assert_close_to_scale,
    assert_trees_close,
    assert_trees_equal,
    generator,
    unchanged,
)

DOUBLE = torch.float64
RATE = 0.125  # exact in float32, which rates are computed in


def random_tree(seed: int, *, dtype: torch.dtype = DOUBLE) -> dict[str, Any]:
    rng = generator(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=DOUBLE).to(dtype)

    return {
        "stem": {"conv": {"weight": leaf(4, 3, 3, 3)}, "bn": {"weight": leaf(4), "bias": leaf(4)}},
        "fc": {"weight": leaf(5, 4), "bias": leaf(5)},
    }


def run(optimizer: GradientTransformation, params: Any, grads: list[Any]) -> tuple[Any, Any]:
    """Parameters and state after one update with each of ``grads``."""
    state = optimizer.init(params)
    for number, grad in enumerate(grads):
        updates, state = optimizer.update(grad, state, params, torch.tensor(number))
        params = apply_updates(params, updates)
    return params, state


def run_torch(
    params: Any, grads: list[Any], groups: Any, rule: Any = torch.optim.SGD, head: float = 1.0, **options: Any
) -> Any:
    """The same with torch's ``rule``; ``groups(path, leaf)`` gives a leaf's weight decay.

    ``head``: factor of the classifier's rate.
    """
    owned = tree_map(lambda leaf: leaf.clone().requires_grad_(), params)
    optimizer = rule(
        [
            {
                "params": [leaf],
                "weight_decay": groups(path, leaf),
                "lr": options["lr"] * (head if path.startswith("fc") else 1.0),
            }
            for path, leaf in tree_paths(owned)
        ],
        **options,
    )
    for grad in grads:
        for leaf, value in zip(tree_leaves(owned), tree_leaves(grad), strict=True):
            leaf.grad = value.clone()
        optimizer.step()
    return tree_map(lambda leaf: leaf.detach(), owned)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.04])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs(momentum: float, weight_decay: float, nesterov: bool) -> None:
    nesterov = nesterov and momentum > 0
    params, grads = random_tree(0), [random_tree(seed) for seed in range(1, 9)]
    optimizer = sgd(schedules.constant(RATE), momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    ours, _ = run(optimizer, params, grads)
    theirs = run_torch(
        params, grads, lambda path, leaf: weight_decay, lr=RATE, momentum=momentum, nesterov=nesterov
    )
    assert_trees_close(ours, theirs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.25])
def test_fifty_steps_of_adamw_are_torchs(
    dtype: torch.dtype, betas: tuple[float, float], weight_decay: float
) -> None:
    params, *grads = (random_tree(seed, dtype=dtype) for seed in range(51))
    options: dict[str, Any] = {"betas": betas, "eps": 1e-3}
    rule = adamw(schedules.constant(RATE / 16), weight_decay=weight_decay, decay=decay_weights, **options)
    for number in (1, 2, 50):
        ours, state = run(scaled_rate(rule, 4.0, of_classifier), params, grads[:number])
        theirs = run_torch(
            params,
            grads[:number],
            lambda path, leaf: weight_decay * (leaf.ndim > 1),
            rule=torch.optim.AdamW,
            head=4.0,
            lr=RATE / 16,
            **options,
        )
        assert_close_to_scale(ours, theirs, 1e-13 if dtype == DOUBLE else 3e-7 * number**0.5)
        assert state.updates == number


@pytest.mark.parametrize(
    "decay",
    [decay_weights, lambda path, leaf: path == "fc.bias", lambda path, leaf: False],
    ids=["weights", "by path", "none"],
)
def test_decay_filter_equals_parameter_groups(decay: DecayFilter) -> None:
    params, grads = random_tree(0), [random_tree(seed) for seed in range(1, 6)]
    rule = sgd(schedules.constant(RATE), momentum=0.9, weight_decay=0.5, decay=decay)
    ours, _ = run(rule, params, grads)
    theirs = run_torch(params, grads, lambda path, leaf: 0.5 * decay(path, leaf), lr=RATE, momentum=0.9)
    assert_trees_close(ours, theirs, rtol=1e-13, atol=1e-14)


def test_the_rate_follows_the_step() -> None:
    params, grads = random_tree(0), [random_tree(1), random_tree(2)]
    schedule = schedules.linear(0.5, total_steps=4)
    ours, _ = run(sgd(schedule), params, grads)
    expected = tree_map(lambda p, a, b: p - 0.5 * a - 0.375 * b, params, *grads)
    assert_trees_close(ours, expected, rtol=1e-13, atol=1e-14)


def test_plain_sgd_keeps_no_velocity() -> None:
    assert sgd(schedules.constant(RATE)).init(random_tree(0)) == SGDState(())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_updates_and_state_keep_the_parameters_dtype(dtype: torch.dtype) -> None:
    params, grads = random_tree(0, dtype=dtype), random_tree(1, dtype=dtype)
    rule = chain(
        clip_by_global_norm(1.0), sgd(schedules.constant(RATE), momentum=0.9, nesterov=True, weight_decay=0.1)
    )
    new, state = run(rule, params, [grads])
    assert {leaf.dtype for leaf in tree_leaves((new, state))} == {dtype}
    # Squares of small gradients would be zero in float16, and the update infinite.
    tiny = tree_map(lambda leaf: leaf * 1e-4, grads)
    new, state = run(adamw(schedules.constant(RATE), weight_decay=0.1), params, [tiny])
    assert {leaf.dtype for leaf in tree_leaves(new)} == {dtype}
    assert {leaf.dtype for leaf in tree_leaves(state)} == {torch.promote_types(dtype, torch.float32)}
    assert all(leaf.isfinite().all() for leaf in tree_leaves(new))


def test_no_argument_is_written_to() -> None:
    params, grads = random_tree(0), random_tree(1)
    rule = chain(
        clip_by_global_norm(0.1), sgd(schedules.constant(RATE), momentum=0.9, nesterov=True, weight_decay=0.1)
    )
    _, state = run(rule, params, [grads])
    step = torch.tensor(3)
    with unchanged(params, grads, state, step):
        updates, new_state = rule.update(grads, state, params, step)
        apply_updates(params, updates)
    old = {leaf.data_ptr() for leaf in tree_leaves((params, grads, state))}
    assert not old & {leaf.data_ptr() for leaf in tree_leaves((updates, new_state))}


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 5.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipping_is_torchs(max_norm: float, dtype: torch.dtype) -> None:
    grads = random_tree(1, dtype=dtype)
    owned = [torch.nn.Parameter(torch.zeros_like(leaf)) for leaf in tree_leaves(grads)]
    for leaf, value in zip(owned, tree_leaves(grads), strict=True):
        leaf.grad = value.clone()
    torch.nn.utils.clip_grad_norm_(owned, max_norm)

    clipped, state = clip_by_global_norm(max_norm).update(grads, (), grads, torch.tensor(0))

    assert state == ()
    rtol = 1e-13 if dtype == DOUBLE else 1e-6
    for leaf, parameter in zip(tree_leaves(clipped), owned, strict=True):
        torch.testing.assert_close(leaf, parameter.grad, rtol=rtol, atol=0.0)
    assert global_norm(clipped) <= max_norm * (1 + 1e-6)


def test_clipping_scales_only_above_the_bound() -> None:
    clip, grads = clip_by_global_norm(1.0), random_tree(1)
    assert global_norm(grads) > 2
    once, _ = clip.update(grads, (), grads, torch.tensor(0))
    assert 1 - 1e-5 < global_norm(once) <= 1.0
    twice, _ = clip.update(once, (), grads, torch.tensor(0))
    # Nothing but torch's 1e-6 in the denominator.
    assert_trees_close(twice, once, rtol=2e-6, atol=0.0)
    below, _ = clip_by_global_norm(1e3).update(grads, (), grads, torch.tensor(0))
    assert_trees_equal(below, grads)


def test_chain_feeds_one_into_the_next() -> None:
    params, grads = random_tree(0), [random_tree(1), random_tree(2)]
    clip, rule = clip_by_global_norm(1.0), sgd(schedules.constant(RATE), momentum=0.9)
    clipped = [clip.update(grad, (), params, torch.tensor(0))[0] for grad in grads]
    expected, inner = run(rule, params, clipped)
    chained, state = run(chain(clip, rule), params, grads)
    assert_trees_equal(chained, expected)
    assert state[0] == ()
    assert_trees_equal(state[1], inner)
    # In the other order the update and not the gradient is bounded.
    other, _ = run(chain(rule, clip), params, grads)
    assert not torch.equal(other["fc"]["bias"], expected["fc"]["bias"])
    assert chain().update(grads[0], (), params, torch.tensor(0)) == (grads[0], ())


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (sgd, {"momentum": 1.0}, "momentum must lie in"),
        (sgd, {"momentum": -0.1}, "momentum must lie in"),
        (sgd, {"momentum": float("nan")}, "momentum must lie in"),
        (sgd, {"nesterov": True}, "nesterov needs a momentum"),
        (sgd, {"weight_decay": -1e-4}, "weight_decay must not be negative"),
        (sgd, {"weight_decay": float("nan")}, "weight_decay must not be negative"),
        (adamw, {"betas": (0.9, 1.0)}, "betas must lie in"),
        (adamw, {"eps": 0.0}, "eps must be positive"),
        (adamw, {"weight_decay": -1.0}, "weight_decay must not be negative"),
    ],
)
def test_values_out_of_range(rule: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(schedules.constant(0.1), **options)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_a_bound_must_be_positive(max_norm: float) -> None:
    with pytest.raises(ValueError, match="max_norm must be positive"):
        clip_by_global_norm(max_norm)


# ---- updates are rounded as in torch.optim.SGD: equal gradients give equal bits ----


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_gives_the_bits_of_torchs(momentum: float, nesterov: bool) -> None:
    # A rate that is not a power of two, so that its product with a gradient has to be rounded. torch gets
    # the float32 value, which is what a rate on the device is.
    rate, rng = torch.tensor(0.0031).item(), generator()
    params, *grads = ({"w": torch.randn(100_003, generator=rng)} for _ in range(4))
    optimizer = sgd(schedules.constant(rate), momentum=momentum, nesterov=nesterov, weight_decay=5e-4)
    for steps in (1, 2, 3):
        ours, _ = run(optimizer, params, grads[:steps])
        theirs = run_torch(
            params, grads[:steps], lambda path, leaf: 5e-4, lr=rate, momentum=momentum, nesterov=nesterov
        )
        assert_trees_equal(ours, theirs)

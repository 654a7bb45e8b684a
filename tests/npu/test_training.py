"""Training on ``npu:0``: precisions and loss scales, an overflow, checkpoints that change device."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ascend_emulator.pytest_plugin import OnEmulator
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.loss_scale import LossScale, LossScaling
from shufflenet_fn.training.optim import GradientTransformation, adamw, sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, Metrics, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_to
from shufflenet_fn_backends.registry import get_backend
from tests.checkpoint.support import load_state
from tests.model.support import TINY, assert_trees_equal, examples, tiny_variables

CPU = torch.device("cpu")
BATCH = examples(8)


@pytest.fixture
def device(npu: ModuleType) -> torch.device:
    npu.set_device(0)
    return torch.device("npu", 0)


def optimizer() -> GradientTransformation:
    return sgd(constant(0.05), momentum=0.9, weight_decay=1e-4)


def start(device: torch.device, scaling: LossScaling) -> TrainState:
    variables: Variables = tree_to(tiny_variables(), device)
    return create_train_state(variables, optimizer(), loss_scaling=scaling)


def trained(
    device: torch.device, precision: str, kind: str, backend: str, *, flat: bool, steps: int = 3
) -> tuple[TrainState, Metrics]:
    scaling = LossScaling(kind, initial=64.0)
    step = make_train_step(
        TINY, optimizer(), policy=get_policy(precision), backend=get_backend(backend), loss_scaling=scaling
    )
    state = start(device, scaling)
    state = flatten_state(state) if flat else state
    batch = Examples(*(leaf.to(device) for leaf in BATCH))
    for _ in range(steps):
        state, metrics, flags = step(state, batch, no_flags(device))
        assert float(flags.skipped) == 0
    return unflatten_state(state), metrics


@cache
def stepped_on_cpu(precision: str, kind: str) -> tuple[TrainState, Metrics]:
    return trained(CPU, precision, kind, "reference", flat=False, steps=1)


@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flat"])
@pytest.mark.parametrize("backend", ["reference", "native", "gather", "npu"])
@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        ("O0", "none"),
        *[(precision, kind) for precision in ("O1", "O2") for kind in ("static", "dynamic")],
        ("bf16", "none"),
    ],
)
def test_step_error_is_no_larger_than_on_cpu(
    device: torch.device, precision: str, kind: str, backend: str, flat: bool
) -> None:
    before = start(CPU, LossScaling())

    def change(state: TrainState) -> torch.Tensor:
        pairs = zip(tree_leaves(state.params), tree_leaves(before.params), strict=True)
        return torch.cat([(new.cpu() - old).double().flatten() for new, old in pairs])

    exact, wanted = stepped_on_cpu("O0", "none")
    ours, metrics = trained(device, precision, kind, backend, flat=flat, steps=1)
    on_cpu, _ = stepped_on_cpu(precision, kind)
    size = change(exact).norm()
    error, allowed = ((change(state) - change(exact)).norm() / size for state in (ours, on_cpu))
    assert error <= 1.5 * allowed + 1e-3
    assert float(metrics.loss) == pytest.approx(float(wanted.loss), rel=1e-4 if precision == "O0" else 3e-2)
    if precision == "O0":
        assert error < 1e-3


OVERFLOW = """
import json, torch, torch_npu
from tests.npu.test_training import BATCH, optimizer, start
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import TINY
import sys

device = torch.device("npu", 0)
batch = Examples(*(leaf.to(device) for leaf in BATCH))
for kind in sys.argv[1:]:
    scaling = LossScaling(kind, initial=64.0)
    step = make_train_step(
        TINY, optimizer(), policy=get_policy("O2"), backend=get_backend("npu"), loss_scaling=scaling
    )
    state = start(device, scaling)
    for _ in range(4):
        new, metrics, flags = step(state, batch, no_flags(device))
        same, kept = (
            all(map(torch.equal, tree_leaves(getattr(new, name)), tree_leaves(getattr(state, name))))
            for name in ("params", "batch_stats")
        )
        state = new
        told = [float(flags.skipped), same, kept, float(state.loss_scale.scale), int(state.step)]
        print(json.dumps(told))
"""


def test_an_injected_overflow_skips_its_step(on_emulator: OnEmulator) -> None:
    # In the backward pass of the second of four steps with either kind of scale, of a convolution with no
    # ReLU before it to mask what it gives.
    convolutions = len([leaf for leaf in tree_leaves(tiny_variables().params) if leaf.ndim == 4])
    faults = [f"overflow:aclnnConvolutionBackward@{n * convolutions + 2}" for n in (1, 5)]
    ran = on_emulator(OVERFLOW, "static", "dynamic", imported=True, faults=",".join(faults))
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines() if line.startswith("[")]
    for after, steps in ((64.0, lines[:4]), (32.0, lines[4:])):
        assert [skipped for skipped, *_ in steps] == [0, 1, 0, 0]
        assert [(same, kept) for _, same, kept, *_ in steps] == [
            *[(False, False), (True, True), (False, False), (False, False)]
        ]
        assert [scale for *_, scale, _ in steps] == [64.0, after, after, after]
        assert [number for *_, number in steps] == [1, 2, 3, 4]


@pytest.mark.parametrize("frozen", [("conv1", "stage3"), ("conv1", "stage2", "stage3", "stage4", "conv5")])
def test_frozen_parts_and_adamw(device: torch.device, frozen: tuple[str, ...]) -> None:
    rule, results = adamw(constant(0.01), weight_decay=0.1), []
    for where, backend in ((CPU, "reference"), (device, "native")):
        step = make_train_step(
            TINY,
            rule,
            backend=get_backend(backend),
            ema_decay=0.9,
            frozen=frozen,
            gradients=grads_by_engine,
            stats_in_kernel=where is device,
        )
        state = create_train_state(tree_to(tiny_variables(), where), rule, ema=True, frozen=frozen)
        state = flatten_state(state, frozen) if where is device else state
        new, *_ = step(state, Examples(*(leaf.to(where) for leaf in BATCH)), no_flags(where))
        results.append(tree_to(unflatten_state(new), CPU))
    wanted, ours = results
    for name in frozen:
        assert_trees_equal(ours.params[name], tiny_variables().params[name])
        assert_trees_equal(ours.ema[1][name], tiny_variables().batch_stats[name])
    torch.testing.assert_close(ours.params["fc"]["weight"], wanted.params["fc"]["weight"], rtol=0, atol=1e-5)
    assert ours.opt_state.updates == 1


@pytest.mark.parametrize("there_first", [True, False], ids=["npu to cpu", "cpu to npu"])
def test_a_checkpoint_changes_device(device: torch.device, tmp_path: Path, there_first: bool) -> None:
    first, second = (device, CPU) if there_first else (CPU, device)
    state, _ = trained(first, "O2", "dynamic", "reference", flat=first is device)
    saved = save_checkpoint(tmp_path, TINY, state, {"arch": "tiny"})
    scaling = LossScaling("dynamic", initial=64.0)
    found = load_state(saved, TINY, start(second, scaling))
    assert {leaf.device.type for leaf in tree_leaves(found)} == {second.type}
    assert_trees_equal(tree_to(found, CPU), tree_to(state, CPU))
    assert isinstance(found.loss_scale, LossScale)
    step = make_train_step(TINY, optimizer(), policy=get_policy("O2"), loss_scaling=scaling)
    after = []
    for where, begin in ((second, found), (first, state)):
        batch = Examples(*(leaf.to(where) for leaf in BATCH))
        begin = tree_to(begin, where)
        after.append(step(begin, batch, no_flags(where))[1].loss.cpu())
    torch.testing.assert_close(after[0], after[1], rtol=2e-2, atol=1e-3)

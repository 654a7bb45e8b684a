"""The network as a module: ``apply`` with the module's own tensors, and torchvision's ``state_dict``."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shufflenet_fn import Examples, create_train_state, from_module, make_train_step, sgd, to_module
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.errors import UsageError
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import apply
from shufflenet_fn.training import schedules
from shufflenet_fn.training.decay import decay_all
from shufflenet_fn.training.step import no_flags
from tests.model.support import (
    TINY,
    assert_nothing_shared,
    assert_trees_close,
    assert_trees_equal,
    examples,
    tiny_variables,
    unchanged,
)


@pytest.mark.parametrize("train", [True, False])
def test_module_computes_what_apply_does(train: bool) -> None:
    variables, (images, _) = tiny_variables(), examples(3)
    module = to_module(TINY, variables).train(train)
    with unchanged(variables):
        logits, batch_stats = apply(TINY, variables, images, train=train)
        assert torch.equal(module(images), logits)
    config, after = from_module(module)
    assert config == TINY
    assert_trees_equal(after, variables._replace(batch_stats=batch_stats))
    assert_nothing_shared(after, module.state_dict())
    counters = [t for key, t in module.state_dict().items() if key.endswith("num_batches_tracked")]
    assert all(int(counter) == int(train) for counter in counters) and counters


def test_training_equals_functional_training() -> None:
    rule = sgd(schedules.constant(0.1), momentum=0.9, weight_decay=1e-2, decay=decay_all)
    step, state = make_train_step(TINY, rule), create_train_state(tiny_variables(), rule)
    module = to_module(TINY, tiny_variables())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for seed in range(2):
        images, labels = examples(4, seed=seed)
        state, _, _ = step(state, Examples(images, labels), no_flags())
        optimizer.zero_grad()
        nnf.cross_entropy(module(images), labels).backward()
        optimizer.step()
    assert_trees_close(from_module(module)[1], state.variables, rtol=1e-5, atol=1e-6)


def test_module_is_copied_pickled_and_called_functionally(tmp_path: Path) -> None:
    module, (images, _) = to_module(TINY, tiny_variables()).eval(), examples(2)
    expected = module(images)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), to_module(*from_module(module))):
        other.eval()
        assert torch.equal(other(images), expected)
        assert_nothing_shared(other.state_dict(), module.state_dict())
    tensors = to_torchvision(tiny_variables(1), TINY)
    swapped = torch.func.functional_call(module, tensors, images)
    assert torch.equal(swapped, apply(TINY, tiny_variables(1), images)[0])
    gradients = torch.func.grad(lambda t: torch.func.functional_call(module, t, images).sum())(
        {key: value.detach() for key, value in module.named_parameters()}
    )
    assert gradients.keys() == dict(module.named_parameters()).keys()
    half = to_module(TINY, tiny_variables()).bfloat16().eval()
    assert half(images.bfloat16()).dtype == torch.bfloat16


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_wraps_the_module() -> None:
    variables, (images, labels) = tiny_variables(), examples(3)
    wrapped = DistributedDataParallel(to_module(TINY, variables))
    nnf.cross_entropy(wrapped(images), labels).backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())
    expected = variables._replace(batch_stats=apply(TINY, variables, images, train=True)[1])
    assert_trees_equal(from_module(wrapped)[1], expected)


@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_state_dict_is_exchanged_with_torchvision(momentum: float) -> None:
    pytest.importorskip("torchvision")
    from tests.model.peers import peer

    theirs, (images, _) = peer("x0_5"), examples(2, 64)
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = momentum
    config, variables = from_module(nn.DataParallel(theirs))
    assert (config.num_classes, config.bn_momentum) == (10, momentum)
    ours = to_module(config, variables)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    names = [[name for name, _ in module.named_parameters()] for module in (ours, theirs)]
    assert names[0] == names[1]
    assert torch.equal(ours(images), theirs(images))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_module_with_a_new_classifier_is_converted() -> None:
    module = to_module(TINY, tiny_variables())
    module.fc = nn.Linear(module.fc.weight.shape[1], 3)
    config, variables = from_module(nn.Sequential(module, nn.Softmax(1)))
    assert config.num_classes == 3
    assert torch.equal(variables.params["fc"]["weight"], module.fc.weight)


def _norms(change: Any) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    module: nn.Module = models.shufflenet_v2_x0_5()
    change(module.conv1[1])
    return module


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: nn.Linear(2, 2), "Linear is no ShuffleNetV2 .* no conv1.0.weight, stage2"),
        (lambda: _norms(lambda norm: setattr(norm, "momentum", 0.2)), "differ in momentum or eps"),
        (lambda: _norms(lambda norm: setattr(norm, "momentum", None)), "have no momentum, or differ"),
    ],
)
def test_other_modules_are_refused(module: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_module(module())


def test_compiler_takes_the_module() -> None:
    module, (images, _) = to_module(TINY, tiny_variables()), examples(3)
    compiled = torch.compile(copy.deepcopy(module), backend="eager", fullgraph=True)
    logits: Tensor = compiled(images)
    assert torch.equal(logits, module(images))
    assert_trees_equal(
        dict(compiled.state_dict()), {f"_orig_mod.{k}": v for k, v in module.state_dict().items()}
    )
    assert isinstance(from_module(compiled)[0], ShuffleNetConfig)

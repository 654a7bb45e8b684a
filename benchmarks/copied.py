"""Count of the elements that a training step copies to split and shuffle channels.

It counts the elements that pure copy operators (``COPYING``) write in forward and backward of a training
step, as the dispatcher sees them. In this network, only split and shuffle need such operators: convolutions,
batch norms, ReLU, pooling and sums of gradients are others.

It does not count copies inside kernels: the contiguous copy that a convolution or batch norm makes of an
input that is a range of another tensor's channels (half of the channels of every unit in ``reference``, none
in ``routed``), and the work of one of our operators before it writes its result. So the ratio of ``routed``
to ``reference`` may be too large, but not too small.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import init
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves
from shufflenet_fn_backends.primitives import Backend

COPYING: Final = frozenset(
    {
        # concatenation, and the backward of `split`
        "aten::cat",
        # `contiguous`, and a `reshape` that is no view: the literal shuffle in both directions
        "aten::clone",
        "aten::copy_",
        # gathers of channels and their backward
        "aten::index_select",
        "aten::index_add",
        "aten::index_add_",
        "aten::index",
        "aten::index_put",
        "aten::index_put_",
        "aten::_index_put_impl_",
        "aten::gather",
        "aten::scatter_add",
        # backward of single ranges and channels
        "aten::slice_backward",
        "aten::slice_scatter",
        "aten::select_backward",
        "aten::select_scatter",
        "aten::constant_pad_nd",
        # whole shuffles
        "aten::channel_shuffle",
        "aten::native_channel_shuffle",
        "shufflenet_fn::shuffle",
        "shufflenet_fn::unshuffle",
        "shufflenet_fn::shuffle_split",
        "shufflenet_fn::unshuffle_split",
        "shufflenet_fn::stacked_shuffle_split",
        "shufflenet_fn::stacked_unshuffle_split",
    }
)

_BATCH: Final = 3  # no layer has so few output channels, so weights differ from feature maps in shape


class Copied(NamedTuple):
    """Number of elements that copy operators write in one training step.

    ``features``: for feature maps and their gradients, per image: channels times pixels. ``parameters``: for
    all others, mainly weights, per step. ``by_operator``: ``features`` by operator.
    """

    features: int
    parameters: int
    by_operator: dict[str, int]


def copied_per_step(
    config: ShuffleNetConfig,
    backend: Backend[Any],
    *,
    image_size: int = 64,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Copied:
    """Count one training step of ``backend`` on the CPU.

    Args:
        config: the architecture.
        backend: the backend. If it has a twin in permuted order, the twin is counted, as in a training run.
        image_size: side of the images. Ratios between backends do not depend on it if it is a multiple
            of 32.
        memory_format: layout of the images.
    """
    optimizer = sgd(constant(0.1))
    generator = torch.Generator().manual_seed(0)
    state, backend = in_order_of(config, create_train_state(init(config, generator), optimizer), backend)
    images = torch.randn(_BATCH, 3, image_size, image_size, generator=generator)
    batch = Examples(images.contiguous(memory_format=memory_format), torch.zeros(_BATCH, dtype=torch.int64))
    step = make_train_step(config, optimizer, backend=backend)
    step(state, batch, no_flags())  # creates the cached constants
    with _Counting(_BATCH) as counting:
        step(state, batch, no_flags())
    by_operator = {name: count // _BATCH for name, count in counting.features.most_common()}
    return Copied(sum(by_operator.values()), counting.parameters, by_operator)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the elements that copy operators write in its context."""

    def __init__(self, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._batch = batch
        self.features: Counter[str] = Counter()
        self.parameters = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in COPYING:
            for tensor in tree_leaves(out):
                self._add(name, tensor)
        return out

    def _add(self, name: str, tensor: Tensor) -> None:
        if tensor.ndim >= 4 and tensor.shape[0] == self._batch:
            self.features[name] += tensor.numel()
        else:
            self.parameters += tensor.numel()

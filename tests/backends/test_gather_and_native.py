"""Properties of ``gather``, ``npu`` and ``native`` beyond parity: their operators and memory layouts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.func import grad, jvp, vmap

from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.network import apply
from shufflenet_fn.tree import tree_leaves, tree_map
from shufflenet_fn_backends import gather, reference
from shufflenet_fn_backends.registry import get_backend, select_backend
from tests.backends.test_shuffle_split import Seen, equal
from tests.model.support import TINY, examples, generator, tiny_variables

# torch's own use, at the first forward-mode derivative in a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")

MOVING = ("reference", "native", "gather")


def pair(*shape: int, seed: int = 0, channels_last: bool = False) -> tuple[Tensor, Tensor]:
    rng = generator(seed)
    x1, x2 = (torch.randn(shape, generator=rng) for _ in range(2))
    if channels_last:
        return x1.to(memory_format=torch.channels_last), x2.to(memory_format=torch.channels_last)
    return x1, x2


def test_a_network_shuffles_by_sixteen_operators() -> None:
    """13 fused with the split that follows, 3 at the ends of stages; and as many back."""
    config = get_config("x0_5", num_classes=10)
    variables = tiny_variables(config=config)
    leaves = [leaf.requires_grad_() for leaf in tree_leaves(variables.params)]
    images = examples(2)[0]
    with Seen() as forward:
        logits, _ = apply(config, variables, images, train=True, backend=get_backend("gather"))
    with Seen() as backward:
        torch.autograd.grad(logits.sum(), leaves)
    shuffles = {"shufflenet_fn::shuffle_split": 13, "shufflenet_fn::shuffle": 3}
    unshuffles = {"shufflenet_fn::unshuffle_split": 13, "shufflenet_fn::unshuffle": 3}
    forward_counts, backward_counts = Counter(forward.names), Counter(backward.names)
    assert {k: v for k, v in forward_counts.items() if "shufflenet" in k} == shuffles
    assert {k: v for k, v in backward_counts.items() if "shufflenet" in k} == unshuffles
    for moved in ("split", "cat", "transpose", "clone", "_unsafe_view", "index_add", "slice_backward"):
        assert f"aten::{moved}" not in {**forward_counts, **backward_counts}


def test_an_exported_network_shows_the_shuffles_as_nodes() -> None:
    variables = tiny_variables()

    class Network(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return apply(TINY, variables, x, backend=get_backend("gather"))[0]

    images = examples(2)[0]
    program = torch.export.export(Network(), (images,))
    targets = Counter(str(node.target) for node in program.graph.nodes)
    assert targets["shufflenet_fn.shuffle_split.default"] == 3
    assert targets["shufflenet_fn.shuffle.default"] == 3
    torch.testing.assert_close(program.module()(images), apply(TINY, variables, images)[0])


def test_native_shuffles_by_atens_operator() -> None:
    with Seen() as seen:
        get_backend("native").channel_shuffle(*pair(1, 4, 2, 3))
    assert "aten::channel_shuffle" in seen.names


@pytest.mark.parametrize("name", MOVING)
def test_channels_last_stays(name: str) -> None:
    b = get_backend(name)
    x1, x2 = pair(2, 6, 5, 3, channels_last=True)
    y = b.to_tensor(b.channel_shuffle(x1, x2))
    assert y.is_contiguous(memory_format=torch.channels_last)
    for half in map(b.to_tensor, b.channel_split(b.channel_shuffle(x1, x2))):
        assert half.stride(1) == 1
    x1.requires_grad_()
    (dx,) = torch.autograd.grad(b.to_tensor(b.channel_shuffle(x1, x2)).square().sum(), x1)
    assert dx.stride(1) == 1


def test_channels_last_stays_in_what_native_compiles() -> None:
    """aten's CPU kernel keeps it, and the meta kernel, by which a compiler lays out its graph, does not."""
    x = torch.empty(2, 12, 5, 3, device="meta").to(memory_format=torch.channels_last)
    assert not nnf.channel_shuffle(x, 2).is_contiguous(memory_format=torch.channels_last)

    strides: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        (output,) = next(node for node in graph.graph.nodes if node.op == "output").args
        strides.append(output[0].meta["example_value"].stride())
        return graph

    torch.compiler.reset()
    args = pair(2, 6, 5, 3, channels_last=True)
    shuffle = get_backend("native").channel_shuffle
    equal(torch.compile(shuffle, fullgraph=True, backend=backend)(*args), shuffle(*args))
    assert strides == [x.stride()]


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_are_moved_and_not_touched(name: str, channels_last: bool, dtype: torch.dtype) -> None:
    """Bit for bit, infinities and NaNs included."""
    b = get_backend(name)
    x1, x2 = (x.to(dtype) for x in pair(2, 58, 3, 5, channels_last=channels_last))
    x1[0, 0, 0, 0], x2[1, 1, 1, 1] = float("nan"), -float("inf")
    y = b.to_tensor(b.channel_shuffle(x1, x2))
    torch.testing.assert_close(y[:, 0::2], x1, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(y[:, 1::2], x2, rtol=0, atol=0, equal_nan=True)
    halves = b.channel_split(b.channel_shuffle(x1, x2))
    joined = torch.cat([b.to_tensor(half) for half in halves], 1)
    torch.testing.assert_close(joined, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", MOVING)
def test_what_has_no_halves_is_refused(name: str) -> None:
    b = get_backend(name)
    with pytest.raises(ValueError, match=r"\(1, 5, 2, 2\).*even C"):
        b.channel_split(torch.zeros(1, 5, 2, 2))
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\) and \(1, 6, 2, 2\)"):
        b.channel_shuffle(torch.zeros(1, 4, 2, 2), torch.zeros(1, 6, 2, 2))
    odd = b.channel_shuffle(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    first, _ = b.channel_split(odd)
    with pytest.raises(ValueError, match="even C"):
        b.channel_split(first)


# ---- the shuffled map of gather ----


def shuffled(seed: int = 0) -> gather.Shuffled:
    return gather.Shuffled(*(x.double() for x in pair(2, 4, 3, 3, seed=seed)))


def test_shared_map_is_computed_once() -> None:
    with Seen() as seen:
        whole = gather.BACKEND.shared(shuffled())
        first, second = gather.to_tensor(whole), gather.to_tensor(whole)
    assert first is second
    assert Counter(seen.names)["shufflenet_fn::shuffle"] == 1


def test_map_can_be_read_in_two_contexts() -> None:
    """Nothing is kept from under ``no_grad`` or inside a transform that would be wrong outside."""
    x1, x2 = (x.requires_grad_() for x in pair(1, 4, 2, 2))
    x = gather.channel_shuffle(x1, x2)
    with torch.no_grad():
        assert not gather.to_tensor(x).requires_grad
    assert gather.to_tensor(x).requires_grad

    x, one = shuffled(), torch.ones((), dtype=torch.float64)
    expected = reference.channel_shuffle(x.x1, x.x2)

    def read(scale: Tensor) -> Tensor:
        return (gather.to_tensor(x) * scale).square().sum()

    for run in (
        lambda: grad(read)(one),
        lambda: vmap(read)(one[None]),
        lambda: jvp(read, (one,), (one,)),
        lambda: vmap(grad(read))(one[None]),
        lambda: grad(grad(read))(one),
    ):
        run()
        equal(gather.to_tensor(x), expected)
        torch.testing.assert_close(grad(read)(one), 2 * expected.square().sum())


# Dynamo's own doing, in torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_shuffled_map_is_a_pytree_for_transforms() -> None:
    x = shuffled()
    expected = reference.channel_shuffle(x.x1, x.x2)
    assert all(leaf is half for leaf, half in zip(tree_leaves(x), (x.x1, x.x2), strict=True))
    batch = tree_map(lambda *leaves: torch.stack(leaves), x, shuffled(1))
    out = vmap(lambda m: gather.channel_shuffle(*gather.channel_split(m)))(batch)
    assert isinstance(out, gather.Shuffled)
    equal(
        gather.to_tensor(tree_map(lambda leaf: leaf[0], out)),
        reference.channel_shuffle(*expected.chunk(2, 1)),
    )
    slope = grad(lambda m: gather.to_tensor(m).pow(2).sum())(x)
    torch.testing.assert_close(gather.to_tensor(slope), 2 * expected)
    torch.compiler.reset()
    compiled = torch.compile(gather.to_tensor, fullgraph=True, backend="aot_eager")
    equal(compiled(x), expected)


# ---- selection ----


@pytest.mark.parametrize("name", ["native", "gather", "npu"])
def test_an_explicit_name_is_taken_on_every_device(name: str) -> None:
    for device in ("cpu", "cuda", "npu"):
        selection = select_backend(name, device)
        assert selection.backend.name == name
        assert name in selection.reason


def test_auto_selects_the_npu_backend_on_npus() -> None:
    backend, reason = select_backend("auto", "npu")
    assert backend.name == "npu" and "npu" in reason
    assert backend.permuted is not None and backend.permuted.name == "npu"
    backend, reason = select_backend("auto", "cuda")
    assert backend.name == "reference" and "reference" in reason

"""The interface between the model's text and a backend.

The model is written once, as in the paper (Ma et al., 2018, arXiv:1807.11164). What it computes with is
a ``Backend``: a value holding a handful of functions over that backend's own representation of a
feature map. Requirements on a backend:

* every function is pure: no argument is mutated, no global is read or written, with one exception,
  ``batch_norm_update_``, which a caller need not use;
* ``conv2d`` and ``max_pool2d`` accept a plain NCHW tensor too, so that the stem can start from the images;
* ``to_tensor(channel_shuffle(a, b))`` is the interleave of ``a`` and ``b`` in logical channel order;
* parameters, batch moments and gradients are in logical (torchvision's) channel order. A backend whose
  feature maps lie in another, physical order may have a twin, ``physical``, that takes and returns
  parameters and moments in that order, so that a step need not permute them.

Shapes: N batch, C channels, H and W height and width; activations NCHW, weights OIHW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from torch import Tensor
from torch.utils import _pytree as pytree

F = TypeVar("F")
F_contra = TypeVar("F_contra", contravariant=True)
F_co = TypeVar("F_co", covariant=True)


ThirdResult = Literal["invstd", "var"]
"""``invstd``: 1/sqrt(biased variance + eps). ``var``: the biased variance."""


@dataclass(frozen=True)
class Moments:
    """The statistics of a training-mode batch norm.

    ``mean`` and ``saved`` have shape (C,) and are float32 (float64 for float64 activations). ``saved`` is
    what the device's kernel returns beside the mean, and ``kind`` says what that is: to convert it layer
    by layer would cost an NPU two kernels a layer. ``count`` is N*H*W, the number of values per channel.
    Both tensors are detached: running statistics carry no gradient. A pytree node with ``count`` and
    ``kind`` as its static context, because ``torch.func`` admits nothing but tensors as leaves of an
    auxiliary output.
    """

    mean: Tensor
    saved: Tensor
    count: int
    kind: ThirdResult = "invstd"


def _moments_from(tensors: Iterable[Tensor], context: tuple[int, ThirdResult]) -> Moments:
    mean, saved = tensors
    return Moments(mean, saved, *context)


pytree.register_pytree_node(
    Moments,
    lambda moments: ([moments.mean, moments.saved], (moments.count, moments.kind)),
    _moments_from,
    serialized_type_name="shufflenet_fn_backends.primitives.Moments",
)


class Conv2d(Protocol[F_contra, F_co]):
    def __call__(
        self, x: F_contra | Tensor, weight: Tensor, *, stride: int, padding: int, groups: int
    ) -> F_co:
        """Bias-free convolution of NCHW ``x`` with OIHW ``weight``."""


class Conv2dBias(Protocol[F_contra, F_co]):
    def __call__(
        self,
        x: F_contra | Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int,
        padding: int,
        groups: int,
        relu: bool,
    ) -> F_co:
        """Convolution with a bias per output channel, then ReLU if asked: a batch norm folded in."""


class BatchNormTrain(Protocol[F]):
    def __call__(
        self, x: F, weight: Tensor, bias: Tensor, *, eps: float, relu: bool
    ) -> tuple[F, Moments]:
        """Normalise with the batch's own moments, then ReLU if asked. Returns the moments too."""


class BatchNormUpdate(Protocol[F]):
    def __call__(
        self,
        x: F,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        *,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> F:
        """Normalise as ``BatchNormTrain`` and update ``running_mean`` and ``running_var`` in place.

        For a step that owns both buffers, outside transforms. On an NPU the kernel updates them anyway;
        where none are given it has to fill two of its own, in the forward and in the backward pass.
        """


class BatchNormEval(Protocol[F]):
    def __call__(
        self,
        x: F,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        *,
        eps: float,
        relu: bool,
    ) -> F:
        """Normalise with the given running statistics, then ReLU if asked."""


class MaxPool2d(Protocol[F_contra, F_co]):
    def __call__(self, x: F_contra | Tensor, *, kernel: int, stride: int, padding: int) -> F_co:
        """Spatial maximum."""


class ChannelSplit(Protocol[F]):
    def __call__(self, x: F) -> tuple[F, F]:
        """First and second half of the channels (paper, section 3.2, "channel split")."""


class ChannelShuffle(Protocol[F]):
    def __call__(self, x1: F, x2: F) -> F:
        """Concatenate and shuffle with two groups: channel 2i is ``x1[i]``, channel 2i+1 is ``x2[i]``."""


class Shared(Protocol[F]):
    def __call__(self, x: F) -> F:
        """``x`` for several readers: what each of them would have to do to it is done once, here."""


def as_it_is(x: F) -> F:
    """``Shared`` where a reader has nothing to do before it reads."""
    return x


class ToTensor(Protocol[F_contra]):
    def __call__(self, x: F_contra) -> Tensor:
        """The feature map as one NCHW tensor in logical channel order."""


class Program(Protocol):
    """Records a folded forward pass once, to be run many times without going through Python.

    ``body(backend, x)`` is written with ``conv2d_bias``, ``max_pool2d``, ``channel_split`` and
    ``channel_shuffle`` of the backend that it is given, and returns a feature map.
    """

    def __call__(
        self, body: Callable[[Backend[Any], Any], Any], images: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """A function from images of this shape and dtype to the spatial means (N, C) of the result.

        It does not differentiate.
        """


@dataclass(frozen=True)
class Backend(Generic[F]):
    """A named set of primitives over feature maps of type ``F``.

    ``shared`` is applied to a map that both branches of a downsampling unit read. ``physical`` is the twin
    with parameters in physical channel order; ``None`` where that is the logical order, and for the twin
    itself. ``batch_norm_update_`` is ``None`` where statistics would have to be permuted.
    """

    name: str
    conv2d: Conv2d[F, F]
    conv2d_bias: Conv2dBias[F, F]
    batch_norm_train: BatchNormTrain[F]
    batch_norm_eval: BatchNormEval[F]
    max_pool2d: MaxPool2d[F, F]
    channel_split: ChannelSplit[F]
    channel_shuffle: ChannelShuffle[F]
    to_tensor: ToTensor[F]
    shared: Shared[F] = as_it_is
    batch_norm_update_: BatchNormUpdate[F] | None = None
    physical: Backend[F] | None = None
    program: Program | None = None


def half_of_channels(x: Tensor) -> int:
    """Half the number of channels of ``x`` (..., C, H, W).

    Raises:
        ValueError: C is odd, or there are fewer than three dimensions.
    """
    if x.ndim < 3 or x.shape[-3] % 2:
        raise ValueError(
            f"a map of shape {tuple(x.shape)} has no halves: it must be (..., C, H, W) with an even C"
        )
    return x.shape[-3] // 2


def check_equal_halves(x1: Tensor, x2: Tensor) -> None:
    """That ``x1`` and ``x2`` can be the two halves of one map.

    Raises:
        ValueError: their shapes differ, or are not (..., C, H, W).
    """
    if x1.ndim < 3 or x1.shape != x2.shape:
        raise ValueError(
            f"maps of shapes {tuple(x1.shape)} and {tuple(x2.shape)} cannot be shuffled: both must have "
            "one shape (..., C, H, W)"
        )

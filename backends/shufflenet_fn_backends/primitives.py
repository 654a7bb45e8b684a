"""The interface between the model and a backend.

The model is written once, as in the paper (Ma et al., 2018, arXiv:1807.11164). It computes with a
``Backend``: a set of functions over the backend's own representation of a feature map. Requirements on a
backend:

* every function is pure: it modifies no argument, and reads and writes no global. The only exception is
  ``batch_norm_update_``, which is optional;
* ``conv2d`` and ``max_pool2d`` also accept a plain NCHW tensor, because the stem starts from images;
* ``to_tensor(channel_shuffle(a, b))`` is the interleave of ``a`` and ``b`` in canonical channel order;
* parameters, batch moments and gradients are in canonical (torchvision's) channel order. A backend whose
  feature maps are in another, permuted order may have a variant, ``permuted``, that takes and returns
  parameters and moments in that order, so that a step need not permute them.

Shapes: N batch, C channels, H and W height and width; activations NCHW, weights OIHW.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from torch import Tensor

from shufflenet_fn_backends.support.private import pytree

F = TypeVar("F")
F_contra = TypeVar("F_contra", contravariant=True)
F_co = TypeVar("F_co", covariant=True)


ThirdResult = Literal["invstd", "var"]
"""``invstd``: 1/sqrt(biased variance + eps). ``var``: the biased variance."""


@dataclass(frozen=True)
class Moments:
    """The statistics of a training-mode batch norm.

    ``mean`` and ``saved`` have shape (C,) and are float32 (float64 for float64 activations). ``saved`` is the
    third result of the device's kernel, and ``kind`` is its kind. It is not converted here, because that
    would cost an NPU two kernels per layer. ``count`` is N*H*W, the number of values per channel. Both
    tensors are detached, since running statistics have no gradient. A pytree node with ``count`` and ``kind``
    as its static context, because ``torch.func`` requires the leaves of an auxiliary output to be tensors.
    """

    mean: Tensor
    saved: Tensor
    count: int
    kind: ThirdResult = "invstd"


pytree.register_pytree_node(
    Moments,
    lambda moments: ([moments.mean, moments.saved], (moments.count, moments.kind)),
    lambda tensors, context: Moments(*tensors, *context),
    serialized_type_name="shufflenet_fn_backends.primitives.Moments",
)


class Conv2d(Protocol[F_contra, F_co]):
    def __call__(
        self, x: F_contra | Tensor, weight: Tensor, *, stride: int, padding: int, groups: int
    ) -> F_co:
        """Convolve NCHW ``x`` with OIHW ``weight``, without bias."""


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
        """Convolve, add a bias per output channel, then apply ReLU if ``relu``: a folded batch norm."""


class BatchNormTrain(Protocol[F]):
    def __call__(self, x: F, weight: Tensor, bias: Tensor, *, eps: float, relu: bool) -> tuple[F, Moments]:
        """Normalise with the batch's own moments, then apply ReLU if ``relu``. Return the moments too."""


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

        The caller must own both buffers. Use it outside transforms only. On an NPU, the kernel always updates
        running statistics: without these buffers it fills two of its own, in the forward and in the backward
        pass.
        """


class BatchNormEval(Protocol[F]):
    def __call__(
        self, x: F, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float, relu: bool
    ) -> F:
        """Normalise with the given running statistics, then apply ReLU if ``relu``."""


class MaxPool2d(Protocol[F_contra, F_co]):
    def __call__(self, x: F_contra | Tensor, *, kernel: int, stride: int, padding: int) -> F_co:
        """Compute the maximum of every spatial window."""


class ChannelSplit(Protocol[F]):
    def __call__(self, x: F) -> tuple[F, F]:
        """Return the first and the second half of the channels (paper, section 3.2, "channel split")."""


class ChannelShuffle(Protocol[F]):
    def __call__(self, x1: F, x2: F) -> F:
        """Concatenate and shuffle with two groups: channel 2i is ``x1[i]``, channel 2i+1 is ``x2[i]``."""


class Shared(Protocol[F]):
    def __call__(self, x: F) -> F:
        """Prepare ``x`` for several readers: do once the work that each reader would repeat."""


def as_it_is(x: F) -> F:
    """Return ``x``: ``Shared`` of a backend whose readers need no preparation."""
    return x


class ToTensor(Protocol[F_contra]):
    def __call__(self, x: F_contra) -> Tensor:
        """Return the feature map as one NCHW tensor in canonical channel order."""


@dataclass(frozen=True)
class Backend(Generic[F]):
    """A named set of primitives over feature maps of type ``F``.

    ``shared`` is applied to a map that both branches of a downsampling unit read. ``permuted`` is the variant
    with parameters in permuted channel order; it is ``None`` if that is the canonical order, and for the
    variant itself. ``batch_norm_update_`` is ``None`` if the statistics would have to be permuted.
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
    permuted: Backend[F] | None = None


def half_of_channels(x: Tensor) -> int:
    """Return half the number of channels of ``x`` (..., C, H, W).

    Raises:
        ValueError: C is odd, or there are fewer than three dimensions.
    """
    if x.ndim < 3 or x.shape[-3] % 2:
        raise ValueError(
            f"a map of shape {tuple(x.shape)} has no halves: it must be (..., C, H, W) with an even C"
        )
    return x.shape[-3] // 2


def check_equal_halves(x1: Tensor, x2: Tensor) -> None:
    """Check that ``x1`` and ``x2`` can be the two halves of one map.

    Raises:
        ValueError: their shapes differ, or are not (..., C, H, W).
    """
    if x1.ndim < 3 or x1.shape != x2.shape:
        raise ValueError(
            f"maps of shapes {tuple(x1.shape)} and {tuple(x2.shape)} cannot be shuffled: both must have "
            "one shape (..., C, H, W)"
        )

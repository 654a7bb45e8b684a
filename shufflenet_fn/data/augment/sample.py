"""What happens to a sample after crop, jitter and flip."""

from __future__ import annotations

from dataclasses import dataclass

from shufflenet_fn.data.augment.erasing import RandomErasing
from shufflenet_fn.data.augment.operations import apply_operations
from shufflenet_fn.data.augment.policies import Policy
from shufflenet_fn.data.decode import RgbImage
from shufflenet_fn.data.randomness import ERASING, POLICY, sample_rng


@dataclass(frozen=True)
class SampleAugmentation:
    """A policy's operations, then random erasing, each off if None."""

    policy: Policy | None = None
    erasing: RandomErasing | None = None

    def __call__(
        self, image: RgbImage, *, seed: int, epoch: int, index: int, repeat: int = 0
    ) -> None:
        """Augment in place.

        Args:
          image: uint8 (H, W, 3).
          seed, epoch, index, repeat: of the draws, as ``sample_rng``.
        """
        if self.policy is not None:
            rng = sample_rng(seed, epoch, index, domain=POLICY, repeat=repeat)
            apply_operations(image, self.policy(rng, image.shape[0], image.shape[1]))
        if self.erasing is not None:
            self.erasing(image, sample_rng(seed, epoch, index, domain=ERASING, repeat=repeat))

"""States of torch's random generators, to go on after a resume as if there had been no interruption.

Training here draws nothing from them: order and augmentation depend on (seed, epoch, sample) alone. A loss,
an optimizer or a primitive of a user's own may. All ranks start with equal generators and draw alike, so rank
0's are every rank's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shufflenet_fn_backends.runtimes.base import Runtime

_CPU = "cpu"


def generator_states(runtime: Runtime) -> dict[str, Tensor]:
    """The state of the CPU's default generator and of the current device's, uint8 CPU tensors by device."""
    return {_CPU: torch.get_rng_state(), runtime.name: runtime.rng_state()}


def restore_generators(states: Mapping[str, Tensor], runtime: Runtime) -> None:
    """Put back what ``generator_states`` gave. That of a device of another kind has no place here."""
    if _CPU in states:
        torch.set_rng_state(states[_CPU])
    if runtime.name in states:
        runtime.set_rng_state(states[runtime.name])

"""The published sizes of the four architectures."""

from __future__ import annotations

import pytest

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.count import count_macs, count_params
from tests.model.support import TINY

PUBLISHED = {
    "x0_5": (1_366_792, 40.5),
    "x1_0": (2_278_604, 144.9),
    "x1_5": (3_503_624, 295.8),
    "x2_0": (7_393_996, 583.3),
}


@pytest.mark.parametrize("width", PUBLISHED)
def test_parameters(width: str) -> None:
    assert count_params(get_config(width)) == PUBLISHED[width][0]


@pytest.mark.parametrize("width", PUBLISHED)
def test_multiply_accumulates_at_224(width: str) -> None:
    assert round(count_macs(get_config(width)) / 1e6, 1) == PUBLISHED[width][1]


def test_multiply_accumulates_grow_with_the_image() -> None:
    """The convolutions' share goes with the area, the classifier's does not change."""
    classifier = TINY.stage_channels[-1] * TINY.num_classes
    small = count_macs(TINY, height=64, width=32) - classifier
    assert count_macs(TINY, height=128, width=64) - classifier == 4 * small


@pytest.mark.parametrize("width", PUBLISHED)
def test_there_are_56_convolutions(width: str) -> None:
    assert len(list(conv_layers(get_config(width)))) == 56

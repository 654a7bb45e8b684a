"""Names and limits of an architecture."""

from __future__ import annotations

from typing import Any

import pytest

from shufflenet_fn.errors import UsageError
from shufflenet_fn.model.config import ARCHITECTURES, ShuffleNetConfig, canonical_name, get_config


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_short_and_long_names_are_one_architecture(name: str) -> None:
    short = name.removeprefix("shufflenet_v2_")
    assert canonical_name(short) == canonical_name(name) == name
    assert get_config(short, num_classes=7) == get_config(name, num_classes=7)


def test_architectures_differ() -> None:
    assert len({get_config(name) for name in ARCHITECTURES}) == 4


def test_unknown_name_lists_closest_and_valid_names() -> None:
    with pytest.raises(UsageError) as error:
        get_config("x1.0")
    for part in ("'x1.0'", "did you mean 'shufflenet_v2_x1_0'?", *ARCHITECTURES):
        assert part in str(error.value)


def test_an_unknown_override_is_an_error() -> None:
    with pytest.raises(TypeError, match="num_class"):
        get_config("x1_0", num_class=10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage_repeats", (4, 8)),
        ("stage_repeats", (4, 0, 4)),
        ("stage_channels", (24, 48, 96, 192)),
        ("stage_channels", (24, 48, 97, 192, 1024)),
        ("stage_channels", (0, 48, 96, 192, 1024)),
        ("num_classes", 0),
        ("bn_momentum", 1.5),
        ("bn_momentum", float("nan")),
        ("bn_eps", 0.0),
        ("bn_eps", float("nan")),
    ],
)
def test_invalid_field_is_named_with_its_value(field: str, value: Any) -> None:
    shown = str(97 if value == (24, 48, 97, 192, 1024) else value)
    with pytest.raises(ValueError, match=field) as error:
        ShuffleNetConfig(**{field: value})
    assert shown in str(error.value)

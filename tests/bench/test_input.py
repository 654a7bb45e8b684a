"""``bench input``: the wait of a device that only takes its time, and whether its host feeds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.bench.input import conclusion

RESULT = {
    "devices": 8,
    "cores": 64,
    "step_ms": 235.0,
    "maximum_img_s": 20000.0,
    "demanded_img_s": 35000.0,
    "data_wait": [0.4, 0.43],
    "feeds": False,
    "headroom": 0.57,
    "cores_needed": 112.3,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "no: 8 devices at 235 ms take 35000 images/s, and the loader gives 20000 at most; 43.0 % of a"),
        ({}, "reading takes 113 cores and there are 64: more cores or `shufflenet-fn data pack`"),
        ({"cores_needed": 40.0}, "reading takes 40 of 64 cores: more --workers, a faster disk or"),
        (
            {"feeds": True, "headroom": 1.31, "data_wait": [0.001]},
            "yes: 8 devices at 235 ms take 35000 images/s, and the loader gives 20000 at most, 1.31 times",
        ),
        ({"step_ms": None}, "this host gives 8 devices 20000 images/s at most. With --step-ms"),
    ],
)
def test_conclusion_says_whether_devices_are_fed(changed: dict[str, Any], said: str) -> None:
    assert said in conclusion({**RESULT, **changed})


pytestmark = pytest.mark.usefixtures("in_process")
SMALL = ("--image-size", 32, "--batch-size", 4, "--workers", 2, "--seconds", 0.3)


def test_two_devices_at_a_step_time_in_json(command: Callable[..., Any], image_folder: Path) -> None:
    outcome = command(
        *("bench", "input", "--data", image_folder, *SMALL), *("--devices", 2, "--step-ms", 100, "--json")
    )
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["threads"], result["step_ms"]) == (1, 100)
    assert result["demanded_img_s"] == pytest.approx(40)
    # Two ranks of two images, whose steps take 100 ms at least.
    assert 0 < result["delivered_img_s"] <= 40
    assert len(result["data_wait"]) == 2 and min(result["data_wait"]) >= 0
    assert result["feeds"] is (max(result["data_wait"]) <= 0.02)
    assert result["headroom"] == pytest.approx(result["maximum_img_s"] / 40)
    assert result["cores_needed"] > 0 and result["cpu_s_per_1000"] > 0
    assert result["verdict"].startswith("yes: " if result["feeds"] else "no: ")


def test_without_a_step_time_only_the_maximum(command: Callable[..., Any], image_folder: Path) -> None:
    outcome = command("bench", "input", "--data", image_folder, *SMALL)
    assert outcome.code == 0, outcome.err
    assert "images/s at most" in outcome.out and "data wait" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "needs --data DIR"),
        (("--data", ".", "--step-ms", 5, "--load", 0.5), "exclude each other"),
        (("--data", ".", "--devices", 3, "--batch-size", 4), "does not divide by 3 devices"),
        (("--data", ".", "--load", 1.5), "--load 1.5 is not valid: it must be"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_wrong_usage_is_named(command: Callable[..., Any], arguments: tuple[object, ...], said: str) -> None:
    outcome = command("bench", "input", *arguments)
    assert outcome.code == 2
    assert said in outcome.err and "Traceback" not in outcome.err

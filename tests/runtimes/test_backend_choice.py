"""``train --backend auto`` uses a kept measurement of exactly its case, else an estimate."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from shufflenet_fn.config.resolve import resolve
from shufflenet_fn.run.backend_choice import (
    WORK,
    Kept,
    StepCase,
    choose_backend,
    cost,
    keep,
    least_cost,
    measured,
    step_case,
)
from shufflenet_fn.run.plan import RunPlan, plan_run
from shufflenet_fn_backends.runtimes.select import runtime_of, select_runtime
from shufflenet_fn_backends.support.errors import UserError
from tests.runtimes.conftest import Chip

CASE = StepCase(
    device="npu",
    chip="Ascend910B3",
    emulated=False,
    versions={"torch": "2.13.0", "torch_npu": "2.13.0", "cann": "9.1.0"},
    arch="shufflenet_v2_x1_0",
    precision="bf16",
    batch_per_card=128,
    image_size=224,
)
KEPT = Kept("native", "native", {"npu": 12.5, "native": 10.0})
ESTIMATED = "gather"
"""What is chosen for ``CASE`` where nothing was measured."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def chosen(case: StepCase = CASE, asked: str = "auto", **how: bool) -> tuple[str, str]:
    """The backend, and all that is said of it."""
    choice = choose_backend(asked, case, **{"compiled": False, "resumed": False, **how})
    return choice.name, "\n".join((choice.reason, *choice.notes))


def test_auto_follows_the_kept_measurement() -> None:
    name, said = chosen()
    assert name == ESTIMATED and "least estimated cost" in said
    path = keep(CASE, KEPT)
    name, said = chosen()
    assert name == "native"
    for word in (str(path), "native 10 ms, npu 12.5 ms", "auto"):
        assert word in said
    keep(CASE, Kept("npu", "npu", {"npu": 9.0}))
    assert chosen()[0] == "npu"


@pytest.mark.parametrize(
    "how", [{"compiled": True}, {"resumed": True}, {"asked": "npu"}], ids=lambda how: str(how)
)
def test_other_runs_ignore_the_measurement(how: dict[str, bool]) -> None:
    path = keep(CASE, KEPT)
    name, said = chosen(**how)  # type: ignore[arg-type]
    assert name == "npu" and str(path) not in said


@pytest.mark.parametrize(
    "changed",
    [
        *({"batch_per_card": 64}, {"image_size": 160}, {"precision": "fp32"}, {"emulated": True}),
        *({"chip": "Ascend910B1"}, {"arch": "shufflenet_v2_x0_5"}, {"versions": {"torch": "2.13.0"}}),
    ],
    ids=str,
)
def test_a_measurement_of_another_case_is_not_used(changed: dict[str, object]) -> None:
    keep(CASE, KEPT)
    assert measured(CASE._replace(**changed)) == (None, ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is damaged (Expecting value"),
        ("[]", "is damaged (list indices"),
        ('{"format": 1}', "is damaged ('case')"),
        ({"format": 2}, "another format or case"),
        ({"case": {}}, "another format or case"),
        ({"step_ms": {"gather": "fast"}}, "is damaged (Unknown format"),
        ({"backend": 5}, "is damaged ('int' object"),
        ({"backend": "best"}, "is not used: unknown backend 'best'"),
    ],
    ids=str,
)
def test_a_damaged_measurement_is_named_and_not_used(text: str | dict[str, object], why: str) -> None:
    path = keep(CASE, KEPT)
    path.write_text(text if isinstance(text, str) else json.dumps({**json.loads(path.read_text()), **text}))
    name, said = chosen()
    assert name == ESTIMATED and len(said.splitlines()) == 2
    assert f"kept measurement {path} is" in said and why in said


@pytest.mark.parametrize(
    ("arch", "images", "expected"),
    [
        ("shufflenet_v2_x1_0", 32, "gather"),  # fewer kernels
        ("shufflenet_v2_x1_0", 1024, "npu"),  # fewer bytes
        ("other", 64, None),
    ],
)
def test_estimate_weighs_kernels_against_bytes(arch: str, images: int, expected: str | None) -> None:
    found = least_cost(CASE._replace(arch=arch, precision="fp32", batch_per_card=images))
    name, reason = found or (None, "")
    assert name == expected
    assert found is None or ("nothing measured" in reason and f"{images} images a card" in reason)


def test_cost_counts_kernels_and_bytes() -> None:
    work = WORK["shufflenet_v2_x1_0", "fp32"]["gather"]
    assert cost(work, 64, 1.0) - cost(work, 0, 1.0) == pytest.approx(64 * work.bytes_per_image / 1e12)


def test_a_precision_is_the_same_by_any_name() -> None:
    cases = [
        step_case(runtime_of("cpu"), arch="a", precision=name, batch_per_card=1, image_size=8).precision
        for name in ("O0", "fp32", "p=f32,c=f32,o=f32", "p=f32,c=bf16,o=f32", "p=f64,c=f64,o=f64")
    ]
    assert cases == ["fp32", "fp32", "fp32", "bf16", "p=f64,c=f64,o=f64"]


def test_unwritable_cache_is_one_message(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        keep(CASE, KEPT)
    assert measured(CASE)[0] is None


@pytest.mark.skipif(
    importlib.util.find_spec("torch_npu") is not None, reason="tests/npu has it with torch_npu"
)
def test_a_run_is_planned_with_the_measured_backend(chip: Chip, image_folder: Path) -> None:
    """Of the images that one of its cards computes at a time."""
    chip(8, "Ascend910B3")
    given = {"data": str(image_folder), "device": "npu", "batch_size": 8, "devices": 2}

    def planned(**more: object) -> RunPlan:
        return plan_run(resolve({**given, **more}))

    assert planned().backend == ESTIMATED
    case = step_case(
        select_runtime("npu").runtime,
        arch="shufflenet_v2_x1_0",
        precision="fp32",
        batch_per_card=4,
        image_size=224,
    )
    path = keep(case, KEPT)
    plan = planned()
    assert plan.backend == "native"
    assert any("backend native" in note and str(path) in note for note in plan.notes)
    assert plan.settings.backend == "auto"  # a resume on another device chooses anew
    assert planned(microbatches=4).backend == ESTIMATED
    assert planned(batch_size=4).backend == ESTIMATED

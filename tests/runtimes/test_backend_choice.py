"""``train --backend auto`` uses a kept measurement of exactly its case, and reports others."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from shufflenet_fn.config.resolve import resolve
from shufflenet_fn.run.backend_choice import Kept, StepCase, choose_backend, keep, look_up, step_case
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
        *({"chip": "Ascend910B1"}, {"arch": "shufflenet_v2_x0_5"}),
    ],
    ids=str,
)
def test_a_measurement_of_another_case_is_not_used(changed: dict[str, object]) -> None:
    keep(CASE, KEPT)
    found = look_up(CASE._replace(**changed))  # type: ignore[arg-type]
    assert found.kept is None and not found.notes


def test_result_of_other_versions_is_not_used() -> None:
    path = keep(CASE._replace(versions={**CASE.versions, "cann": "8.5.0"}), KEPT)
    name, said = chosen()
    assert name == ESTIMATED
    for word in (str(path), "is of cann 8.5.0, and this is cann 9.1.0", "bench step --keep"):
        assert word in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[]", "not a JSON object"),
        ('{"format": 2}', "format is 2"),
        ('{"format": 1}', "case"),
    ],
)
def test_a_damaged_measurement_is_named_and_not_used(text: str, why: str) -> None:
    path = keep(CASE, KEPT)
    path.write_text(text)
    name, said = chosen()
    assert name == ESTIMATED
    assert f"kept measurement {path} is damaged" in said and why in said
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("backend", "best", "no backend 'best'"),
        ("step_ms", {"gather": "fast"}, "times"),
        ("step_ms", {}, "native"),
        ("case", {}, "another case"),
    ],
)
def test_values_that_make_no_sense_are_damage(part: str, value: object, why: str) -> None:
    path = keep(CASE, KEPT)
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    (note,) = look_up(CASE).notes
    assert "damaged" in note and why in note


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
    assert look_up(CASE).kept is None


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

"""``shufflenet-fn evaluate``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from shufflenet_fn.config.settings import EvalSettings
from shufflenet_fn_cli.options import ModelName, importing, with_settings


@with_settings(EvalSettings)
def evaluate(
    model: ModelName,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    **given: Any,
) -> None:
    """Compute top-1 and top-5 accuracy on a validation set. Every image counts exactly once."""
    with importing():
        from shufflenet_fn.distributed.launch import Launch, launch
        from shufflenet_fn.distributed.worker import leaving_groups_at_once
        from shufflenet_fn.distributed.world import World, world_from_environment
        from shufflenet_fn.io import to_json
        from shufflenet_fn.run.reporting import left_out_line
        from shufflenet_fn.use.evaluate import plan_evaluation, run_evaluation
        from shufflenet_fn_backends.runtimes.select import runtime_of

    plan = plan_evaluation(model, EvalSettings(**given))
    for note in plan.notes:
        print(note, file=sys.stderr)
    devices = plan.settings.devices
    world = world_from_environment()
    with leaving_groups_at_once():
        if world is not None or devices == 1:
            result = run_evaluation(plan, world or World())
        else:
            watching = Launch(settling=runtime_of(plan.device).settling)
            result = launch(run_evaluation, plan, processes=devices, watching=watching)
    if world is not None and not world.is_main:
        return
    left_out = left_out_line(
        result["num_images"] + result["bad_images"], result["num_images"], result["bad_image_names"]
    )
    if result["labels_mapped"]:
        counts = f"{result['classes_in_data']} of the weights' {result['classes']} classes"
        print(f"labels: mapped by class names; the data has {counts}", file=sys.stderr)
    if left_out:
        print(f"warning: {left_out}", file=sys.stderr)
    if as_json:
        print(to_json(result))
    else:
        print(
            f"Acc@1 {result['accuracy1']:.3f} Acc@5 {result['accuracy5']:.3f} "
            f"Loss {result['loss']:.4f}, {result['num_images']} images, {result['images_per_s']:.0f} images/s"
        )

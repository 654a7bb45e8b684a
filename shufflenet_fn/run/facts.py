"""The resolved run in a few lines, for the start of the log."""

from __future__ import annotations

from shufflenet_fn.config.derived import lanes_of, precision_name
from shufflenet_fn.config.options import declared
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.count import count_macs, count_params
from shufflenet_fn.run.job import Job


def run_facts(
    job: Job, config: ShuffleNetConfig, global_batch: int, threads: int, train_images: int
) -> list[tuple[str, str]]:
    """Label and value of what a user wants to see confirmed before a long run."""
    settings = job.settings
    lanes = lanes_of(settings, job.world_size)
    macs = count_macs(config, height=settings.image_size, width=settings.image_size)
    return [
        ("run directory", str(job.run_dir)),
        (
            "model",
            f"{settings.arch}, {config.num_classes} classes, {count_params(config):,} parameters, "
            f"{macs / 1e6:.1f} M multiply-accumulates at {settings.image_size}²",
        ),
        ("data", f"{settings.data}, {train_images:,} training images"),
        (
            "devices",
            f"{job.world_size} × {job.device}, {threads} loader threads each",
        ),
        (
            "batch",
            f"{global_batch} images per update in {lanes} lanes of {global_batch // lanes}, "
            f"{lanes // job.world_size} per device",
        ),
        ("precision", precision_name(settings)),
        *_settings_by_origin(job),
    ]


def _settings_by_origin(job: Job) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for item in declared(TrainSettings):
        origin = job.resolved.origin.get(item.name, "default")
        groups.setdefault(origin, []).append(f"{item.name}={getattr(job.settings, item.name)}")
    return [
        (f"from {origin}", " ".join(values))
        for origin, values in groups.items()
        if origin != "default"
    ] + [("defaults", " ".join(groups.get("default", [])))]

"""The training batches of a run, the same whoever reads them."""

from __future__ import annotations

from shufflenet_fn.data.buffers import BatchBuffers
from shufflenet_fn.data.loader import BatchIterator, train_loader
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.build_augment import build_augmentation, build_mixing
from shufflenet_fn.run.training import Training


def training_batches(
    run: Training,
    world: World,
    steps: range,
    *,
    threads: int,
    buffers: BatchBuffers | None = None,
) -> BatchIterator:
    """The batches of ``steps`` as the rank of ``world`` sees them; see ``train_loader``."""
    settings = run.job.settings
    return train_loader(
        run.train_set,
        run.train_transform,
        augment=build_augmentation(settings),
        mixing=build_mixing(settings),
        repeats=settings.repeats,
        seed=settings.seed,
        global_batch=run.global_batch,
        rank=world.rank,
        world_size=world.size,
        start_step=steps.start,
        stop_step=steps.stop,
        threads=threads,
        bad_images=run.bad_train,
        buffers=buffers,
        native=run.image_reader,
    )

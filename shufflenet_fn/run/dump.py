"""A step as it was, kept to be looked into: its batch, its gradients, and the state before it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.channel_order import to_logical
from shufflenet_fn.run.json_text import to_json
from shufflenet_fn.run.loading import training_batches
from shufflenet_fn.run.manifest import Progress, changing_part, fixed_part
from shufflenet_fn.run.training import Training
from shufflenet_fn.training.flat import unflatten
from shufflenet_fn.training.flat_state import unflatten_state
from shufflenet_fn.training.losses import Mix
from shufflenet_fn.training.optim import GradientTransformation, Updates
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.training.step import Examples, no_flags
from shufflenet_fn.tree import tree_leaves, tree_paths, tree_zeros_like
from shufflenet_fn_backends.support.errors import UserError

BATCH: Final = "batch.safetensors"
STEP: Final = "step.json"


class Dumped(NamedTuple):
    """``folder``: what was written. ``share``: the ranks whose own loss or gradient was not finite, in words;
    empty if that tells nothing. ``problem``: why it could not be written, such as a full disk."""

    folder: Path
    share: str
    problem: str | None


class _Share(NamedTuple):
    """What one rank's part of the batch gives, computed again."""

    loss: float
    norms: dict[str, float]

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.loss, *self.norms.values())))


def dump_step(
    run: Training, step: int, progress: Progress, before: TrainState, what: str
) -> Dumped:
    """Write ``dump-step-N`` into the run directory. Called alike on all ranks; rank 0 writes.

    The batch is read again, and the gradients are computed again from ``before``: both come out as they
    were.

    Args:
        run: what trains.
        step: its number.
        progress: of the run before it.
        before: the state before it.
        what: what is wrong with it.

    Raises:
        UserError: its images can no longer be read.
    """
    batch = _read_again(run, step)
    shares = gather(_share(run, before, batch), run.world)
    folder = run.job.run_dir / f"dump-step-{step}"
    bad = [rank for rank, share in enumerate(shares) if not share.finite]
    told = 0 < len(bad) < len(shares)
    share = " and ".join(f"rank {rank}" for rank in bad) if told else ""
    problem = None
    if run.world.is_main:
        try:
            _write(run, folder, step, progress, before, what, batch, shares)
        except (OSError, SafetensorError, UserError) as error:
            problem = str(error).removesuffix(".")
    # No rank ends before it is written: with the first to end the launcher ends the others.
    return Dumped(folder, share, gather(problem, run.world)[0])


def _write(
    run: Training,
    folder: Path,
    step: int,
    progress: Progress,
    before: TrainState,
    what: str,
    batch: Batch,
    shares: list[_Share],
) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    safetensors.torch.save_file(_tensors(batch), folder / BATCH)
    about = {
        "step": step,
        "epoch": step // run.steps_per_epoch,
        "what": what,
        "learning_rate": run.learning_rate(step),
        "loss_scale": [float(leaf) for leaf in tree_leaves(before.loss_scale)][:1],
        "ranks": [
            {"rank": rank, "loss": share.loss, "gradient_norms": share.norms}
            for rank, share in enumerate(shares)
        ],
        "samples": [run.train_set.name(index) for index in batch.indices.tolist()],
    }
    (folder / STEP).write_text(to_json(_named(about), indent=2) + "\n", encoding="utf-8")
    plain = unflatten_state(before)
    save_checkpoint(
        folder,
        run.config,
        to_logical(run.config, plain) if run.physical else plain,
        {
            **fixed_part(run),
            **changing_part(run, progress),
            "skipped_in_a_row": max(0, run.skipped_in_a_row - 1),
        },
    )


def _read_again(run: Training, step: int) -> Batch:
    """The whole batch of ``step``, over all ranks."""
    with training_batches(run, World(), range(step, step + 1), threads=0) as batches:
        return next(batches)


def _share(run: Training, before: TrainState, batch: Batch) -> _Share:
    size = run.global_batch // run.world.size
    mine = slice(run.world.rank * size, (run.world.rank + 1) * size)
    mix: Mix | tuple[()] = ()
    if isinstance(batch.mix, Mix):
        mix = Mix(batch.mix.partners[mine].to(run.device), batch.mix.weight.to(run.device))
    examples = Examples(batch.images[mine].to(run.device), batch.labels[mine].to(run.device), mix)
    # An optimizer that changes nothing and keeps the gradients as its state.
    keeper = GradientTransformation(
        lambda params: (),
        lambda grads, state, params, step: (
            Updates(tree_zeros_like(grads), torch.zeros((), device=step.device)),
            grads,
        ),
    )
    after, metrics, _ = run.make_step(keeper)(before, examples, no_flags(run.device))
    norms = {
        path: float(leaf.float().norm()) for path, leaf in tree_paths(unflatten(after.opt_state))
    }
    return _Share(float(metrics.loss), norms)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    tensors: dict[str, Any] = {
        "images": batch.images.contiguous(),
        "labels": batch.labels,
        "indices": batch.indices,
    }
    if isinstance(batch.mix, Mix):
        tensors |= {"partner_labels": batch.mix.partners, "mix_weight": batch.mix.weight}
    return tensors


def _named(value: Any) -> Any:
    """``value`` with "nan", "inf" and "-inf" for numbers that JSON does not have: here they matter."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _named(item) for key, item in value.items()}
        case list():
            return [_named(item) for item in value]
    return value

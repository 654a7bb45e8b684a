"""Losses and gradients that are not finite: when they end a run, and the dump of the step that does."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.io import to_json
from shufflenet_fn.run.saving import Progress, changing_part, fixed_part
from shufflenet_fn.run.training import Training, training_batches
from shufflenet_fn.training.flat import unflatten
from shufflenet_fn.training.losses import Mix
from shufflenet_fn.training.optim import GradientTransformation, Updates
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.training.step import Examples, no_flags
from shufflenet_fn.tree import tree_leaves, tree_paths, tree_zeros_like
from shufflenet_fn_backends.support.errors import UserError


def what_is_bad(loss: float, gradient: float, *, skipped: bool) -> str | None:
    """Describe what is not finite in a step; return ``None`` if everything is finite.

    Args:
        loss, gradient: as read back from the step's ``Metrics`` and ``Flags``, equal on all ranks.
        skipped: whether the step changed nothing.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient):
        return f"the gradient is not finite (under a loss of {loss:.4g})"
    return "the scaled gradient overflowed" if skipped else None


def check_step(
    run: Training, step: int, progress: Progress, before: TrainState | None, what: str | None
) -> None:
    """Count ``step`` as good or bad. Call it on all ranks.

    Args:
        run: the running training.
        step: number of the step.
        progress: progress of the run before the step.
        before: state before the step; not needed for a good step.
        what: result of ``what_is_bad`` for the step.

    Raises:
        UserError: too many consecutive steps were bad; the last one was dumped.
    """
    if what is None:
        run.skipped_in_a_row = 0
        return
    run.skipped_in_a_row += 1
    if run.skipped_in_a_row >= run.max_bad_steps:
        assert before is not None
        raise diverged(run, step, progress, before, what)
    # A loss scale finds its value by overflows: no news unless the loss itself is bad.
    if run.world.is_main and (run.scaling.kind == "none" or not what.startswith("the scaled")):
        run.reporter.warning(
            f"step {step} (epoch {run.epochs.place(step)[0]}) changed nothing: {what}, with learning rate "
            f"{run.learning_rate(step):.4g}; {run.skipped_in_a_row} in a row, and --max-bad-steps is "
            f"{run.max_bad_steps}"
        )


def diverged(run: Training, step: int, progress: Progress, before: TrainState, what: str) -> UserError:
    """Dump the step, if possible, and return the error of a run that has diverged."""
    try:
        dump = dump_step(run, step, progress, before, what)
    except UserError as error:
        dump = Dumped(run.plan.run_dir, "", str(error).removesuffix("."))
    kept = (
        f"the step's images, gradients and the state before it are in {dump.folder}"
        if dump.problem is None
        else f"the step itself could not be kept: {dump.problem}"
    )
    share = f", in the share of {dump.share}" if dump.share else ""
    folder = checkpoints_of(run.plan.run_dir)
    lower = (
        "Go on from an earlier checkpoint with --resume and a lower --learning-rate, start again with"
        if run.plan.resume is not None or checkpoints(folder)
        else "Start again with a lower --learning-rate,"
    )
    row = f", bad step {run.skipped_in_a_row} in a row" if run.skipped_in_a_row > 1 else ""
    return UserError(
        f"training diverged: {what} at step {step} (epoch {run.epochs.place(step)[0]}){row}, with "
        f"learning rate {run.learning_rate(step):.4g}{share}. {lower} --clip-norm 1 or a longer "
        f"--warm-up-epochs, or leave out single steps with --max-bad-steps. What is in {folder} is kept; "
        f"{kept}."
    )


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


def dump_step(run: Training, step: int, progress: Progress, before: TrainState, what: str) -> Dumped:
    """Write ``dump-step-N`` into the run directory. Call it on all ranks; rank 0 writes.

    The batch is read again, and the gradients are computed again from ``before``. Both are the same as in
    the step.

    Args:
        run: the running training.
        step: number of the step.
        progress: progress of the run before the step.
        before: state before the step.
        what: what is not finite in the step.

    Raises:
        UserError: the images of the step can no longer be read.
    """
    batch = _read_again(run, step)
    shares = gather(_share(run, before, batch), run.world)
    folder = run.plan.run_dir / f"dump-step-{step}"
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
        "epoch": run.epochs.place(step)[0],
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
    save_checkpoint(
        folder,
        run.config,
        run.canonical(before),
        {
            **fixed_part(run),
            **changing_part(run, progress),
            "skipped_in_a_row": max(0, run.skipped_in_a_row - 1),
        },
    )


def _read_again(run: Training, step: int) -> Batch:
    """Read the batch of ``step`` again, over all ranks."""
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
    norms = {path: float(leaf.float().norm()) for path, leaf in tree_paths(unflatten(after.opt_state))}
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

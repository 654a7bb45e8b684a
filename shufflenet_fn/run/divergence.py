"""Losses and gradients that are not finite: when they end a run, and the dump of the step that does."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, Final

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

    ``loss`` and ``gradient`` are as read back from the step's ``Metrics`` and ``Flags``, equal on all ranks.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient):
        return f"the gradient is not finite (under a loss of {loss:.4g})"
    return "the scaled gradient overflowed" if skipped else None


def check_step(
    run: Training, step: int, progress: Progress, before: TrainState | None, what: str | None
) -> None:
    """Count ``step`` as good or, for ``what_is_bad`` in it, as bad. Call it on all ranks.

    ``progress`` and ``before`` are those of the run before the step; a good step needs no ``before``.

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
    dump = run.plan.run_dir / f"dump-step-{step}"
    try:
        share, problem = _dump(run, dump, step, progress, before, what)
    except UserError as error:
        share, problem = "", str(error)
    kept = (
        f"the step's images, gradients and the state before it are in {dump}"
        if problem is None
        else f"the step itself could not be kept: {problem.removesuffix('.')}"
    )
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


def _dump(
    run: Training, folder: Path, step: int, progress: Progress, before: TrainState, what: str
) -> tuple[str, str | None]:
    """Write ``folder``. Return the ranks whose own part was not finite, in words, and why writing failed.

    The batch is read again, and the gradients are computed again from the state ``before``. Both are the same
    as in the step.

    Raises:
        UserError: the images can no longer be read.
    """
    with training_batches(run, World(), range(step, step + 1), threads=0) as batches:
        batch = next(batches)  # of all ranks
    shares = gather(_share(run, before, batch), run.world)
    problem = None
    if run.world.is_main:
        about = {
            "step": step,
            "epoch": run.epochs.place(step)[0],
            "what": what,
            "learning_rate": run.learning_rate(step),
            "loss_scale": [float(leaf) for leaf in tree_leaves(before.loss_scale)][:1],
            "ranks": [{"rank": rank, **share} for rank, share in enumerate(shares)],
            "samples": [run.train_set.name(index) for index in batch.indices.tolist()],
        }
        # "nan", "inf" and "-inf" for numbers that JSON does not have: here they matter.
        about = json.loads(json.dumps(about), parse_constant=lambda name: str(float(name)))
        state = {
            **fixed_part(run),
            **changing_part(run, progress),
            "skipped_in_a_row": max(0, run.skipped_in_a_row - 1),
        }
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            safetensors.torch.save_file(_tensors(batch), folder / BATCH)
            (folder / STEP).write_text(f"{to_json(about, indent=2)}\n", encoding="utf-8")
            save_checkpoint(folder, run.config, run.canonical(before), state)
        except (OSError, SafetensorError, UserError) as error:
            problem = str(error)
    # No rank ends before it is written: with the first to end the launcher ends the others.
    problem = gather(problem, run.world)[0]
    finite = [all(map(math.isfinite, (s["loss"], *s["gradient_norms"].values()))) for s in shares]
    bad = [f"rank {rank}" for rank, is_finite in enumerate(finite) if not is_finite]
    return f", in the share of {' and '.join(bad)}" if 0 < len(bad) < len(shares) else "", problem


def _share(run: Training, before: TrainState, batch: Batch) -> dict[str, Any]:
    """Return loss and gradient norms of this rank's part of the batch, computed again."""
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
    return {"loss": float(metrics.loss), "gradient_norms": norms}


def _tensors(batch: Batch) -> dict[str, Tensor]:
    tensors: dict[str, Any] = {
        "images": batch.images.contiguous(),
        "labels": batch.labels,
        "indices": batch.indices,
    }
    if isinstance(batch.mix, Mix):
        tensors |= {"partner_labels": batch.mix.partners, "mix_weight": batch.mix.weight}
    return tensors

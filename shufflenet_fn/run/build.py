"""Build the functions and values that training needs from the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.checkpoint.format import state_from
from shufflenet_fn.checkpoint.read import Content
from shufflenet_fn.checkpoint.torchvision import HEAD, from_torchvision, is_head
from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.config.derived import eval_resize, precision_name
from shufflenet_fn.config.settings import EvalSettings, TrainSettings
from shufflenet_fn.data.augment import Policy as AugmentPolicy
from shufflenet_fn.data.augment import RandAugment, RandomErasing, SampleAugmentation, TrivialAugmentWide
from shufflenet_fn.data.bad_images import BadImages, BadSample, parse_bad_limit
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.demo import ensure_demo
from shufflenet_fn.data.device_ops import normalizer
from shufflenet_fn.data.folder import Note, silent
from shufflenet_fn.data.mixing import Mixing
from shufflenet_fn.data.native.reader import NativeReader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn.io import explained, to_json
from shufflenet_fn.model.config import ShuffleNetConfig, frozen_parts
from shufflenet_fn.model.inference import make_predictor
from shufflenet_fn.model.variables import Variables, init, init_classifier
from shufflenet_fn.training.decay import decay_all, decay_weights, of_classifier
from shufflenet_fn.training.loss_scale import LossScaling, init_loss_scale, parse_loss_scaling
from shufflenet_fn.training.optim import (
    GradientTransformation,
    adamw,
    chain,
    clip_by_global_norm,
    scaled_rate,
    sgd,
)
from shufflenet_fn.training.precision import Policy, get_policy
from shufflenet_fn.training.schedules import Schedule, constant, cosine, epoch_cosine, linear
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.tree import tree_cast, tree_to
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.support.errors import UsageError

Predictor = Callable[[Variables], Callable[[Tensor], Tensor]]


def build_schedule(settings: TrainSettings, steps_per_epoch: int, shift: int = 0) -> Schedule:
    """Return the learning-rate schedule that ``--schedule`` names; ``shift`` is that of ``Epochs``."""
    base, epochs, warmup = settings.learning_rate, settings.epochs, settings.warm_up_epochs
    total, warmup_steps = epochs * steps_per_epoch, warmup * steps_per_epoch
    match settings.schedule:
        case "epoch-cosine":
            schedule = epoch_cosine(
                base, steps_per_epoch=steps_per_epoch, epochs=epochs, warmup_epochs=warmup
            )
        case "cosine":
            schedule = cosine(base, total_steps=total, warmup_steps=warmup_steps)
        case "linear":
            schedule = linear(base, total_steps=total, warmup_steps=warmup_steps)
        case _:
            schedule = constant(base)
    return schedule if shift == 0 else lambda step: schedule(step + shift)


def build_optimizer(settings: TrainSettings, schedule: Schedule) -> GradientTransformation:
    """Return the optimizer that ``--opt`` names, after gradient clipping if that is set."""
    decay = decay_all if settings.decay_on == "all" else decay_weights
    if settings.opt == "adamw":
        optimizer = adamw(schedule, weight_decay=settings.weight_decay, decay=decay)
    else:
        optimizer = sgd(
            schedule,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            decay=decay,
        )
    if settings.head_lr is not None:
        # All schedules are proportional to the peak.
        optimizer = scaled_rate(optimizer, settings.head_lr / settings.learning_rate, of_classifier)
    if settings.clip_norm is None:
        return optimizer
    return chain(clip_by_global_norm(settings.clip_norm), optimizer)


def build_precision(settings: TrainSettings) -> tuple[Policy, LossScaling]:
    """Return policy and loss scaling; ``--loss-scale auto`` is dynamic if the computation is in float16."""
    policy = get_policy(precision_name(settings))
    if settings.loss_scale != "auto":
        return policy, parse_loss_scaling(settings.loss_scale)
    return policy, LossScaling("dynamic" if policy.compute_dtype == torch.float16 else "none")


def build_transforms(settings: TrainSettings) -> tuple[TrainTransform, EvalTransform]:
    """Return the transforms of training and of evaluation."""
    size = settings.image_size
    return (
        TrainTransform(
            size,
            scale=(settings.crop_scale, settings.crop_scale_max),
            ratio=(1 / settings.crop_ratio, settings.crop_ratio),
            jitter=settings.color_jitter,
            flip=settings.flip,
        ),
        EvalTransform(eval_resize(size, settings.eval_resize), size),
    )


def build_prepare(
    memory_format: torch.memory_format,
    device: torch.device,
    *,
    reuse: bool = False,
    native: NativeReader | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return the function from uint8 images to normalised float32 ones in the given layout, on the device.

    ``reuse`` and ``native`` are those of ``device_ops.normalizer``.
    """
    normalise = normalizer(device=device, reuse=reuse, native=native)
    return lambda images: normalise(images.contiguous(memory_format=memory_format))


def build_predictor(
    config: ShuffleNetConfig, *, backend: Backend[Any], policy: Policy, prepare: Callable[[Tensor], Tensor]
) -> Predictor:
    """Return a function from variables, in the channel order of ``backend``, to a predictor of images."""

    def predictor(variables: Variables) -> Callable[[Tensor], Tensor]:
        predict = make_predictor(config, variables, backend=backend, policy=policy)
        return lambda images: predict(prepare(images))

    return predictor


def memory_format_of(name: str, runtime: Runtime) -> torch.memory_format:
    """Return the layout that ``--memory-format`` names; ``auto`` is the runtime's."""
    named = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    return named.get(name, runtime.memory_format)


def build_state(
    settings: TrainSettings,
    config: ShuffleNetConfig,
    optimizer: GradientTransformation,
    device: torch.device,
    *,
    resume: Content | None,
    pretrained: Path | None = None,
) -> tuple[TrainState, list[str]]:
    """Return the initial state, and notes on where it came from.

    It is that of the checkpoint ``resume``, if there is one; otherwise ``pretrained`` or fresh weights. It is
    on ``device``, in canonical channel order.

    Raises:
        UsageError: the checkpoint was written with other settings.
    """
    policy, scaling = build_precision(settings)
    generator = torch.Generator().manual_seed(settings.seed)
    # The pretrained weights may no longer exist when the run is resumed.
    if pretrained is None or resume is not None:
        variables, notes = init(config, generator), [f"weights: fresh, from seed {settings.seed}"]
    else:
        variables, notes = load_pretrained(pretrained, config, generator)
    variables = variables._replace(params=tree_cast(variables.params, policy.param_dtype))
    state = create_train_state(
        tree_to(variables, device),
        optimizer,
        loss_scaling=scaling,
        ema=settings.ema_decay is not None,
        frozen=frozen_parts(settings.freeze),
    )
    if resume is None:
        return state, notes
    state = state_from(resume.files, config, state, resume.path)
    if scaling.kind == "static":
        # Another number may have been given at the resume; a static scale has no history.
        state = state._replace(loss_scale=init_loss_scale(scaling, device))
    return state, [f"resumed from {resume.path} at step {int(state.step)}"]


def load_pretrained(
    path: Path, config: ShuffleNetConfig, generator: torch.Generator
) -> tuple[Variables, list[str]]:
    """Read weights from ``path``. A classifier that is missing or does not fit is a fresh one (a note)."""
    tensors, _, notes = read_weights(path)
    notes = [f"weights: from {path}", *notes]
    head = [key for key in tensors if is_head(key)]
    width = len(tensors["fc.weight"]) if set(head) == set(HEAD) else None
    if width != config.num_classes:
        has = f"has {width} classes" if width else f"is of another form ({', '.join(head[:4])})"
        notes.append(
            f"the classifier in {path} {has}; it was replaced by a fresh one of {config.num_classes}"
            if head
            else f"there is no classifier in {path}; it got a fresh one of {config.num_classes} classes"
        )
        fresh = init_classifier(config, generator)
        tensors = {key: value for key, value in tensors.items() if key not in head}
        tensors |= dict(zip(HEAD, (fresh["weight"], fresh["bias"]), strict=True))
    return tree_cast(from_torchvision(tensors, config), torch.float32), notes


def build_augmentation(settings: TrainSettings) -> SampleAugmentation:
    """Return the augmentation that follows crop, jitter and flip."""
    policies: dict[str, AugmentPolicy] = {
        "trivial": TrivialAugmentWide(),
        "rand": RandAugment(settings.rand_ops, settings.rand_magnitude),
    }
    return SampleAugmentation(
        policy=policies.get(settings.auto_augment),
        erasing=RandomErasing(settings.erase) if settings.erase > 0 else None,
    )


def build_mixing(settings: TrainSettings) -> Mixing | None:
    """Return mixup and cutmix, ``None`` without either."""
    if settings.mixup == settings.cutmix == 0:
        return None
    return Mixing(mixup=settings.mixup, cutmix=settings.cutmix)


def bad_images_of(
    samples: Dataset, settings: TrainSettings | EvalSettings, file: Path | None = None
) -> BadImages | None:
    """Return how to treat bad images of ``samples``; ``None`` to stop at the first one.

    ``file``: gets one JSON object per bad image. It is created for the first one; a resumed run appends the
    bad images that it reads again.
    """

    def record(sample: BadSample) -> None:
        if file is None:
            return
        what = f"add the bad image {sample.name} to {printable(file)}"
        fix = "Make room or restore the run directory, then go on with --resume."
        with explained(what, fix), open(file, "a", encoding="utf-8") as lines:
            lines.write(f"{to_json(dataclasses.asdict(sample))}\n")

    if settings.on_bad_image == "stop":
        return None
    return BadImages(samples, parse_bad_limit(settings.max_bad), record=record)


def open_data(settings: TrainSettings, *, note: Note = silent) -> tuple[Dataset, Dataset]:
    """Return the training and validation split that ``--data`` names; ``note`` as for ``open_train_val``."""
    if settings.data is None:
        raise UsageError(
            "no training data: give --data DIR, a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or "
            "--data demo (or --preset demo) for the built-in set."
        )
    root = ensure_demo() if settings.data == "demo" else Path(settings.data)
    return open_train_val(root, note=note)

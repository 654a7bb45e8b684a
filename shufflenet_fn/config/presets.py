"""Named recipes, each with its source. Every value can be overridden. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from shufflenet_fn_backends.names import suggestion
from shufflenet_fn_backends.support.errors import UsageError


class Preset(NamedTuple):
    """A recipe: ``values`` by setting name. ``source`` and ``warning`` are shown at the start."""

    values: Mapping[str, Any]
    source: str
    warning: str | None = None


_ASCEND: Final = MappingProxyType(
    {
        "arch": "shufflenet_v2_x1_0",
        "epochs": 240,
        "momentum": 0.0,
        "schedule": "epoch-cosine",
        "decay_on": "all",
        "label_smoothing": 0.0,
        "color_jitter": 0.2,
        "bn_stats": "rank0",
        "amp": True,
        "opt_level": "O2",
        "loss_scale": "64",
        "seed": 49,
        "eval_freq": 5,
        "benchmark": 0,
        # Without its 128 and 184 workers: they suit its machines, and results do not depend on them.
    }
)

_ASCEND_WARNING: Final = (
    "these are the original's numbers, kept for comparison, momentum 0 included. Its effective step "
    "lr/(1-momentum)/batch is a tenth of the paper's, and it published {accuracy} top-1 where the paper "
    "has 69.4. For accuracy rather than comparison use --preset paper."
)

_SMALL_DATA: Final = MappingProxyType(
    {
        # torchvision's recipe, as in "tuned".
        "schedule": "cosine",
        "decay_on": "weights",
        "label_smoothing": 0.1,
        # Ours, for a few thousand images (docs/training.md, "Fine-tuning").
        "batch_size": 64,
        "warm_up_epochs": 1,
        "crop_scale": 0.35,
        "color_jitter": 0.0,
    }
)

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "ascend-1p": Preset(
            {
                **_ASCEND,
                "batch_size": 1536,
                "learning_rate": 0.75,
                "warm_up_epochs": 1,
                "weight_decay": 2.0**-15,
                "print_freq": 10,
                "devices": 1,
            },
            "Ascend ModelZoo-PyTorch, Shufflenetv2_for_PyTorch, test/train_full_1p.sh",
            _ASCEND_WARNING.format(accuracy="68.5"),
        ),
        "ascend-8p": Preset(
            {
                **_ASCEND,
                "batch_size": 8192,
                "learning_rate": 4.0,
                "warm_up_epochs": 5,
                "weight_decay": 1e-4,
                "print_freq": 1,
                "devices": 8,
            },
            "Ascend ModelZoo-PyTorch, Shufflenetv2_for_PyTorch, test/train_full_8p.sh",
            _ASCEND_WARNING.format(accuracy="65.2 to 66.5"),
        ),
        "paper": Preset(
            {
                "epochs": 240,
                "batch_size": 1024,
                "learning_rate": 0.5,
                "schedule": "linear",
                "momentum": 0.9,
                "weight_decay": 4e-5,
                "decay_on": "weights",
                "label_smoothing": 0.1,
                "color_jitter": 0.4,
            },
            "megvii-model/ShuffleNet-Series, ShuffleNetV2/train.py (300,000 steps of 1024 images; its "
            "BGR 0-255 input is replaced by normalised RGB)",
        ),
        "tuned": Preset(
            # Every value is of the command in the source, where the batch is 8 x 128 images.
            {
                "epochs": 600,
                "batch_size": 1024,
                "learning_rate": 0.5,
                "schedule": "cosine",
                "warm_up_epochs": 5,
                "momentum": 0.9,
                "weight_decay": 2e-5,
                "decay_on": "weights",
                "label_smoothing": 0.1,
                "image_size": 176,
                "color_jitter": 0.0,
                "auto_augment": "trivial",
                "erase": 0.1,
                "mixup": 0.2,
                "cutmix": 1.0,
                "repeats": 4,
            },
            "torchvision's training of its x1_5 and x2_0, github.com/pytorch/vision/pull/5906",
            "not run by us. torchvision published 73.0 top-1 for x1_5 and 76.2 for x2_0, at evaluate "
            "--image-size 224 --eval-resize 232. Its warm-up changes per epoch, and it decays the "
            "classifier's bias.",
        ),
        "finetune": Preset(
            {
                **_SMALL_DATA,
                # Li et al., "Rethinking the hyperparameters for fine-tuning", arXiv:2002.11770, section 1.
                "learning_rate": 0.01,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                # Chen et al., "A simple framework for contrastive learning", arXiv:2002.05709, appendix B.8.
                "nesterov": True,
                # Zhang et al., "Dive into Deep Learning", d2l.ai, section 14.2: ten times that of the body.
                "head_lr": 0.1,
                "epochs": 20,  # ours
            },
            "values of arXiv:2002.11770, arXiv:2002.05709, d2l.ai and torchvision; give --pretrained",
        ),
        "scratch": Preset(
            {
                **_SMALL_DATA,
                # Zagoruyko and Komodakis, "Wide residual networks", arXiv:1605.07146, section 3, on CIFAR.
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 5e-4,
                "epochs": 60,  # ours
            },
            "values of arXiv:1605.07146 and torchvision, for small data without pretrained weights",
        ),
        "demo": Preset(
            {
                "data": "demo",
                "arch": "shufflenet_v2_x0_5",
                "image_size": 64,
                "epochs": 12,
                "batch_size": 32,
                "learning_rate": 0.03,
                "schedule": "cosine",
                "warm_up_epochs": 1,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 1e-3,
                "decay_on": "weights",
                "label_smoothing": 0.1,
                "crop_scale": 0.8,
                "color_jitter": 0.0,
                # At 64 pixels a second compute thread costs more in waiting than it computes.
                "threads": 1,
                "workers": 1,
            },
            "ours, for the built-in demo data on a laptop",
        ),
    }
)


def get_preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        UsageError: there is none; the message lists the valid ones.
    """
    if name not in PRESETS:
        raise UsageError(
            f"unknown preset {name!r}{suggestion(name, PRESETS)}. Valid presets: {', '.join(PRESETS)}."
        )
    return PRESETS[name]

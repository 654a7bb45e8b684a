"""ShuffleNetV2 as pure functions over parameter pytrees.

>>> import torch
>>> from shufflenet_fn import apply, get_config, init
>>> config = get_config("x0_5", num_classes=10)
>>> variables = init(config, torch.Generator().manual_seed(0))
>>> logits, batch_stats = apply(config, variables, torch.zeros(2, 3, 64, 64), train=True)
>>> logits.shape
torch.Size([2, 10])

The public names are listed in ``__all__``. They are imported on first use (PEP 562), so that importing the
package, as the command line does, is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shufflenet_fn.checkpoint.torchvision import from_module, from_torchvision, to_module, to_torchvision
    from shufflenet_fn.model.config import ARCHITECTURES, ShuffleNetConfig, get_config
    from shufflenet_fn.model.inference import InferenceParams, fold, infer, make_predictor
    from shufflenet_fn.model.network import apply, features
    from shufflenet_fn.model.variables import Variables, init
    from shufflenet_fn.training.loss_scale import LossScaling
    from shufflenet_fn.training.losses import cross_entropy
    from shufflenet_fn.training.optim import GradientTransformation, adamw, sgd
    from shufflenet_fn.training.precision import Policy, get_policy
    from shufflenet_fn.training.state import TrainState, create_train_state
    from shufflenet_fn.training.step import Examples, make_eval_step, make_train_step
    from shufflenet_fn_backends.registry import get_backend

_NAMES = {
    "shufflenet_fn.checkpoint.torchvision": (
        "from_module",
        "from_torchvision",
        "to_module",
        "to_torchvision",
    ),
    "shufflenet_fn.model.config": ("ARCHITECTURES", "ShuffleNetConfig", "get_config"),
    "shufflenet_fn.model.inference": ("InferenceParams", "fold", "infer", "make_predictor"),
    "shufflenet_fn.model.network": ("apply", "features"),
    "shufflenet_fn.model.variables": ("Variables", "init"),
    "shufflenet_fn.training.loss_scale": ("LossScaling",),
    "shufflenet_fn.training.losses": ("cross_entropy",),
    "shufflenet_fn.training.optim": ("GradientTransformation", "adamw", "sgd"),
    "shufflenet_fn.training.precision": ("Policy", "get_policy"),
    "shufflenet_fn.training.state": ("TrainState", "create_train_state"),
    "shufflenet_fn.training.step": ("Examples", "make_eval_step", "make_train_step"),
    "shufflenet_fn_backends.registry": ("get_backend",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "ARCHITECTURES",
    "Examples",
    "GradientTransformation",
    "InferenceParams",
    "LossScaling",
    "Policy",
    "ShuffleNetConfig",
    "TrainState",
    "Variables",
    "adamw",
    "apply",
    "create_train_state",
    "cross_entropy",
    "features",
    "fold",
    "from_module",
    "from_torchvision",
    "get_backend",
    "get_config",
    "get_policy",
    "infer",
    "init",
    "make_eval_step",
    "make_predictor",
    "make_train_step",
    "sgd",
    "to_module",
    "to_torchvision",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""From defaults, preset, config file and command line to one set of values, each with its origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.config.options import convert, declared
from shufflenet_fn.config.presets import get_preset
from shufflenet_fn.config.settings import TrainSettings, renamed
from shufflenet_fn.data.bad_limit import parse_bad_limit
from shufflenet_fn.model.config import canonical_name
from shufflenet_fn_backends.names import suggestion
from shufflenet_fn_backends.support.errors import UsageError

_IDENTITY = ("run_dir", "resume", "profile")


class Resolved(NamedTuple):
    """``origin``: for each setting "default", "preset NAME", "FILE" or "command line"."""

    settings: TrainSettings
    origin: dict[str, str]
    preset: str | None


def resolve(
    given: Mapping[str, Any], *, preset: str | None = None, config_file: Path | None = None
) -> Resolved:
    """Combine defaults, preset, config file and ``given`` (from the command line); later ones win.

    A config file may name its preset under the key ``preset``.

    Raises:
        UsageError: an unknown name or a value that is not allowed.
    """
    from_file = read_config_file(config_file) if config_file else {}
    file_preset = from_file.pop("preset", None)
    preset = preset or file_preset
    values: dict[str, Any] = {}
    origin = {item.name: "default" for item in declared(TrainSettings)}
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if preset:
        layers.append((f"preset {preset}", get_preset(preset).values))
    layers.append((str(config_file), from_file))
    layers.append(("command line", given))
    for source, layer in layers:
        layer = settle_conflicts(layer)
        values.update(layer)
        origin.update(dict.fromkeys(layer, source))
    settings = checked(TrainSettings(**values))
    if settings.opt_level != TrainSettings.opt_level and not settings.amp:
        raise UsageError(
            f"--opt-level {settings.opt_level} has an effect only with --amp. Add --amp, or say "
            f"--precision {settings.opt_level}."
        )
    if settings.max_bad != TrainSettings.max_bad and settings.on_bad_image != "skip":
        raise UsageError(
            f"--max-bad {settings.max_bad} has an effect only with --on-bad-image skip. Add that, or "
            "drop this."
        )
    for name in ("rand_ops", "rand_magnitude"):
        value = getattr(settings, name)
        if value != getattr(TrainSettings, name) and settings.auto_augment != "rand":
            raise UsageError(
                f"--{name.replace('_', '-')} {value} has an effect only with --auto-augment rand, and "
                f"it is {settings.auto_augment}. Add that, or drop this."
            )
    # A preset's warm-up may be longer than a trial of it: then the plan warns.
    recipe = get_preset(preset).values if preset else {}
    usual = recipe.get("warm_up_epochs", TrainSettings.warm_up_epochs)
    if settings.warm_up_epochs != usual and 0 < settings.epochs <= settings.warm_up_epochs:
        raise UsageError(
            f"--warm-up-epochs {settings.warm_up_epochs} leaves nothing of --epochs {settings.epochs}. "
            "Make it smaller than the number of epochs."
        )
    return Resolved(settings, origin, preset)


def settle_conflicts(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``layer`` with what it implies: a precision switches off a lower layer's ``amp``, and so on."""
    settled = dict(layer)
    if layer.get("precision"):
        settled.setdefault("amp", False)
        if not settled["amp"]:  # the level of a preset's or config file's amp
            settled.setdefault("opt_level", TrainSettings.opt_level)
    elif layer.get("amp"):
        settled.setdefault("precision", None)
    if layer.get("devices"):
        settled.setdefault("device_list", None)
    return settled


def read_config_file(path: Path) -> dict[str, Any]:
    """Read settings from a YAML or JSON file: a flat mapping, or a run's ``config.json``.

    Raises:
        UsageError: it cannot be read, or has an unknown key or a value of the wrong type.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"the config file {path} is not text.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"the config file {path} is neither YAML nor JSON: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        # A run's config.json: its recipe, but not its identity.
        content = {k: v for k, v in content["settings"].items() if k not in _IDENTITY}
    if not isinstance(content, dict):
        raise UsageError(
            f"the config file {path} must hold 'key: value' lines such as 'epochs: 90'."
        )
    known = {item.name: item for item in declared(TrainSettings)}
    values: dict[str, Any] = {}
    for key, value in renamed(content).items():
        name = str(key).replace("-", "_")
        if name == "preset" and isinstance(value, str):
            values[name] = value
        elif name == "preset":
            raise UsageError(f"preset in {path} is {value!r}, but must be the name of one.")
        elif name == "resume":
            raise UsageError(
                f"the config file {path} has the key 'resume'. A resumed run takes all its settings from "
                "the run itself: give --resume on the command line, without --config."
            )
        elif name in known:
            values[name] = convert(known[name], value, str(path))
        else:
            raise UsageError(
                f"unknown key {key!r} in the config file {path}{suggestion(name, known)}. "
                f"Valid keys: preset, {', '.join(known)}."
            )
    return values


def checked(settings: TrainSettings) -> TrainSettings:
    """Check ``settings`` and return them with derived values filled in."""
    for item in declared(TrainSettings):
        item.option.check(item.name, getattr(settings, item.name))
    if settings.precision and settings.amp:
        raise UsageError(
            f"--precision {settings.precision} and --amp both choose the precision. "
            "Drop one; --amp means --precision " + settings.opt_level + "."
        )
    if settings.nesterov and settings.momentum == 0:
        raise UsageError("--nesterov needs a --momentum above 0, for example --momentum 0.9.")
    if settings.node_rank >= settings.num_nodes:
        raise UsageError(
            f"--node-rank {settings.node_rank} does not exist among --nnodes {settings.num_nodes} machines; "
            f"they are numbered from 0 to {settings.num_nodes - 1}."
        )
    if settings.benchmark and settings.accumulate > 1:
        raise UsageError(
            f"--benchmark 1 and --accumulate {settings.accumulate} both choose the accumulation. Drop one."
        )
    if settings.crop_scale > settings.crop_scale_max:
        raise UsageError(
            f"--crop-scale {settings.crop_scale} is larger than --crop-scale-max {settings.crop_scale_max}. "
            "Exchange them, or make the smallest share no larger than the largest."
        )
    parse_bad_limit(settings.max_bad)
    resize = settings.eval_resize
    if resize is not None and resize < settings.image_size:
        raise UsageError(
            f"--eval-resize {resize} is smaller than --image-size {settings.image_size}: the evaluation "
            "crop would not fit. Make it at least as large."
        )
    return dataclasses.replace(settings, arch=canonical_name(settings.arch))

"""Merge defaults, preset, config file and command line into one set of values, each with its origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shufflenet_fn.config.options import check_options, convert, declared, expand_home
from shufflenet_fn.config.presets import get_preset
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.io import parse_json
from shufflenet_fn.model.config import PARTS, canonical_name, frozen_parts
from shufflenet_fn_backends.names import suggestion
from shufflenet_fn_backends.support.errors import UsageError

if TYPE_CHECKING:
    import yaml

_IDENTITY = ("run_dir", "resume", "profile")
_NOT_GIVEN = {"resume": "", "device_list": "", "devices": -1, "num_nodes": -1, "node_rank": -1}
"""Defaults of the original that say nothing, as scripts pass them."""
_PATHS = ("data", "pretrained", "output", *_IDENTITY)


class Resolved(NamedTuple):
    """Merged settings. ``origin``: "default", "preset NAME", "FILE" or "command line", by setting."""

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
    own_rate = True  # whether the learning rate was chosen with the optimizer, or after it
    for source, layer in layers:
        layer = settle_conflicts(layer)
        before = values.get("opt", TrainSettings.opt)
        own_rate = "learning_rate" in layer or (own_rate and layer.get("opt", before) == before)
        if "learning_rate" in layer and origin["head_lr"].startswith("preset "):
            layer.setdefault("head_lr", None)  # a preset's rate of the classifier goes with its other rate
        values.update(layer)
        origin.update(dict.fromkeys(layer, source))
    settings = checked(TrainSettings(**values))
    if settings.opt == "adamw" and not own_rate:
        raise UsageError(
            f"--opt adamw needs a learning rate: {settings.learning_rate:g} ({origin['learning_rate']}) is "
            "meant for sgd. Give --lr, for example --lr 0.001."
        )
    random = f"--auto-augment rand, and it is {settings.auto_augment}"
    for name, has_effect, needed in (
        ("opt_level", settings.amp, f"--amp, or as --precision {settings.opt_level}"),
        ("max_bad", settings.on_bad_image == "skip", "--on-bad-image skip"),
        ("rand_ops", settings.auto_augment == "rand", random),
        ("rand_magnitude", settings.auto_augment == "rand", random),
    ):
        value = getattr(settings, name)
        if value != getattr(TrainSettings, name) and not has_effect:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {value} has an effect only with {needed}. Add that, or drop this.")
    return Resolved(settings, origin, preset)


def without_empty(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` without the original's defaults that mean "not given", such as ``--resume ''``."""
    return {key: v for key, v in given.items() if key not in _NOT_GIVEN or v != _NOT_GIVEN[key]}


def settle_conflicts(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``layer`` with the values that it implies, such as no ``amp`` for a layer with a precision."""
    settled = dict(layer)
    if layer.get("precision"):
        settled.setdefault("amp", False)
        if not settled["amp"]:  # the level of a preset's or config file's amp
            settled.setdefault("opt_level", TrainSettings.opt_level)
    elif layer.get("amp"):
        settled.setdefault("precision", None)
    if layer.get("opt") == "adamw":  # a preset's or config file's sgd
        settled.setdefault("nesterov", False)
        settled.setdefault("momentum", TrainSettings.momentum)
    if layer.get("devices"):
        settled.setdefault("device_list", None)
    return settled


def read_config_file(path: Path) -> dict[str, Any]:
    """Read settings from a YAML or JSON file: a flat mapping, or a run's ``config.json``.

    Keys are names of settings or spellings of options, such as ``lr``. Values are read as on the command
    line, so that ``0100`` is a hundred and ``off`` may be a name.

    Raises:
        UsageError: it cannot be read, has an unknown key, the same one twice or a value of the wrong type.
    """
    content = _mapping(path)
    known = {item.name: item for item in declared(TrainSettings)}
    spellings = _spellings()
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for key, value in content.items():
        name, negated = spellings.get(_key(key), (_key(key), False))
        if name in _NOT_GIVEN and value in ("", _NOT_GIVEN[name], str(_NOT_GIVEN[name])):
            continue
        if name in given:
            raise UsageError(
                f"the config file {path} has {given[name]!r} and {key!r}, which are the same setting. "
                "Drop one."
            )
        given[name] = key
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
            converted = convert(known[name], value, str(path))
            values[name] = not converted if negated else converted
        else:
            raise UsageError(
                f"unknown key {key!r} in the config file {path}{suggestion(name, spellings)}. "
                f"Valid keys: preset, {', '.join(known)}."
            )
    return values


def _spellings() -> dict[str, tuple[str, bool]]:
    """Return the name of the setting for each of its spellings, and whether it is a negative form."""
    spellings = {}
    for item in declared(TrainSettings):
        spellings[item.name] = (item.name, False)
        for flag in item.option.flags:
            on, _, off = flag.partition("/")
            spellings |= {_key(on): (item.name, False), _key(off): (item.name, True)}
    spellings.pop("")  # of options without a negative form
    return spellings


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that version 0.1 stored, some under another spelling, with their names now."""
    spellings = _spellings()
    return {spellings.get(name, (name, False))[0]: value for name, value in values.items()}


def _key(spelling: str) -> str:
    return spelling.lstrip("-").replace("-", "_")


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            content = parse_json(text.encode())
        except ValueError:
            content = yaml.load(text, _text_loader(path))
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"the config file {path} is not text in UTF-8.") from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the config file {path} is neither YAML nor JSON: {reason}") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        # A run's config.json: its recipe, but not its identity.
        content = {k: v for k, v in content["settings"].items() if k not in _IDENTITY}
    if not isinstance(content, dict):
        raise UsageError(f"the config file {path} must hold 'key: value' lines such as 'epochs: 90'.")
    return {str(key): value for key, value in content.items()}


def _text_loader(path: Path) -> type[yaml.SafeLoader]:
    """Return a loader that leaves scalars other than null as text and refuses a key that is there twice."""
    import yaml

    kept = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")

    class TextLoader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            keys = [str(key.value) for key, _ in node.value]
            for number, (key, _) in enumerate(node.value):
                if str(key.value) in keys[:number]:
                    raise UsageError(
                        f"the config file {path} has the key {key.value!r} twice, the second time in line "
                        f"{key.start_mark.line + 1}. Drop one."
                    )
            return node

    TextLoader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag in kept]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return TextLoader


def checked(settings: TrainSettings) -> TrainSettings:
    """Check ``settings`` and return them with derived values filled in."""
    from shufflenet_fn.data.bad_images import parse_bad_limit  # imports numpy, which --help does not need

    check_options(settings)
    if settings.precision and settings.amp:
        raise UsageError(
            f"--precision {settings.precision} and --amp both choose the precision. "
            "Drop one; --amp means --precision " + settings.opt_level + "."
        )
    for name in ("nesterov", "momentum"):
        value = getattr(settings, name)
        if settings.opt == "adamw" and value != getattr(TrainSettings, name):
            raise UsageError(f"--{name}{'' if value is True else f' {value}'} is for --opt sgd. Drop one.")
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
    paths: dict[str, Any] = {
        name: expand_home(value) for name in _PATHS if (value := getattr(settings, name)) is not None
    }
    parts = frozen_parts(settings.freeze)
    freeze = ",".join(name for name, key in PARTS.items() if key in parts) or "none"
    return dataclasses.replace(settings, arch=canonical_name(settings.arch), freeze=freeze, **paths)

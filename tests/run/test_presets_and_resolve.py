"""Where a setting's value comes from, and the presets' exact numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.config.derived import eval_resize, global_batch, microbatches_per_device
from shufflenet_fn.config.options import declared
from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.config.resolve import checked, read_config_file, resolve
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.augment.mixing import Mixing
from shufflenet_fn.data.augment.policies import RandAugment, TrivialAugmentWide
from shufflenet_fn.data.augment.sample import RandomErasing, SampleAugmentation
from shufflenet_fn.run.build import build_augmentation, build_mixing, build_transforms
from shufflenet_fn_backends.support.errors import UsageError


@pytest.mark.parametrize(
    ("name", "own"),
    [("ascend-1p", (1536, 0.75, 1, 3.0517578125e-05, 10, 1)), ("ascend-8p", (8192, 4.0, 5, 1e-4, 1, 8))],
)
def test_ascend_presets_are_the_originals_numbers(name: str, own: tuple[float, ...]) -> None:
    s = resolve({}, preset=name).settings
    assert own == (s.batch_size, s.learning_rate, s.warm_up_epochs, s.weight_decay, s.print_freq, s.devices)
    assert (s.momentum, s.epochs, s.arch, s.seed) == (0.0, 240, "shufflenet_v2_x1_0", 49)
    assert (s.amp, s.opt_level, s.loss_scale) == (True, "O2", "64")
    assert (s.eval_freq, s.color_jitter, s.schedule) == (5, 0.2, "epoch-cosine")
    assert (s.label_smoothing, s.decay_on) == (0.0, "all")
    assert "momentum 0" in str(PRESETS[name].warning)


def test_every_preset_is_valid() -> None:
    known = {item.name for item in declared(TrainSettings)}
    for name, preset in PRESETS.items():
        assert set(preset.values) <= known
        assert resolve({}, preset=name).preset == name
        assert preset.source


def test_order_of_precedence_and_origins(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("preset: paper\nmomentum: 0.5\nbatch-size: 32\n")
    resolved = resolve({"batch_size": 16}, config_file=file)
    assert resolved.settings.learning_rate == 0.5
    assert resolved.origin["learning_rate"] == "preset paper"
    assert resolved.settings.momentum == 0.5 and resolved.origin["momentum"] == str(file)
    assert resolved.settings.batch_size == 16
    assert resolved.origin["batch_size"] == "command line"
    assert resolved.origin["seed"] == "default"


@pytest.mark.parametrize("name", [item.name for item in declared(TrainSettings)])
def test_every_setting_has_help_and_a_valid_default(name: str) -> None:
    item = next(i for i in declared(TrainSettings) if i.name == name)
    assert item.option.help and item.option.panel
    assert all(flag.startswith("-") for flag in item.option.flags)
    item.option.check(item.name, item.default)
    assert item.default is None or type(item.default) is item.type


def test_no_two_settings_share_a_flag() -> None:
    flags = [flag for item in declared(TrainSettings) for flags in item.option.flags for flag in [flags]]
    assert len(flags) == len(set(flags))


def test_the_originals_table_is_complete() -> None:
    spellings = {
        part for item in declared(TrainSettings) for flag in item.option.flags for part in flag.split("/")
    }
    table = (
        "--data --addr --seed --workers --learning-rate --print-freq --eval-freq --arch "
        "--dist-backend --batch-size --epoch --warm_up_epochs --rank --amp --momentum --wd "
        "--device-list --benchmark --device_num --dist-url --multiprocessing-distributed "
        "--world-size"
    )
    assert set(table.split()) <= spellings


def test_eval_resize_follows_the_image_size() -> None:
    assert eval_resize(224, None) == 256
    assert eval_resize(112, None) == 128
    assert eval_resize(64, 64) == 64
    # Derived where it is used: what is stored must not tie a later run to this one's size.
    assert checked(TrainSettings(image_size=112)).eval_resize is None
    assert resolve({"image_size": 128}, preset="demo").settings.image_size == 128


def test_an_explicit_precision_wins_over_a_presets() -> None:
    settings = resolve({"precision": "bf16"}, preset="ascend-8p").settings
    assert settings.precision == "bf16" and not settings.amp
    settings = resolve({"amp": True}, preset="ascend-8p").settings
    assert settings.amp and settings.precision is None
    with pytest.raises(UsageError, match="--opt-level O3 has an effect only with --amp"):
        resolve({"opt_level": "O3"})
    with pytest.raises(UsageError, match="--accumulate 3"):
        resolve({"benchmark": 1, "accumulate": 3})


def test_own_rate_or_optimizer_replaces_what_belongs_to_a_presets() -> None:
    assert resolve({}, preset="finetune").settings.head_lr == 0.1
    settings = resolve({"opt": "adamw", "learning_rate": 1e-3}, preset="finetune").settings
    assert (settings.head_lr, settings.nesterov, settings.momentum) == (None, False, 0.9)
    settings = resolve({"learning_rate": 1e-3, "head_lr": 1e-2}, preset="finetune").settings
    assert (settings.head_lr, settings.nesterov) == (1e-2, True)


def test_stored_config_sets_recipe_but_not_run_directory(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"settings": {"epochs": 7, "run_dir": "there", "resume": null}}')
    settings = resolve({}, config_file=file).settings
    assert settings.epochs == 7 and settings.run_dir is None


def test_setting_names_of_version_0_1_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"settings": {"world_size": 2, "rank": 1, "addr": "a", "dist_url": "b:1"}}')
    settings = resolve({}, config_file=file).settings
    assert (settings.num_nodes, settings.node_rank) == (2, 1)
    assert (settings.master_addr, settings.rdzv_endpoint) == ("a", "b:1")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("seed: 0100", {"seed": 100}),
        ("run_dir: 001", {"run_dir": "001"}),
        ("run_dir: off", {"run_dir": "off"}),
        ("run_dir: 2024-01-01", {"run_dir": "2024-01-01"}),
        ("max_time: 12:30", {"max_time": "12:30"}),
        ("loss_scale: 064", {"loss_scale": "064"}),
        ("data: '~'", {"data": "~"}),
        ("data: ~\nrun_dir:", {"data": None, "run_dir": None}),
        ("lr: 1e-3\nwd: 1.\nepoch: '7'", {"learning_rate": 1e-3, "weight_decay": 1.0, "epochs": 7}),
        ("-b: 3\nj: 2\nwarm-up-epochs: 1", {"batch_size": 3, "workers": 2, "warm_up_epochs": 1}),
        ("amp: yes\nnesterov: On\nno-compile: true", {"amp": True, "nesterov": True, "compile": False}),
        ("<<: {lr: 1, b: 3}\nlr: 2", {"learning_rate": 2.0, "batch_size": 3}),
        ("\ufeff{lr: 1, data: caf\u00e9}", {"learning_rate": 1.0, "data": "caf\u00e9"}),
        ('{"run_dir": 5, "data": "\\ud83d\\ude00 \\udce9"}', {"run_dir": "5", "data": "😀 \udce9"}),
        ("device_list: ''\ngpu: 0\nworld_size: -1", {"device_list": "0"}),
    ],
)
def test_config_values_keep_their_text(tmp_path: Path, content: str, expected: dict[str, object]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content, encoding="utf-8")
    assert read_config_file(file) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"resume: runs/x", "resume"),
        (b"preset: 5", "preset"),
        (b"\xff\xfe\x00\x01", "not text in UTF-8"),
        (b"- 1\n- 2", "key: value"),
        (b"a: [", "neither YAML nor JSON"),
        (b"[" * 2000, "neither YAML nor JSON"),
        (b"'': 1", "unknown key ''"),
        (b"lr: 1\nlr: 2", "has the key 'lr' twice, the second time in line 2"),
        (b'{"lr": 1, "lr": 2}', "has the key 'lr' twice"),
        (b"settings:\n  lr: 1\n  lr: 1", "has the key 'lr' twice, the second time in line 3"),
        (b"lr: 1\nlearning-rate: 1", "has 'lr' and 'learning-rate', which are the same setting"),
        (b"lerning-rate: 1", "unknown key 'lerning-rate'.*did you mean 'learning_rate'"),
        (b"epochs: 0x10", "epochs .* is '0x10', but must be an integer"),
        (b"epochs: 1:30", "epochs .* is '1:30', but must be an integer"),
        (b"epochs:", "epochs .* is empty, but must be an integer"),
        (b"amp: 1", "amp .* is '1', but must be true or false"),
    ],
)
def test_config_files_that_cannot_be_used(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        resolve({}, config_file=file)


def test_home_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("data", "pretrained", "run_dir", "output", "profile")
    file = tmp_path / "c.yaml"
    file.write_text("".join(f"{name}: ~/{name}\n" for name in names))
    settings = resolve({}, config_file=file).settings
    assert [getattr(settings, name) for name in names] == [str(tmp_path / name) for name in names]
    with pytest.raises(UsageError, match="~nobody-here is no home directory"):
        resolve({"output": "~nobody-here/runs"})


def test_benchmark_accumulates_as_the_original_does() -> None:
    settings = TrainSettings(batch_size=1024, benchmark=1)
    assert microbatches_per_device(settings, world_size=8) == 16
    assert global_batch(settings, world_size=8) == 16384
    # The original divides by zero where a device's batch is over 2048.
    assert microbatches_per_device(TrainSettings(batch_size=4096, benchmark=1), world_size=1) == 1
    assert microbatches_per_device(TrainSettings(accumulate=3), world_size=1) == 3


def test_short_architecture_names_are_completed() -> None:
    assert resolve({"arch": "x2_0"}).settings.arch == "shufflenet_v2_x2_0"
    with pytest.raises(UsageError, match="x2_0"):
        resolve({"arch": "x20"})


# ---- from the options of augmentation to what they build, and what is said about wrong ones ----


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SampleAugmentation()),
        ({"auto_augment": "trivial"}, SampleAugmentation(TrivialAugmentWide())),
        ({"auto_augment": "rand"}, SampleAugmentation(RandAugment(2, 9))),
        ({"auto_augment": "rand", "rand_ops": 3, "rand_magnitude": 5}, SampleAugmentation(RandAugment(3, 5))),
        ({"erase": 0.25}, SampleAugmentation(erasing=RandomErasing(0.25))),
    ],
)
def test_augmentation(given: dict[str, Any], expected: SampleAugmentation) -> None:
    assert build_augmentation(resolve(given).settings) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, None), ({"mixup": 0.2}, Mixing(mixup=0.2)), ({"cutmix": 1.0}, Mixing(cutmix=1.0))],
)
def test_mixing(given: dict[str, Any], expected: Mixing | None) -> None:
    assert build_mixing(resolve(given).settings) == expected


@pytest.mark.parametrize(
    ("given", "scale", "ratio"),
    [
        ({}, (0.08, 1.0), (3 / 4, 4 / 3)),
        ({"crop_scale": 0.2, "crop_scale_max": 0.5, "crop_ratio": 2.0}, (0.2, 0.5), (0.5, 2.0)),
    ],
)
def test_crops(given: dict[str, Any], scale: tuple[float, ...], ratio: tuple[float, ...]) -> None:
    crop = build_transforms(resolve(given).settings)[0]
    assert (crop.scale, crop.ratio) == (scale, ratio)


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"tuned"}))
def test_presets_have_no_augmentation(name: str) -> None:
    settings = resolve({}, preset=name).settings
    assert build_augmentation(settings) == SampleAugmentation()
    assert build_mixing(settings) is None
    assert settings.repeats == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"auto_augment": "random"}, "--auto-augment 'random' is not valid"),
        ({"rand_magnitude": 5}, "--rand-magnitude 5 has an effect only with --auto-augment rand"),
        ({"rand_ops": 1, "auto_augment": "trivial"}, "--rand-ops 1 .* it is trivial"),
        ({"auto_augment": "rand", "rand_magnitude": 31}, "--rand-magnitude 31 .* at most 30"),
        ({"auto_augment": "rand", "rand_ops": 0}, "--rand-ops 0 .* at least 1"),
        ({"erase": 1.5}, "--erase 1.5 .* at most 1"),
        ({"mixup": -0.1}, "--mixup -0.1 .* at least 0"),
        ({"cutmix": float("nan")}, "--cutmix nan .* a number"),
        ({"repeats": 0}, "--repeats 0 .* at least 1"),
        ({"hang_timeout": 0.0}, "--hang-timeout 0.0 .* above 0"),
        ({"max_restarts": -1}, "--max-restarts -1 .* at least 0"),
        ({"crop_ratio": 0.5}, "--crop-ratio 0.5 .* at least 1"),
        ({"crop_scale_max": 0.05}, "--crop-scale 0.08 is larger than --crop-scale-max 0.05"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(given)

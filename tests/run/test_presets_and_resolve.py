"""Where a setting's value comes from, and the presets' exact numbers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.config.derived import eval_resize, global_batch, microbatches_per_device
from shufflenet_fn.config.options import declared
from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.config.resolve import checked, read_config_file, resolve
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.augment import RandAugment, RandomErasing, SampleAugmentation, TrivialAugmentWide
from shufflenet_fn.data.mixing import Mixing
from shufflenet_fn.run.build import build_augmentation, build_mixing, build_transforms
from shufflenet_fn_backends.support.errors import UsageError

ASCEND = {
    **dict(arch="shufflenet_v2_x1_0", epochs=240, momentum=0.0, schedule="epoch-cosine", decay_on="all"),
    **dict(label_smoothing=0.0, color_jitter=0.2, bn_stats="rank0", amp=True, opt_level="O2"),
    **dict(loss_scale="64", seed=49, eval_freq=5),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "ascend-1p",
            dict(batch_size=1536, learning_rate=0.75, warm_up_epochs=1, weight_decay=3.0517578125e-05)
            | dict(print_freq=10, devices=1),
        ),
        (
            "ascend-8p",
            dict(batch_size=8192, learning_rate=4.0, warm_up_epochs=5, weight_decay=1e-4)
            | dict(print_freq=1, devices=8),
        ),
    ],
)
def test_ascend_presets_are_the_originals_numbers(name: str, expected: dict[str, object]) -> None:
    settings = asdict(resolve({}, preset=name).settings)
    assert settings | ASCEND | expected == settings
    assert "momentum 0" in str(PRESETS[name].warning)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_has_a_source(name: str) -> None:
    resolved = resolve({}, preset=name)
    assert resolved.preset == name and PRESETS[name].source
    if name != "tuned":
        assert build_augmentation(resolved.settings) == SampleAugmentation()
        assert build_mixing(resolved.settings) is None and resolved.settings.repeats == 1


def test_order_of_precedence_and_origins(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("preset: paper\nmomentum: 0.5\nbatch-size: 32\nweight_decay: 3e-5\n")
    resolved = resolve({"batch_size": 16}, config_file=file)
    assert resolved.settings.learning_rate == 0.5
    assert resolved.origin["learning_rate"] == "preset paper"
    assert resolved.settings.momentum == 0.5 and resolved.origin["momentum"] == str(file)
    assert resolved.settings.weight_decay == 3e-5  # which YAML would take for text
    assert resolved.settings.batch_size == 16
    assert resolved.origin["batch_size"] == "command line"
    assert resolved.origin["seed"] == "default"


def test_declarations_of_settings_are_consistent() -> None:
    items = list(declared(TrainSettings))
    for item in items:
        assert item.option.help and item.option.panel
        item.option.check(item.default)
        assert item.default is None or type(item.default) is item.type
    flags = [flag for item in items for flag in item.option.flags]
    assert len(flags) == len(set(flags)) and all(flag.startswith("-") for flag in flags)
    spellings = {part for flag in flags for part in flag.split("/")}
    original = (
        "--data --addr --seed --workers --learning-rate --print-freq --eval-freq --arch "
        "--dist-backend --batch-size --epoch --warm-up-epochs --rank --amp --momentum --wd "
        "--device-list --benchmark --device-num --dist-url --multiprocessing-distributed "
        "--world-size"
    )
    assert set(original.split()) <= spellings


def test_eval_resize_follows_the_image_size() -> None:
    assert eval_resize(224, None) == 256
    assert eval_resize(112, None) == 128
    assert eval_resize(64, 64) == 64
    # Derived where it is used: what is stored must not tie a later run to this one's size.
    assert checked(TrainSettings(image_size=112)).eval_resize is None


def test_an_explicit_precision_wins_over_a_presets() -> None:
    settings = resolve({"precision": "bf16"}, preset="ascend-8p").settings
    assert settings.precision == "bf16" and not settings.amp
    settings = resolve({"amp": True}, preset="ascend-8p").settings
    assert settings.amp and settings.precision is None


def test_own_rate_or_optimizer_replaces_what_belongs_to_a_presets() -> None:
    assert resolve({}, preset="finetune").settings.head_lr == 0.1
    settings = resolve({"opt": "adamw", "learning_rate": 1e-3}, preset="finetune").settings
    assert (settings.head_lr, settings.nesterov, settings.momentum) == (None, False, 0.9)
    settings = resolve({"learning_rate": 1e-3, "head_lr": 1e-2}, preset="finetune").settings
    assert (settings.head_lr, settings.nesterov) == (1e-2, True)


def test_stored_config_sets_recipe_but_not_run_directory(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    of_0_1 = '"world_size": 2, "rank": 1, "addr": "a", "dist_url": "b:1"'
    file.write_text(f'{{"settings": {{"epochs": 7, "run_dir": "there", "resume": null, {of_0_1}}}}}')
    settings = resolve({}, config_file=file).settings
    assert settings.epochs == 7 and settings.run_dir is None
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


def test_benchmark_accumulates_as_the_original_does() -> None:
    settings = TrainSettings(batch_size=1024, benchmark=1)
    assert microbatches_per_device(settings, world_size=8) == 16
    assert global_batch(settings, world_size=8) == 16384
    # The original divides by zero where a device's batch is over 2048.
    assert microbatches_per_device(TrainSettings(batch_size=4096, benchmark=1), world_size=1) == 1
    assert microbatches_per_device(TrainSettings(accumulate=3), world_size=1) == 3


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


def test_mixing_and_crops() -> None:
    assert build_mixing(resolve({}).settings) is None
    assert build_mixing(resolve({"mixup": 0.2}).settings) == Mixing(mixup=0.2)
    assert build_mixing(resolve({"cutmix": 1.0}).settings) == Mixing(cutmix=1.0)
    crop = build_transforms(TrainSettings())[0]
    assert (crop.scale, crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    given = {"crop_scale": 0.2, "crop_scale_max": 0.5, "crop_ratio": 2.0}
    crop = build_transforms(resolve(given).settings)[0]
    assert (crop.scale, crop.ratio) == ((0.2, 0.5), (0.5, 2.0))


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
        ({"opt_level": "O3"}, "--opt-level O3 has an effect only with --amp, or as --precision O3"),
        ({"benchmark": 1, "accumulate": 3}, "--accumulate 3"),
        ({"arch": "x20"}, "x2_0"),
        ({"max_bad": "2"}, "--max-bad 2 has an effect only with --on-bad-image skip"),
        ({"output": "~nobody-here/runs"}, "~nobody-here is no home directory"),
        ({"crop_ratio": 0.5}, "--crop-ratio 0.5 .* at least 1"),
        ({"crop_scale_max": 0.05}, "--crop-scale 0.08 is larger than --crop-scale-max 0.05"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(given)

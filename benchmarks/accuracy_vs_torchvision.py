"""Accuracy on a real image folder: our command line compared with torchvision's module on the same batches.

    python -m benchmarks.accuracy_vs_torchvision --data fashion_mnist --seeds 0 1 2

Both start with the same weights, read the same augmented batches and use the same schedule. Ours runs as
``shufflenet-fn train``. The peer is ``torchvision.models`` with ``torch.optim.SGD`` in this file. With
``--pixels pillow``, the peer gets the same crops, but Pillow decodes the whole image and resizes it, as in
torchvision. Prints one JSON object: final top-1 of each seed, their means, and the largest difference between
the first 50 losses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image

from shufflenet_fn import get_config, init, to_torchvision
from shufflenet_fn.config.resolve import resolve
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.decode import Box, LazyImage, Region, RgbImage, Scratch, as_lazy_image
from shufflenet_fn.data.geometry import crop
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.schedule import steps_per_epoch
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn.run.build import build_prepare, build_schedule, build_transforms
from shufflenet_fn_backends.runtimes import cpu

RECIPE = {
    "arch": "x0_5",
    "image_size": 64,
    "eval_resize": 64,
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 0.1,
    "schedule": "cosine",
    "warm_up_epochs": 1,
    "nesterov": True,
    "weight_decay": 5e-4,
    "decay_on": "weights",
    "label_smoothing": 0.1,
    "crop_scale": 0.7,
    "color_jitter": 0.0,
}
"""Options for a few thousand small images on a CPU."""

COMPARED_LOSSES = 50


class Trained(NamedTuple):
    """Top-1 in percent after the last epoch, and the loss of every step."""

    accuracy: float
    losses: list[float]


class PillowPicture(LazyImage):
    """An image that Pillow decodes completely and resizes."""

    def region(self, box: Box, height: int, width: int) -> Region:
        image = Image.fromarray(np.ascontiguousarray(crop(self.decode(1), box)))
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return Region(np.asarray(resized), None)


def with_pillow(image: LazyImage | RgbImage) -> PillowPicture:
    picture = as_lazy_image(image)
    return PillowPicture(picture.height, picture.width, picture.decode)


class PillowTrainTransform(TrainTransform):
    """``TrainTransform`` with Pillow's pixels."""

    def __call__(
        self,
        image: LazyImage | RgbImage,
        rng: np.random.Generator,
        *,
        out: RgbImage | None = None,
        scratch: Scratch | None = None,
    ) -> RgbImage:
        return super().__call__(with_pillow(image), rng, out=out, scratch=scratch)


class PillowEvalTransform(EvalTransform):
    """``EvalTransform`` with Pillow's pixels."""

    def __call__(
        self, image: LazyImage | RgbImage, *, out: RgbImage | None = None, scratch: Scratch | None = None
    ) -> RgbImage:
        return super().__call__(with_pillow(image), out=out, scratch=scratch)


def train_ours(settings: TrainSettings, run_dir: Path, threads: int, devices: int) -> Trained:
    options = {**RECIPE, "data": settings.data, "seed": settings.seed, "print_freq": 1}
    options |= {"threads": threads, "devices": devices, "run_dir": run_dir, "device": "cpu"}
    arguments = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        arguments += [flag] if value is True else [flag, str(value)]
    with open(run_dir.with_suffix(".log"), "w") as log:
        command = [sys.executable, "-m", "shufflenet_fn_cli.main", "train", *arguments]
        subprocess.run(command, check=True, stdout=log)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((run_dir / "results.json").read_text())
    return Trained(results["accuracy1"], [r["loss"] for r in records if r["kind"] == "train"])


def train_torchvision(settings: TrainSettings, pixels: str) -> Trained:
    train_set, eval_set = open_train_val(Path(str(settings.data)))
    config = get_config(settings.arch, num_classes=len(train_set.classes))
    weights = to_torchvision(init(config, torch.Generator().manual_seed(settings.seed)), config)
    memory_format = cpu.runtime().memory_format
    model = getattr(torchvision.models, settings.arch)(num_classes=config.num_classes)
    model.load_state_dict(weights)
    model.to(memory_format=memory_format)
    epoch_steps = steps_per_epoch(len(train_set), settings.batch_size)
    schedule = build_schedule(settings, epoch_steps)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    prepare = build_prepare(memory_format, torch.device("cpu"))
    train_transform, eval_transform = build_transforms(settings)
    if pixels == "pillow":
        train_transform = PillowTrainTransform(**asdict(train_transform))
        eval_transform = PillowEvalTransform(**asdict(eval_transform))
    total = epoch_steps * settings.epochs
    losses = []
    model.train()
    with train_loader(
        train_set,
        train_transform,
        seed=settings.seed,
        global_batch=settings.batch_size,
        stop_step=total,
        threads=1,
    ) as batches:
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = float(schedule(torch.tensor(step)))
            optimizer.zero_grad()
            loss = criterion(model(prepare(batch.images)), batch.labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    model.eval()
    correct = 0
    with torch.no_grad(), eval_loader(eval_set, eval_transform, batch_size=256) as batches:
        for batch in batches:
            correct += int((model(prepare(batch.images)).argmax(1) == batch.labels).sum())
    return Trained(100 * correct / len(eval_set), losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pixels", choices=("ours", "pillow"), default="ours", help="of the peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="of ours; more than 1 skips the peer")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in arguments.seeds:
        settings = resolve({**RECIPE, "data": arguments.data, "seed": seed}).settings
        name = f"seed{seed}-devices{arguments.devices}"
        ours = train_ours(settings, arguments.out / name, arguments.threads, arguments.devices)
        row = {"seed": seed, "ours": ours.accuracy}
        if arguments.devices == 1:
            peer = train_torchvision(settings, arguments.pixels)
            pairs = zip(ours.losses[:COMPARED_LOSSES], peer.losses, strict=False)
            row["torchvision"] = peer.accuracy
            row["max_difference_of_first_losses"] = max(abs(a - b) for a, b in pairs)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    means = {
        key: statistics.mean(row[key] for row in rows) for key in ("ours", "torchvision") if key in rows[0]
    }
    result = {"recipe": RECIPE, "devices": arguments.devices, "peer_pixels": arguments.pixels}
    print(json.dumps({**result, "rows": rows, "mean": means}))


if __name__ == "__main__":
    main()

"""Accuracy of the presets ``scratch`` and ``finetune`` on small data, compared with torchvision's recipe.

    python -m benchmarks.finetune prepare --elpv FOLDER_OF_THE_PACKAGE --out DATA
    python -m benchmarks.finetune run --fashion DIR --elpv DATA --out RUNS
    python -m benchmarks.finetune table --out RUNS

x0_5, Fashion-MNIST at 32 pixels and elpv at 48. Both sides start from the same weights and train for the same
epochs. Ours is ``shufflenet-fn train``. The peer is torchvision's model, transforms and loader with values of
its reference scripts: SGD 0.1, momentum 0.9, weight decay 1e-4, batches of 32, a tenth of the rate after each
third of the epochs (30 of 90). The peer ``tutorial`` has the values of torch's tutorial on transfer learning:
SGD 0.001, batches of 4, a tenth after 7 epochs. Appends one JSON line per run to ``RUNS/results.jsonl`` and
skips what is there already.

``prepare`` sorts elpv-dataset (PyPI; 2,624 solar cells) into two classes, defect probability up to and above
1/2, shrinks them to 96 pixels, and puts the fifth of its images with the smallest hashes of their names into
``val``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from shufflenet_fn import get_config, init, to_torchvision
from shufflenet_fn.run.build import load_pretrained
from shufflenet_fn_cli.main import app

SIZES = {"fashion": 32, "elpv": 48}
ARCH = "shufflenet_v2_x0_5"
SEEDS = (0, 1, 2)
T_OF_3 = 4.303
"""97.5 % quantile of Student's t for three values."""


class Job(NamedTuple):
    """A training run. ``source``: the data that its weights were pretrained on, or none."""

    side: str
    data: str
    source: str | None
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.side}-{self.source or 'scratch'}-{self.data}-{self.seed}"


class Peer(NamedTuple):
    rate: float
    batch: int
    step: int


def jobs() -> list[Job]:
    """Return all runs. Those with a source come after the runs that train it."""
    pretraining, *elpv, fashion = (
        ("fashion", None, 3),
        ("elpv", None, 10),
        ("elpv", "fashion", 5),
        ("fashion", "elpv", 2),
    )
    sides, first, *others = ("ours", "references"), *SEEDS
    found = [Job(side, *pretraining, first) for side in sides]
    found += [Job(side, *kind, seed) for seed in SEEDS for kind in elpv for side in sides]
    found += [Job(side, *pretraining, seed) for seed in others for side in sides]
    found += [Job(side, *fashion, seed) for seed in SEEDS for side in sides]
    return found + [Job("tutorial", *elpv[1], seed) for seed in SEEDS]


def train_ours(job: Job, data: Path, weights: Path | None, run: Path) -> float:
    size = SIZES[job.data]
    options = ["--preset", "finetune" if weights else "scratch", "--data", data, "--arch", ARCH]
    options += [
        "--image-size",
        size,
        "--eval-resize",
        size,
        "--epochs",
        job.epochs,
        "--eval-freq",
        job.epochs,
    ]
    options += ["--seed", job.seed, "--run-dir", run, "--device", "cpu", "--threads", 1, "--workers", 1]
    options += ["--pretrained", weights] if weights else []
    app(["train", *map(str, options)], standalone_mode=False)
    return float(json.loads((run / "results.json").read_text())["accuracy1"])


def train_torchvision(job: Job, data: Path, weights: Path | None) -> float:
    peer = Peer(0.001, 4, 7) if job.side == "tutorial" else Peer(0.1, 32, max(1, job.epochs // 3))
    torch.manual_seed(job.seed)
    normal = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    size = SIZES[job.data]
    augment = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *normal]
    plain = [transforms.Resize(size), transforms.CenterCrop(size), *normal]
    train = ImageFolder(str(data / "train"), transforms.Compose(augment))
    val = ImageFolder(str(data / "val"), transforms.Compose(plain))
    config = get_config(ARCH, num_classes=len(train.classes))
    generator = torch.Generator().manual_seed(job.seed)
    variables = init(config, generator) if weights is None else load_pretrained(weights, config, generator)[0]
    model = getattr(torchvision.models, ARCH)(num_classes=config.num_classes)
    model.load_state_dict(to_torchvision(variables, config))
    optimizer = torch.optim.SGD(model.parameters(), lr=peer.rate, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=peer.step, gamma=0.1)
    loader = DataLoader(train, batch_size=peer.batch, shuffle=True)
    for _ in range(job.epochs):
        model.train()
        for images, labels in loader:
            if len(labels) == 1:  # batch norm needs more than one value
                continue
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        right = [
            (model(images).argmax(1) == labels).sum() for images, labels in DataLoader(val, batch_size=250)
        ]
    return 100 * int(sum(right)) / len(val)


def prepare(package: Path, out: Path) -> None:
    folder = package / "elpv_dataset" / "data"
    with open(folder / "labels.csv") as file:
        rows = [line.split() for line in file]
    hashes = sorted(hashlib.sha256(row[0].encode()).hexdigest() for row in rows)
    limit = hashes[len(rows) // 5]
    for name, probability, _ in rows:
        split = "val" if hashlib.sha256(name.encode()).hexdigest() < limit else "train"
        target = out / split / ("defective" if float(probability) > 0.5 else "functional")
        target.mkdir(parents=True, exist_ok=True)
        with Image.open(folder / name) as image:
            image.resize((96, 96), Image.Resampling.LANCZOS).save(target / Path(name).name)


def run(fashion: Path, elpv: Path, out: Path) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    record = out / "results.jsonl"
    done = (
        {json.loads(line)["name"] for line in record.read_text().splitlines()} if record.exists() else set()
    )
    data = {"fashion": fashion, "elpv": elpv}
    for job in jobs():
        if job.name in done:
            continue
        weights = out / f"ours-scratch-{job.source}-0" if job.source else None
        start = time.perf_counter()
        if job.side == "ours":
            shutil.rmtree(out / job.name, ignore_errors=True)
            accuracy = train_ours(job, data[job.data], weights, out / job.name)
        else:
            accuracy = train_torchvision(job, data[job.data], weights)
        row: dict[str, Any] = {"name": job.name, **job._asdict(), "accuracy": accuracy}
        with open(record, "a") as file:
            print(json.dumps({**row, "seconds": round(time.perf_counter() - start)}), file=file)


def table(out: Path) -> None:
    """Print top-1 per seed, means, and paired differences with 95 % intervals by Student's t."""
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    kinds = dict.fromkeys((row["data"], row["source"], row["epochs"]) for row in rows)
    print("| data, start, epochs | side | top-1 per seed | mean | ours is better by |")
    print("| --- | --- | --- | --- | --- |")
    for data, source, epochs in kinds:
        found = [row for row in rows if (row["data"], row["source"]) == (data, source)]
        ours = {row["seed"]: row["accuracy"] for row in found if row["side"] == "ours"}
        for side in dict.fromkeys(row["side"] for row in found):
            scores = {row["seed"]: row["accuracy"] for row in found if row["side"] == side}
            differences = [ours[seed] - score for seed, score in scores.items() if seed in ours]
            better = f"{statistics.mean(differences):.1f}" if side != "ours" else ""
            if better and len(differences) == len(SEEDS):
                better += f" ± {T_OF_3 * statistics.stdev(differences) / len(SEEDS) ** 0.5:.1f}"
            each = ", ".join(f"{score:.1f}" for score in scores.values())
            start = f"{data}, {source or 'random'}, {epochs}"
            print(f"| {start} | {side} | {each} | {statistics.mean(scores.values()):.1f} | {better} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, names in (
        ("prepare", ("elpv", "out")),
        ("run", ("fashion", "elpv", "out")),
        ("table", ("out",)),
    ):
        command = verbs.add_parser(verb)
        for name in names:
            command.add_argument(f"--{name}", type=Path, required=True)
    arguments = vars(parser.parse_args())
    {"prepare": prepare, "run": run, "table": table}[arguments.pop("verb")](*arguments.values())


if __name__ == "__main__":
    main()

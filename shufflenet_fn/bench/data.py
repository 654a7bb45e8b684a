"""``data bench``: our loader on files and on packed data, compared with torchvision's in one run."""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shufflenet_fn.bench.loading import Loaded, Loading, Reader, build_loading, measure_stages
from shufflenet_fn.bench.rounds import Progress, in_rounds, ratio, ratio_report, reported, silent
from shufflenet_fn.bench.settings import DataBenchSettings, counts
from shufflenet_fn.bench.workers import workers
from shufflenet_fn.config.options import check_options
from shufflenet_fn.data.folder import open_image_folder
from shufflenet_fn.data.formats import IMAGE_EXTENSIONS
from shufflenet_fn.data.packed.index import PackSettings, is_packed
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.support.errors import UsageError

FILES: Final = "files"
PEER: Final = "torchvision"
TRIAL_ROUNDS: Final = 3
PACKINGS: Final[Mapping[str, PackSettings]] = {
    "packed JPEG 256": PackSettings(),
    "packed raw 256": PackSettings(format="raw", quality=None),
}


def run_data_bench(
    source: str | Path, settings: DataBenchSettings, *, progress: Progress = silent
) -> dict[str, Any]:
    """Measure and return the JSON object of ``data bench --json``.

    * ``contenders``: for each ``images_s``, ``cpu_s_per_1000`` (seconds of all cores, children included) and
      ``workers``, medians over rounds; names that begin with ``files`` or ``packed`` are ours;
    * ``ratios``: speed of each of ours relative to torchvision with its best number of workers, with
      ``interval``, ``conclusive`` and ``advice`` as in ``bench step``, and ``cpu_ratio``, the ratio of images
      per CPU second; empty without torchvision;
    * ``peer_workers``: images/s of torchvision by number of workers, from the trial that chose the best;
      empty if there was no choice;
    * ``stages``: microseconds per image on one thread, by our candidates and stage (``loading.STAGES``);
    * ``left_out``: candidates that were not measured, with the reasons.

    Raises:
        UsageError: a setting is not allowed, or ``source`` is not an image folder.
        UserError: an image cannot be read.
    """
    check_options(settings)
    worker_counts(settings.peer_workers)
    with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="shufflenet-fn-bench-") as place:
        tree = make_tree(source, Path(place) / FILES, settings.images)
        roots = {FILES: str(tree), **_packed(tree, Path(place), settings, progress)}
        return _measured(roots, settings, progress)


def make_tree(source: str | Path, folder: Path, images: int) -> Path:
    """Create ``folder/train`` with images of ``source/train``, and ``folder/val`` with one per class.

    All files are links, so they take no space. If ``source`` has more images, evenly spaced ones are used; if
    it has fewer, they are repeated. Returns ``folder``.

    Raises:
      UsageError: ``source`` is not an image folder.
    """
    if is_packed(Path(source)):
        raise UsageError(
            f"{source} is packed already. Name the image folder that it was made from, and compare with "
            f"--packed {source}."
        )
    samples = open_image_folder(source, "train")
    held = len(samples)
    seen: set[int] = set()
    for number in range(images):
        index = number * held // images if images <= held else number % held
        label, path = int(samples.labels[index]), samples.path(index).absolute()
        # torchvision must find each image too. What has another extension is a JPEG.
        suffix = path.suffix if path.name.lower().endswith(IMAGE_EXTENSIONS) else ".jpg"
        places = [folder / "train" / samples.classes[label] / f"{number:07d}{suffix}"]
        if label not in seen:
            seen.add(label)
            places.append(folder / "val" / samples.classes[label] / f"0{suffix}")
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path, place)
    return folder


def _packed(tree: Path, place: Path, settings: DataBenchSettings, progress: Progress) -> dict[str, str]:
    """Return the packed data by name: the given folders, or the tree packed in both formats."""
    if settings.packed is not None:
        roots = [root.strip() for root in settings.packed.split(",")]
        for root in roots:
            if not is_packed(Path(root)):
                raise UsageError(f"--packed {root} is no packed data. Make it with `data pack`.")
        return {f"packed {root}": root for root in roots}
    return pack_tree(tree, place, progress)


def pack_tree(tree: Path, place: Path, progress: Progress) -> dict[str, str]:
    """Pack an image folder in the formats of ``PACKINGS``. Return the packed folders by name."""
    roots = {name: str(place / name.replace(" ", "-")) for name in PACKINGS}
    for name, packing in PACKINGS.items():
        progress(f"packing: {name}")
        pack(tree, roots[name], packing, workers=usable_cores())
    return roots


def _measured(roots: Mapping[str, str], settings: DataBenchSettings, progress: Progress) -> dict[str, Any]:
    threads = settings.workers or usable_cores()
    ours = {name: Reader("ours", root, threads, settings.color_jitter) for name, root in roots.items()}
    readers, left_out = dict(ours), {}
    trial: dict[int, float] = {}
    if importlib.util.find_spec("torchvision") is None:
        left_out[PEER] = "torchvision is not installed (pip install 'shufflenet-fn[bench]')"
    else:
        readers[PEER], trial = best_peer(roots[FILES], settings, progress)
    found = _measure(readers, settings, settings.rounds, progress)
    return {
        **reported(settings, "images", "image_size", "batch_size", "color_jitter"),
        **reported(settings, "rounds", "turn_seconds"),
        "threads": threads,
        "contenders": {
            name: {"loader": reader.loader, "workers": reader.workers, **rates(found[name])}
            for name, reader in readers.items()
        },
        "ratios": {name: compared(found[name], found[PEER]) for name in ours if PEER in found},
        "peer_workers": trial,
        "stages": {name: measure_stages(reader, settings.image_size) for name, reader in ours.items()},
        "left_out": left_out,
    }


def worker_counts(given: str | None) -> tuple[int, ...]:
    """Return the numbers of worker processes to try for torchvision's loader. Raises ``UsageError``."""
    if given is not None:
        return counts("--peer-workers", given, minimum=0)
    return tuple(sorted({0, 1, 2, usable_cores()}))


def best_peer(root: str, settings: DataBenchSettings, progress: Progress) -> tuple[Reader, dict[int, float]]:
    """Return torchvision with the fastest number of workers here, and images/s of each number tried."""
    readers = {
        f"{PEER} {count}": Reader("torchvision", root, count, settings.color_jitter)
        for count in worker_counts(settings.peer_workers)
    }
    if len(readers) == 1:
        return next(iter(readers.values())), {}
    found = _measure(readers, settings, TRIAL_ROUNDS, progress)
    speeds = {reader.workers: rates(found[name])["images_s"] for name, reader in readers.items()}
    best = max(speeds, key=lambda count: speeds[count])
    return readers[f"{PEER} {best}"], speeds


def _measure(
    readers: Mapping[str, Reader], settings: DataBenchSettings, rounds: int, progress: Progress
) -> dict[str, list[Loaded]]:
    loading = Loading(readers, settings.batch_size, settings.image_size, settings.turn_seconds)
    with workers(list(readers), build_loading, loading, threads=1) as candidates:
        return loaded_in_rounds(candidates, rounds, progress)


def loaded_in_rounds(candidates: Sequence[Any], rounds: int, progress: Progress) -> dict[str, list[Loaded]]:
    """Take ``rounds`` turns of each candidate, by name, after one that warms up and does not count.

    A candidate is a ``workers.Worker``, or has the same ``name`` and ``value(case)``, which takes a turn.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    for candidate in candidates:
        candidate.value("")
    return in_rounds(
        list(by_name),
        lambda name: by_name[name].value(""),
        rounds,
        lambda loaded: f"{1 / loaded.per_image:.0f} images/s",
        progress,
    )


def rates(turns: Sequence[Loaded]) -> dict[str, float]:
    """Return the reported medians of a candidate."""
    return {
        "images_s": 1 / statistics.median(turn.per_image for turn in turns),
        "cpu_s_per_1000": 1000 * statistics.median(turn.cpu_per_image for turn in turns),
    }


def compared(ours: Sequence[Loaded], theirs: Sequence[Loaded]) -> dict[str, Any]:
    """Return the speed of ours relative to the peer, in wall time and per CPU second."""
    found = ratio([turn.per_image for turn in ours], [turn.per_image for turn in theirs])
    cpu = ratio([turn.cpu_per_image for turn in ours], [turn.cpu_per_image for turn in theirs])
    return {
        "ratio": found.median,
        "interval": (found.low, found.high),
        **ratio_report(found, len(ours)),
        "cpu_ratio": cpu.median,
        "cpu_interval": (cpu.low, cpu.high),
    }

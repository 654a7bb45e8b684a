"""Feature vectors of images, for search, clustering and classifiers on top."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shufflenet_fn.data.bad_images import BadImages
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.io import check_output, to_json, write_output
from shufflenet_fn.model.network import features
from shufflenet_fn.run.build import build_prepare
from shufflenet_fn.tree import tree_to
from shufflenet_fn.use.engines import required
from shufflenet_fn.use.export import describe
from shufflenet_fn.use.model import Model
from shufflenet_fn.use.predict import computed_batches, ready, torch_logits
from shufflenet_fn.use.sources import UNKNOWN
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.select import select_runtime
from shufflenet_fn_backends.support.errors import UsageError


class Embeddings(NamedTuple):
    """Feature vectors, in the order of the images.

    Attributes:
      features: float32 (N, C), or (N, C, H, W) of a feature map.
      paths: the image of each.
      labels: int64 (N,), -1 where no folder names a class.
      classes: class names that labels index.
      description: model, preprocessing and the name of the features, as JSON values.
    """

    features: npt.NDArray[np.float32]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    description: dict[str, Any]


def embed(
    model: Model,
    images: Dataset,
    *,
    at: str = "pooled",
    device: str = "auto",
    batch_size: int = 64,
    workers: int | None = None,
    bad_images: BadImages | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Embeddings:
    """Return the features of all images. They are held in memory: ``pooled`` takes 4 or 8 kB an image.

    Args:
        model: from ``open_model``.
        images: from ``open_sources``.
        at: one of ``model.config.FEATURES``.
        device: ``auto``, ``cpu``, ``cuda`` or ``npu``.
        batch_size: images at a time.
        workers: loader threads; ``None`` is the cores.
        bad_images: counts images that cannot be read, which are left out. ``None`` raises the first.
        advance: called with the number of images so far.

    Raises:
        UsageError, DeviceError, UserError, ValueError: with the one thing that is wrong.
    """
    runtime, _ = select_runtime(device)
    place = ready(runtime)
    native = choose_image_reader("auto").reader
    if at == "pooled":  # faster, with folded batch norms
        compute = torch_logits(model, runtime, place, native, pooled=True)
    else:
        prepare = build_prepare(runtime.memory_format, place, reuse=place.type == "cpu", native=native)
        backend, variables = select_backend("auto", runtime.name).backend, tree_to(model.variables, place)

        def compute(pixels: Tensor) -> Tensor:
            return features(model.config, variables, prepare(pixels), at=at, backend=backend)[at]

    found: npt.NDArray[np.float32] = np.empty((0,), np.float32)
    kept: list[int] = []
    for batch in computed_batches(
        images,
        EvalTransform(model.resize, model.size),
        torch.no_grad()(lambda pixels: compute(pixels.to(place)).cpu()),
        threaded=place.type == "cpu",
        batch_size=batch_size,
        workers=workers,
        bad_images=bad_images,
    ):
        if not kept:
            found = np.empty((len(images), *batch.images.shape[1:]), np.float32)
        found[len(kept) : len(kept) + len(batch.indices)] = batch.images.numpy()
        kept += batch.indices.tolist()
        advance(len(kept))
    described = describe(model, format="features", input_kind="tensor", batch=None)
    facts = {key: described[key] for key in ("arch", "preprocessing", "weights", "versions")}
    return Embeddings(
        features=found[: len(kept)],
        paths=tuple(map(images.name, kept)),
        labels=images.labels[np.array(kept, np.int64)],
        classes=images.classes,
        description={"at": at, **facts},
    )


def check_embeddings_file(file: Path) -> None:
    """Raise ``UsageError`` if ``write_embeddings`` cannot write ``file``."""
    if file.suffix not in (".npz", ".parquet"):
        raise UsageError(f"-o {printable(file)} must end in .npz or .parquet.")
    if file.suffix == ".parquet":
        required("pyarrow.parquet", "a .parquet file", "'shufflenet-fn[parquet]'")
    check_output(file)


def write_embeddings(found: Embeddings, file: Path) -> None:
    """Write ``found`` to a ``.npz`` or ``.parquet`` file, whole or not at all.

    The first has an array for each field. The second has the columns ``path``, ``class`` (null where it is
    not known) and ``features`` (a list of fixed length, in C order), and the description in its metadata.

    Raises:
        UsageError: ``check_embeddings_file`` does.
        UserError: the file cannot be written.
    """
    check_embeddings_file(file)
    write_output(file, lambda opened: (_npz if file.suffix == ".npz" else _parquet)(found, opened))


def _npz(found: Embeddings, file: IO[bytes]) -> None:
    np.savez(
        file,
        features=found.features,
        labels=found.labels,
        paths=np.array(found.paths, np.str_),
        classes=np.array(found.classes, np.str_),
        description=np.array(to_json(found.description)),
    )


def _parquet(found: Embeddings, file: IO[bytes]) -> None:
    arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    shape = found.features.shape[1:]
    names: Sequence[str | None] = (*found.classes, None)  # UNKNOWN is the last
    assert UNKNOWN == -1
    columns = {
        "path": arrow.array(map(printable, found.paths), arrow.string()),
        "class": arrow.array([names[label] for label in found.labels.tolist()], arrow.string()),
        "features": arrow.FixedSizeListArray.from_arrays(
            arrow.array(found.features.reshape(-1)), math.prod(shape)
        ),
    }
    metadata = {"shufflenet_fn": to_json({**found.description, "shape": shape})}
    parquet.write_table(arrow.table(columns).replace_schema_metadata(metadata), file)

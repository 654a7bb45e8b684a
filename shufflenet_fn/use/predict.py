"""Predictions of a trained model or of an exported file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shufflenet_fn.data.bad_images import BadImage, BadImages
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.dataset import Dataset, Encoded
from shufflenet_fn.data.decode import RgbImage, as_lazy_image, open_image
from shufflenet_fn.data.device_ops import normalizer
from shufflenet_fn.data.formats import read_file
from shufflenet_fn.data.loader import eval_loader
from shufflenet_fn.data.native.reader import NativeReader, choose_image_reader
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.threads import PrefetchIterator
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.model.inference import make_predictor
from shufflenet_fn.run.build import build_prepare
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_to
from shufflenet_fn.use.engines import (
    ONNX_ENGINES,
    THREAD_SAFE,
    Engine,
    choose_engine,
    in_batches,
    open_engine,
    open_program,
)
from shufflenet_fn.use.export import onnx_bytes, read_description
from shufflenet_fn.use.model import Model, open_model
from shufflenet_fn.use.sources import UNKNOWN
from shufflenet_fn_backends.names import ENGINE_NAMES
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import select_runtime
from shufflenet_fn_backends.support.errors import UsageError

EXPORTED = (".onnx", ".pt2")
_PER_THREAD = 8
"""Batches of a thread, at least."""


class Prediction(NamedTuple):
    """``classes`` and ``probabilities`` (softmax) of the most likely classes, the best first.

    ``correct``: whether the best is the class of the image's folder; ``None`` if that is not known.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    correct: bool | None


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to predict. Make it with ``Predictor.open``.

    ``logits`` maps uint8 images (N, 3, size, size) on the CPU to logits (N, num_classes). ``whole`` is set
    for an export that takes whole images instead: it maps one uint8 (1, H, W, 3) to logits. ``threaded``:
    several threads may call ``logits`` at once, which is then faster than one that uses all cores.
    """

    transform: EvalTransform
    classes: tuple[str, ...]
    engine: str
    notes: tuple[str, ...]
    logits: Callable[[Tensor], Tensor]
    whole: Engine | None = None
    threaded: bool = False

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str],
        *,
        engine: str = "auto",
        device: str = "auto",
        arch: str | None = None,
        names: Path | None = None,
    ) -> Predictor:
        """Open a run directory, a checkpoint, a weights file, or an exported ``.onnx`` or ``.pt2``.

        Args:
            model: where it is.
            engine: what computes: ``torch``, ``onnxruntime`` or ``openvino``. ``auto``: ``choose_engine``.
            device: for engine ``torch``; the others compute on the CPU.
            arch: the architecture of a bare weights file.
            names: a text file with a class name on each line, for weights that carry none.

        Raises:
            UsageError, DeviceError, UserError: with the one thing that is wrong.
        """
        if engine not in ENGINE_NAMES:
            raise UsageError(f"engine {engine!r} is not valid. Choose one of: {', '.join(ENGINE_NAMES)}.")
        path = Path(model)
        exported = path.suffix in EXPORTED and path.is_file()
        if device not in ("auto", "cpu") and (exported or engine in ONNX_ENGINES):
            what = printable(path) if exported else f"--engine {engine}"
            raise UsageError(f"{what} computes on the CPU here. Leave out --device {device}.")
        if exported:
            if arch is not None or names is not None:
                raise UsageError(
                    f"{printable(path)} knows its architecture and class names. Leave out --arch and --names."
                )
            return _exported(path, engine)
        opened = open_model(model, arch=arch, names=names)
        runtime, reason = select_runtime("cpu" if engine in ONNX_ENGINES else device)
        chosen, why = choose_engine(engine, runtime.name)
        if chosen == "torch":
            place = ready(runtime)
            compute = torch_logits(opened, runtime, place, choose_image_reader("auto").reader)
            logits, threaded = lambda images: compute(images.to(place)).cpu(), place.type == "cpu"
            why = f"{why}; {reason}"
        else:
            logits, threaded = engine_logits(opened, chosen), chosen in THREAD_SAFE
        return cls(
            transform=EvalTransform(opened.resize, opened.size),
            classes=opened.classes or tuple(map(str, range(opened.config.num_classes))),
            engine=chosen,
            notes=(*opened.notes, f"engine {chosen}: {why}"),
            logits=logits,
            threaded=threaded,
        )

    def predict(
        self, images: Sequence[str | os.PathLike[str] | npt.NDArray[np.uint8]], *, top: int = 1
    ) -> list[Prediction]:
        """Return a prediction for each image.

        Args:
            images: paths of image files, or uint8 arrays (H, W, 3), RGB.
            top: classes in each prediction.

        Raises:
            BadImage: a file is no image or is damaged.
            UsageError: an array is not uint8 (H, W, 3).
        """
        found = []
        for number, image in enumerate(images):
            if isinstance(image, np.ndarray):
                name, source = str(number), as_lazy_image(image)
            else:
                name = os.fspath(image)
                source = open_image(Encoded(read_file(Path(name))), name=name)
            if self.whole:
                logits = torch.from_numpy(self.whole(source.decode(1)[None]))
            else:
                logits = self.logits(torch.from_numpy(self.transform(source)).permute(2, 0, 1).unsqueeze(0))
            found += self._predictions([name], logits, [UNKNOWN], top)
        return found

    def predict_dataset(
        self,
        dataset: Dataset,
        *,
        top: int,
        batch_size: int,
        workers: int | None,
        bad_images: BadImages | None,
    ) -> Iterator[list[Prediction]]:
        """Yield the predictions of a data set in its order, a batch at a time. Bad images are left out."""
        if self.whole:
            for index, pixels in enumerate(_decoded(dataset, loader_threads(workers, 1))):
                if not isinstance(pixels, BadImage):
                    logits, labels = torch.from_numpy(self.whole(pixels[None])), [int(dataset.labels[index])]
                    yield self._predictions([dataset.name(index)], logits, labels, top)
                elif bad_images is None:
                    raise pixels
                else:
                    bad_images.report(index, pixels)
            return
        for batch in computed_batches(
            dataset,
            self.transform,
            self.logits,
            threaded=self.threaded,
            batch_size=batch_size,
            workers=workers,
            bad_images=bad_images,
        ):
            names = [dataset.name(index) for index in batch.indices.tolist()]
            yield self._predictions(names, batch.images, batch.labels.tolist(), top)

    def _predictions(self, names: list[str], logits: Tensor, labels: list[int], top: int) -> list[Prediction]:
        values, order = logits.float().softmax(1).topk(min(top, logits.shape[1]))
        return [
            Prediction(
                name,
                tuple(self.classes[k] for k in best),
                tuple(shares),
                None if label == UNKNOWN else best[0] == label,
            )
            for name, best, shares, label in zip(names, order.tolist(), values.tolist(), labels, strict=True)
        ]


def computed_batches(
    dataset: Dataset,
    transform: EvalTransform,
    compute: Callable[[Tensor], Tensor],
    *,
    threaded: bool,
    batch_size: int,
    workers: int | None,
    bad_images: BadImages | None,
) -> Iterator[Batch]:
    """Yield the batches of a data set in its order, with ``compute`` of the images in their place.

    Bad images are left out. ``threaded``: each loader thread computes the batches that it reads. On a CPU,
    threads that compute a batch together would wait for each other and compete with those that read.
    """
    threads = loader_threads(workers, 1)
    if threaded:  # so many that the threads end at about the same time
        batch_size = min(batch_size, max(1, len(dataset) // (_PER_THREAD * max(1, threads))))
    with eval_loader(
        dataset,
        transform,
        batch_size=batch_size,
        threads=threads,
        bad_images=bad_images,
        native=choose_image_reader("auto").reader,
        compute=compute if threaded else None,
    ) as batches:
        for batch in batches:
            if len(batch.indices):
                yield batch if threaded else batch._replace(images=compute(batch.images))


def _decoded(dataset: Dataset, threads: int) -> Iterator[RgbImage | BadImage]:
    def decode(index: int, stopped: Callable[[], bool]) -> RgbImage | BadImage:
        try:
            return open_image(dataset.read(index), name=dataset.name(index)).decode(1)
        except BadImage as error:
            return error

    with PrefetchIterator(decode, 0, len(dataset), threads=threads, prefetch=threads) as images:
        yield from images


def ready(runtime: Runtime) -> torch.device:
    """Return the first device of ``runtime``, ready to compute."""
    runtime.prepare()
    runtime.set_device(0)
    torch.set_num_threads(usable_cores())
    runtime.tune()
    return runtime.device(0)


def engine_logits(model: Model, engine: str) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images (N, 3, size, size) to logits, computed by ``engine``."""
    content = onnx_bytes(model, input_kind="tensor", batch=None)
    return _normalised(open_engine(engine, content, threads=_threads_of(engine)))


def _threads_of(engine: str) -> int:
    return 1 if engine in THREAD_SAFE else usable_cores()


def torch_logits(
    model: Model,
    runtime: Runtime,
    device: torch.device,
    native: NativeReader | None,
    backend: str = "auto",
    precision: str = "fp32",
    *,
    pooled: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images (N, 3, size, size) on ``device`` to what ``infer`` returns."""
    prepare = build_prepare(runtime.memory_format, device, reuse=device.type == "cpu", native=native)
    predict = make_predictor(
        model.config,
        tree_to(model.variables, device),
        backend=select_backend(backend, runtime.name).backend,
        policy=get_policy(precision),
        pooled=pooled,
    )
    return lambda images: predict(prepare(images))


def _normalised(engine: Engine) -> Callable[[Tensor], Tensor]:
    normalise = normalizer(native=choose_image_reader("auto").reader)
    return lambda images: torch.from_numpy(engine(normalise(images).contiguous().numpy()))


def _exported(file: Path, engine: str) -> Predictor:
    described = read_description(file)
    preprocessing, (rows, *_) = described["preprocessing"], described["input"]["shape"]
    whole = described["input"]["kind"] == "image"
    allowed = ("auto", "torch") if file.suffix == ".pt2" else ("auto", *ONNX_ENGINES)
    if engine not in allowed:
        raise UsageError(f"--engine {engine} does not run {printable(file)}: {', '.join(allowed)} do.")
    chosen = allowed[1] if engine == "auto" else engine
    if chosen == "torch":
        run = in_batches(open_program(file), rows)
    else:
        threads = usable_cores() if whole else _threads_of(chosen)
        run = in_batches(open_engine(chosen, file.read_bytes(), threads=threads), rows)
    classes = described["classes"] or map(str, range(described["num_classes"]))
    return Predictor(
        transform=EvalTransform(preprocessing["resize_short_side"], preprocessing["center_crop"]),
        classes=tuple(classes),
        engine=chosen,
        notes=(f"engine {chosen}: runs {printable(file)}",),
        logits=_normalised(run),
        whole=run if whole else None,
        threaded=chosen in THREAD_SAFE and not whole,
    )

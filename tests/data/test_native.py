"""The native reader gives the bytes that the libraries' path gives, or leaves a sample to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shufflenet_fn.data.bad_images import BadImage, BadImages, parse_bad_limit
from shufflenet_fn.data.decode import open_image
from shufflenet_fn.data.folder import ImageFolder, open_image_folder
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.native.reader import Functions, NativeReader, _jitters_alike, functions
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform, color_jitter
from tests.data.conftest import draw_picture, encoded
from tests.data.lossless_jpeg import lossless_jpeg

WHOLE = TrainTransform(24, scale=(0.9, 1.0), jitter=0.0)


@pytest.fixture(scope="module")
def library() -> Functions:
    return functions()


@pytest.fixture
def reader(library: Functions) -> NativeReader:
    return NativeReader(library)


def jpeg(height: int, width: int, *, seed: int = 0, **options: Any) -> bytes:
    image = Image.fromarray(draw_picture(height, width, seed))
    return encoded(image, "JPEG", **{"quality": 90, **options})


def folder_of(root: Path, images: dict[str, bytes]) -> ImageFolder:
    for name, data in images.items():
        path = root / "train" / "it" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return open_image_folder(root, "train")


def read(
    reader: NativeReader, folder: ImageFolder, transform: TrainTransform, *, repeat: int = 0, **draws: int
) -> tuple[Any, Any]:
    """The images and which were done."""
    indices = np.arange(len(folder))
    out = np.zeros((len(indices), transform.size, transform.size, 3), dtype=np.uint8)
    options: dict[str, Any] = {"seed": 0, "epoch": 0, **draws, "repeats": np.full_like(indices, repeat)}
    with folder.located(indices) as stored:
        return out, reader.train(stored, transform, indices=indices, out=out, **options)


def expected(
    folder: ImageFolder, transform: TrainTransform, *, seed: int = 0, epoch: int = 0, repeat: int = 0
) -> Any:
    return np.stack(
        [
            transform(
                open_image(folder.read(index), name="it"), sample_rng(seed, epoch, index, repeat=repeat)
            )
            for index in range(len(folder))
        ]
    )


def same_images(reader: NativeReader, folder: ImageFolder, transform: TrainTransform, **draws: int) -> None:
    found, done = read(reader, folder, transform, **draws)
    assert done.all()
    np.testing.assert_array_equal(found, expected(folder, transform, **draws))


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("restarts", [0, 3])
def test_crops_of_jpegs(reader: NativeReader, tmp_path: Path, sampling: str, restarts: int) -> None:
    sizes = [(1, 1), (3, 50), (50, 3), (17, 33), (96, 64), (131, 97), (240, 321), (333, 500)]
    images = {
        f"{number}.{'jfif' if number % 2 else 'jpg'}": jpeg(
            *size, seed=number, subsampling=sampling, restart_marker_blocks=restarts
        )
        for number, size in enumerate(sizes)
    }
    folder = folder_of(tmp_path, images)
    for size, scale in ((24, (0.08, 1.0)), (224, (0.08, 1.0)), (7, (0.01, 0.1)), (12, (1.0, 1.0))):
        transform = TrainTransform(size, scale=scale, jitter=0.0)
        for epoch in range(8):
            same_images(reader, folder, transform, seed=5, epoch=epoch)


def test_libjpeg_turbo_lets_its_entropy_decoder_be_replaced(reader: NativeReader, tmp_path: Path) -> None:
    """The contract with an undocumented structure of libjpeg-turbo, seen with 3.2.0 of Pillow 13.0.0."""
    folder = folder_of(tmp_path, {"1.jpg": jpeg(60, 50), "2.jpg": jpeg(50, 60, quality=30)})
    same_images(reader, folder, WHOLE)
    assert reader._functions.reader_taken_over(reader._reader()) == 2


@pytest.mark.parametrize("quality", [1, 30, 100])
def test_noise_of_any_quality(reader: NativeReader, tmp_path: Path, quality: int) -> None:
    """Long codes, values with many bits, blocks without an end."""
    noise = np.random.default_rng(quality).integers(0, 256, size=(3, 120, 90, 3), dtype=np.uint8)
    options = {"quality": quality, "subsampling": "4:4:4"}
    images = {f"{k}.jpg": encoded(Image.fromarray(one), "JPEG", **options) for k, one in enumerate(noise)}
    same_images(reader, folder_of(tmp_path, images), WHOLE)
    same_images(reader, folder_of(tmp_path, images), TrainTransform(16, scale=(0.05, 0.3), jitter=0.0))


def test_greyscale_optimised_and_commented_jpegs(reader: NativeReader, tmp_path: Path) -> None:
    grey = Image.fromarray(draw_picture(90, 70)).convert("L")
    folder = folder_of(
        tmp_path,
        {
            "grey.jpg": encoded(grey, "JPEG", quality=80),
            "optimised.jpg": jpeg(90, 70, optimize=True),
            "comment.jpg": jpeg(90, 70, comment=b"\xff\xd9 and more"),
            "padded.jpg": jpeg(90, 70) + bytes(20),
        },
    )
    same_images(reader, folder, TrainTransform(32, jitter=0.0))


def test_crops_of_greyscale_with_sampling_factors(reader: NativeReader, tmp_path: Path) -> None:
    """A single colour is stored block by block, whatever its factors say."""
    grey = encoded(Image.fromarray(draw_picture(90, 160)).convert("L"), "JPEG", quality=90)
    folder = folder_of(tmp_path, {f"{k}.jpg": sampled(grey, 90, 160, bytes([k])) for k in (0x11, 0x21, 0x22)})
    for epoch in range(8):
        same_images(reader, folder, TrainTransform(16, scale=(0.05, 0.3), jitter=0.0), epoch=epoch)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 64),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.floats(1, 3),
    jitter=st.sampled_from([0.0, 0.2, 2.5]),
    key=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 2**20)),
)
def test_any_size_and_draws(
    height: int, width: int, size: int, scale: Any, ratio: float, jitter: float, key: tuple[int, int, int]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = folder_of(Path(root), {"1.jpg": jpeg(height, width, seed=height)})
        transform = TrainTransform(size, scale=tuple(scale), ratio=(1 / ratio, ratio), jitter=jitter)
        draws = dict(zip(("seed", "epoch", "repeat"), key, strict=True))
        same_images(NativeReader(functions()), folder, transform, **draws)


@pytest.mark.parametrize("strength", [0.05, 0.4, 1.0, 3.0])
def test_jitter_gives_the_bytes_of_opencv(library: Functions, strength: float) -> None:
    assert library.jitters
    assert not _jitters_alike(lambda *arguments: None)
    rng = np.random.default_rng(0)
    for count in (*range(1, 70), 5000):  # those after whole vectors, too
        image = rng.integers(0, 256, size=(1, count, 3), dtype=np.uint8)
        for order in range(6):
            draws = np.array([(order + 0.5) / 6, *rng.random(3)])
            ours, theirs = image.copy(), image.copy()
            library.jitter(ours, count, strength, draws)
            color_jitter(theirs, strength, draws)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{count} {order}")


def sampled(data: bytes, height: int, width: int, factors: bytes) -> bytes:
    """A JPEG whose frame header says that it is so large and its colours are sampled so."""
    frame = data.index(b"\xff\xc0") + 5
    changed = bytearray(data)
    changed[frame : frame + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    for part, factor in enumerate(factors):
        changed[frame + 6 + 3 * part] = factor
    return bytes(changed)


def not_read() -> dict[str, bytes]:
    """Files that the native reader has to leave to others, whether these can read them or not."""
    whole = jpeg(60, 80)
    picture = Image.fromarray(draw_picture(60, 80))
    start_of_scan = whole.index(b"\xff\xda")
    restarts = jpeg(60, 80, restart_marker_blocks=3)
    first, second = restarts.index(b"\xff\xd0"), restarts.index(b"\xff\xd1")
    return {
        "png.jpg": encoded(picture, "PNG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "progressive.jpg": jpeg(60, 80, progressive=True),
        "empty.jpg": b"",
        "text.jpg": b"not an image",
        "cut.jpg": whole[:-40],
        "cut-before-its-end.jpg": whole[:-40] + b"\xff\xd9",
        "restart-missing.jpg": restarts[:first] + restarts[first + 2 :],
        "restart-of-another-number.jpg": restarts[:first] + b"\xff\xd1" + restarts[first + 2 :],
        "cut-before-restart.jpg": restarts[: second - 3] + restarts[second:],
        "no-such-code.jpg": whole[: start_of_scan + 14] + b"\xff\x00" * 40 + whole[start_of_scan + 94 :],
        "cut-in-header.jpg": whole[: start_of_scan - 20],
        "no-table.jpg": whole.replace(b"\xff\xdb", b"\xff\xed"),
        "no-scan.jpg": whole[:start_of_scan] + b"\xff\xd9",
        "garbage-after.jpg": whole + b"garbage",
        # As many blocks as in the files that they are made of.
        "4:4:1.jpg": sampled(jpeg(64, 64, subsampling="4:2:0"), 64, 64, b"\x14\x11\x11"),
        "finer-green.jpg": sampled(jpeg(32, 32, keep_rgb=True), 24, 64, b"\x11\x21\x11"),
    }


@pytest.mark.parametrize("name", not_read())
def test_what_it_leaves_to_others(reader: NativeReader, tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, {"a.jpg": jpeg(60, 80), "b.jpg": not_read()[name]})
    found, done = read(reader, folder, WHOLE)
    assert done.tolist() == [True, False]
    good = folder_of(tmp_path / "good", {"a.jpg": jpeg(60, 80)})
    np.testing.assert_array_equal(found[:1], expected(good, WHOLE), err_msg="after a failure")


@pytest.mark.parametrize("side", [16, 20, 24, 64])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_lossless_jpegs_are_read_but_not_reduced(
    reader: NativeReader, tmp_path: Path, side: int, size: int
) -> None:
    picture = draw_picture(side, side)
    folder = folder_of(tmp_path, {"a.jpg": lossless_jpeg(picture)})
    reduced, whole = (
        TrainTransform(out, scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=0.0, flip=0.0) for out in (size, side)
    )
    assert side // size >= 4
    assert not read(reader, folder, reduced)[1].any()
    found, done = read(reader, folder, whole)
    assert done.all()
    np.testing.assert_array_equal(found[0], picture)


def test_files_that_cannot_be_read(reader: NativeReader, tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    folder = folder_of(tmp_path, {name: jpeg(40, 40) for name in names})
    place = tmp_path / "train" / "it"
    (place / "a.jpg").unlink()
    (place / "b.jpg").unlink()
    os.mkfifo(place / "b.jpg")
    (place / "c.jpg").unlink()
    (place / "c.jpg").mkdir()
    _, done = read(reader, folder, WHOLE)
    assert done.tolist() == [False, False, False, True]


OUT_OF_MEMORY = """
import os, resource, sys
import numpy as np
from shufflenet_fn.data.native.reader import NativeReader, functions
from shufflenet_fn.data.dataset import stored_files
from shufflenet_fn.data.transforms import EvalTransform

reader, out = NativeReader(functions()), np.zeros((3, 8, 8, 3), dtype=np.uint8)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = os.listdir("/proc/self/fd")
with stored_files([os.fsencode(sys.argv[1])] * 3) as stored:
    done = reader.eval(stored, EvalTransform(8, 8), out=out)
assert not done.any()
assert os.listdir("/proc/self/fd") == before
"""


def test_files_are_closed_where_memory_runs_out(tmp_path: Path) -> None:
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(2**30)  # takes no room
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path / "huge.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("resize", "size"), [(32, 32), (37, 24), (256, 224), (64, 1)])
def test_evaluation(reader: NativeReader, tmp_path: Path, resize: int, size: int) -> None:
    sizes = [(1, 1), (2, 300), (300, 2), (32, 32), (33, 64), (97, 131), (300, 200), (256, 341)]
    folder = folder_of(tmp_path, {f"{n}.jpg": jpeg(*shape, seed=n) for n, shape in enumerate(sizes)})
    out = np.zeros((len(folder), size, size, 3), dtype=np.uint8)
    transform = EvalTransform(resize, size)
    with folder.located(np.arange(len(folder))) as stored:
        assert reader.eval(stored, transform, out=out).all()
    for index in range(len(folder)):
        picture = open_image(folder.read(index), name="it")
        np.testing.assert_array_equal(out[index], transform(picture))


def batches_of(
    folder: ImageFolder, transform: TrainTransform, limit: str | None, **options: Any
) -> list[Any]:
    """All that two loaders give, one to train and one to evaluate."""
    bad = [BadImages(folder, parse_bad_limit(limit)) if limit else None for _ in range(2)]
    schedule: dict[str, Any] = {"seed": 3, "global_batch": 8, "stop_step": 6, "repeats": 2}
    with (
        train_loader(folder, transform, **schedule, bad_images=bad[0], **options) as train,
        eval_loader(folder, EvalTransform(28, 24), batch_size=7, bad_images=bad[1], **options) as val,
    ):
        return [(b.images.clone(), b.labels.clone(), b.indices.clone()) for b in (*train, *val)]


@pytest.mark.parametrize(("threads", "jitters"), [(0, True), (2, True), (0, False)])
@pytest.mark.parametrize("bad", [False, True])
def test_batches_are_the_same(
    library: Functions, tmp_path: Path, threads: int, jitters: bool, bad: bool
) -> None:
    images = {f"{n:02}.jpg": jpeg(40 + n, 60 - n, seed=n) for n in range(20)}
    images["05.jpg"] = not_read()["png.jpg"]
    images["11.jpg"] = not_read()["progressive.jpg"]
    if bad:
        images["03.jpg"] = not_read()["cut.jpg"]
    folder = folder_of(tmp_path, images)
    reader = NativeReader(Functions(**{**vars(library), "jitters": jitters}))
    transform, limit = TrainTransform(24, jitter=0.4), "5" if bad else None
    ours, theirs = (
        batches_of(folder, transform, limit, threads=threads, native=native) for native in (reader, None)
    )
    assert sum(len(indices) for _, _, indices in ours[6:]) == 20 - bad
    for our, their in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, our, their))
    if bad:
        with pytest.raises(BadImage, match=r"03\.jpg"):
            batches_of(folder, transform, None, threads=threads, native=reader)


def test_checksums_are_those_of_zlib(library: Functions) -> None:
    for size in (*range(0, 300, 7), 1023, 4096, 100_003):
        data = np.random.default_rng(size).bytes(size)
        for start in (0, 1, 0xFFFFFFFF, 123456789):
            assert library.crc32(start, data, size) == zlib.crc32(data, start), size

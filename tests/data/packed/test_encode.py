from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.decode import decode_rgb
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.write import encode_record

from ..conftest import encoded

Picture = Callable[..., Any]
RAW = PackSettings(format="raw", short_side=64, quality=None)
JPEG = PackSettings(short_side=64)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 50}])
def test_small_jpegs_are_kept_byte_for_byte(picture: Picture, mode: str, options: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(picture(64, 80)).convert(mode), "JPEG", **options)
    for short_side in (64, 0):
        assert encode_record(data, PackSettings(short_side=short_side), name="x") == (data, 64, 80, True)


@pytest.mark.parametrize(("height", "width"), [(128, 200), (200, 128), (65, 65)])
def test_large_jpegs_are_shrunk_to_the_short_side(picture: Picture, height: int, width: int) -> None:
    data = encoded(Image.fromarray(picture(height, width)), "JPEG", quality=95)
    record = encode_record(data, JPEG, name="x")
    expected = (64, int(64 * width / height)) if height < width else (int(64 * height / width), 64)
    assert (record.height, record.width, record.kept) == (*expected, False)
    shrunk = Image.open(io.BytesIO(record.data))
    assert (shrunk.format, shrunk.mode, shrunk.size) == ("JPEG", "RGB", expected[::-1])
    exact = Image.fromarray(decode_rgb(data, path="x")).resize(expected[::-1], Image.Resampling.BILINEAR)
    by_pillow = encoded(exact, "JPEG", quality=90, subsampling="4:2:0")
    assert error_of(record.data, exact) < 1.1 * error_of(by_pillow, exact)
    assert len(record.data) < 1.1 * len(by_pillow)


def error_of(data: bytes, exact: Image.Image) -> float:
    """Mean difference of a JPEG from what it was made of, in levels."""
    return float(np.abs(decode_rgb(data, path="x") - np.asarray(exact, dtype=float)).mean())


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("JPEG", "CMYK")])
def test_other_images_become_rgb_jpegs(picture: Picture, kind: str, mode: str) -> None:
    data = encoded(Image.fromarray(picture(50, 40)).convert(mode), kind)
    record = encode_record(data, JPEG, name="x")
    image = Image.open(io.BytesIO(record.data))
    assert (image.format, image.mode, image.size, record.kept) == ("JPEG", "RGB", (40, 50), False)


def test_quality_decides_the_size(picture: Picture) -> None:
    data = encoded(Image.fromarray(picture(128, 128)), "PNG")
    records = [encode_record(data, PackSettings(quality=quality), name="x") for quality in (30, 60, 90)]
    sizes = [len(record.data) for record in records]
    assert sizes == sorted(set(sizes))


def test_raw_pixels_are_those_that_training_decodes(picture: Picture) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # is ignored, as in training
    data = encoded(Image.fromarray(picture(60, 90)), "JPEG", exif=turned)
    assert encode_record(data, RAW, name="x") == (decode_rgb(data, path="x").tobytes(), 60, 90, False)


@pytest.mark.parametrize("settings", [JPEG, RAW], ids=["jpeg", "raw"])
@pytest.mark.parametrize("height", [40, 100], ids=["small", "large"])
def test_a_truncated_jpeg_is_not_packed(picture: Picture, settings: PackSettings, height: int) -> None:
    data = encoded(Image.fromarray(picture(height, 90)), "JPEG")
    with pytest.raises(BadImage, match=r"cut\.jpg"):
        encode_record(data[: len(data) // 2], settings, name="cut.jpg")


def test_jpeg_header_with_too_many_pixels_is_refused(picture: Picture) -> None:
    data = encoded(Image.fromarray(picture(8, 8)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    data = data[:at] + (65_000).to_bytes(2, "big") * 2 + data[at + 4 :]
    with pytest.raises(BadImage, match=r"huge\.jpg: it is 65000 x 65000"):
        encode_record(data, PackSettings(short_side=0), name="huge.jpg")


def test_an_image_longer_than_a_jpeg_can_be(picture: Picture) -> None:
    data = encoded(Image.new("L", (70_000, 2)), "PNG")
    with pytest.raises(
        BadImage, match=r"it is 70000 x 2 pixels; a JPEG has at most 65500 .* --format raw takes it"
    ):
        encode_record(data, JPEG, name="long.png")
    raw = PackSettings(format="raw", short_side=0, quality=None)
    assert encode_record(data, raw, name="long.png")[1:3] == (2, 70_000)

"""Decoding: every kind of file becomes RGB, and a bad one is named."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from shufflenet_fn.data.decode import decode_rgb
from shufflenet_fn_backends.errors import UserError

from .conftest import Array, encoded

Picture = Callable[..., Array]


def pillow_rgb(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(picture: Picture, subsampling: str, progressive: bool) -> None:
    image = Image.fromarray(picture(37, 53))
    data = encoded(image, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
    ours = decode_rgb(data, path="x")
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours, pillow_rgb(data))


def test_grey_jpeg(picture: Picture) -> None:
    grey = Image.fromarray(picture(20, 30)).convert("L")
    ours = decode_rgb(encoded(grey, "JPEG", quality=95), path="x")
    assert ours.shape == (20, 30, 3)
    assert (ours == ours[:, :, :1]).all()
    assert abs(ours[:, :, 0].astype(int) - np.asarray(grey)).mean() < 3


def test_cmyk_jpeg(picture: Picture) -> None:
    image = Image.fromarray(picture(40, 40))
    ours = decode_rgb(encoded(image.convert("CMYK"), "JPEG", quality=95), path="x")
    assert abs(ours.astype(int) - np.asarray(image)).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats(picture: Picture, kind: str) -> None:
    image = picture(15, 22)
    np.testing.assert_array_equal(
        decode_rgb(encoded(Image.fromarray(image), kind), path="x"), image
    )


def test_a_png_named_jpeg_is_read_by_its_content(picture: Picture) -> None:
    image = picture(9, 9)
    data = encoded(Image.fromarray(image), "PNG")
    np.testing.assert_array_equal(decode_rgb(data, path="n02105855_2933.JPEG"), image)


def test_palette_png_with_transparency(picture: Picture) -> None:
    palette = Image.fromarray(picture(16, 16)).quantize(16)
    data = encoded(palette, "PNG", transparency=bytes(range(16)))
    np.testing.assert_array_equal(decode_rgb(data, path="x"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(picture: Picture, mode: str) -> None:
    image = Image.fromarray(picture(12, 10)).convert(mode)
    image.putalpha(Image.fromarray(picture(12, 10, 1)[:, :, 0]))
    ours = decode_rgb(encoded(image, "PNG"), path="x")
    np.testing.assert_array_equal(ours, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind: str) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    ours = decode_rgb(encoded(Image.fromarray(deep), kind), path="x")
    np.testing.assert_array_equal(ours, np.repeat((deep >> 8)[:, :, None], 3, axis=2))


def test_one_bit_png() -> None:
    image = Image.fromarray(np.eye(8, dtype=bool))
    np.testing.assert_array_equal(
        decode_rgb(encoded(image, "PNG"), path="x")[:, :, 0], 255 * np.eye(8, dtype=np.uint8)
    )


def test_exif_orientation_is_ignored(picture: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(picture(10, 20)), "JPEG", exif=exif)
    assert decode_rgb(data, path="x").shape == (10, 20, 3)


def test_jpeg_with_recoverable_damage_is_read(picture: Picture) -> None:
    """Stray bytes between markers, as in one of ImageNet's files: simplejpeg refuses it."""
    data = encoded(Image.fromarray(picture(32, 32)), "JPEG", quality=90)
    start = data.index(b"\xff\xdb")
    damaged = data[:start] + b"\x00\x01\x02" + data[start:]
    np.testing.assert_array_equal(decode_rgb(damaged, path="x"), pillow_rgb(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_file(picture: Picture, kind: str, share: float) -> None:
    data = encoded(Image.fromarray(picture(64, 64)), kind)
    with pytest.raises(UserError, match=rf"cannot decode image a/b\.jpg: .*\(a {kind}\)\. Copy it"):
        decode_rgb(data[: int(len(data) * share)], path="a/b.jpg")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello, this is text", "no known format"),
        (b"<!DOCTYPE html><html>404", "HTML or XML, such as a saved error page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\xff\xd8\xff\xe0", "a JPEG"),
    ],
)
def test_not_an_image(data: bytes, kind: str) -> None:
    with pytest.raises(UserError) as caught:
        decode_rgb(data, path="a/b.jpg")
    message = str(caught.value)
    assert message.startswith("cannot decode image a/b.jpg: ")
    assert f"The file has {len(data)} bytes and starts with {data[:12]!r} ({kind}" in message
    assert message.endswith("Copy it again or remove it.")


def test_empty_file() -> None:
    with pytest.raises(
        UserError, match=r"cannot decode image a/b\.jpg: the file is empty\. Copy it"
    ):
        decode_rgb(b"", path="a/b.jpg")

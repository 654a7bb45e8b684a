"""Decoding: every kind of file becomes RGB, and a bad one is named."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.dataset import Encoded
from shufflenet_fn.data.decode import MAX_SCANS, Box, Scratch, check_scans, decode_rgb, open_image

from .conftest import Array, encoded
from .lossless_jpeg import lossless_jpeg

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


@pytest.mark.parametrize(("mode", "within"), [("L", 3), ("CMYK", 6)])
def test_other_jpegs_show_their_colours(picture: Picture, mode: str, within: float) -> None:
    image = Image.fromarray(picture(40, 30)).convert(mode)
    ours = decode_rgb(encoded(image, "JPEG", quality=95), path="x")
    assert abs(ours - np.asarray(image.convert("RGB"), dtype=float)).mean() < within
    assert mode != "L" or (ours == ours[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_are_told_by_content(picture: Picture, kind: str) -> None:
    image = picture(15, 22)
    data = encoded(Image.fromarray(image), kind)
    np.testing.assert_array_equal(decode_rgb(data, path="n02105855_2933.JPEG"), image)


def test_16_bit_pgm_keeps_its_high_byte() -> None:
    deep = np.arange(256, dtype=np.uint16) * 257
    ours = decode_rgb(b"P5 16 16 65535\n" + deep.astype(">u2").tobytes(), path="x")
    np.testing.assert_array_equal(ours[:, :, 0].reshape(-1), deep >> 8)


def test_exif_orientation_is_ignored(picture: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(picture(10, 20)), "JPEG", exif=exif)
    assert decode_rgb(data, path="x").shape == (10, 20, 3)


def stray_bytes(data: bytes) -> bytes:
    """Between markers, as in one of ImageNet's files: libjpeg-turbo warns and goes on."""
    start = data.index(b"\xff\xdb")
    return data[:start] + b"\x00\x01\x02" + data[start:]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_libjpeg_turbo_warns_about_is_refused(picture: Picture, mode: str) -> None:
    """Pillow takes all of these without a word."""
    whole = encoded(Image.fromarray(picture(32, 32)).convert(mode), "JPEG", quality=90)
    data = stray_bytes(whole)
    np.testing.assert_array_equal(pillow_rgb(data), pillow_rgb(whole))
    with pytest.raises(BadImage, match=r"3 extraneous bytes before marker.*--on-bad-image skip"):
        decode_rgb(data, path="x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_file(picture: Picture, kind: str, share: float) -> None:
    data = encoded(Image.fromarray(picture(64, 64)), kind)
    with pytest.raises(BadImage, match=rf"cannot decode image a/b\.jpg: .*\(a {kind}\)\. Replace"):
        decode_rgb(data[: int(len(data) * share)], path="a/b.jpg")


def test_flipped_bits_of_png_pixels_are_found(picture: Picture) -> None:
    data = encoded(Image.fromarray(picture(24, 24)), "PNG")
    start = data.index(b"IDAT") + 4
    rng = np.random.default_rng(0)
    for position in rng.integers(start, len(data) - 16, 40).tolist():
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(BadImage):
            decode_rgb(bytes(flipped), path="x")


@pytest.mark.parametrize("kind", ["PNG", "PPM", "JPEG"])
def test_a_decompression_bomb_is_not_decoded(picture: Picture, kind: str) -> None:
    """A header that promises 20,000 x 20,000 pixels."""
    data = encoded(Image.fromarray(picture(8, 8)), kind)
    side = 20_000
    if kind == "PNG":
        header = b"IHDR" + side.to_bytes(4, "big") * 2 + data[24:29]
        data = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    elif kind == "PPM":
        data = data.replace(b"8 8", b"20000 20000")
    else:
        at = data.index(b"\xff\xc0") + 5
        data = data[:at] + side.to_bytes(2, "big") * 2 + data[at + 4 :]
    with pytest.raises(BadImage, match=r"20000 x 20000.*178,956,970"):
        decode_rgb(data, path="x")


def test_large_allowed_image_gives_no_warning() -> None:
    """Beyond half of the limit Pillow warns, which pytest makes an error. No filter of warnings is set."""
    before = list(warnings.filters)
    data = encoded(Image.new("1", (9500, 9500)), "PNG")
    assert decode_rgb(data, path="x").shape == (9500, 9500, 3)
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"hello, this is text", "no known format"),
        (b"<!DOCTYPE html><html>404", "HTML or XML, such as a saved error page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\xff\xd8\xff\xe0", "a JPEG"),
        (b"\x89PNG\n\x1a\n", "a damaged PNG"),
        (b"\x89PNG\r\n\x1a\n", "a PNG"),
        (b"\0\0\0\x20ftypisom", "a video"),
    ],
)
def test_not_an_image(data: bytes, kind: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode_rgb(data, path="a/b.jpg")
    message = str(caught.value)
    assert message.startswith("cannot decode image a/b.jpg: ")
    assert caught.value.name == "a/b.jpg"
    if not data:
        assert "the file is empty. " in message
        return
    assert "0x" not in message
    assert ("no image" in message) == (kind not in ("a JPEG", "a PNG"))
    assert f"the file has {len(data)} bytes and starts with {data[:12]!r} ({kind}" in message


@pytest.mark.parametrize(
    ("data", "kind", "reader"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC", "pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC", "pillow-heif"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf", "an AVIF", "Pillow"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF", "Pillow"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000", "Pillow"),
        (b"\xff\x4f\xff\x51\0", "a JPEG 2000", "Pillow"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL", "djxl"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL", "djxl"),
        (b"8BPS\0\1", "a Photoshop file", "ImageMagick"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw file", "rawpy"),
    ],
)
def test_formats_that_are_not_read_are_named(data: bytes, kind: str, reader: str) -> None:
    message = f"it is {kind}, which is not read; .*{reader}.* converts it to JPEG"
    with pytest.raises(BadImage, match=message) as caught:
        decode_rgb(data, path="photo.jpg")
    assert caught.value.kind == "format not read"


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (5, b"\xff\xf0", "it is 8 x 65520 pixels; .* at most 65,500 a side; save it smaller"),
        (4, b"\x0c", "it is a JPEG of 12 bits, which is not read; save it with 8"),
    ],
)
def test_limits_of_libjpeg_turbo_are_named(picture: Picture, offset: int, value: bytes, message: str) -> None:
    data = encoded(Image.fromarray(picture(8, 8)), "JPEG")
    at = data.index(b"\xff\xc0") + offset
    with pytest.raises(BadImage, match=message):
        decode_rgb(data[:at] + value + data[at + len(value) :], path="x")


def test_pixels_are_a_view() -> None:
    data = bytes(range(2 * 3 * 3))
    image = open_image(Encoded(memoryview(data), (2, 3)), name="x").decode(1)
    assert image.shape == (2, 3, 3)
    assert image.tobytes() == data
    assert np.shares_memory(image, np.frombuffer(data, np.uint8))
    for other in (b"", bytes(17), bytes(19)):
        with pytest.raises(BadImage, match=rf"it has {len(other)} bytes, which are not 3 x 2 RGB pixels"):
            open_image(Encoded(other, (2, 3)), name="x")


def test_scratch_is_used_again_and_changes_nothing(picture: Picture) -> None:
    scratch, before = Scratch(), None
    for height, width in ((60, 80), (20, 31), (59, 64)):
        data = encoded(Image.fromarray(picture(height, width)), "JPEG")
        image = open_image(Encoded(data), name="x", scratch=scratch).decode(1)
        np.testing.assert_array_equal(image, decode_rgb(data, path="x"))
        assert before is None or np.shares_memory(image, before)
        before = image


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(64, 80), (63, 81), (9, 200)])
def test_reduced_jpeg(picture: Picture, reduction: int, shape: tuple[int, int]) -> None:
    """About what averaging squares of the whole picture gives."""
    data = encoded(Image.fromarray(picture(*shape)), "JPEG", quality=95)
    opened = open_image(Encoded(data), name="x", scratch=Scratch())
    assert (opened.height, opened.width) == shape
    reduced = opened.decode(reduction)
    height, width = (-(-side // reduction) for side in shape)
    assert reduced.shape == (height, width, 3)
    padding = [(0, height * reduction - shape[0]), (0, width * reduction - shape[1]), (0, 0)]
    whole = np.pad(decode_rgb(data, path="x").astype(float), padding, mode="edge")
    means = whole.reshape(height, reduction, width, reduction, 3).mean(axis=(1, 3))
    assert abs(reduced - means).mean() < 6


@pytest.mark.parametrize("side", [33, 64, 200])
def test_lossless_jpegs_are_never_reduced(picture: Picture, side: int) -> None:
    """simplejpeg makes room for a part of one and fills it with the whole, behind the end of the room."""
    pixels = picture(side, side)
    opened = open_image(Encoded(lossless_jpeg(pixels)), name="x", scratch=Scratch())
    assert opened.reductions == (1,)
    np.testing.assert_array_equal(opened.decode(1), pixels)
    region = opened.region(Box(0, 0, side, side), 4, 4)
    np.testing.assert_array_equal(region.pixels, pixels)


def test_a_sampling_without_a_name(picture: Picture) -> None:
    """4:4:1, of the blocks of another image: as RGB, all of its components share their tables."""
    data = bytearray(encoded(Image.fromarray(picture(32, 8)), "JPEG", keep_rgb=True))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    data[frame + 5 : frame + 7] = (64).to_bytes(2, "big")
    data[frame + 11] = 0x14
    for number in range(3):
        data[frame + 10 + 3 * number] = data[scan + 5 + 2 * number] = number + 1
    ours = decode_rgb(bytes(data), path="x")
    assert ours.shape == (64, 8, 3)
    np.testing.assert_array_equal(ours, pillow_rgb(bytes(data)))
    with pytest.raises(BadImage, match="libjpeg-turbo says"):
        decode_rgb(bytes(data[: scan + 20]), path="x")


END = b"\xff\xd9"


def repeated(data: bytes, times: int) -> bytes:
    """``data`` with its last scan so many times more."""
    scan = data[data.rindex(b"\xff\xda") : -len(END)]
    return data[: -len(END)] + scan * times + END


@pytest.fixture(params=["RGB", "L", "CMYK"])
def progressive(request: pytest.FixtureRequest, picture: Picture) -> bytes:
    image = Image.fromarray(picture(24, 24)).convert(request.param)
    return encoded(image, "JPEG", progressive=True)


@pytest.mark.parametrize("wrapped", [bytes, memoryview])
def test_more_scans_than_allowed_are_not_decoded(
    progressive: bytes, wrapped: Callable[[bytes], bytes | memoryview]
) -> None:
    start = progressive.index(b"\xff\xdb")
    between = progressive[:start] + b"\x00\x01\xff\x00" + progressive[start:]
    for data in (progressive, between):
        with pytest.raises(BadImage, match="it has more than 100 scans"):
            check_scans(repeated(data, MAX_SCANS), "x")
    with pytest.raises(BadImage, match="it has more than 100 scans"):
        decode_rgb(wrapped(repeated(progressive, MAX_SCANS)), path="x")
    for length in range(len(progressive)):  # a cut header raises nothing
        check_scans(progressive[:length], "x")


def test_scans_of_single_components_count_without_progression() -> None:
    frame = b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08\x03" + bytes(9)
    scan = b"\xff\xda\x00\x08\x01" + bytes(5)
    check_scans(b"\xff\xd8" + frame + scan * MAX_SCANS + END, "x")
    with pytest.raises(BadImage, match="scans"):
        check_scans(b"\xff\xd8" + frame + scan * (MAX_SCANS + 1) + END, "x")


@pytest.mark.parametrize("progressive_too", [False, True])
def test_what_only_looks_like_scans_is_decoded(picture: Picture, progressive_too: bool) -> None:
    """In a comment, and in a video behind the image."""
    image = Image.fromarray(picture(24, 24))
    scans = b"\xff\xda" * 500
    data = encoded(image, "JPEG", progressive=progressive_too)
    longer = encoded(image, "JPEG", progressive=progressive_too, comment=scans) + scans
    np.testing.assert_array_equal(decode_rgb(longer, path="x"), decode_rgb(data, path="x"))

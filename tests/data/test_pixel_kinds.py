"""Each depth, sign and colour model of a TIFF or PNG is decoded as it is meant, or refused by name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.decode import decode_rgb

from .conftest import Array

WIDTH, HEIGHT = 15, 4  # rows of 12-bit values end inside a byte
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_ZERO, GREY, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6

RED = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1)) * np.linspace(0.5, 1, HEIGHT)[:, None]
GREEN, BLUE, ALPHA = RED[:, ::-1], RED[::-1], np.tile(np.linspace(0.4, 1, WIDTH), (HEIGHT, 1))
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 256))
INDICES = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)


def packed(row: Array, bits: int, order: str = ">", sample_format: int = UNSIGNED) -> bytes:
    """A row of values from 0 to 1, as numbers of so many bits."""
    if sample_format == FLOAT:
        return row.astype(f"{order}f{bits // 8}").tobytes()
    top, shift = 2**bits - 1, 2 ** (bits - 1) if sample_format == SIGNED else 0
    numbers = [(round(value * top) - shift) & top for value in row.reshape(-1).tolist()]
    if bits % 8 == 0:
        end: Any = "little" if order == "<" else "big"
        return b"".join(number.to_bytes(bits // 8, end) for number in numbers)
    text = "".join(f"{number:0{bits}b}" for number in numbers)
    return int(text + "0" * (-len(text) % 8), 2).to_bytes(-(-len(text) // 8), "big")


def tiff(
    channels: Sequence[Array],
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    sample_format: int = UNSIGNED,
    tags: dict[int, Sequence[int]] | None = None,
) -> bytes:
    """A TIFF of one strip."""
    tags, count = tags or {}, len(channels)
    data = b"".join(packed(row, bits, order, sample_format) for row in np.stack(channels, axis=-1))
    if tags.get(259) == [8]:
        data = zlib.compress(data)
    sizes = {256: [WIDTH], 257: [HEIGHT], 278: [HEIGHT], 279: [len(data)], 273: [0]}
    kinds = {258: [bits] * count, 262: [photometric], 277: [count], 339: [sample_format] * count}
    fields = {259: [1], **sizes, **kinds, **tags}
    stored = {tag: struct.pack(f"{order}{len(v)}H", *v) for tag, v in sorted(fields.items())}
    at = 8 + 2 + 12 * len(stored) + 4
    fields[273] = [at + sum(len(value) for value in stored.values() if len(value) > 4)]
    stored[273] = struct.pack(f"{order}H", *fields[273])
    directory, behind = struct.pack(f"{order}H", len(stored)), b""
    for tag, value in stored.items():
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field, behind = struct.pack(f"{order}I", at + len(behind)), behind + value
        directory += struct.pack(f"{order}HHI", tag, 3, len(fields[tag])) + field
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return start + directory + bytes(4) + behind + data


def png(channels: Sequence[Array], bits: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    rows = b"".join(b"\0" + packed(row, bits) for row in np.stack(channels, axis=-1))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def assert_shows(data: bytes, colours: Sequence[Array], bits: int, within: float = 1.0) -> None:
    levels = np.round(np.stack(colours, axis=-1) * (2**bits - 1)) * (255 / (2**bits - 1))
    assert np.abs(decode_rgb(data, path="x") - levels).max() <= within


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, GREY])
@pytest.mark.parametrize(
    ("sample_format", "bits"),
    [
        *product([UNSIGNED], [1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64]),
        *product([SIGNED], [8, 12, 16, 32, 64]),
        *product([FLOAT], [16, 32, 64]),
    ],
)
def test_grey_tiff_is_right_or_refused(order: str, photometric: int, sample_format: int, bits: int) -> None:
    stored = 1 - RED if photometric == WHITE_IS_ZERO else RED
    data = tiff([stored], bits, photometric, order=order, sample_format=sample_format)
    read_by_pillow = {(">", GREY, 16), ("<", GREY, 16), ("<", GREY, 12), ("<", WHITE_IS_ZERO, 16)}
    if sample_format == UNSIGNED and (bits in (1, 2, 4, 8) or (order, photometric, bits) in read_by_pillow):
        levels = np.round(stored * (2**bits - 1)) / (2**bits - 1)
        assert_shows(data, [1 - levels if photometric == WHITE_IS_ZERO else levels] * 3, bits)
        return
    with pytest.raises(BadImage, match=rf"{bits}-bit .*grey .*; save it as 8-bit") as caught:
        decode_rgb(data, path="x")
    no_range = sample_format != UNSIGNED or bits >= 32
    assert caught.value.kind == ("unknown range" if no_range else "format not read")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("channels", "bits", "photometric", "tags"),
    [
        *(((RED, GREEN, BLUE), bits, RGB, {}) for bits in (8, 16)),
        *(((RED, GREEN, BLUE, ALPHA), bits, RGB, {338: [2]}) for bits in (8, 16)),
        ((RED, GREEN, BLUE, ALPHA), 8, RGB, {338: [0]}),
        ((RED * ALPHA, GREEN * ALPHA, BLUE * ALPHA, ALPHA), 8, RGB, {338: [1]}),
        *(((1 - RED, 1 - GREEN, 1 - BLUE, 0 * RED), bits, CMYK, {}) for bits in (8, 16)),
        ((RED, ALPHA), 8, GREY, {338: [2]}),
        ((RED, ALPHA), 8, GREY, {338: [0]}),
        ((RED * ALPHA, ALPHA), 8, GREY, {338: [1]}),
    ],
)
def test_tiff_with_colours_or_alpha(
    channels: Any, bits: int, photometric: int, tags: Any, order: str
) -> None:
    data = tiff(channels, bits, photometric, order=order, tags=tags)
    within = 3 if tags == {338: [1]} else 1  # premultiplied
    assert_shows(data, [RED] * 3 if len(channels) < 3 else (RED, GREEN, BLUE), bits, within)


@pytest.mark.parametrize(("bits", "photometric"), [(12, GREY), (16, GREY), (16, WHITE_IS_ZERO)])
def test_compressed_grey_tiff(bits: int, photometric: int) -> None:
    stored = 1 - RED if photometric == WHITE_IS_ZERO else RED
    assert_shows(tiff([stored], bits, photometric, tags={259: [8]}), [RED] * 3, bits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("scale", [1, 257])
def test_palette_tiff(bits: int, scale: int) -> None:
    """Colours should go to 65,535; those of some programs go to 255."""
    colours, indices = COLOURS[:, : 2**bits], INDICES % 2**bits
    tags = {320: (colours * scale).reshape(-1).tolist()}
    shown = decode_rgb(tiff([indices / (2**bits - 1)], bits, PALETTE, tags=tags), path="x")
    np.testing.assert_array_equal(shown, colours[:, indices].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("channels", "bits", "photometric", "options", "message"),
    [
        ([RED] * 3, 4, RGB, {}, "a TIFF of 4-bit RGB is not read"),
        ([RED] * 3, 16, RGB, {"sample_format": SIGNED}, "16-bit signed RGB has no defined range"),
        ([RED] * 2, 16, GREY, {"tags": {338: [2]}}, "16-bit grey with 1 more channel is not read"),
        (
            [RED],
            8,
            WHITE_IS_ZERO,
            {"tags": {266: [2]}},
            "white-is-zero grey in reversed order of bits is not",
        ),
        ([RED], 8, 32803, {}, "8-bit photometric 32803 is not read"),
        ([RED], 8, GREY, {"tags": {259: [34712]}}, "TIFFs of compression 34712 are not read"),
        # Half of the bytes, as where two pixels share a colour.
        ([RED] * 3, 4, YCBCR, {"tags": {258: [8] * 3}}, "subsampled 8-bit YCbCr is not read"),
    ],
)
def test_other_tiffs_are_refused_by_name(
    channels: Any, bits: int, photometric: int, options: Any, message: str
) -> None:
    with pytest.raises(BadImage, match=f"{message}.*; save it as 8-bit grey or RGB"):
        decode_rgb(tiff(channels, bits, photometric, **options), path="x")


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(
    ("channels", "kind", "bits"),
    [
        *product([(RED,)], [0], [1, 2, 4, 8, 16]),
        *product([(RED, GREEN, BLUE)], [2], [8, 16]),
        *product([(RED, ALPHA)], [4], [8, 16]),
        *product([(RED, GREEN, BLUE, ALPHA)], [6], [8, 16]),
    ],
)
def test_png_of_each_kind(channels: Any, kind: int, bits: int, transparent: bool) -> None:
    chunks = [(b"tRNS", bytes(len(channels) * 2))] if transparent and len(channels) % 2 else []
    colours = channels[:3] if len(channels) > 2 else [RED] * 3
    assert_shows(png(channels, bits, kind, *chunks), colours, bits)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png(bits: int, transparent: bool) -> None:
    colours, indices = COLOURS[:, : 2**bits], INDICES % 2**bits
    chunks = [(b"PLTE", colours.T.astype(np.uint8).tobytes())]
    chunks += [(b"tRNS", bytes(range(2**bits)))] if transparent else []
    shown = decode_rgb(png([indices / (2**bits - 1)], bits, 3, *chunks), path="x")
    np.testing.assert_array_equal(shown, colours[:, indices].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("chunk", "limit"),
    [
        ((b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**20 + 1))), "MAX_TEXT_CHUNK"),
        ((b"zTXt", b"text\0\0" + zlib.compress(bytes(2**20 + 1))), "MAX_TEXT_CHUNK"),
        ((b"tEXt", b"text\0" + bytes(64 * 2**20 + 1)), "MAX_TEXT_MEMORY"),
    ],
    ids=["profile", "text", "texts"],
)
def test_a_limit_of_pillow_is_named(chunk: tuple[bytes, bytes], limit: str) -> None:
    with pytest.raises(BadImage, match=rf"MiB that Pillow reads \({limit}\); save it again") as bad:
        decode_rgb(png([RED], 8, 0, chunk), path="x")
    assert bad.value.kind == "over a limit"

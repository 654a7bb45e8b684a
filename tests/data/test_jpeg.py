"""A JPEG that would take a reader too long is refused by what its segments say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.decode import MAX_SCANS, check_scans, decode_rgb

from .conftest import Array, encoded

Picture = Callable[..., Array]

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
    with pytest.raises(BadImage, match="it has more than 100 scans"):
        decode_rgb(wrapped(repeated(progressive, MAX_SCANS)), path="x")


def test_bytes_between_segments_do_not_hide_scans(progressive: bytes) -> None:
    start = progressive.index(b"\xff\xdb")
    data = progressive[:start] + b"\x00\x01\xff\x00" + progressive[start:]
    with pytest.raises(BadImage, match="scans"):
        check_scans(repeated(data, MAX_SCANS), "x")


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


def test_a_cut_header_raises_nothing(progressive: bytes) -> None:
    for length in range(len(progressive)):
        check_scans(progressive[:length], "x")

"""What a run says about its bad images, and where it writes them down."""

from __future__ import annotations

from pathlib import Path

import pytest

from shufflenet_fn.data.bad_images import BadSample
from shufflenet_fn.run.bad_data import BadImageFile, left_out_line
from shufflenet_fn_backends.support.errors import UserError


def test_unwritable_record_names_file_and_image(tmp_path: Path) -> None:
    file = BadImageFile(tmp_path / "gone", rank=1)
    with pytest.raises(UserError) as caught:
        file.record(BadSample("train", 7, "train/a/7.jpg", "the file is empty"))
    assert f"{tmp_path}/gone/bad_images.rank1.jsonl: No such file" in str(caught.value)
    assert "train/a/7.jpg" in str(caught.value) and "--resume" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "end"),
    [
        ((), "the scores are over 93 images"),
        (("a", "b"), "93 images. They are: a, b"),
        (tuple("abcdefg"), "93 images. They are: a, b, c, d, e and 2 more"),
    ],
)
def test_images_left_out_are_named(names: tuple[str, ...], end: str) -> None:
    line = left_out_line(100, 93, names)
    assert line is not None and line.endswith(end)

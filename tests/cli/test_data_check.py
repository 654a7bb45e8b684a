"""``data check``: all problems by kind and name, remarks, and the exit code that training would give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drills.fuzz.mutations import mutate
from drills.fuzz.pictures import made_pictures
from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.check import inspect
from shufflenet_fn.data.decode import open_image
from shufflenet_fn.data.folder import open_image_folder
from tests.conftest import Command
from tests.data.conftest import encoded
from tests.data.test_bad_images import BAD


@pytest.fixture
def folder(image_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_folder, tmp_path / "data"))


def checked(command: Command, folder: Path, expected: int) -> dict[str, Any]:
    done = command("data", "check", folder, "--json")
    assert done.code == expected, done
    result: dict[str, Any] = json.loads(done.out)
    assert result["ok"] == (expected == 0)
    return result


def by_kind(findings: list[dict[str, str]], folder: Path) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for finding in findings:
        assert finding["text"]
        kinds.setdefault(finding["kind"], []).append(finding["name"].removeprefix(f"{folder}/"))
    return kinds


def test_a_good_folder(command: Command, folder: Path) -> None:
    result = checked(command, folder, 0)
    assert result == {"ok": True, "images": {"train": 24, "val": 10}, "problems": [], "remarks": []}
    done = command("data", "check", folder)
    assert done.out == "images: train 24, val 10; 0 problems: a training run would not stop\n"


def test_every_kind_of_problem_is_listed(command: Command, folder: Path) -> None:
    blue = folder / "train" / "blue"
    whole = (blue / "00.jpg").read_bytes()
    (blue / "02.jpg").write_bytes(whole[: len(whole) // 2])
    frame = whole.index(b"\xff\xc0")
    (blue / "05.jpg").write_bytes(whole[: frame + 5] + b"\x80\x00" * 2 + whole[frame + 9 :])
    damage = {"01": "empty", "03": "html", "04": "dangling link", "06": "damaged scan"}
    for number, kind in damage.items():
        BAD[kind](blue / f"{number}.jpg")
    (blue / "07 ü\n.jpg").mkdir()
    BAD["bomb"](blue / "08.png")
    for name, dtype in (("09.tif", np.float32), ("10.tif", np.int32)):
        (blue / name).write_bytes(encoded(Image.fromarray(np.ones((4, 4), dtype)), "TIFF"))
    (blue / "11.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "val" / "empty").mkdir()
    (folder / "train" / "nothing").mkdir()
    result = checked(command, folder, 1)
    assert by_kind(result["problems"], folder) == {
        "empty file": ["train/blue/01.jpg"],
        "truncated": ["train/blue/02.jpg"],
        "not an image": ["train/blue/03.jpg"],
        "dangling link": ["train/blue/04.jpg"],
        "too many pixels": ["train/blue/05.jpg", "train/blue/08.png"],
        "unknown range": ["train/blue/09.tif", "train/blue/10.tif"],
        "corrupt": ["train/blue/06.jpg"],
        "format not read": ["train/blue/11.jpg"],
        "empty class": ["train/nothing", "val/empty"],
        "unknown class": ["val/empty"],
    }
    done = command("data", "check", folder)
    assert done.code == 1
    assert f"truncated (1)\n  {blue}/02.jpg: libjpeg-turbo says: " in done.out
    assert done.out.splitlines()[-1].startswith("images: train 28, val 10; 13 problems: a training run ")


def test_remarks(command: Command, folder: Path) -> None:
    green = folder / "train" / "green"
    image = Image.open(green / "00.jpg").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 8
    deep = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)
    for name, data in {
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(image.quantize(8), "PNG"),
        "alpha.png": encoded(image.convert("RGBA"), "PNG"),
        "rotated.jpg": encoded(image, "JPEG", exif=exif),
        "phone.jpg": encoded(image.rotate(5), "MPO", save_all=True, append_images=[image]),
        "browser.jfif": encoded(image.rotate(6), "JPEG"),
        "turned.tif": encoded(image.rotate(7), "TIFF", tiffinfo=exif),
        "really-png.jpg": encoded(image.resize((9, 9)), "PNG"),
        ".hidden.jpg": b"",
        "notes.txt": b"",
        "photo.HEIC": b"\0\0\0\x18ftypheic",
        "photo": encoded(image, "PNG"),
        "photo.gif": b"GIF89a",
    }.items():
        (green / name).write_bytes(data)
    (folder / "train" / "stray.jpg").write_bytes(b"")
    shutil.copy(green / "01.jpg", folder / "val" / "green" / "leak.jpg")
    shutil.copy(green / "02.jpg", folder / "train" / "red" / "z.jpg")
    shutil.copy(green / "03.jpg", green / "z.jpg")
    result = checked(command, folder, 0)
    assert by_kind(result["remarks"], folder) == {
        "hidden": ["train/green/.hidden.jpg"],
        "other file": [f"train/green/{name}" for name in ("notes.txt", "photo", "photo.HEIC", "photo.gif")],
        "in no class": ["train/stray.jpg"],
        "alpha": ["train/green/alpha.png"],
        "CMYK": ["train/green/cmyk.jpg"],
        "16 bits": ["train/green/deep.png"],
        "grey": ["train/green/grey.jpg"],
        "palette": ["train/green/palette.png"],
        "wrong extension": ["train/green/really-png.jpg"],
        "EXIF rotation": ["train/green/rotated.jpg", "train/green/turned.tif"],
        "in both splits": ["val/green/leak.jpg"],
        "in two classes": ["train/red/z.jpg"],
        "duplicate": ["train/green/z.jpg"],
    }
    texts = [item["text"] for item in result["remarks"]]
    for text in (
        f"the same bytes as {green}/01.jpg",
        "the highest 8 bits are used; the brightest of the image is 249 of 255",
        "orientation 8 is applied, as it is a TIFF",
        "no image, by its name and its first bytes",
        "it is a PNG: rename it to end in .png",
        "it is a GIF: convert it to PNG",
        "it is a HEIC, which is not read: ImageMagick, or pillow-heif for Python, converts it to JPEG",
    ):
        assert text in texts
    out = command("data", "check", folder).out
    assert "  other file (4: 1 .gif, 1 .heic, 1 .txt, 1 without extension)\n" in out


@pytest.mark.parametrize("packed", [False, True])
def test_classes_without_validation_are_remarked(command: Command, folder: Path, packed: bool) -> None:
    shutil.rmtree(folder / "val" / "red")
    if packed:
        assert "1 of 3 classes without images in val/: red" in (
            command("data", "pack", folder, folder.with_name("packed")).err
        )
        folder = folder.with_name("packed")
    result = checked(command, folder, 0)
    assert by_kind(result["remarks"], folder) == {"classes": [str(folder)]}
    assert result["remarks"][0]["text"].startswith("1 of 3 classes without images in val/: red. ")


def test_long_lists_cut_remarks_but_not_problems(command: Command, folder: Path) -> None:
    image = encoded(Image.new("L", (20, 20)), "JPEG")
    for number in range(6):
        (folder / "train" / "red" / f"grey{number}.jpg").write_bytes(image + bytes([number]))
        (folder / "train" / "red" / f"bad{number}.jpg").write_bytes(bytes([number]))
    done = command("data", "check", folder)
    assert done.code == 1
    assert "  grey (6)\n" in done.out
    assert done.out.count(": repeated for red, green and blue") == 3
    assert "    and 3 more\n" in done.out
    assert done.out.count("/bad") == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "data folder nowhere does not exist"),
        ([".", "--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_wrong_usage(command: Command, arguments: list[str], message: str) -> None:
    done = command("data", "check", *arguments)
    assert done.code == 2
    assert message in done.err


KINDS = {
    *("truncated", "corrupt", "not an image", "format not read"),
    *("too many pixels", "over a limit", "unknown range", "empty file"),
}


def test_files_that_the_loader_refuses_are_problems(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    pictures = made_pictures()
    for number in range(150):
        rng = np.random.default_rng([11, number])
        _, data = mutate(pictures[rng.integers(len(pictures))], rng)
        (folder / f"{number}.jpg").write_bytes(data)
    samples = open_image_folder(tmp_path, "train")
    refused = 0
    for index in range(len(samples)):
        found = inspect(samples, index)
        try:
            open_image(samples.read(index), name="x").decode(1)
        except BadImage as error:
            refused += 1
            assert found.problem is not None
            assert found.problem.kind in KINDS
            assert (found.problem.name, found.problem.text) == (samples.name(index), error.reason)
        else:
            assert found.problem is None
    assert 20 < refused < 140

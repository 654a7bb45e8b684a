"""Weights by name: downloads from a local server, whole or not at all, and what goes wrong with them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shufflenet_fn.checkpoint import named_weights
from shufflenet_fn.checkpoint.named_weights import find_weights
from shufflenet_fn.errors import UsageError, UserError

Command = Callable[..., Any]
OTHER = "0" * 64


class Site(NamedTuple):
    """A web server. ``hits``: the paths that were asked for. ``sha256``: of the weights that it has."""

    url: str
    hits: list[str]
    sha256: str
    close: Callable[[], None]


@pytest.fixture
def site(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    content, hits = weights.read_bytes(), []
    listed = [{"type": "file", "path": name, "size": 9, "oid": "0"} for name in ("a.md", "w.bin")]
    commit = "c" * 40

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, code: int, body: bytes = b"", **headers: object) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": len(body), **headers}.items():
                if value is not None:
                    self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hits.append(self.path)
            head, _, name = self.path.rpartition("/")
            match head:
                case "/ok":
                    self.answer(200, content)
                case "/moved":
                    self.answer(302, Location=f"/ok/{name}")
                case "/unsized":
                    self.answer(200, content, **{"Content-Length": None})
                case "/short":
                    self.answer(200, content[:99], **{"Content-Length": len(content)})
                case "/chunked":
                    self.answer(200, b"ff\r\nab", **{"Content-Length": None, "Transfer-Encoding": "chunked"})
                case "/huge":
                    self.answer(200, b"x", **{"Content-Length": 1 << 40})
                case "/circle":
                    self.answer(302, Location=self.path)
                case "/elsewhere":
                    self.answer(302, Location="file:///etc/hostname")
                case "/slow":
                    time.sleep(1)
                case "/org/name/resolve/main" if name == "w.bin":
                    about = {"ETag": f'"{self.server.sha256}"', "X-Repo-Commit": commit}
                    self.answer(200, content, **about)
                case "/api/models/org/name/tree":
                    self.answer(200, json.dumps(listed).encode(), Content_Type="application/json")
                case _:
                    kind = "RepoNotFound" if "gone" in head else "EntryNotFound"
                    kind = "RevisionNotFound" if "resolve/v9" in head else kind
                    self.answer(404, **{"X-Error-Code": kind, "X-Error-Message": kind})

        def log_message(self, *_: object) -> None: ...

    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.sha256 = hashlib.sha256(content).hexdigest()
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()

    def close() -> None:
        if thread.is_alive():
            server.shutdown()
            server.server_close()
            thread.join()

    # Not XDG_CACHE_HOME, where compiled code lies too.
    monkeypatch.setattr(named_weights, "cache_root", lambda: tmp_path / "cache")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache" / "torch"))
    yield Site(f"http://127.0.0.1:{server.server_port}", hits, server.sha256, close)
    close()


def kept(tmp_path: Path) -> list[Path]:
    """The files of all caches but the lock of downloads."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("folder", ["ok", "moved", "unsized"])
def test_url_is_downloaded_once(site: Site, weights: Path, tmp_path: Path, folder: str) -> None:
    name = f"{site.url}/{folder}/w.pth?download=1#sha256={site.sha256.upper()}"
    found = find_weights(name.replace("w.pth?download=1", "w.pth") if folder == "moved" else name, arch=None)
    assert found.path.read_bytes() == weights.read_bytes() and found.sha256 == site.sha256
    assert kept(tmp_path) == [found.path] and found.path.suffix == ".pth"
    count = len(site.hits)
    assert find_weights(Path(f"{site.url}/{folder}/w.pth#sha256={site.sha256}"), arch=None).path == found.path
    assert len(site.hits) == count
    found.path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"its sha256 is .*, and must be {site.sha256}. Remove it"):
        find_weights(name, arch=None)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/ok/w.pth", "is another file: its sha256 is"),
        ("/short/w.pth", "the server ended after 99 of"),
        ("/chunked/w.pth", "IncompleteRead"),
        ("/huge/w.pth", "it has more than 4,294,967,296 bytes"),
        ("/circle/w.pth", "redirects in a circle, or to no web address"),
        ("/elsewhere/w.pth", "redirects in a circle, or to no web address"),
        ("/nowhere/w.pth", "the server answered 404 Not Found"),
        ("/slow/w.pth", "no answer within"),
        ("/a ü/w.pth", "the server answered 404 Not Found"),
    ],
)
def test_broken_download_leaves_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.setattr(named_weights, "_TIMEOUT_S", 0.3)
    with pytest.raises(UserError, match=said) as error:
        find_weights(f"{site.url}{path}#sha256={OTHER}", arch=None)
    assert f"{site.url}{path}" in str(error.value) and not isinstance(error.value, UsageError)
    target = tmp_path / "cache" / "weights" / f"{OTHER[:16]}-w.pth"
    assert f"To do without the network, put the file at {target}." in str(error.value) or "another" in said
    assert kept(tmp_path) == []
    site.close()
    with pytest.raises(UserError, match="Connection refused"):
        find_weights(f"{site.url}{path}#sha256={OTHER}", arch=None)


def test_cache_that_cannot_be_written_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot keep .* as .*cache/.*set XDG_CACHE_HOME"):
        find_weights(f"{site.url}/ok/w.pth#sha256={site.sha256}", arch=None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://host/w.pth", "add #sha256=HEX"),
        ("https://host/w-0123456789.pth", "add #sha256=HEX"),
        ("https://host/w.pth#sha256=0123", "64 hexadecimal digits"),
        ("https://host/w.pth#main", "64 hexadecimal digits"),
        ("https://download.pytorch.org/w.pth", "add #sha256=HEX"),
        ("https://", "Give https://HOST/FILE#sha256=HEX"),
        ("https://host/", "Give https://HOST/FILE#sha256=HEX"),
        ("https://host:99999/w.pth", "Give https://HOST/FILE#sha256=HEX"),
        (f"https://me:secret@host/w.pth#sha256={OTHER}", "without a password"),
        ("s3://bucket/w.pth", "is no name of weights. Give a path, torchvision:NAME, https"),
        ("hf://name", "hf://ORG/NAME[/FILE][@REVISION]"),
        ("hf://org/name@", "hf://ORG/NAME[/FILE][@REVISION]"),
        ("torchvision:IMAGENET1K_V1", "give --arch"),
    ],
)
def test_name_that_is_not_valid_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        find_weights(name, arch=None)
    assert said in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("name", "extra"), [("torchvision:DEFAULT", "vision"), ("hf://org/name", "hub")], ids=str
)
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=rf"pip install 'shufflenet-fn\[{extra}\]'"):
        find_weights(name, arch="x0_5")


def test_torchvision_names_use_the_hash_and_cache_of_torch(
    site: Site, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = pytest.importorskip("torchvision.models")
    from torchvision.transforms._presets import ImageClassification

    file = f"w-{site.sha256[:8]}.pth"
    preset = functools.partial(ImageClassification, crop_size=224, resize_size=232)

    class Enum(models.WeightsEnum):  # type: ignore[misc, name-defined]
        IMAGENET1K_V1 = models.Weights(url=f"{site.url}/ok/{file}", transforms=preset, meta={})
        OTHER = models.Weights(url=f"{site.url}/ok/w-{OTHER[:8]}.pth", transforms=preset, meta={})
        BARE = models.Weights(url=f"{site.url}/ok/w.pth", transforms=preset, meta={})
        NONE = models.Weights(url="", transforms=preset, meta={})
        DEFAULT = IMAGENET1K_V1

    monkeypatch.setattr(models, "get_model_weights", lambda arch: Enum)
    found = find_weights("torchvision:imagenet1k_v1", arch="x2_0")
    assert found.path == tmp_path / "cache" / "torch" / "hub" / "checkpoints" / file
    assert found.sha256 == site.sha256 and "--eval-resize 232" in found.notes[-1]
    for member, said in (
        ("OTHER", f"must be {OTHER[:8]}…"),
        ("BARE", "add #sha256=HEX"),
        ("NONE", "torchvision has IMAGENET1K_V1, OTHER, BARE, DEFAULT for shufflenet_v2_x2_0"),
        ("IMAGENET1K_V9", "torchvision:IMAGENET1K_V9 does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            find_weights(f"torchvision:{member}", arch="x2_0")
    site.close()
    assert find_weights("torchvision:DEFAULT", arch="shufflenet_v2_x2_0").path == found.path
    official = f"https://download.pytorch.org/models/{file}"
    assert find_weights(official, arch=None).path == found.path
    shutil.copy(weights, found.path.with_name(f"w-{OTHER[:8]}.pth"))
    with pytest.raises(UserError, match=f"must be {OTHER[:8]}…. Remove it"):
        find_weights("torchvision:OTHER", arch="x2_0")


def test_every_architecture_has_weights_by_torchvisions_name() -> None:
    models = pytest.importorskip("torchvision.models")
    for width in ("x0_5", "x1_0", "x1_5", "x2_0"):
        url = models.get_model_weights(f"shufflenet_v2_{width}").DEFAULT.url
        assert named_weights._IN_FILE_NAME.search(url), url


def test_hub_names_find_the_only_weights_file(site: Site, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    expected = {
        "hf://org/name": site.sha256,
        "hf://org/name/w.bin": site.sha256,
        "hf://org/name/w.bin@main": site.sha256,
        "hf://org/name/x.pth": "does not exist. The repository has a.md, w.bin. Give hf://org/name/FILE",
        "hf://org/name/w.bin@v9": "no such revision",
        "hf://org/gone": "no such repository, or it is private",
        "hf://o rg/name": "no repository can have this name",
    }
    script = (
        "import sys\nfrom shufflenet_fn.checkpoint.named_weights import UserError, find_weights\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(find_weights(name, arch=None).notes[0])\n"
        "    except UserError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": site.url, "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", script, *expected]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    for (name, said), line in zip(expected.items(), done.stdout.splitlines(), strict=True):
        assert name in line and said in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "{}", "--data", "{data}", "--arch", "x0_5", "--image-size", 32),
        ("predict", "{}", "{data}/val/red", "--arch", "x0_5"),
        ("export", "{}", "-o", "w.onnx", "--arch", "x0_5"),
        ("convert", "{}", "-o", "w.pth", "--arch", "x0_5"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_take_names(
    command: Command, site: Site, image_folder: Path, arguments: tuple[object, ...]
) -> None:
    name = f"{site.url}/ok/w.pth#sha256={site.sha256}"
    outcome = command(*(str(each).replace("{}", name).format(data=image_folder) for each in arguments))
    assert outcome.code == 0 and f"sha256 {site.sha256}" in outcome.err, outcome.err


def test_resume_needs_no_network_and_keeps_the_name(
    command: Command, site: Site, image_folder: Path, tmp_path: Path
) -> None:
    name = f"{site.url}/ok/w.pth#sha256={site.sha256}"
    options = ("--arch", "x0_5", "--image-size", 32, "-b", 8, "--device", "cpu", "--epochs", 1)
    started = command(
        *("train", "--data", image_folder, *options, "--devices", 2),
        *("--pretrained", name, "--run-dir", "run"),
    )
    assert started.code == 0, started.err
    assert site.hits == ["/ok/w.pth"]
    site.close()
    shutil.rmtree(tmp_path / "cache" / "weights")
    assert command("train", "--resume", "run", "--max-steps", 2, "--devices", 1).code == 0
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("step-*"):
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        assert manifest["settings"]["pretrained"] == name
        assert manifest["pretrained_sha256"] == site.sha256

"""Manifests of packed images that say something wrong: the images are packed anew, and nothing else happens."""

import json
import os

import numpy as np
import pytest

from datas import store
from datas.images import read_rgb, write_png
from datas.manifest import Unusable, data_file, read_manifest, write_manifest
from datas.store import pack


@pytest.fixture
def files(tmp_path):
    """Three images, two of which have the same number of bytes."""
    random = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{number}.png" for number in range(3)]
    for path, size in zip(paths, [(20, 30), (30, 20), (9, 11)], strict=True):
        write_png(path, random.integers(0, 256, (*size, 3), dtype=np.uint8))
    return paths


@pytest.fixture
def manifest_path(files, tmp_path):
    pack(files, tmp_path / "cache")
    return next((tmp_path / "cache").glob("*.json"))


def assert_is_packed_anew(manifest_path, files, capsys):
    with pytest.raises(Unusable):
        read_manifest(manifest_path)
    capsys.readouterr()
    packed = pack(files, manifest_path.parent)
    for index, path in enumerate(files):
        assert np.array_equal(packed.whole(index), read_rgb(path))
    assert "are packed anew" in capsys.readouterr().out


def change(manifest_path, key, value, of=None):
    """Set a key of the manifest, or of the image number `of`."""
    manifest = json.loads(manifest_path.read_text())
    (manifest if of is None else manifest["images"][of])[key] = value
    manifest_path.write_text(json.dumps(manifest))


CHANGES = [
    ("format", 3), ("format", "2"), ("format", None), ("format", [2]), ("data", "../images/0.png"), ("data", "x\0y"),
    ("data", 5), ("bytes", 3896), ("bytes", "3897"), ("bytes", -1), ("images", []), ("images", {}), ("images", 7),
    ("images", [None]), ("images", [[]]), ("images", ["name"]), ("images", [{"name": "0.png"}]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), CHANGES, ids=str)
def test_a_wrong_field_of_the_manifest(key, value, manifest_path, files, capsys):
    change(manifest_path, key, value)
    assert_is_packed_anew(manifest_path, files, capsys)


IMAGE_CHANGES = [
    ("name", "3.png"), ("name", "1.png"), ("name", 0), ("name", None), ("source", "/elsewhere/0.png"), ("source", 1),
    ("size", 1), ("size", "1"), ("mtime_ns", 1), ("mtime_ns", 1.5), ("height", 21), ("height", 0), ("height", -20),
    ("height", 20.0), ("height", True), ("height", 10**30), ("width", 60), ("width", "30"), ("offset", 3),
    ("offset", -1), ("offset", 10**30), ("offset", 0.0), ("offset", False), ("pixels", "0" * 64),
    ("pixels", "ab"), ("pixels", ""), ("pixels", 5), ("pixels", "G" * 64), ("unknown", 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), IMAGE_CHANGES, ids=str)
def test_a_wrong_field_of_an_image(key, value, manifest_path, files, capsys):
    change(manifest_path, key, value, of=0)
    assert_is_packed_anew(manifest_path, files, capsys)


def test_offsets_that_are_exchanged(manifest_path, files, capsys):
    """Two images of equal size would be trained on under each other's names."""
    images = json.loads(manifest_path.read_text())["images"]
    change(manifest_path, "offset", images[1]["offset"], of=0)
    change(manifest_path, "offset", images[0]["offset"], of=1)
    assert_is_packed_anew(manifest_path, files, capsys)


def test_height_and_width_that_are_exchanged(manifest_path, files, capsys):
    change(manifest_path, "height", 30, of=0)
    change(manifest_path, "width", 20, of=0)
    assert_is_packed_anew(manifest_path, files, capsys)


@pytest.mark.parametrize("key", ["height", "offset", "pixels", "name"])
def test_a_field_that_is_left_out(key, manifest_path, files, capsys):
    manifest = json.loads(manifest_path.read_text())
    del manifest["images"][1][key]
    manifest_path.write_text(json.dumps(manifest))
    assert_is_packed_anew(manifest_path, files, capsys)


def test_figures_that_fit_one_another_but_not_the_data_file(manifest_path, files, capsys):
    """As written by someone who knows how the data file's name is made."""
    images = read_manifest(manifest_path)
    os.replace(data_file(manifest_path, images), data_file(manifest_path, images[:2]))
    write_manifest(manifest_path, images[:2])
    assert_is_packed_anew(manifest_path, files, capsys)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"7", b"null", b"[" * 100_000, b'{"format": ' + b"9" * 10_000 + b"}", b'{"format": NaN}'],
    ids=range(8),
)
def test_what_is_no_manifest(content, manifest_path, files, capsys):
    manifest_path.write_bytes(content)
    assert_is_packed_anew(manifest_path, files, capsys)


@pytest.mark.skipif(os.name == "nt", reason="of POSIX alone")
@pytest.mark.parametrize("which", ["manifest", "data file"])
def test_a_pipe_is_not_waited_for(which, manifest_path, files, capsys):
    path = manifest_path if which == "manifest" else data_file(manifest_path, read_manifest(manifest_path))
    path.unlink()
    os.mkfifo(path)
    assert_is_packed_anew(manifest_path, files, capsys)


def test_a_manifest_in_order_is_read_as_it_was_written(manifest_path, files, monkeypatch):
    monkeypatch.setattr(store, "_build", pytest.fail)
    images = read_manifest(manifest_path)
    assert [image.name for image in images] == ["0.png", "1.png", "2.png"]
    assert [(image.height, image.width, image.offset) for image in images] == [
        (20, 30, 0),
        (30, 20, 1800),
        (9, 11, 3600),
    ]
    write_manifest(manifest_path, images)
    pack(files, manifest_path.parent)

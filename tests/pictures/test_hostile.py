"""Files that are damaged, or are something else than they seem: one line each, and no picture."""

import io
import os
import zlib

import cv2
import numpy as np
import pytest
from picture_files import chunk, header, png
from PIL import Image

from pictures import upscale_bytes, upscale_file
from pictures.read import read_head
from utils import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def refused(tmp_path, nearest):
    """Function of a file's name and content: the line with which the work refuses it, and, if at once, the plan."""

    def run(name, content, at_once=True):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            nearest(content, name=str(path))
        line = str(caught.value)
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        assert len(line) < 400
        if at_once:
            with pytest.raises(InputError) as caught:
                read_head(path)
            assert str(caught.value).split("(")[0] == line.split("(")[0]
        else:
            read_head(path)
        return line

    return run


def of_pillow(photo, kind, **options):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_truncated(refused, photo, kind):
    data = of_pillow(photo, kind)
    assert "intact copy" in refused("cut.png", data[: len(data) * 2 // 3], at_once=kind == "WEBP")
    assert "intact copy" in refused("cut.png", data[:14])


@pytest.mark.parametrize("colour", [0, 2, 6])
def test_truncated_or_changed_16_bit_png(refused, deep, colour):
    channels = {0: 1, 2: 3, 6: 4}[colour]
    data = png(np.dstack([deep, deep[:, :, :1]])[:, :, :channels], 16, colour)
    assert "intact copy" in refused("cut.png", data[: len(data) * 2 // 3], at_once=False)
    changed = bytearray(data)
    changed[200] ^= 255
    assert "intact copy" in refused("changed.png", bytes(changed), at_once=False)


def test_a_chunk_that_says_it_is_huge_costs_nothing(nearest, deep, monkeypatch):
    seen, true = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: (seen.append(bytes(data)), true(data, flags))[1])
    data = png(deep, 16, 2)
    nearest(data[:-12] + b"\x7f\xff\xff\xffIEND")
    assert seen == [data]
    place = data.index(b"IDAT") - 4
    with pytest.raises(InputError, match="cut off"):
        nearest(data[:place] + b"\x7f\xff\xff\xff" + data[place + 4 :])
    assert seen == [data]


def test_bombs(refused):
    bomb = SIGNATURE + header(60_000, 60_000, 8, 2) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    assert "178,956,970 pixels; cut it" in refused("bomb.png", bomb)
    huge = SIGNATURE + header(2**31 - 1, 2**31 - 1, 16, 6) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert "178,956,970 pixels; cut it" in refused("huge.png", huge)
    few = SIGNATURE + header(9000, 9000, 8, 0) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    assert "intact copy" in refused("few.png", few, at_once=False)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "is PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "is PostScript"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "is HEIC, AVIF or a video"),
        (b"", "is empty"),
        (b"hello, I am a letter\n" * 5, "no picture of a known format"),
        (b"\0\0\1\0" + bytes(60), "no picture of a known format"),
    ],
)
def test_other_things_named_png(refused, content, what):
    line = refused("a.png", content)
    assert what in line
    assert "give a JPEG, PNG, WebP, TIFF, BMP or GIF file" in line


def test_a_wrong_ending_does_no_harm(tmp_path, photo):
    (tmp_path / "a.png").write_bytes(of_pillow(photo, "JPEG"))
    assert read_head(tmp_path / "a.png").format == "JPEG"


@pytest.mark.parametrize("bits", [(8, 16), (16, 8), (8, 8)])
def test_a_png_with_two_headers(refused, bits):
    rows = zlib.compress(bytes(10_000))
    data = (
        SIGNATURE + header(30, 20, bits[0], 2) + header(10, 20, bits[1], 2) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    assert "2 headers" in refused("two.png", data)


@pytest.mark.parametrize(
    ("kind", "what"), [("GIF", "frames"), ("WEBP", "frames"), ("PNG", "frames"), ("TIFF", "pages")]
)
def test_several_pictures_in_a_file(refused, photo, kind, what):
    data = of_pillow(
        photo, kind, save_all=True, append_images=[Image.fromarray(255 - photo), Image.fromarray(photo // 2)]
    )
    assert f"holds 3 {what}" in refused("moving.png", data)


def test_raw_files_of_cameras_are_not_taken_for_their_previews(refused, photo):
    assert "raw file" in refused("a.tif", of_pillow(photo, "TIFF", tiffinfo={254: 1}))
    assert "raw file" in refused("a.tif", of_pillow(photo, "TIFF", tiffinfo={50706: b"\1\4\0\0"}))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_pipes_and_folders_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        for call in (read_head, lambda path: upscale_file(None, path, tmp_path / "out.png")):
            with pytest.raises(InputError, match="is a folder, a pipe or a device"):
                call(tmp_path / name)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory_is_one_line_with_the_size_and_a_remedy(photo, error):
    class Full:
        scale, device, backend, stream = 2, "cpu", "none", None

        def network(self, x):
            raise error

    with pytest.raises(InputError, match=r"a.png: 56x40 is too large for the memory; cut it into smaller pictures"):
        upscale_bytes(Full(), of_pillow(photo, "PNG"), "a.png", "png")


def test_other_errors_of_the_network_are_not_hidden(photo):
    class Broken:
        scale, device, backend, stream = 2, "cpu", "none", None

        def network(self, x):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        upscale_bytes(Broken(), of_pillow(photo, "PNG"), "a.png", "png")


def test_results_that_a_format_cannot_hold(nearest):
    for width, kind in ((33_000, "jpg"), (8_200, "webp")):
        data = png(np.zeros((1, width, 1), np.uint8), 8, 0)
        with pytest.raises(InputError, match=f"{2 * width}x2 are too many pixels for {kind} .*choose png"):
            nearest(data, kind)

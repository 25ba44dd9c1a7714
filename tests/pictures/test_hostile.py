"""Files that are damaged, or are something else than they seem: one line each, and no picture."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from picture_files import chunk, header, png
from PIL import Image

from pictures import Wanted, upscale_bytes, upscale_file
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


def changed(data, place, form, *values):
    """The bytes with other numbers at a place."""
    return data[:place] + struct.pack(form, *values) + data[place + struct.calcsize(form) :]


def entry(data, tag, *content):
    """A little-endian TIFF with another type, count and value in an entry of its directory."""
    begin = struct.unpack_from("<I", data, 4)[0]
    places = (begin + 2 + 12 * number for number in range(struct.unpack_from("<H", data, begin)[0]))
    return changed(
        data, next(place for place in places if struct.unpack_from("<H", data, place)[0] == tag) + 2, *content
    )


def few_pixels(width, height, bits, colour, *more):
    return SIGNATURE + header(width, height, bits, colour) + b"".join(more) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_nothing_behind_the_first_bytes(refused, photo, kind):
    for length in (4, 12, 20):
        line = refused("cut.png", of_pillow(photo, kind)[:length])
        assert " at 0x" not in line  # of an object in memory; this says nothing to anybody


def test_a_wrong_checksum(refused, photo):
    data = of_pillow(photo, "PNG")
    place = data.index(b"IDAT")
    assert "intact copy" in refused("header.png", changed(data, place - 8, "B", data[place - 8] ^ 1))  # IHDR's own
    assert "intact copy" in refused("pixels.png", changed(data, place + 60, "B", data[place + 60] ^ 1), at_once=False)


@pytest.mark.parametrize(
    ("width", "height", "bits", "colour"), [(0, 5, 8, 2), (5, 0, 8, 2), (4, 4, 7, 2), (4, 4, 8, 5)]
)
def test_a_png_whose_header_makes_no_sense(refused, width, height, bits, colour):
    data = few_pixels(width, height, bits, colour, chunk(b"IDAT", zlib.compress(bytes(200))))
    assert "is damaged" in refused("odd.png", data)


def test_a_png_without_what_its_header_promises(refused):
    rows = chunk(b"IDAT", zlib.compress(bytes(20)))
    assert "it has no palette" in refused("palette.png", few_pixels(4, 4, 8, 3, rows))
    assert "intact copy" in refused("pixels.png", few_pixels(4, 4, 8, 2), at_once=False)


@pytest.mark.parametrize(
    ("bits", "colour", "row"), [(8, 2, 31), (8, 0, 11), (1, 0, 3), (8, 6, 41), (16, 2, 61), (4, 3, 6)]
)
def test_a_png_whose_rows_end_early(refused, nearest, bits, colour, row):
    palette = [chunk(b"PLTE", bytes(48))] if colour == 3 else []
    for rows in (1, 9):
        data = few_pixels(10, 10, bits, colour, *palette, chunk(b"IDAT", zlib.compress(bytes(rows * row))))
        assert "ends before its pixels do" in refused("early.png", data, at_once=False)
    packed = zlib.compress(bytes(10 * row))
    pieces = [chunk(b"IDAT", packed[:5]), chunk(b"IDAT", b""), chunk(b"IDAT", packed[5:])]
    nearest(few_pixels(10, 10, bits, colour, *palette, *pieces))


def interlaced(pixels):
    """(data of an interlaced PNG of grey pixels (H, W), its last row left out): the seven pictures of Adam7 in turn."""
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [pixels[top::down, left::right] for top, left, down, right in starts]
    rows = [b"\0" + row.tobytes() for part in passes if part.size for row in part]
    head = struct.pack(">IIBBBBB", *pixels.shape[::-1], 8, 0, 0, 0, 1)
    for content in (rows, rows[:-1]):
        packed = chunk(b"IDAT", zlib.compress(b"".join(content)))
        yield SIGNATURE + chunk(b"IHDR", head) + packed + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [1, 2, 4, 5, 8, 9, 13])
def test_an_interlaced_png_is_read_whole_or_not_at_all(refused, nearest, width):
    for height in (1, 2, 3, 5, 7, 8, 9):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
        whole, cut = interlaced(pixels)
        result = np.asarray(Image.open(io.BytesIO(nearest(whole)[0])))
        assert np.array_equal(result, pixels.repeat(2, 0).repeat(2, 1))
        assert "intact copy" in refused("cut.png", cut, at_once=False)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_a_bomb_in_what_a_png_says_beside_its_pixels(refused, photo, kind):
    data, bomb = of_pillow(photo, "PNG"), chunk(kind, b"x\0\0" + zlib.compress(bytes(64 << 20)))
    place = data.index(b"IDAT") - 4
    assert "too large" in refused("bomb.png", data[:place] + bomb + data[place:])


@pytest.mark.parametrize("bits", [8, 16])
def test_more_pixels_than_the_header_names_are_not_looked_at(nearest, bits):
    data = few_pixels(4, 4, bits, 2, chunk(b"IDAT", zlib.compress(bytes(64 << 20))))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(nearest(data)[0]))), np.zeros((8, 8, 3)))


def test_sizes_that_lie(refused, photo):
    jpeg, gif, bmp, tiff = (of_pillow(photo, kind) for kind in ("JPEG", "GIF", "BMP", "TIFF"))
    lossless = io.BytesIO()
    Image.fromarray(photo).save(lossless, "WEBP", lossless=True)
    frame = jpeg.index(b"\xff\xc0")
    many = [
        changed(jpeg, frame + 5, ">HH", 65_500, 65_500),
        changed(gif, 6, "<HH", 65_535, 65_535),
        changed(bmp, 18, "<ii", 100_000, 100_000),
        changed(bmp, 18, "<ii", 56, -(2**31)),
        changed(lossless.getvalue(), 21, "4s", b"\xff" * 4),
        entry(tiff, 256, "<HII", 4, 1, 2**32 - 1),
    ]
    for data in many:
        assert "178,956,970 pixels; cut it" in refused("many.png", data)
    few = [
        changed(jpeg, frame + 5, ">HH", 0, 0),
        changed(bmp, 18, "<ii", 0, 0),
        changed(bmp, 14, "<I", 2**32 - 1),
        entry(tiff, 256, "<HII", 4, 1, 0),
        entry(tiff, 256, "<HII", 2, 4, 0x41414141),
    ]
    for data in few:
        assert "is damaged" in refused("few.png", data)
    for data in (changed(bmp, 18, "<ii", 5000, 5000), entry(tiff, 256, "<HII", 4, 1, 9000)):
        assert "truncated" in refused("cut.png", data, at_once=False)


def test_a_tiff_that_points_outside_itself(refused, photo):
    data = of_pillow(photo, "TIFF")
    assert "is damaged" in refused("directory.tif", changed(data, 4, "<I", 2**31))
    assert "is damaged" in refused("samples.tif", entry(data, 277, "<HII", 3, 1, 60_000))
    assert "is damaged" in refused("bits.tif", entry(data, 258, "<HII", 3, 2**32 - 1, 8))
    assert "truncated" in refused("pixels.tif", entry(data, 273, "<HII", 4, 1, 2**32 - 10), at_once=False)


def test_a_tiff_whose_directory_follows_itself_is_one_picture(nearest, photo):
    data = of_pillow(photo, "TIFF")
    begin = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, begin)[0]
    nearest(changed(data, begin + 2 + 12 * count, "<I", begin))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_of_garbage_is_left_out_and_that_is_said(nearest, photo, kind):
    result, done = nearest(of_pillow(photo, kind, icc_profile=b"garbage" * 20))
    assert "icc_profile" not in Image.open(io.BytesIO(result)).info
    assert any("its ICC profile is left out" in note for note in done.notes)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ([(0x112, 3, 1, 6), (0x8769, 4, 1, 8)], (80, 112)),  # EXIF's own directory is this very one
        ([(0x10E, 2, 2**32 - 1, 8)], (112, 80)),  # a text of 4 GiB
        ([(0x112, 3, 1, 999)], (112, 80)),
        ([(0x112, 2, 4, 0x41414141)], (112, 80)),  # a turn that is a text
        ([(0x8769, 4, 1, 2**32 - 1)], (112, 80)),
        ([(0x8769, 5, 1, 0)], (112, 80)),
    ],
)
def test_exif_that_lies(nearest, photo, entries, size):
    block = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *one) for one in entries)
    data = of_pillow(photo, "JPEG", exif=b"Exif\0\0" + block + bytes(4))
    assert Image.open(io.BytesIO(nearest(data)[0])).size == size
    try:
        assert Image.open(io.BytesIO(nearest(data, wanted=Wanted(keep_exif=True))[0])).size == size
    except InputError as error:
        assert "its EXIF is damaged" in str(error)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "is PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "is PostScript"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "is HEIC, AVIF or a video"),
        (b"", "is empty"),
        (b"\x89", "no picture of a known format"),
        (bytes(1000), "no picture of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture of a known format"),
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
        scale = 2

        def stream(self, image):
            raise error

    with pytest.raises(InputError, match=r"a.png: 56x40 is too large for the memory; cut it into smaller pictures"):
        upscale_bytes(Full(), of_pillow(photo, "PNG"), "a.png", "png")


def test_other_errors_of_the_network_are_not_hidden(photo):
    class Broken:
        scale = 2

        def stream(self, image):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        upscale_bytes(Broken(), of_pillow(photo, "PNG"), "a.png", "png")


def test_results_that_a_format_cannot_hold(nearest):
    for width, kind in ((33_000, "jpg"), (8_200, "webp")):
        data = png(np.zeros((1, width, 1), np.uint8), 8, 0)
        with pytest.raises(InputError, match=f"{2 * width}x2 are too many pixels for {kind} .*choose png"):
            nearest(data, kind)

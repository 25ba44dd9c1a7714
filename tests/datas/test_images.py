"""Reading and writing image files: what is taken as it is and what is refused."""

import hashlib
import os
import struct
import zlib

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from datas.images import image_size, image_sizes, list_images, pixel_digest, read_rgb, write_png
from utils import InputError


def random_image(height=20, width=30, channels=3, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype)


def raw_png(rows: np.ndarray, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG file written chunk by chunk; rows: (H, bytes per row) uint8, colour: PNG colour type."""
    height, row_bytes = rows.shape
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = header_chunk(row_bytes * 8 // (depth * samples), height, depth, colour)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header_chunk(width: int, height: int, depth: int, colour: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def palette_chunk() -> bytes:
    return chunk(b"PLTE", bytes(range(48)))


def message(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
def test_8_bit_rgb_is_read_as_it_is(tmp_path, suffix):
    image, path = random_image(), tmp_path / f"a{suffix}"
    iio.imwrite(path, image, plugin="pillow", **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_rgb(path), image)
    assert image_size(path) == (20, 30)


def test_8_bit_grey_is_read_as_three_equal_channels(tmp_path):
    grey = random_image()[..., 0]
    iio.imwrite(tmp_path / "grey.png", grey)
    image = read_rgb(tmp_path / "grey.png")
    assert image.shape == (20, 30, 3)
    assert all(np.array_equal(image[..., channel], grey) for channel in range(3))


@pytest.mark.parametrize(
    ("depth", "colour", "extra", "kind"),
    [
        (16, 2, b"", "16-bit RGB"),
        (16, 0, b"", "16-bit grey"),
        (1, 0, b"", "1-bit grey"),
        (8, 3, palette_chunk(), "palette"),
        (8, 4, b"", "grey with alpha"),
        (8, 6, b"", "RGBA"),
        (16, 6, b"", "16-bit RGBA"),
    ],
)
def test_other_png_kinds_are_refused_by_name(tmp_path, depth, colour, extra, kind):
    path = tmp_path / "odd.png"
    path.write_bytes(raw_png(np.zeros((4, 48), np.uint8), depth, colour, extra))
    for call in (read_rgb, image_size):
        text = message(call, path)
        assert str(path) in text
        assert kind in text
        assert "convert it to an 8-bit RGB PNG" in text


@pytest.mark.parametrize(
    ("name", "image", "mode", "kind"),
    [
        ("a.jpg", random_image(channels=4), "CMYK", "CMYK"),
        ("a.tif", random_image(channels=4), "RGBA", "RGBA"),
        ("a.tif", random_image(dtype=np.uint16)[..., 0], None, "I;16"),
        ("a.bmp", random_image()[..., 0] > 99, None, "1-bit"),
    ],
)
def test_other_kinds_of_other_formats_are_refused_by_name(tmp_path, name, image, mode, kind):
    iio.imwrite(tmp_path / name, image, plugin="pillow", mode=mode)
    text = message(read_rgb, tmp_path / name)
    assert kind in text
    assert name in text


def test_16_bit_rgb_tiff_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), random_image(dtype=np.uint16))
    assert "16-bit RGB" in message(read_rgb, tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_of_an_image_with_alpha_the_colours_are_read_as_they_are_stored_where_that_is_asked_for(tmp_path, suffix):
    image = random_image(channels=4)
    image[..., 3] |= 1  # WebP keeps no colour where nothing is seen of it
    path = tmp_path / f"a.{suffix}"
    iio.imwrite(path, image, plugin="pillow", **({"lossless": True} if suffix == "webp" else {}))
    assert "drop_alpha: True leaves alpha out" in message(read_rgb, path)
    assert np.array_equal(read_rgb(path, drop_alpha=True), image[..., :3])
    assert image_size(path, drop_alpha=True) == image.shape[:2]


def test_of_a_grey_image_with_alpha_too(tmp_path):
    image = random_image(channels=4)[..., :2]
    Image.fromarray(image, mode="LA").save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png", drop_alpha=True), np.repeat(image[..., :1], 3, axis=2))


@pytest.mark.parametrize("kept", [0, 10, 30, 400, -1])
def test_a_truncated_png_is_refused_by_name(tmp_path, kept):
    path = tmp_path / "cut.png"
    write_png(path, random_image())
    path.write_bytes(path.read_bytes()[: kept if kept >= 0 else -40])
    text = message(read_rgb, path)
    assert "cut.png" in text
    assert "intact copy" in text


def test_a_png_with_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "flipped.png"
    write_png(path, random_image())
    data = bytearray(path.read_bytes())
    data[200] ^= 255
    path.write_bytes(data)
    assert "flipped.png" in message(read_rgb, path)


def test_the_size_is_read_without_the_pixels(tmp_path):
    path = tmp_path / "header.png"
    write_png(path, random_image(40, 50))
    path.write_bytes(path.read_bytes()[:40])
    assert image_size(path) == (40, 50)


def test_an_image_too_large_to_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "wide.png").write_bytes(raw_png(np.zeros((1, 178_956_971), np.uint8), depth=8, colour=0))
    for read in (image_size, read_rgb):
        with pytest.raises(InputError, match=r"wide\.png: 178956971x1 are more than 178,956,970 pixels"):
            read(tmp_path / "wide.png")


def test_a_missing_file_is_named(tmp_path):
    assert "No such file" in message(read_rgb, tmp_path / "none.png")


def test_images_are_listed_by_stem_whatever_their_suffix(tmp_path):
    for name in ("b.png", "a.webp", "c.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "d.png.dir").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.webp", "b.png", "c.JPG"]


def test_a_missing_and_an_empty_folder_are_refused_with_the_advice(tmp_path):
    assert "no such folder; check data_path" in message(list_images, tmp_path / "none", "check data_path")
    assert "no image in this folder" in message(list_images, tmp_path)


def test_two_images_of_the_same_stem_are_refused(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.webp").touch()
    text = message(list_images, tmp_path)
    assert "a.png" in text
    assert "a.webp" in text


def test_sizes_of_several_files_come_in_their_order(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(files):
        write_png(path, np.zeros((number + 1, 2 * number + 1, 3), np.uint8))
    assert image_sizes(files).tolist() == [[number + 1, 2 * number + 1] for number in range(20)]


def test_what_is_written_is_read_back_and_leaves_no_other_file(tmp_path):
    image = random_image()
    write_png(tmp_path / "new" / "a.png", image)
    assert np.array_equal(read_rgb(tmp_path / "new" / "a.png"), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_postscript_reaches_no_other_program_whatever_its_name(suffix, tmp_path, monkeypatch):
    """Pillow would hand it to Ghostscript."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 30\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (read_rgb, image_size):
        assert "is damaged or no image of a known format" in message(read, path)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("suffix", [".ppm", ".gif", ".ico", ".icns", ".tga", ".pcx"])
def test_formats_that_the_suffixes_do_not_name_are_not_read_under_another_name(suffix, tmp_path):
    iio.imwrite(tmp_path / f"a{suffix}", random_image(32, 32), plugin="pillow")
    (tmp_path / f"a{suffix}").rename(tmp_path / "a.png")
    assert "a.png: is damaged or no image of a known format" in message(read_rgb, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("header", "extra"),
    [
        (header_chunk(16, 4, 8, 3), palette_chunk()),
        (header_chunk(8, 4, 16, 2), b""),
        (header_chunk(12, 4, 8, 6), b""),
        (header_chunk(48, 4, 8, 0), b""),
        (header_chunk(16, 3, 8, 2), b""),
    ],
    ids=["palette", "16 bits", "RGBA", "grey", "another height"],
)
def test_a_png_whose_second_header_says_something_else_is_refused(header, extra, tmp_path):
    """Decoders go by the last header, we looked at the first: 8-bit RGB, 16 x 4 pixels."""
    path = tmp_path / "two.png"
    path.write_bytes(raw_png(np.zeros((4, 48), np.uint8), 8, 2, header + extra))
    assert "two.png: " in message(read_rgb, path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "circle of links", "dangling link"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "folder":
        path.mkdir()
    elif os.name == "nt":
        pytest.skip("of POSIX alone")
    elif kind == "pipe":
        os.mkfifo(path)  # to open it is to wait for a writer
    else:
        path.symlink_to({"endless device": "/dev/zero", "circle of links": path}.get(kind, tmp_path / "none"))
    expected = "could not be read (" if "link" in kind else "is a folder, a pipe or a device, no file; remove it"
    for call, argument in ((image_size, path), (read_rgb, path), (image_sizes, [path])):
        assert f"a.png: {expected}" in message(call, argument)


def bmp(width: int, height: int) -> bytes:
    """An empty 24-bit BMP file of that size."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def test_a_header_of_a_size_that_no_decoder_takes_is_not_called_damaged(tmp_path):
    (tmp_path / "large.bmp").write_bytes(bmp(65_535, 65_535))
    for read in (image_size, read_rgb):
        assert "large.bmp: has more than 178,956,970 pixels; cut it into tiles" in message(read, tmp_path / "large.bmp")


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_damaged(size, tmp_path):
    header = header_chunk(*size, 8, 2)
    (tmp_path / "none.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""))
    for read in (image_size, read_rgb):
        assert "none.png: is damaged" in message(read, tmp_path / "none.png")


def test_an_image_for_which_the_memory_is_too_small_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    write_png(tmp_path / "a.png", random_image())
    monkeypatch.setattr("datas.images.iio.imopen", full)
    assert "a.png: is damaged or too large for the memory" in message(read_rgb, tmp_path / "a.png")


@pytest.mark.parametrize(("kind", "value"), [(3, b"\x10\0\0\0"), (2, b"8\nx\0"), (7, b"\xff\0\n\0")])
def test_what_exif_says_of_the_bits_of_a_jpeg_is_not_believed(kind, value, tmp_path):
    bits_per_sample = struct.pack("<HHI", 258, kind, 1 if kind == 3 else 4) + value
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + bits_per_sample + bytes(4)
    Image.fromarray(random_image()).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (20, 30)
    assert read_rgb(tmp_path / "a.jpg").shape == (20, 30, 3)


def test_the_digest_is_that_of_the_shape_and_the_bytes_however_these_are_cut():
    image = random_image()
    expected = hashlib.sha256(b"(20, 30, 3)" + image.tobytes()).hexdigest()
    for pieces in ([image.reshape(-1)], list(image), [image.tobytes()[:7], image.tobytes()[7:]]):
        assert pixel_digest((20, 30, 3), pieces) == expected
    assert pixel_digest((30, 20, 3), [image.reshape(-1)]) != expected


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_a_png_whose_rows_end_early_but_in_order_is_refused(rows, tmp_path):
    """Pillow would make the missing rows black."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(rows * 31)))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header_chunk(10, 10, 8, 2) + pixels + chunk(b"IEND", b""))
    assert "x.png: is damaged" in message(read_rgb, tmp_path / "x.png")


@pytest.mark.parametrize("header", [header_chunk(10, 10, 8, 245), chunk(b"IHDR", b"cut")], ids=["colour", "cut"])
def test_a_senseless_header_behind_the_pixels_is_no_surprise(header, tmp_path):
    data = raw_png(np.zeros((4, 48), np.uint8), 8, 2)
    (tmp_path / "x.png").write_bytes(data[:-12] + header + data[-12:])
    try:
        assert read_rgb(tmp_path / "x.png").shape == (4, 16, 3)
    except InputError as error:
        assert "x.png: " in str(error)

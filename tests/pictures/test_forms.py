"""Every form in which pictures come, judged by readers that are not ours."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from picture_files import cmyk_profile, png
from PIL import Image, ImageCms, ImageOps

from models import load
from pictures import Wanted, upscale_file
from utils import InputError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKE, LENS = 0x112, 0x10F, 0xA434


def saved(pixels, kind, mode=None, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def pixels(data):
    return np.asarray(pillow(data))


def deep_pixels(data):
    """Through OpenCV, RGB(A)."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[:, :, [2, 1, 0, 3][: image.shape[2]]]


def twice(array):
    return array.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_8_bit_rgb_of_every_lossless_format(nearest, photo, kind):
    data, done = nearest(saved(photo, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(pixels(data), twice(photo))
    assert (done.before, done.after, done.notes) == ((56, 40), (112, 80), ())


def test_the_result_is_that_of_the_upscaler_bit_for_bit(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("SSIU_BACKEND", "plain")
    Image.fromarray(photo).save(tmp_path / "a.png")
    upscaler = load("x2", "cpu")
    upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.png")
    assert np.array_equal(pixels((tmp_path / "b.png").read_bytes()), upscaler(photo))


@pytest.mark.parametrize(("kind", "format"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF")])
def test_results_of_every_format(nearest, photo, kind, format):
    result = pillow(nearest(saved(photo, "PNG"), kind, Wanted(quality=100))[0])
    assert (result.format, result.mode) == (format, "RGB")
    tolerance = 0 if kind in ("png", "tif") else 30
    assert np.abs(np.asarray(result).astype(int) - twice(photo)).max() <= tolerance


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_a_lower_quality_makes_smaller_files(nearest, photo, kind):
    data = saved(photo, "PNG")
    assert len(nearest(data, kind, Wanted(quality=20))[0]) < len(nearest(data, kind)[0]) / 2


# --- depth


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("source", ["png", "tif", "tif big-endian", "tif planes", "tif lzw", "tif deflate"])
def test_16_bits_stay_16_bits(nearest, deep, kind, channels, source):
    stored = deep if channels == 3 else deep[:, :, 0]
    photometric = "rgb" if channels == 3 else "minisblack"
    file = io.BytesIO()
    if source == "png":
        data = png(deep[:, :, :channels], 16, {1: 0, 3: 2}[channels])
    elif source == "tif lzw":
        data = cv2.imencode(".tif", stored[:, :, ::-1] if channels == 3 else stored, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[
            1
        ]
        data = data.tobytes()
    elif source == "tif planes" and channels == 3:
        tifffile.imwrite(file, deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
        data = file.getvalue()
    else:
        more = {"compression": "zlib", "predictor": True} if source == "tif deflate" else {}
        more |= {"byteorder": ">"} if source == "tif big-endian" else {}
        tifffile.imwrite(file, stored, photometric=photometric, **more)
        data = file.getvalue()
    result, done = nearest(data, kind)
    assert np.array_equal(deep_pixels(result), twice(stored))
    if kind == "tif":
        assert np.array_equal(tifffile.imread(io.BytesIO(result)), twice(stored))
    assert done.notes == ()


@pytest.mark.parametrize(("kind", "colour"), [("grey", 4), ("RGB", 6)])
def test_16_bits_with_alpha(nearest, deep, kind, colour):
    alpha = np.full(deep.shape[:2], 65535, np.uint16)
    alpha[:10] = 0
    stored = np.dstack([deep[:, :, : 1 if kind == "grey" else 3], alpha])
    result = deep_pixels(nearest(png(stored, 16, colour))[0])  # OpenCV gives grey with alpha four channels
    expected = twice(np.where(alpha[:, :, None] > 0, stored, 0))
    assert np.array_equal(result[:, :, 3], expected[:, :, -1])
    assert np.array_equal(result[:, :, : expected.shape[2] - 1], expected[:, :, :-1])


def test_16_bit_tiff_with_white_at_zero_and_with_premultiplied_alpha(nearest, deep):
    file = io.BytesIO()
    tifffile.imwrite(file, 65535 - deep[:, :, 0], photometric="miniswhite")
    assert np.array_equal(deep_pixels(nearest(file.getvalue())[0]), twice(deep[:, :, 0]))
    file, alpha = io.BytesIO(), np.full(deep.shape[:2], 32768, np.uint16)
    stored = np.dstack([(deep // 2).astype(np.uint16), alpha])
    tifffile.imwrite(file, stored, photometric="rgb", extrasamples=["assocalpha"])
    result = deep_pixels(nearest(file.getvalue())[0])
    assert np.abs(result[:, :, :3].astype(int) - twice(deep)).max() <= 4


def test_one_transparent_colour_of_a_16_bit_png(nearest, deep):
    deep = deep.copy()
    deep[:20, :20] = (1, 2, 3)
    result = deep_pixels(nearest(png(deep, 16, 2, transparent=(1, 2, 3)))[0])
    assert not result[:40, :40].any()
    assert (result[40:, :, 3] == 65535).all()
    assert np.array_equal(result[40:, :, :3], twice(deep)[40:])


def test_16_bits_become_8_where_the_format_holds_no_more_and_that_is_said(nearest, deep):
    result, done = nearest(png(deep, 16, 2), "jpg", Wanted(quality=100))
    assert pillow(result).mode == "RGB"
    assert "16 bits become 8" in done.notes[0]


def test_other_depths_are_refused(nearest, deep):
    for odd in (deep.astype(np.float32), deep.astype(np.uint32)[:, :, 0]):
        file = io.BytesIO()
        tifffile.imwrite(file, odd, photometric="rgb" if odd.ndim == 3 else "minisblack")
        with pytest.raises(InputError, match=r"a picture: .*(intact copy|convert it)"):
            nearest(file.getvalue())


# --- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "PNG 16", "WEBP", "JPEG", "TIFF", "TIFF 16", "TIFF 16 LZW"])
def test_the_result_stands_upright_and_says_nothing_of_turns(nearest, photo, deep, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = orientation, "Camera"
    file, tags = io.BytesIO(), [(ORIENTATION, 3, 1, orientation, True)]
    if kind == "PNG 16":
        data = png(deep, 16, 2, exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    elif kind == "TIFF 16":
        tifffile.imwrite(file, deep, photometric="rgb", extratags=tags)
        data = file.getvalue()
    elif kind == "TIFF 16 LZW":
        data = lzw_with_orientation(deep, orientation)
    elif kind == "TIFF":
        tifffile.imwrite(file, photo, photometric="rgb", extratags=tags)
        data = file.getvalue()
    else:
        data = saved(photo, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    stored = (deep >> 8).astype(np.uint8) if "16" in kind else pixels(data) if kind == "JPEG" else photo
    judge = Image.fromarray(stored)
    judge.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(judge))
    for wanted in (Wanted(), Wanted(keep_exif=True)):
        result, done = nearest(data, wanted=wanted)
        found = deep_pixels(result) >> 8 if "16" in kind else pixels(result)
        assert np.array_equal(found, twice(expected))
        assert pillow(result).getexif().get(ORIENTATION, 1) == 1
        assert done.after == (2 * expected.shape[1], 2 * expected.shape[0])


def lzw_with_orientation(deep, orientation):
    """OpenCV's LZW file, whose directory gets an entry more: it is copied behind the file."""
    data = bytearray(cv2.imencode(".tif", deep[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes())
    begin = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[begin : begin + 2], "little")
    entries = [bytes(data[begin + 2 + 12 * n :][:12]) for n in range(count)]
    entries = [entry for entry in entries if entry[:2] != ORIENTATION.to_bytes(2, "little")]
    entries.append(
        b"".join(n.to_bytes(size, "little") for n, size in ((ORIENTATION, 2), (3, 2), (1, 4), (orientation, 4)))
    )
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    data += bytes(len(data) % 2)
    data[4:8] = len(data).to_bytes(4, "little")
    return bytes(data + len(entries).to_bytes(2, "little") + b"".join(entries) + bytes(4))


# --- profiles and EXIF


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_profile_is_carried_byte_for_byte_and_pixels_stay(nearest, photo, kind, source):
    data = saved(photo, source, icc_profile=SRGB)
    result = nearest(data, kind)[0]
    assert pillow(result).info["icc_profile"] == SRGB
    if kind in ("png", "tif"):
        assert np.array_equal(pixels(result), twice(pixels(data)))


def test_a_profile_of_another_kind_is_left_out_and_that_is_said(nearest, photo):
    grey_profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    for source, kind, kept in (("L", "png", True), ("L", "jpg", True), ("L", "webp", False), ("RGB", "png", False)):
        result, done = nearest(saved(photo, "PNG", source, icc_profile=grey_profile), kind)
        assert ("icc_profile" in pillow(result).info) == kept
        assert any("profile" in note for note in done.notes) != kept


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_exif_is_kept_on_request_alone(nearest, photo, kind):
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Camera", 6
    exif[0x8769] = {LENS: "50 mm", 0xA002: 56, 0xA003: 40, 0x829A: 0.008}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 14.5)}
    data = saved(photo, "JPEG", exif=exif)
    without = pillow(nearest(data, kind)[0]).getexif()
    assert MAKE not in without
    assert not without.get_ifd(0x8825)
    result = nearest(data, kind, Wanted(keep_exif=True))[0]
    found = pillow(result).getexif()
    assert found[MAKE] == "Camera"
    inner = found.get_ifd(0x8769)
    assert (inner[LENS], inner[0xA002], inner[0xA003]) == ("50 mm", 80, 112)
    assert found.get_ifd(0x8825)[1] == "N"
    assert [float(part) for part in found.get_ifd(0x8825)[2]] == [48.0, 8.0, 14.5]
    assert pillow(result).size == (80, 112)


def test_exif_of_a_tiff_does_not_bring_its_storage_along(nearest, photo):
    file = io.BytesIO()
    tifffile.imwrite(file, photo, photometric="rgb", extratags=[(MAKE, 2, 7, "Camera", True)], rowsperstrip=5)
    result = nearest(file.getvalue(), "tif", Wanted(keep_exif=True))[0]
    assert np.array_equal(tifffile.imread(io.BytesIO(result)), twice(photo))
    assert pillow(result).getexif()[MAKE] == "Camera"
    result = nearest(file.getvalue(), "png", Wanted(keep_exif=True))[0]
    assert 273 not in pillow(result).getexif()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # which the judge says
def test_damaged_exif_does_not_lose_the_picture(nearest, photo):
    data = saved(photo, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(pixels(nearest(data)[0]), twice(pixels(data)))
    data = saved(photo, "JPEG", exif=b"Exif\0\0XXXXXXXXXX")
    assert np.array_equal(pixels(nearest(data)[0]), twice(pixels(data)))


# --- colour


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_grey_stays_grey(nearest, photo, kind):
    result = pillow(nearest(saved(photo, "PNG", "L"), kind)[0])
    assert result.mode == "L"
    if kind != "jpg":
        assert np.array_equal(np.asarray(result), twice(np.asarray(Image.fromarray(photo).convert("L"))))


def test_grey_is_the_mean_of_what_the_network_makes_of_three_equal_channels(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("SSIU_BACKEND", "plain")
    upscaler, grey = load("x2", "cpu"), Image.fromarray(photo).convert("L")
    grey.save(tmp_path / "a.png")
    upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.png")
    exact = upscaler(np.asarray(grey)[:, :, None].repeat(3, 2)).mean(axis=2)  # of rounded channels
    assert np.abs(pixels((tmp_path / "b.png").read_bytes()) - exact).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_spread_over_the_whole_range(nearest, bits):
    values = np.arange(2**bits, dtype=np.uint8)[None].repeat(8, 0)
    packed = np.packbits(np.unpackbits(values[:, :, None], axis=2)[:, :, -bits:].reshape(8, -1), axis=1)
    result = pixels(nearest(png(packed, bits, 0, width=2**bits))[0])
    assert np.array_equal(result, twice(values * (255 // (2**bits - 1))))


def test_palettes_become_rgb(nearest, photo):
    image = Image.fromarray(photo).quantize(30)
    assert np.array_equal(pixels(nearest(saved(image, "PNG"))[0]), twice(np.asarray(image.convert("RGB"))))
    assert np.array_equal(pixels(nearest(saved(image, "GIF"))[0]), twice(np.asarray(image.convert("RGB"))))
    result = pixels(nearest(saved(image, "PNG", transparency=0))[0])
    assert result.shape[2] == 4
    assert np.array_equal(result[:, :, 3] == 0, twice(np.asarray(image) == 0))


@pytest.mark.parametrize(("mode", "key", "result"), [("L", 7, "LA"), ("RGB", (1, 2, 3), "RGBA"), ("1", 0, "LA")])
def test_one_transparent_colour_of_an_8_bit_png(nearest, photo, mode, key, result):
    image = Image.fromarray(photo).point(lambda value: max(value, 20)).convert(mode)
    image.paste(key, (0, 0, 10, 10))
    image.paste(255 if mode == "1" else image.getpixel((20, 20)), (10, 0, 56, 10))
    found = pillow(nearest(saved(image, "PNG", transparency=key))[0])
    assert found.mode == result
    alpha = np.asarray(found)[:, :, -1]
    assert not alpha[:20, :20].any()
    assert (alpha[:20, 20:] == 255).all()


def test_transparent_pictures_of_gif_and_webp(nearest, photo):
    image = Image.fromarray(
        np.dstack([photo, np.where(np.arange(56) < 10, 0, 255)[None].repeat(40, 0)]).astype(np.uint8)
    )
    for kind in ("GIF", "WEBP"):
        alpha = pixels(nearest(saved(image, kind))[0])[:, :, 3]
        assert not alpha[:, :20].any()
        assert (alpha[:, 20:] == 255).all()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_a_single_pixel(nearest, kind):
    for mode in ("L", "RGB", "LA", "RGBA"):
        if kind != "jpg" or "A" not in mode:
            assert pillow(nearest(saved(Image.new(mode, (1, 1)), "PNG"), kind)[0]).size == (2, 2)


def test_cmyk_goes_through_its_profile(nearest, photo):
    ink = np.dstack([photo, 255 - photo[:, :, 1]])
    result, done = nearest(saved(Image.fromarray(ink, "CMYK"), "TIFF", icc_profile=cmyk_profile()))
    found = pixels(result)
    assert found.shape == (80, 112, 3)
    assert "icc_profile" not in pillow(result).info
    assert "through its profile" in done.notes[0]
    lightness = photo[:, :, 1] / 255  # all that this profile looks at is black ink; CIE 1976 and sRGB say the rest
    luminance = np.where(lightness > 0.08, ((100 * lightness + 16) / 116) ** 3, lightness / 9.033)
    expected = np.where(luminance > 0.0031308, 1.055 * luminance ** (1 / 2.4) - 0.055, 12.92 * luminance)
    assert np.abs(found - 255 * twice(expected)[:, :, None]).max() <= 3


@pytest.mark.parametrize(("profile", "said"), [(None, "without a profile"), (b"nonsense" * 20, "profile of no use")])
def test_cmyk_without_a_good_profile_is_converted_plainly_and_that_is_said(nearest, photo, profile, said):
    ink = Image.fromarray(photo).convert("CMYK")
    data = saved(ink, "JPEG", icc_profile=profile) if profile else saved(ink, "JPEG")
    result, done = nearest(data)
    assert np.array_equal(pixels(result), twice(np.asarray(pillow(data).convert("RGB"))))
    assert said in done.notes[0]


# --- size


def test_fit_makes_smaller_by_an_antialiased_lanczos_filter_and_never_larger(nearest, photo, deep):
    data = saved(photo, "PNG")
    assert np.array_equal(pixels(nearest(data, wanted=Wanted(fit=(4000, 3000)))[0]), twice(photo))
    result, done = nearest(data, wanted=Wanted(fit=(50, 3000)))
    assert done.after == (50, 36)
    expected = lanczos(lanczos(twice(photo), 36).swapaxes(0, 1), 50).swapaxes(0, 1)
    assert np.abs(pixels(result) - expected.clip(0, 255)).max() <= 0.501
    result = deep_pixels(nearest(png(deep, 16, 2), wanted=Wanted(fit=(50, 3000)))[0])
    expected = lanczos(lanczos(twice(deep), 36).swapaxes(0, 1), 50).swapaxes(0, 1)
    assert np.abs(result - expected.clip(0, 65535)).max() <= 0.6


def lanczos(array, length):
    """Three lobes, as wide as the picture gets smaller, along the first axis."""
    step = array.shape[0] / length
    distance = (np.arange(array.shape[0]) + 0.5 - (np.arange(length)[:, None] + 0.5) * step) / step
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return np.tensordot(weights / weights.sum(axis=1, keepdims=True), array, 1)


def test_the_quality_of_a_jpeg_is_estimated(nearest, photo):
    for quality in (30, 40, 60, 74):
        assert abs(nearest(saved(photo, "JPEG", quality=quality))[1].quality - quality) <= 1
    assert nearest(saved(photo, "JPEG", quality=90))[1].quality is None
    assert nearest(saved(photo, "PNG"))[1].quality is None

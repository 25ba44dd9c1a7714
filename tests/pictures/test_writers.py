"""The PNG and TIFF writers, whose files Pillow, OpenCV and tifffile must read back, sample for sample."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from pictures.png import write_png
from pictures.tiff import write_tiff


def bands(image, height):
    return (image[top : top + height] for top in range(0, len(image), height))


def random_image(height, width, channels, bits, smooth):
    rng = np.random.default_rng(height + width)
    image = rng.integers(0, 2**bits, (height, width, channels))
    return (image.cumsum(0) // 7 % 2**bits if smooth else image).astype(np.uint8 if bits == 8 else np.uint16)


def with_opencv(data):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image[:, :, None] if image.ndim == 2 else image[:, :, [2, 1, 0, 3][: image.shape[2]]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (65, 47), (128, 64)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("writer", [write_png, write_tiff])
def test_what_is_written_is_read_back_by_others(writer, bits, channels, shape):
    for height, smooth in ((1, False), (17, True), (64, True), (1000, False)):
        image, file = random_image(*shape, channels, bits, smooth), io.BytesIO()
        writer(file, bands(image, height), image.shape, bits, None, b"")
        data = file.getvalue()
        if bits == 8:
            with Image.open(io.BytesIO(data)) as found:
                assert found.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
                assert np.array_equal(np.asarray(found).reshape(image.shape), image)
        if writer is write_tiff:
            assert np.array_equal(tifffile.imread(io.BytesIO(data)).reshape(image.shape), image)
        if channels == 4 and bits == 8 and writer is write_tiff:
            continue  # OpenCV premultiplies these
        if channels != 2:
            assert np.array_equal(with_opencv(data), image)
        elif writer is write_png:
            assert np.array_equal(with_opencv(data)[:, :, [0, 3]], image)


def test_png_filters_make_photographs_smaller(photo):
    file, plain = io.BytesIO(), io.BytesIO()
    image = photo.repeat(4, 0).repeat(4, 1)
    write_png(file, bands(image, 50), image.shape, 8, None, b"")
    Image.fromarray(image).save(plain, "PNG")
    assert len(file.getvalue()) < 1.3 * len(plain.getvalue())


def test_writers_ask_for_a_band_at_a_time():
    """What was written before the next band is asked for grows: nothing waits for the whole picture."""
    for writer in (write_png, write_tiff):
        file, sizes = io.BytesIO(), []

        def watched(file=file, sizes=sizes):
            for number in range(8):
                sizes.append(file.tell())
                yield np.random.default_rng(number).integers(0, 256, (64, 500, 3)).astype(np.uint8)

        writer(file, watched(), (512, 500, 3), 8, None, b"")
        assert sizes[-1] > 5 * 64 * 500 * 3

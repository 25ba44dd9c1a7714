"""The bicubic degradation against MATLAB's own outputs and against the formula written out."""

import math

import numpy as np
import pytest
from cubic import keys
from helpers import SHARED

from datas.degradation import downscale, imresize, upscale
from datas.images import list_images, read_rgb

SET5 = SHARED / "benchmark" / "Set5"
needs_set5 = pytest.mark.skipif(not SET5.is_dir(), reason="the Set5 images are not on this machine")


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resize_line(line, scale):
    """One row or column of bytes, sample by sample: kernel stretched by 1/scale when shrinking, mirrored borders."""
    stretch, result = min(scale, 1), []
    for i in range(1, math.ceil(len(line) * scale) + 1):
        centre = i / scale + (1 - 1 / scale) / 2
        reach = range(math.floor(centre - 2 / stretch) - 1, math.ceil(centre + 2 / stretch) + 2)
        weights = [keys((centre - j) * stretch) for j in reach]
        mirrored = [(j - 1) % (2 * len(line)) for j in reach]
        pixels = [line[j] if j < len(line) else line[2 * len(line) - 1 - j] for j in mirrored]
        value = sum(w * p for w, p in zip(weights, pixels, strict=True)) / sum(weights)
        result.append(min(255, max(0, math.floor(value + 0.5))))
    return result


def slow_imresize(image, scale):
    def resize_columns(picture):
        lines = [resize_line(picture[:, x, c].tolist(), scale) for x in range(picture.shape[1]) for c in range(3)]
        return np.array(lines, np.uint8).reshape(picture.shape[1], 3, -1).transpose(2, 0, 1)

    return resize_columns(resize_columns(image).transpose(1, 0, 2)).transpose(1, 0, 2)


@needs_set5
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_downscaled_set5_equals_matlab_in_every_pixel(scale):
    for path in list_images(SET5 / "HR"):
        expected = read_rgb(SET5 / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png")
        assert np.array_equal(downscale(read_rgb(path), scale), expected), path.name


@needs_set5
def test_bicubic_baseline_of_set5_x4_is_the_published_28_42_db():
    luma = np.array([65.481, 128.553, 24.966]) / 255
    scores = []
    for path in list_images(SET5 / "HR"):
        sr = upscale(read_rgb(SET5 / "LR_bicubic" / "X4" / f"{path.stem}x4.png"), 4)
        hr = read_rgb(path)[: sr.shape[0], : sr.shape[1]]
        difference = ((sr.astype(float) - hr.astype(float)) @ luma)[4:-4, 4:-4]
        scores.append(10 * math.log10(255**2 / (difference**2).mean()))
    assert np.mean(scores) == pytest.approx(28.42, abs=0.01)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3, 4])
@pytest.mark.parametrize("size", [(12, 24), (24, 12), (36, 12)])
def test_imresize_equals_the_formula_written_out(scale, size):
    image = random_image(*size)
    # A tie may round either way when the sums are added in another order.
    difference = imresize(image, scale).astype(int) - slow_imresize(image, scale)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.002


@pytest.mark.parametrize("value", [0, 1, 77, 254, 255])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_constant_image_stays_constant(value, scale):
    image = np.full((13, 17, 3), value, np.uint8)
    assert (downscale(image, scale) == value).all()
    assert (upscale(image, scale) == value).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_images_of_any_size_resize_with_repeated_reflection(scale):
    for height in range(1, 6):
        for width in range(1, 6):
            image = random_image(height, width)
            assert upscale(image, scale).shape == (scale * height, scale * width, 3)
            large = random_image(scale * height, scale * width)
            assert np.abs(downscale(large, scale).astype(int) - slow_imresize(large, 1 / scale)).max() <= 1


def test_height_and_width_beyond_a_multiple_of_the_scale_are_cropped_at_the_bottom_right():
    image = random_image(23, 30)
    assert np.array_equal(downscale(image, 4), downscale(image[:20, :28], 4))


def test_the_height_is_resized_before_the_width():
    image = random_image(48, 48)
    transposed_result = downscale(image.transpose(1, 0, 2), 3).transpose(1, 0, 2)
    assert not np.array_equal(downscale(image, 3), transposed_result)


def test_an_image_smaller_than_the_scale_is_refused():
    with pytest.raises(ValueError, match="too small for scale 4"):
        downscale(random_image(3, 8), 4)

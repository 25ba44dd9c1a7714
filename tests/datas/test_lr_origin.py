"""What LR images are that are not MATLAB's: every known way is recognised, and what is not known is not named."""

import io
import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cubic import keys
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from datas.degradation import downscale, upscale
from datas.lr_origin import LrImage, difference, origins

SIZE = 61, 86  # no multiple of 2, 3 or 4 in the height


def picture(seed=0, size=SIZE):
    """Smooth with edges and grain, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    grain = rng.integers(-12, 13, (*size, 3))
    return np.clip(upscale(coarse, 8)[: size[0], : size[1]].astype(int) + grain, 0, 255).astype(np.uint8)


def cropped(hr, s):
    return np.ascontiguousarray(hr[: hr.shape[0] // s * s, : hr.shape[1] // s * s])


def size_of(hr, s):
    return hr.shape[1] // s, hr.shape[0] // s


def by_cv2(flag):
    return lambda hr, s: cv2.resize(cropped(hr, s), size_of(hr, s), interpolation=flag)


def by_pillow(flag):
    return lambda hr, s: np.asarray(Image.fromarray(cropped(hr, s)).resize(size_of(hr, s), flag))


def by_pytorch(**options):
    def make(hr, s):
        x = torch.from_numpy(cropped(hr, s)).permute(2, 0, 1)[None] / 255
        y = F.interpolate(x, size_of(hr, s)[::-1], **options)[0]
        return y.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    return make


def by_skimage(hr, s):
    small = resize(cropped(hr, s), size_of(hr, s)[::-1], order=3, anti_aliasing=True)
    return np.round(255 * np.clip(small, 0, 1)).astype(np.uint8)


def by_formula(rounding, stretched=True):
    """MATLAB's formula written out, in floating point to the end; without antialiasing where it is not stretched."""

    def lines(image, s):
        length, wide = len(image), s if stretched else 1
        rows = []
        for i in range(length // s):
            centre = s * i + (s - 1) / 2
            reach = range(math.floor(centre - 2 * wide), math.ceil(centre + 2 * wide) + 1)
            weights = [keys((centre - j) / wide) for j in reach]
            pixels = [image[min(max(j, -j - 1), 2 * length - 1 - j)] for j in reach]
            rows.append(sum(w * p for w, p in zip(weights, pixels, strict=True)) / sum(weights))
        return np.stack(rows)

    def make(hr, s):
        small = lines(lines(cropped(hr, s).astype(float), s).transpose(1, 0, 2), s).transpose(1, 0, 2)
        return rounding(np.clip(small, 0, 255)).astype(np.uint8)

    return make


def by_blur(hr, s):
    blurred = gaussian_filter(cropped(hr, s).astype(float), (1.6, 1.6, 0), mode="nearest", radius=(3, 3, 0))
    return np.round(blurred).astype(np.uint8)[1::s, 1::s]


def by_jpeg(quality):
    def make(hr, s):
        file = io.BytesIO()
        Image.fromarray(downscale(hr, s)).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return make


def at_the_end(hr, s):
    return downscale(hr[hr.shape[0] % s :, hr.shape[1] % s :], s)


def of_the_whole(hr, s):
    return np.asarray(Image.fromarray(hr).resize(size_of(hr, s), Image.BICUBIC))


def half_up(values):
    return np.floor(values + 0.5)


KINDS = {
    "OpenCV's INTER_CUBIC": by_cv2(cv2.INTER_CUBIC),
    "OpenCV's INTER_LINEAR": by_cv2(cv2.INTER_LINEAR),
    "OpenCV's INTER_AREA": by_cv2(cv2.INTER_AREA),
    "OpenCV's INTER_LANCZOS4": by_cv2(cv2.INTER_LANCZOS4),
    "OpenCV's INTER_NEAREST": by_cv2(cv2.INTER_NEAREST),
    "Pillow's BICUBIC": by_pillow(Image.BICUBIC),
    "Pillow's LANCZOS": by_pillow(Image.LANCZOS),
    "Pillow's BILINEAR": by_pillow(Image.BILINEAR),
    "Pillow's NEAREST": by_pillow(Image.NEAREST),
    "PyTorch's bicubic interpolate with antialias": by_pytorch(mode="bicubic", antialias=True),
    "PyTorch's bicubic interpolate without antialias": by_pytorch(mode="bicubic"),
    "PyTorch's bicubic interpolate with align_corners": by_pytorch(mode="bicubic", align_corners=True),
    "scikit-image's resize of order 3 with anti_aliasing": by_skimage,
    "MATLAB's bicubic computed in floating point and rounded once": by_formula(half_up),
    "MATLAB's bicubic computed in floating point and cut off to whole numbers": by_formula(np.floor),
    "MATLAB's bicubic without antialiasing": by_formula(half_up, stretched=False),
    "MATLAB's bicubic, red and blue exchanged": lambda hr, s: downscale(hr, s)[..., ::-1],
    "MATLAB's bicubic, the width before the height": (
        lambda hr, s: downscale(hr.transpose(1, 0, 2), s).transpose(1, 0, 2)
    ),
    "MATLAB's bicubic after a JPEG file of quality 75 (4:2:0)": by_jpeg(75),
    "MATLAB's bicubic after a JPEG file of quality 96 (4:2:0)": by_jpeg(96),
    "one pixel of every 3x3, row and column 3": lambda hr, s: cropped(hr, s)[2::3, 2::3],
    "MATLAB's bicubic of the HR image cropped at the bottom right": at_the_end,
    "Pillow's BICUBIC of the whole HR image, not cropped to a multiple of 3": of_the_whole,
    "MATLAB's bicubic of the HR image moved by +1 to the right and -2 down, away from the border": (
        lambda hr, s: downscale(np.roll(hr, (-2, 1), (0, 1)), s)
    ),
}  # fmt: skip


def origin_of(lr, hr, s):
    assert difference(downscale(hr, s), lr).largest > 0  # none of them is MATLAB's
    (origin,) = origins([LrImage(lr, lambda: hr)], s)
    return origin


@pytest.mark.parametrize(("name", "make"), KINDS.items(), ids=KINDS)
def test_every_known_way_is_recognised_at_x3(name, make):
    hr = picture()
    origin = origin_of(make(hr, 3), hr, 3)
    assert name in origin.ways
    assert origin.grade == "exact" or (origin.grade == "rounding" and "MATLAB's bicubic" not in origin.ways)
    assert name in origin.text("it") or " more (which make the same" in origin.text("it")


@pytest.mark.parametrize("s", [2, 4])
@pytest.mark.parametrize("name", ["OpenCV's INTER_CUBIC", "Pillow's BICUBIC"])
def test_the_usual_mistakes_are_recognised_at_other_scales_bit_for_bit(name, s):
    hr = picture(1)
    origin = origin_of(KINDS[name](hr, s), hr, s)
    assert (origin.ways[0], origin.grade) == (name, "exact")
    assert origin.text("it").startswith(f"it is {name}")
    assert origin.text("it").endswith(", bit for bit")


def test_ways_that_make_the_same_are_all_named():
    hr = picture()
    origin = origin_of(by_cv2(cv2.INTER_AREA)(hr, 2), hr, 2)
    assert {"OpenCV's INTER_AREA", "OpenCV's INTER_LINEAR"} <= set(origin.ways)
    assert "which make the same of these" in origin.text("it")


def test_a_blur_before_the_subsampling_is_recognised():
    hr = picture()
    origin = origin_of(by_blur(hr, 3), hr, 3)
    assert origin.ways == ("one pixel of every 3x3, row and column 2, after a Gaussian blur of sigma 1.6 (BD)",)


def test_rounding_is_told_from_the_same_bits():
    hr = picture()
    lr = KINDS["OpenCV's INTER_CUBIC"](hr, 2).copy()
    lr[3:5, 4] ^= 1  # two pixels, by one
    origin = origin_of(lr, hr, 2)
    assert (origin.ways[0], origin.grade) == ("OpenCV's INTER_CUBIC", "rounding")
    assert origin.difference.mean == pytest.approx(6 / lr.size)
    assert "but for rounding (mean difference 0.00" in origin.text("it")


def test_noise_is_of_unknown_origin_and_nearest_to_what_it_was_added_to():
    hr = picture()
    lr = downscale(hr, 3)
    noisy = np.clip(lr + np.random.default_rng(1).normal(0, 6, lr.shape), 0, 255).astype(np.uint8)
    origin = origin_of(noisy, hr, 3)
    assert (origin.ways, origin.grade) == (("MATLAB's bicubic",), "nearest")
    assert origin.difference == difference(lr, noisy)
    assert "unknown origin" in origin.text("it")


@pytest.mark.parametrize("make", [lambda: downscale(picture(7), 3), lambda: downscale(picture()[::-1].copy(), 3)])
def test_lr_of_another_picture_is_said_to_be_that(make):
    hr = picture()
    assert origin_of(make(), hr, 3).grade == "other picture"


def test_images_without_contrast_are_no_other_picture():
    hr = np.full((60, 84, 3), 90, np.uint8)
    origin = origin_of(np.full((20, 28, 3), 97, np.uint8), hr, 3)
    assert origin.grade == "nearest"
    assert origin.difference.mean == 7


@pytest.mark.parametrize("size", [(4, 9), (3, 40), (15, 14)])
def test_small_images_are_looked_at_too(size):
    hr = picture(2, size)
    lr = KINDS["OpenCV's INTER_AREA"](hr, 3)
    assert "OpenCV's INTER_AREA" in origin_of(lr, hr, 3).ways


def test_a_mixed_set_gets_an_answer_for_each_kind():
    pictures = [picture(seed, (60 + 3 * seed, 60)) for seed in range(6)]
    makers = [KINDS["OpenCV's INTER_CUBIC"]] * 3 + [KINDS["Pillow's BICUBIC"]] * 2
    made = [LrImage(make(hr, 3), lambda hr=hr: hr) for make, hr in zip(makers, pictures, strict=False)]
    changed = downscale(pictures[5], 3)
    changed[:5] ^= 8
    found = origins([*made, LrImage(changed, lambda: pictures[5])], 3)
    assert [(origin.count, origin.ways[0], origin.grade) for origin in found] == [
        (3, "OpenCV's INTER_CUBIC", "exact"),
        (2, "Pillow's BICUBIC", "exact"),
        (1, "MATLAB's bicubic", "nearest"),
    ]

"""Ways of making LR images that are not MATLAB's, by which `datas.lr_origin` tells what an LR image is.

Every way is a name that reads after "they are" and a function that makes the LR image, (H, W, 3) uint8.
"""

import io
import math
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from PIL import Image

from datas.degradation import contributions, cubic, downscale

Make = Callable[[], np.ndarray]
Kernel = Callable[[np.ndarray], np.ndarray]

BD_SIGMA, BD_WINDOW = 1.6, 7  # "BD": blurred by this Gaussian, every third pixel kept
MATLAB = "MATLAB's bicubic"
SEARCHED = (
    "after a JPEG file",
    "of the HR image moved",
)  # in the names of ways that differ by a number that is tried out
JPEG_QUALITIES = range(30, 101)
JPEG_SUBSAMPLING = {2: "4:2:0", 0: "4:4:4"}
OPENCV = {
    cv2.INTER_CUBIC: "INTER_CUBIC",
    cv2.INTER_AREA: "INTER_AREA",
    cv2.INTER_LINEAR: "INTER_LINEAR",
    cv2.INTER_LANCZOS4: "INTER_LANCZOS4",
    cv2.INTER_NEAREST: "INTER_NEAREST",
}
EDGE = 3  # LR pixels beside the part that HR does not reach, which the kernel mixes with it
SMALLEST = 20  # LR pixels a side from which a shift is looked for


def ways(whole: np.ndarray, lr: np.ndarray, s: int) -> dict[str, Make]:
    """The ways in which `lr` (H, W, 3) may have been made of `whole`, an HR image as it is stored; both uint8.

    MATLAB's own is the first.
    """
    height, width = lr.shape[:2]
    hr = np.ascontiguousarray(whole[: s * height, : s * width])
    found: dict[str, Make] = {MATLAB: partial(downscale, hr, s)}
    found |= {**_of_libraries(hr, height, width), **_of_skimage(hr, height, width), **_of_matlab(hr, s)}
    found |= _subsampled(hr, s)
    if whole.shape != hr.shape:
        uncropped = _of_libraries(whole, height, width)
        found |= {f"{name} of the whole HR image, not cropped to a multiple of {s}": m for name, m in uncropped.items()}
        found |= _cropped_elsewhere(whole, height, width, s)
    found |= _shifted(hr, lr, s)
    return found


def jpegs(lr: np.ndarray) -> dict[str, Make]:
    """MATLAB's LR image, through JPEG files of many qualities."""
    return {
        f"{MATLAB} after a JPEG file of quality {quality} ({name})": partial(_jpeg, lr, quality, chroma)
        for quality in JPEG_QUALITIES
        for chroma, name in JPEG_SUBSAMPLING.items()
    }


def _of_matlab(hr: np.ndarray, s: int) -> dict[str, Make]:
    """MATLAB's formula with something left out or changed."""
    return {
        f"{MATLAB} computed in floating point and rounded once": partial(_by_formula, hr, s),
        f"{MATLAB} computed in floating point and cut off to whole numbers": partial(_by_formula, hr, s, rounded=False),
        f"{MATLAB}, the width before the height": partial(_width_first, hr, s),
        f"{MATLAB} without antialiasing": partial(_by_formula, hr, s, antialias=False),
        "MATLAB's bilinear": partial(_by_formula, hr, s, _triangle, 2),
        "MATLAB's lanczos3": partial(_by_formula, hr, s, _lanczos3, 6),
        f"{MATLAB}, red and blue exchanged": partial(downscale, hr[:, :, ::-1], s),
    }


def _of_libraries(hr: np.ndarray, height: int, width: int) -> dict[str, Make]:
    """What image libraries make of an HR image when they are asked for (height, width)."""
    hr, size = np.ascontiguousarray(hr), (width, height)
    found: dict[str, Make] = {}
    for flag, name in OPENCV.items():
        found[f"OpenCV's {name}"] = partial(cv2.resize, hr, size, interpolation=flag)
    for filter_ in Image.Resampling:
        found[f"Pillow's {filter_.name}"] = partial(_by_pillow, hr, size, filter_)
    for mode in ("bicubic", "bilinear"):
        for antialias in (True, False):
            name = f"PyTorch's {mode} interpolate with{'out' * (not antialias)} antialias"
            found[name] = partial(_by_pytorch, hr, height, width, mode, antialias=antialias)
    aligned = partial(_by_pytorch, hr, height, width, "bicubic", align_corners=True)
    found["PyTorch's bicubic interpolate with align_corners"] = aligned
    return found


def _of_skimage(hr: np.ndarray, height: int, width: int) -> dict[str, Make]:
    """scikit-image's `resize`, apart from the other libraries: it takes most of the time of all ways together."""
    return {
        f"scikit-image's resize of order {order} with{'out' * (not antialias)} anti_aliasing": partial(
            _by_skimage, hr, height, width, order, antialias
        )
        for order, antialias in ((3, True), (3, False), (1, True))
    }


def _subsampled(hr: np.ndarray, s: int) -> dict[str, Make]:
    """One pixel of every s, and the same after the blur of "BD"."""
    blurred = cv2.GaussianBlur(hr, (BD_WINDOW, BD_WINDOW), BD_SIGMA, borderType=cv2.BORDER_REPLICATE)
    found: dict[str, Make] = {}
    for start in range(s):
        which = f"one pixel of every {s}x{s}, row and column {start + 1}"
        found[which] = partial(_every, hr, start, s)
        found[f"{which}, after a Gaussian blur of sigma {BD_SIGMA} (BD)"] = partial(_every, blurred, start, s)
    return found


def _cropped_elsewhere(whole: np.ndarray, height: int, width: int, s: int) -> dict[str, Make]:
    """MATLAB's of an HR image that was cropped to a multiple of s at another place than the top left."""
    rest = whole.shape[0] - s * height, whole.shape[1] - s * width
    starts = {
        "at its middle": (rest[0] // 2, rest[1] // 2),
        "at its middle, half a pixel rounded up": (-(-rest[0] // 2), -(-rest[1] // 2)),
        "at the bottom right": rest,
    }
    found: dict[str, Make] = {}
    for place, (top, left) in starts.items():
        if (top, left) == (0, 0):
            continue
        part = whole[top : top + s * height, left : left + s * width]
        found[f"{MATLAB} of the HR image cropped {place}"] = partial(downscale, part, s)
    return found


def _shifted(hr: np.ndarray, lr: np.ndarray, s: int) -> dict[str, Make]:
    """MATLAB's of the HR image moved by whole pixels, up to an eighth: about as far as phase correlation says."""
    height, width = lr.shape[:2]
    if min(height, width) < SMALLEST:
        return {}
    first, second = (image.mean(axis=2, dtype=np.float64) for image in (downscale(hr, s), lr))
    (x, y), _ = cv2.phaseCorrelate(first, second, cv2.createHanningWindow((width, height), cv2.CV_64F))
    around = [(round(y * s) + down, round(x * s) + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return {
        f"{MATLAB} of the HR image moved by {right:+d} to the right and {down:+d} down, away from the border": partial(
            _moved, hr, lr, s, down, right
        )
        for down, right in around
        if (down, right) != (0, 0) and abs(down) <= s * height / 8 and abs(right) <= s * width / 8
    }


def _moved(hr: np.ndarray, lr: np.ndarray, s: int, down: int, right: int) -> np.ndarray:
    """MATLAB's of HR moved by so many pixels; what HR does not reach is taken from `lr`, the image to explain."""
    inside = _inside(lr.shape[0], down, s), _inside(lr.shape[1], right, s)
    made = lr.copy()
    made[inside] = downscale(np.roll(hr, (down, right), axis=(0, 1)), s)[inside]
    return made


def _inside(length: int, moved: int, s: int) -> slice:
    """The LR rows or columns that come from HR alone after HR was moved by so many of its pixels."""
    reach = math.ceil(abs(moved) / s)
    return slice(EDGE + reach * (moved > 0), length - EDGE - reach * (moved < 0))


def _jpeg(image: np.ndarray, quality: int, subsampling: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


def _by_pytorch(hr: np.ndarray, height: int, width: int, mode: str, **options: bool) -> np.ndarray:
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(hr).permute(2, 0, 1)[None].float() / 255
    small = F.interpolate(x, (height, width), mode=mode, **options)[0]
    return (small.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _width_first(hr: np.ndarray, s: int) -> np.ndarray:
    return downscale(hr.transpose(1, 0, 2), s).transpose(1, 0, 2)


def _every(image: np.ndarray, start: int, s: int) -> np.ndarray:
    return image[start::s, start::s]


def _by_pillow(hr: np.ndarray, size: tuple[int, int], filter_: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(hr).resize(size, filter_))


def _by_skimage(hr: np.ndarray, height: int, width: int, order: int, antialias: bool) -> np.ndarray:
    from skimage.transform import resize

    return _rounded(255 * resize(hr / 255, (height, width), order=order, anti_aliasing=antialias))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _lanczos3(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _by_formula(
    hr: np.ndarray, s: int, kernel: Kernel = cubic, support: int = 4, antialias: bool = True, rounded: bool = True
) -> np.ndarray:
    """An image shrunk by s as MATLAB does it, in float64, rounded (or cut off) at the end only.

    Args:
        kernel: of the distance in LR pixels (HR pixels without antialiasing), 0 outside.
        support: its width.
    """
    rows, columns = (_weights(length, s, kernel, support, antialias) for length in hr.shape[:2])
    lower = np.tensordot(rows, hr.astype(np.float64), axes=(1, 0))  # (H, s W, 3)
    values = np.tensordot(columns, lower, axes=(1, 1)).transpose(1, 0, 2)
    return _rounded(values) if rounded else np.clip(values, 0, 255).astype(np.uint8)


def _weights(length: int, s: int, kernel: Kernel, support: int, antialias: bool) -> np.ndarray:
    """What each of `length` samples adds to each of length // s: rows sum to 1, the border is mirrored."""
    weights, indices = contributions(length, 1 / s, kernel, support, antialias)
    matrix = np.zeros((len(weights), length))
    np.add.at(matrix, (np.arange(len(weights))[:, None], indices), weights)
    return matrix


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)

"""The metrics against scikit-image, pytorch-msssim, published scores of published images, and formulas."""

import json
import math

import imageio.v3 as imageio
import numpy as np
import pytest
import pytorch_msssim
import torch
from helpers import GOLDEN, SHARED, load_golden
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evaluation.metrics import (
    Scores,
    luma,
    mean_scores,
    official_scores,
    offset_luma,
    psnr,
    rounded_like_the_paper,
    standard_scores,
)
from evaluation.similarity import ssim, ssim_by_convolution, ssim_of_msssim
from models.pixels import to_uint8


def random_pair(height=40, width=33, noise=20, seed=0):
    rng = np.random.default_rng(seed)
    hr = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    sr = np.clip(hr + rng.normal(0, noise, hr.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(sr), torch.from_numpy(hr)


@pytest.mark.parametrize("size", [(40, 33), (11, 11), (12, 90)])
@pytest.mark.parametrize("noise", [2, 60])
def test_psnr_and_ssim_agree_with_scikit_image(size, noise):
    sr, hr = (luma(image) for image in random_pair(*size, noise))
    a, b = sr.numpy(), hr.numpy()
    assert psnr(sr, hr) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-9)
    _, full = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
    )
    assert ssim(sr, hr) == pytest.approx(full[5 : size[0] - 5, 5 : size[1] - 5].mean(), abs=1e-9)


def test_ssim_agrees_with_pytorch_msssim_in_float64():
    sr, hr = (luma(image) for image in random_pair())
    expected = pytorch_msssim.ssim(sr[None, None], hr[None, None], data_range=255).item()
    assert ssim(sr, hr) == pytest.approx(expected, abs=1e-6)


def test_luma_agrees_with_the_formula_at_the_corners_of_the_cube():
    image = torch.tensor([[0, 255, 255, 0, 0], [0, 255, 0, 255, 0], [0, 255, 0, 0, 255]], dtype=torch.uint8)[:, None]
    expected = [16, 16 + 65.481 + 128.553 + 24.966, 16 + 65.481, 16 + 128.553, 16 + 24.966]
    torch.testing.assert_close(luma(image)[0], torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def test_official_luma_has_the_bits_of_the_paper_s_order_of_operations():
    image = np.random.default_rng(0).random((3, 40, 33), dtype=np.float32)
    red, green, blue = image / np.float32(255)
    sums = np.float32(65.481) * red + np.float32(128.553) * green + np.float32(24.966) * blue
    expected = (sums + np.float32(16)) * np.float32(255)
    assert np.array_equal(offset_luma(torch.from_numpy(image)).numpy(), expected)


@pytest.mark.parametrize("size", [(11, 11), (11, 64), (57, 12), (131, 160), (307, 20)])
def test_bands_through_opencv_give_the_ssim_of_one_convolution(size):
    sr, hr = (luma(image) for image in random_pair(*size))
    assert ssim(sr, hr) == pytest.approx(ssim_by_convolution(sr, hr), abs=1e-12)
    assert ssim(sr.t(), hr.t()) == pytest.approx(ssim_by_convolution(sr, hr), abs=1e-12)  # of another memory layout


@pytest.mark.parametrize("size", [(20, 30), (321, 481), (481, 321), (250, 1000)])
def test_ssim_of_the_paper_has_the_bits_of_pytorch_msssim(size):
    noise = torch.Generator().manual_seed(1)
    hr = 4080 + 219 * torch.rand(size, generator=noise)
    sr = hr + 5 * torch.randn(size, generator=noise)
    expected = pytorch_msssim.ssim(sr[None, None], hr[None, None], data_range=255).item()
    assert ssim_of_msssim(sr, hr) == expected


def test_degenerate_images():
    equal = torch.full((3, 20, 20), 77, dtype=torch.uint8)
    assert standard_scores(equal, equal, 2) == Scores(math.inf, 1.0)
    black, white = torch.zeros_like(equal), torch.full_like(equal, 255)
    assert standard_scores(black, white, 2).psnr == pytest.approx(20 * math.log10(255 / 219))
    with pytest.raises(ValueError, match="at least 11x11"):
        standard_scores(equal[:, :14], equal[:, :14], 2)
    with pytest.raises(ValueError, match="cannot be scored"):
        official_scores(equal.float(), equal[:, :14], 2)


def test_standard_clips_and_rounds_and_official_does_not():
    hr = random_pair()[1]
    exact = hr.float() / 255
    within_rounding = exact + 0.4 / 255
    assert standard_scores(within_rounding.clamp(max=1), hr, 2).psnr == math.inf
    assert official_scores(within_rounding, hr, 2).psnr < 60
    white = torch.full_like(hr, 255)
    assert standard_scores(torch.full(hr.shape, 1.5), white, 2).psnr == math.inf
    assert official_scores(torch.full(hr.shape, 1.5), white, 2).psnr < 10


def test_to_uint8_rounds_to_nearest():
    values = torch.tensor([-0.1, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.2])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]


def test_means_are_plain_and_the_papers_rounding_goes_up():
    mean = mean_scores([Scores(30.0, 0.9), Scores(31.0, 0.8)])
    assert mean == pytest.approx((30.5, 0.85))
    assert rounded_like_the_paper(Scores(38.301, 0.96311)) == (38.31, 0.9632)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_official_scores_equal_the_golden_ones(path):
    _, golden, arrays = load_golden(path)
    score = official_scores(golden["output"][0], golden["hr"][0], int(path.stem[1]))
    assert score.psnr == float(arrays["official_psnr"])
    assert score.ssim == pytest.approx(float(arrays["official_ssim"]), abs=1e-4)


CASES = json.loads((SHARED / "metric_cases" / "cases.json").read_text()) if SHARED.is_dir() else {}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_published_images_get_their_published_scores(shared, scale):
    folder, expected = shared / "metric_cases" / f"x{scale}", CASES["expected"][str(scale)]
    per_image, tolerance = CASES["per_image"][str(scale)], CASES["tolerance"]
    standard, official = [], []
    for name, known in per_image.items():
        sr, hr = (
            torch.from_numpy(imageio.imread(folder / f"{name}_{kind}.png")).permute(2, 0, 1) for kind in ("SR", "HR")
        )
        standard.append(standard_scores(sr, hr, scale))
        official.append(official_scores(sr, hr, scale))
        assert standard[-1].psnr == pytest.approx(known["standard"]["psnr"], abs=1e-4)
        assert standard[-1].ssim == pytest.approx(known["standard"]["ssim"], abs=2e-6)
        loose = tolerance["per_image"]["official"]["ssim"]
        assert official[-1].ssim == pytest.approx(known["official"]["ssim"], abs=loose)
    means = {"standard": mean_scores(standard), "official": mean_scores(official)}
    assert means["standard"].psnr == pytest.approx(expected["standard"]["psnr"], abs=tolerance["standard"]["psnr"])
    assert means["standard"].ssim == pytest.approx(expected["standard"]["ssim"], abs=tolerance["standard"]["ssim"])
    assert means["official"].ssim == pytest.approx(expected["official"]["ssim"], abs=tolerance["official"]["ssim"])

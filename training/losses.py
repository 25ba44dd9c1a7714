"""The training loss: 1.0 * L1 + 0.01 * FFT (the weights are config keys)."""

import torch
from torch import Tensor


def l1_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference of two (B, 3, H, W) batches in [0, 1]."""
    return (sr - hr).abs().mean()


def fft_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference of the spectra, over real and imaginary parts together; unnormalised 2-D transform.

    The transform is linear, so that of the difference is taken once, in float32 whatever the type of `sr`.
    """
    difference = torch.fft.rfft2(sr.float() - hr.float())
    return torch.view_as_real(difference).abs().mean()


def loss_terms(sr: Tensor, hr: Tensor, lambda_l1: float, lambda_fft: float) -> Tensor:
    """Weighted terms (2,): L1 and FFT; their sum is what is minimised. A weight of 0 leaves a term uncomputed."""
    zero = sr.new_zeros((), dtype=torch.float32)
    return torch.stack(
        [
            lambda_l1 * l1_loss(sr.float(), hr) if lambda_l1 else zero,
            lambda_fft * fft_loss(sr, hr) if lambda_fft else zero,
        ]
    )

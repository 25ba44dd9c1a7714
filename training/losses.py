"""Losses by name, and the weighted terms whose sum is minimised: 1.0 l1 + 0.01 fft in the paper.

A loss is a function of two (B, 3, H, W) batches, SR as float32 and HR in [0, 1], that returns one number. Add one to
LOSSES, or name your own in the config as 'package.module:function'.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from config import Config
from models import ModelError
from models.registry import import_named
from utils import InputError, did_you_mean

Loss = Callable[[Tensor, Tensor], Tensor]
CHARBONNIER_EPS = 1e-3  # in the units of the images


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (sr - hr).abs().mean()


def fft(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference of the spectra, over real and imaginary parts together; unnormalised 2-D transform.

    The transform is linear, so that of the difference is taken once.
    """
    difference = torch.fft.rfft2(sr - hr)
    return torch.view_as_real(difference).abs().mean()


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + eps^2), d the difference and eps 1e-3: L1, but smooth near 0.

    Charbonnier et al., "Two deterministic half-quadratic regularization algorithms for computed imaging", ICIP 1994.
    For super-resolution: Lai et al., "Deep Laplacian pyramid networks for fast and accurate super-resolution", CVPR
    2017.
    """
    return ((sr - hr).square() + CHARBONNIER_EPS**2).sqrt().mean()


LOSSES: dict[str, Loss] = {"l1": l1, "fft": fft, "charbonnier": charbonnier}


@dataclass(frozen=True)
class Term:
    """One term of the training loss."""

    name: str  # as it stands in the config and in the logs
    weight: float
    loss: Loss


def loss_terms(config: Config) -> tuple[Term, ...]:
    """The terms that a config asks for: l1 and fft, always there, then those of `losses` in their order.

    Raises:
        InputError: a name that is not known, or a module that cannot be imported.
    """
    weights = {"l1": config.lambda_l1, "fft": config.lambda_fft, **config.losses}
    return tuple(Term(name, weight, find_loss(name)) for name, weight in weights.items())


def find_loss(name: str) -> Loss:
    """The loss of this name, or the function that 'package.module:function' names.

    Raises:
        InputError: there is none.
    """
    if name in LOSSES:
        return LOSSES[name]
    if ":" not in name:
        known, hint = ", ".join(LOSSES), did_you_mean(name, LOSSES)
        raise InputError(
            f"config key 'losses': '{name}' is not one of {known}; your own is named package.module:function{hint}"
        )
    try:
        loss = import_named(name)
    except ModelError as error:
        raise InputError(f"config key 'losses': {error}") from error
    if not callable(loss):
        raise InputError(f"config key 'losses': {name} is of type {type(loss).__name__}, not a function")
    return loss


def evaluate_terms(terms: tuple[Term, ...], sr: Tensor, hr: Tensor) -> Tensor:
    """The weighted terms, float32 (terms,); their sum is what is minimised. A weight of 0 leaves a term uncomputed.

    Raises:
        InputError: a loss returned something else than one number.
    """
    sr = sr.float()
    zero = sr.new_zeros(())
    return torch.stack([term.weight * _one_number(term, sr, hr) if term.weight else zero for term in terms])


def _one_number(term: Term, sr: Tensor, hr: Tensor) -> Tensor:
    value = term.loss(sr, hr)
    if not isinstance(value, Tensor) or value.shape != ():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
        raise InputError(f"config key 'losses': {term.name} must return one number, a tensor of shape (), not {got}")
    return value.float()

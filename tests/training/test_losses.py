"""The loss and the optimiser's first steps against golden trajectories and numpy's transform."""

import numpy as np
import pytest
import torch
from helpers import GOLDEN, ROOT, load_golden

from config import load_config
from training.losses import fft_loss, loss_terms
from training.step import make_optimizer

PAPER = load_config(ROOT / "configs" / "SSUFSR_light_x4.yml")


def test_fft_loss_is_one_mean_over_stacked_real_and_imaginary_parts():
    rng = np.random.default_rng(0)
    sr, hr = rng.random((2, 2, 3, 12, 10))
    difference = np.fft.rfft2(sr) - np.fft.rfft2(hr)
    expected = np.abs(np.stack([difference.real, difference.imag])).mean()
    assert fft_loss(torch.from_numpy(sr), torch.from_numpy(hr)).item() == pytest.approx(expected, rel=1e-5)


def test_a_weight_of_zero_switches_a_term_off():
    sr, hr = torch.rand(2, 1, 3, 8, 8)
    assert loss_terms(sr, hr, 1.0, 0.0)[1] == 0
    assert loss_terms(sr, hr, 0.0, 0.01)[0] == 0


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_gradients_and_three_steps_follow_the_golden_trajectory(path):
    model, golden, arrays = load_golden(path)
    optimizer = make_optimizer(model, PAPER, torch.device("cpu"))
    for step, expected in enumerate(golden["losses"]):
        optimizer.zero_grad()
        terms = loss_terms(model(golden["input"]), golden["hr"], 1.0, 0.01)
        terms.sum().backward()
        torch.testing.assert_close(terms.detach().double(), expected, rtol=1e-4, atol=0)
        if step == 0:
            norms = {name: p.grad.double().norm().item() for name, p in model.named_parameters()}
            known = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms"].tolist(), strict=True))
            assert norms == pytest.approx(known, rel=1e-4)
        optimizer.step()


def test_weight_decay_reaches_every_parameter():
    model, _, _ = load_golden(GOLDEN[0])
    optimizer = make_optimizer(model, PAPER, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():  # with a zero gradient only the decay moves a weight
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 1e-3 * 1e-4), rtol=1e-6, atol=0, msg=name)

"""The learning rate against PyTorch's, and how long a run will take."""

import pytest
import torch
from helpers import ROOT

from config import load_config
from training.schedule import expected_iterations, learning_rate


def test_learning_rate_is_torchs_cosine_stepped_once_an_epoch():
    config = load_config(ROOT / "configs" / "SSUFSR_light_x4.yml")
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=290, eta_min=1e-6)
    for epoch in range(290):
        for into in (0, 3449):
            rate = learning_rate(config, 3450 * epoch + into, 3450)
            assert rate == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_learning_rate_warms_up_linearly_then_falls(tiny_config):
    config = load_config(tiny_config(epochs=10, warmup_epochs=4))
    rates = [learning_rate(config, 6 * epoch, 6) for epoch in range(10)]
    assert rates[:5] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_published_warm_up_is_torchs_linear_one_from_zero_before_a_cosine_of_epochs_and_warm_up(tiny_config):
    config = load_config(tiny_config(epochs=10, warmup_epochs=4, warmup="published"))
    rates = [learning_rate(config, 6 * epoch, 6) for epoch in range(10)]
    assert rates[:5] == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10 + 4, eta_min=1e-6)
    for epoch in range(4, 10):
        assert learning_rate(config, 6 * epoch + 5, 6) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_progress_is_the_further_of_iterations_and_clock(tiny_config):
    config = load_config(tiny_config(epochs=10, schedule="progress", max_minutes=2.0))
    half = (1e-3 + 1e-6) / 2
    assert learning_rate(config, 30, 6, minutes=0.1) == pytest.approx(half)
    assert learning_rate(config, 3, 6, minutes=1.0) == pytest.approx(half)
    assert learning_rate(config, 3, 6, minutes=2.0) == pytest.approx(1e-6)


def test_the_expected_end_is_the_clocks_where_it_comes_first(tiny_config):
    config = load_config(tiny_config(epochs=10, max_minutes=2.0))
    assert expected_iterations(config, 6, iteration=0, minutes=0.0) is None  # no pace is known yet
    assert expected_iterations(config, 6, iteration=10, minutes=1.0) == 20
    assert expected_iterations(config, 6, iteration=40, minutes=1.0) == 60  # all epochs are done before
    assert expected_iterations(config, 6, iteration=21, minutes=2.1) == 21  # never less than what was done
    assert expected_iterations(load_config(tiny_config(epochs=10)), 6, iteration=10, minutes=1.0) == 60

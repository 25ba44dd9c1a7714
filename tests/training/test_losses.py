"""The losses against numpy and golden trajectories, and losses found by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import GOLDEN, ROOT, load_golden, run_script, train

from config import load_config
from training.losses import charbonnier, evaluate_terms, fft, find_loss, l1, loss_terms
from training.step import make_optimizer
from utils import InputError

PAPER = load_config(ROOT / "configs" / "SSUFSR_light_x4.yml")
OWN = """
def squared(sr, hr):
    return (sr - hr).square().mean()

def per_image(sr, hr):
    return (sr - hr).abs().mean(dim=(1, 2, 3))

def number(sr, hr):
    return 1.0

def broken(sr, hr):
    return (sr / 0).mean()

constant = 3
"""


def test_fft_is_one_mean_over_stacked_real_and_imaginary_parts():
    rng = np.random.default_rng(0)
    sr, hr = rng.random((2, 2, 3, 12, 10))
    difference = np.fft.rfft2(sr) - np.fft.rfft2(hr)
    expected = np.abs(np.stack([difference.real, difference.imag])).mean()
    assert fft(torch.from_numpy(sr), torch.from_numpy(hr)).item() == pytest.approx(expected, rel=1e-5)


def test_charbonnier_is_the_mean_of_a_rounded_absolute_value():
    sr, hr = np.random.default_rng(0).random((2, 2, 3, 12, 10))
    expected = np.sqrt((sr - hr) ** 2 + 1e-6).mean()
    assert charbonnier(torch.from_numpy(sr), torch.from_numpy(hr)).item() == pytest.approx(expected, rel=1e-9)
    same = torch.zeros(1, 3, 4, 4, requires_grad=True)
    charbonnier(same, torch.zeros(1, 3, 4, 4)).backward()
    assert torch.equal(same.grad, torch.zeros_like(same))  # L1 has no slope there


def test_a_weight_of_zero_switches_a_term_off(tiny_config):
    sr, hr = torch.rand(2, 1, 3, 8, 8)
    without_fft, without_l1 = (load_config(tiny_config(**{key: 0.0})) for key in ("lambda_fft", "lambda_l1"))
    assert evaluate_terms(loss_terms(without_fft), sr, hr)[1] == 0
    assert evaluate_terms(loss_terms(without_l1), sr, hr)[0] == 0


def test_terms_are_weighted_and_stand_in_the_order_of_the_config(tiny_config, own_module):
    own_module("own_losses", OWN)
    config = load_config(tiny_config(), ["losses={own_losses:squared: 2.0, charbonnier: 0.1}"])
    sr, hr = torch.rand(2, 2, 3, 8, 8)
    terms = loss_terms(config)
    assert [term.name for term in terms] == ["l1", "fft", "own_losses:squared", "charbonnier"]
    expected = [l1(sr, hr), 0.01 * fft(sr, hr), 2 * (sr - hr).square().mean(), 0.1 * charbonnier(sr, hr)]
    torch.testing.assert_close(evaluate_terms(terms, sr, hr), torch.stack(expected))


def test_a_run_with_a_loss_of_its_own_logs_it_by_its_name(tiny_config, own_module):
    own_module("own_losses", OWN)
    config = load_config(tiny_config(losses={"own_losses:squared": 2.0}, lambda_l1=0.0, epochs=1, eval_sets=[]))
    train(config, Path("run"), resume=False)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    (first, *_) = (line for line in lines if line["kind"] == "train")
    names = ["kind", "iteration", "loss", "l1", "fft", "own_losses:squared", "lr", "images_per_second", "minutes"]
    assert list(first) == names
    assert first["loss"] == pytest.approx(first["fft"] + first["own_losses:squared"])
    assert first["l1"] == 0 < first["own_losses:squared"]
    assert "own_losses:squared 0." in Path("run/train.log").read_text()


def test_a_loss_that_is_not_finite_is_named(tiny_config, own_module):
    own_module("own_losses", OWN)
    config = load_config(tiny_config(losses={"own_losses:broken": 1.0}))
    with pytest.raises(
        InputError, match=r"loss of iteration 1 is not finite \(l1 0\..*, fft 0\..*, own_losses:broken "
    ):
        train(config, Path("run"), resume=False)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("charbonier", "'charbonier' is not one of l1, fft, charbonnier; .* did you mean 'charbonnier'"),
        ("absent:edge", r"'absent:edge': absent cannot be imported \(ModuleNotFoundError: No module named 'absent'\)"),
        ("own_losses:edge", "'own_losses:edge': there is no edge in .*own_losses.py"),
        ("own_losses:constant", "own_losses:constant is of type int, not a function"),
        ("own_losses:", "'own_losses:': is not of the form package.module:name"),
    ],
)
def test_a_loss_that_is_not_there_is_refused(name, complaint, own_module):
    own_module("own_losses", OWN)
    with pytest.raises(InputError, match=f"config key 'losses': {complaint}"):
        find_loss(name)


def test_a_loss_that_is_not_there_is_refused_before_any_image_is_read(tiny_config):
    done = run_script("train.py", "--config", tiny_config(data_path="/absent", losses={"charbonier": 0.1}))
    assert done.returncode == 2
    assert "did you mean 'charbonnier'" in done.stderr


@pytest.mark.parametrize(("name", "got"), [("per_image", r"shape \(2,\)"), ("number", "type float")])
def test_a_loss_must_return_one_number(name, got, tiny_config, own_module):
    own_module("own_losses", OWN)
    terms = loss_terms(load_config(tiny_config(losses={f"own_losses:{name}": 1.0})))
    with pytest.raises(InputError, match=rf"own_losses:{name} must return one number, .*, not {got}"):
        evaluate_terms(terms, *torch.rand(2, 2, 3, 8, 8))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_gradients_and_three_steps_follow_the_golden_trajectory(path):
    model, golden, arrays = load_golden(path)
    optimizer = make_optimizer(model, PAPER, torch.device("cpu"))
    for step, expected in enumerate(golden["losses"]):
        optimizer.zero_grad()
        terms = evaluate_terms(loss_terms(PAPER), model(golden["input"]), golden["hr"])
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

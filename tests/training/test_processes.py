"""Two processes give the numbers of one."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT

from config import load_config
from datas import BenchmarkSet
from evaluation.evaluator import evaluate_set
from models import create_model, inference
from models.weights import load_weights
from training.loop import train

# What it adds in evaluation are statistics of the inputs of its own process.
NETWORK = """
import torch
from torch import nn

class Shifted(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.shift = nn.BatchNorm2d(3, momentum=0.5, affine=False)
        self.up = nn.Sequential(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        shifted = self.shift(x)
        return self.up(x if self.training else x + 0.1 * shifted)
"""


def run_two(file, folder):
    """train.py in two processes, started in `folder`; what it wrote to stderr."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, str(ROOT / "train.py"), "--config", str(file)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stderr


def logged(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def scores_in_one_process(config, weights):
    model = create_model(config)
    load_weights(model, weights)
    network, _ = inference(model.eval(), torch.device("cpu"), "plain")
    images = BenchmarkSet(config.data_path, "Sample", config.scale)
    return evaluate_set(network, images, "Sample", config.scale, torch.device("cpu"))


def assert_validated_like_one_process(config, run):
    result, (line,) = scores_in_one_process(config, run / "best.pt"), logged(run, "validation/Sample")
    assert line["psnr"] == pytest.approx(result.mean("standard").psnr, abs=1e-4)
    assert line["ssim"] == pytest.approx(result.mean("standard").ssim, abs=1e-6)
    assert line["official_psnr"] == pytest.approx(result.mean("official").psnr, abs=1e-4)


def test_two_processes_log_the_losses_and_the_scores_of_one(tiny_config, tmp_path):
    file = tiny_config(log_name="two", log_every=1, epochs=1, save_image=True)
    config, two = load_config(file), tmp_path / "runs" / "two"
    assert "strides" not in run_two(file, ROOT)  # of gradients, which a process would copy at every step
    train(config, tmp_path / "one", resume=False)
    losses = [[[line["l1"], line["fft"]] for line in logged(run, "train")] for run in (two, tmp_path / "one")]
    assert len(losses[0]) == 6
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=0)
    assert_validated_like_one_process(config, two)
    assert sorted(path.name for path in (two / "images" / "Sample").iterdir()) == ["0000_x2.png", "0001_x2.png"]


def test_statistics_that_differ_between_processes_are_the_firsts_in_validation(other_config, own_module, tmp_path):
    own_module("shifted", NETWORK)
    file = other_config("shifted:Shifted", log_name="two", epochs=1)
    run_two(file, tmp_path)
    assert_validated_like_one_process(load_config(file), tmp_path / "runs" / "two")

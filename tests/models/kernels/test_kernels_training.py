"""Training steps through the kernels beside steps through the plain path: the same losses."""

import pytest
import torch

from config import load_config
from models import create_model
from models.backends import KernelNetwork

pytest.importorskip("triton", reason="Triton is not installed")
from models.kernels import common
from training.step import TrainStep

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.usefixtures("one_tile_for_16x16")
def test_two_steps_through_the_kernels_follow_the_plain_path(tiny_config, monkeypatch):
    monkeypatch.setattr(common, "PROGRAMS", 4)
    config, device = load_config(tiny_config(n_feats=16, num_heads=1)), torch.device(DEVICE)
    generator = torch.Generator().manual_seed(1)
    batches = [
        tuple(torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=generator) for side in (12, 24))
        for _ in range(2)
    ]
    curves = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = create_model(config).to(device)
        network = KernelNetwork(model, "float32") if fast else model
        step = TrainStep(config, model, network, device, draw=lambda *crops: tuple(crop.to(device) for crop in crops))
        curves.append(torch.stack([step(batch, 1e-3) for batch in batches]))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=0)

"""What the tests of the CPU path and of streaming share: loud networks, ablations, and the two paths that stream."""

import pytest
import torch
from helpers import build as build_plainly

from models import cpu
from models.cpu import CpuInference
from models.plain_stream import PlainStream

needs_compiler = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"models/cpu.cpp: {cpu.unavailable()}")
PATHS = [pytest.param(CpuInference, marks=needs_compiler, id="cpu"), pytest.param(PlainStream, id="plain")]
ABLATIONS = [
    {"use_esam": False},
    {"use_moe": False},
    {"msgm_depthwise": (1, 4)},
    {"msgm_depthwise": (2, 3)},
    {"msgm_depthwise": ()},
    {"n_blocks": 6},
]


def build(scale=2, n_feats=16, *sizes, **more):
    """A network with all parameters perturbed (LayerNorm, biases and rel too) and a tail loud enough to be heard."""
    model = build_plainly(scale, n_feats, *sizes, **more).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.tail[-1].weight *= 10
    return model


def images(*size, batch=1, seed=1):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def whole(model, x):
    with torch.no_grad():
        return model(x)


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)

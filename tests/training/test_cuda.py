"""What only a GPU can show: recorded steps, crops drawn there, exact resume, and the kernels' training curve."""

import dataclasses
import json

import pytest
import torch
from helpers import assert_same_bits, final_state, stop_at, train

from config import load_config
from models import create_model, inference, training_network
from training.graphed import GraphedStep
from training.step import TrainStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
WIDE = {"n_feats": 64, "patch_size": 32, "gpu_ids": [0]}


def steps_of(config, graph, count=5):
    """Loss terms of the first steps on random crops, and the weights after them."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = create_model(config).to(device)
    network, _ = training_network(model, device, "triton", config.precision)  # PyTorch's own backward adds in any order
    step = TrainStep(config, model, network, device, draw=lambda *crops: crops)
    update = GraphedStep(step, required=True, say=print) if graph else step
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(count):
        batch = tuple(
            torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8, generator=generator).to(device)
            for side in (16, 32)
        )
        losses.append(update(batch, 1e-3))
    return torch.stack(losses), {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_recorded_step_takes_the_steps_of_the_eager_one(precision, tiny_config):
    config = load_config(tiny_config(**WIDE, precision=precision, ema_decay=0.9, clip_grad=1.0))
    (eager, weights), (graphed, replayed) = steps_of(config, graph=False), steps_of(config, graph=True)
    torch.testing.assert_close(graphed, eager, rtol=1e-3, atol=0)
    for name, weight in weights.items():
        torch.testing.assert_close(replayed[name], weight, rtol=1e-2, atol=1e-4, msg=name)


def test_resume_with_graph_and_resident_data_gives_the_same_bits(tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config(**WIDE, backend="triton", cuda_graph=True, data_on_gpu=True, precision="bf16"))
    assert train(config, tmp_path / "whole", resume=False) == 0
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        assert train(config, tmp_path / "cut", resume=False) == 143
    assert train(config, tmp_path / "cut", resume=True) == 0
    assert_same_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))


@pytest.mark.parametrize("backend", ["plain", "triton"])
def test_two_deterministic_runs_end_in_the_same_bits(backend, tiny_config, tmp_path):
    config = load_config(tiny_config(**WIDE, backend=backend, deterministic=True))
    for name in ("first", "second"):
        assert train(config, tmp_path / name) == 0
    assert_same_bits(final_state(tmp_path / "first"), final_state(tmp_path / "second"))


def test_the_kernels_follow_the_plain_paths_loss_curve(tiny_config, tmp_path):
    """200 iterations from one seed: the mean loss differs by less than 1 %."""
    plain = load_config(tiny_config(**WIDE, epochs=34, log_every=200, eval_sets=[], backend="plain"))
    fast = dataclasses.replace(plain, backend="triton", precision="bf16", cuda_graph=True, data_on_gpu=True)
    means = []
    for name, config in (("plain", plain), ("fast", fast)):
        train(config, tmp_path / name, resume=False)
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        means.append(next(line["loss"] for line in lines if line["kind"] == "train"))
    assert means[1] == pytest.approx(means[0], rel=0.01)


def test_a_replayed_image_equals_the_first_and_follows_the_weights(tiny_config):
    model = create_model(load_config(tiny_config(**WIDE))).cuda().eval()
    network, x = inference(model, torch.device("cuda"), "triton")[0], torch.rand(1, 3, 19, 30).cuda()
    with torch.no_grad():
        first, replays = network(x), [network(x) for _ in range(2)]
        assert all(torch.equal(first, again) for again in replays)
        model.head.bias += 0.5
        plain = inference(model, torch.device("cuda"), "plain")[0]  # float32, where `model(x)` would take TF32
        torch.testing.assert_close(network(x), plain(x), atol=1e-4, rtol=0)

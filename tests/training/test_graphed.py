"""A captured step is compared with the eager one first. A stand-in for CUDA's graphs shows it on any machine."""

import dataclasses

import pytest
import torch

from config import load_config
from models import create_model
from training import graphed
from training.graphed import GraphedStep
from training.step import TrainStep
from utils import InputError

CPU = torch.device("cpu")


class Graph:
    """Replays work by doing it again: what a CUDA graph is meant to be."""

    def __init__(self, work, terms):
        self.work, self.terms = work, terms

    def replay(self):
        self.terms.copy_(self.work())


class Forgetful(Graph):
    """Leaves the weights as they are."""

    def replay(self):
        self.terms.copy_(self.terms + 1)


class Doubling(Graph):
    """Takes every step twice."""

    def replay(self):
        self.work()
        self.terms.copy_(self.work())


class Nan(Graph):
    def replay(self):
        self.terms.copy_(self.work() * torch.nan)


def stand_in(monkeypatch, kind=Graph):
    def capture(work):
        terms = torch.zeros(2)
        return kind(work, terms), terms

    monkeypatch.setattr(graphed, "capture", capture)
    monkeypatch.setattr(graphed, "warm_up", lambda work, _device, times: [work() for _ in range(times)])


def losses_and_weights(config, lines=None, required=False):
    """Loss terms of five steps and the weights after them; through a graph if there is somewhere to say so."""
    torch.manual_seed(0)
    model = create_model(config)
    step = TrainStep(config, model, model, CPU, draw=lambda *crops: crops)
    update = step if lines is None else GraphedStep(step, required, lines.append)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for number in range(5):
        batch = tuple(torch.randint(0, 256, (4, s, s, 3), dtype=torch.uint8, generator=generator) for s in (12, 24))
        losses.append(update(batch, 1e-3 / (1 + number)))
    return torch.stack(losses), [parameter.detach().clone() for parameter in model.parameters()]


@pytest.fixture
def config(tiny_config):
    return load_config(tiny_config(ema_decay=0.9, clip_grad=1.0))


def assert_same(first, second):
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_replayed_steps_are_the_eager_ones_and_the_comparison_leaves_no_trace(config, monkeypatch):
    stand_in(monkeypatch)
    lines = []
    assert_same(losses_and_weights(config, lines), losses_and_weights(config))
    assert lines == ["cuda_graph: 2 replayed steps agree with eager ones"]


@pytest.mark.parametrize("kind", [Forgetful, Doubling, Nan])
def test_a_graph_that_differs_gives_way_to_the_eager_step_loudly(kind, config, monkeypatch):
    stand_in(monkeypatch, kind)
    lines = []
    assert_same(losses_and_weights(config, lines), losses_and_weights(config))
    assert len(lines) == 1
    assert lines[0].startswith("warning: cuda_graph: the eager step runs: its loss terms differ")


def test_a_graph_that_cannot_be_captured_gives_way_too(config, monkeypatch):
    def capture(work):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    stand_in(monkeypatch)
    monkeypatch.setattr(graphed, "capture", capture)
    lines = []
    assert_same(losses_and_weights(config, lines), losses_and_weights(config))
    assert lines[0].endswith("it cannot be captured (operation not permitted when stream is capturing)")


def test_a_graph_that_was_asked_for_and_differs_is_an_error(config, monkeypatch):
    stand_in(monkeypatch, Doubling)
    with pytest.raises(InputError, match=r"config key 'cuda_graph': its loss terms differ .*; set it to auto or False"):
        losses_and_weights(dataclasses.replace(config), [], required=True)

"""The device of a process, on a machine whose GPUs are made up."""

import pytest
import torch

from models import ModelError
from models.devices import pick_device


@pytest.fixture
def current(monkeypatch):
    """Two GPUs; the list of devices that were made the current one."""
    made_current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    return made_current


def test_the_picked_gpu_is_the_current_one(current):
    """Triton launches on the current device: with device 0 current, a test on device 1 would not run."""
    assert pick_device([1]) == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]


def test_each_process_takes_its_own(current):
    assert pick_device([1, 0], local_rank=1) == torch.device("cuda:0")
    with pytest.raises(ModelError, match=r"\[1, 0\] has no device for process 2"):
        pick_device([1, 0], local_rank=2)


def test_an_absent_gpu_is_named(current):
    with pytest.raises(ModelError, match="device 5 does not exist; this machine has 0, 1"):
        pick_device([0, 5])
    assert current == []


def test_no_ids_ask_for_the_cpu(current):
    assert pick_device([]) == torch.device("cpu")


def test_without_cuda_the_cpu_is_taken_and_said(monkeypatch):
    said = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device([0], say=said.append) == torch.device("cpu")
    assert "no CUDA here" in said[0]

"""Algorithms that add in a fixed order: on inside, as before outside, and a refusal where there is none."""

import pytest
import torch

from models import ModelError
from models.determinism import deterministic


def test_it_is_on_inside_and_as_before_outside():
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_such_an_algorithm_is_refused_in_one_line():
    with (
        pytest.raises(ModelError, match=r"^deterministic: put_ does not have .*; choose another backend, or leave"),
        deterministic(True),
    ):
        torch.zeros(4).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shape"), deterministic(True):
        torch.zeros(4).reshape(3)

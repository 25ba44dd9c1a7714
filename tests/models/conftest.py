"""What the tests of models share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Operations as small as those of tests take seconds in two threads on a machine that is busy otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

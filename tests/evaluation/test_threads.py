"""The number of threads that PyTorch computes in, beside the network's."""

import threading

import pytest
import torch

from evaluation.threads import PART, mean, one_thread, usual_count, usual_threads

pytestmark = pytest.mark.usefixtures("threads_as_before")


def test_one_thread_is_taken_and_the_usual_number_given_back():
    torch.set_num_threads(3)
    with one_thread(3):
        assert (torch.get_num_threads(), usual_count()) == (1, 3)
        with usual_threads():
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), usual_count()) == (3, 3)
    with pytest.raises(ZeroDivisionError), one_thread(3):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3
    with usual_threads():
        assert torch.get_num_threads() == 3


def test_other_threads_are_left_alone():
    torch.set_num_threads(2)
    taken, looked = threading.Event(), threading.Event()

    def beside():
        with one_thread(2):
            taken.set()
            looked.wait(20)

    thread = threading.Thread(target=beside)
    thread.start()
    assert taken.wait(20)
    assert torch.get_num_threads() == 2
    looked.set()
    thread.join()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_a_mean_has_the_bits_of_as_many_threads_as_usual(threads, dtype):
    noise = torch.Generator().manual_seed(threads)
    for count in (7, PART, PART + 1, 2 * PART, 5 * PART + 3, 12 * PART - 1):
        values = torch.rand(count, dtype=dtype, generator=noise)
        torch.set_num_threads(threads)
        expected = values.mean().item()
        assert mean(values) == expected
        with one_thread(threads):
            assert mean(values) == expected
            assert mean(values.view(1, -1)) == expected

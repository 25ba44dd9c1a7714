"""What a thread beside the network's needs: one core for PyTorch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

PART = 2**15  # values that one thread of PyTorch's sums, where there are more

_own = threading.local()


def usual_count() -> int:
    """As many as PyTorch uses in this thread outside of `one_thread`."""
    return getattr(_own, "usual", None) or torch.get_num_threads()


@contextmanager
def one_thread(usual: int) -> Iterator[None]:
    """Within it PyTorch computes in the calling thread alone, and in `usual` threads after it.

    It is for a thread beside the network's: two teams of threads on the same cores wait for each other, spinning.
    """
    _own.usual = usual
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
        del _own.usual


@contextmanager
def usual_threads() -> Iterator[None]:
    """Within it PyTorch computes in as many threads as usual, inside `one_thread` too: the last bits of a sum depend on
    their number."""
    usual = getattr(_own, "usual", None)
    if usual is not None:
        torch.set_num_threads(usual)
    try:
        yield
    finally:
        if usual is not None:
            torch.set_num_threads(1)


def mean(values: Tensor) -> float:
    """The mean of a contiguous tensor with the bits of `values.mean()` in as many threads as usual.

    PyTorch gives each thread a part and adds up the parts. Inside `one_thread` this thread does so alone, if that was
    seen to give the same.
    """
    usual = getattr(_own, "usual", None)
    if usual is None:
        return values.mean().item()
    if _parts_have_its_bits(usual):
        return _mean_of_parts(values, usual)
    with usual_threads():
        return values.mean().item()


@cache
def _parts_have_its_bits(usual: int) -> bool:
    """Inside `one_thread`: whether `_mean_of_parts` gives what PyTorch gives in so many threads."""
    noise = torch.rand(5 * PART + 99, generator=torch.Generator().manual_seed(0))
    with usual_threads():
        expected = noise.mean().item(), noise.double().mean().item()
    return expected == (_mean_of_parts(noise, usual), _mean_of_parts(noise.double(), usual))


def _mean_of_parts(values: Tensor, threads: int) -> float:
    values = values.flatten()
    parts = min(threads, -(-len(values) // PART))
    if parts <= 1:
        return values.mean().item()
    sums = values.new_zeros(threads)
    for place, part in enumerate(values.split(-(-len(values) // parts))):
        sums[place] = part.sum()
    return (sums.sum() / len(values)).item()

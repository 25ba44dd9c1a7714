"""The same bits every time, on one kind of device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import ModelError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS adds in a fixed order with a workspace of its own for each stream


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Within it, PyTorch takes algorithms that add in the same order every time; does nothing if not `enabled`.

    On a CPU they are the usual ones. On CUDA it must begin before the first product: cuBLAS reads its setting once.

    Raises:
        ModelError: an operation has no such algorithm on this device.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")
    cudnn, filling = torch.backends.cudnn, torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, filling.fill_uninitialized_memory = True, False  # the latter costs time, and nothing reads it
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"deterministic: {reason}; choose another backend, or leave deterministic off") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, filling.fill_uninitialized_memory = before[1:]

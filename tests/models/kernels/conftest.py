"""The kernels run compiled where a GPU is, else in Triton's interpreter."""

import pytest
import torch


@pytest.fixture
def one_tile_for_16x16(monkeypatch):
    """The interpreter takes its time per tile: let one hold 16x16 pixels."""
    from models.kernels import msgm

    if not torch.cuda.is_available():
        for kernel in msgm.TILES:
            monkeypatch.setitem(msgm.TILES, kernel, dict.fromkeys(msgm.TILES[kernel], (16, 16, 4, 1)))

"""The kernels run compiled where a GPU is, else in Triton's interpreter."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest
import torch


@pytest.fixture
def one_tile_for_16x16(monkeypatch, wide_tiles_in_esam):
    """The interpreter takes its time per tile and per program: let one hold 16x16 pixels."""
    from models.kernels import msgm, tail

    if not torch.cuda.is_available():
        monkeypatch.setattr(msgm, "common", SimpleNamespace(PROGRAMS=1))
        for kernel in msgm.TILES:
            monkeypatch.setitem(msgm.TILES, kernel, dict.fromkeys(msgm.TILES[kernel], (16, 16, 4, 1)))
        monkeypatch.setattr(tail, "program_pixels", lambda _: 256)
        monkeypatch.setattr(tail, "FULL_PIXELS", 256)


@pytest.fixture
def wide_tiles_in_esam(monkeypatch):
    """8x8 of the halved map where a GPU takes 4x4."""
    from models.kernels import upsample

    if not torch.cuda.is_available():
        monkeypatch.setattr(upsample, "FORWARD_SIDE", 8)
        monkeypatch.setattr(upsample, "ADJOINT_PIXELS", 64)


@dataclass
class Launch:
    """A kernel that would have been launched."""

    kernel: Callable
    grid: tuple
    arguments: tuple
    options: dict
    note: object = None


class Launches(list):
    """Those that would have been, in their order; each carries what `note` says at its moment."""

    @staticmethod
    def note() -> object:
        return None


@dataclass
class Recorder:
    """Takes the place of a kernel: it is launched like one, and only takes note."""

    kernel: Callable
    launches: Launches = field(repr=False)

    def __getitem__(self, grid: tuple) -> Callable:
        def launch(*arguments, **options) -> None:
            self.launches.append(Launch(self.kernel, grid, arguments, options, self.launches.note()))

        return launch


@pytest.fixture
def kernel_modules() -> list[ModuleType]:
    """Those of models/kernels."""
    package = importlib.import_module("models.kernels")
    return [importlib.import_module(f"models.kernels.{info.name}") for info in pkgutil.iter_modules(package.__path__)]


@pytest.fixture
def kernels(kernel_modules) -> dict[Callable, ModuleType]:
    """Every kernel that is launched, and its module."""
    return {case[0]: module for module in kernel_modules for case in getattr(module, "OFFLINE_CASES", ())}


@pytest.fixture
def launches(kernels, monkeypatch) -> Launches:
    """What is launched, none of which runs: maps keep whatever their memory held."""
    found = Launches()
    for kernel, module in kernels.items():
        monkeypatch.setattr(module, kernel.__name__, Recorder(kernel, found))
    return found

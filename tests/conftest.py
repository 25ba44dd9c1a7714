"""What every test shares: where the project and the optional ../shared lie, and one way to skip without it."""

import os

# The networks of the tests are small: threads would wait for one another. Child processes get the same bits so. Where a
# test asks for several, those that have nothing to do take no core from others.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"  # read when PyTorch is imported

import itertools
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SHARED, write_tiny

from datas import downscale, lr_folder, upscale, write_png

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run in Triton's interpreter; set before they are defined

torch.set_num_threads(1)


LONGEST = ("tests/faults/", "tests/training/test_processes.py", "tests/training/test_hosts.py", "tests/models/kernels/")


def pytest_collection_modifyitems(items) -> None:
    """The longest first: else one process may be left with them when the others have nothing more to do."""

    def place(item) -> int:
        return next((n for n, begin in enumerate(LONGEST) if item.nodeid.startswith(begin)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture
def shared() -> Path:
    """The folder of real benchmark images beside the checkout; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: real benchmark images are not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data_path with six training and two evaluation images, smooth random ones of 60x52 pixels, x2."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder, count in (("Sample/Sample_train_HR", 6), ("benchmark/Sample/HR", 2)):
        hr_folder = root / folder
        for number in range(count):
            coarse = rng.integers(0, 256, (15, 13, 3), dtype=np.uint8)
            image = upscale(coarse, 4)
            write_png(hr_folder / f"{number:04d}.png", image)
            write_png(lr_folder(hr_folder, 2) / f"{number:04d}x2.png", downscale(image, 2))
    return root


@pytest.fixture
def tiny_config(tiny_data, tmp_path):
    """Function of config keys: a YAML file of a network and a run small enough for tests, 12 iterations."""
    return partial(write_tiny, tmp_path, tiny_data)


@pytest.fixture
def steady_clock(monkeypatch):
    """A clock by which every step of training takes half a second (it is read twice a step), on any machine."""
    readings = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings) / 2)


@pytest.fixture
def threads_as_before():
    """The test may have PyTorch compute in any number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def keep_signal_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

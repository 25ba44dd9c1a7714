"""What the children of the fault tests train: tiny images, a network and a loss of their own, and four configs.

The network has what a resume may get wrong: running statistics, chance in its forward pass, and few tensors, so that
a run of three epochs takes a fraction of a second.
"""

import math
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from datas import downscale, lr_folder, upscale, write_png

IMAGES = 5  # of training, of equal size
SIZE = (10, 9)  # of the random pixels that are enlarged four times to an HR image
NETWORK = "tests.faults.workload:Small"
LOSS = "tests.faults.workload:sometimes_nan"
COMMON = {
    "scale": 2, "training_dataset": "sample", "patch_size": 16, "batch_size": 2, "data_repeat": 2,
    "data_augment": True, "epochs": 3, "lr": 1e-3, "eta_min": 1e-6, "lambda_l1": 1.0, "lambda_fft": 0.01,
    "eval_sets": ["Sample"], "log_every": 3, "test_every": 1, "seed": 5, "gpu_ids": [], "threads": 0,
    "ema_decay": 0.9, "save_image": True, "backend": "plain", "log_name": "run",
}  # fmt: skip
SMALL = {**COMMON, "model": NETWORK, "losses": {LOSS: 0.1}}
CONFIGS = {
    "small": SMALL,
    "loaders": {**SMALL, "threads": 2, "clip_grad": 1.0, "accumulate": 2, "log_every": 1},
    "ssiu": {**COMMON, "model": "SSUFSR", "n_feats": 8, "num_heads": 4, "n_blocks": 3},
    "two": {**SMALL, "save_image": False},  # two processes
}

nan_at = 0  # the call of the loss that returns NaN, counted from 1; 0: none
_calls = 0


class Small(nn.Module):
    """Float32 (B, 3, h, w) to (B, 3, scale h, scale w)."""

    def __init__(self, scale: int, width: int = 8):
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.drop = nn.Dropout2d(0.2)
        self.leave, self.shuffle = nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.leave(self.drop(self.norm(self.enter(x)).relu())))


def sometimes_nan(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean square of the difference, or NaN at the call `nan_at`."""
    global _calls
    _calls += 1
    return (sr - hr).square().mean() * (math.nan if _calls == nan_at else 1.0)


def make_data(root: Path) -> None:
    """Training images with their LR versions and one evaluation image, in the layout of `datas.layout`."""
    rng = np.random.default_rng(0)
    for folder, count in (("Sample/Sample_train_HR", IMAGES), ("benchmark/Sample/HR", 1)):
        hr_folder = root / folder
        for number in range(count):
            image = random_image(rng)
            write_png(hr_folder / f"{number:04d}.png", image)
            write_png(lr_folder(hr_folder, 2) / f"{number:04d}x2.png", downscale(image, 2))


def random_image(rng: np.random.Generator) -> np.ndarray:
    """A smooth random image, (40, 36, 3) uint8."""
    return upscale(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), 4)


def write_config(path: Path, config: str, data: Path, runs: Path, **changes) -> None:
    """One of CONFIGS as a YAML file."""
    values = {**CONFIGS[config], "data_path": str(data), "log_path": str(runs), **changes}
    path.write_text(yaml.safe_dump(values))


def one_thread() -> None:
    """As the tests have it: the same bits in every child, whatever else the machine does."""
    torch.set_num_threads(1)

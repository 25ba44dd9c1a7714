"""The network and the pictures that are looked into, as the command line names them. Everything is on the CPU."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config import load_config
from datas import SCALES, read_rgb
from evaluation.network import open_model, weights_file
from evaluation.peers import named_config
from models import SSIU, load
from models.pixels import to_network
from models.registry import network_name
from utils import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
Network = Callable[[Tensor], Tensor]  # float (B, 3, h, w) in [0, 1] -> (B, 3, s h, s w)
Box = tuple[int, int, int, int]  # left, top, width and height in LR pixels


@dataclass(frozen=True)
class Opened:
    """A network in evaluation mode whose parameters have no gradients: only pixels are looked at."""

    model: nn.Module
    scale: int
    name: str

    def ssiu(self, what: str) -> SSIU:
        """The network as SSIU. Raises InputError, naming `what` was asked for, if it is another one."""
        if not isinstance(self.model, SSIU):
            raise InputError(f"{what}: shows parts of SSIU, and {self.name} is another network; use lam or erf for it")
        return self.model


def open_network(arguments: argparse.Namespace) -> Opened:
    """That of the options --model, --model-args, --weights and --scale.

    Raises:
        InputError, ModelError: there is none, it does not fit its weights, or is of another scale.
    """
    cpu, scale = torch.device("cpu"), arguments.scale
    if arguments.model is None and arguments.model_args is None:
        upscaler = load(arguments.weights or f"x{scale or SCALES[-1]}", device=cpu, backend="plain")
        if scale not in (None, upscaler.scale):
            raise InputError(f"--scale {scale}: {arguments.weights} is of x{upscaler.scale}; leave --scale out")
        opened = Opened(upscaler.model, upscaler.scale, "SSIU")
    else:
        config = load_config(CONFIGS / f"SSUFSR_light_x{scale or SCALES[-1]}.yml")
        config = named_config(config, argparse.Namespace(**vars(arguments), set=[]))
        opened = Opened(open_model(config, weights_file(config), cpu), config.scale, network_name(config))
    opened.model.eval().requires_grad_(False)
    return opened


def open_picture(file: Path, crop: Box | None, largest: int) -> Tensor:
    """The pixels of an LR image, or of its part `crop`: float32 (1, 3, H, W) in [0, 1].

    Raises:
        InputError: it cannot be read, the crop is no part of it, or more than `largest` pixels are left.
    """
    image = read_rgb(file)
    height, width = image.shape[:2]
    left, top, crop_width, crop_height = crop or (0, 0, width, height)
    empty = not crop_width or not crop_height
    if empty or left + crop_width > width or top + crop_height > height:
        wanted = ",".join(map(str, (left, top, crop_width, crop_height)))
        raise InputError(f"--crop {wanted}: is no part of {file}, which is {width}x{height} (x,y,w,h in LR pixels)")
    if crop_width * crop_height > largest:
        side = int(largest**0.5)
        advice = f"cut out a part, such as --crop 0,0,{min(side, width)},{min(side, height)} (LR pixels)"
        raise InputError(f"{file}: {crop_width}x{crop_height} are more than {largest:,} pixels; {advice}")
    part = image[top : top + crop_height, left : left + crop_width]
    return to_network(np.ascontiguousarray(part), torch.device("cpu"))


def open_original(file: Path, crop: Box | None, low: Tensor, scale: int) -> Tensor:
    """HR of the picture `low`, (1, 3, H, W), or of its part `crop`: uint8 (3, scale H, scale W).

    Raises:
        InputError: it cannot be read, or is not `scale` times as large as the LR image.
    """
    image = read_rgb(file)
    left, top = (0, 0) if crop is None else crop[:2]
    height, width = (scale * side for side in low.shape[-2:])
    whole = crop is None and (image.shape[0] - height, image.shape[1] - width)
    part = image[scale * top : scale * top + height, scale * left : scale * left + width]
    if part.shape[:2] != (height, width) or (whole and not all(0 <= left_over < scale for left_over in whole)):
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise InputError(f"--hr {file}: is {size}, which does not fit an LR image at x{scale}; name its own HR image")
    return torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)

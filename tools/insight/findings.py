"""Each kind of insight from the command line to what is printed, drawn and written."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.metrics import standard_scores
from tools.insight.attention import Query, attention_of, esam_of, outside
from tools.insight.erf import SHARES, erf, noise, radii
from tools.insight.figures import draw_attention, draw_erf, draw_lam, draw_moe, draw_stages
from tools.insight.lam import SHARE, SIGMA, STEPS, Window, area, check_window, lam
from tools.insight.opened import Opened, open_original, open_picture
from tools.insight.unfolding import bilinear, expert_stages, expert_weights, pictures_of_stages, trace
from utils import InputError

ONE_PICTURE = ("lam", "stages", "attention")
LARGEST = {"lam": 128**2, "erf": 128**2, "stages": 256**2, "moe": 256**2, "attention": 256**2}  # LR pixels
MOST = 8  # pictures, each a row of the figure
NOISE, SIDE = 8, 96  # erf of noise: how many pictures, and their side
# Options of one kind alone.
OPTIONS = {
    "lam": ("window", "steps", "sigma"), "erf": (), "stages": ("hr",), "moe": (),
    "attention": ("stage", "query", "mean", "head"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What is printed, drawn (a matplotlib figure) and written: numbers and lists of them, and arrays by name."""

    lines: list[str]
    figure: Any
    numbers: dict[str, Any]
    maps: dict[str, np.ndarray]


def check_options(arguments: argparse.Namespace) -> None:
    """Raises InputError for an option of another kind of insight."""
    for what, names in OPTIONS.items():
        for name in names:
            if what != arguments.what and getattr(arguments, name) is not None:
                raise InputError(f"--{name}: goes with {what}, not with {arguments.what}; leave it out")


def find_lam(opened: Opened, arguments: argparse.Namespace) -> Finding:
    picture, scale = the_picture(arguments), opened.scale
    height, width = (scale * side for side in picture.shape[-2:])
    window = arguments.window or middle_window(height, width, 16 * scale)
    check_window(window, height, width)
    steps = STEPS if arguments.steps is None else arguments.steps
    sigma = SIGMA if arguments.sigma is None else arguments.sigma
    if not 1 <= steps <= 10_000:
        raise InputError(f"--steps {steps}: must be from 1 to 10000")
    if not 0.1 <= sigma <= 100:
        raise InputError(f"--sigma {sigma}: must be from 0.1 to 100 LR pixels")
    found = lam(opened.model, picture, window, sigma, steps)
    with torch.no_grad():
        sr = opened.model(picture)
    inside = int(area(found.strength).sum())
    lines = [
        f"{opened.name} x{scale}, window {','.join(map(str, window))}: diffusion index {found.diffusion:.2f}",
        f"{SHARE:.0%} of the attribution in {inside:,} of {found.strength.size:,} LR pixels",
        f"detail {found.before:.4f} (blurred, sigma {sigma}) to {found.after:.4f}; "
        f"the {steps} steps' attributions sum to that difference within {found.missing:.2%}",
    ]
    numbers = {
        "network": opened.name, "scale": scale, "window": window, "sigma": sigma, "steps": steps,
        "diffusion_index": found.diffusion, "area": inside, "before": found.before, "after": found.after,
        "attributed": float(found.pixels.sum()),
    }  # fmt: skip
    return Finding(lines, draw_lam(picture, sr, found, window, scale), numbers, {"attribution": found.pixels})


def find_erf(opened: Opened, arguments: argparse.Namespace) -> Finding:
    of_noise = arguments.images == [Path("noise")]
    if of_noise and arguments.crop:
        raise InputError("--crop: goes with images; leave it out")
    pictures = noise(NOISE, SIDE) if of_noise else several(arguments)
    sizes = {tuple(picture.shape[-2:]) for picture in pictures}
    if len(sizes) > 1:
        raise InputError("erf: the pictures differ in size; cut out parts of one size, such as --crop 0,0,96,96")
    field = erf(opened.model, pictures, opened.scale)
    if not field.any():
        raise InputError(f"erf: no LR pixel moves the middle of {opened.name}'s picture; name trained weights")
    found, whence = radii(field), "pictures of noise" if of_noise else "pictures"
    height, width = field.shape
    held = ", ".join(f"{share:.0%} within {radius:.1f}" for share, radius in zip(SHARES, found, strict=True))
    lines = [
        f"{opened.name} x{opened.scale}, {len(pictures)} {whence} of {width}x{height} LR pixels: {held} LR pixels",
        f"{np.count_nonzero(field):,} of {field.size:,} LR pixels have a gradient that is not zero",
    ]
    numbers = {"network": opened.name, "scale": opened.scale, "pictures": len(pictures), "shares": SHARES,
               "radii": found, "not_zero": int(np.count_nonzero(field))}  # fmt: skip
    return Finding(lines, draw_erf(field, SHARES, found, f"{opened.name} x{opened.scale}"), numbers, {"field": field})


def find_stages(opened: Opened, arguments: argparse.Namespace) -> Finding:
    model, picture = opened.ssiu("stages"), the_picture(arguments)
    original = arguments.hr and open_original(arguments.hr, arguments.crop, picture, model.scale)
    seen = trace(model, picture)
    images = {"bilinear": bilinear(model, picture)}
    images |= {f"stage {n}": image for n, image in enumerate(pictures_of_stages(model, picture, seen), 1)}
    images["output"] = seen.output
    psnr: dict[str, float] = {}
    if original is not None:
        psnr = {name: scored(image, original, model.scale) for name, image in images.items()}
    lines = [name + (f": {psnr[name]:.2f} dB" if psnr else "") for name in images]
    titled = list(zip(lines, images.values(), strict=True))
    if original is not None:
        titled.append(("HR", original[None].float() / 255))
    maps = {name.replace(" ", "_"): image[0].numpy() for name, image in images.items()}
    return Finding(lines, draw_stages(titled), {"scale": model.scale, "psnr": psnr}, maps)


def scored(image: Tensor, original: Tensor, scale: int) -> float:
    """PSNR under the protocol `standard`. Raises InputError for an image that it cannot score."""
    try:
        return standard_scores(image[0], original, scale).psnr
    except ValueError as error:
        raise InputError(
            f"--crop: leaves too little to be scored against --hr ({error}); take a larger part"
        ) from error


def find_moe(opened: Opened, arguments: argparse.Namespace) -> Finding:
    model, pictures = opened.ssiu("moe"), several(arguments)
    names = [f"stage {number}" for number in expert_stages(model)]
    maps, means = [], []
    for picture in pictures:
        maps.append(expert_weights(trace(model, picture), *picture.shape[-2:]).mean(dim=-1).numpy())
        means.append([float(one.mean()) for one in maps[-1]])
    overall = np.mean(means, axis=0).tolist()
    rows = [*zip([file.name for file in arguments.images], means, strict=True), ("mean", overall)]
    lines = [f"{label}: {', '.join(map('{} {:.3f}'.format, names, row))}" for label, row in rows]
    figure = draw_moe(pictures, maps, [file.stem for file in arguments.images], names)
    numbers = {"stages": expert_stages(model), "means": means, "mean": overall}
    return Finding(lines, figure, numbers, {f"weights_{n}": one for n, one in enumerate(maps)})


def find_attention(opened: Opened, arguments: argparse.Namespace) -> Finding:
    model, picture = opened.ssiu("attention"), the_picture(arguments)
    stage = len(model.body) if arguments.stage is None else arguments.stage
    height, width = picture.shape[-2:]
    x, y = arguments.query or (width // 2, height // 2)
    if x >= width or y >= height:
        raise InputError(f"--query {x},{y}: lies outside the picture or crop, {width}x{height} LR pixels")
    heads = the_heads(esam_of(model, stage).heads, arguments.head)
    query = Query.at(x, y)
    found = attention_of(model, picture, stage, query.block)  # (heads, 8, 8, 10, 10)
    row, column = query.inside
    maps = (found.mean(dim=(1, 2)) if arguments.mean else found[:, row, column]).numpy()
    beyond = outside(picture, query.block)
    whose = "mean over the block" if arguments.mean else f"query {x},{y}"
    lines = [f"stage {stage}, {whose}, block {query.block[1]},{query.block[0]} of 16x16 LR pixels"]
    lines += [described(head, maps[head], beyond) for head in heads]
    drawn = [(f"stage {stage}, head {head + 1}", maps[head]) for head in heads]
    numbers = {"stage": stage, "query": None if arguments.mean else [x, y], "heads": [head + 1 for head in heads],
               "outside": [float(maps[head][beyond].sum()) for head in heads]}  # fmt: skip
    figure = draw_attention(picture, drawn, query, not arguments.mean)
    return Finding(lines, figure, numbers, {"attention": maps[heads]})


FINDERS: dict[str, Callable[[Opened, argparse.Namespace], Finding]] = {
    "lam": find_lam, "erf": find_erf, "stages": find_stages, "moe": find_moe, "attention": find_attention,
}  # fmt: skip


def the_picture(arguments: argparse.Namespace) -> Tensor:
    return open_picture(arguments.images[0], arguments.crop, LARGEST[arguments.what])


def several(arguments: argparse.Namespace) -> list[Tensor]:
    """All pictures. Raises InputError for too many, or one that `open_picture` refuses."""
    files: list[Path] = arguments.images
    if len(files) > MOST:
        raise InputError(f"{arguments.what}: takes {MOST} images at most, {len(files)} are named")
    return [open_picture(file, arguments.crop, LARGEST[arguments.what]) for file in files]


def middle_window(height: int, width: int, side: int) -> Window:
    """A window in the middle of an SR image of this size, smaller where the image is."""
    side = min(side, height, width)
    return (width - side) // 2, (height - side) // 2, side


def the_heads(count: int, head: int | None) -> list[int]:
    """Numbers of the heads to show, from 0. Raises InputError if there is no such one."""
    if head is not None and not 1 <= head <= count:
        raise InputError(f"--head {head}: the network has heads 1 to {count}")
    return list(range(count)) if head is None else [head - 1]


def described(head: int, found: np.ndarray, beyond: np.ndarray) -> str:
    """A head's attention (10, 10) in a line; an even one would give each place 1 %."""
    text = f"head {head + 1}: largest {found.max():.1%}, halo {1 - found[1:-1, 1:-1].sum():.1%}"
    return text + (f", outside the map {found[beyond].sum():.1%}" if beyond.any() else "")

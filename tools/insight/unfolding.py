"""SSIU's forward pass with what is inside it: the features of its stages, their pictures, MoE-FS's weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import SSIU
from models.ssiu import MULTIPLE, padded_side, reflect_pad, run_tail
from utils import InputError


@dataclass(frozen=True)
class Trace:
    """What a picture became inside the network; maps are those of the padded picture, channels last.

    Attributes:
        y: shallow feature (1, H, W, C).
        stages: a_1 .. a_N, each (1, H, W, C).
        scores: of the three experts before the softmax, (3, 1, H, W, C); None without MoE-FS.
        output: (1, 3, s h, s w).
    """

    y: Tensor
    stages: list[Tensor]
    scores: Tensor | None
    output: Tensor


@torch.no_grad()
def trace(model: SSIU, picture: Tensor) -> Trace:
    """The forward pass of (1, 3, h, w), watched."""
    moe = model.moe
    experts = [] if moe is None else [moe.fc_a, moe.fc_b, moe.fc_c]
    with outputs_of([model.head, *model.body, *experts]) as found:
        output = model(picture)
    stages = [found[stage] for stage in model.body]
    scores = torch.stack([found[fc].permute(0, 2, 3, 1) for fc in experts]) if experts else None
    return Trace(found[model.head].permute(0, 2, 3, 1), stages, scores, output)


@contextmanager
def outputs_of(modules: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """What each module puts out in the forward pass that the block runs."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [module.register_forward_hook(lambda at, _input, out: found.update({at: out})) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def picture_of(model: SSIU, f: Tensor, picture: Tensor) -> Tensor:
    """`Tail(f)` + bilinear, as the network ends: (1, 3, s h, s w) of the map `f`, (1, H, W, C), and the LR picture."""
    height, width = (model.scale * side for side in picture.shape[-2:])
    return run_tail(model.tail, f)[..., :height, :width] + bilinear(model, picture)


def bilinear(model: SSIU, picture: Tensor) -> Tensor:
    """The LR picture as large as the output, (1, 3, s h, s w): what the network adds its detail to."""
    height, width = (model.scale * side for side in picture.shape[-2:])
    large = F.interpolate(reflect_pad(picture), scale_factor=model.scale, mode="bilinear", align_corners=False)
    return large[..., :height, :width]


def pictures_of_stages(model: SSIU, picture: Tensor, seen: Trace) -> list[Tensor]:
    """What the network would put out if it ended after each stage: N images (1, 3, s h, s w).

    After stage t that is Tail(a_t + y) + bilinear: stage t stands alone for what MoE-FS makes of three stages.
    """
    return [picture_of(model, a + seen.y, picture) for a in seen.stages]


def expert_weights(seen: Trace, height: int, width: int) -> Tensor:
    """MoE-FS's weights of the three experts, (3, h, w, C), without the padding; they sum to 1 over the experts.

    Raises:
        InputError: the network has no MoE-FS.
    """
    if seen.scores is None:
        raise InputError("moe: this network has no MoE-FS; name other weights")
    return seen.scores.softmax(dim=0)[:, 0, :height, :width]


def expert_stages(model: SSIU) -> list[int]:
    """The numbers, from 1, of the stages that are MoE-FS's experts: N/3, 2N/3 and N."""
    third = len(model.body) // 3
    return [third, 2 * third, 3 * third]


def padded(picture: Tensor) -> tuple[int, int]:
    """Height and width of the maps that a picture becomes."""
    height, width = picture.shape[-2:]
    return padded_side(height, MULTIPLE), padded_side(width, MULTIPLE)

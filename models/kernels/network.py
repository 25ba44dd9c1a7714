"""The whole network on kernels: the counterpart of `models.ssiu.SSIU.forward`.

Per stage:

    inference  pair (a, y -> v, b), ESAM, difference (v, b -> a), residual (a -> next stage's LayerNorm of a, and a
               itself where MoE-FS wants it): with 16-bit maps three launches besides ESAM's
    training   LayerNorm, pair, ESAM, difference, residual, each an autograd function; what they save is in `msgm.py`

docs/kernels.md counts what all of it moves and computes. The head stays with PyTorch: 27 numbers a pixel, one product.
Nothing here waits for the device or depends on values in it: both ways can be captured in a CUDA graph.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ssiu import MSGMS, SSIU, reflect_pad
from . import ARITHMETIC, attention, msgm, norm, tail
from .common import check_size


def head(model: SSIU, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Head convolution, (B, 3, H, W) -> (B, H, W, C): as a product, which is exact float32 unless the user allows TF32,
    and has one order of sums; convolution libraries promise neither."""
    batch, _, height, width = x.shape
    patches = F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3).transpose(1, 2)  # (B, HW, 27)
    y = F.linear(patches, model.head.weight.flatten(1), model.head.bias)
    return y.view(batch, height, width, -1).to(dtype).contiguous()


def prepare(model: SSIU, precision: str) -> list[list]:
    """Per stage, the parameters of MSGM_1 and MSGM_2 together, of MSGM_3 and of MSGM_4 as the kernels take them."""
    modules = [getattr(stage, name) for stage in model.body for name in MSGMS]
    with_gradients = torch.is_grad_enabled()
    weights = msgm.pack(modules, precision) if with_gradients else msgm.prepare(modules, precision)
    groups = msgm.split(weights, [2, 1, 1] * len(model.body))
    return [groups[i : i + 3] for i in range(0, len(groups), 3)]


def train_body(model: SSIU, y: Tensor, precision: str, weights: list[list]) -> list[Tensor]:
    """Outputs of stages N/3, 2N/3 and N, differentiable."""
    a, stages = y, []
    for stage, (first_two, third, fourth) in zip(model.body, weights, strict=True):
        a = norm.layer_norm(a, stage.norm.body)
        v, b = msgm.pair(a, y, first_two, precision)
        v = attention.esam(stage.s3, v, precision)
        a = msgm.difference(v, b, third, precision)
        a = msgm.residual(a, fourth, precision)
        stages.append(a)
    return stages[len(stages) // 3 - 1 :: len(stages) // 3]


def infer_body(model: SSIU, y: Tensor, precision: str, weights: list[list]) -> list[Tensor]:
    """Like `train_body`, without gradients: the LayerNorm of a stage is computed where the stage before it ends."""
    third_of_stages, experts = len(model.body) // 3, []
    a = norm.layer_norm(y, model.body[0].norm.body)
    for t, (stage, (first_two, third, fourth)) in enumerate(zip(model.body, weights, strict=True), start=1):
        v, b = msgm.fused("pair", a, y, first_two, precision)
        v = attention.esam(stage.s3, v, precision)
        a, _ = msgm.fused("difference", v, b, third, precision)
        following = model.body[t].norm.body if t < len(model.body) else None
        out, a = msgm.fused("residual", a, None, fourth, precision, following, keep=t % third_of_stages == 0)
        if out is not None:
            experts.append(out)
    return experts


def forward(model: SSIU, x: Tensor, precision: str = "float32", weights: list[list] | None = None) -> Tensor:
    """`model(x)` on the kernels: RGB (B, 3, H, W) in [0, 1], any size -> (B, 3, sH, sW), float32, not clipped.

    Differentiable with respect to the parameters where gradients are enabled; the leaner inference kernels run where
    they are not. See `models.kernels.unsupported` for the networks that this cannot run.

    Args:
        precision: one of `models.kernels.ARITHMETIC`: type of the maps and of the products; sums are float32, and so
            are the parameters and their gradients.
        weights: what `prepare(model, precision)` returned, to prepare them once for many images whose network stays
            the same. Left out, they are prepared here, in some fifteen small launches. There is no hidden cache:
            neither a fused optimiser nor a replayed CUDA graph leaves a trace on a parameter that would tell.

    Raises:
        ModelError: images with 2^31 values or more in a map of C channels.
    """
    # Triton launches on the current device, which need not be that of x. A backward pass needs no such line: autograd
    # runs each function on the device and the stream of its forward pass.
    with torch.cuda.device_of(x):
        height, width = x.shape[-2:]
        x = reflect_pad(x.float())
        check_size(len(x), *x.shape[-2:], model.head.out_channels)
        y = head(model, x, ARITHMETIC[precision][0])
        body = train_body if torch.is_grad_enabled() else infer_body
        experts = body(model, y, precision, prepare(model, precision) if weights is None else weights)
        f = tail.moe_fs(model.moe, experts, y, precision)
        out = tail.tail(model.tail, f, x, model.scale, precision)
        return out[..., : model.scale * height, : model.scale * width]

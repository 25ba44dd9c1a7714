"""LayerNorm over the channels of a (B, H, W, C) map, eps 1e-6, forward and backward.

Forward reads the map and writes one; backward reads the map and the gradient of the output, writes the gradient of the
map, and sums the gradients of weight and bias on the way (one row per program, one call adds the rows). Mean and
deviation are recomputed in the backward pass: the map, which is the previous stage's output, is all that is saved.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from . import common

PIXELS, WARPS = 32, 4  # a tile; two sums of its size and two maps stay in registers


@triton.jit
def normalise(x, C: tl.constexpr):
    """Normalised rows of a float32 tile and the factor that scaled them."""
    x -= tl.sum(x, 1)[:, None] / C
    scale = tl.rsqrt(tl.sum(x * x, 1) / C + 1e-6)[:, None]
    return x * scale, scale


@triton.jit(do_not_specialize=["pixels"])
def norm_kernel(x_ptr, weight_ptr, bias_ptr, out_ptr, pixels, C: tl.constexpr, M: tl.constexpr):
    n = tl.program_id(0) * M + tl.arange(0, M)
    c = tl.arange(0, C)
    at = n[:, None] * C + c[None, :]
    valid = (n < pixels)[:, None]
    normal, _ = normalise(tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32), C)
    out = normal * tl.load(weight_ptr + c)[None, :] + tl.load(bias_ptr + c)[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["pixels", "tiles"])
def norm_backward_kernel(
    x_ptr, dout_ptr, weight_ptr, dx_ptr, rows_ptr, pixels, tiles, C: tl.constexpr, M: tl.constexpr
):
    """With n the normalised rows and g = weight dout: dx = (g - mean(g) - n mean(g n)) / deviation."""
    c = tl.arange(0, C)
    weight = tl.load(weight_ptr + c)[None, :]
    dweight = tl.zeros([M, C], tl.float32)
    dbias = tl.zeros([M, C], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * M + tl.arange(0, M)
        at = n[:, None] * C + c[None, :]
        valid = (n < pixels)[:, None]
        normal, scale = normalise(tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32), C)
        dout = tl.load(dout_ptr + at, mask=valid, other=0.0).to(tl.float32)
        dweight += dout * normal
        dbias += dout
        g = dout * weight
        dx = (g - tl.sum(g, 1)[:, None] / C - normal * (tl.sum(g * normal, 1)[:, None] / C)) * scale
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=valid)
    row = rows_ptr + tl.program_id(0) * 2 * C + c
    tl.store(row, tl.sum(dweight, 0))
    tl.store(row + C, tl.sum(dbias, 0))


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        out = torch.empty_like(x)
        channels = x.shape[-1]
        pixels = x.numel() // channels
        norm_kernel[(triton.cdiv(pixels, PIXELS),)](x, weight, bias, out, pixels, C=channels, M=PIXELS, num_warps=WARPS)
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx, dout):
        x, weight = ctx.saved_tensors
        channels = x.shape[-1]
        pixels = x.numel() // channels
        tiles = triton.cdiv(pixels, PIXELS)
        rows = torch.empty(min(common.PROGRAMS, tiles), 2, channels, device=x.device)
        dx = torch.empty_like(x)
        norm_backward_kernel[(len(rows),)](
            x, dout.contiguous(), weight, dx, rows, pixels, tiles, C=channels, M=PIXELS, num_warps=WARPS, num_stages=1
        )
        dweight, dbias = rows.sum(0)
        return dx, dweight, dbias


def layer_norm(x: Tensor, module: nn.LayerNorm) -> Tensor:
    """`module(x)` for a contiguous (B, H, W, C) map of any float type; weight and bias are float32."""
    return _LayerNorm.apply(x, module.weight, module.bias)


_TYPES = {"weight_ptr": "*fp32", "bias_ptr": "*fp32", "rows_ptr": "*fp32", "pixels": "i32", "tiles": "i32"}
_MAPS = ("x_ptr", "out_ptr", "dout_ptr", "dx_ptr")
OFFLINE_CASES = [
    (kernel, _TYPES | dict.fromkeys(_MAPS, f"*{dtype}"), {"C": 64, "M": PIXELS}, WARPS, 1)
    for dtype in ("bf16", "fp32")
    for kernel in (norm_kernel, norm_backward_kernel)
]

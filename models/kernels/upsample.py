"""The end of ESAM: `out = v + U(DW3x3(o))`, U the bilinear x2 upsampling with align_corners=True, and its backward.

o lives on the halved map (B, h, w, C), v and out on the full one (B, 2h, 2w, C); h and w are multiples of 8, C a power
of two. Output 2i lies between sources i - 1 and i, output 2i + 1 between i and i + 1, so the four outputs of a source
pixel need DW3x3(o) on the 3x3 pixels around it, hence o on 5x5: one kernel, nothing written in between. The backward
reduces dout to the halved map first (a quarter of the traffic of everything after it), then turns the depthwise
convolution around. Both directions gather, so no sum depends on the order of programs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import common
from .common import reflect

FORWARD_SIDE = 4  # a program of the forward pass holds 4x4 source pixels
ADJOINT_PIXELS = 16


@triton.jit
def _even_share(i, step):
    """Output 2i is `share * t[i] + (1 - share) * t[i - 1]`; step = (n - 1) / (2n - 1) in float32, as PyTorch has it."""
    return tl.minimum(tl.maximum((2 * i).to(tl.float32) * step - (i - 1).to(tl.float32), 0.0), 1.0)


@triton.jit
def _odd_share(i, n, step):
    """Output 2i + 1 is `share * t[i + 1] + (1 - share) * t[i]`.

    The last output is source n - 1 itself; its product with `step` may miss n - 1 by one rounding.
    """
    share = tl.minimum(tl.maximum((2 * i + 1).to(tl.float32) * step - i.to(tl.float32), 0.0), 1.0)
    return tl.where(i == n - 1, 0.0, share)


@triton.jit(do_not_specialize=["h", "w"])
def _depthwise_upsample(o, weight, bias, v, out, h, w, step_y, step_x, C: tl.constexpr, SIDE: tl.constexpr):
    """out = v + U(DW(o)) for the 2x2 outputs of SIDE x SIDE source pixels. Reads o and v once, writes out once.

    The 5x5 tiles of o are spread over nine accumulators, DW(o) at the 3x3 neighbours, and then blended. Neighbours
    outside the map are computed from whatever the reflected index finds and get the weight zero.
    """
    c, i = tl.arange(0, C), tl.arange(0, SIDE * SIDE)
    across, down = w // SIDE, h // SIDE
    tile, b = tl.program_id(0) % (across * down), tl.program_id(0) // (across * down)
    y, x = tile // across * SIDE + i // SIDE, tile % across * SIDE + i % SIDE

    kernel, t = (), ()
    for k in tl.static_range(9):
        kernel = kernel + (tl.load(weight + c * 9 + k)[None, :],)
        t = t + (tl.zeros([SIDE * SIDE, C], tl.float32) + tl.load(bias + c)[None, :],)
    for dy in tl.static_range(5):
        row = (b * h + reflect(y + dy - 2, h)) * w
        for dx in tl.static_range(5):
            at = row + reflect(x + dx - 2, w)
            source = tl.load(o + at[:, None] * C + c[None, :]).to(tl.float32)
            updated = ()
            for k in tl.static_range(9):
                if (k // 3 <= dy and dy <= k // 3 + 2) and (k % 3 <= dx and dx <= k % 3 + 2):
                    updated = updated + (t[k] + source * kernel[3 * dy + dx - k],)
                else:
                    updated = updated + (t[k],)
            t = updated

    even_y, odd_y = _even_share(y, step_y)[:, None], _odd_share(y, h, step_y)[:, None]
    even_x, odd_x = _even_share(x, step_x)[:, None], _odd_share(x, w, step_x)[:, None]
    for dx in tl.static_range(2):
        columns = ()
        for r in tl.static_range(3):
            if dx == 0:
                columns = columns + (t[3 * r] + even_x * (t[3 * r + 1] - t[3 * r]),)
            else:
                columns = columns + (t[3 * r + 1] + odd_x * (t[3 * r + 2] - t[3 * r + 1]),)
        for dy in tl.static_range(2):
            if dy == 0:
                up = columns[0] + even_y * (columns[1] - columns[0])
            else:
                up = columns[1] + odd_y * (columns[2] - columns[1])
            at = (((b * h + y) * 2 + dy) * 2 * w + 2 * x + dx)[:, None] * C + c[None, :]
            up += tl.load(v + at).to(tl.float32)
            tl.store(out + at, up.to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["h", "w"])
def _upsample_adjoint(dout, dt, h, w, step_y, step_x, C: tl.constexpr, M: tl.constexpr):
    """dt = U^T(dout): source i gathers from the outputs 2i - 1 .. 2i + 2 of each axis. Reads dout, writes a quarter."""
    n, c = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, C)
    y, x = n // w % h, n % w
    wy = (_odd_share(y - 1, h, step_y), _even_share(y, step_y))
    wy = wy + (1.0 - _odd_share(y, h, step_y), 1.0 - _even_share(y + 1, step_y))
    wx = (_odd_share(x - 1, w, step_x), _even_share(x, step_x))
    wx = wx + (1.0 - _odd_share(x, w, step_x), 1.0 - _even_share(x + 1, step_x))
    corner = n // w * 4 * w + 2 * x  # output (2y, 2x)
    acc = tl.zeros([M, C], tl.float32)
    for dy in tl.static_range(4):
        inside_y = (2 * y + dy >= 1) & (2 * y + dy <= 2 * h)
        for dx in tl.static_range(4):
            inside = inside_y & (2 * x + dx >= 1) & (2 * x + dx <= 2 * w)
            at = corner + (dy - 1) * 2 * w + dx - 1
            d = tl.load(dout + at[:, None] * C + c[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
            acc += d * (wy[dy] * wx[dx])[:, None]
    tl.store(dt + n[:, None] * C + c[None, :], acc.to(dt.dtype.element_ty))


@triton.jit(do_not_specialize=["tiles", "h", "w"])
def _depthwise_adjoint(dt, o, weight, do, part, tiles, h, w, C: tl.constexpr, M: tl.constexpr):
    """do = DW^T(dt) with its reflected borders, and this program's sums of the weight and bias gradients.

    Pixel q of o is read by its neighbours p. Seen from q, neighbour p = q + dy - 1 uses kernel row 2 - dy, and where p
    is a border row also the mirrored row dy (p = 0 reads row 1 as row -1, p = h - 1 reads row h - 2 as row h); columns
    alike. Each such pair (p, kernel entry) adds dt[p] * weight to do[q] and dt[p] * o[q] to the gradient of the weight,
    so both come from nine loads of dt and one of o.
    part (programs, 10 C): 9 C in the order of the weight (C, 1, 3, 3), then the bias.
    """
    c = tl.arange(0, C)
    kernel, sums = (), ()
    for k in tl.static_range(9):
        kernel = kernel + (tl.load(weight + c * 9 + k)[None, :],)
        sums = sums + (tl.zeros([M, C], tl.float32),)
    bias_sum = tl.zeros([M, C], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * M + tl.arange(0, M)
        y, x = (n // w % h)[:, None], (n % w)[:, None]
        at = n[:, None] * C + c[None, :]
        source = tl.load(o + at).to(tl.float32)
        acc = tl.zeros([M, C], tl.float32)
        for dy in tl.static_range(3):
            inside_y = (y + dy >= 1) & (y + dy <= h)
            for dx in tl.static_range(3):
                inside = inside_y & (x + dx >= 1) & (x + dx <= w)
                d = tl.load(dt + at + ((dy - 1) * w + dx - 1) * C, mask=inside, other=0.0).to(tl.float32)
                if (dy == 1) & (dx == 1):
                    bias_sum += d
                updated = ()
                for k in tl.static_range(9):
                    if (k // 3 == 2 - dy or k // 3 == dy) and (k % 3 == 2 - dx or k % 3 == dx):
                        term = d
                        if k // 3 != 2 - dy:
                            term = tl.where(y == (1 if dy == 0 else h - 2), term, 0.0)
                        if k % 3 != 2 - dx:
                            term = tl.where(x == (1 if dx == 0 else w - 2), term, 0.0)
                        acc += term * kernel[k]
                        updated = updated + (sums[k] + term * source,)
                    else:
                        updated = updated + (sums[k],)
                sums = updated
        tl.store(do + at, acc.to(do.dtype.element_ty))
    part += tl.program_id(0) * 10 * C
    for k in tl.static_range(9):
        tl.store(part + c * 9 + k, tl.sum(sums[k], 0))
    tl.store(part + 9 * C + c, tl.sum(bias_sum, 0))


def _steps(h: int, w: int) -> tuple[float, float]:
    return (h - 1) / (2 * h - 1), (w - 1) / (2 * w - 1)


def depthwise_upsample(o: Tensor, weight: Tensor, bias: Tensor, v: Tensor) -> Tensor:
    """v + U(DW3x3(o)): o (B, h, w, C), weight (C, 1, 3, 3), v (B, 2h, 2w, C) -> (B, 2h, 2w, C)."""
    batch, h, w, channels = o.shape
    out = torch.empty_like(v)
    grid = (batch * (h // FORWARD_SIDE) * (w // FORWARD_SIDE),)
    _depthwise_upsample[grid](o, weight, bias, v, out, h, w, *_steps(h, w), C=channels, SIDE=FORWARD_SIDE, num_warps=4)
    return out


def depthwise_upsample_backward(dout: Tensor, o: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of o, weight and bias; that of v is dout itself."""
    batch, h, w, channels = o.shape
    pixels = batch * h * w
    dt, do = torch.empty_like(o), torch.empty_like(o)
    _upsample_adjoint[(pixels // ADJOINT_PIXELS,)](
        dout, dt, h, w, *_steps(h, w), C=channels, M=ADJOINT_PIXELS, num_warps=4
    )
    tiles = pixels // ADJOINT_PIXELS
    programs = min(common.PROGRAMS, tiles)
    part = torch.empty(programs, 10 * channels, device=o.device)
    _depthwise_adjoint[(programs,)](
        dt, o, weight, do, part, tiles, h, w, C=channels, M=ADJOINT_PIXELS, num_warps=8, num_stages=1
    )
    dweight, dbias = part.sum(0).split([9 * channels, channels])
    return do, dweight.view_as(weight), dbias


_TYPES = {"weight": "*fp32", "bias": "*fp32", "part": "*fp32", "tiles": "i32", "h": "i32", "w": "i32"}
_TYPES |= {"step_y": "fp32", "step_x": "fp32"}
OFFLINE_CASES = [
    (kernel, _TYPES | dict.fromkeys(maps, f"*{dtype}"), {"C": 64, **tile}, warps, 1)
    for dtype in ("bf16", "fp32")
    for kernel, maps, tile, warps in (
        (_depthwise_upsample, ("o", "v", "out"), {"SIDE": FORWARD_SIDE}, 4),
        (_upsample_adjoint, ("dout", "dt"), {"M": ADJOINT_PIXELS}, 4),
        (_depthwise_adjoint, ("dt", "o", "do"), {"M": ADJOINT_PIXELS}, 8),
    )
]

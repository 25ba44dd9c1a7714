"""ESAM with its residual (S3.a): `out = v + U(DW3x3(attend(MaxPool2x2(v))))`, forward and backward.

Maps are (B, H, W, C), contiguous; h = H/2 and w = W/2 are the sides of the halved map, d = C/heads the width of a head.
Counting one (B, H, W, C) map as 1, the forward pass moves

    _pool_qkv             reads v (1), writes q, k, v side by side (3/4)
    _attend               reads q and the 10x10 windows of k and v in place (1), writes o (1/4)
    depthwise_upsample    reads o (1/4) and v (1), writes out (1)                               (upsample.py)

and the backward pass

    depthwise_upsample_backward   dout (1) -> do (1/4), weight and bias of the depthwise        (upsample.py)
    _attend_backward      reads qkv and do (1 1/4), writes dq (1/4) and each window's share of dk and dv (4/5)
    _pool_qkv_backward    reads those, v (1) and dout (1), writes dv (1) and the weight gradient

Saved for the backward pass: v, qkv (3/4) and o (1/4). Softmax, pooled map and the places of its maxima are computed
again. A key lies in up to four windows: every window writes its share of dk and dv, and _pool_qkv_backward gathers
them, which costs a factor 100/64 in bytes where a kernel per key block would compute each score nine times.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ssiu import BLOCK, ESAM, HALO
from . import ARITHMETIC, common
from .common import OFFLINE_KINDS, TILE_PIXELS, check_map, program_pixels
from .upsample import depthwise_upsample, depthwise_upsample_backward

WINDOW = BLOCK + 2 * HALO  # 10
QUERIES, KEYS = BLOCK**2, WINDOW**2  # 64 and 100; tiles hold 128 keys, the last 28 masked
ATTEND_WARPS = {2: 4, 4: 8}  # by bytes of a number: with 4, float32 products spill


@triton.jit
def _pooled(v, n, W, C: tl.constexpr):
    """MaxPool2x2(v) at the halved-map pixels n, and the offset in v of the top left corner of their 2x2 windows."""
    w = W // 2
    corner = (n // w * 2 * W + n % w * 2)[:, None] * C + tl.arange(0, C)[None, :]
    top = tl.maximum(tl.load(v + corner), tl.load(v + corner + C))
    bottom = tl.maximum(tl.load(v + corner + W * C), tl.load(v + corner + W * C + C))
    return tl.maximum(top, bottom).to(v.dtype.element_ty), corner  # the maximum of two bf16 tiles is float32


@triton.jit(do_not_specialize=["W"])
def _pool_qkv(v, weight, qkv, W, C: tl.constexpr, M: tl.constexpr, DOT: tl.constexpr):
    """qkv = W_qkv MaxPool2x2(v): (B, H, W, C) -> (B, h, w, 3C). Reads v once, writes 3/4 of its size."""
    n, c = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, C)
    u, _ = _pooled(v, n, W, C)
    for part in tl.static_range(3):
        matrix = tl.load(weight + part * C * C + c[None, :] * C + c[:, None]).to(u.dtype)  # (in, out)
        product = tl.dot(u, matrix, input_precision=DOT)
        tl.store(qkv + n[:, None] * (3 * C) + part * C + c[None, :], product.to(u.dtype))


@triton.jit
def _query_pixels(block, h, w, BLOCK: tl.constexpr):
    """Index in the halved map of the 8x8 queries of a block, row by row."""
    across, down = w // BLOCK, h // BLOCK
    i = tl.arange(0, BLOCK * BLOCK)
    y, x = block // across % down * BLOCK + i // BLOCK, block % across * BLOCK + i % BLOCK
    return (block // (across * down) * h + y) * w + x


@triton.jit
def _key_pixels(block, h, w, BLOCK: tl.constexpr):
    """Index in the halved map of the 10x10 keys around a block, padded to 128, and which of them lie in the map."""
    across, down = w // BLOCK, h // BLOCK
    j = tl.arange(0, 128)
    y = block // across % down * BLOCK - 1 + j // (BLOCK + 2)
    x = block % across * BLOCK - 1 + j % (BLOCK + 2)
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w) & (j < (BLOCK + 2) * (BLOCK + 2))
    return (block // (across * down) * h + y) * w + x, inside


@triton.jit
def _scores(
    qkv, rel_h, rel_w, block, head, h, w, C: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr
):
    """Softmax of one block and head, (64, 128) in float32, and the q (64, d), k + rel and v (128, d) it is made of.

    Keys outside the map are zero before rel is added, and count like any other; the 28 that pad the tile do not.
    """
    WINDOW: tl.constexpr = BLOCK + 2
    HALF: tl.constexpr = D // 2
    d, j = tl.arange(0, D), tl.arange(0, 128)
    q = tl.load(qkv + _query_pixels(block, h, w, BLOCK)[:, None] * (3 * C) + head * D + d[None, :])
    pixels, inside = _key_pixels(block, h, w, BLOCK)
    at = qkv + pixels[:, None] * (3 * C) + C + head * D + d[None, :]
    k = tl.load(at, mask=inside[:, None], other=0.0)
    v = tl.load(at + C, mask=inside[:, None], other=0.0)
    real = j < WINDOW * WINDOW
    row, column = (j // WINDOW)[:, None], (j % WINDOW)[:, None]
    first = real[:, None] & (d < HALF)[None, :]  # rows of the window in the first half of the channels ...
    second = real[:, None] & (d >= HALF)[None, :]  # ... columns in the second
    rel = tl.load(rel_h + row * HALF + d[None, :], mask=first, other=0.0)
    rel += tl.load(rel_w + column * HALF + d[None, :] - HALF, mask=second, other=0.0)
    k += rel.to(k.dtype)
    s = tl.dot(q, tl.trans(k), input_precision=DOT) * (D**-0.5)
    s = tl.where(real[None, :], s, float("-inf"))
    p = tl.exp(s - tl.max(s, 1)[:, None])
    return p / tl.sum(p, 1)[:, None], q, k, v


@triton.jit(do_not_specialize=["h", "w"])
def _attend(qkv, rel_h, rel_w, o, h, w, C: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr):
    """o = softmax(q (k + rel)^T / sqrt(d)) v for one 8x8 block (axis 0 of the grid) and one head (axis 1)."""
    block, head = tl.program_id(0), tl.program_id(1)
    p, _, _, v = _scores(qkv, rel_h, rel_w, block, head, h, w, C, D, BLOCK, DOT)
    product = tl.dot(p.to(v.dtype), v, input_precision=DOT)
    at = _query_pixels(block, h, w, BLOCK)[:, None] * C + head * D + tl.arange(0, D)[None, :]
    tl.store(o + at, product.to(v.dtype))


@triton.jit(do_not_specialize=["h", "w"])
def _attend_backward(
    qkv, rel_h, rel_w, do, dq, dwindow, part, h, w,
    C: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Backward of `_attend` for one block and head, the softmax computed again.

    Writes dq (B, h, w, C), the window's share of dk and dv, dwindow (blocks, 100, 2C), and its share of the gradients
    of rel_h and rel_w, part (blocks, heads, 10 d): dk summed over window columns and rows by a product with ones.
    """
    WINDOW: tl.constexpr = BLOCK + 2
    HALF: tl.constexpr = D // 2
    block, head = tl.program_id(0), tl.program_id(1)
    p, q, k, v = _scores(qkv, rel_h, rel_w, block, head, h, w, C, D, BLOCK, DOT)
    d, j = tl.arange(0, D), tl.arange(0, 128)
    at = _query_pixels(block, h, w, BLOCK)[:, None] * C + head * D + d[None, :]
    g = tl.load(do + at)
    dv = tl.dot(tl.trans(p.to(v.dtype)), g, input_precision=DOT)
    dp = tl.dot(g, tl.trans(v), input_precision=DOT)
    ds = (p * (dp - tl.sum(p * dp, 1)[:, None])).to(v.dtype)
    tl.store(dq + at, (tl.dot(ds, k, input_precision=DOT) * (D**-0.5)).to(v.dtype))
    dk = (tl.dot(tl.trans(ds), q, input_precision=DOT) * (D**-0.5)).to(v.dtype)

    real = (j < WINDOW * WINDOW)[:, None]
    at = (block * WINDOW * WINDOW + j)[:, None] * (2 * C) + head * D + d[None, :]
    tl.store(dwindow + at, dk, mask=real)
    tl.store(dwindow + at + C, dv.to(v.dtype), mask=real)

    r = tl.arange(0, 32)[:, None]  # 0 .. 9: rows of the window, 16 .. 25: its columns
    member = tl.where(r < 16, r == (j // WINDOW)[None, :], r - 16 == (j % WINDOW)[None, :])
    drel = tl.dot(member.to(dk.dtype), dk, input_precision=DOT)
    rows, columns = (r < WINDOW) & (d < HALF)[None, :], (r >= 16) & (r < 16 + WINDOW) & (d >= HALF)[None, :]
    at = tl.where(r < 16, r * HALF + d[None, :], (WINDOW + r - 16) * HALF + d[None, :] - HALF)
    tl.store(part + (block * tl.num_programs(1) + head) * (WINDOW * D) + at, drel, mask=rows | columns)


@triton.jit
def _gather_windows(dwindow, n, h, w, C: tl.constexpr, BLOCK: tl.constexpr):
    """dk and dv of the halved-map pixels n: the sums over the one, two or four windows that hold each of them.

    A loop that is not unrolled: four pairs of tiles in flight beside the sums of the weight gradient would spill.
    """
    WINDOW: tl.constexpr = BLOCK + 2
    c = tl.arange(0, C)
    across, down = w // BLOCK, h // BLOCK
    y, x = n // w % h, n % w
    # a pixel on the border of its block also lies in the halo of the next one: above in window row 9, below in row 0
    next_y = tl.where(y % BLOCK == 0, -1, tl.where(y % BLOCK == BLOCK - 1, 1, 0))
    next_x = tl.where(x % BLOCK == 0, -1, tl.where(x % BLOCK == BLOCK - 1, 1, 0))
    dk = tl.zeros([n.shape[0], C], tl.float32)
    dv = tl.zeros([n.shape[0], C], tl.float32)
    for other in range(tl.where(h > 0, 4, 0)):
        other_y, other_x = other // 2, other % 2
        block_y, block_x = y // BLOCK + other_y * next_y, x // BLOCK + other_x * next_x
        row = tl.where(other_y == 0, y % BLOCK + 1, tl.where(next_y < 0, WINDOW - 1, 0))
        column = tl.where(other_x == 0, x % BLOCK + 1, tl.where(next_x < 0, WINDOW - 1, 0))
        exists = ((other_y == 0) | (next_y != 0)) & ((other_x == 0) | (next_x != 0))
        exists &= (block_y >= 0) & (block_y < down) & (block_x >= 0) & (block_x < across)
        key = ((n // (w * h) * down + block_y) * across + block_x) * (WINDOW * WINDOW) + row * WINDOW + column
        at = dwindow + key[:, None] * (2 * C) + c[None, :]
        dk += tl.load(at, mask=exists[:, None], other=0.0).to(tl.float32)
        dv += tl.load(at + C, mask=exists[:, None], other=0.0).to(tl.float32)
    return dk.to(dwindow.dtype.element_ty), dv.to(dwindow.dtype.element_ty)


@triton.jit(do_not_specialize=["tiles", "h", "w"])
def _pool_qkv_backward(
    v, dout, dq, dwindow, weight, dv, part, tiles, h, w,
    C: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """dv = dout + the backward of MaxPool2x2 and W_qkv, and this program's sum of the weight gradient.

    The pooled map is computed again; the first maximum of a 2x2 window, row by row, gets the gradient, as in PyTorch.
    part (programs, 3C, C). One program an SM: the three C x C sums stay in registers over all its tiles.
    """
    c = tl.arange(0, C)
    matrix = c[:, None] * C + c[None, :]
    sum_q = tl.zeros([C, C], tl.float32)
    sum_k = tl.zeros([C, C], tl.float32)
    sum_v = tl.zeros([C, C], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * M + tl.arange(0, M)
        u, corner = _pooled(v, n, 2 * w, C)
        grad_k, grad_v = _gather_windows(dwindow, n, h, w, C, BLOCK)
        grad_q = tl.load(dq + n[:, None] * C + c[None, :])
        sum_q = tl.dot(tl.trans(grad_q), u, sum_q, input_precision=DOT)
        sum_k = tl.dot(tl.trans(grad_k), u, sum_k, input_precision=DOT)
        sum_v = tl.dot(tl.trans(grad_v), u, sum_v, input_precision=DOT)
        du = tl.dot(grad_q, tl.load(weight + matrix).to(u.dtype), input_precision=DOT)
        du = tl.dot(grad_k, tl.load(weight + C * C + matrix).to(u.dtype), du, input_precision=DOT)
        du = tl.dot(grad_v, tl.load(weight + 2 * C * C + matrix).to(u.dtype), du, input_precision=DOT)

        free = tl.full([M, C], 1, tl.int1)
        for place in tl.static_range(4):
            at = corner + place // 2 * 2 * w * C + place % 2 * C
            wins = free & (tl.load(v + at) == u)
            free = free & (wins == 0)
            grad = tl.load(dout + at).to(tl.float32) + tl.where(wins, du, 0.0)
            tl.store(dv + at, grad.to(dv.dtype.element_ty))
    part += tl.program_id(0) * 3 * C * C + matrix
    tl.store(part, sum_q)
    tl.store(part + C * C, sum_k)
    tl.store(part + 2 * C * C, sum_v)


class _ESAM(torch.autograd.Function):
    """out = ESAM(v) + v; saves v, qkv and o."""

    @staticmethod
    def forward(ctx, v, qkv_weight, rel_h, rel_w, weight, bias, heads, dot):
        batch, height, width, channels = v.shape
        h, w, d = height // 2, width // 2, channels // heads
        qkv = v.new_empty(batch, h, w, 3 * channels)
        o = v.new_empty(batch, h, w, channels)
        pixels, m = batch * h * w, program_pixels(v)
        _pool_qkv[(pixels // m,)](v, qkv_weight, qkv, width, C=channels, M=m, DOT=dot, num_warps=8)
        _attend[(pixels // QUERIES, heads)](
            qkv, rel_h, rel_w, o, h, w,
            C=channels, D=d, BLOCK=BLOCK, DOT=dot, num_warps=ATTEND_WARPS[v.element_size()],
        )  # fmt: skip
        ctx.save_for_backward(v, qkv, o, qkv_weight, rel_h, rel_w, weight)
        ctx.heads, ctx.dot = heads, dot
        return depthwise_upsample(o, weight, bias, v)

    @staticmethod
    def backward(ctx, dout):
        v, qkv, o, qkv_weight, rel_h, rel_w, weight = ctx.saved_tensors
        batch, h, w, channels = o.shape
        d, blocks, dout = channels // ctx.heads, batch * h * w // QUERIES, dout.contiguous()
        do, dweight, dbias = depthwise_upsample_backward(dout, o, weight)

        dq = torch.empty_like(o)
        dwindow = o.new_empty(blocks, KEYS, 2 * channels)
        part = torch.empty(blocks * ctx.heads, WINDOW * d, device=o.device)
        _attend_backward[(blocks, ctx.heads)](
            qkv, rel_h, rel_w, do, dq, dwindow, part, h, w,
            C=channels, D=d, BLOCK=BLOCK, DOT=ctx.dot, num_warps=ATTEND_WARPS[v.element_size()],
        )  # fmt: skip
        drel_h, drel_w = part.sum(0).chunk(2)

        dv, m = torch.empty_like(v), program_pixels(v)
        tiles = batch * h * w // m
        programs = min(common.PROGRAMS // 2, tiles)
        part = torch.empty(programs, 3 * channels, channels, device=o.device)
        _pool_qkv_backward[(programs,)](
            v, dout, dq, dwindow, qkv_weight, dv, part, tiles, h, w,
            C=channels, M=m, BLOCK=BLOCK, DOT=ctx.dot, num_warps=8, num_stages=1,
        )  # fmt: skip
        dqkv_weight = part.sum(0).view_as(qkv_weight)
        return dv, dqkv_weight, drel_h.view_as(rel_h), drel_w.view_as(rel_w), dweight, dbias, None, None


def esam(module: ESAM, v: Tensor, precision: str) -> Tensor:
    """ESAM(v) + v, (B, H, W, C) -> (B, H, W, C): the kernels' counterpart of `module(v) + v`.

    v is contiguous, of the type that ARITHMETIC gives for `precision`; H and W are multiples of 16. Parameters are
    float32 and so are their gradients.

    Raises:
        ValueError: a map that is not as said; on a GPU, heads narrower than 16 channels, as the matrix units take no
            smaller operands.
    """
    check_map(v)
    channels = v.shape[-1]
    if v.is_cuda and channels // module.heads < 16:
        raise ValueError(f"heads of {channels // module.heads} channels are too narrow for the kernels (16 at least)")
    depthwise = module.LocalProp[0]
    weights = (module.qkv_conv.weight, module.rel_h, module.rel_w, depthwise.weight, depthwise.bias)
    return _ESAM.apply(v, *weights, module.heads, ARITHMETIC[precision][1])


def _offline_cases() -> list:
    cases = []
    for dtype, dot, size in OFFLINE_KINDS:
        types = dict.fromkeys(("v", "qkv", "o", "do", "dq", "dwindow", "dout", "dv"), f"*{dtype}")
        types |= dict.fromkeys(("weight", "rel_h", "rel_w", "part"), "*fp32")
        types |= dict.fromkeys(("W", "h", "w", "tiles"), "i32")
        shape = {"C": 64, "DOT": dot}
        m, warps = TILE_PIXELS[size], ATTEND_WARPS[size]
        cases += [
            (_pool_qkv, types, {"M": m, **shape}, 8, 1),
            (_attend, types, {"D": 16, "BLOCK": BLOCK, **shape}, warps, 1),
            (_attend_backward, types, {"D": 16, "BLOCK": BLOCK, **shape}, warps, 1),
            (_pool_qkv_backward, types, {"M": m, "BLOCK": BLOCK, **shape}, 8, 1),
        ]
    return cases


OFFLINE_CASES = _offline_cases()

"""The end of the network: MoE-FS with its residual, and the tail with the bilinear skip.

Maps are (B, H, W, C), contiguous, H and W multiples of 16; N = B H W. One map counts as 1 below, s is the scale.

moe_fs   `MoEFS(e_a, e_b, e_c) + y`. Forward, one kernel: reads the three experts and y, writes one map (5 in all).
         Backward: `_moe_backward` reads the experts and the gradient and writes the gradients of the experts, of their
         scores, and o (11); `_linear_gradients` multiplies those (8). Saved: the experts.

tail     1x1 convolution C -> C r^2, PixelShuffle(r), GELU (twice with r = 2 for x4, else once with r = s), reflected
         3x3 convolution to RGB, plus the bilinear upsampling of the input image.

A map of C channels at the output's resolution would be s^2 maps to write and to read. The forward pass never writes
it: a 3x3 convolution to three channels is 27 numbers per pixel (9 taps x 3 channels, a product C -> 27) and a sum of
shifted numbers. `_tail_taps` goes from f to those numbers in registers, one sub-pixel after the other; `_tail_fold`
adds them up, with the bias and the skip. It moves 1 + 2 s^2 27/C maps and the image: for x4 and C = 64, 14.5, where
one such map alone, written and read, would be 32. Saved: f.

The backward pass computes everything again from f. The adjoint of the 3x3 is a gather of 27 numbers from the gradient
of the image and a product 27 -> C, so it needs no map either. `_tail_backward` writes the gradient of f and, for
`_linear_gradients` to multiply, the gradients before each GELU: s^2 maps, and 8 more for x4.

Weight gradients get a kernel of their own because the r^2 or four CxC sums do not fit the registers of one program
beside everything else (it was tried, and spilled). Persistent programs sum them, biases included, one row of
`part` each; adding the rows is one call.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from ..ssiu import MoEFS
from . import ARITHMETIC, common
from .common import OFFLINE_KINDS, TILE_PIXELS, check_map, gelu, gelu_with_grad, program_pixels, reflect

TAPS = 27  # 9 taps x RGB, in tiles of 32; number k belongs to colour k // 9 and tap k % 9
FULL_PIXELS = 32  # at most, in the kernels that hold many tiles at once
FOLD_PIXELS = 256  # H W is a multiple of 256, and so is the number of output pixels

# --- 1x1 convolutions -------------------------------------------------------------------------------------------------


@triton.jit
def _linear(x, weight, bias, sub, SUBS: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """Sub-pixel `sub` of W x + b of a tile, in float32; the weight is (C r^2, C), SUBS = r^2.

    Sub-pixel i r + j is output row i, column j of PixelShuffle(r), which takes its channel c from channel c r^2 + sub.
    """
    c = tl.arange(0, C)
    matrix = tl.load(weight + (c * SUBS + sub)[None, :] * C + c[:, None]).to(x.dtype)  # (in, out)
    return tl.dot(x, matrix, input_precision=DOT) + tl.load(bias + c * SUBS + sub)[None, :]


@triton.jit
def _adjoint(g, weight, sub, SUBS: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """What sub-pixel `sub` adds to W^T g, in float32."""
    c = tl.arange(0, C)
    matrix = tl.load(weight + (c * SUBS + sub)[:, None] * C + c[None, :]).to(g.dtype)  # (out, in)
    return tl.dot(g, matrix, input_precision=DOT)


@triton.jit(do_not_specialize=["tiles"])
def _linear_gradients(a, dz, part, tiles, SUBS: tl.constexpr, C: tl.constexpr, M: tl.constexpr, DOT: tl.constexpr):
    """Sums of the gradients of W (C r^2, C) and b (C r^2) of z = W a + b, for one sub-pixel (axis 0 of the grid).

    a (N', C), dz (N', r^2, C), part (programs, C r^2 (C + 1)). The programs of the r^2 sub-pixels run side by side, so
    that a is read from memory once.
    """
    sub, c = tl.program_id(0), tl.arange(0, C)
    total, bias = tl.zeros([C, C], tl.float32), tl.zeros([C], tl.float32)
    for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
        n = tile * M + tl.arange(0, M)
        g = tl.load(dz + (n * SUBS + sub).to(tl.int64)[:, None] * C + c[None, :])
        at = n.to(tl.int64)[:, None] * C + c[None, :]
        total = tl.dot(tl.trans(g), tl.load(a + at), total, input_precision=DOT)
        bias += tl.sum(g.to(tl.float32), 0)
    row = c * SUBS + sub
    part += tl.program_id(1) * (SUBS * C * (C + 1))
    tl.store(part + row[:, None] * C + c[None, :], total)
    tl.store(part + SUBS * C * C + row, bias)


def _parameter_gradients(a: Tensor, dz: Tensor, dot: str) -> tuple[Tensor, Tensor]:
    """Gradients of the weight (C r^2, C, 1, 1) and bias (C r^2) from a (N', C) and dz (N', r^2, C)."""
    pixels, subs, channels = dz.shape
    tiles = pixels // program_pixels(a)
    programs = min(common.PROGRAMS // subs, tiles)
    part = torch.empty(programs, subs * channels * (channels + 1), device=a.device)
    _linear_gradients[(subs, programs)](
        a, dz, part, tiles, SUBS=subs, C=channels, M=program_pixels(a), DOT=dot, num_warps=8, num_stages=2
    )
    weight, bias = part.sum(0).split([subs * channels**2, subs * channels])
    return weight.view(subs * channels, channels, 1, 1), bias


# --- MoE-FS -----------------------------------------------------------------------------------------------------------


@triton.jit
def _mixture(x_a, x_b, x_c, w_a, b_a, w_b, b_b, w_c, b_c, C: tl.constexpr, DOT: tl.constexpr):
    """The weights p_a, p_b, p_c of a tile of the three experts, and their weighted sum o, in float32."""
    s_a = _linear(x_a, w_a, b_a, 0, 1, C, DOT)
    s_b = _linear(x_b, w_b, b_b, 0, 1, C, DOT)
    s_c = _linear(x_c, w_c, b_c, 0, 1, C, DOT)
    top = tl.maximum(s_a, tl.maximum(s_b, s_c))
    p_a, p_b, p_c = tl.exp(s_a - top), tl.exp(s_b - top), tl.exp(s_c - top)
    total = p_a + p_b + p_c
    p_a, p_b, p_c = p_a / total, p_b / total, p_c / total
    return p_a, p_b, p_c, p_a * x_a.to(tl.float32) + p_b * x_b.to(tl.float32) + p_c * x_c.to(tl.float32)


@triton.jit
def _expert_backward(x, scaled, o, weight, de, ds, C: tl.constexpr, DOT: tl.constexpr):
    """Store ds and de of one expert x; `scaled` is p do."""
    grad = (scaled * (x.to(tl.float32) - o)).to(x.dtype)
    tl.store(ds, grad)
    tl.store(de, (scaled + _adjoint(grad, weight, 0, 1, C, DOT)).to(x.dtype))


@triton.jit
def _moe(
    e_a, e_b, e_c, y, w_a, b_a, w_b, b_b, w_c, b_c, w_f, b_f, out,
    C: tl.constexpr, M: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """out = W_f o + b_f + o + y, o = sum of w_i e_i, w = softmax over the three experts of W_i e_i + b_i."""
    n = tl.program_id(0) * M + tl.arange(0, M)
    at = n[:, None] * C + tl.arange(0, C)[None, :]
    x_a, x_b, x_c = tl.load(e_a + at), tl.load(e_b + at), tl.load(e_c + at)
    _, _, _, o = _mixture(x_a, x_b, x_c, w_a, b_a, w_b, b_b, w_c, b_c, C, DOT)
    o += _linear(o.to(x_a.dtype), w_f, b_f, 0, 1, C, DOT) + tl.load(y + at).to(tl.float32)
    tl.store(out + at, o.to(x_a.dtype))


@triton.jit
def _moe_backward(
    e_a, e_b, e_c, dout, w_a, b_a, w_b, b_b, w_c, b_c, w_f, de_a, de_b, de_c, ds_a, ds_b, ds_c, o,
    C: tl.constexpr, M: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Gradients of the three experts and of their scores s_i = W_i e_i + b_i, with p = softmax(s):

    ds_i = p_i do (e_i - o),  de_i = p_i do + W_i^T ds_i,  do = W_f^T dout + dout.  The gradient of y is dout.
    """
    at = (tl.program_id(0) * M + tl.arange(0, M))[:, None] * C + tl.arange(0, C)[None, :]
    x_a, x_b, x_c = tl.load(e_a + at), tl.load(e_b + at), tl.load(e_c + at)
    p_a, p_b, p_c, total = _mixture(x_a, x_b, x_c, w_a, b_a, w_b, b_b, w_c, b_c, C, DOT)
    tl.store(o + at, total.to(x_a.dtype))
    g = tl.load(dout + at)
    do = _adjoint(g, w_f, 0, 1, C, DOT) + g.to(tl.float32)
    _expert_backward(x_a, p_a * do, total, w_a, de_a + at, ds_a + at, C, DOT)
    _expert_backward(x_b, p_b * do, total, w_b, de_b + at, ds_b + at, C, DOT)
    _expert_backward(x_c, p_c * do, total, w_c, de_c + at, ds_c + at, C, DOT)


class _MoEFS(torch.autograd.Function):
    """out = MoEFS(e_a, e_b, e_c) + y; saves the experts."""

    @staticmethod
    def forward(ctx, e_a, e_b, e_c, y, w_a, b_a, w_b, b_b, w_c, b_c, w_f, b_f, dot):
        out, channels, m = torch.empty_like(y), y.shape[-1], min(program_pixels(y), FULL_PIXELS)
        parameters = (w_a, b_a, w_b, b_b, w_c, b_c, w_f)
        _moe[(y.numel() // channels // m,)](
            e_a, e_b, e_c, y, *parameters, b_f, out, C=channels, M=m, DOT=dot, num_warps=8
        )
        ctx.save_for_backward(e_a, e_b, e_c, *parameters)
        ctx.dot = dot
        return out

    @staticmethod
    def backward(ctx, dout):
        e_a, e_b, e_c, *parameters = ctx.saved_tensors
        dout, channels, m = dout.contiguous(), dout.shape[-1], min(program_pixels(dout), FULL_PIXELS)
        maps = [torch.empty_like(dout) for _ in range(7)]
        _moe_backward[(dout.numel() // channels // m,)](
            e_a, e_b, e_c, dout, *parameters, *maps, C=channels, M=m, DOT=ctx.dot, num_warps=8
        )
        *de, ds_a, ds_b, ds_c, o = maps
        pairs = ((e_a, ds_a), (e_b, ds_b), (e_c, ds_c), (o, dout))
        gradients = (_parameter_gradients(a, dz.view(-1, 1, channels), ctx.dot) for a, dz in pairs)
        return *de, dout, *(gradient for pair in gradients for gradient in pair), None


def moe_fs(module: MoEFS, experts: list[Tensor], y: Tensor, precision: str) -> Tensor:
    """MoEFS(experts) + y, the kernels' counterpart of `module(experts) + y`; all maps (B, H, W, C), contiguous.

    H and W are multiples of 16, and the maps of the type that ARITHMETIC gives for `precision`. Parameters are float32
    and so are their gradients.

    Raises:
        ValueError: a map that is not as said.
    """
    for x in (*experts, y):
        check_map(x)
    convolutions = (module.fc_a, module.fc_b, module.fc_c, module.fuse)
    parameters = [parameter for conv in convolutions for parameter in (conv.weight, conv.bias)]
    return _MoEFS.apply(*experts, y, *parameters, ARITHMETIC[precision][1])


# --- tail -------------------------------------------------------------------------------------------------------------


@triton.jit
def _tap_matrix(weight, C: tl.constexpr):
    """The 3x3 convolution C -> 3, weight (3, C, 3, 3), as the matrix (C, 32) of its 27 taps; the rest is zero."""
    c, k = tl.arange(0, C)[:, None], tl.arange(0, 32)[None, :]
    return tl.load(weight + (k // 9 * C + c) * 9 + k % 9, mask=(k < 27) & (c < C), other=0.0)


# H, W and N below stay specialised: they are multiples of 16 in every map that `check_map` lets through, hence one
# kernel for all of them, and without knowing it the compiler would store number by number. See docs/kernels.md.


@triton.jit
def _tail_taps(
    f, w_1, b_1, w_2, b_2, w_t, taps, N,
    TWICE: tl.constexpr, R: tl.constexpr, C: tl.constexpr, M: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The 27 tap products of every output pixel: f (N, C) -> taps (s^2, 27, N). Reads f once, writes 27 s^2 numbers.

    Row i s + j of taps holds output row s y + i, column s x + j of each input pixel: contiguous along N.
    """
    n, c, k = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, C), tl.arange(0, 32)
    x = tl.load(f + n[:, None] * C + c[None, :])
    matrix = _tap_matrix(w_t, C).to(x.dtype)
    for first in range(4 if TWICE else 1):
        a = x
        if TWICE:
            a = gelu(_linear(x, w_1, b_1, first, 4, C, DOT)).to(x.dtype)
        for sub in range(R * R):
            g = gelu(_linear(a, w_2, b_2, sub, R * R, C, DOT)).to(x.dtype)
            product = tl.dot(g, matrix, input_precision=DOT)
            row = sub
            if TWICE:
                row = (first // 2 * 2 + sub // 2) * 4 + first % 2 * 2 + sub % 2
            at = (row * 27 + k).to(tl.int64)[None, :] * N + n[:, None]
            tl.store(taps + at, product.to(x.dtype), mask=(k < 27)[None, :])


@triton.jit
def _source(i, n, step):
    """The two sources and the share of the second, of pixel i of an axis of n upsampled with align_corners=False."""
    position = tl.maximum((i.to(tl.float32) + 0.5) * step - 0.5, 0.0)
    low = position.to(tl.int32)
    return low, tl.minimum(low + 1, n - 1), position - low.to(tl.float32)


@triton.jit
def _tail_fold(taps, bias, image, out, H, W, N, step, S: tl.constexpr, M: tl.constexpr):
    """out (B, 3, sH, sW) = the 3x3 convolution, put together from its taps, + bias + bilinear upsampling of the image.

    A program holds M output pixels, all three colours. Reads taps and image (float32), writes out (float32).
    """
    height, width = S * H, S * W
    m = tl.program_id(0) * M + tl.arange(0, M)
    b, y, x = m // (height * width), m // width % height, m % width
    total = ()
    for colour in tl.static_range(3):
        total = total + (tl.zeros([M], tl.float32) + tl.load(bias + colour),)
    for tap in tl.static_range(9):
        row, column = reflect(y + tap // 3 - 1, height), reflect(x + tap % 3 - 1, width)
        plane = ((row % S * S + column % S) * 27 + tap).to(tl.int64)
        at = taps + plane * N + (b * H + row // S) * W + column // S
        updated = ()
        for colour in tl.static_range(3):
            updated = updated + (total[colour] + tl.load(at + colour * 9 * N.to(tl.int64)).to(tl.float32),)
        total = updated
    y_low, y_high, y_share = _source(y, H, step)
    x_low, x_high, x_share = _source(x, W, step)
    for colour in tl.static_range(3):
        plane = b * 3 + colour
        top, bottom = image + (plane * H + y_low) * W, image + (plane * H + y_high) * W
        skip_top = tl.load(top + x_low) * (1 - x_share) + tl.load(top + x_high) * x_share
        skip_bottom = tl.load(bottom + x_low) * (1 - x_share) + tl.load(bottom + x_high) * x_share
        skip = skip_top * (1 - y_share) + skip_bottom * y_share
        tl.store(out + (plane * height + y).to(tl.int64) * width + x, total[colour] + skip)


@triton.jit
def _tap_gradients(dout, b, y, x, height, width):
    """Gradients of the 27 tap products of output pixels (y, x) of images b: (M, 32) in float32.

    Tap (ty, tx) of a pixel is read by output pixel (y - ty + 1, x - tx + 1); through the reflected border, pixels of
    row 1 are read once more by row 0 with ty = 0, those of row height - 2 by the last row with ty = 2; columns alike.
    """
    y, x, k = y[:, None], x[:, None], tl.arange(0, 32)[None, :]
    ty, tx = k % 9 // 3, k % 3
    image = (b[:, None] * 3 + k // 9) * height
    total = tl.zeros([y.shape[0], 32], tl.float32)
    for mirror in range(tl.where(height > 0, 4, 0)):  # a loop that is not unrolled: it would spill
        mirror_y, mirror_x = mirror // 2 == 1, mirror % 2 == 1
        row = tl.where(mirror_y, tl.where(ty == 0, 0, height - 1), y - ty + 1)
        column = tl.where(mirror_x, tl.where(tx == 0, 0, width - 1), x - tx + 1)
        reads = (k < 27) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        reads &= (mirror_y == 0) | ((ty == 0) & (y == 1)) | ((ty == 2) & (y == height - 2))
        reads &= (mirror_x == 0) | ((tx == 0) & (x == 1)) | ((tx == 2) & (x == width - 2))
        total += tl.load(dout + (image + row).to(tl.int64) * width + column, mask=reads, other=0.0)
    return total


@triton.jit(do_not_specialize=["tiles"])
def _tail_backward(
    f, dout, w_1, b_1, w_2, b_2, w_t, df, a_1, dz_1, dz_2, part, H, W, tiles,
    TWICE: tl.constexpr, R: tl.constexpr, C: tl.constexpr, M: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """df (N, C), and what the weight gradients are made of; the forward pass is computed again from f.

    With z = W a + b the input of a GELU by sub-pixel, z_2 of the last one: dz_2 (N', r^2, C), where a pixel of N' is an
    input pixel (N' = N, a = f) or, TWICE, a sub-pixel of one: then also a_1 and dz_1 (N, 4, C), a_1 being GELU(z_1).
    part (programs, 27 C + 3): this program's sums for the 3x3 convolution's weight (3, C, 3, 3) and bias.
    """
    SUBS: tl.constexpr = R * R
    FIRST: tl.constexpr = 4 if TWICE else 1
    S: tl.constexpr = 2 * R if TWICE else R
    c, k = tl.arange(0, C), tl.arange(0, 32)
    sum_taps = tl.zeros([C, 32], tl.float32)
    sum_dout = tl.zeros([M, 32], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * M + tl.arange(0, M)
        b = n // (H * W)
        x = tl.load(f + n[:, None] * C + c[None, :])
        matrix = tl.trans(_tap_matrix(w_t, C).to(x.dtype))
        dx = tl.zeros([M, C], tl.float32)
        for first in range(FIRST):
            row, column, a, slope_1 = n // W % H, n % W, x, 1.0
            if TWICE:
                row, column = row * 2 + first // 2, column * 2 + first % 2
                z, slope_1 = gelu_with_grad(_linear(x, w_1, b_1, first, 4, C, DOT))
                a = z.to(x.dtype)
            pixel = n * FIRST + first
            da = tl.zeros([M, C], tl.float32)
            for sub in range(SUBS):
                g, slope = gelu_with_grad(_linear(a, w_2, b_2, sub, SUBS, C, DOT))
                dtaps = _tap_gradients(dout, b, row * R + sub // R, column * R + sub % R, S * H, S * W)
                sum_dout += dtaps
                dtaps = dtaps.to(x.dtype)
                sum_taps = tl.dot(tl.trans(g.to(x.dtype)), dtaps, sum_taps, input_precision=DOT)
                dz = (tl.dot(dtaps, matrix, input_precision=DOT) * slope).to(x.dtype)
                tl.store(dz_2 + (pixel * SUBS + sub).to(tl.int64)[:, None] * C + c[None, :], dz)
                da += _adjoint(dz, w_2, sub, SUBS, C, DOT)
            if TWICE:
                at = pixel.to(tl.int64)[:, None] * C + c[None, :]
                dz = (da * slope_1).to(x.dtype)
                tl.store(a_1 + at, a)
                tl.store(dz_1 + at, dz)
                da = _adjoint(dz, w_1, first, 4, C, DOT)
            dx += da
        tl.store(df + n[:, None] * C + c[None, :], dx.to(x.dtype))
    part += tl.program_id(0) * (27 * C + 3)
    tl.store(part + (k // 9 * C)[None, :] * 9 + c[:, None] * 9 + (k % 9)[None, :], sum_taps, mask=(k < 27)[None, :])
    middle = (k < 27) & (k % 9 == 4)  # the tap by which every output pixel reads itself, and nothing else does
    tl.store(part + 27 * C + k // 9, tl.sum(sum_dout, 0), mask=middle)


class _Tail(torch.autograd.Function):
    """out = Tail(f) + bilinear skip of the image; saves f. w_1 and b_1 are None but for x4."""

    @staticmethod
    def forward(ctx, f, image, w_1, b_1, w_2, b_2, w_t, b_t, scale, dot):
        batch, height, width, channels = f.shape
        pixels, m, twice = batch * height * width, program_pixels(f), w_1 is not None
        factor = 2 if twice else scale
        taps = f.new_empty(scale**2, TAPS, pixels)
        cast_1, cast_2 = w_1.to(f.dtype) if twice else None, w_2.to(f.dtype)
        _tail_taps[(pixels // m,)](
            f, cast_1, b_1, cast_2, b_2, w_t, taps, pixels,
            TWICE=twice, R=factor, C=channels, M=m, DOT=dot, num_warps=8, num_stages=1,
        )  # fmt: skip
        out = torch.empty(batch, 3, scale * height, scale * width, device=f.device)
        _tail_fold[(scale**2 * pixels // FOLD_PIXELS,)](
            taps, b_t, image, out, height, width, pixels, 1 / scale, S=scale, M=FOLD_PIXELS, num_warps=4
        )
        ctx.save_for_backward(f, cast_1, b_1, cast_2, b_2, w_t)
        ctx.scale, ctx.dot = scale, dot
        return out

    @staticmethod
    def backward(ctx, dout):
        f, w_1, b_1, w_2, b_2, w_t = ctx.saved_tensors
        batch, height, width, channels = f.shape
        pixels, m, twice = batch * height * width, min(program_pixels(f), FULL_PIXELS), w_1 is not None
        factor, first = 2 if twice else ctx.scale, 4 if twice else 1
        df, dz_2 = torch.empty_like(f), f.new_empty(pixels * first, factor**2, channels)
        a_1, dz_1 = (f.new_empty(pixels, 4, channels) for _ in range(2)) if twice else (None, None)
        tiles = pixels // m
        part = torch.empty(min(common.PROGRAMS // 2, tiles), TAPS * channels + 3, device=f.device)
        _tail_backward[(len(part),)](
            f, dout.contiguous(), w_1, b_1, w_2, b_2, w_t, df, a_1, dz_1, dz_2, part, height, width, tiles,
            TWICE=twice, R=factor, C=channels, M=m, DOT=ctx.dot, num_warps=8, num_stages=1,
        )  # fmt: skip
        dw_t, db_t = part.sum(0).split([TAPS * channels, 3])
        last = *_parameter_gradients(a_1 if twice else f, dz_2, ctx.dot), dw_t.view_as(w_t), db_t
        first = _parameter_gradients(f, dz_1, ctx.dot) if twice else (None, None)
        return df, None, *first, *last, None, None


def tail(layers: nn.Sequential, f: Tensor, x: Tensor, scale: int, precision: str) -> Tensor:
    """Tail(f) + bilinear upsampling of the padded image x: the kernels' counterpart of the end of `SSIU.forward`.

    f is (B, H, W, C), contiguous, of the type that ARITHMETIC gives for `precision`; x is (B, 3, H, W), float32, and
    gets no gradient; H and W are multiples of 16. Returns (B, 3, sH, sW), float32. Parameters are float32 and so are
    their gradients.

    Raises:
        ValueError: f is not as said.
    """
    check_map(f)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    parameters = [parameter for conv in convolutions for parameter in (conv.weight, conv.bias)]
    if len(convolutions) == 2:
        parameters = [None, None, *parameters]
    return _Tail.apply(f, x.contiguous(), *parameters, scale, ARITHMETIC[precision][1])


def _offline_cases() -> list:
    names = ("e_a", "e_b", "e_c", "y", "de_a", "de_b", "de_c", "ds_a", "ds_b", "ds_c", "o")
    names += ("f", "taps", "df", "a", "a_1", "dz", "dz_1", "dz_2", "w_1", "w_2")
    cases = []
    for dtype, dot, size in OFFLINE_KINDS:
        maps = dict.fromkeys(names, f"*{dtype}")
        maps |= dict.fromkeys(("b_1", "b_2", "w_t", "part", "bias", "image"), "*fp32")
        maps |= dict.fromkeys(("H", "W", "N"), "i32:16") | {"tiles": "i32", "step": "fp32"}
        experts = maps | dict.fromkeys(("out", "dout"), f"*{dtype}")
        experts |= {f"{kind}_{of}": "*fp32" for kind in "wb" for of in "abcf"}
        end = maps | dict.fromkeys(("out", "dout"), "*fp32")
        m, most = TILE_PIXELS[size], min(TILE_PIXELS[size], FULL_PIXELS)
        shape = {"C": 64, "DOT": dot}
        cases += [
            (_moe, experts, {"M": most, **shape}, 8, 1),
            (_moe_backward, experts, {"M": most, **shape}, 8, 1),
            (_linear_gradients, end, {"SUBS": 4, "M": m, **shape}, 8, 2),
        ]
        for twice, factor in ((False, 2), (False, 3), (True, 2)):
            missing = {} if twice else {"w_1": None, "b_1": None}
            unwritten = {} if twice else {"a_1": None, "dz_1": None}
            network = {"TWICE": twice, "R": factor, **shape, **missing}
            cases += [
                (_tail_taps, end, {"M": m, **network}, 8, 1),
                (_tail_backward, end, {"M": most, **network, **unwritten}, 8, 1),
                (_tail_fold, end, {"S": 4 if twice else factor, "M": FOLD_PIXELS}, 4, 1),
            ]
    return cases


OFFLINE_CASES = _offline_cases()

"""MSGM on Triton: `W_o( GELU(W_1 x) * W_c( DW3x3( W_a x ) ) )` and the additions around it, (B, H, W, C) maps.

An unfolding stage calls MSGM in three ways, named here by their mode:

    pair        v = MSGM_1(a) + a + y and b = MSGM_2(a)      two MSGMs of one input
    difference  MSGM_3(v - b) + b
    residual    MSGM_4(a) + a

`pair`, `difference` and `residual` are differentiable. `fused` is inference, by one of two routes (`prepare` chooses):

dense       W_c DW W_a is linear and a 1x1 convolution commutes with reflect padding, so the branch is one 3x3
            convolution, reflect-padded, with the matrices K_k = W_c diag(dw_k) W_a and the bias
            W_c (b_dw + sum_k dw_k b_a) + b_c. One kernel, one pass over memory: the input is read, the output written,
            nothing in between. 11 products of CxC a pixel in place of 4. For 16-bit maps, where the matrix units are
            far from busy.
structured  as written: one kernel for u = W_a x, one for all the rest. 4 products and a map more to write and
            to read. For float32, whose products are the bottleneck, and for training: the backward pass needs u.

Training saves x and, for 16-bit maps, u (float32 maps recompute it, which keeps their peak down): per stage the four
maps a, v - b, the input of MSGM_4 and the stage's input in `norm.py`, and with 16 bits four maps u. Everything else is
recomputed. The backward pass is three kernels of at most two CxC sums each, which fit the registers:

    gate_backward      from x, u and the gradient of the output: the gradients of W_1 x and of DW(u), and of W_c, W_o
    taps_backward      from the gradient of DW(u) and u: the gradients of the depthwise convolution's parameters
    input_backward     from both gradients and x: the gradient of x, and of W_1, W_a

Each program sums the weight gradients of its tiles in registers and writes them as one row of a (programs, P) buffer;
one call adds the rows. No atomics: the same bits on every run.

The ten parameters of an MSGM travel as one flat row (`pack`): W_1, W_a, W_c, W_o, b_1, b_a, b_c, b_o, b_dw, dw.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from ..ssiu import MSGM
from . import ARITHMETIC, common
from .common import check_size, gelu, reflect
from .norm import normalise

# --- shared device functions ------------------------------------------------------------------------------------------


@triton.jit
def tile_pixels(tile, H, W, TH: tl.constexpr, TW: tl.constexpr):
    """Pixels of a TH x TW tile: index of their image's first pixel, y, x, and whether they lie inside of the image.

    Tiles are two-dimensional because the taps of neighbouring pixels are then mostly shared: 10x18 pixels are read for
    8x16, instead of 3x130 for a row of 128.
    """
    columns = tl.cdiv(W, TW)
    rows = tl.cdiv(H, TH)
    m = tl.arange(0, TH * TW)
    y = tile // columns % rows * TH + m // TW
    x = tile % columns * TW + m % TW
    return tile // (columns * rows) * H * W, y, x, (y < H) & (x < W)


@triton.jit
def load_map(pointer, pixel, valid, c, C: tl.constexpr):
    """Rows `pixel` of a (pixels, C) map, zero where not `valid`."""
    return tl.load(pointer + pixel[:, None] * C + c[None, :], mask=valid[:, None], other=0.0)


@triton.jit
def store_map(pointer, pixel, valid, c, value, C: tl.constexpr):
    tl.store(pointer + pixel[:, None] * C + c[None, :], value.to(pointer.dtype.element_ty), mask=valid[:, None])


@triton.jit
def load_matrix(pointer, c, C: tl.constexpr):
    """A (C, C) weight, rows are outputs: `tl.dot(x, tl.trans(w))` applies it, `tl.dot(gradient, w)` its adjoint."""
    return tl.load(pointer + c[:, None] * C + c[None, :])


@triton.jit
def depthwise(u_ptr, flat_ptr, base, y, x, inside, c, H, W, C: tl.constexpr):
    """DW3x3(u) of a tile, in float32. Three loads are in flight at a time: with a bound that the compiler cannot know
    the loop over rows stays one, and nine would spill."""
    bias = tl.load(flat_ptr + 4 * C * C + 4 * C + c)
    taps = flat_ptr + 4 * C * C + 5 * C
    t = tl.zeros([y.shape[0], C], tl.float32) + bias[None, :]
    for i in range(tl.where(H > 0, 3, 0)):
        row = base + reflect(y + i - 1, H) * W
        for j in tl.static_range(3):
            tap = load_map(u_ptr, row + reflect(x + j - 1, W), inside, c, C)
            t += tap.to(tl.float32) * tl.load(taps + c * 9 + i * 3 + j)[None, :]
    return t


@triton.jit
def gated(x, p, w_1, b_1, w_o, b_o, PRODUCT: tl.constexpr):
    """W_o( GELU(W_1 x) * p ) of a tile in float32: what follows the context branch p in every route."""
    g = tl.dot(x, tl.trans(w_1), input_precision=PRODUCT) + b_1[None, :]
    m = gelu(g) * p
    return tl.dot(m.to(x.dtype), tl.trans(w_o), input_precision=PRODUCT) + b_o[None, :]


@triton.jit
def finish(
    o, x, other_ptr, out_ptr, normal_ptr, gamma_ptr, beta_ptr, pixel, inside, c,
    MODE: tl.constexpr, KEEP: tl.constexpr, NORM: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add what the mode adds to the first MSGM's output and store it; with NORM also its LayerNorm, while it is here:
    the next stage begins with one."""
    if MODE != "difference":
        o += x.to(tl.float32)
    if MODE != "residual":
        o += load_map(other_ptr, pixel, inside, c, C).to(tl.float32)
    if KEEP:
        store_map(out_ptr, pixel, inside, c, o, C)
    if NORM:
        normal, _ = normalise(o, C)
        o = normal * tl.load(gamma_ptr + c)[None, :] + tl.load(beta_ptr + c)[None, :]
        store_map(normal_ptr, pixel, inside, c, o, C)


# --- forward ----------------------------------------------------------------------------------------------------------


# `size` stays specialised: as a multiple of C it is one of 16, hence one kernel for all sizes, and without knowing it
# the compiler would move the second u of a pair number by number. See docs/kernels.md.


@triton.jit(do_not_specialize=["H", "W"])
def project_kernel(
    x_ptr, other_ptr, low_ptr, flat_ptr, difference_ptr, u_ptr, H, W, size,
    MODE: tl.constexpr, PRODUCT: tl.constexpr, C: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    """u = W_a x + b_a. Reads x (difference: v and b, and writes x = v - b as well); writes u (pair: both)."""
    base, ty, tx, inside = tile_pixels(tl.program_id(0), H, W, TH, TW)
    pixel = base + ty * W + tx
    c = tl.arange(0, C)
    P: tl.constexpr = 4 * C * C + 14 * C
    x = load_map(x_ptr, pixel, inside, c, C)
    if MODE == "difference":
        x = (x.to(tl.float32) - load_map(other_ptr, pixel, inside, c, C).to(tl.float32)).to(x.dtype)
        store_map(difference_ptr, pixel, inside, c, x, C)
    w_a = load_matrix(low_ptr + C * C, c, C)
    b_a = tl.load(flat_ptr + 4 * C * C + C + c)
    u = tl.dot(x, tl.trans(w_a), input_precision=PRODUCT) + b_a[None, :]
    store_map(u_ptr, pixel, inside, c, u, C)
    if MODE == "pair":
        w_a = load_matrix(low_ptr + P + C * C, c, C)
        b_a = tl.load(flat_ptr + P + 4 * C * C + C + c)
        u = tl.dot(x, tl.trans(w_a), input_precision=PRODUCT) + b_a[None, :]
        store_map(u_ptr + size, pixel, inside, c, u, C)


@triton.jit(do_not_specialize=["H", "W"])
def structured_kernel(
    x_ptr, other_ptr, u_ptr, low_ptr, flat_ptr, out_ptr, out2_ptr, normal_ptr, gamma_ptr, beta_ptr, H, W, size,
    MODE: tl.constexpr, KEEP: tl.constexpr, NORM: tl.constexpr, PRODUCT: tl.constexpr, C: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    """The rest of MSGM after `project_kernel`. Reads x, u (nine taps) and y or b; writes the output.

    u holds the maps of all MSGMs of the call, of `size` values each. The two MSGMs of a pair are two programs, next to
    each other, so that the second finds x in the cache: one program for both would need the registers of both.
    """
    COUNT: tl.constexpr = 2 if MODE == "pair" else 1
    which = tl.program_id(0) % COUNT
    base, ty, tx, inside = tile_pixels(tl.program_id(0) // COUNT, H, W, TH, TW)
    pixel = base + ty * W + tx
    c = tl.arange(0, C)
    low_ptr += which * (4 * C * C + 14 * C)
    flat_ptr += which * (4 * C * C + 14 * C)
    u_ptr += which * size
    t = depthwise(u_ptr, flat_ptr, base, ty, tx, inside, c, H, W, C)
    vectors = flat_ptr + 4 * C * C
    w_c = load_matrix(low_ptr + 2 * C * C, c, C)
    b_c = tl.load(vectors + 2 * C + c)[None, :]
    p = tl.dot(t.to(x_ptr.dtype.element_ty), tl.trans(w_c), input_precision=PRODUCT) + b_c
    tl.debug_barrier()  # nothing of what follows is fetched before: fewer registers, more programs at a time
    x = load_map(x_ptr, pixel, inside, c, C)
    w_1 = load_matrix(low_ptr, c, C)
    w_o = load_matrix(low_ptr + 3 * C * C, c, C)
    o = gated(x, p, w_1, tl.load(vectors + c), w_o, tl.load(vectors + 3 * C + c), PRODUCT)
    if MODE == "pair" and which == 1:
        store_map(out2_ptr, pixel, inside, c, o, C)
    else:
        finish(o, x, other_ptr, out_ptr, normal_ptr, gamma_ptr, beta_ptr, pixel, inside, c, MODE, KEEP, NORM, C)


@triton.jit(do_not_specialize=["H", "W"])
def dense_kernel(
    x_ptr, other_ptr, matrices_ptr, vectors_ptr, out_ptr, out2_ptr, normal_ptr, gamma_ptr, beta_ptr, H, W,
    MODE: tl.constexpr, KEEP: tl.constexpr, NORM: tl.constexpr, PRODUCT: tl.constexpr, C: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    """MSGM in one pass, its context branch as a dense 3x3 convolution. Reads x (nine taps; difference: v and b) and
    y or b; writes the output(s). The loop over taps is the pipelined product of a convolution: with num_stages above 1
    the next tap and its matrix are on their way to shared memory while the matrix units work on this one.

    Matrices of one MSGM: K_0 .. K_8, W_1, W_o; vectors: the branch's bias, b_1, b_o."""
    base, ty, tx, inside = tile_pixels(tl.program_id(0), H, W, TH, TW)
    pixel = base + ty * W + tx
    c = tl.arange(0, C)
    second = matrices_ptr + 11 * C * C
    p = tl.zeros([TH * TW, C], tl.float32)
    p2 = tl.zeros([TH * TW, C], tl.float32)
    for k in range(9):
        tap_pixel = base + reflect(ty + k // 3 - 1, H) * W + reflect(tx + k % 3 - 1, W)
        x = load_map(x_ptr, tap_pixel, inside, c, C)
        if MODE == "difference":
            x = (x.to(tl.float32) - load_map(other_ptr, tap_pixel, inside, c, C).to(tl.float32)).to(x.dtype)
        p = tl.dot(x, tl.trans(load_matrix(matrices_ptr + k * C * C, c, C)), p, input_precision=PRODUCT)
        if MODE == "pair":
            p2 = tl.dot(x, tl.trans(load_matrix(second + k * C * C, c, C)), p2, input_precision=PRODUCT)
    x = load_map(x_ptr, pixel, inside, c, C)
    if MODE == "difference":
        x = (x.to(tl.float32) - load_map(other_ptr, pixel, inside, c, C).to(tl.float32)).to(x.dtype)
    w_1 = load_matrix(matrices_ptr + 9 * C * C, c, C)
    w_o = load_matrix(matrices_ptr + 10 * C * C, c, C)
    p += tl.load(vectors_ptr + c)[None, :]
    o = gated(x, p, w_1, tl.load(vectors_ptr + C + c), w_o, tl.load(vectors_ptr + 2 * C + c), PRODUCT)
    finish(o, x, other_ptr, out_ptr, normal_ptr, gamma_ptr, beta_ptr, pixel, inside, c, MODE, KEEP, NORM, C)
    if MODE == "pair":
        w_1 = load_matrix(second + 9 * C * C, c, C)
        w_o = load_matrix(second + 10 * C * C, c, C)
        p2 += tl.load(vectors_ptr + 3 * C + c)[None, :]
        o = gated(x, p2, w_1, tl.load(vectors_ptr + 4 * C + c), w_o, tl.load(vectors_ptr + 5 * C + c), PRODUCT)
        store_map(out2_ptr, pixel, inside, c, o, C)


# --- backward ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["H", "W", "tiles"])
def gate_backward_kernel(
    x_ptr, u_ptr, dout_ptr, low_ptr, flat_ptr, dt_ptr, dg_ptr, rows_ptr, H, W, tiles,
    PRODUCT: tl.constexpr, C: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    """Back through W_o, the gate and W_c, with t = DW(u), p = W_c t, g = W_1 x, m = GELU(g) p recomputed:

        dm = W_o' dout    dg = dm p GELU'(g)    dp = dm GELU(g)    dt = W_c' dp
        dW_o = sum dout m'    db_o = sum dout    dW_c = sum dp t'    db_c = sum dp

    Reads x, u (nine taps), dout; writes dt, dg and a row of partial sums.
    """
    c = tl.arange(0, C)
    vectors = flat_ptr + 4 * C * C
    dw_c = tl.zeros([C, C], tl.float32)
    dw_o = tl.zeros([C, C], tl.float32)
    db_c = tl.zeros([C], tl.float32)
    db_o = tl.zeros([C], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        base, ty, tx, inside = tile_pixels(tile, H, W, TH, TW)
        pixel = base + ty * W + tx
        x = load_map(x_ptr, pixel, inside, c, C)
        t = depthwise(u_ptr, flat_ptr, base, ty, tx, inside, c, H, W, C).to(x.dtype)
        w_1 = load_matrix(low_ptr, c, C)
        g = tl.dot(x, tl.trans(w_1), input_precision=PRODUCT) + tl.load(vectors + c)[None, :]
        # GELU and its derivative, in the order that needs the fewest registers
        slope = g * 0.3989422804014327 * tl.exp(-0.5 * g * g)
        h = 0.5 * (1.0 + tl.math.erf(g * 0.7071067811865476))
        slope += h
        h *= g
        w_c = load_matrix(low_ptr + 2 * C * C, c, C)
        p = tl.dot(t, tl.trans(w_c), input_precision=PRODUCT) + tl.load(vectors + 2 * C + c)[None, :]
        dout = load_map(dout_ptr, pixel, inside, c, C)
        db_o += tl.sum(dout.to(tl.float32), 0)
        dw_o = tl.dot(tl.trans(dout), (h * p).to(x.dtype), dw_o, input_precision=PRODUCT)
        slope *= p
        dm = tl.dot(dout, load_matrix(low_ptr + 3 * C * C, c, C), input_precision=PRODUCT)
        store_map(dg_ptr, pixel, inside, c, dm * slope, C)
        dp = dm * h

        dp = dp.to(x.dtype)
        db_c += tl.sum(dp.to(tl.float32), 0)
        dw_c = tl.dot(tl.trans(dp), t, dw_c, input_precision=PRODUCT)
        store_map(dt_ptr, pixel, inside, c, tl.dot(dp, w_c, input_precision=PRODUCT), C)
    row = rows_ptr + tl.program_id(0) * (4 * C * C + 14 * C)
    matrix = c[:, None] * C + c[None, :]
    tl.store(row + 2 * C * C + matrix, dw_c)
    tl.store(row + 3 * C * C + matrix, dw_o)
    tl.store(row + 4 * C * C + 2 * C + c, db_c)
    tl.store(row + 4 * C * C + 3 * C + c, db_o)


@triton.jit(do_not_specialize=["H", "W", "tiles"])
def taps_backward_kernel(
    u_ptr, dt_ptr, rows_ptr, H, W, tiles,
    C: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    """ddw_k = sum over pixels of dt(n) u(n + k), db_dw = sum dt. Reads dt and u; writes partial sums.

    The second grid axis is the row of the 3x3 taps: three sums a program stay in registers without a reduction inside
    of the loop. The three programs of a tile run side by side, so that memory is read once and the L2 cache thrice.
    """
    r = tl.program_id(1)
    c = tl.arange(0, C)
    left = tl.zeros([TH * TW, C], tl.float32)
    centre = tl.zeros([TH * TW, C], tl.float32)
    right = tl.zeros([TH * TW, C], tl.float32)
    total = tl.zeros([TH * TW, C], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        base, y, x, inside = tile_pixels(tile, H, W, TH, TW)
        dt = load_map(dt_ptr, base + y * W + x, inside, c, C).to(tl.float32)
        row = base + reflect(y + r - 1, H) * W
        left += dt * load_map(u_ptr, row + reflect(x - 1, W), inside, c, C).to(tl.float32)
        centre += dt * load_map(u_ptr, row + x, inside, c, C).to(tl.float32)
        right += dt * load_map(u_ptr, row + reflect(x + 1, W), inside, c, C).to(tl.float32)
        total += dt
    vectors = rows_ptr + tl.program_id(0) * (4 * C * C + 14 * C) + 4 * C * C
    taps = vectors + 5 * C + c * 9 + r * 3
    tl.store(taps, tl.sum(left, 0))
    tl.store(taps + 1, tl.sum(centre, 0))
    tl.store(taps + 2, tl.sum(right, 0))
    if r == 0:
        tl.store(vectors + 4 * C + c, tl.sum(total, 0))


@triton.jit
def depthwise_adjoint(dt_ptr, flat_ptr, base, y, x, inside, c, H, W, C: tl.constexpr):
    """Adjoint of the reflect-padded DW3x3, a tile in float32.

    The pixel at m + e reaches m through the tap -e. Reflection adds nothing but this: a neighbour on the border also
    reaches m through the tap +e of that axis (pixel 0 sees pixel 1 on both sides), hence the same nine loads with up to
    four weights.
    """
    taps = flat_ptr + 4 * C * C + 5 * C + c * 9 + 4  # the centre; a row is 3 further, a column 1
    du = tl.zeros([y.shape[0], C], tl.float32)
    for k in range(9):
        i = k // 3 - 1
        j = k % 3 - 1
        row = y + i
        column = x + j
        valid = inside & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        tap = load_map(dt_ptr, base + row * W + column, valid, c, C)
        mirror_y = (((i < 0) & (row == 0)) | ((i > 0) & (row == H - 1))).to(tl.float32)[:, None]
        mirror_x = (((j < 0) & (column == 0)) | ((j > 0) & (column == W - 1))).to(tl.float32)[:, None]
        plain = tl.load(taps - 3 * i - j)[None, :] + mirror_x * tl.load(taps - 3 * i + j)[None, :]
        mirrored = tl.load(taps + 3 * i - j)[None, :] + mirror_x * tl.load(taps + 3 * i + j)[None, :]
        du += tap.to(tl.float32) * (plain + mirror_y * mirrored)
    return du


@triton.jit(do_not_specialize=["H", "W", "tiles"])
def input_backward_kernel(
    x_ptr, dt_ptr, dg_ptr, dout_ptr, low_ptr, flat_ptr, dx_ptr, dother_ptr, rows_ptr, H, W, tiles,
    MODE: tl.constexpr, PRODUCT: tl.constexpr, C: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    """Back through DW, W_a and W_1: du = DW' dt, dx = W_a' du + W_1' dg, dW_a = sum du x', dW_1 = sum dg x'.

    Reads dt (nine taps), dg, x and what the mode adds to dx; writes dx and a row of partial sums. Modes:
    second (MSGM_2 of a pair): nothing added; first (MSGM_1 of it): adds dv and the dx that `second` left in place;
    residual: adds dout; difference: nothing added, and also writes db = dout - dx.
    """
    c = tl.arange(0, C)
    dw_1 = tl.zeros([C, C], tl.float32)
    dw_a = tl.zeros([C, C], tl.float32)
    db_1 = tl.zeros([C], tl.float32)
    db_a = tl.zeros([C], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        base, ty, tx, inside = tile_pixels(tile, H, W, TH, TW)
        pixel = base + ty * W + tx
        x = load_map(x_ptr, pixel, inside, c, C)
        du = depthwise_adjoint(dt_ptr, flat_ptr, base, ty, tx, inside, c, H, W, C)
        db_a += tl.sum(du, 0)
        du = du.to(x.dtype)
        dw_a = tl.dot(tl.trans(du), x, dw_a, input_precision=PRODUCT)
        dx = tl.dot(du, load_matrix(low_ptr + C * C, c, C), input_precision=PRODUCT)
        tl.debug_barrier()  # float32 products spill if the operands of the second half are fetched during the first
        dg = load_map(dg_ptr, pixel, inside, c, C)
        db_1 += tl.sum(dg.to(tl.float32), 0)
        dw_1 = tl.dot(tl.trans(dg), x, dw_1, input_precision=PRODUCT)
        dx = tl.dot(dg, load_matrix(low_ptr, c, C), dx, input_precision=PRODUCT)
        if MODE != "second":
            dout = load_map(dout_ptr, pixel, inside, c, C).to(tl.float32)
        if MODE == "first":
            dx += load_map(dx_ptr, pixel, inside, c, C).to(tl.float32)
        if MODE == "difference":
            store_map(dother_ptr, pixel, inside, c, dout - dx, C)
        elif MODE != "second":
            dx += dout
        store_map(dx_ptr, pixel, inside, c, dx, C)
    row = rows_ptr + tl.program_id(0) * (4 * C * C + 14 * C)
    matrix = c[:, None] * C + c[None, :]
    tl.store(row + matrix, dw_1)
    tl.store(row + C * C + matrix, dw_a)
    tl.store(row + 4 * C * C + c, db_1)
    tl.store(row + 4 * C * C + C + c, db_a)


# --- launches ---------------------------------------------------------------------------------------------------------

# (rows, columns, warps, stages) of a tile per kernel: for 16-bit maps, for float32 maps with TF32 products, with three
# of them for one, and with float32 products, whose operands all pass through registers. See docs/kernels.md.
TILES = {
    "project": {"16bit": (8, 16, 8, 1), "tf32": (8, 8, 4, 1), "tf32x3": (8, 8, 4, 1), "ieee": (2, 8, 8, 1)},
    "structured": {"16bit": (8, 8, 4, 1), "tf32": (8, 8, 4, 1), "tf32x3": (4, 8, 4, 1), "ieee": (2, 8, 8, 1)},
    "dense": {"16bit": (8, 16, 8, 3), "tf32": (8, 8, 8, 2), "tf32x3": (8, 8, 8, 2), "ieee": (2, 8, 8, 1)},
    "gate_backward": {"16bit": (4, 8, 8, 1), "tf32": (4, 8, 4, 1), "tf32x3": (4, 4, 8, 1), "ieee": (2, 8, 8, 1)},
    "taps_backward": {"16bit": (4, 8, 4, 1), "tf32": (4, 8, 4, 1), "tf32x3": (4, 8, 4, 1), "ieee": (4, 8, 4, 1)},
    "input_backward": {"16bit": (8, 8, 4, 1), "tf32": (4, 8, 4, 1), "tf32x3": (4, 4, 8, 1), "ieee": (2, 8, 8, 1)},
}


def _tile(kernel: str, x: Tensor, product: str) -> tuple[int, dict]:
    """Number of tiles of a (B, H, W, C) map, and the launch options that name their shape."""
    batch, height, width, channels = x.shape
    rows, columns, warps, stages = TILES[kernel]["16bit" if x.element_size() == 2 else product]
    tiles = batch * triton.cdiv(height, rows) * triton.cdiv(width, columns)
    return tiles, {"C": channels, "TH": rows, "TW": columns, "num_warps": warps, "num_stages": stages}


def _check(x: Tensor) -> None:
    if min(x.shape[1:3]) < 2:
        raise ValueError(f"a map of {x.shape[1]}x{x.shape[2]} pixels cannot be reflected: two a side at least")
    check_size(*x.shape)
    if not x.is_contiguous():
        raise ValueError("maps must be contiguous (B, H, W, C)")


# --- parameters -------------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Parameters of n MSGMs for the structured route: rows of W_1, W_a, W_c, W_o, b_1, b_a, b_c, b_o, b_dw, dw."""

    flat: Tensor  # (n, 4 C^2 + 14 C) float32; the biases and taps are read from here, and gradients flow to it
    low: Tensor  # the same in the type of the maps, no gradient; the matrices are read from here


class DenseWeights(NamedTuple):
    """Parameters of n MSGMs for the dense route."""

    matrices: Tensor  # (n, 11, C, C) in the type of the maps: K_0 .. K_8, W_1, W_o
    vectors: Tensor  # (n, 3, C) float32: the bias of the dense convolution, b_1, b_o


def pack(modules: list[MSGM], precision: str) -> Weights:
    """The parameters of some MSGMs, differentiable: a handful of launches for any number of them."""
    parts = []
    for module in modules:
        w_a, depthwise, w_c = module.project_in2
        convolutions = (module.project_in1, w_a, w_c, module.project_out)
        parts += [conv.weight for conv in convolutions] + [conv.bias for conv in convolutions]
        parts += [depthwise.bias, depthwise.weight]
    flat = torch.cat([part.reshape(-1) for part in parts]).view(len(modules), -1)
    return Weights(flat, flat.detach().to(ARITHMETIC[precision][0]))


def densify(weights: Weights, channels: int) -> DenseWeights:
    """Compose the matrices of the dense route, in float64: it costs nothing here, and rounds once."""
    n, square = len(weights.flat), channels**2
    flat = weights.flat.double()
    w_1, w_a, w_c, w_o = flat[:, : 4 * square].view(n, 4, channels, channels).unbind(1)
    b_1, b_a, b_c, b_o, b_dw = flat[:, 4 * square : -9 * channels].view(n, 5, channels).unbind(1)
    taps = flat[:, -9 * channels :].view(n, channels, 9)
    k = (w_c[:, None] * taps.transpose(1, 2)[:, :, None]) @ w_a[:, None]  # (n, 9, C, C)
    bias = (w_c @ (b_dw + taps.sum(2) * b_a)[:, :, None])[:, :, 0] + b_c
    matrices = torch.cat([k, w_1[:, None], w_o[:, None]], dim=1).to(weights.low.dtype)
    return DenseWeights(matrices, torch.stack([bias, b_1, b_o], dim=1).float())


def prepare(modules: list[MSGM], precision: str, route: str | None = None) -> Weights | DenseWeights:
    """Parameters for `fused`. `route` is "dense" or "structured"; by default dense for 16-bit maps."""
    channels = modules[0].project_out.out_channels
    if route is None:
        route = "structured" if ARITHMETIC[precision][0] == torch.float32 else "dense"
    weights = pack(modules, precision)
    return densify(weights, channels) if route == "dense" else weights


def split(weights: Weights | DenseWeights, sizes: list[int]) -> list[Weights | DenseWeights]:
    """Cut the parameters of several MSGMs into those of the first `sizes[0]`, the next `sizes[1]`, ..."""
    return [type(weights)(*rows) for rows in zip(*(tensor.split(sizes) for tensor in weights), strict=True)]


# --- forward and backward ---------------------------------------------------------------------------------------------


def _project(mode: str, x: Tensor, other: Tensor | None, weights: Weights, product: str) -> tuple[Tensor, Tensor]:
    """(input of the MSGMs, u of all of them (n, B, H, W, C))."""
    tiles, options = _tile("project", x, product)
    u = x.new_empty(len(weights.flat), *x.shape)
    difference = torch.empty_like(x) if mode == "difference" else x
    project_kernel[(tiles,)](
        x, other, weights.low, weights.flat, difference, u, *x.shape[1:3], x.numel(),
        MODE=mode, PRODUCT=product, **options,
    )  # fmt: skip
    return difference, u


def _outputs(mode: str, x: Tensor, norm: nn.LayerNorm | None, keep: bool) -> tuple:
    """(output, second output or LayerNorm of the output), None where there is none, and the kernels' options for it."""
    out = torch.empty_like(x) if keep else None
    second = torch.empty_like(x) if mode == "pair" or norm is not None else None
    return out, second, {"MODE": mode, "KEEP": keep, "NORM": norm is not None}


def _structured(mode, x, other, u, weights, product, norm=None, keep=True) -> tuple[Tensor | None, Tensor | None]:
    tiles, tile = _tile("structured", x, product)
    out, second, options = _outputs(mode, x, norm, keep)
    gamma, beta = (norm.weight, norm.bias) if norm is not None else (None, None)
    structured_kernel[(len(u) * tiles,)](
        x, other, u, weights.low, weights.flat, out, second, second, gamma, beta, *x.shape[1:3], x.numel(),
        PRODUCT=product, **options, **tile,
    )  # fmt: skip
    return out, second


def _dense(mode, x, other, weights, product, norm=None, keep=True) -> tuple[Tensor | None, Tensor | None]:
    tiles, tile = _tile("dense", x, product)
    out, second, options = _outputs(mode, x, norm, keep)
    gamma, beta = (norm.weight, norm.bias) if norm is not None else (None, None)
    dense_kernel[(tiles,)](
        x, other, *weights, out, second, second, gamma, beta, *x.shape[1:3], PRODUCT=product, **options, **tile
    )
    return out, second


def fused(mode, x, other, weights: Weights | DenseWeights, precision: str, norm: nn.LayerNorm | None = None, keep=True):
    """One mode without gradients; `other` is y (pair), b (difference) or None (residual).

    Args:
        norm: a LayerNorm of the output, computed while the output is in registers; not for a pair.
        keep: False if the output itself is not wanted, only its LayerNorm.

    Returns:
        pair: (v, b); else (output or None, its LayerNorm or None).
    """
    _check(x)
    product = ARITHMETIC[precision][1]
    if isinstance(weights, DenseWeights):
        return _dense(mode, x, other, weights, product, norm, keep)
    x, u = _project(mode, x, other, weights, product)
    return _structured(mode, x, other, u, weights, product, norm, keep)


def _saved(x: Tensor, u: Tensor) -> Tensor | None:
    """u is worth its memory in 16 bits; in float32 the backward pass recomputes it."""
    return u if x.element_size() == 2 else None


def _backward(x, u, dout, flat, low, product, mode, dx, rows) -> Tensor | None:
    """Backward of one MSGM: fills dx and the partial sums `rows` (programs, P); difference: returns db."""
    programs, size = len(rows), x.shape[1:3]
    dt, dg = torch.empty_like(x), torch.empty_like(x)
    tiles, options = _tile("gate_backward", x, product)
    gate_backward_kernel[(programs,)](x, u, dout, low, flat, dt, dg, rows, *size, tiles, PRODUCT=product, **options)
    tiles, options = _tile("taps_backward", x, product)
    taps_backward_kernel[(programs, 3)](u, dt, rows, *size, tiles, **options)
    dother = torch.empty_like(x) if mode == "difference" else None
    tiles, options = _tile("input_backward", x, product)
    input_backward_kernel[(programs,)](
        x, dt, dg, dout, low, flat, dx, dother, rows, *size, tiles, MODE=mode, PRODUCT=product, **options
    )
    return dother


def _rows(x: Tensor, flat: Tensor) -> Tensor:
    """(n, programs, P): partial sums of the gradients of n rows of parameters."""
    programs = min(common.PROGRAMS, triton.cdiv(x.numel() // x.shape[3], 64))
    return torch.empty(flat.shape[0], programs, flat.shape[1], device=x.device)


class _Pair(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, y, flat, low, product):
        weights = Weights(flat, low)
        a, u = _project("pair", a, None, weights, product)
        v, b = _structured("pair", a, y, u, weights, product)
        ctx.save_for_backward(a, flat, low, _saved(a, u))
        ctx.product = product
        return v, b

    @staticmethod
    def backward(ctx, dv, db):
        a, flat, low, u = ctx.saved_tensors
        if u is None:
            _, u = _project("pair", a, None, Weights(flat, low), ctx.product)
        dv, da, rows = dv.contiguous(), torch.empty_like(a), _rows(a, flat)
        _backward(a, u[1], db.contiguous(), flat[1], low[1], ctx.product, "second", da, rows[1])
        _backward(a, u[0], dv, flat[0], low[0], ctx.product, "first", da, rows[0])
        return da, dv, rows.sum(1), None, None


class _Single(torch.autograd.Function):
    """mode difference: (v, b) -> MSGM(v - b) + b; residual: (a, None) -> MSGM(a) + a."""

    @staticmethod
    def forward(ctx, x, other, flat, low, product, mode):
        weights = Weights(flat, low)
        x, u = _project(mode, x, other, weights, product)
        out, _ = _structured(mode, x, other, u, weights, product)
        ctx.save_for_backward(x, flat, low, _saved(x, u))
        ctx.product, ctx.mode = product, mode
        return out

    @staticmethod
    def backward(ctx, dout):
        x, flat, low, u = ctx.saved_tensors
        if u is None:
            _, u = _project("residual", x, None, Weights(flat, low), ctx.product)
        dx, rows = torch.empty_like(x), _rows(x, flat)
        dother = _backward(x, u[0], dout.contiguous(), flat, low, ctx.product, ctx.mode, dx, rows[0])
        return dx, dother, rows.sum(1), None, None, None


def pair(a: Tensor, y: Tensor, weights: Weights, precision: str) -> tuple[Tensor, Tensor]:
    """v = MSGM_1(a) + a + y, b = MSGM_2(a); differentiable. Saves a (and two u with 16-bit maps)."""
    _check(a)
    return _Pair.apply(a, y, *weights, ARITHMETIC[precision][1])


def difference(v: Tensor, b: Tensor, weights: Weights, precision: str) -> Tensor:
    """MSGM_3(v - b) + b; differentiable. Saves v - b (and u with 16-bit maps)."""
    _check(v)
    return _Single.apply(v, b, *weights, ARITHMETIC[precision][1], "difference")


def residual(a: Tensor, weights: Weights, precision: str) -> Tensor:
    """MSGM_4(a) + a; differentiable. Saves a (and u with 16-bit maps)."""
    _check(a)
    return _Single.apply(a, None, *weights, ARITHMETIC[precision][1], "residual")


# --- offline compilation, see tools/compile_offline.py ----------------------------------------------------------------

_TYPES = dict.fromkeys(("flat_ptr", "rows_ptr", "vectors_ptr", "gamma_ptr", "beta_ptr"), "*fp32")
_TYPES |= {"H": "i32", "W": "i32", "size": "i32:16", "tiles": "i32"}
_PAIR = {"MODE": "pair", "KEEP": True, "NORM": False, "gamma_ptr": None, "beta_ptr": None}
_DIFFERENCE = {"MODE": "difference", "KEEP": True, "NORM": False}
_DIFFERENCE |= dict.fromkeys(("out2_ptr", "normal_ptr", "gamma_ptr", "beta_ptr"))
_RESIDUAL = {"MODE": "residual", "KEEP": True, "NORM": True, "other_ptr": None}
_KERNELS = (
    ("project", project_kernel, {"MODE": "pair", "other_ptr": None}),
    ("project", project_kernel, {"MODE": "difference"}),
    *(("structured", structured_kernel, mode) for mode in (_PAIR, _DIFFERENCE, _RESIDUAL)),
    *(("dense", dense_kernel, mode) for mode in (_PAIR, _DIFFERENCE, _RESIDUAL)),
    ("gate_backward", gate_backward_kernel, {}),
    ("taps_backward", taps_backward_kernel, {}),
    ("input_backward", input_backward_kernel, {"MODE": "first", "dother_ptr": None}),
    ("input_backward", input_backward_kernel, {"MODE": "difference"}),
)


def _case(name: str, kernel, mode: dict, dtype: str, kind: str) -> tuple:
    rows, columns, warps, stages = TILES[name][kind]
    constants = {"C": 64, "TH": rows, "TW": columns, **mode}
    if name != "taps_backward":
        constants["PRODUCT"] = "ieee" if kind == "16bit" else kind
    maps = {argument: f"*{dtype}" for argument in kernel.arg_names if argument not in constants}
    return kernel, maps | {key: type_ for key, type_ in _TYPES.items() if key in maps}, constants, warps, stages


OFFLINE_CASES = [
    _case(name, kernel, mode, dtype, kind)
    for dtype, kind in (("bf16", "16bit"), ("fp32", "tf32"), ("fp32", "tf32x3"), ("fp32", "ieee"))
    for name, kernel, mode in _KERNELS
    if kind == "16bit" or name != "dense"
]

"""SSIU on a CPU: inference in float32, the plain path's numbers (within 1e-5), sooner.

    fast = CpuInference(model)  # an SSIU
    sr = fast(x)  # (B, 3, H, W) -> (B, 3, sH, sW), no gradients

A 1280x720 output takes 98 GFLOP at x4 and 334 at x2, nearly all of it 64x64 products of pixels, and these run at the
processor's peak already. What is saved is the rest: fresh memory (the system hands it out page by page, zeroed: half of
the plain path's time at x2), reflect padding, biases, pixel shuffles, layouts that GELU and convolutions do not like.

- **Memory is kept** (`Maps`) while the input size stays the same, and written in place. Every map is (pixels, C).
- **A frame of two columns.** Rows are W + 2 pixels wide, with the two columns that reflect padding asks for. Products
  keep such a frame right by themselves; depthwise convolutions have theirs renewed, and nothing is ever padded.
- **Biases folded away.** The branch W_c . DW . W_a is linear and reflect padding keeps constants: its biases are one
  bias after W_c. Those of W_o move to where there is a bias anyway, and the products that read the sums take back what
  should not be there (`prepare_stage`). A bias costs a pass over the map: 10 to 15 % of a product.
- **A tail that shuffles only RGB.** GELU and 1x1 convolutions commute with the pixel shuffle, so each of the s x s
  sub-pixels keeps a map of its own, and the 3x3 convolution becomes a product C -> 27 and shifted sums of what it gives
  (`Worker.subpixels`). The shuffles were 10 % of the time; oneDNN's convolution to 3 channels takes 8 times as long.
- **Bands and strips.** Each thread has a band of rows and takes it, a strip at a time, through MSGM_3, MSGM_4 and the
  next stage's LayerNorm, MSGM_1 and MSGM_2 at one go, so that what one product writes the next finds in the cache. A
  depthwise convolution needs the rows above and below, so every MSGM runs a row behind its input (`Lines`). 5 % less
  than whole bands on a server with a large cache.
- **Threads meet three times a stage**, not at each of its 300 operations (`together`): 6 % less on an idle machine, and
  several times less on a busy one, where every meeting waits for whichever thread was interrupted.
- **oneDNN's products with GELU or a gate inside**, where PyTorch has them (internal operators, tried out first): 5 %.

What is left, in CPU time at x4: MSGM up to W_o 46 %, W_o and sums 20 %, ESAM 15 %, tail and MoE-FS 17 %, LayerNorm 2 %.
Products alone, at the processor's peak, would be 44 %.
"""

import math
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ssiu import BLOCK, ESAM, HALO, MSGM, MULTIPLE, SSIU, MoEFS, SSReM, reflect_pad

WINDOW = BLOCK + 2 * HALO
STRIP_PIXELS = 5120  # 1.3 MB of 64 channels; half of it costs 10 % more (Python), twice 5 % (cache misses)
TAIL_PIXELS = 40960  # the same for the tail, in pixels of the output
MIN_STRIP = 8  # rows; the first strip of a band loses up to 6 in the three MSGM that it goes through
MIN_BAND = 32  # rows; 3 more are computed at each end of a band


def unsupported(model: nn.Module) -> str | None:
    """Why this path cannot run `model`, in a line; None where it can."""
    if not isinstance(model, SSIU):
        return f"the model is a {type(model).__name__}, not an SSIU"
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            return f"{name} is {parameter.dtype} on {parameter.device}; the CPU path takes float32 on the CPU"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Products


class Product(NamedTuple):
    """A 1x1 convolution of (pixels, C_in) rows."""

    matrix: Tensor  # (C_in, C_out)
    bias: Tensor
    packed: Tensor | None  # (C_out, C_in) in oneDNN's layout, where its fused products are there


@cache
def fused_products() -> bool:
    """Whether PyTorch has oneDNN's products with GELU or a gate inside, and they do what they are taken for here."""
    x, gate = torch.linspace(-2, 2, 32).view(4, 8), torch.linspace(1, 3, 32).view(4, 8)
    matrix, bias = torch.linspace(-1, 1, 64).view(8, 8), torch.linspace(0, 1, 8)
    try:
        product = Product(matrix, bias, pack(matrix))
        results = activated(x, product), gated(x, product, gate)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    plain = x @ matrix + bias
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(results, (F.gelu(plain), plain * gate), strict=True))


def pack(matrix: Tensor) -> Tensor:
    """(C_in, C_out) -> oneDNN's own layout of it."""
    return torch.ops.mkldnn._reorder_linear_weight(matrix.t().contiguous(), STRIP_PIXELS)


def make_product(matrix: Tensor, bias: Tensor) -> Product:
    return Product(matrix.contiguous(), bias.contiguous(), pack(matrix) if fused_products() else None)


def activated(x: Tensor, product: Product) -> Tensor:
    """GELU(x W + bias)."""
    if product.packed is not None:
        return torch.ops.mkldnn._linear_pointwise(x, product.packed, product.bias, "gelu", [], "none")
    return torch.ops.aten.gelu_(torch.addmm(product.bias, x, product.matrix))


def gated(x: Tensor, product: Product, gate: Tensor) -> Tensor:
    """(x W + bias) * gate."""
    if product.packed is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, gate, product.packed, product.bias, "mul")
    return torch.addmm(product.bias, x, product.matrix).mul_(gate)


# ---------------------------------------------------------------------------------------------------------------------
# Weights, prepared once


def matrix_of(conv: nn.Conv2d) -> Tensor:
    """(C_in, C_out) of a 1x1 convolution."""
    return conv.weight.detach().flatten(1).t().contiguous()


class Gate(NamedTuple):
    """An MSGM: x -> GELU(W_1 x) * W_c(DW(W_a x)), still to be multiplied by W_o, whose bias is not here."""

    w_1: Product
    w_a: Tensor
    depthwise: Tensor  # (C, 1, 3, 3)
    w_c: Product
    w_o: Tensor


def prepare_gate(msgm: MSGM, shift: Tensor) -> Gate:
    """The MSGM as a function of x, where its input is x + shift (a constant for each channel)."""
    conv_a, conv_depthwise, conv_c = msgm.project_in2
    w_1, w_a, w_c = matrix_of(msgm.project_in1), matrix_of(conv_a), matrix_of(conv_c)
    constant = conv_a.bias.detach() + shift @ w_a  # what the biases so far add to every pixel
    if isinstance(conv_depthwise, nn.Conv2d):
        taps = conv_depthwise.weight.detach()
        constant = conv_depthwise.bias.detach() + taps.sum((1, 2, 3)) * constant
    else:  # an ablation
        taps = F.pad(torch.ones(len(constant), 1, 1, 1), (1, 1, 1, 1))
    w_1 = make_product(w_1, msgm.project_in1.bias.detach() + shift @ w_1)
    w_c = make_product(w_c, conv_c.bias.detach() + constant @ w_c)
    return Gate(w_1, w_a, taps, w_c, matrix_of(msgm.project_out))


class Attention(NamedTuple):
    """An ESAM."""

    qkv: Tensor  # (C, 3C)
    relative: Tensor  # (10, 10, C): what is added to the keys of a window
    depthwise: Tensor  # (C, 1, 3, 3)
    bias: Tensor
    heads: int


def prepare_attention(esam: ESAM) -> Attention:
    rel_h, rel_w = esam.rel_h.expand(-1, -1, WINDOW, -1), esam.rel_w.expand(-1, WINDOW, -1, -1)
    relative = torch.cat([rel_h, rel_w], dim=-1)[0].detach().repeat(1, 1, esam.heads)
    conv = esam.LocalProp[0]
    return Attention(matrix_of(esam.qkv_conv), relative, conv.weight.detach(), conv.bias.detach(), esam.heads)


class Stage(NamedTuple):
    """An SS-ReM with the four biases o_1 .. o_4 of W_o moved to where they cost nothing (see `prepare_stage`)."""

    norm_weight: Tensor
    norm_bias: Tensor
    s1: Gate
    s2: Gate
    b_bias: Tensor
    s3: Attention | None
    s4: Gate
    ffn: Gate


def prepare_stage(stage: SSReM) -> Stage:
    """With p_i the gated products of MSGM_i before W_o, the stage's sums are kept as

        a~ = a + o_1                     (LayerNorm's bias holds o_1; MSGM_1 and MSGM_2 know: shift -o_1)
        v  = a~ + y + W_o p_1            (exact)
        b~ = W_o p_2 + o_2 + o_3 + o_4   (one bias)
        d~ = ESAM(v) + v - b~            (MSGM_3 knows: shift o_3 + o_4)
        a~ = b~ + W_o p_3                (too large by o_4; MSGM_4 knows: shift -o_4)
        a  = a~ + W_o p_4                (exact)
    """
    o_1, o_2, o_3, o_4 = (msgm.project_out.bias.detach() for msgm in (stage.s1, stage.s2, stage.s4, stage.ffn))
    return Stage(
        norm_weight=stage.norm.body.weight.detach(),
        norm_bias=stage.norm.body.bias.detach() + o_1,
        s1=prepare_gate(stage.s1, -o_1),
        s2=prepare_gate(stage.s2, -o_1),
        b_bias=o_2 + o_3 + o_4,
        s3=prepare_attention(stage.s3) if stage.s3 is not None else None,
        s4=prepare_gate(stage.s4, o_3 + o_4),
        ffn=prepare_gate(stage.ffn, -o_4),
    )


class Experts(NamedTuple):
    """MoE-FS."""

    scores: list[tuple[Tensor, Tensor]]  # matrix and bias of fc_a, fc_b, fc_c
    fuse: Tensor
    bias: Tensor


def prepare_experts(moe: MoEFS) -> Experts:
    scores = [(matrix_of(fc), fc.bias.detach()) for fc in (moe.fc_a, moe.fc_b, moe.fc_c)]
    return Experts(scores, matrix_of(moe.fuse), moe.fuse.bias.detach())


class Tail(NamedTuple):
    """The tail; `levels[l][i][j]` makes sub-pixel (i, j) of the l-th pixel shuffle."""

    levels: list[list[list[Product]]]
    taps: Tensor  # (27, C): the 3x3 convolution, ordered (column, row, RGB)
    bias: Tensor  # (3, 1, 1)


def prepare_tail(tail: nn.Sequential) -> Tail:
    levels = []
    for conv, shuffle in zip(tail[:-1:3], tail[1:-1:3], strict=True):
        factor = shuffle.upscale_factor
        weight = conv.weight.detach().unflatten(0, (-1, factor, factor)).squeeze((-2, -1))  # (C_out, r, r, C_in)
        bias = conv.bias.detach().unflatten(0, (-1, factor, factor))
        sides = range(factor)
        levels.append([[make_product(weight[:, i, j].t(), bias[:, i, j]) for j in sides] for i in sides])
    taps = tail[-1].weight.detach().permute(3, 2, 0, 1).flatten(0, 2).contiguous()
    return Tail(levels, taps, tail[-1].bias.detach().view(3, 1, 1))


class Weights(NamedTuple):
    scale: int
    channels: int
    head: nn.Conv2d
    stages: list[Stage]
    moe: Experts | None
    tail: Tail


def prepare(model: SSIU) -> Weights:
    moe = prepare_experts(model.moe) if model.moe is not None else None
    stages = [prepare_stage(stage) for stage in model.body]
    return Weights(model.scale, model.head.out_channels, model.head, stages, moe, prepare_tail(model.tail))


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def split(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """start .. stop in `parts` pieces, as equal as can be."""
    edges = [start + (stop - start) * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))


def strips(start: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """start .. stop in equal pieces of `rows` rows or a little more (less than twice as many)."""
    return split(start, stop, max((stop - start) // rows, 1))


def mirror_columns(rows: Tensor) -> None:
    """Renew the frame of (rows, W + 2, C): columns 0 and W + 1 are the reflected columns 2 and W - 1."""
    width = rows.shape[1]
    rows[:, :: width - 1] = rows[:, 2 :: width - 5]


def interpolation(size: int, out_size: int, align_corners: bool) -> Tensor:
    """Linear interpolation as a matrix (out_size, size), by PyTorch's own rules."""
    return F.interpolate(torch.eye(size)[None], size=out_size, mode="linear", align_corners=align_corners)[0].t()


def front(memory: Tensor, *shape: int) -> Tensor:
    """The front of a flat tensor, in some shape."""
    return memory[: math.prod(shape)].view(shape)


class Lines:
    """Line buffers of one MSGM, or of two that share their input: rows go in at the bottom and come out one row late.

    `room(n)` is where to write the next n rows of the input; `run(n)` takes them through and returns the rows that can
    be finished: all but the last, which waits for the row below it, unless it is the last row of the map. A stream that
    starts inside the map also gives nothing for its first row. Rows are (n * (W + 2), C).
    """

    def __init__(self, gates: int, rows: int, row_pixels: int, channels: int):
        self.row_pixels = row_pixels
        self.x, *self.u = (torch.empty((rows + 3) * row_pixels, channels) for _ in range(1 + gates))  # u: W_a x

    def start(self, gates: tuple[Gate, ...], first: int, height: int) -> None:
        """A new stream, whose first row is row `first` of the map."""
        self.gates, self.height = gates, height
        self.base = first or -1  # the row that the buffers start with; -1 is the reflected row 1
        self.held = 0 if first else 1
        self.spent = 0  # rows at the front that the last run finished

    def room(self, count: int) -> Tensor:
        """Drop what the last run finished, keeping two rows, and give room for `count` more."""
        pixels = self.row_pixels
        if self.spent:
            for rows in (self.x, *self.u):
                rows[: 2 * pixels] = rows[self.spent * pixels : (self.spent + 2) * pixels]
            self.base, self.held, self.spent = self.base + self.spent, 2, 0
        return self.x[self.held * pixels : (self.held + count) * pixels]

    def run(self, count: int) -> tuple[int, int, Tensor, list[Tensor]]:
        """(lo, hi, rows lo .. hi of the input, the gated products of these rows)."""
        pixels, held = self.row_pixels, self.held + count
        at_bottom = self.base + held == self.height
        self.spent = held - 2 + at_bottom
        new = slice(self.held * pixels, held * pixels)
        inner = self.x[pixels : (self.spent + 1) * pixels]
        products = []
        for gate, u in zip(self.gates, self.u, strict=True):
            torch.mm(self.x[new], gate.w_a, out=u[new])
            if self.base == -1:
                u[:pixels] = u[2 * pixels : 3 * pixels]
            if at_bottom:
                u[held * pixels : (held + 1) * pixels] = u[(held - 2) * pixels : (held - 1) * pixels]
            context = self.depthwise(u[: (self.spent + 2) * pixels], gate.depthwise)
            products.append(gated(context, gate.w_c, activated(inner, gate.w_1)))
        return self.base + 1, self.base + 1 + self.spent, inner, products

    def depthwise(self, u: Tensor, taps: Tensor) -> Tensor:
        """3x3 on whole framed rows, one row less at each end. The frame comes out wrong (zeros stand beside it) and is
        renewed: this costs a tenth of what padding the map costs. oneDNN takes the transposed view as it is."""
        u = u.view(1, -1, self.row_pixels, u.shape[1]).permute(0, 3, 1, 2)
        out = F.conv2d(u, taps, padding=(0, 1), groups=len(taps)).permute(0, 2, 3, 1)
        mirror_columns(out[0])
        return out.reshape(-1, len(taps))


# ---------------------------------------------------------------------------------------------------------------------
# The network


class Maps:
    """The memory for inputs of one size, and how its rows are shared out to the workers.

    Kept between calls: the system hands out large blocks page by page, zeroed, which costs more than filling them.
    """

    def __init__(self, weights: Weights, height: int, width: int, visible: int, workers: int):
        self.size = (height, width, visible, workers)
        self.height, self.width, self.row_pixels = height, width, width + 2
        scale, channels, pixels = weights.scale, weights.channels, height * self.row_pixels
        self.bands = split(0, height, workers)
        self.half_bands = split(0, height // 2, workers)
        self.block_bands = split(0, height // MULTIPLE, workers)
        self.visible_bands = split(0, visible, workers)  # the tail stops where the output will be cut
        self.strip = max(STRIP_PIXELS // self.row_pixels, MIN_STRIP)
        self.tail_strip = max(TAIL_PIXELS // (scale**2 * width), 1)

        self.y = torch.empty(pixels, channels)
        self.v = torch.empty(2, pixels, channels)  # two of each: the sweep that reads a stage's writes the next one's
        self.b = torch.empty(2, pixels, channels)
        self.experts = torch.empty(3 if weights.moe else 1, pixels, channels)
        self.attended = torch.empty(height // 2 + 2, width // 2 + 2, channels)  # with a frame
        self.spread = torch.empty(height // 2, self.row_pixels * channels)  # already as wide as the map
        self.spread_rows = interpolation(height // 2, height, align_corners=True)
        self.skip_rows = interpolation(height, scale * height, align_corners=False)
        self.skip_columns = interpolation(width, scale * width, align_corners=False).t().contiguous()
        self.workers = [Worker(weights, self, index) for index in range(workers)]


class Worker:
    """Computes one band of rows; `wait` is called where it needs what the others do."""

    def __init__(self, weights: Weights, maps: Maps, index: int):
        self.weights, self.maps, self.index = weights, maps, index
        self.lines_s4, self.lines_ffn, self.lines_s12 = (
            Lines(gates, 2 * maps.strip + 2, maps.row_pixels, weights.channels) for gates in (1, 1, 2)
        )
        self.pooled = torch.zeros(WINDOW, maps.width // 2 + 2, weights.channels)  # its frame stays zero
        pixels = weights.scale**2 * 2 * maps.tail_strip * maps.row_pixels
        self.planes, self.across = torch.empty(27 * pixels), torch.empty(9 * pixels)

    def rows(self, a: Tensor, lo: int, hi: int) -> Tensor:
        return a[lo * self.maps.row_pixels : hi * self.maps.row_pixels]

    def run(self, image: Tensor, out: Tensor, wait: Callable[[], None]) -> list[tuple[Tensor, Tensor]]:
        """image (3, H + 2, W + 2), reflect-padded -> out (3, sH, sW), both shared by all workers.

        Returns what is to be added to rows of others: (rows of out, value).
        """
        stages = self.weights.stages
        self.shallow(image)
        wait()
        for number in range(len(stages) + 1):
            self.sweep(number)
            wait()
            if number < len(stages) and stages[number].s3 is not None:
                self.attend(stages[number].s3, self.maps.v[number % 2])
                wait()
                self.widen(stages[number].s3)
                wait()
        return self.reconstruct(image, out)

    def shallow(self, image: Tensor) -> None:
        """y = head(image)."""
        maps, head = self.maps, self.weights.head
        for lo, hi in strips(*maps.bands[self.index], maps.strip):
            y = self.rows(maps.y, lo, hi).view(hi - lo, maps.row_pixels, -1)
            y[:, 1:-1] = F.conv2d(image[None, :, lo : hi + 2], head.weight, head.bias)[0].permute(1, 2, 0)
            mirror_columns(y)

    def sweep(self, number: int) -> None:
        """From v and b of stage `number - 1` (from y, if there is none) to v and b of stage `number` (if there is one):
        S3.b and feed-forward of the one, LayerNorm, S1 and S2 of the other."""
        maps, stages = self.maps, self.weights.stages
        before = stages[number - 1] if number else None
        after = stages[number] if number < len(stages) else None
        first, last = maps.bands[self.index]
        margin = 2 * (before is not None) + (after is not None)  # rows lost to neighbouring bands, one for each MSGM
        start, stop = max(first - margin, 0), min(last + margin, maps.height)
        lines = [(self.lines_s4, (before.s4,)), (self.lines_ffn, (before.ffn,))] if before else []
        lines += [(self.lines_s12, (after.s1, after.s2))] if after else []
        for depth, (line, gates) in enumerate(lines):
            line.start(gates, start + depth if start else 0, maps.height)

        for lo, hi in strips(start, stop, maps.strip):
            a = self.rows(maps.y, lo, hi)
            if before:
                lo, hi, a = self.finish(number - 1, lo, hi)
            if after:
                self.begin(number, lo, hi, a)

    def begin(self, number: int, lo: int, hi: int, a: Tensor) -> None:
        """LayerNorm, MSGM_1, MSGM_2: rows lo .. hi of a go in, finished rows of v and b come out."""
        maps, stage = self.maps, self.weights.stages[number]
        normal = F.layer_norm(a, a.shape[-1:], stage.norm_weight, stage.norm_bias, 1e-6)
        self.lines_s12.room(hi - lo).copy_(normal)
        lo, hi, a, (z, b) = self.lines_s12.run(hi - lo)
        v = self.rows(maps.v[number % 2], lo, hi)
        torch.add(a, self.rows(maps.y, lo, hi), out=v).addmm_(z, stage.s1.w_o)
        torch.addmm(stage.b_bias, b, stage.s2.w_o, out=self.rows(maps.b[number % 2], lo, hi))

    def finish(self, number: int, lo: int, hi: int) -> tuple[int, int, Tensor]:
        """MSGM_3 and MSGM_4: rows lo .. hi of ESAM(v) + v - b go in, finished rows of the stage's output come out."""
        maps, stage = self.maps, self.weights.stages[number]
        d = self.lines_s4.room(hi - lo)
        torch.sub(self.rows(maps.v[number % 2], lo, hi), self.rows(maps.b[number % 2], lo, hi), out=d)
        if stage.s3 is not None:  # + the rest of ESAM's upsampling, from the few rows of `spread` that these rows need
            near, far = max(lo // 2 - 1, 0), hi // 2 + 2
            d.view(hi - lo, -1).addmm_(maps.spread_rows[lo:hi, near:far], maps.spread[near:far])
        lo, hi, _, (gated_product,) = self.lines_s4.run(hi - lo)
        b = self.rows(maps.b[number % 2], lo, hi)
        torch.addmm(b, gated_product, stage.s4.w_o, out=self.lines_ffn.room(hi - lo))
        lo, hi, a, (gated_product,) = self.lines_ffn.run(hi - lo)
        a.addmm_(gated_product, stage.ffn.w_o)
        self.keep(number, lo, hi, a)
        return lo, hi, a

    def keep(self, number: int, lo: int, hi: int, a: Tensor) -> None:
        """Store the band's rows of a stage's output, where MoE-FS (or else the tail) will want them."""
        maps, (first, last) = self.maps, self.maps.bands[self.index]
        expert, rest = divmod(number + 1, len(self.weights.stages) // len(maps.experts))
        if not rest:
            inside = slice(max(first - lo, 0) * maps.row_pixels, (min(last, hi) - lo) * maps.row_pixels)
            self.rows(maps.experts[expert - 1], max(lo, first), min(hi, last)).copy_(a[inside])

    def attend(self, attention: Attention, v: Tensor) -> None:
        """Pooling and windowed attention, a row of blocks at a time: v -> maps.attended."""
        maps, channels = self.maps, self.weights.channels
        half, columns = maps.height // 2, maps.width // MULTIPLE
        heads = (attention.heads, channels // attention.heads)
        for block in range(*maps.block_bands[self.index]):
            top = BLOCK * block  # the window reaches from row top - 1 to row top + 8 of the halved map
            self.pool(v, top - HALO, top + BLOCK + HALO)
            qkv = torch.mm(self.pooled.view(-1, channels), attention.qkv).view(WINDOW, -1, 3 * channels)
            q, k, v_ = qkv.split(channels, dim=-1)
            q = q[HALO:-HALO, HALO:-HALO].unfold(1, BLOCK, BLOCK).permute(1, 0, 3, 2)  # (w/8, 8, 8, C)
            k, v_ = (t.unfold(1, WINDOW, BLOCK).permute(1, 0, 3, 2) for t in (k, v_))  # (w/8, 10, 10, C)
            k = torch.add(k, attention.relative, out=torch.empty(k.shape))  # on its own it would keep k's strides
            q, k, v_ = (t.reshape(columns, -1, *heads).transpose(1, 2) for t in (q, k, v_))
            o = F.scaled_dot_product_attention(q, k, v_).transpose(1, 2)  # (w/8, 64, heads, d)
            o = o.reshape(columns, BLOCK, BLOCK, channels).transpose(0, 1)
            rows = maps.attended[top + 1 : top + 1 + BLOCK]
            rows[:, 1:-1].unflatten(1, (columns, BLOCK)).copy_(o)
            mirror_columns(rows)
            if top == 0:
                maps.attended[0] = maps.attended[2]
            if top + BLOCK == half:
                maps.attended[-1] = maps.attended[-3]

    def pool(self, v: Tensor, top: int, bottom: int) -> None:
        """MaxPool 2x2: rows top .. bottom of the halved map, zero outside of it, to `pooled`."""
        near, far = max(top, 0), min(bottom, self.maps.height // 2)
        v = self.rows(v, 2 * near, 2 * far).view(far - near, 2, self.maps.row_pixels, -1)
        tall = torch.maximum(v[:, 0], v[:, 1])
        torch.maximum(tall[:, 1:-1:2], tall[:, 2::2], out=self.pooled[near - top : far - top, 1:-1])
        self.pooled[: near - top] = 0
        self.pooled[far - top :] = 0

    def widen(self, attention: Attention) -> None:
        """ESAM's depthwise convolution and the horizontal half of its upsampling: maps.attended -> maps.spread."""
        maps = self.maps
        for lo, hi in strips(*maps.half_bands[self.index], maps.strip):
            o = maps.attended[None, lo : hi + 2].permute(0, 3, 1, 2)
            o = F.conv2d(o, attention.depthwise, attention.bias, groups=self.weights.channels)
            o = F.interpolate(o, size=(hi - lo, maps.width), mode="bilinear", align_corners=True)
            wide = maps.spread[lo:hi].view(hi - lo, maps.row_pixels, -1)
            wide[:, 1:-1] = o[0].permute(1, 2, 0)
            mirror_columns(wide)

    def fuse(self, lo: int, hi: int) -> Tensor:
        """f = MoE-FS(experts) + y, rows lo .. hi."""
        y, moe = self.rows(self.maps.y, lo, hi), self.weights.moe
        experts = [self.rows(expert, lo, hi) for expert in self.maps.experts]
        if moe is None:
            return experts[0] + y
        scores = torch.empty(3, *y.shape)
        for score, expert, (weight, bias) in zip(scores, experts, moe.scores, strict=True):
            torch.addmm(bias, expert, weight, out=score)
        shares = scores.softmax(dim=0)
        o = shares[0].mul_(experts[0]).addcmul_(shares[1], experts[1]).addcmul_(shares[2], experts[2])
        return torch.addmm(moe.bias, o, moe.fuse).add_(o).add_(y)

    def reconstruct(self, image: Tensor, out: Tensor) -> list[tuple[Tensor, Tensor]]:
        """MoE-FS, tail and bilinear skip, written to `out`. What the 3x3 convolution adds to rows of other bands is
        returned: (rows of out, value)."""
        maps, tail, s = self.maps, self.weights.tail, self.weights.scale
        first, last = maps.visible_bands[self.index]
        out = out.view(3, -1, s, maps.width, s)
        foreign, pending = [], None
        for lo, hi in strips(first, last, maps.tail_strip):
            rgb, above, below = self.subpixels(self.fuse(lo, hi), lo, hi)
            near, far = max(lo - 1, 0), min(hi + 1, maps.height)
            skip = image[:, near + 1 : far + 1, 1:-1] @ maps.skip_columns
            skip = torch.matmul(maps.skip_rows[lo * s : hi * s, near:far], skip).add_(tail.bias)
            torch.add(rgb, skip.view(rgb.shape), out=out[:, lo:hi])
            if pending is not None:
                out[:, lo, 0] += pending
            if lo > first:
                out[:, lo - 1, -1] += above
            elif lo > 0:
                foreign.append((out[:, lo - 1, -1], above))
            pending = below
        if last < out.shape[1]:
            foreign.append((out[:, last, 0], pending))
        return foreign

    def subpixels(self, f: Tensor, lo: int, hi: int) -> tuple[Tensor, Tensor, Tensor]:
        """The tail for rows lo .. hi of f, as (3, rows, s, W, s), and what it adds to the rows of the output above and
        below these, each (3, W, s).

        Every sub-pixel's map of C channels becomes 27 planes (tap column, tap row, RGB). A tap to the left of sub-pixel
        column 0 is column s - 1 of the pixel to the left, and so on: the planes are shifted by whole pixels and added,
        first columns, then rows, with reflection at the map's edges.
        """
        maps, s = self.maps, self.weights.scale
        rows, width = hi - lo, maps.width
        planes = front(self.planes, s, s, 3, 9, rows, width + 2)
        for i, j, z in self.upsampled(f):
            torch.mm(self.weights.tail.taps, z.t(), out=planes[i, j].view(27, -1))
        planes[:, -1, 0, ..., 0] = planes[:, 1, 0, ..., 1]  # the frame, reflected about the outermost sub-pixel
        planes[:, 0, 2, ..., -1] = planes[:, -2, 2, ..., -2]

        def shifted(tap: int, j: int) -> Tensor:
            at = 1 + j // s
            return planes[:, j % s, tap, ..., at : at + width]

        across = front(self.across, s, s, 9, rows, width)  # (column, row of the sub-pixel, tap row and RGB, H, W)
        for j in range(s):
            torch.add(shifted(1, j), shifted(0, j - 1), out=across[j]).add_(shifted(2, j + 1))
        from_above, centre, from_below = across.split(3, dim=2)
        centre[:, 1:] += from_above[:, :-1]
        centre[:, 0, :, 1:] += from_above[:, -1, :, :-1]
        centre[:, :-1] += from_below[:, 1:]
        centre[:, -1, :, :-1] += from_below[:, 0, :, 1:]
        if lo == 0:
            centre[:, 0, :, 0] += from_above[:, 1, :, 0]
        if hi == maps.height:
            centre[:, -1, :, -1] += from_below[:, -2, :, -1]
        above, below = from_below[:, 0, :, 0].clone(), from_above[:, -1, :, -1].clone()
        return centre.permute(2, 3, 1, 4, 0), above.permute(1, 2, 0), below.permute(1, 2, 0)

    def upsampled(self, x: Tensor, level: int = 0, i: int = 0, j: int = 0) -> Iterator[tuple[int, int, Tensor]]:
        """(i, j, features) of each of the s x s sub-pixels, one map at a time so that it is used while in the cache."""
        if level == len(self.weights.tail.levels):
            yield i, j, x
            return
        factor = len(self.weights.tail.levels[level])
        for row, products in enumerate(self.weights.tail.levels[level]):
            for column, product in enumerate(products):
                yield from self.upsampled(activated(x, product), level + 1, factor * i + row, factor * j + column)


def together(tasks: list[Callable[[Callable[[], None]], None]]) -> None:
    """Run the tasks at once, one thread each, where a task's argument waits until all have called it.

    PyTorch's threads are shared out among ours. set_num_threads holds for the thread that calls it and for those that
    start later, so the caller says it again once ours have started. They live for one call: a process may fork after.
    """
    if len(tasks) == 1:
        return tasks[0](lambda: None)
    total, errors = torch.get_num_threads(), []
    barrier, ready = threading.Barrier(len(tasks)), threading.Barrier(len(tasks) + 1)

    def work(task: Callable[[Callable[[], None]], None]) -> None:
        torch.get_num_threads()  # a new thread takes the process's number at its first use: now, not later
        torch.set_num_threads(total // len(tasks))
        ready.wait()
        try:
            with torch.no_grad():
                task(barrier.wait)
        except threading.BrokenBarrierError:
            pass
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    ready.wait()
    torch.set_num_threads(total)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class CpuInference:
    """SSIU's forward pass without gradients, on the CPU in float32: (B, 3, H, W) -> (B, 3, sH, sW).

    The weights are prepared at the first call, and anew when a parameter has changed since (an optimiser step,
    load_state_dict: whatever moves a tensor or its version). The memory for the last input size is kept: at x4 for a
    1280x720 output 0.2 GB, at x2 0.6. Calls from several threads wait for one another.

    Raises:
        ValueError: a model or an input that this path cannot run (see `unsupported`).
    """

    def __init__(self, model: SSIU):
        self.model = model
        self.lock = threading.Lock()
        self.version = self.weights = self.maps = None
        self.check()

    def check(self) -> None:
        if reason := unsupported(self.model):
            raise ValueError(reason)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise ValueError(f"the input is {x.dtype} on {x.device}; the CPU path takes float32 on the CPU")
        height, width = x.shape[-2:]
        x = reflect_pad(x)
        visible = min(height + 1, x.shape[2])  # the last row of the output looks one row further down
        with self.lock:
            self.update(*x.shape[2:], visible)
            scale = self.weights.scale
            out = x.new_empty(len(x), 3, scale * visible, scale * x.shape[3])
            images = F.pad(x, (1, 1, 1, 1), mode="reflect")
            together([partial(self.work, worker, images, out) for worker in self.maps.workers])
        return out[..., : scale * height, : scale * width]

    def update(self, height: int, width: int, visible: int) -> None:
        """Prepare the weights, if they have changed, and the memory, if the size has."""
        threads = torch.get_num_threads() if torch.backends.openmp.is_available() else 1  # others keep their number
        workers = max(min(threads, height // MIN_BAND, height * width // STRIP_PIXELS), 1)
        version = [(parameter.data_ptr(), parameter._version) for parameter in self.model.parameters()]
        size = (height, width, visible, workers)
        if version != self.version:
            self.check()
            self.version, self.weights, self.maps = version, prepare(self.model), None
        if self.maps is None or self.maps.size != size:
            self.maps = None  # given back before the next are taken
            self.maps = Maps(self.weights, *size)

    @staticmethod
    def work(worker: Worker, images: Tensor, out: Tensor, wait: Callable[[], None]) -> None:
        for image, sr in zip(images, out, strict=True):
            foreign = worker.run(image, sr, wait)
            wait()
            for rows, value in foreign:
                rows += value

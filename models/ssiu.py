"""The SSIU network: N unfolding stages (SS-ReM), each of four MSGM and one ESAM, fused by MoE-FS.

"Structural Similarity-Inspired Unfolding for Lightweight Image Super-Resolution", IEEE TIP 2025.

Feature maps travel as (B, H, W, C), channels last: convolutions, LayerNorm and attention all work on that memory, and
nothing is copied between them. Images stay (B, 3, H, W) in [0, 1] outside of `SSIU.forward`.
Attribute names are those of the published checkpoints, so that state dicts fit without translation. Modules are made in
the published order, too: it decides which initial weights a seed gives, and how the optimiser numbers its moments.

This file is the definition of the network, written to be read and to be differentiated; the faster paths
(`models/cpu.py`, `models/kernels/`) are checked against it.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SCALES = (2, 3, 4)
MSGMS = ("s1", "s2", "s4", "ffn")  # checkpoint names of MSGM_1 .. MSGM_4
BLOCK, HALO = 8, 1  # ESAM: side of a query block, ring of neighbours added to its window
MULTIPLE = 2 * BLOCK  # inputs are padded to this: ESAM halves the map, then cuts it into blocks


def check_architecture(scale: int, n_feats: int, num_heads: int, n_blocks: int, msgm_depthwise) -> None:
    """Raise ValueError, naming the key, for a network that cannot be built."""
    if scale not in SCALES:
        raise ValueError(f"scale: {scale} is not one of {SCALES}")
    if n_blocks < 3 or n_blocks % 3:
        raise ValueError(f"n_blocks: {n_blocks} is not a positive multiple of 3 (MoE-FS fuses stages N/3, 2N/3 and N)")
    if num_heads < 1 or n_feats < 1 or n_feats % (2 * num_heads):
        raise ValueError(f"n_feats: {n_feats} is not a positive multiple of 2 x num_heads = {2 * num_heads}")
    if not set(msgm_depthwise) <= {1, 2, 3, 4}:
        raise ValueError(f"msgm_depthwise: {list(msgm_depthwise)} must hold numbers from 1 to 4 (of MSGM_1 .. MSGM_4)")


def convolve(x: Tensor, conv: nn.Module) -> Tensor:
    """A convolution of a (B, H, W, C) map; the transposed view is channels-last memory, so nothing is copied.

    Also for 1x1 convolutions: a linear layer is the same product, but PyTorch copies its bias first (on a CPU 4.8 ms in
    place of 2.7 ms for 64 channels of 192x320).
    """
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of (..., queries, d) and (..., keys, d).

    On a CPU in training by plain products, in float32: PyTorch's fused kernel takes a fifth of a step for windows as
    small as these, most of it in the backward pass, and what PyTorch has beside it looks for rows that are masked.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):
            scores = q.float() * q.shape[-1] ** -0.5 @ k.float().transpose(-1, -2)
            return (scores.softmax(dim=-1) @ v.float()).to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v)


def windows_of(x: Tensor) -> Tensor:
    """The 10x10 window around each 8x8 block of a (B, h, w, C) map: (B, h/8, 10, w/8, 10, C), zeros outside the map.

    Each is a block of the padded map, and what it takes of the next one. `unfold` says the same in a line, but its
    backward pass goes through all numbers of all windows.
    """
    x = F.pad(x, (0, 0, HALO, BLOCK - HALO, HALO, BLOCK - HALO))
    x = x.unflatten(1, (-1, BLOCK))
    x = torch.cat([x[:, :-1], x[:, 1:, : 2 * HALO]], dim=2)  # (B, h/8, 10, w + 8, C)
    x = x.unflatten(3, (-1, BLOCK))
    return torch.cat([x[:, :, :, :-1], x[:, :, :, 1:, : 2 * HALO]], dim=4)


def reflect_conv3x3(in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect", groups=groups)


class LayerNorm(nn.Module):
    """LayerNorm over the channels of a (B, H, W, C) map, eps 1e-6."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.LayerNorm(channels, eps=1e-6)  # `body` for the published key names

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MSGM(nn.Module):
    """Mixed-scale gating: `W_o( GELU(W_1 x) * W_c( DW3x3( W_a x ) ) )`, (B, H, W, C) -> (B, H, W, C).

    The second branch has no nonlinearity inside. Without `depthwise` (an ablation) it is `W_c(W_a x)`.
    """

    def __init__(self, channels: int, depthwise: bool = True):
        super().__init__()
        self.project_in1 = nn.Conv2d(channels, channels, 1)
        self.project_in2 = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            reflect_conv3x3(channels, channels, groups=channels) if depthwise else nn.Identity(),
            nn.Conv2d(channels, channels, 1),
        )
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.gelu(convolve(x, self.project_in1))
        return convolve(gate * convolve(x, self.project_in2), self.project_out)


class ESAM(nn.Module):
    """Efficient sparse attention: 8x8 blocks of a halved map look at the 10x10 window around them.

    (B, H, W, C) -> (B, H, W, C), H and W multiples of 16. Outside the map, keys and values are zero and do take part
    in the softmax, with their relative position added to them like to any other key.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        half, window = channels // heads // 2, BLOCK + 2 * HALO
        self.heads = heads
        self.rel_h = nn.Parameter(torch.randn(1, window, 1, half))
        self.rel_w = nn.Parameter(torch.randn(1, 1, window, half))
        self.LocalProp = nn.Sequential(reflect_conv3x3(channels, channels, groups=channels))
        self.qkv_conv = nn.Conv2d(channels, 3 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u = F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)  # (B, h, w, C), h = H/2, w = W/2
        o = convolve(self.attend(u), self.LocalProp[0])
        o = F.interpolate(o.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=True)
        return o.permute(0, 2, 3, 1)

    def positions(self) -> Tensor:
        """What is added to the keys of a window, for every head: (1, 10, 10, d), rows in the first half, columns in the
        second."""
        window = BLOCK + 2 * HALO
        return torch.cat([self.rel_h.expand(-1, -1, window, -1), self.rel_w.expand(-1, window, -1, -1)], dim=-1)

    def attend(self, u: Tensor) -> Tensor:
        """Windowed attention on the halved map: (B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, channels = u.shape
        q, kv = convolve(u, self.qkv_conv).split([channels, 2 * channels], dim=-1)
        q = rearrange(q, "b (i p) (j q) (n d) -> (b i j) n (p q) d", p=BLOCK, q=BLOCK, n=self.heads)
        k, v = rearrange(windows_of(kv), "b i p j q (t n d) -> t (b i j) n p q d", t=2, n=self.heads)
        k = k + self.positions().to(k.dtype)
        o = attention(q, k.flatten(2, 3), v.flatten(2, 3))
        grid = {"b": batch, "i": height // BLOCK, "j": width // BLOCK, "p": BLOCK, "q": BLOCK}
        return rearrange(o, "(b i j) n (p q) d -> b (i p) (j q) (n d)", **grid)


class SSReM(nn.Module):
    """One unfolding stage, S1 .. S3.b of the paper's figure and a gated feed-forward: (a, y) -> a, all (B, H, W, C)."""

    def __init__(self, channels: int, heads: int, use_esam: bool = True, msgm_depthwise=(1, 2, 3, 4)):
        super().__init__()
        self.norm = LayerNorm(channels)
        self.s1, self.s2 = (MSGM(channels, number in msgm_depthwise) for number in (1, 2))
        self.s3 = ESAM(channels, heads) if use_esam else None
        self.s4, self.ffn = (MSGM(channels, number in msgm_depthwise) for number in (3, 4))

    def forward(self, a: Tensor, y: Tensor) -> Tensor:
        a = self.norm(a)
        z = self.s1(a)  # S1: sparse code
        b = self.s2(a)  # S2: structural-similarity multiplier beta
        v = a + z + y
        if self.s3 is not None:
            v = self.s3(v) + v  # S3.a
        a = self.s4(v - b) + b  # S3.b
        return self.ffn(a) + a


class MoEFS(nn.Module):
    """Mixture-of-experts feature selection: a softmax over three stages, per pixel and channel, weighs their sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc_a, self.fc_b, self.fc_c, self.fuse = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, experts: list[Tensor]) -> Tensor:
        scores = [convolve(expert, fc) for expert, fc in zip(experts, (self.fc_a, self.fc_b, self.fc_c), strict=True)]
        weights = torch.stack(scores).softmax(dim=0)
        o = sum(weight * expert for weight, expert in zip(weights, experts, strict=True))
        return convolve(o, self.fuse) + o


def make_tail(scale: int, channels: int) -> nn.Sequential:
    """1x1 convolution, pixel shuffle and GELU (twice by 2 for x4, else once by s), then a 3x3 convolution to RGB."""
    layers = []
    for factor in (2, 2) if scale == 4 else (scale,):
        layers += [nn.Conv2d(channels, channels * factor**2, 1), nn.PixelShuffle(factor), nn.GELU()]
    return nn.Sequential(*layers, reflect_conv3x3(channels, 3))


def run_tail(tail: nn.Sequential, f: Tensor) -> Tensor:
    """`tail` of a (B, H, W, C) map -> (B, 3, sH, sW).

    The rows of each 1x1 weight are put in the order in which the shuffle wants its sub-pixels, so that the shuffle
    moves runs of C numbers and not single ones; GELU, being elementwise, comes before it.
    """
    for conv, shuffle, gelu in zip(tail[:-1:3], tail[1:-1:3], tail[2:-1:3], strict=True):
        r = shuffle.upscale_factor
        weight = rearrange(conv.weight, "(c p q) i h w -> (p q c) i h w", p=r, q=r)
        bias = rearrange(conv.bias, "(c p q) -> (p q c)", p=r, q=r)
        f = gelu(F.conv2d(f.permute(0, 3, 1, 2), weight, bias)).permute(0, 2, 3, 1)
        f = rearrange(f, "b h w (p q c) -> b (h p) (w q) c", p=r, q=r)
    return tail[-1](f.permute(0, 3, 1, 2))


def padded_side(side: int, multiple: int = MULTIPLE) -> int:
    """The side of the map that an image of this side becomes."""
    return side + -side % multiple


def reflect_pad(x: Tensor, multiple: int = MULTIPLE) -> Tensor:
    """Pad (B, C, H, W) at the right and the bottom to multiples of `multiple` by reflection, repeated where one
    reflection does not reach (F.pad refuses those), so that any side from 1 pixel up works."""
    for axis in (2, 3):
        side = x.shape[axis]
        if side % multiple:
            period = max(2 * (side - 1), 1)
            index = torch.arange(padded_side(side, multiple), device=x.device) % period
            x = x.index_select(axis, torch.minimum(index, period - index) if side > 1 else index)
    return x


class SSIU(nn.Module):
    """SSIU, published under the model name SSUFSR: RGB (B, 3, H, W) in [0, 1] -> (B, 3, sH, sW), not clipped.

    Args:
        scale: s, 2, 3 or 4.
        n_feats, num_heads, n_blocks: channels C, heads of ESAM, unfolding stages N; 64, 4 and 9 in the paper.
        use_esam, use_moe, msgm_depthwise: ablations, see docs/ablation.md; without MoE-FS the last stage is used alone.

    Raises:
        ValueError: sizes that do not fit together (see `check_architecture`).
    """

    def __init__(
        self,
        scale: int,
        n_feats: int = 64,
        num_heads: int = 4,
        n_blocks: int = 9,
        use_esam: bool = True,
        use_moe: bool = True,
        msgm_depthwise=(1, 2, 3, 4),
    ):
        super().__init__()
        check_architecture(scale, n_feats, num_heads, n_blocks, msgm_depthwise)
        self.scale = scale
        self.head = reflect_conv3x3(3, n_feats)
        self.body = nn.ModuleList(SSReM(n_feats, num_heads, use_esam, msgm_depthwise) for _ in range(n_blocks))
        self.moe = MoEFS(n_feats) if use_moe else None
        self.tail = make_tail(scale, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = reflect_pad(x)
        y = convolve(x.permute(0, 2, 3, 1), self.head)  # (B, H, W, C)
        a, stages = y, []
        for stage in self.body:
            a = stage(a, y)
            stages.append(a)
        third = len(stages) // 3
        f = y + (self.moe(stages[third - 1 :: third]) if self.moe is not None else a)
        out = run_tail(self.tail, f)
        out = out + F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return out[..., : self.scale * height, : self.scale * width]

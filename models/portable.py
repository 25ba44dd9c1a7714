"""SSIU for exporters: the same network on the same weights, in operations that can be traced for images of any size.

`Portable(network)` computes what `network` does. Maps are (B, C, H, W) throughout, as ONNX wants them. No branch
depends on the size of the input. Tracers take a side to be 2 or more and drop what holds for a side of 1 alone; so what
a side of 1 needs is computed in tensors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ssiu import BLOCK, ESAM, HALO, MSGM, MULTIPLE, SSIU, MoEFS, SSReM

WINDOW = BLOCK + 2 * HALO
SAMPLE = (2, 3, 19, 35)  # shape of an input to trace with: no two sides are alike, none is a multiple of 16


class Portable(nn.Module):
    """RGB float32 (B, 3, H, W) in [0, 1], any size from 1 pixel up -> float32 (B, 3, sH, sW), not clipped.

    Args:
        network: whose weights these are; with `half` they become float16.
        half: compute in float16, LayerNorm and the sum with the enlarged input in float32.
    """

    def __init__(self, network: SSIU, half: bool = False):
        super().__init__()
        self.network, self.kind = network, torch.float32
        if half:
            self.network, self.kind = network.half(), torch.float16
            for stage in network.body:
                stage.norm.float()

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        network, image = self.network, padded(padded(image, 2), 3)
        y = network.head(cast(image, self.kind))
        a, stages = y, []
        for stage in network.body:
            a = run_stage(stage, a, y)
            stages.append(a)
        third = len(stages) // 3
        f = y + (fused(network.moe, stages[third - 1 :: third]) if network.moe is not None else a)
        out = cast(network.tail(f), torch.float32)
        out = out + F.interpolate(image, scale_factor=network.scale, mode="bilinear", align_corners=False)
        return out[:, :, : network.scale * height, : network.scale * width]


def cast(x: Tensor, kind: torch.dtype) -> Tensor:
    """`x.to(kind)`, which leaves no operation in the graph where nothing changes."""
    return x if x.dtype == kind else x.to(kind)


def padded(x: Tensor, axis: int) -> Tensor:
    """`ssiu.reflect_pad` along one axis: by reflection to a multiple of 16, repeated where one does not reach."""
    side = x.shape[axis]
    last = torch.arange(side, device=x.device)[-1:]
    period = (2 * last).clamp(min=1)  # 1 for a single pixel
    index = torch.arange((side + MULTIPLE - 1) // MULTIPLE * MULTIPLE, device=x.device) % period
    return x.index_select(axis, torch.minimum(index, period - index))


def run_stage(stage: SSReM, a: Tensor, y: Tensor) -> Tensor:
    """`SSReM.forward`."""
    a = cast(stage.norm(cast(a, torch.float32).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), y.dtype)
    z, b = gated(stage.s1, a), gated(stage.s2, a)
    v = a + z + y
    if stage.s3 is not None:
        v = attended(stage.s3, v) + v
    a = gated(stage.s4, v - b) + b
    return gated(stage.ffn, a) + a


def gated(block: MSGM, x: Tensor) -> Tensor:
    """`MSGM.forward`."""
    return block.project_out(F.gelu(block.project_in1(x)) * block.project_in2(x))


def attended(block: ESAM, x: Tensor) -> Tensor:
    """`ESAM.forward`; attention by plain products, for any runtime has those."""
    u = F.max_pool2d(x, 2)
    batch, channels, rows, columns = u.shape[0], u.shape[1], u.shape[2] // BLOCK, u.shape[3] // BLOCK
    heads, depth = block.heads, channels // block.heads
    q, kv = block.qkv_conv(u).split([channels, 2 * channels], dim=1)
    q = q.reshape(batch, heads, depth, rows, BLOCK, columns, BLOCK).permute(0, 3, 5, 1, 4, 6, 2)
    q = q.reshape(batch * rows * columns, heads, BLOCK * BLOCK, depth)
    kv = windows(kv, rows, columns).reshape(batch, 2, heads, depth, rows, WINDOW, columns, WINDOW)
    kv = kv.permute(1, 0, 4, 6, 2, 5, 7, 3).reshape(2, batch * rows * columns, heads, WINDOW, WINDOW, depth)
    k, v = kv.unbind(0)
    k = k + block.positions()
    scores = q * depth**-0.5 @ k.flatten(2, 3).transpose(-1, -2)
    o = scores.softmax(dim=-1) @ v.flatten(2, 3)
    o = o.reshape(batch, rows, columns, heads, BLOCK, BLOCK, depth).permute(0, 3, 6, 1, 4, 2, 5)
    o = block.LocalProp(o.reshape(batch, channels, rows * BLOCK, columns * BLOCK))
    return F.interpolate(o, scale_factor=2, mode="bilinear", align_corners=True)


def windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """`ssiu.windows_of`, of a (B, C, h, w) map of so many rows and columns of blocks: (B, C, h/8, 10, w/8, 10)."""
    x = F.pad(x, (HALO, BLOCK - HALO, HALO, BLOCK - HALO))
    x = x.unflatten(2, (rows + 1, BLOCK))
    x = torch.cat([x[:, :, :-1], x[:, :, 1:, : 2 * HALO]], dim=3)
    x = x.unflatten(4, (columns + 1, BLOCK))
    return torch.cat([x[:, :, :, :, :-1], x[:, :, :, :, 1:, : 2 * HALO]], dim=5)


def fused(block: MoEFS, experts: list[Tensor]) -> Tensor:
    """`MoEFS.forward`; the softmax is written out, as runtimes are slow at one over the first axis."""
    scores = [fc(expert) for expert, fc in zip(experts, (block.fc_a, block.fc_b, block.fc_c), strict=True)]
    most = torch.maximum(torch.maximum(scores[0], scores[1]), scores[2])
    a, b, c = ((score - most).exp() for score in scores)
    o = (a * experts[0] + b * experts[1] + c * experts[2]) / (a + b + c)
    return block.fuse(o) + o

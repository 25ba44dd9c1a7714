"""The weights of SSIU as models/cpu.cpp takes them: one after another, channels padded with zeros.

In bf16 the weights of 1x1 convolutions are rounded; two that meet neighbouring channels lie in one float32's place.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ssiu import ESAM, MSGM, SSIU, SSReM

LANES = 16  # channels are padded to a multiple of it: the floats of the widest vector
TAPS = 32  # likewise the 27 taps of the last convolution


class Packing:
    """Flat tensors, each of a multiple of 16 floats, of weights whose channels are padded with zeros."""

    def __init__(self, channels: int, bf16: bool):
        self.width = -(-channels // LANES) * LANES
        self.bf16 = bf16
        self.pieces: list[Tensor] = []

    def add(self, piece: Tensor) -> None:
        piece = piece.detach().flatten()
        self.pieces.append(F.pad(piece, (0, -len(piece) % 16)))

    def per_channel(self, piece: Tensor) -> None:
        """(..., C)."""
        self.add(F.pad(piece, (0, self.width - piece.shape[-1])))

    def factors(self, weight: Tensor) -> None:
        """(C_in, columns) of a 1x1 convolution."""
        if self.bf16:
            pairs = weight.detach().unflatten(0, (-1, 2)).transpose(1, 2)  # (C_in / 2, columns, 2)
            weight = pairs.bfloat16().contiguous().view(torch.float32)
        self.add(weight)

    def matrix(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """A product, `weight` (C_out, C_in) or several of them side by side, (n, C_out, C_in); with its bias."""
        weight = weight if weight.dim() == 3 else weight[None]
        n, c_out, c_in = weight.shape
        padded = F.pad(weight, (0, self.width - c_in, 0, self.width - c_out))
        self.factors(padded.permute(2, 0, 1).flatten(1))
        self.per_channel(bias if bias is not None else weight.new_zeros(n, c_out))

    def conv(self, conv: nn.Conv2d) -> None:
        """A 1x1 convolution."""
        self.matrix(conv.weight.flatten(1), conv.bias)

    def depthwise(self, conv: nn.Module, channels: int) -> None:
        """A depthwise 3x3 convolution; for nn.Identity (an ablation), one that changes nothing."""
        if isinstance(conv, nn.Identity):
            taps, bias = F.pad(torch.ones(channels, 1, 1, 1), (1, 1, 1, 1)), torch.zeros(channels)
        else:
            taps, bias = conv.weight, conv.bias
        self.per_channel(taps.flatten(1).t())
        self.per_channel(bias)

    def gate(self, msgm: MSGM) -> None:
        conv_a, depthwise, conv_c = msgm.project_in2
        for conv in (msgm.project_in1, conv_a, conv_c, msgm.project_out):
            self.conv(conv)
        self.depthwise(depthwise, conv_a.out_channels)

    def attention(self, esam: ESAM) -> None:
        channels = esam.qkv_conv.in_channels
        queries, *keys_values = esam.qkv_conv.weight.flatten(1).split(channels)
        self.matrix(queries)
        self.matrix(torch.stack(keys_values))
        self.per_channel(esam.positions()[0].repeat(1, 1, esam.heads))
        self.depthwise(esam.LocalProp[0], channels)

    def stage(self, stage: SSReM) -> None:
        self.per_channel(stage.norm.body.weight)
        self.per_channel(stage.norm.body.bias)
        for msgm in (stage.s1, stage.s2, stage.s4, stage.ffn):
            self.gate(msgm)
        if stage.s3 is not None:
            self.attention(stage.s3)

    def tail(self, tail: nn.Sequential) -> None:
        for conv, shuffle in zip(tail[:-1:3], tail[1:-1:3], strict=True):
            sides = range(shuffle.upscale_factor)
            weight = conv.weight.flatten(1).unflatten(0, (-1, len(sides), len(sides)))  # (C_out, r, r, C_in)
            bias = conv.bias.unflatten(0, (-1, len(sides), len(sides)))
            for i in sides:
                for j in sides:
                    self.matrix(weight[:, i, j], bias[:, i, j])
        taps = tail[-1].weight.permute(1, 2, 3, 0).flatten(1)  # (C, 27), ordered (row, column, RGB)
        self.factors(F.pad(taps, (0, TAPS - taps.shape[1], 0, self.width - len(taps))))
        self.add(torch.zeros(TAPS))
        self.add(tail[-1].bias)


def pack(model: SSIU, bf16: bool) -> Tensor:
    packing = Packing(model.head.out_channels, bf16)
    packing.per_channel(model.head.weight.flatten(1).t())
    packing.per_channel(model.head.bias)
    for stage in model.body:
        packing.stage(stage)
    if model.moe is not None:
        for conv in (model.moe.fc_a, model.moe.fc_b, model.moe.fc_c, model.moe.fuse):
            packing.conv(conv)
    packing.tail(model.tail)
    return torch.cat(packing.pieces)

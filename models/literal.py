"""A literal transcription of the network's equations: the slow twin of `models/ssiu.py`.

Channels first, one convolution per W, unfolded keys and values, einsum attention, LayerNorm written out: what the
formulas say, in the order in which they say it. Takes a state dict, so that nothing but the key names is shared.
"""

import torch
import torch.nn.functional as F


class LiteralSSIU:
    """Forward pass of SSIU from a state dict (published key names): RGB (B, 3, H, W) -> (B, 3, sH, sW)."""

    def __init__(self, state: dict, scale: int, heads: int = 4):
        self.p, self.scale, self.heads = state, scale, heads
        self.stages = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))

    def conv(self, x, name, reflect=0, groups=1):
        if reflect:
            x = F.pad(x, (reflect,) * 4, mode="reflect")
        return F.conv2d(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"), groups=groups)

    def layer_norm(self, x, name):
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        normal = (x - mean) / torch.sqrt(variance + 1e-6)
        return normal * self.p[f"{name}.weight"][None, :, None, None] + self.p[f"{name}.bias"][None, :, None, None]

    def msgm(self, x, name):
        branch = self.conv(x, f"{name}.project_in2.0")
        branch = self.conv(branch, f"{name}.project_in2.1", reflect=1, groups=branch.shape[1])
        branch = self.conv(branch, f"{name}.project_in2.2")
        return self.conv(F.gelu(self.conv(x, f"{name}.project_in1")) * branch, f"{name}.project_out")

    def esam(self, x, name):
        u = F.max_pool2d(x, 2)
        batch, channels, height, width = u.shape
        d, rows, columns = channels // self.heads, height // 8, width // 8
        q, k, v = self.conv(u, f"{name}.qkv_conv").chunk(3, dim=1)
        q = q.reshape(batch, self.heads, d, rows, 8, columns, 8).permute(0, 3, 5, 1, 4, 6, 2)
        q = q.reshape(batch, rows * columns, self.heads, 64, d)

        def windows(t):  # zeros outside the map stay in
            t = F.unfold(t, kernel_size=10, stride=8, padding=1).reshape(batch, self.heads, d, 10, 10, rows * columns)
            return t.permute(0, 5, 1, 3, 4, 2)  # (B, blocks, heads, 10, 10, d)

        k, v = windows(k), windows(v)
        first, second = k.split(d // 2, dim=-1)
        k = torch.cat([first + self.p[f"{name}.rel_h"], second + self.p[f"{name}.rel_w"]], dim=-1)
        k, v = k.reshape(*k.shape[:3], 100, d), v.reshape(*v.shape[:3], 100, d)
        attention = torch.softmax(torch.einsum("bnhqd,bnhkd->bnhqk", q, k) / d**0.5, dim=-1)
        o = torch.einsum("bnhqk,bnhkd->bnhqd", attention, v)
        o = o.reshape(batch, rows, columns, self.heads, 8, 8, d).permute(0, 3, 6, 1, 4, 2, 5)
        o = o.reshape(batch, channels, height, width)
        o = self.conv(o, f"{name}.LocalProp.0", reflect=1, groups=channels)
        return F.interpolate(o, scale_factor=2, mode="bilinear", align_corners=True)

    def stage(self, a, y, name):
        a = self.layer_norm(a, f"{name}.norm.body")
        z = self.msgm(a, f"{name}.s1")
        b = self.msgm(a, f"{name}.s2")
        v = a + z + y
        v = self.esam(v, f"{name}.s3") + v
        a = self.msgm(v - b, f"{name}.s4") + b
        return self.msgm(a, f"{name}.ffn") + a

    def moe(self, experts):
        scores = [self.conv(expert, f"moe.fc_{letter}") for expert, letter in zip(experts, "abc", strict=True)]
        weights = torch.softmax(torch.stack(scores), dim=0)
        o = sum(weight * expert for weight, expert in zip(weights, experts, strict=True))
        return self.conv(o, "moe.fuse") + o

    def tail(self, f):
        if self.scale == 4:
            f = F.gelu(F.pixel_shuffle(self.conv(f, "tail.0"), 2))
            f = F.gelu(F.pixel_shuffle(self.conv(f, "tail.3"), 2))
            return self.conv(f, "tail.6", reflect=1)
        f = F.gelu(F.pixel_shuffle(self.conv(f, "tail.0"), self.scale))
        return self.conv(f, "tail.3", reflect=1)

    def __call__(self, x):
        height, width = x.shape[-2:]
        while x.shape[-1] % 16:  # one reflection reaches side - 1 pixels; a single pixel repeats itself
            x = self.pad_once(x.transpose(-1, -2)).transpose(-1, -2)
        while x.shape[-2] % 16:
            x = self.pad_once(x)
        y = self.conv(x, "head", reflect=1)
        a, outputs = y, []
        for t in range(self.stages):
            a = self.stage(a, y, f"body.{t}")
            outputs.append(a)
        third = self.stages // 3
        f = self.moe([outputs[third - 1], outputs[2 * third - 1], outputs[-1]]) + y
        out = self.tail(f) + F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return out[..., : height * self.scale, : width * self.scale]

    @staticmethod
    def pad_once(x):
        side = x.shape[-2]
        missing = 16 * -(-side // 16) - side
        if side == 1:
            return x.repeat(1, 1, 16, 1)
        return F.pad(x, (0, 0, 0, min(missing, side - 1)), mode="reflect")

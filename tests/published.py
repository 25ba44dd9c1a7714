"""The published program as far as its files go, built from its description: names, orders, and what it saves and loads.

The network registers its modules in the published order and computes by the literal equations; files are a dict of five
entries whose weights carry DataParallel's prefix; the optimiser numbers its moments by that order.
"""

import torch
import yaml
from torch import nn

from models.literal import LiteralSSIU

PAPER = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 1e-4}


def conv(inputs, outputs, side=1, **more):
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, padding_mode="reflect", **more)


def module(**children):
    made = nn.Module()
    for name, child in children.items():
        made.add_module(name, child)
    return made


def msgm(width):
    first = conv(width, width)
    second = nn.Sequential(conv(width, width), conv(width, width, 3, groups=width), conv(width, width))
    return module(project_in1=first, project_in2=second, project_out=conv(width, width))


def esam(width, heads):
    made = nn.Module()
    half = width // heads // 2
    made.rel_h, made.rel_w = (nn.Parameter(torch.randn(shape)) for shape in ((1, 10, 1, half), (1, 1, 10, half)))
    made.LocalProp = nn.Sequential(conv(width, width, 3, groups=width))
    made.qkv_conv = conv(width, 3 * width, bias=False)
    return made


def stage(width, heads):
    norm = module(body=nn.LayerNorm(width))
    parts = [msgm(width), msgm(width), esam(width, heads), msgm(width), msgm(width)]
    return module(norm=norm, **dict(zip(("s1", "s2", "s3", "s4", "ffn"), parts, strict=True)))


def tail(width, scale):
    factors = (2, 2) if scale == 4 else (scale,)
    steps = [(conv(width, width * f * f), nn.PixelShuffle(f), nn.GELU()) for f in factors]
    return nn.Sequential(*(layer for step in steps for layer in step), conv(width, 3, 3))


class Published(nn.Module):
    def __init__(self, scale, width=64, heads=4, stages=9):
        super().__init__()
        self.scale, self.heads = scale, heads
        self.head = conv(3, width, 3)
        self.body = nn.ModuleList(stage(width, heads) for _ in range(stages))
        self.moe = module(**{name: conv(width, width) for name in ("fc_a", "fc_b", "fc_c", "fuse")})
        self.tail = tail(width, scale)

    def forward(self, x):
        return LiteralSSIU(dict(self.named_parameters()), self.scale, self.heads)(x)


class PublishedTraining:
    """What the published train.py holds: it saves these five entries after an epoch, and loads them to go on."""

    def __init__(self, config):
        self.model = nn.DataParallel(Published(config.scale, config.n_feats, config.num_heads, config.n_blocks))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **{**PAPER, "lr": config.lr})
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.epochs, config.eta_min)
        self.epoch, self.best = 0, {name: {"best_psnr": {"value": 30.0, "epoch": 1}} for name in config.eval_sets}

    def step(self, low, high):
        sr = self.model(low)
        spectrum = torch.view_as_real(torch.fft.rfft2(sr) - torch.fft.rfft2(high))
        loss = nn.functional.l1_loss(sr, high) + 0.01 * spectrum.abs().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def save(self, file):
        content = {
            "epoch": self.epoch,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": self.scheduler.state_dict(),
            "stat_dict": self.best,
        }
        torch.save(content, file)

    def load(self, file):
        content = torch.load(file, weights_only=True)
        self.epoch = content["epoch"]
        self.model.load_state_dict(content["model_state_dict"])
        self.optimizer.load_state_dict(content["optimizer_state_dict"])
        self.scheduler.load_state_dict(content["scheduler_state_dict"])
        self.best = content["stat_dict"]


def save_run(folder, training, values, config_file="./configs/SSUFSR_light_x2.yml"):
    """The folder of a published run: `models/model_x2_EPOCH.pt` and a config.yml that names its config and resume."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(yaml.safe_dump({"config": config_file, "resume": None, **values}))
    file = folder / "models" / f"model_x{values['scale']}_{training.epoch}.pt"
    training.save(file)
    return file

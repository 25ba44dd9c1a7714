"""One training step: crops to loss, gradients, AdamW, EMA. Everything that touches the weights is here."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from config import Config
from losses import loss_terms

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW with the paper's constants; weight decay reaches every parameter, biases and norms included."""
    return torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-4)


def to_float(crops: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1]."""
    return crops.permute(0, 3, 1, 2).float() / 255


@dataclass
class TrainStep:
    """The weights in training and the step that changes them.

    `network` is what is called: `model` itself, or `model` wrapped for several processes or compiled.
    """

    config: Config
    model: nn.Module
    network: nn.Module
    device: torch.device

    def __post_init__(self):
        self.optimizer = make_optimizer(self.model, self.config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.amp == "fp16")
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if self.config.ema_decay else None

    def __call__(self, lr_crops: Tensor, hr_crops: Tensor, learning_rate: float) -> Tensor:
        """One update from uint8 crops (B, p, p, 3) and (B, sp, sp, 3); returns the weighted loss terms (2,), detached.

        The terms stay on the device: reading them is left to the caller, who decides when to wait for it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        pieces = self.config.accumulate
        parts = zip(lr_crops.chunk(pieces), hr_crops.chunk(pieces), strict=True)
        terms = sum(self._backward(*part, last=number == pieces) for number, part in enumerate(parts, 1))
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            for average, parameter in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                average.lerp_(parameter.detach(), 1 - self.config.ema_decay)
        return terms

    def _backward(self, lr_crops: Tensor, hr_crops: Tensor, last: bool) -> Tensor:
        """Add the gradients of one piece of the batch; processes exchange theirs with the last piece only."""
        config, kind = self.config, self.device.type
        lr_batch, hr_batch = (to_float(crops.to(self.device, non_blocking=True)) for crops in (lr_crops, hr_crops))
        waiting = nullcontext() if last or not hasattr(self.network, "no_sync") else self.network.no_sync()
        with waiting:
            with torch.autocast(kind, AUTOCAST.get(config.amp), enabled=bool(config.amp)):
                sr_batch = self.network(lr_batch)
            terms = loss_terms(sr_batch, hr_batch, config.lambda_l1, config.lambda_fft) / config.accumulate
            self.scaler.scale(terms.sum()).backward()
        return terms.detach()

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are validated and shipped: the moving average where there is one."""
        return self.model if self.ema is None else self.ema

    def state_dict(self) -> dict:
        """Everything an exact continuation needs, under published names where there are any."""
        averages = {} if self.ema is None else {"ema_state_dict": self.ema.state_dict()}
        return {
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.scaler.state_dict(),
            **averages,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict()`; an average switched on since then starts from the weights."""
        self.model.load_state_dict(state["model_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        if state["scaler_state_dict"]:  # empty unless the run was in fp16
            self.scaler.load_state_dict(state["scaler_state_dict"])
        if self.ema is not None:
            self.ema.load_state_dict(state.get("ema_state_dict", state["model_state_dict"]))

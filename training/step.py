"""One training step: crops to loss, gradients, AdamW, EMA. Everything that touches the weights is here."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from config import Config
from models import autocast, matmul_precision
from training.batches import Batch, Draw
from training.losses import evaluate_terms, loss_terms


def make_optimizer(model: nn.Module, config: Config, device: torch.device) -> torch.optim.AdamW:
    """AdamW with the paper's constants; weight decay reaches every parameter, biases and norms included.

    On CUDA it is the fused one, with its learning rate in a tensor, so that a captured step can be replayed.
    """
    cuda = device.type == "cuda"
    lr = torch.tensor(config.lr, device=device) if cuda else config.lr
    constants = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 1e-4}
    return torch.optim.AdamW(model.parameters(), lr=lr, fused=cuda or None, capturable=cuda, **constants)


def moments_in_order(model: nn.Module, content: dict) -> dict[int, dict]:
    """The moments of a checkpoint, by the number that each parameter has in `model`.

    An optimiser knows its parameters by number, in the order in which they were registered; so does the state dict
    beside it keep them. Files of releases before the published order (norm, s1, s2, s3, s4, ffn) have another one.

    Raises:
        ValueError: there are moments of more parameters than the network has.
    """
    numbers = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    theirs = [name for name in content["model_state_dict"] if name in numbers]
    moments = content["optimizer_state_dict"]["state"]
    if any(place >= len(theirs) for place in moments):
        raise ValueError(f"it has moments of parameter {max(moments)}, the network has {len(theirs)} parameters")
    return {numbers[name]: moments[place] for place, name in enumerate(theirs) if place in moments}


def to_float(crops: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1]."""
    return crops.permute(0, 3, 1, 2).float() / 255


@dataclass
class TrainStep:
    """The weights in training and the step that changes them.

    `network` is what is called: `model` itself, its kernels, or `model` wrapped for several processes or compiled.
    `draw` turns a batch as the data hands it out into uint8 crops on the device, (B, p, p, 3) and (B, s p, s p, 3).
    """

    config: Config
    model: nn.Module
    network: nn.Module
    device: torch.device
    draw: Draw

    def __post_init__(self) -> None:
        self.terms = loss_terms(self.config)
        self.optimizer = make_optimizer(self.model, self.config, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "fp16")
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if self.config.ema_decay else None

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """One update; returns the weighted loss terms (terms,), detached, in the order of `term_names`.

        They stay on the device: reading them is left to the caller, who decides when to wait for it.
        """
        self.set_learning_rate(learning_rate)
        return self.update(batch)

    @property
    def term_names(self) -> list[str]:
        return [term.name for term in self.terms]

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate

    def update(self, batch: Batch) -> Tensor:
        """The step itself: nothing in it waits for the device, save fp16's loss scaling."""
        lr_crops, hr_crops = self.draw(*batch)
        pieces = self.config.accumulate
        parts = zip(lr_crops.chunk(pieces), hr_crops.chunk(pieces), strict=True)
        losses = torch.zeros(len(self.terms), device=self.device)
        with matmul_precision(self.config.precision):
            for number, part in enumerate(parts, 1):
                losses += self._backward(*part, last=number == pieces)
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self._average()
        return losses

    def _backward(self, lr_crops: Tensor, hr_crops: Tensor, last: bool) -> Tensor:
        """Add the gradients of one piece of the batch; processes exchange theirs with the last piece only."""
        config = self.config
        waiting = nullcontext() if last or not hasattr(self.network, "no_sync") else self.network.no_sync()
        with waiting:
            with autocast(self.device, config.precision):
                sr_batch = self.network(to_float(lr_crops))
            losses = evaluate_terms(self.terms, sr_batch, to_float(hr_crops)) / config.accumulate
            self.scaler.scale(losses.sum()).backward()
        return losses.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average, if there is one, towards the weights; buffers are copied (running means are averages)."""
        if self.ema is None:
            return
        averages, weights = list(self.ema.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - self.config.ema_decay)
        for copied, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            copied.copy_(buffer)

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are validated and shipped: the moving average where there is one."""
        return self.model if self.ema is None else self.ema

    def tensors(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        networks = [self.model] if self.ema is None else [self.model, self.ema]
        weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        return [*weights, *moments]

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
        """Continue from a `state_dict()` of any device; an average switched on since then starts from the weights."""
        self.model.load_state_dict(state["model_state_dict"])
        own_groups = self.optimizer.state_dict()["param_groups"]  # constants and the device's kind of AdamW
        self.optimizer.load_state_dict({"state": moments_in_order(self.model, state), "param_groups": own_groups})
        saved_groups = state["optimizer_state_dict"].get("param_groups") or own_groups
        self.set_learning_rate(float(saved_groups[0]["lr"]))  # saved again as it is, if no step follows
        if state["scaler_state_dict"]:  # empty unless the run was in fp16
            self.scaler.load_state_dict(state["scaler_state_dict"])
        if self.ema is not None:
            self.ema.load_state_dict(state.get("ema_state_dict", state["model_state_dict"]))

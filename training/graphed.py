"""The training step as one CUDA graph, compared with the eager step before it runs."""

from collections.abc import Callable

import torch
from torch import Tensor

from config import Config
from models.cuda_graphs import capture, warm_up
from training.batches import Batch
from training.processes import Process
from training.step import TrainStep
from utils import InputError

WARM_UP = 3  # steps before the capture: allocation, compilation and autotuning must be over
COMPARED = 2  # steps taken both ways
TERMS_LIMIT = 1e-3  # largest relative difference of a loss term
UPDATE_LIMIT = 0.05  # of what the weights changed by, as norms over all of them: AdamW turns rounding into steps


def check_graph(config: Config, process: Process) -> None:
    """Raise InputError if the step must be captured, and cannot be here."""
    if config.cuda_graph is True and (process.world > 1 or process.device.type != "cuda"):
        raise InputError("config key 'cuda_graph': needs one process on a CUDA device; set it to auto or False")


def fastest_step(step: TrainStep, process: Process, say: Callable[[str], None]) -> "TrainStep | GraphedStep":
    """The step as the config key cuda_graph asks for it; 'auto' captures it where that can be done."""
    wanted = step.config.cuda_graph
    possible = process.world == 1 and process.device.type == "cuda"
    waits = step.config.precision == "fp16"  # its loss scaling reads numbers from the device
    uneven = not step.config.drop_last  # an epoch's last batch may be smaller
    if wanted is True or (wanted == "auto" and possible and not (waits or uneven or step.config.compile)):
        return GraphedStep(step, wanted is True, say)
    return step


class GraphedStep:
    """A TrainStep captured once as a CUDA graph and replayed. Batches must keep their shapes.

    The kernels, their order and their numbers are those of `TrainStep.update`, its slow twin; the batch and the
    learning rate are copied into the tensors that the graph reads. The first call captures it and takes COMPARED steps
    both ways from the same weights, which are then put back.

    Args:
        required: raise InputError where the graph cannot be captured or differs; else the eager step runs, and `say`
            takes a line that tells why.
    """

    def __init__(self, step: TrainStep, required: bool, say: Callable[[str], None]):
        self.step, self.required, self.say = step, required, say
        self._is_ready = False
        self._graph: torch.cuda.CUDAGraph | None = None  # None after the first call: the eager step runs

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """As `TrainStep.__call__`."""
        if not self._is_ready:
            self._prepare(batch, learning_rate)
        if self._graph is None:
            return self.step(batch, learning_rate)
        for fixed, new in zip(self._batch, batch, strict=True):
            fixed.copy_(new, non_blocking=True)
        self.step.set_learning_rate(learning_rate)
        self._graph.replay()
        return self._terms.clone()

    def _prepare(self, batch: Batch, learning_rate: float) -> None:
        before = {id(tensor): tensor.detach().clone() for tensor in self.step.tensors()}
        devices = [self.step.device] if self.step.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # a network may draw random numbers: the comparison must cost it none
            try:
                problem = self._capture(batch, learning_rate, before)
            except RuntimeError as error:
                problem = f"it cannot be captured ({' '.join(str(error).split())[:300]})"
        self._put_back(before)
        self._is_ready = True
        if not problem:
            self.say(f"cuda_graph: {COMPARED} replayed steps agree with eager ones")
            return
        self._graph = None
        if self.required:
            raise InputError(f"config key 'cuda_graph': {problem}; set it to auto or False")
        self.say(f"warning: cuda_graph: the eager step runs: {problem}")

    def _capture(self, batch: Batch, learning_rate: float, before: dict[int, Tensor]) -> str:
        """Capture the step; what is wrong with it, or nothing. The weights are left changed."""
        device = self.step.device
        self._batch = tuple(tensor.to(device, copy=True) for tensor in batch)
        self.step.set_learning_rate(learning_rate)
        warm_up(lambda: self.step.update(self._batch), device, WARM_UP)
        self._put_back(before)
        start = self._weights()
        eager_terms = torch.stack([self.step.update(self._batch) for _ in range(COMPARED)])
        eager = self._weights()
        self._put_back(before)
        self._graph, self._terms = capture(lambda: self.step.update(self._batch))
        self._put_back(before)
        replayed_terms = torch.stack([self._replayed() for _ in range(COMPARED)])
        terms = ((replayed_terms - eager_terms).abs() / eager_terms.abs().clamp_min(1e-12)).max().item()
        update = ((self._weights() - eager).norm() / (eager - start).norm().clamp_min(1e-12)).item()
        if terms <= TERMS_LIMIT and update <= UPDATE_LIMIT:  # both are false for NaN
            return ""
        return f"its loss terms differ from the eager step's by {terms:.1e}, its update of the weights by {update:.1e}"

    def _replayed(self) -> Tensor:
        assert self._graph is not None
        self._graph.replay()
        return self._terms.clone()

    def _weights(self) -> Tensor:
        """All weights in one row, float64."""
        return torch.cat([parameter.detach().double().flatten() for parameter in self.step.model.parameters()])

    @torch.no_grad()
    def _put_back(self, before: dict[int, Tensor]) -> None:
        """Everything that a step changes as it was; moments that a step has created since start at zero."""
        for tensor in self.step.tensors():
            tensor.copy_(before.get(id(tensor), torch.zeros_like(tensor)))

"""The processes that train together, and the signals that end a run."""

import gc
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from config import Config
from models.devices import pick_device
from utils import InputError


@dataclass(frozen=True)
class Process:
    """This process among those of torchrun (one on its own without it), and its device."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, config: Config) -> "Process":
        """Join torchrun's group if there is one. Raises InputError for devices that do not exist."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local_rank = int(os.environ.get("LOCAL_RANK", 0))  # on its machine
        device = pick_device(config.gpu_ids, local_rank, say=print if rank == 0 else lambda text: None)
        if world == 1 and device.type == "cuda" and len(config.gpu_ids) > 1:
            count = len(config.gpu_ids)
            raise InputError(
                f"config key 'gpu_ids': {count} devices need as many processes: start with "
                f"torchrun --nproc_per_node={count} train.py ..., or name one device"
            )
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank, world, device)

    def leave(self) -> None:
        """Leave the group, when all have done their work and let go of what used it."""
        if self.world > 1:
            self.wait_for_all()
            gc.collect()  # a DistributedDataParallel that is still alive would keep the group's threads beyond its end,
            dist.destroy_process_group()  # and such threads abort a process that exits

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def agree(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(votes)
        return bool(votes)

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        self.agree(False)

    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values / self.world

    def first_says(self, value: float) -> float:
        """The first process's number, in every process."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return shared.item()

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, own: list) -> list:
        """The lists of all processes, one after the other in the order of their ranks, in every process."""
        if self.world == 1:
            return own
        lists: list = [None] * self.world
        dist.all_gather_object(lists, own)
        return [item for part in lists for item in part]


class StopRequest:
    """Set by SIGTERM or Ctrl-C: the loop saves and ends after the step under way; a second signal ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    @property
    def exit_code(self) -> int:
        """That of a process ended by the signal; by SIGTERM, if it was another process that got one."""
        return 128 + (self.signal or signal.SIGTERM)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

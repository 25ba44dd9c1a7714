"""The processes that train together, and the signals that end a run."""

import gc
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from config import Config
from models.devices import pick_device
from training.launch import EXIT_CODE, launch
from training.watch import ADVICE, Watch, leave
from utils import InputError, run_command

SLACK = 10  # minutes by which the group's own limit is longer than that of the watch, whose line is clearer
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def run_together(main: Callable[[], int | None], *errors: type[Exception]) -> None:
    """As `utils.run_command`, for a script that runs in several processes: of those that fail, one says so."""
    try:
        run_command(lambda: _in_contact(main), *errors, say=launch().fail)
    except SystemExit as leaving:
        if leaving.code and dist.is_initialized():
            leave(int(leaving.code))
        raise
    except BaseException:
        launch().give_up()
        raise


def _in_contact(main: Callable[[], int | None]) -> int | None:
    """Run `main`; where another process has ended, one line and an exit code stand for the errors of the group."""
    try:
        launch().meet()
        return main()
    except RuntimeError as error:
        if not _is_of_the_group(error):
            raise
    launch().fail(
        f"error: another of {launch().world} processes has ended, or cannot be reached "
        f"(killed, or out of memory, or its machine is gone); {ADVICE}",
        every_try=True,
    )
    return EXIT_CODE


def _is_of_the_group(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or (launch().world > 1 and "gloo" in str(error).lower())


@dataclass(frozen=True)
class Process:
    """This process among those of torchrun (one on its own without it), and its device."""

    rank: int
    world: int
    device: torch.device
    watch: Watch | None = None

    @classmethod
    def join(cls, config: Config) -> "Process":
        """Join torchrun's group if there is one. Raises InputError for devices that do not exist."""
        rank, world = launch().rank, launch().world
        local_rank = int(os.environ.get("LOCAL_RANK", 0))  # on its machine
        device = pick_device(config.gpu_ids, local_rank, say=print if rank == 0 else lambda text: None)
        if world == 1 and device.type == "cuda" and len(config.gpu_ids) > 1:
            count = len(config.gpu_ids)
            raise InputError(
                f"config key 'gpu_ids': {count} devices need as many processes: start with "
                f"torchrun --nproc_per_node={count} train.py ..., or name one device"
            )
        if world == 1:
            return cls(rank, world, device)
        launch().meet()
        watch, limit = Watch(config.hang_minutes, launch()), timedelta(minutes=config.hang_minutes + SLACK)
        with watch.waiting():
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=launch().of_this_try(launch().connect(limit)),
                rank=rank,
                world_size=world,
                timeout=limit,
            )
        return cls(rank, world, device, watch)

    def leave(self) -> None:
        """Leave the group, when all have done their work and let go of what used it."""
        if self.watch is not None:
            self.wait_for_all()
            gc.collect()  # a DistributedDataParallel that is still alive would keep the group's threads beyond its end,
            dist.destroy_process_group()  # and such threads abort a process that exits
            self.watch.end()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def is_first_of_machine(self) -> bool:
        """Whether no other process of its machine has a smaller number."""
        return int(os.environ.get("LOCAL_RANK", 0)) == 0

    def _waiting(self) -> AbstractContextManager[None]:
        return nullcontext() if self.watch is None else self.watch.waiting()

    def watched(self, step: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """`step`, which waits for the other processes somewhere inside, under watch."""

        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with self._waiting():
                return step(*args, **kwargs)

        return call if self.watch else step

    def agree(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        with self._waiting():
            dist.all_reduce(votes)
            return bool(votes)

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        self.agree(False)

    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes; on the CPU, as the device waits for the other processes."""
        if self.world == 1:
            return values
        with self._waiting():
            dist.all_reduce(values)
            return values.cpu() / self.world

    def first_says(self, value: float) -> float:
        """The first process's number, in every process."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        with self._waiting():
            dist.broadcast(shared, 0)
            return shared.item()

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""
        if self.world > 1:
            with self._waiting():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def gather(self, own: list) -> list:
        """The lists of all processes, one after the other in the order of their ranks, in every process."""
        if self.world == 1:
            return own
        lists: list = [None] * self.world
        with self._waiting():
            dist.all_gather_object(lists, own)
        return [item for part in lists for item in part]


class StopRequest:
    """Set by SIGTERM, Ctrl-C or a terminal that is closed: the loop saves and ends after the step under way.

    A second signal ends at once; not under torchrun, which passes on signals that a cluster sends to every process, and
    ends them itself if they take long. A signal that the process was started to ignore (nohup) stays ignored.
    """

    def __init__(self) -> None:
        self._is_last = "TORCHELASTIC_RUN_ID" not in os.environ
        self.signal: int | None = None
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    @property
    def exit_code(self) -> int:
        """That of a process ended by the signal; by SIGTERM, if it was another process that got one."""
        return 128 + (self.signal or signal.SIGTERM)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        if self._is_last:
            signal.signal(number, signal.SIG_DFL)

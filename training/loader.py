"""Loader processes that may die: batches go on from where they stopped, as batch t is a function of t alone."""

import copy
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import BaseContext

import torch
from torch.utils.data import DataLoader

from datas import TrainSet
from datas.workers import start_worker
from utils import InputError

PREFETCH = 4  # batches that each process has ready
RESTARTS = 3  # deaths without a batch between them before the loader is given up


def loaded_batches(
    data: TrainSet, start: int, stop: int, processes: int, pinned: bool, say: Callable[[str], None]
) -> Iterator[list[torch.Tensor]]:
    """Batches start .. stop - 1 of `data` from loader processes (0: from this one).

    Where a process dies (killed, out of memory), all are started again at the batch that is missing; `say` takes a line
    on it.

    Raises:
        InputError: an image cannot be read, a process fails in another way, or they die again and again. One line.
    """
    iteration, deaths = start, 0
    while iteration < stop:
        try:
            for batch in _iterate(data, range(iteration, stop), processes, pinned):
                yield batch
                iteration, deaths = iteration + 1, 0
        except Exception as error:
            if (failure := _failure_of_process(error, iteration)) is not None:
                raise failure from error
            if processes == 0 or not _is_death(error):
                raise
            deaths += 1
            reason = f"a loader process died before iteration {iteration + 1} ({_first_line(error)})"
            if deaths > RESTARTS:
                raise InputError(
                    f"{reason}, {deaths} times in a row; is there enough memory? set threads to a smaller number"
                ) from error
            say(f"warning: {reason}; the loader is started again, with the same batches")


def _iterate(data: TrainSet, iterations: range, processes: int, pinned: bool) -> Iterator[list[torch.Tensor]]:
    iterator = iter(
        DataLoader(
            data,
            batch_size=None,
            sampler=iterations,
            num_workers=processes,
            worker_init_fn=start_worker,
            pin_memory=pinned,
            prefetch_factor=PREFETCH if processes else None,
            multiprocessing_context=_context() if processes else None,
            generator=torch.Generator(),  # a resumed run makes a new loader, and the common generator is the network's
        )
    )
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        # PyTorch's handler raises in whatever runs when a process dies: in the middle of a step, for one. The queue
        # finds out as well, within seconds, where a batch is waited for.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return iterator


class _Flag:
    """A multiprocessing event without the lock that a killed process may die with, and leave all others waiting for."""

    def __init__(self, context: BaseContext):
        self._value = context.RawValue("b", 0)

    def set(self) -> None:
        self._value.value = 1

    def is_set(self) -> bool:
        return bool(self._value.value)


def _context() -> BaseContext:
    """The usual way to start processes, with such events: PyTorch's loader asks one for every batch."""
    context = copy.copy(multiprocessing.get_context(multiprocessing.get_start_method()))
    vars(context)["Event"] = partial(_Flag, context)
    return context


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def _is_death(error: Exception) -> bool:
    """Whether the error is that of a process that ended: PyTorch's own, or that of a socket which ended with it."""
    lost = isinstance(error, (ConnectionError, EOFError, FileNotFoundError))
    return lost or str(error).startswith("DataLoader worker")


def _failure_of_process(error: Exception, iteration: int) -> InputError | None:
    """What a loader process raised, in one line: PyTorch hands it on with the trace in its message. None for others."""
    text = str(error).strip()
    if not text.startswith("Caught "):
        return None
    last = text.splitlines()[-1]
    kind, _, reason = last.partition(": ")
    known = kind.rpartition(".")[2] == InputError.__name__
    return InputError(reason if known else f"batch of iteration {iteration + 1}: it cannot be loaded ({last[:300]})")

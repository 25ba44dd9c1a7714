"""Processes that share the work on many images."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait

from utils import InputError

MOST_JOBS = 61  # processes; Windows cannot wait for more
JOBS = min(os.cpu_count() or 1, MOST_JOBS)
PR_SET_PDEATHSIG, SIGKILL = 1, 9  # Linux: prctl(2), signal(7)


@contextmanager
def worker_pool(jobs: int, kept: str = "") -> Iterator[Executor]:
    """A pool of up to `jobs` processes. When it is left early, by Ctrl-C or an error, what has not begun is left out.

    Args:
        kept: what the user need not fear for when a process is killed, as the end of a sentence.

    Raises:
        InputError: a process was killed, or the memory is too small for what it does.
    """
    pool = ProcessPoolExecutor(min(jobs, MOST_JOBS), initializer=start_worker)
    try:
        with _ctrl_c_later():
            for number in range(min(jobs, MOST_JOBS)):
                pool.submit(abs, number)  # starts the processes
        yield pool
    except (BrokenProcessPool, MemoryError) as error:
        reason = "ran out of memory" if isinstance(error, MemoryError) else "was killed, perhaps for want of memory"
        remedy = f"start again with --jobs below {jobs}" if jobs > 1 else "free some memory and start again"
        raise InputError(f"a worker process {reason}; {remedy}{kept}") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C comes when this is over, and never to the processes that are started meanwhile.

    In the middle of a fork it would be lost, and a process that has hardly begun would print its trace.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_number: int = 0) -> None:
    """What a process does first: from then on it leaves Ctrl-C to its parent, and ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # at once, before it finds its pipes broken and says so
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])  # ready once it is gone, killed or not
        os._exit(1)

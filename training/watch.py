"""A thread that ends this process when it has waited too long for the others, or when one of them has failed."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from training.launch import ANOTHER, EXIT_CODE, Launch, put_into_table

ADVICE = "what was saved is good: a run goes on from there with --resume"


class Watch:
    """Counts how long the main thread waits for the other processes.

    While this process is stopped itself (a suspended job), nothing is counted.
    """

    def __init__(self, minutes: float, launch: Launch):
        self._limit, self._launch = minutes * 60, launch
        self._period = min(1.0, self._limit / 10)  # seconds between two looks
        self._store = launch.of_this_try(launch.connect())  # a connection of its own: each serves one thread at a time
        self._waits, self._is_waiting = 0, False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done inside waits for the other processes, or may."""
        self._waits += 1
        self._is_waiting = True
        try:
            yield
        finally:
            self._is_waiting = False

    def end(self) -> None:
        """Watch no longer."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        seconds, wait = 0.0, 0
        while not self._is_over.wait(self._period):
            if self._is_waiting and wait == self._waits:
                seconds += self._period
                self._look(seconds)
            else:
                seconds, wait = 0.0, self._waits

    def _look(self, seconds: float) -> None:
        """What is to be done after so many seconds in one wait."""
        try:
            if self._store.check(["failed"]):
                put_into_table(ANOTHER)
                leave()
            if self._store.check(["asked"]):
                self._answer()
            if seconds >= self._limit:
                self._end_of_patience()
        except dist.DistError:
            self._fail(f"contact with torchrun is lost; {ADVICE}")

    def _answer(self) -> None:
        self._store.set(f"waits {self._launch.rank}", "yes")

    def _end_of_patience(self) -> None:
        """Ask who else waits, and end with a line that names those who do not."""
        self._store.set("asked", "yes")
        self._answer()
        time.sleep(3 * self._period)
        world = self._launch.world
        absent = [str(rank) for rank in range(world) if not self._store.check([f"waits {rank}"])]
        who = f"process {', '.join(absent)} of {world}" if absent else f"one of {world} processes"
        self._fail(f"{who} has kept the others waiting for {self._limit / 60:g} minutes; {ADVICE}")

    def _fail(self, problem: str) -> None:
        self._launch.fail(f"error: {problem}", every_try=True)
        leave()


def leave(code: int = EXIT_CODE) -> None:
    """End this process at once: its group cannot be taken down in order while a process hangs or has ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

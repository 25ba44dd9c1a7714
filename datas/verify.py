"""Packed pixels compared with the checksums that they were packed with.

A bit that flips in a data file changes what a run trains on, and nothing else would notice: crops are cut out of a file
mapped into memory. So all of it is read by a thread beside the training, and once more before a run's last save.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import BinaryIO

from datas.images import pixel_digest
from datas.manifest import CHANNELS
from datas.store import Pack
from datas.train_set import TrainSet
from utils import InputError

BLOCK = 1 << 20  # bytes read at a time


def compared(pack: Pack, file: BinaryIO, go_on: Callable[[], bool] = lambda: True) -> Iterator[tuple[str, bool]]:
    """(name, whether its pixels in `file` have the checksum that they were packed with) of every image of a pack.

    The data file is read in order, a block at a time, and not mapped: a bad sector is an error here, and would kill the
    process there. `go_on` is asked before every block; once it says no, the rest is left out.

    Raises:
        OSError: the file cannot be read.
    """
    for index, name in enumerate(pack.names):
        shape = (int(pack.heights[index]), int(pack.widths[index]), CHANNELS)
        file.seek(int(pack.offsets[index]))
        digest = pixel_digest(shape, _blocks(file, math.prod(shape), go_on))
        if not go_on():
            return
        yield name, digest == pack.digests[index]


def _blocks(file: BinaryIO, length: int, go_on: Callable[[], bool]) -> Iterator[bytes]:
    while length and go_on() and (block := file.read(min(BLOCK, length))):
        length -= len(block)
        yield block


def changed(pack: Pack, name: str) -> str:
    """What is wrong with a pack whose image `name` differs."""
    return f"{pack.path}: the pixels of {name} are not those that were packed; something wrote to it, or the disk errs"


class Verification:
    """Reads the packs of a train set once in a thread, and once more at the end of a run, for what changed meanwhile.

        with Verification(data, iteration, say) as verification:
            for each step: ...; verification.check()
            verification.finish()

    Args:
        iteration: at which this piece of the run began; earlier pieces had verifications of their own.
        say: takes the line that all is well, called by `check`.

    Raises:
        InputError: a data file is gone.
    """

    def __init__(self, data: TrainSet, iteration: int, say: Callable[[str], object]):
        packs = [pack for source in data.sources for pack in (source.hr, source.lr)]
        self._iteration = iteration
        self._say = say
        self._problem: InputError | None = None
        self._news: str | None = None  # not said yet
        self._stop = threading.Event()
        with ExitStack() as files:
            # Opened here: when another process builds a pack again, the file that this run reads has no name any more.
            self._opened = [(pack, files.enter_context(_open(pack))) for pack in packs]
            self._files = files.pop_all()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Verification":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def check(self) -> None:
        """Say once that all is well, when all has been read.

        Raises:
            InputError: an image differs, or a data file cannot be read. One line that says what to do.
        """
        if self._problem is not None:
            raise self._problem
        if self._news is not None:
            self._say(self._news)
            self._news = None

    def finish(self) -> None:
        """Read all to the end, and all once more. Raises InputError as `check` does."""
        self._thread.join()
        self.check()
        self._problem = self._difference()
        self.check()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join(timeout=5)  # it stops within a block, unless the disk hangs
        if not self._thread.is_alive():
            self._files.close()

    def _run(self) -> None:
        self._problem = self._difference()
        if self._problem is None and not self._stop.is_set():
            count = sum(len(pack) for pack, _ in self._opened)
            self._news = f"the pixels of all {count} packed images have the checksums that they were packed with"

    def _difference(self) -> InputError | None:
        """What is wrong with the first image that differs."""
        for pack, file in self._opened:
            try:
                images = compared(pack, file, lambda: not self._stop.is_set())
                name = next((name for name, is_same in images if not is_same), None)
            except OSError as error:
                return InputError(f"{pack.path}: cannot be read ({error.strerror}); {self._advice()}")
            if name is not None:
                return InputError(f"{changed(pack, name)}; {self._advice()}")
        return None

    def _advice(self) -> str:
        if self._iteration == 0:
            return "remove it, so that it is packed anew, and start the run again from its beginning"
        return (
            "remove it, so that it is packed anew, and the checkpoints of iterations after "
            f"{self._iteration:,}, which may have learnt from it; then go on with --resume"
        )


def _open(pack: Pack) -> BinaryIO:
    try:
        return open(pack.path, "rb", buffering=0)
    except OSError as error:
        raise InputError(f"{pack.path}: the packed images are gone ({error.strerror}); start again") from error

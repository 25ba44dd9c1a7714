"""What processes that were started together share besides their group: a store, which is there before the group is.

torchrun keeps it over its restarts too, so that a process can ask for what another wrote in an earlier try.
"""

import hashlib
import json
import os
import secrets
import sys
import time
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch.distributed as dist

from utils import InputError

PATIENCE = timedelta(minutes=10)  # for processes that start together to come to their meeting
POLL = 0.05  # seconds
EXIT_CODE = 2  # of a failure, as that of utils.run_command
ANOTHER = "another process failed, and said why"


@cache
def launch() -> "Launch":
    """That of this process."""
    return Launch()


def is_first_process() -> bool:
    """Whether this is the first of the processes that were started together, or on its own."""
    return int(os.environ.get("RANK", 0)) == 0


class Launch:
    """This process among those that torchrun, or another launcher, started together; one on its own has no store.

    Attributes:
        rank: its number among them.
        world: how many they are.
        this_try: a name for what was started together this time, a restart being another; after they have met.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self._is_torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._store: dist.Store | None = None
        self.this_try = ""

    def connect(self, patience: timedelta = PATIENCE) -> dist.Store:
        """A new connection to the store. Of another launcher than torchrun, the first process keeps it."""
        is_keeper = not self._is_torchruns and self.rank == 0 and self._store is None
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(address, port, is_master=is_keeper, wait_for_workers=False, timeout=patience)

    @property
    def store(self) -> dist.Store | None:
        """The connection of the main thread."""
        if self._store is None and (self._is_torchruns or self.world > 1):
            self._store = self.connect()
        return self._store

    def common(self, key: str, value: str) -> str:
        """The value that the first process to ask gave: the same in all of them, and after a restart."""
        return self.store.compare_set(key, "", value).decode() if self.store else value

    def note(self, key: str) -> None:
        """Note something for the tries that may follow."""
        if self.store:
            self.store.set(key, "noted")

    def has_noted(self, key: str) -> bool:
        """Whether it was noted, in this try or in one before it."""
        return bool(self.store and self.store.check([key]))

    def meet(self) -> None:
        """Return when all processes of this try have come here; they then have a part of the store for this try alone.

        What a killed process wrote must not be taken for the word of the one that replaced it, and torchrun's count of
        restarts is not the same on every machine. So each process writes down a name of its own, and all go on when
        all have read the same names.

        Raises:
            InputError: a process has not come within PATIENCE.
        """
        if self.store and not self.this_try:
            self.this_try = self._agreed_name(self.store)

    def of_this_try(self, store: dist.Store) -> dist.Store:
        """The part of the store, through this connection, that belongs to this try alone; after `meet`."""
        assert self.this_try
        return dist.PrefixStore(self.this_try, store)

    def _agreed_name(self, store: dist.Store) -> str:
        own, places = secrets.token_hex(8), [f"name {rank}" for rank in range(self.world)]
        store.set(places[self.rank], own)
        try:
            while True:
                names = [name.decode() for name in store.multi_get(places)]
                agreed = hashlib.sha256(" ".join(names).encode()).hexdigest()
                store.set(f"read by {own}", agreed)
                read = [f"read by {name}" for name in names]
                if store.check(read) and set(store.multi_get(read)) == {agreed.encode()}:
                    return agreed
                time.sleep(POLL)
        except dist.DistStoreError as error:
            minutes = PATIENCE / timedelta(minutes=1)
            raise InputError(f"of {self.world} processes not all have started within {minutes:g} minutes") from error

    def first_says(self, text: str) -> str:
        """The first process's text, in every process; all call this, once. Ends this one if the first has failed."""
        if not self.store:
            return text
        own = self.of_this_try(self.store)
        if self.rank == 0:
            own.set("first says", text)
        while not own.check(["first says"]):
            if own.check(["failed"]):
                put_into_table(ANOTHER)
                sys.exit(EXIT_CODE)
            time.sleep(POLL)
        return own.get("first says").decode()

    def fail(self, line: str, every_try: bool = False) -> None:
        """Say on stderr why this process fails, unless another has said why it does: of all that fail one speaks.

        The others end then without a word. The line is not repeated after a restart, unless `every_try`; it stands in
        torchrun's own table in any case.
        """
        put_into_table(line)
        try:
            was_said = self._is_torchruns and self._was_said(line, every_try)
        except RuntimeError:  # torchrun has ended, or its machine is gone
            was_said = False
        if not was_said:
            bar = "\n" if self.world > 1 else ""  # the first process may have left its progress bar unfinished
            print(f"{bar}{line}", file=sys.stderr, flush=True)
        self.give_up()

    def _was_said(self, line: str, every_try: bool) -> bool:
        assert self.store
        if self.this_try and self.of_this_try(self.store).add("said", 1) > 1:
            return True
        return not every_try and self.store.add(f"said {line}", 1) > 1

    def give_up(self) -> None:
        """Let the others know that this process fails: they wait for it no longer, and end without a word."""
        with suppress(RuntimeError):  # torchrun has ended, or its machine is gone
            if self.store and self.this_try:
                own = self.of_this_try(self.store)
                own.add("said", 1)
                own.set("failed", "yes")


def put_into_table(line: str) -> None:
    """Leave a line where torchrun looks for what to write into its table of failed processes."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        about = {"py_callstack": line, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": {"message": line, "extraInfo": about}}))

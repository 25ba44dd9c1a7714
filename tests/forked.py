"""Scripts in processes forked from one that has imported PyTorch already, which takes seconds of each new interpreter.

Each is what `python -u SCRIPT ARGUMENTS` is, but for its imports and the end of its interpreter. For POSIX.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import threading
from unittest.mock import patch

from helpers import ROOT

IMPORTED = ["torch._dynamo", "config", "training.folder", "training.loop", "training.setup"]  # the first: by AdamW


class Script:
    """A script that runs. `lines` are those it writes, for people and of errors."""

    def __init__(self, script, *arguments, cwd=ROOT, **variables) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        reader, writer = context.Pipe(duplex=False)
        words = [str(ROOT / script), *map(str, arguments)]
        self._process = context.Process(target=_become, args=(words, cwd, {**os.environ, **variables}, writer))
        with patch.dict(os.environ, PYTHONPATH=str(ROOT)):  # the process that forks begins with the first child
            self._process.start()
        writer.close()
        self.lines = os.fdopen(os.dup(reader.fileno()), errors="replace")
        reader.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        """A signal to it."""
        os.kill(self.pid, number)

    def wait(self) -> int | None:
        """Its exit code, as subprocess has it; None if it has not ended in a minute."""
        self._process.join(60)
        return self._process.exitcode

    def ended(self, code=0) -> str:
        """What else it writes, when it has ended with that code. After three minutes it is killed."""
        too_late = threading.Timer(180, self._process.kill)
        too_late.start()
        said = self.lines.read()
        too_late.cancel()
        self.lines.close()
        assert self.wait() == code, said
        return said


def together(processes, *arguments, cwd) -> list[str]:
    """What processes of train.py write that train together by gloo, and end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    places = [{**place, "WORLD_SIZE": str(processes), "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(processes)]
    started = [Script("train.py", *arguments, cwd=cwd, **variables) for variables in places]
    return [script.ended() for script in started]


def _become(words, cwd, environment, writer) -> None:
    multiprocessing.set_start_method(None, force=True)  # of its own processes: the system's, not that of this one
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(writer.fileno(), stream.fileno())
        stream.reconfigure(line_buffering=True)
    writer.close()
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")

"""One case of the most kinds of faults; `python -m tests.faults.run --count 500` draws many of each."""

import json
import os
import subprocess
import sys
import threading

import pytest
from helpers import ROOT

from tests.faults import children
from tests.faults.case import BAD, IDENTICAL, LATE, SKIPPED, STOPPED

pytestmark = pytest.mark.skipif(bool(children.missing()), reason=children.missing() or "-")

SEED = 17
NAMES = (
    "SIGKILL",
    "SIGTERM",
    "SIGINT twice",
    "several signals, one after the other",
    "loader process killed",
    "loader process raises",
    "two runs started in one folder",
    "one process of two killed",
    "SIGKILL at a file operation",
    "killed in the midst of a write",
    "a file operation fails",
    "bit of a checkpoint flipped",
    "checkpoint replaced by something else",
    "metrics.jsonl torn or with garbage",
    "config.yml edited, deleted or replaced",
    "full disk: the run's",
    "folder of the run read-only from a moment on",
    "a log cannot be written",
    "NaN in the loss",
    "training image replaced by another of equal size",
    "bit of a pack flipped between two pieces",
    "SIGKILL while packing",
    "datas.prepare: SIGKILL at a file operation",
    "datas.prepare: one of its processes killed",
)


TRIES = 3  # how many cases of a kind are tried until one comes before the run is over


def _processes_count_together() -> None:
    """RuntimeError unless no count is lost of two processes and two threads in each."""
    counts, numbers = children.Shared(), 10_000
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            threads = [threading.Thread(target=_count, args=(counts, numbers)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    if counts["due"] != 4 * numbers:
        raise RuntimeError(f"{counts['due']} of {4 * numbers}")


def _count(counts: children.Shared, numbers: int) -> None:
    for _ in range(numbers):
        counts.add("due")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    """What became of each, by name; from a process of its own, as one that forks must not have computed anything."""
    file = tmp_path_factory.mktemp("faults") / "results.json"
    only = [word for name in NAMES for word in ("--only", name)]
    options = ["--case", "0", "--tries", str(TRIES), "--seed", str(SEED), "--json", str(file)]
    command = [sys.executable, "-m", "tests.faults.run", *options, *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert file.exists(), done.stdout + done.stderr
    return {result["fault"]: result for result in json.loads(file.read_text())}


def test_no_count_is_lost_between_processes():
    children.call(_processes_count_together)


@pytest.mark.parametrize("name", NAMES)
def test_a_disturbed_run_ends_with_the_bits_of_an_undisturbed_one(name, results):
    result = results[name]
    if result["verdict"] == SKIPPED:
        pytest.skip(result["notes"][0])
    assert result["verdict"] not in (*BAD, LATE), f"{result['notes']}; see {result['folder']}"
    assert result["verdict"] in (IDENTICAL, STOPPED)

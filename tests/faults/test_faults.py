"""One case of the most kinds of faults; `python -m tests.faults.run --count 500` draws many of each."""

import json
import subprocess
import sys

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


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    """What became of each; from a process of its own, as one that forks must not have computed anything."""
    file = tmp_path_factory.mktemp("faults") / "results.json"
    only = [word for name in NAMES for word in ("--only", name)]
    command = [sys.executable, "-m", "tests.faults.run", "--case", "0", "--seed", str(SEED), "--json", str(file), *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert file.exists(), done.stdout + done.stderr
    return {result["fault"]: result for result in json.loads(file.read_text())}


@pytest.mark.parametrize("name", NAMES)
def test_a_disturbed_run_ends_with_the_bits_of_an_undisturbed_one(name, results):
    result = results[name]
    if result["verdict"] == SKIPPED:
        pytest.skip(result["notes"][0])
    assert result["verdict"] not in (*BAD, LATE), f"{result['notes']}; see {result['folder']}"
    assert result["verdict"] in (IDENTICAL, STOPPED)

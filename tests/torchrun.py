"""Runs of train.py in several processes, and a network whose processes can be made to fail."""

import json
import os
import signal
import subprocess
import sys
import threading

import torch
import yaml
from helpers import ROOT, TINY

from models.registry import SSUFSR_KEYS
from models.weights import read_checkpoint

# In evaluation it adds statistics of the inputs of its own process. In training it does what the variable FAULTS says:
# "RANK:CALL:SIGNAL ...", each once, over all restarts; calls are counted over all that was saved.
NETWORK = """
import os
import signal
from pathlib import Path

import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.shift = nn.BatchNorm2d(3, momentum=0.5, affine=False)
        self.up = nn.Sequential(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        shifted = self.shift(x)
        for fault in os.environ.get("FAULTS", "").split() if self.training else []:
            rank, call, name = fault.split(":")
            done = Path(fault.replace(":", "_"))
            due = rank == os.environ["RANK"] and self.shift.num_batches_tracked == int(call)
            if due and not done.exists():
                done.touch()
                print("fault in", os.getpid(), flush=True)
                os.kill(os.getpid(), getattr(signal, name))
        return self.up(x if self.training else x + 0.1 * shifted)
"""


def write_configs(folder, data) -> None:
    """Write tiny.yml, and own.yml for NETWORK, of runs in runs/. An epoch is four iterations, of six images each."""
    common = {"data_path": str(data), "log_path": str(folder / "runs"), "batch_size": 6, "log_every": 1}
    (folder / "tiny.yml").write_text(yaml.safe_dump({**TINY, **common}))
    other = {key: value for key, value in TINY.items() if key not in SSUFSR_KEYS}
    own = {**other, **common, "model": "own:Net", "test_every": 1, "hang_minutes": 0.08}
    (folder / "own.yml").write_text(yaml.safe_dump(own))
    (folder / "own.py").write_text(NETWORK)


def torchrun(cwd, *arguments, options=("--standalone", "--nproc_per_node=2"), faults="", host=(), **variables):
    """Start train.py with `arguments`, in `cwd`; its lines for people and its errors are one text.

    Args:
        options: of torchrun.
        host: a command that runs another one on one of several machines.
        variables: of the environment.
    """
    launch = [*host, sys.executable, "-m", "torch.distributed.run", *options]
    return subprocess.Popen(
        [*map(str, launch), str(ROOT / "train.py"), *map(str, arguments)],
        cwd=cwd, env={**os.environ, "FAULTS": faults, **variables}, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(process, code=0) -> str:
    """What a process has written, when it has ended with that code."""
    said, _ = process.communicate(timeout=180)
    assert process.returncode == code, said
    return said


def kill_when_said(process, words) -> str:
    """What a process writes; its worker with a fault is killed when it has written these words."""
    said, worker = [], None
    too_late = threading.Timer(150, process.terminate)
    too_late.start()
    for line in process.stdout:
        said.append(line)
        if "fault in " in line:
            worker = int(line.rpartition("fault in ")[2])
        if words in line:
            os.kill(worker, signal.SIGKILL)
    too_late.cancel()
    assert process.wait(timeout=60) == 0, "".join(said)
    return "".join(said)


def errors_in(said) -> list[str]:
    """The lines that tell of an error; those of torchrun's own table do not begin so."""
    return [line for line in said.splitlines() if line.startswith("error: ")]


def logged(run, kind="train") -> list[dict]:
    """The lines of a kind in a run's metrics.jsonl."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def losses(run) -> torch.Tensor:
    """(lines, 3): iteration, L1 and FFT loss."""
    return torch.tensor([[line["iteration"], line["l1"], line["fft"]] for line in logged(run)])


def assert_equal_numbers(run, other) -> None:
    """Two runs have the same losses and weights, but for the rounding of sums in another order."""
    torch.testing.assert_close(losses(run), losses(other), rtol=1e-4, atol=0)
    weights, others = (read_checkpoint(folder / "best.pt")["model_state_dict"] for folder in (run, other))
    torch.testing.assert_close(weights, others, rtol=1e-3, atol=1e-5)

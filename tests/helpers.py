"""What several test files use: a tiny run, scripts run in this process, the state that a run leaves."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from models import create_model
from models.weights import read_checkpoint
from training import loop
from training.checkpoints import run_checkpoints
from training.folder import held_run

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
GOLDEN = sorted((ROOT / "models" / "golden").glob("*.npz"))
TINY = {
    "model": "SSUFSR", "scale": 2, "n_feats": 8, "num_heads": 4, "n_blocks": 3,
    "data_path": "", "training_dataset": "sample", "patch_size": 24, "batch_size": 4, "data_repeat": 4,
    "data_augment": True, "threads": 0, "epochs": 2, "lr": 1e-3, "eta_min": 1e-6, "lambda_l1": 1.0, "lambda_fft": 0.01,
    "eval_sets": ["Sample"], "log_every": 3, "test_every": 2, "seed": 5,
    "gpu_ids": [],
}  # fmt: skip


def build(scale, n_feats=64, num_heads=4, n_blocks=3, **more):
    torch.manual_seed(0)
    return create_model(SimpleNamespace(scale=scale, n_feats=n_feats, num_heads=num_heads, n_blocks=n_blocks, **more))


def load_golden(path):
    """Arrays of one golden file, the model with its weights."""
    scale, blocks = int(path.stem[1]), int(path.stem.split("_")[1].removeprefix("blocks"))
    arrays = np.load(path)
    model = build(scale, n_blocks=blocks)
    model.load_state_dict({k[3:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("sd/")})
    return model, {k: torch.from_numpy(arrays[k]) for k in ("input", "output", "hr", "losses", "grad_norms")}, arrays


def write_tiny(folder, data, /, name="tiny.yml", **changes) -> Path:
    """A YAML file in `folder` of TINY on that data, with runs in FOLDER/runs."""
    values = {**TINY, "data_path": str(data), "log_path": str(folder / "runs"), **changes}
    (folder / name).write_text(yaml.safe_dump(values))
    return folder / name


def run_script(name, *arguments):
    """Run a script as `python name arguments` would, in this process (importing torch anew takes seconds)."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    sys.argv = [str(ROOT / name), *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def train(config, folder, resume=False, sets_named=True):
    """Train in `folder` as train.py would; the exit code."""
    with held_run(Path(folder), resume) as saved:
        return loop.train(config, Path(folder), saved, sets_named)


def final_state(folder):
    """Weights, averages and optimiser state of a run's newest checkpoint, flat."""
    content = read_checkpoint(run_checkpoints(folder)[0])
    moments = content["optimizer_state_dict"]["state"]
    flat = {f"moment {n} {k}": v for n, state in moments.items() for k, v in state.items()}
    return {**content["model_state_dict"], **content.get("ema_state_dict", {}), **flat}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def stop_at(iteration, monkeypatch):
    """Send this process a SIGTERM while step `iteration` is under way."""
    original = loop.learning_rate

    def interrupted(config, now, *rest):
        if now == iteration:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(config, now, *rest)

    monkeypatch.setattr(loop, "learning_rate", interrupted)

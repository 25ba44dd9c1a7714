"""Training by the clock in pieces, mixing of sources, and the record table."""

import json
import os
import shutil
import signal

import imageio.v3 as imageio
import pytest
from helpers import run_script

from config import load_config
from tools.record import plot, read_run, table
from training import loop
from training.loop import train
from utils import InputError


def records(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_a_run_by_the_clock_cut_into_pieces_anneals_once_over_the_whole(
    tiny_config, tmp_path, monkeypatch, steady_clock
):
    """24 steps of half a second fill 0.2 minutes."""
    config = load_config(tiny_config(epochs=1000, schedule="progress", max_minutes=0.2, log_every=1, eval_sets=[]))
    original, steps = loop.learning_rate, []

    def interrupting(*position):
        steps.append(position)
        if len(steps) in (5, 11):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*position)

    monkeypatch.setattr(loop, "learning_rate", interrupting)
    folder = tmp_path / "run"
    assert [train(config, folder, resume) for resume in (False, True, True)] == [143, 143, 0]
    rates = [line["lr"] for line in records(folder, "train")]
    minutes = [line["minutes"] for line in records(folder, "train")]
    assert [line["iteration"] for line in records(folder, "start")] == [0, 5, 11]
    assert rates == sorted(rates, reverse=True)
    assert minutes == sorted(minutes)
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < 0.02 * rates[0]
    assert minutes[-1] >= 0.2 > minutes[-2]
    halfway = next(rate for rate, before in zip(rates[1:], minutes, strict=False) if before >= 0.1)
    assert halfway == pytest.approx(0.5e-3, rel=0.15)


def test_a_record_cut_short_and_a_set_that_no_run_has_are_named(tiny_config, tmp_path):
    folder = tmp_path / "run"
    train(load_config(tiny_config(epochs=1)), folder, resume=False)
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    with pytest.raises(InputError, match="--set Set5: no run has validations of it; they have Sample"):
        plot([read_run(folder)], "Set5", None, tmp_path / "x.png")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')
    with pytest.raises(InputError, match=r"metrics\.jsonl: a line is no record"):
        read_run(folder)


def test_crops_come_from_the_sources_by_their_weights_and_the_report_says_so(tiny_config, tiny_data):
    entries = [
        {"path": str(tiny_data / "Sample" / "Sample_train_HR"), "weight": 3.0},
        {"path": str(tiny_data / "benchmark" / "Sample" / "HR"), "weight": 1.0},
    ]
    done = run_script("train.py", "--config", tiny_config(data=entries), "--report")
    assert done.returncode == 0, done.stderr
    assert f"crops from {entries[0]['path']}: 75.0% (6 images)" in done.stdout
    assert f"crops from {entries[1]['path']}: 25.0% (2 images)" in done.stdout


def test_the_record_table_is_read_off_the_runs(tiny_config, tmp_path):
    for seed in (1, 2):
        train(load_config(tiny_config(seed=seed, test_every=1)), tmp_path / f"seed{seed}", resume=False)
    runs = [read_run(tmp_path / f"seed{seed}") for seed in (1, 2)]
    rows = [line.strip("| ").split(" | ") for line in table(runs).splitlines()]
    assert len(rows) == 3  # header, rule, one row for both seeds
    row = dict(zip(rows[0], rows[2], strict=True))
    finals = [records(tmp_path / f"seed{seed}", "validation/Sample")[-1] for seed in (1, 2)]
    mean, spread = sum(f["psnr"] for f in finals) / 2, abs(finals[0]["psnr"] - finals[1]["psnr"])
    assert row["Sample"].startswith(f"{mean:.3f} (spread {spread:.3f}) / ")
    assert (row["seeds"], row["scale"], row["iterations"], row["images seen"]) == ("1, 2", "x2", "12", "48")
    plot(runs, "Sample", 20.0, tmp_path / "curve.png")
    assert imageio.imread(tmp_path / "curve.png").std() > 5


def test_a_folder_that_is_no_finished_run_is_refused(tiny_config, tmp_path):
    train(load_config(tiny_config(eval_sets=[])), tmp_path / "run", resume=False)
    with pytest.raises(InputError, match="holds no validation"):
        read_run(tmp_path / "run")
    shutil.copy(tmp_path / "run" / "config.yml", tmp_path / "config.yml")
    with pytest.raises(InputError, match=r"metrics\.jsonl: no such file"):
        read_run(tmp_path)

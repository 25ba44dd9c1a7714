"""`python benchmark.py pictures`: every case in a process of its own, with figures or one line that says why not."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import run_script

from evaluation import large

TINY = large.Case(4, 40, 30, False, "cpu", "plain", None, 1)


@pytest.fixture(autouse=True)
def small_reference(monkeypatch):
    monkeypatch.setattr(large, "OUTPUT_720P", (128, 72))


@pytest.mark.skipif(large.peak_mib(torch.device("cpu")) is None, reason="the peak of memory is read from Linux's /proc")
def test_a_picture_goes_through_by_rows_and_whole_and_memory_is_that_of_each_alone(tmp_path):
    ballast = np.ones(2**30, np.uint8)  # of this process; those that it starts must not count it
    options = ["--scales", "4", "--megapixels", "0.0012", "--device", "cpu", "--backend", "plain"]
    done = run_script("benchmark.py", "pictures", *options, "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    seen = [(row["picture"], row["width"], row["height"], row["by_rows"], row["ran_through"]) for row in rows]
    assert seen == [
        ("720p", 32, 18, False, "plain"),
        ("0.0012 megapixels", 40, 30, True, "plain"),
        ("0.0012 megapixels", 40, 30, False, "plain"),
    ]
    for row in rows:
        assert row["seconds_per_megapixel"] == pytest.approx(row["seconds"] * 1e6 / (row["width"] * row["height"]))
        assert row["ratio"] == pytest.approx(row["seconds_per_megapixel"] / rows[0]["seconds_per_megapixel"])
        assert 50 < row["peak_mib"] < ballast.nbytes / 2**20
    table = [line for line in done.stdout.splitlines() if line.startswith("| x4")]
    assert [line.split("|")[3].strip() for line in table] == ["whole, plain", "by rows, plain", "whole, plain"]


def test_a_process_that_fails_is_one_line_and_the_others_are_measured(monkeypatch, tmp_path):
    def run_case(case):
        return {"error": "gone wrong"} if case.by_rows else {"seconds": 2.0, "peak_mib": None, "ran_through": "plain"}

    monkeypatch.setattr(large, "run_case", run_case)
    options = ["--scales", "2", "--megapixels", "12", "--device", "cpu", "--backend", "plain"]
    done = run_script("benchmark.py", "pictures", *options)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("| x2")]
    assert lines[0] == "| x2 720p | 64x36 | whole, plain | 2.00 | 868.06 | 1.00 |  |"
    assert lines[1] == "| x2 12 megapixels | 4000x3000 | by rows | - (failed: gone wrong) | - | - | - |"
    assert lines[2].startswith("| x2 12 megapixels | 4000x3000 | whole, plain | 2.00 | 0.17 ")


def test_why_a_process_failed_is_its_last_line():
    error = large.run_case(replace(TINY, by_rows=True, memory_mib=0.01))["error"]
    assert "MiB" in error
    assert error.isprintable()
    failed = subprocess.CompletedProcess([], 1, "", "Traceback:\n  line 1\nMemoryError: no room\n")
    assert large.outcome(failed) == {"error": "MemoryError: no room"}
    assert "signal 9" in large.outcome(subprocess.CompletedProcess([], -9, "", ""))["error"]


def test_a_whole_picture_that_does_not_fit_is_left_out_before_it_is_made(monkeypatch):
    monkeypatch.setattr(large.np.random, "default_rng", lambda _: pytest.fail("the picture was made"))
    assert "MiB" in large.measured(replace(TINY, width=13_000, height=13_000))["left_out"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        *(
            (["pictures", "--megapixels", size], "--megapixels: must be above 0 and at most 179")
            for size in ("0", "-1", "nan", "inf", "179")
        ),
        *((["pictures", "--memory", mib], "--memory: must be above 0") for mib in ("0", "-1", "nan")),
        (["pictures", "--repeats", "0"], "--repeats and --batch must be at least 1"),
        (["data", "--memory", "9"], "--memory: goes with pictures, not with data; leave it out"),
        (["inference", "--backend", "plain"], "--backend: goes with pictures, not with inference; leave it out"),
        (["data", "--threads", "2"], "--threads: goes with inference and training, not with data; leave it out"),
        (
            ["pictures", "--keep-memory"],
            "--keep-memory: goes with inference and training, not with pictures; leave it out",
        ),
        (["training", "--outputs", "4K"], "--outputs: goes with inference, not with training; leave it out"),
        (["training", "--model", "a:B"], "--model: goes with inference, not with training; leave it out"),
        (["inference", "--model-args", "{a: 1}"], "--model-args: goes with --model; leave it out"),
        *((["inference", "--threads", count], "--threads: must be from 1 to 1024") for count in ("0", "-1", "1025")),
    ],
)
def test_a_wrong_command_line_ends_at_once(words, line):
    done = run_script("benchmark.py", *words)
    assert done.returncode == 2
    assert done.stderr == f"error: {line}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_named_and_absent_is_an_error():
    done = run_script("benchmark.py", "pictures", "--device", "cuda")
    assert done.returncode == 2
    assert done.stderr == "error: --device cuda: there is no CUDA device here; use cpu\n"

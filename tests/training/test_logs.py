"""Logs that cannot be written: a line once, and the run goes on."""

import json
import os
import subprocess
import sys

import pytest
from forked import Script
from helpers import ROOT, run_script, train

from config import load_config
from training.logs import RunLog


@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl", "tensorboard"])
def test_a_log_whose_place_is_taken_is_warned_of_once_and_the_run_goes_on(name, tiny_config, tmp_path):
    file = tiny_config(epochs=1, log_every=1, log_name="run", eval_sets=[])
    place = tmp_path / "runs" / "run" / name
    place.parent.mkdir(parents=True)
    place.touch() if name == "tensorboard" else place.mkdir()
    done = run_script("train.py", "--config", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"warning: {place}: cannot be written (") == 1
    assert (place.parent / "iteration_0000006.pt").is_file()


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_disk_that_fills_up_costs_log_lines_and_no_others(tmp_path):
    """In a child whose files may not grow beyond 400 bytes for a while."""
    program = """
import resource, signal, sys
from pathlib import Path
from training.logs import RunLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = RunLog(Path(sys.argv[1]))
for number in range(30):
    if number == 10:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
    if number == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.write("train", number, {"loss": 1.0, "lr": 0.001})
log.close()
"""
    (tmp_path / "program.py").write_text(program)
    said = Script(tmp_path / "program.py", tmp_path).ended()
    assert said.count("metrics.jsonl: cannot be written") == 1
    readable = []
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        try:
            readable.append(json.loads(line)["iteration"])
        except ValueError:
            assert len(line) < 60  # a line that was cut, or an empty one
    assert readable[-10:] == list(range(20, 30))


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_run_whose_terminal_is_gone_goes_on(tiny_config, tmp_path):
    """Its output goes into a pipe that nobody reads any more; the images are packed in this run."""
    file = tiny_config(epochs=2, log_name="run", cache_path=str(tmp_path / "cache"))
    command = [sys.executable, "-u", str(ROOT / "train.py"), "--config", str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "runs" / "run" / "iteration_0000012.pt").is_file()


def test_a_log_says_nothing_where_it_has_no_folder(capsys):
    log = RunLog(None)
    log.say("text")
    log.write("train", 1, {"loss": 1.0})
    log.close()
    assert capsys.readouterr().out == ""


def test_a_run_can_go_on_whose_records_are_gone(tiny_config, tmp_path):
    train(load_config(tiny_config(epochs=1)), tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert train(load_config(tiny_config(epochs=2)), tmp_path / "run", resume=True) == 0

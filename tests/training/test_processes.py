"""Several processes give the numbers of one, and go on when one of them is killed or hangs."""

import os
import shutil
import signal

import pytest
import torch
from forked import together
from helpers import assert_same_bits, final_state, train
from torchrun import assert_equal_numbers, errors_in, finished, kill_when_said, logged, losses, torchrun, write_configs

from config import load_config
from datas import BenchmarkSet
from evaluation.evaluator import evaluate_set
from models import create_model, inference
from models.weights import load_weights
from training.processes import StopRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_data):
    """A folder with configs, and runs in runs/."""
    folder = tmp_path_factory.mktemp("processes")
    write_configs(folder, tiny_data)
    return folder


@pytest.fixture(scope="module")
def one(folder):
    """A run of tiny.yml in one process."""
    train(load_config(folder / "tiny.yml"), folder / "one")
    return folder / "one"


@pytest.fixture(scope="module")
def two(folder):
    """The same in two processes, with SR images."""
    arguments = ["--config", "tiny.yml", "--set", "log_name=two", "--set", "save_image=True"]
    said = together(2, *arguments, cwd=folder)
    assert "strides" not in "".join(said)  # of gradients, which a process would copy at every step
    return folder / "runs" / "two"


@pytest.fixture(scope="module")
def whole(folder):
    """An undisturbed run of own.yml in two processes."""
    together(2, "--config", "own.yml", "--set", "log_name=whole", cwd=folder)
    return folder / "runs" / "whole"


def cut_after_an_epoch(run, to):
    """A copy of a run of two epochs as it was after the first."""
    shutil.copytree(run, to)
    (to / "iteration_0000008.pt").unlink()
    (to / "best.pt").unlink()
    return to


def assert_validated_like_one_process(config, run):
    model = create_model(config)
    load_weights(model, run / "best.pt")
    network, _ = inference(model.eval(), torch.device("cpu"), "plain")
    images = BenchmarkSet(config.data_path, "Sample", config.scale)
    result, line = evaluate_set(network, images, "Sample", config.scale, torch.device("cpu")), best_of(run)
    assert line["psnr"] == pytest.approx(result.mean("standard").psnr, abs=1e-4)
    assert line["ssim"] == pytest.approx(result.mean("standard").ssim, abs=1e-6)
    assert line["official_psnr"] == pytest.approx(result.mean("official").psnr, abs=1e-4)


def best_of(run):
    return max(logged(run, "validation/Sample"), key=lambda line: line["psnr"])


def test_two_processes_give_the_losses_the_weights_and_the_scores_of_one(folder, one, two):
    assert losses(two)[:, 0].tolist() == list(range(1, 9))
    assert_equal_numbers(two, one)
    assert_validated_like_one_process(load_config(folder / "tiny.yml"), two)
    assert sorted(path.name for path in (two / "images" / "Sample").iterdir()) == ["0000_x2.png", "0001_x2.png"]


def test_a_run_of_two_processes_goes_on_in_one(folder, one, two):
    run = cut_after_an_epoch(two, folder / "two, then one")
    train(load_config(run / "config.yml"), run, resume=True)
    assert_equal_numbers(run, one)


def test_a_run_of_one_process_goes_on_in_three(folder, one):
    run = cut_after_an_epoch(one, folder / "one, then three")
    together(3, "--resume", run, cwd=folder)
    assert logged(run, "start")[-1]["processes"] == 3
    assert_equal_numbers(run, one)


def test_statistics_that_differ_between_processes_are_the_firsts_in_validation(folder, whole, monkeypatch):
    monkeypatch.chdir(folder)
    assert_validated_like_one_process(load_config(folder / "own.yml"), whole)


def test_torchrun_restarts_a_run_whose_process_is_killed_or_hangs_and_it_ends_with_the_same_bits(folder, whole):
    """The first, which holds the folder, is killed before a checkpoint, the second stopped after one."""
    before = set((folder / "runs").iterdir())
    options = ["--standalone", "--nproc_per_node=2", "--max-restarts=2"]
    arguments = ["--config", "own.yml", "--set", "threads=1"]
    process = torchrun(folder, *arguments, options=options, faults="0:2:SIGKILL 1:6:SIGSTOP")
    said = kill_when_said(process, "has kept the others waiting")  # torchrun alone would give it half a minute
    (run,) = set((folder / "runs").iterdir()) - before
    assert_same_bits(final_state(run), final_state(whole))
    assert torch.equal(losses(run), losses(whole))
    assert len(logged(run, "start")) == 3
    killed, hung = errors_in(said)
    assert killed.startswith("error: another of 2 processes has ended, or cannot be reached (killed, ")
    assert hung.startswith("error: process 1 of 2 has kept the others waiting for 0.08 minutes; ")
    assert "Traceback" not in said


def test_of_processes_that_fail_alike_one_says_so_and_torchruns_table_repeats_it(folder):
    said = finished(torchrun(folder, "--config", "tiny.yml", "--set", "batc_size=4"), code=1)
    (line,) = errors_in(said)
    assert line.startswith("error: --set batc_size=4: unknown config key")
    assert f"traceback : {line}" in said
    assert "exitcode  : 2 " in said


def test_under_torchrun_a_signal_that_comes_twice_ends_nothing(monkeypatch):
    """A cluster sends it to every process, and torchrun passes it on."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    stop = StopRequest()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_code == 128 + signal.SIGTERM

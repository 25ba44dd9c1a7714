"""What a run is set up with: the backend it began with, and images on the device only where their crops are right."""

import dataclasses

import pytest
import torch
from helpers import assert_same_bits, final_state, stop_at, train

from config import load_config
from datas import ResidentTrainSet
from models import ModelError
from models.weights import read_checkpoint
from training import setup
from training.checkpoints import run_checkpoints
from training.run_state import Position, Run
from training.validation import note_best
from utils import InputError


def log(folder):
    return (folder / "train.log").read_text()


def test_a_resumed_run_keeps_the_backend_it_began_with(tiny_config, tmp_path, monkeypatch):
    """'auto' would take another one by now."""
    config, asked = load_config(tiny_config()), []
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        train(config, tmp_path / "run", resume=False)

    def choose(_model, _device, wanted, *_rest):
        asked.append(wanted)
        return "plain" if wanted == "auto" else wanted

    content = read_checkpoint(run_checkpoints(tmp_path / "run")[0])
    monkeypatch.setattr(setup, "choose_backend", choose)
    train(config, tmp_path / "run", resume=True)
    assert asked == ["plain", content["eval_backend"]]  # the steps', then validation's
    assert "auto" not in asked


def test_a_resumed_run_says_so_if_its_backend_is_gone(tiny_config, tmp_path, monkeypatch):
    config, real = load_config(tiny_config()), setup.choose_backend
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        patch.setattr(Run, "save", saved_as("triton", Run.save))
        train(config, tmp_path / "run", resume=False)
    monkeypatch.setattr(setup, "choose_backend", real)
    assert train(config, tmp_path / "run", resume=True) == 0
    assert "warning: the run began with the backend 'triton'; another gives other bits (backend: 'triton'" in log(
        tmp_path / "run"
    )


def saved_as(backend, save):
    def saved(run, is_best=False):
        save(dataclasses.replace(run, backend=backend), is_best)

    return saved


def test_a_backend_that_was_named_is_not_replaced(tiny_config, tmp_path):
    with pytest.raises(ModelError, match="backend: 'triton' cannot run here: it needs a CUDA device"):
        train(load_config(tiny_config(backend="triton")), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_images_on_the_device_give_the_bits_of_the_loader_and_say_so(tiny_config, tmp_path):
    train(load_config(tiny_config()), tmp_path / "loaded", resume=False)
    train(load_config(tiny_config(data_on_gpu=True)), tmp_path / "held", resume=False)
    assert "data_on_gpu: 0.0 GiB; 2 batches equal the loader's" in log(tmp_path / "held")
    assert "data_on_gpu" not in log(tmp_path / "loaded")  # 'auto' holds them on a GPU only
    assert_same_bits(final_state(tmp_path / "loaded"), final_state(tmp_path / "held"))


@pytest.mark.parametrize(("broken", "reason"), [("crops", "are not those of the loader"), ("memory", "out of memory")])
def test_images_on_the_device_that_are_wrong_or_do_not_fit(broken, reason, tiny_config, tmp_path, monkeypatch):
    if broken == "crops":
        real = ResidentTrainSet.crops
        monkeypatch.setattr(ResidentTrainSet, "crops", lambda self, rows: tuple(c.flip(1) for c in real(self, rows)))
    else:

        def refuse(*_arguments):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

        monkeypatch.setattr(ResidentTrainSet, "__init__", refuse)
    with pytest.raises(InputError, match=f"config key 'data_on_gpu': .*{reason}.*; set it to auto or False"):
        train(load_config(tiny_config(data_on_gpu=True)), tmp_path / "run", resume=False)


def test_a_graph_that_must_be_captured_needs_a_gpu(tiny_config, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="config key 'cuda_graph': needs one process on a CUDA device"):
        train(load_config(tiny_config(cuda_graph=True)), tmp_path / "run", resume=False)


def test_absent_sets_are_left_out_and_leaks_are_named(tiny_config, tiny_data, tmp_path):
    folder = tiny_data / "benchmark" / "Sample" / "HR"
    config = load_config(tiny_config(data=[{"path": str(folder)}], eval_sets=["Set5", "Sample"], epochs=1))
    assert train(config, tmp_path / "run", resume=False, sets_named=False) == 0
    lines = log(tmp_path / "run").splitlines()
    assert sum("an evaluation image; remove it from training" in line for line in lines) == 2
    assert any("evaluation set 'Set5' is skipped" in line for line in lines)
    with pytest.raises(InputError, match="there is no evaluation set 'Set5'"):
        train(config, tmp_path / "other", resume=False)


def test_the_best_of_another_set_is_no_measure(tmp_path):
    """As when the first set was absent in the last piece of a run."""

    class Result:
        name = "Set5"

        @staticmethod
        def mean(_protocol):
            return dataclasses.make_dataclass("Scores", ["psnr"])(30.0)

    run = dataclasses.make_dataclass("Run", ["position"])(Position(iteration=7))
    run.position.best = {"psnr": 40.0, "iteration": 3, "set": "Easy"}
    note_best(run, Result)
    assert run.position.best == {"psnr": 30.0, "iteration": 7, "set": "Set5"}


def test_the_smaller_last_batch_is_trained_on_and_counted_as_an_iteration(tiny_config, tmp_path):
    config = load_config(tiny_config(batch_size=5, drop_last=False, epochs=1, log_every=1, eval_sets=[]))
    train(config, tmp_path / "run")
    content = read_checkpoint(run_checkpoints(tmp_path / "run")[0])
    assert (content["iteration"], content["epoch"]) == (5, 1)  # 24 samples


def test_a_last_batch_that_cannot_be_divided_is_refused(tiny_config, tmp_path):
    config = load_config(tiny_config(batch_size=10, accumulate=5, drop_last=False))
    with pytest.raises(
        InputError, match="'drop_last': False leaves a last batch of 4, which cannot be divided into 1 p"
    ):
        train(config, tmp_path / "run")

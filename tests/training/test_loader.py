"""Loader processes that are killed, that raise, and whose parent is killed."""

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from forked import Script
from helpers import assert_same_bits, final_state, train, write_tiny
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from config import load_config
from datas import TrainSet
from training import loop
from utils import InputError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """PyTorch looks every five seconds whether a loader process is alive: here more often."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))


def at_iteration(number, action, monkeypatch):
    """Do something once while step `number` is under way."""
    original, done = loop.learning_rate, []

    def acting(config, now, *rest):
        if now == number and not done:
            done.append(now)
            action()
        return original(config, now, *rest)

    monkeypatch.setattr(loop, "learning_rate", acting)


def kill_loaders(how, count):
    for process in multiprocessing.active_children()[:count]:
        os.kill(process.pid, how)


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    """An undisturbed run without loader processes."""
    folder = tmp_path_factory.mktemp("whole")
    train(load_config(write_tiny(folder, tiny_data, threads=0, eval_sets=[])), folder / "whole", resume=False)
    return folder / "whole"


@pytest.mark.parametrize(("how", "count"), [(signal.SIGKILL, 1), (signal.SIGTERM, 2)])
def test_a_run_whose_loaders_are_killed_goes_on_to_the_same_bits(how, count, whole, tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config(threads=2, eval_sets=[]))
    at_iteration(5, lambda: kill_loaders(how, count), monkeypatch)
    assert train(config, tmp_path / "run", resume=False) == 0
    assert_same_bits(final_state(tmp_path / "run"), final_state(whole))
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("; the loader is started again, with the same batches") == 1
    assert multiprocessing.active_children() == []


def test_a_loader_that_is_killed_takes_no_lock_with_it_that_others_wait_for(tiny_config, tmp_path, monkeypatch):
    """PyTorch's loader asks an event for every batch, whose lock a process may hold when it is killed."""
    parent = os.getpid()

    def dying(event):
        if os.getpid() == parent:
            return Event.is_set(event)
        event._cond.acquire()
        os._exit(9)

    class Patched(Event):
        is_set = dying

    monkeypatch.setattr("multiprocessing.synchronize.Event", Patched)
    config = load_config(tiny_config(threads=2, epochs=1, eval_sets=[]))
    assert train(config, tmp_path / "run") == 0
    at_iteration(3, lambda: kill_loaders(signal.SIGKILL, 2), monkeypatch)
    assert train(config, tmp_path / "killed") == 0


def test_a_run_whose_loaders_die_again_and_again_ends_in_one_line(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainSet, "__getitem__", lambda self, iteration: os._exit(9))
    with pytest.raises(
        InputError, match=r"^a loader process died before iteration 1 \(.*\), 4 times in a row; is there"
    ):
        train(load_config(tiny_config(threads=1)), tmp_path / "run", resume=False)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            InputError("x.bin: the packed images are gone; start again"),
            "^x.bin: the packed images are gone; start again$",
        ),
        (ValueError("two\nlines"), r"^batch of iteration 8: it cannot be loaded \(lines\)$"),
        (KeyError("name"), r"^batch of iteration 8: it cannot be loaded \(KeyError: 'name'\)$"),
    ],
    ids=["InputError", "ValueError", "KeyError"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_loader_that_raises_ends_the_run_in_one_line_and_the_last_checkpoint_is_good(
    error, message, threads, whole, tiny_config, tmp_path, monkeypatch
):
    real = TrainSet.__getitem__

    def failing(self, iteration):
        if iteration == 7:
            raise error
        return real(self, iteration)

    config = load_config(tiny_config(threads=threads, eval_sets=[]))
    with monkeypatch.context() as patch:
        patch.setattr(TrainSet, "__getitem__", failing)
        with pytest.raises(InputError, match=message):
            train(config, tmp_path / "run", resume=False)
    for process in multiprocessing.active_children():  # what an exit does, which used to wait for ever
        process.terminate()
        process.join(timeout=10)
        assert not process.is_alive()
    train(config, tmp_path / "run", resume=True)
    assert_same_bits(final_state(tmp_path / "run"), final_state(whole))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the children of a process in /proc")
def test_loaders_die_with_a_parent_that_is_killed_and_the_run_can_go_on_at_once(tiny_config, tmp_path):
    file = tiny_config(epochs=2000, threads=2, eval_sets=[], log_name="killed")
    parent = Script("train.py", "--config", file)
    next(line for line in parent.lines if line.startswith("iteration 12:"))
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.send(signal.SIGKILL)
    assert parent.wait() == -signal.SIGKILL
    assert len(children) >= 2
    deadline = time.monotonic() + 2
    while (alive := [pid for pid in children if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []
    config = load_config(file, ["epochs=3"])
    assert train(config, tmp_path / "runs" / "killed", resume=True) == 0


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

"""Processes of `datas.prepare` that are killed or interrupted, and what they leave."""

import io
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datas import check, layout, prepare
from datas.degradation import downscale
from datas.images import read_rgb, write_png
from datas.prepare import main, make_lr
from utils import InputError, held_folder, run_command

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
COUNT = 12


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch):
    """Workers that see what the test has changed."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def hr_dir(tmp_path):
    folder = tmp_path / "Sample" / "Sample_train_HR"
    for number in range(COUNT):
        write_png(folder / f"{number:02d}.png", np.full((24, 24, 3), number, np.uint8))
    return folder


def lr_files(hr_dir):
    """Every file of the LR folder but the lock."""
    return sorted(path.name for path in layout.lr_folder(hr_dir, 2).iterdir() if path.name != ".lock")


def assert_all_made(hr_dir):
    assert lr_files(hr_dir) == [f"{number:02d}x2.png" for number in range(COUNT)]


def start(work, log: Path) -> int:
    """A child of the test with a process group of its own; its output goes to a file."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = io.TextIOWrapper(io.FileIO(1, "w")), io.TextIOWrapper(io.FileIO(2, "w"))
        try:
            run_command(work)
        except SystemExit as leaving:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(leaving.code or 0)
        finally:
            os._exit(99)
    return pid


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether it runs still; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def downscale_slowly(monkeypatch, folder: Path) -> None:
    """Downscaling takes a fifth of a second; every process that does it leaves a file of its number."""

    def slowly(image, scale):
        (folder / f"pid{os.getpid()}").touch()
        time.sleep(0.2)
        return downscale(image, scale)

    monkeypatch.setattr(prepare, "downscale", slowly)


def at_work(folder: Path) -> list[int]:
    return [int(path.name[3:]) for path in folder.glob("pid*")]


def test_a_killed_process_is_one_line_and_what_was_made_is_kept(hr_dir, monkeypatch):
    def die_at_the_last(image, scale):
        if image[0, 0, 0] == COUNT - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return downscale(image, scale)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "downscale", die_at_the_last)
        with pytest.raises(InputError) as caught:
            main(["--hr", str(hr_dir), "--scales", "2", "--jobs", "1"])
    assert str(caught.value) == (
        "a worker process was killed, perhaps for want of memory; free some memory and start again; "
        "the LR images made so far are kept"
    )
    assert len(lr_files(hr_dir)) >= COUNT - 1
    assert make_lr(hr_dir, [2]) == 1
    assert_all_made(hr_dir)


def test_a_process_without_memory_is_one_line(hr_dir, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(prepare, "downscale", full)
    with pytest.raises(InputError, match="a worker process ran out of memory; start again with --jobs below 2;"):
        main(["--hr", str(hr_dir), "--scales", "2", "--jobs", "2"])


def test_a_killed_process_of_a_check_is_one_line(hr_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "read_rgb", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match=r"a worker process was killed, .*; start again with --jobs below 2$"):
        main(["--check", str(tmp_path), "--jobs", "2"])


def test_ctrl_c_is_one_line_and_leaves_whole_images_alone(hr_dir, tmp_path, monkeypatch):
    downscale_slowly(monkeypatch, tmp_path)
    log = tmp_path / "log"
    pid = start(lambda: main(["--hr", str(hr_dir), "--scales", "2", "--jobs", "2"]), log)
    wait_for(lambda: len(at_work(tmp_path)) == 2)
    os.killpg(pid, signal.SIGINT)  # as a terminal does
    began = time.monotonic()
    _, status = os.waitpid(pid, 0)
    assert time.monotonic() - began < 0.2 * COUNT / 2, "it made all the others first"
    assert os.waitstatus_to_exitcode(status) == 130
    printed = log.read_text()
    assert printed.endswith("interrupted\n")
    assert "Traceback" not in printed
    assert "Error" not in printed
    wait_for(lambda: not any(map(is_alive, at_work(tmp_path))))
    made = list(layout.lr_folder(hr_dir, 2).iterdir())
    assert 0 < len(made) < COUNT
    for path in made:
        assert read_rgb(path).shape == (12, 12, 3), f"{path} is half made"
    monkeypatch.undo()
    assert make_lr(hr_dir, [2]) == COUNT - len(made)
    assert_all_made(hr_dir)


def test_ctrl_c_while_processes_are_started_is_one_line(hr_dir, tmp_path):
    def interrupted() -> int:
        def ctrl_c():
            os.kill(os.getpid(), signal.SIGINT)

        os.register_at_fork(before=ctrl_c, after_in_child=ctrl_c)
        return main(["--hr", str(hr_dir), "--scales", "2", "--jobs", "2"])

    _, status = os.waitpid(start(interrupted, tmp_path / "log"), 0)
    assert (tmp_path / "log").read_text() == "interrupted\n"
    assert os.waitstatus_to_exitcode(status) == 130


def test_processes_end_with_their_parent_however_it_ends(hr_dir, tmp_path, monkeypatch):
    downscale_slowly(monkeypatch, tmp_path)
    pid = start(lambda: make_lr(hr_dir, [2], jobs=3), tmp_path / "log")
    wait_for(lambda: len(at_work(tmp_path)) == 3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: not any(map(is_alive, at_work(tmp_path))), seconds=1)
    leftover = layout.lr_folder(hr_dir, 2) / ".05x2.png.0123456789abcdef.tmp"
    leftover.touch()  # as of a write that was cut off
    monkeypatch.undo()
    make_lr(hr_dir, [2])
    assert_all_made(hr_dir)


def test_lr_folders_that_another_process_fills_are_left_to_it(hr_dir):
    with held_folder(layout.lr_folder(hr_dir, 3)):
        with pytest.raises(InputError, match="X3: another process is at work in it; wait for it"):
            make_lr(hr_dir, [2, 3])
        assert not layout.lr_folder(hr_dir, 2).exists()
    assert make_lr(hr_dir, [2, 3]) == 2 * COUNT

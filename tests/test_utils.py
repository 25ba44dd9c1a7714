"""Atomic files and held folders: what other processes see, and what is left when one is killed."""

import errno
import io
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from file_limits import no_file_beyond
from helpers import ROOT
from tqdm import tqdm

import utils
from utils import InputError, atomic_file, atomic_write, held_folder, remove_leftovers

HOLD = "import sys, time, utils\nwith utils.held_folder(sys.argv[1]):\n    print('held', flush=True)\n    "
posix = pytest.mark.skipif(os.name == "nt", reason="of POSIX alone")


@pytest.fixture(params=["posix", "nt"])
def system(request, monkeypatch):
    """The order of things of POSIX, and that of Windows."""
    if os.name == "nt" and request.param != "nt":
        pytest.skip("Windows does not do what POSIX allows")
    monkeypatch.setattr(utils, "os", SimpleNamespace(**{**vars(os), "name": request.param}))


@pytest.fixture
def start():
    """Function of a program and its arguments: the process that runs it in the project's root."""
    processes = []

    def run(program: str, *arguments) -> subprocess.Popen:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@posix
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"content")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    atomic_write(tmp_path / "file", b"old")
    monkeypatch.setattr(utils.os, "fsync", full)
    with pytest.raises(InputError, match=r"file: could not be written \(no space left\); what stood there before is"):
        atomic_write(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@posix
def test_who_holds_a_folder_next_removes_what_a_killed_write_left_there_and_nothing_else(tmp_path, start):
    killed = "import os, signal, sys, utils\nutils.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    start(killed + "utils.atomic_write(sys.argv[1], b'half')", tmp_path / "file.pt").wait()
    assert len(list(tmp_path.iterdir())) == 1
    for name in (".file.tmp", "other.0123456789abcdef.tmp", ".mine.0123456789abcdeg.tmp"):
        (tmp_path / name).touch()
    with held_folder(tmp_path):
        left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".file.tmp", ".lock", ".mine.0123456789abcdeg.tmp", "other.0123456789abcdef.tmp"]


def test_a_write_into_what_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.new: could not be written"):
        atomic_write(tmp_path / "file" / "new", b"content")


def test_of_an_atomic_file_a_reader_sees_the_old_content_until_the_block_ends(tmp_path):
    path = tmp_path / "new" / "file"
    atomic_write(path, b"old")
    with atomic_file(path) as file:
        file.write(bytes(1 << 20))
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == bytes(1 << 20)
    assert list(path.parent.iterdir()) == [path]


def test_an_atomic_file_can_seek(tmp_path):
    with atomic_file(tmp_path / "file") as file:
        file.write(b"0123456789")
        assert file.tell() == 10
        assert file.seek(4) == 4
        file.write(b"ab")
        file.seek(0, os.SEEK_END)
        file.write(b"c")
    assert (tmp_path / "file").read_bytes() == b"0123ab6789c"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("inside"), InputError("a.png: is damaged"), OSError(errno.EIO, "disk")]
)
@pytest.mark.parametrize("old", [[], [b"old"]])
def test_errors_in_the_block_of_an_atomic_file_pass_and_leave_what_was_there(tmp_path, error, old, system):
    for content in old:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(type(error)) as caught, atomic_file(tmp_path / "file") as file:
        file.write(bytes(1 << 20))
        raise error
    assert caught.value is error
    assert [path.read_bytes() for path in tmp_path.iterdir()] == old


def in_one_piece(file):
    file.write(bytes(100_000))


def in_small_pieces(file):
    for _ in range(1000):
        file.write(bytes(100))


def and_back(file):
    file.write(bytes(5000))
    file.seek(0)


def at_the_end(file):
    file.write(bytes(5000))


@pytest.mark.parametrize("write", [in_one_piece, in_small_pieces, and_back, at_the_end])
def test_a_disk_that_is_full_in_the_midst_of_an_atomic_file_is_one_line_and_leaves_the_old_file(tmp_path, write):
    (tmp_path / "file").write_bytes(b"old")
    message = r"file: could not be written \(no space left\); what stood there before is untouched; free some space"
    with no_file_beyond(4000), pytest.raises(InputError, match=message), atomic_file(tmp_path / "file") as file:
        write(file)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_an_error_in_the_block_is_told_even_if_the_disk_is_full_too(tmp_path):
    with no_file_beyond(10), pytest.raises(RuntimeError, match="inside"), atomic_file(tmp_path / "file") as file:
        file.write(bytes(100))
        raise RuntimeError("inside")
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_file_that_another_process_is_writing_is_no_leftover_until_it_is_killed(tmp_path, start):
    program = "import sys, time, utils\nwith utils.atomic_file(sys.argv[1]):\n    print('open', flush=True)\n    "
    process = start(program + "time.sleep(60)", tmp_path / "file")
    assert process.stdout.readline() == "open\n"
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    process.kill()
    process.wait()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_held_folder_is_gone_afterwards_if_nothing_came_into_it(tmp_path, system):
    with held_folder(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_of_a_held_folder_what_came_into_it_is_left_and_nothing_else(tmp_path, system):
    with pytest.raises(RuntimeError, match="inside"), held_folder(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
        raise RuntimeError("inside")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_the_lock_file_is_hidden_and_is_the_only_file_of_a_folder_just_held(tmp_path):
    with held_folder(tmp_path):
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]


def test_a_folder_held_by_another_process_is_refused_at_once_and_left_alone(tmp_path, start):
    process = start(HOLD + "time.sleep(60)", tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    before = time.monotonic()
    message = "run: another process is at work in it; wait for it or choose another folder$"
    with pytest.raises(InputError, match=message), held_folder(tmp_path / "run"):
        pass
    assert time.monotonic() - before < 1
    assert (tmp_path / "run").is_dir()


def test_a_folder_whose_holder_was_killed_can_be_held(tmp_path, start):
    process = start(HOLD + "time.sleep(60)", tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with held_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_that_outlives_its_killed_parent_holds_nothing(tmp_path, start):
    program = """
    import os, signal
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""
    process = start(HOLD + program, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    child = int(process.stdout.readline())
    try:
        process.wait()
        with held_folder(tmp_path / "run"):
            pass
    finally:
        os.kill(child, 9)


def test_processes_that_come_and_go_never_hold_a_folder_together(tmp_path, start):
    program = """
import os, sys, time, utils
folder, mark = sys.argv[1:]
held, end = 0, time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        with utils.held_folder(folder):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails where another process is inside
            os.remove(mark)
            held += 1
    except utils.InputError:
        pass
print(held)
"""
    processes = [start(program, tmp_path / "run", tmp_path / "mark") for _ in range(4)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(map(int, outputs)) > 20
    if os.name != "nt":  # there, one that is refused may have the lock file open while the holder would remove it
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_locked_is_named_with_the_reason(tmp_path):
    (tmp_path / utils.LOCK_NAME).mkdir()
    with pytest.raises(InputError, match=r"cannot be locked \(.+\); choose another folder"), held_folder(tmp_path):
        pass


def test_folders_that_were_made_for_nothing_are_removed_and_no_others(tmp_path):
    (tmp_path / "old").mkdir()
    with held_folder(tmp_path / "old" / "runs" / "new"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert list((tmp_path / "old").iterdir()) == []
    with held_folder(tmp_path / "old" / "runs" / "new"):
        (tmp_path / "old" / "runs" / "new" / "file").write_text("")
    assert (tmp_path / "old" / "runs" / "new" / "file").exists()


def test_a_line_beside_a_progress_bar_clears_it_first(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with tqdm(total=10, file=utils.Terminal(), mininterval=0, ncols=40) as bar:
        bar.update(3)
        tqdm.write("a line", file=shown)
    before = shown.getvalue().partition("a line")[0]
    assert before.endswith("\r")  # blanks over the bar, and back to the beginning

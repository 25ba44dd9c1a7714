"""Packed pixels that change after they were packed: found by a thread beside the training, and by a check."""

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from datas import verify
from datas.images import write_png
from datas.prepare import main, make_lr
from datas.train_set import open_train_set
from datas.verify import Verification
from utils import InputError


@pytest.fixture
def data_path(tmp_path):
    """Four training images with their LR images, x2, each of another size."""
    folder = tmp_path / "Sample" / "Sample_train_HR"
    random = np.random.default_rng(0)
    for number in range(4):
        write_png(folder / f"{number}.png", random.integers(0, 256, (32 + number, 40, 3), dtype=np.uint8))
    make_lr(folder, [2])
    return tmp_path


@pytest.fixture
def data(data_path):
    return opened(data_path)


def opened(data_path):
    source = {"data_path": data_path, "training_dataset": "sample", "data": (), "cache_path": ""}
    sampling = {"patch_size": 16, "batch_size": 1, "data_repeat": 1, "data_augment": True, "drop_last": True, "seed": 1}
    return open_train_set(SimpleNamespace(scale=2, **source, **sampling))


def flip_bit(pack, index, byte):
    """Flip a bit of image `index`: of its first byte, or counted from its end."""
    stamp = os.stat(pack.path)
    length = int(pack.heights[index] * pack.widths[index]) * 3
    with open(pack.path, "r+b") as file:
        file.seek(int(pack.offsets[index]) + byte % length)
        value = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 16]))
    os.utime(pack.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def outcome(data, iteration=0):
    """(lines said, message of the error or None) of a verification that is polled until it has come to an end."""
    lines, end = [], time.monotonic() + 20
    with Verification(data, iteration, lines.append) as verification:
        try:
            while not lines:
                assert time.monotonic() < end
                verification.check()
            verification.check()
        except InputError as error:
            assert "\n" not in str(error)
            return lines, str(error)
    return lines, None


@pytest.fixture
def held_up(monkeypatch):
    """(reached, go_on): events by which a verification says that it has read a block, and is let go on."""
    reached, go_on, blocks = threading.Event(), threading.Event(), verify._blocks

    def slow_blocks(*arguments):
        for block in blocks(*arguments):
            yield block
            reached.set()
            assert go_on.wait(20)

    monkeypatch.setattr(verify, "_blocks", slow_blocks)
    yield reached, go_on
    go_on.set()


def test_pixels_as_they_were_packed_are_said_to_be_so_once(data):
    lines, problem = outcome(data)
    assert problem is None
    assert lines == ["the pixels of all 8 packed images have the checksums that they were packed with"]


@pytest.mark.parametrize("which", ["hr", "lr"])
@pytest.mark.parametrize(("index", "byte"), [(0, 0), (1, 1000), (3, -1)])
def test_one_bit_that_flips_is_found_with_the_file_and_the_image(data, which, index, byte):
    pack = getattr(data.sources[0], which)
    flip_bit(pack, index, byte)
    lines, problem = outcome(data)
    assert lines == []
    assert problem.startswith(f"{pack.path}: the pixels of {pack.names[index]} are not those that were packed;")
    assert problem.endswith("; remove it, so that it is packed anew, and start the run again from its beginning")


def test_a_run_that_went_on_is_told_which_checkpoints_are_in_doubt(data):
    flip_bit(data.sources[0].hr, 0, 0)
    assert outcome(data, iteration=12000)[1].endswith(
        "; remove it, so that it is packed anew, and the checkpoints of iterations after 12,000, which may have learnt "
        "from it; then go on with --resume"
    )


def test_the_remedy_helps(data_path, data):
    path = data.sources[0].hr.path
    flip_bit(data.sources[0].hr, 0, 0)
    assert outcome(data)[1] is not None
    path.unlink()
    again = opened(data_path)
    assert outcome(again)[1] is None
    assert again.fingerprint() == data.fingerprint()


def test_a_data_file_that_becomes_shorter_is_found_and_kills_nobody(data):
    os.truncate(data.sources[0].hr.path, 100)
    assert "the pixels of 0.png are not those" in outcome(data)[1]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_data_files_that_another_process_removes_meanwhile_are_read_to_their_end(data, held_up):
    """The run reads them to its end, too."""
    reached, go_on = held_up
    lines = []
    with Verification(data, 0, lines.append) as verification:
        assert reached.wait(20)
        for pack in (data.sources[0].hr, data.sources[0].lr):
            pack.path.unlink()
        go_on.set()
        while not lines:
            verification.check()


def test_a_data_file_that_is_gone_is_named_at_once(data):
    data.sources[0].lr.path.unlink()
    with pytest.raises(InputError, match="the packed images are gone"):
        Verification(data, 0, print)


def test_a_file_that_cannot_be_read_is_named(data, monkeypatch):
    def bad_sector(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verify, "_blocks", bad_sector)
    _, problem = outcome(data)
    assert problem.startswith(f"{data.sources[0].hr.path}: cannot be read (Input/output error); remove it,")


def test_it_stops_when_asked_and_keeps_no_process_alive(data, held_up):
    reached, go_on = held_up
    flip_bit(data.sources[0].hr, 0, 0)
    before = set(threading.enumerate())
    verification = Verification(data, 0, pytest.fail)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    assert reached.wait(20)
    threading.Timer(0.1, go_on.set).start()
    verification.close()
    assert not thread.is_alive()
    verification.check()  # half an image has no checksum


def test_it_holds_a_block_at_a_time(data, monkeypatch):
    monkeypatch.setattr(verify, "BLOCK", 64)
    sizes, blocks = [], verify._blocks

    def counted(*arguments):
        for block in blocks(*arguments):
            sizes.append(len(block))
            yield block

    monkeypatch.setattr(verify, "_blocks", counted)
    assert outcome(data)[1] is None
    packs = (data.sources[0].hr, data.sources[0].lr)
    assert max(sizes) == 64
    assert sum(sizes) == sum(pack.path.stat().st_size for pack in packs)


# The check of `datas.prepare`


def check(data_path, capsys) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["--check", str(data_path), "--jobs", "1"])
    return code, capsys.readouterr().out


def test_a_check_says_which_packs_it_looked_at(data_path, data, capsys):
    code, printed = check(data_path, capsys)
    assert code == 0
    for pack in (data.sources[0].hr, data.sources[0].lr):
        assert f"{pack.path}: 4 packed images\n" in printed


def test_a_check_finds_every_image_that_differs(data_path, data, capsys):
    pack = data.sources[0].hr
    flip_bit(pack, 1, 7)
    flip_bit(pack, 3, -1)
    code, printed = check(data_path, capsys)
    assert code == 1
    problems = [line for line in printed.splitlines() if line.startswith("problem: ")]
    for line, name in zip(problems, ("1.png", "3.png"), strict=True):
        assert line.startswith(f"problem: {pack.path}: the pixels of {name} are not those that were packed;")
        assert line.endswith("; remove it, a run that needs it packs its images anew")


def test_a_check_names_what_can_only_be_packed_anew(data_path, data, capsys):
    (data_path / "cache" / "old.json").write_text('{"format": 1}')
    data.sources[0].lr.path.unlink()
    code, printed = check(data_path, capsys)
    assert code == 0
    assert "old.json: was written by another release; a run that needs it packs its images anew" in printed
    assert f"names {data.sources[0].lr.path.name}, which is missing or not of its length; a run" in printed


def test_a_check_finds_a_file_that_was_replaced_with_its_size_and_time_kept(data_path, data, capsys):
    path = data_path / "Sample" / "Sample_train_HR" / "2.png"
    stamp, image = os.stat(path), np.zeros((34, 40, 3), np.uint8)
    write_png(path, image)
    with open(path, "ab") as file:  # a decoder looks at nothing after the image
        file.write(bytes(stamp.st_size - path.stat().st_size))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert opened(data_path).fingerprint() == data.fingerprint(), "a run does not notice"
    code, printed = check(data_path, capsys)
    assert code == 1
    assert (
        f"problem: {path}: has other pixels than {data.sources[0].hr.path} holds of it, though of the same" in printed
    )


def test_what_changes_after_it_was_read_is_found_at_the_end(data):
    with Verification(data, 0, lambda line: None) as verification:
        verification._thread.join()
        flip_bit(data.sources[0].hr, 1, 5)
        verification.check()
        with pytest.raises(InputError, match="are not those that were packed"):
            verification.finish()

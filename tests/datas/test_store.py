"""The packed image store: what it holds, when it is rebuilt, and what survives other processes and kills."""

import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from datas import store
from datas.images import read_rgb, write_png
from datas.store import pack
from utils import InputError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def forked(function, *arguments):
    """A started process of the function, with what the test has changed in it."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        write_png(path, random.integers(0, 256, (20 + number, 31 - number, 3), dtype=np.uint8))
    return paths


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded while the test runs."""
    names = []
    monkeypatch.setattr(store, "read_rgb", lambda path: names.append(path.name) or read_rgb(path))
    return names


def data_files(cache):
    return [path for path in cache.iterdir() if path.suffix not in (".json", ".lock")]


def assert_holds(packed, files):
    assert packed.names == tuple(path.name for path in files)
    for index, path in enumerate(files):
        assert np.array_equal(packed.whole(index), read_rgb(path))


def test_a_pack_holds_every_pixel_of_every_image(files, cache):
    packed = pack(files, cache)
    assert_holds(packed, files)
    assert packed.heights.tolist() == [20, 21, 22, 23, 24]
    assert packed.widths.tolist() == [31, 30, 29, 28, 27]
    assert packed.flat.size == sum(read_rgb(path).size for path in files)
    start = packed.offsets[3]
    assert np.array_equal(packed.flat[start : start + 23 * 28 * 3].reshape(23, 28, 3), read_rgb(files[3]))


def test_a_crop_is_a_view_of_its_image(files, cache):
    packed = pack(files, cache)
    crop = packed.crop(2, 3, 4, 10, 12)
    assert np.array_equal(crop, read_rgb(files[2])[3:13, 4:16])
    assert np.shares_memory(crop, packed.flat)
    assert not crop.flags.writeable


def test_a_second_call_decodes_nothing(files, cache, decoded):
    pack(files, cache)
    assert len(decoded) == 5
    assert_holds(pack(files, cache), files)
    assert len(decoded) == 5


def test_some_images_of_a_pack_are_served_in_the_order_asked_for(files, cache, decoded):
    pack(files, cache)
    assert_holds(pack([files[3], files[1]], cache), [files[3], files[1]])
    assert len(decoded) == 5


def test_it_is_rebuilt_when_an_image_is_replaced(files, cache):
    pack(files, cache)
    write_png(files[1], np.full((9, 9, 3), 7, np.uint8))
    assert_holds(pack(files, cache), files)
    assert len(data_files(cache)) == 1


def test_it_is_rebuilt_when_only_the_time_of_an_image_changes(files, cache, decoded):
    pack(files, cache)
    os.utime(files[4], (1, 1))
    pack(files, cache)
    assert len(decoded) == 10


def test_it_is_rebuilt_when_an_image_is_added(files, cache):
    pack(files[:4], cache)
    assert_holds(pack(files, cache), files)
    assert len(data_files(cache)) == 1


@pytest.mark.parametrize("damage", ["short data", "no data", "manifest of another version", "broken manifest"])
def test_it_is_rebuilt_when_the_cache_is_damaged(files, cache, damage):
    path = pack(files, cache).path
    (manifest_path,) = cache.glob("*.json")
    if damage == "short data":
        os.truncate(path, 100)
    elif damage == "no data":
        path.unlink()
    elif damage == "broken manifest":
        manifest_path.write_text("{")
    else:
        manifest_path.write_text(json.dumps({**json.loads(manifest_path.read_text()), "format": 0}))
    assert_holds(pack(files, cache), files)


def test_why_images_are_packed_anew_is_said_in_one_line(files, cache, capsys):
    pack(files[:3], cache)
    (manifest_path,) = cache.glob("*.json")
    assert capsys.readouterr().out == ""
    for reason, change in [
        ("does not hold 3.png", lambda: None),
        ("holds 0.png as it was before it was replaced", lambda: os.utime(files[0], (1, 1))),
        ("is damaged", lambda: manifest_path.write_text("{")),
        ("was written by another release", lambda: manifest_path.write_text('{"format": 1}')),
        ("is missing", lambda: manifest_path.unlink() or manifest_path.mkdir() or manifest_path.rmdir()),
    ]:
        change()
        existed = manifest_path.exists()
        assert_holds(pack(files, cache), files)
        said = f"{manifest_path}: {reason}; the images of {files[0].parent} are packed anew\n"
        assert capsys.readouterr().out == (said if existed else "")
        assert_holds(pack(files, cache), files)
        assert capsys.readouterr().out == ""


def test_the_manifest_holds_the_checksum_of_every_image(files, cache):
    packed = pack(files, cache)
    (manifest_path,) = cache.glob("*.json")
    entries = json.loads(manifest_path.read_text())["images"]
    for entry, path in zip(entries, files, strict=True):
        image = read_rgb(path)
        assert entry["pixels"] == hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()
    assert packed.digests == pack(files, cache).digests == tuple(entry["pixels"] for entry in entries)


def test_a_pack_of_the_release_before_is_built_again(files, cache, decoded):
    """Its manifest knew of no checksums."""
    pack(files, cache)
    (manifest_path,) = cache.glob("*.json")
    manifest = json.loads(manifest_path.read_text())
    for entry in manifest["images"]:
        del entry["pixels"]
    manifest_path.write_text(json.dumps({**manifest, "format": 1}))
    packed = pack(files, cache)
    assert_holds(packed, files)
    assert len(decoded) == 10
    assert data_files(cache) == [packed.path]


def test_leftovers_of_writing_this_packs_manifest_are_removed_and_nothing_else(files, cache):
    pack(files, cache)
    (manifest_path,) = cache.glob("*.json")
    own = [cache / f".{manifest_path.name}.{digit * 16}.tmp" for digit in "0a"]
    others = [cache / name for name in (f".x{manifest_path.name}.0123456789abcdef.tmp", ".x.json.00.tmp", "x.tmp")]
    for path in [*own, *others]:
        path.touch()
    pack(files, cache)
    assert all(path.exists() for path in own), "a pack in order is only read"
    os.utime(files[0], (1, 1))
    pack(files, cache)
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("name", ["n" * 250, "漢" * 80], ids=["long", "wide"])
def test_folders_of_the_longest_names_can_be_packed(name, files, cache):
    folder = files[0].parent
    try:
        folder = folder.rename(folder.with_name(name))
    except OSError:
        pytest.skip("no such names here")
    assert_holds(pack([folder / path.name for path in files], cache), [folder / path.name for path in files])


def test_folders_of_the_same_name_have_packs_of_their_own(files, cache, tmp_path):
    other = [tmp_path / "other" / "images" / path.name for path in files]
    for path in other:
        write_png(path, np.full((8, 8, 3), 1, np.uint8))
    first, second = pack(files, cache), pack(other, cache)
    assert_holds(first, files)
    assert_holds(second, other)


def test_pickling_copies_no_pixels(files, cache):
    packed = pack(files, cache)
    packed.whole(0)
    data = pickle.dumps(packed)
    assert len(data) < 2000
    assert_holds(pickle.loads(data), files)


def test_a_pack_that_was_removed_meanwhile_is_named(files, cache):
    packed = pack(files, cache)
    packed.path.unlink()
    with pytest.raises(InputError, match="the packed images are gone"):
        packed.whole(0)


def test_outdated_pixels_that_cannot_be_removed_are_left_to_the_next_build(files, cache, monkeypatch):
    old = pack(files, cache).path

    def in_use(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    write_png(files[1], np.full((9, 9, 3), 7, np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", in_use)  # as Windows does while another process reads them
        packed = pack(files, cache)
    assert_holds(packed, files)
    assert sorted(data_files(cache)) == sorted([old, packed.path])
    write_png(files[1], np.full((9, 9, 3), 8, np.uint8))
    packed = pack(files, cache)
    assert_holds(packed, files)
    assert data_files(cache) == [packed.path]


def _pack_slowly(files, cache, log: Path):
    def slow_read(path):
        time.sleep(0.05)
        with log.open("a") as file:
            file.write("decoded\n")
        return read_rgb(path)

    store.read_rgb = slow_read
    assert_holds(pack(files, cache), files)


@needs_fork
def test_of_two_processes_one_builds_and_both_use_it(files, cache, tmp_path):
    log = tmp_path / "log"
    processes = [forked(_pack_slowly, files, cache, log) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(log.read_text().split()) == len(files)


def _pack_and_die(files, cache, dying_call: str):
    """Build a pack in a process that is killed at the given call."""
    tqdm.set_lock(threading.RLock())  # of its own: the inherited one is shared, and would die locked with this process
    owner, name = (os, "replace") if dying_call == "replace" else (store, dying_call)
    setattr(owner, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    pack(files, cache)


@needs_fork
@pytest.mark.parametrize("dying_call", ["_write_at", "replace", "write_manifest"])
@pytest.mark.parametrize("images_before", [0, 3])
def test_a_build_killed_half_way_is_cleaned_up_by_the_next(files, cache, dying_call, images_before):
    if images_before:
        pack(files[:images_before], cache)
    process = forked(_pack_and_die, files, cache, dying_call)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(data_files(cache)) == 1
    write_png(files[0], np.full((9, 9, 3), 7, np.uint8))  # the next data file has another name
    packed = pack(files, cache)
    assert_holds(packed, files)
    assert data_files(cache) == [packed.path]


def test_a_damaged_image_stops_the_build_and_leaves_no_pixels(files, cache):
    files[3].write_bytes(files[3].read_bytes()[:60])
    with pytest.raises(InputError, match=r"3\.png"):
        pack(files, cache)
    assert data_files(cache) == []


def test_an_unwritable_cache_folder_is_named_with_the_key_to_change(files, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.cache: .* set `cache_path`"):
        pack(files, tmp_path / "file" / "cache")


def test_too_little_space_is_found_before_any_image_is_decoded(files, cache, decoded, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(InputError, match=r"cache: .*the disk is full.*set `cache_path`"):
        pack(files, cache)
    assert decoded == []


def _pack_with_small_files_only(files, cache, results):
    import resource  # of POSIX alone

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        pack(files, cache)
    except InputError as error:
        results.put(str(error))


@needs_fork
def test_a_disk_that_fills_up_is_reported_and_nothing_is_left(files, cache):
    results = multiprocessing.get_context("fork").SimpleQueue()
    process = forked(_pack_with_small_files_only, files, cache, results)
    process.join()
    assert process.exitcode == 0
    assert "the disk is full" in results.get()
    assert data_files(cache) == []

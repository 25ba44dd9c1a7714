"""Training batches against a slow reading of the files, and every way in which training data can be wrong."""

import hashlib
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datas import layout
from datas.degradation import downscale
from datas.images import image_size, read_rgb, write_png
from datas.layout import lr_folder
from datas.train_set import open_train_set, same_images
from utils import InputError

SCALE, PATCH = 2, 24


def make_pairs(hr_dir: Path, count: int, size=(41, 51), scale=SCALE):
    """`count` images of random pixels, each a little larger than the one before, and their LR images."""
    random = np.random.default_rng(len(str(hr_dir)))
    for number in range(count):
        image = random.integers(0, 256, (size[0] + 3 * number, size[1] + 2 * number, 3), dtype=np.uint8)
        write_png(hr_dir / f"{number:04d}.png", image)
        write_png(lr_folder(hr_dir, scale) / f"{number:04d}x{scale}.png", downscale(image, scale))


@pytest.fixture
def data_path(tmp_path):
    make_pairs(tmp_path / "Sample" / "Sample_train_HR", 6)
    return tmp_path


@pytest.fixture
def hr_dir(data_path):
    return data_path / "Sample" / "Sample_train_HR"


def open_set(data_path, **changes):
    config = {
        "data_path": data_path,
        "training_dataset": "sample",
        "data": (),
        "scale": SCALE,
        "patch_size": PATCH,
        "batch_size": 4,
        "data_repeat": 3,
        "data_augment": True,
        "drop_last": True,
        "seed": 2024,
        "cache_path": "",
    }
    return open_train_set(SimpleNamespace(**{**config, **changes}))


def refusal(data_path, **changes) -> str:
    with pytest.raises(InputError) as caught:
        open_set(data_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (Path(data_path or "none") / "cache").exists(), "images were packed before the check was over"
    return str(caught.value)


def slow_batch(train_set, hr_dir, iteration):
    """The batch by the definition: read whole images, crop, flip vertically, flip horizontally, transpose."""
    epoch, batch = divmod(iteration, train_set.iterations_per_epoch)
    plan = train_set.plan(epoch)
    files = sorted(hr_dir.iterdir())
    pairs = []
    for i in range(batch * train_set.config.batch_size, (batch + 1) * train_set.config.batch_size):
        hr_file = files[plan.image[i]]
        lr_file = lr_folder(hr_dir, SCALE) / f"{hr_file.stem}x{SCALE}.png"
        pair = []
        for path, factor in ((lr_file, 1), (hr_file, SCALE)):
            top, left, side = factor * plan.top[i], factor * plan.left[i], factor * PATCH // SCALE
            crop = read_rgb(path)[top : top + side, left : left + side]
            crop = crop[::-1] if plan.vflip[i] else crop
            crop = crop[:, ::-1] if plan.hflip[i] else crop
            pair.append(crop.transpose(1, 0, 2) if plan.transpose[i] else crop)
        pairs.append(pair)
    return tuple(np.stack(images) for images in zip(*pairs, strict=True))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_batches_equal_a_slow_reading_of_the_files(data_path, hr_dir):
    train_set = open_set(data_path)
    for iteration in range(10):  # over more than two epochs of four batches
        for fast, slow in zip(train_set[iteration], slow_batch(train_set, hr_dir, iteration), strict=True):
            assert np.array_equal(fast.numpy(), slow)


def test_shapes_and_types_of_a_batch(data_path):
    lr_batch, hr_batch = open_set(data_path)[0]
    assert (lr_batch.shape, hr_batch.shape) == ((4, 12, 12, 3), (4, 24, 24, 3))
    assert lr_batch.dtype == hr_batch.dtype == torch.uint8


def test_an_epoch_sees_every_image_data_repeat_times(data_path):
    train_set = open_set(data_path, batch_size=6)
    assert (train_set.num_images, train_set.iterations_per_epoch) == (6, 3)
    names = [name for iteration in range(3) for name in train_set.names(iteration)]
    assert sorted(names) == sorted(3 * [f"{number:04d}.png" for number in range(6)])


def test_the_rest_of_an_epoch_that_fills_no_batch_is_left_out(data_path):
    assert open_set(data_path, batch_size=5).iterations_per_epoch == 3


def test_with_drop_last_false_the_rest_is_a_smaller_batch_and_every_image_comes_as_often(data_path):
    train_set = open_set(data_path, batch_size=4, data_repeat=3, drop_last=False)
    assert train_set.iterations_per_epoch == 5
    assert [len(train_set[iteration][0]) for iteration in range(6)] == [4, 4, 4, 4, 2, 4]
    names = [name for iteration in range(5, 10) for name in train_set.names(iteration)]
    assert sorted(names) == sorted(3 * [f"{number:04d}.png" for number in range(6)])
    shards = [train_set.shard(rank, 2) for rank in range(2)]
    for iteration in (4, 5):
        parts = [shard[iteration] for shard in shards]
        assert same([torch.cat(tensors) for tensors in zip(*parts, strict=True)], train_set[iteration])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_give_the_same_batches_as_indexing(data_path, workers):
    train_set = open_set(data_path)
    loader = DataLoader(train_set, batch_size=None, sampler=range(2, 9), num_workers=workers)
    expected = [train_set[iteration] for iteration in range(2, 9)]
    assert all(same(batch, reference) for batch, reference in zip(loader, expected, strict=True))


def test_shards_are_the_rows_of_the_global_batch(data_path):
    train_set = open_set(data_path)
    shards = [train_set.shard(rank, 2) for rank in range(2)]
    for iteration in (0, 5):
        parts = [shard[iteration] for shard in shards]
        assert same([torch.cat(tensors) for tensors in zip(*parts, strict=True)], train_set[iteration])
        assert shards[0].names(iteration) + shards[1].names(iteration) == train_set.names(iteration)
    assert shards[0].iterations_per_epoch == train_set.iterations_per_epoch


def test_a_batch_that_cannot_be_divided_among_the_processes_is_refused(data_path):
    with pytest.raises(InputError, match="batch_size: 4 cannot be divided among 3 processes"):
        open_set(data_path).shard(0, 3)


def test_a_pickled_train_set_is_small_and_gives_the_same_batches(data_path):
    train_set = open_set(data_path)
    batch = train_set[3]
    data = pickle.dumps(train_set)
    assert len(data) < 5000
    assert same(pickle.loads(data)[3], batch)


def test_hr_images_are_packed_once_for_all_scales(data_path, hr_dir):
    for path in hr_dir.iterdir():
        write_png(lr_folder(hr_dir, 4) / f"{path.stem}x4.png", downscale(read_rgb(path), 4))
    two, four = open_set(data_path), open_set(data_path, scale=4)
    assert two.sources[0].hr.path == four.sources[0].hr.path
    assert len(list((data_path / "cache").glob("*.bin"))) == 3


def test_lr_files_may_have_another_suffix_than_hr_files(data_path, hr_dir):
    reference = open_set(data_path)[0]
    for path in lr_folder(hr_dir, SCALE).iterdir():
        image = read_rgb(path)
        path.unlink()
        iio.imwrite(path.with_suffix(".webp"), image, lossless=True)
    assert same(open_set(data_path)[0], reference)


def test_a_cache_path_elsewhere_is_used(data_path, tmp_path):
    open_set(data_path, cache_path=tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").glob("*.bin"))) == 2
    assert not (data_path / "cache").exists()


# Which images they are


def change_pixels(path: Path):
    image = read_rgb(path).copy()
    image[-1, -1] ^= 1
    write_png(path, image)


def test_the_fingerprint_says_which_images_and_which_pixels(data_path):
    assert re.fullmatch(r"6 images [0-9a-f]{16} pixels [0-9a-f]{16}", open_set(data_path).fingerprint())
    assert open_set(data_path).fingerprint() == open_set(data_path, batch_size=2, seed=3).fingerprint()


def test_an_image_replaced_by_another_of_its_size_changes_the_pixels_part_alone(data_path, hr_dir):
    shape, pixels = open_set(data_path).fingerprint().split(" pixels ")
    change_pixels(hr_dir / "0002.png")
    shape_then, pixels_then = open_set(data_path).fingerprint().split(" pixels ")
    assert shape_then == shape
    assert pixels_then != pixels
    change_pixels(lr_folder(hr_dir, SCALE) / "0002x2.png")
    assert open_set(data_path).fingerprint().split(" pixels ")[1] not in (pixels, pixels_then)


def test_the_same_pixels_in_other_files_have_the_same_fingerprint(data_path, hr_dir):
    before = open_set(data_path).fingerprint()
    for path in lr_folder(hr_dir, SCALE).iterdir():
        image = read_rgb(path)
        path.unlink()
        iio.imwrite(path.with_suffix(".webp"), image, lossless=True)
    assert open_set(data_path, cache_path=data_path / "elsewhere").fingerprint() == before


def test_pixels_that_are_exchanged_change_the_fingerprint(data_path, hr_dir):
    for name in ("0001.png", "0002.png"):
        write_png(hr_dir / name, np.full((60, 60, 3), int(name[3]), np.uint8))
        write_png(lr_folder(hr_dir, SCALE) / f"{name[:4]}x2.png", np.full((30, 30, 3), 9, np.uint8))
    before = open_set(data_path).fingerprint()
    for name in ("0001.png", "0002.png"):
        write_png(hr_dir / name, np.full((60, 60, 3), 3 - int(name[3]), np.uint8))
    assert open_set(data_path).fingerprint() != before


def test_a_fingerprint_of_the_release_before_is_compared_by_what_it_says():
    old, now = "6 images 0123456789abcdef", "6 images 0123456789abcdef pixels fedcba9876543210"
    assert same_images(old, now)
    assert same_images(now, now)
    assert not same_images("6 images 0123456789abcdee", now)
    assert not same_images("60 images 0123456789abcdef", now)
    assert not same_images("6 images 0123456789abcde", now)
    assert not same_images(f"{old} pixels fedcba9876543211", now)
    assert not same_images(now, old)
    assert not same_images("", now)


def test_the_part_that_a_release_before_knew_is_what_it_was(data_path, hr_dir):
    """Runs that it began can go on."""
    names = [(path.name, *image_size(path)) for path in sorted(hr_dir.iterdir())]
    old = f"6 images {hashlib.sha256(repr(names).encode()).hexdigest()[:16]}"
    assert same_images(old, open_set(data_path).fingerprint())


# Several sources


def test_sources_of_a_data_list_are_drawn_by_weight_and_reported(tmp_path):
    make_pairs(tmp_path / "a", 5)
    make_pairs(tmp_path / "b" / "HR", 3)
    data = [{"path": str(tmp_path / "a"), "weight": 3}, {"path": str(tmp_path / "b" / "HR")}]
    train_set = open_set(tmp_path, data=data, training_dataset="none", data_repeat=10)
    assert (train_set.num_images, train_set.iterations_per_epoch) == (8, 20)
    report = train_set.shares_drawn(40)
    assert report == [(tmp_path / "a", 5, 0.75), (tmp_path / "b" / "HR", 3, 0.25)]


def test_the_report_counts_the_crops_of_the_given_iterations(tmp_path):
    make_pairs(tmp_path / "a", 2)
    make_pairs(tmp_path / "bb", 2)
    data = [{"path": str(tmp_path / name)} for name in ("a", "bb")]
    train_set = open_set(tmp_path, data=data, batch_size=5, data_repeat=4)  # 16 samples, 3 batches an epoch
    first = np.concatenate([train_set.plan(0).image[:15], train_set.plan(1).image[:5]])
    assert train_set.shares_drawn(4)[0][2] == pytest.approx((first < 2).mean())


def test_the_lr_folder_of_a_source_can_be_given_with_the_scale(tmp_path):
    make_pairs(tmp_path / "a", 3)
    lr_folder(tmp_path / "a", SCALE).rename(tmp_path / "small2")
    train_set = open_set(tmp_path, data=[{"path": str(tmp_path / "a"), "lr": str(tmp_path / "small{scale}")}])
    assert train_set.num_images == 3


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"weight": 1}, r"data\[0\]: has no path"),
        ("folder", r"data\[0\]: has no path"),
        ({"path": "a", "wieght": 2}, r"data\[0\].wieght: is not known.*did you mean 'weight'"),
        ({"path": "a", "weight": 0}, r"data\[0\].weight: 0 is not a positive number"),
        ({"path": "a", "weight": "2"}, r"data\[0\].weight: '2' is not a positive number"),
        ({"path": "no/such/folder"}, r"no/such/folder: no such folder; check data\[0\].path"),
    ],
)
def test_a_wrong_entry_of_a_data_list_is_named(tmp_path, entry, text):
    with pytest.raises(InputError, match=text):
        open_set(tmp_path, data=[entry])


# What can be wrong


def test_an_empty_data_path_is_refused():
    assert "data_path: is empty" in refusal("")


def test_a_missing_dataset_folder_is_named_with_the_key_to_change(tmp_path):
    text = refusal(tmp_path, training_dataset="df2k")
    assert f"{tmp_path / 'DF2K' / 'DF2K_train_HR'}: no such folder" in text
    assert "set data_path to the folder that holds DF2K" in text


def test_an_incomplete_dataset_names_the_first_missing_image(tmp_path):
    make_pairs(tmp_path / "DIV2K" / "DIV2K_train_HR", 2)
    text = refusal(tmp_path, training_dataset="div2k")
    assert "799 of the dataset's 800 images are missing" in text
    assert "0002.png" in text


def test_the_named_dataset_uses_its_own_images_only(tmp_path, monkeypatch):
    numbers = (range(0, 2), range(4, 5))
    monkeypatch.setitem(layout.TRAINING_DATASETS, "df2k", layout.TrainingDataset("DF2K", numbers))
    make_pairs(tmp_path / "DF2K" / "DF2K_train_HR", 6)
    train_set = open_set(tmp_path, training_dataset="df2k", batch_size=9)
    assert sorted(train_set.names(0)) == sorted(3 * ["0000.png", "0001.png", "0004.png"])


def test_a_new_training_dataset_is_one_line_of_the_layout(tmp_path, monkeypatch):
    monkeypatch.setitem(layout.TRAINING_DATASETS, "mine", layout.TrainingDataset("Mine", None))
    make_pairs(tmp_path / "Mine" / "Mine_train_HR", 3)
    assert open_set(tmp_path, training_dataset="mine").num_images == 3


def test_missing_lr_images_come_with_the_command_that_makes_them(data_path, hr_dir):
    for path in lr_folder(hr_dir, SCALE).iterdir():
        path.unlink()
    text = refusal(data_path)
    assert str(lr_folder(hr_dir, SCALE)) in text
    assert f"python -m datas.prepare --hr {hr_dir} --scales {SCALE}" in text
    lr_folder(hr_dir, SCALE).rmdir()
    assert "no such folder" in refusal(data_path)


def test_an_hr_image_without_lr_image_is_named(data_path, hr_dir):
    for number in (2, 4):
        (lr_folder(hr_dir, SCALE) / f"{number:04d}x2.png").unlink()
    text = refusal(data_path)
    assert "0002.png: has no LR image 0002x2.png" in text
    assert "(and 1 more like it)" in text
    assert "python -m datas.prepare" in text


def test_an_lr_image_without_hr_image_is_named(data_path, hr_dir):
    (hr_dir / "0003.png").unlink()
    assert "0003x2.png: has no HR image" in refusal(data_path)


def test_an_lr_image_of_the_wrong_size_is_named_with_both_sizes(data_path, hr_dir):
    write_png(lr_folder(hr_dir, SCALE) / "0001x2.png", np.zeros((21, 26, 3), np.uint8))
    text = refusal(data_path)
    assert "0001x2.png: is 26x21 pixels, but 0001.png (53x44) at x2 gives 26x22" in text


def test_an_image_smaller_than_the_patch_is_named(data_path):
    text = refusal(data_path, patch_size=48)
    assert "0000.png: is smaller than a patch (50x40 after cropping to the scale; patch_size is 48)" in text
    assert "lower patch_size" in text


def test_a_patch_size_that_is_no_multiple_of_the_scale_is_refused(data_path):
    assert "patch_size: 25 is the HR side and must be a multiple of scale 2" in refusal(data_path, patch_size=25)


def test_a_batch_larger_than_an_epoch_is_refused(data_path):
    with pytest.raises(InputError, match="batch_size: 19 is more than an epoch's 18 samples"):
        open_set(data_path, batch_size=19)


def test_a_truncated_training_image_is_named(data_path, hr_dir):
    path = hr_dir / "0005.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"0005\.png: is damaged"):
        open_set(data_path)

"""Evaluation images among the training images of a run."""

import shutil
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest

from datas.benchmark import BenchmarkSet
from datas.check import leaks
from datas.images import read_rgb, write_png
from datas.prepare import make_lr
from datas.train_set import open_train_set

SIZE = (33, 47)  # no multiples of the scale: evaluation crops them


@pytest.fixture
def hr_dir(tmp_path):
    """Three training images of random pixels, of equal size."""
    folder = tmp_path / "Sample" / "Sample_train_HR"
    for number in range(3):
        write_png(folder / f"{number}.png", random_image(number))
    return folder


@pytest.fixture
def test_dir(tmp_path):
    """Two evaluation images of the training images' size, of other pixels."""
    folder = tmp_path / "benchmark" / "Mine" / "HR"
    for number, name in enumerate(("bird", "head"), 10):
        write_png(folder / f"{name}.png", random_image(number))
    return folder


def random_image(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def found(data_path, *hr_dirs, sets=("Mine",)) -> list[str]:
    """The leaks of a run that trains on the folders `hr_dirs`."""
    for folder in {*hr_dirs, *(data_path / "benchmark" / name / "HR" for name in sets)}:
        make_lr(folder, [2])
    source = {"data_path": data_path, "data": [{"path": str(folder)} for folder in hr_dirs], "cache_path": ""}
    sampling = {"patch_size": 16, "batch_size": 1, "data_repeat": 1, "data_augment": True, "drop_last": True, "seed": 1}
    data = open_train_set(SimpleNamespace(scale=2, training_dataset="sample", **source, **sampling))
    return leaks(data, [BenchmarkSet(data_path, name, 2) for name in sets])


def test_other_pixels_of_the_same_size_are_no_leak(tmp_path, hr_dir, test_dir):
    assert found(tmp_path, hr_dir) == []


def test_an_evaluation_image_copied_into_training_is_named_with_both_files(tmp_path, hr_dir, test_dir):
    shutil.copy(test_dir / "bird.png", hr_dir / "1.png")
    (line,) = found(tmp_path, hr_dir)
    assert line.startswith(f"{hr_dir / '1.png'}: has the pixels of {test_dir / 'bird.png'}, an evaluation image;")
    assert "remove it from training" in line


def test_a_leak_is_found_by_its_pixels_whatever_its_format(tmp_path, hr_dir, test_dir):
    iio.imwrite(hr_dir / "copy.webp", read_rgb(test_dir / "head.png"), lossless=True)
    (line,) = found(tmp_path, hr_dir)
    assert "copy.webp: has the pixels of" in line


def test_a_grey_evaluation_image_is_found(tmp_path, hr_dir, test_dir):
    iio.imwrite(test_dir / "head.png", random_image(20)[..., 0])
    shutil.copy(test_dir / "head.png", hr_dir / "grey.png")
    assert len(found(tmp_path, hr_dir)) == 1


@pytest.mark.parametrize("part", [np.s_[:32, :46], np.s_[1:, :], np.s_[::-1], np.s_[:, ::-1]])
def test_crops_and_flips_are_no_leak(tmp_path, hr_dir, test_dir, part):
    write_png(hr_dir / "1.png", read_rgb(test_dir / "bird.png")[part])
    assert found(tmp_path, hr_dir) == []


@pytest.mark.parametrize("row", [0, SIZE[0] // 2, -1])
def test_one_pixel_that_differs_is_no_leak(tmp_path, hr_dir, test_dir, row):
    image = read_rgb(test_dir / "bird.png").copy()
    image[row, -1, 2] ^= 1
    write_png(hr_dir / "1.png", image)
    assert found(tmp_path, hr_dir) == []


def test_every_leak_of_several_sources_and_sets_has_one_line(tmp_path, hr_dir, test_dir):
    other_hr, other_set = tmp_path / "other", tmp_path / "benchmark" / "Other" / "HR"
    write_png(other_hr / "x.png", random_image(30, (40, 20)))
    for target in (other_set / "bird_again.png", hr_dir / "1.png", other_hr / "y.png"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(test_dir / "bird.png", target)  # in two sets
    shutil.copy(other_hr / "x.png", other_set / "z.png")
    lines = found(tmp_path, hr_dir, other_hr, sets=("Mine", "Other"))
    assert sorted(line.partition(": has the pixels")[0] for line in lines) == sorted(
        str(path) for path in (hr_dir / "1.png", other_hr / "x.png", other_hr / "y.png")
    )


def test_an_evaluation_image_of_another_size_is_not_decoded(tmp_path, hr_dir, test_dir, monkeypatch):
    write_png(test_dir / "large.png", random_image(40, (50, 60)))
    read = []
    monkeypatch.setattr("datas.check.read_rgb", lambda path, *rest: read.append(path.name) or read_rgb(path))
    found(tmp_path, hr_dir)
    assert sorted(read) == ["bird.png", "head.png"]


def test_without_evaluation_sets_there_is_no_leak(tmp_path, hr_dir):
    assert found(tmp_path, hr_dir, sets=()) == []

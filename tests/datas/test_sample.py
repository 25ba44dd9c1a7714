"""The sample data folder made from scikit-image's photographs."""

from types import SimpleNamespace

import pytest

from datas import sample
from datas.benchmark import BenchmarkSet
from datas.check import check_data
from datas.images import image_sizes, list_images, read_rgb, write_png
from datas.layout import TRAINING_DATASETS
from datas.train_set import open_train_set


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    assert sample.main(["--out", str(folder)]) == 0
    return folder


def test_the_folder_is_complete_and_training_and_test_images_differ(data_path):
    assert check_data(data_path, (2, 3, 4), jobs=1).problems == []


def test_training_and_test_subjects_are_disjoint():
    assert not {file for file, _ in sample.TRAIN.values()} & {file for file, _ in sample.TEST.values()}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_serves_for_training_with_the_published_patch(data_path, scale):
    source = {"data_path": data_path, "training_dataset": "sample", "data": (), "cache_path": ""}
    sampling = {"batch_size": 4, "data_repeat": 2, "data_augment": True, "drop_last": True, "seed": 2024}
    config = SimpleNamespace(scale=scale, patch_size=64 * scale, **source, **sampling)
    lr_batch, hr_batch = open_train_set(config)[0]
    assert (lr_batch.shape, hr_batch.shape) == ((4, 64, 64, 3), (4, 64 * scale, 64 * scale, 3))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_serves_for_evaluation_with_small_images(data_path, scale):
    pairs = list(BenchmarkSet(data_path, "Sample", scale))
    assert 3 <= len(pairs) <= 5
    assert max(max(pair.hr.shape) for pair in pairs) <= 400


def test_test_images_are_cropped_inside_their_photographs(data_path):
    folder = data_path / "benchmark" / "Sample" / "HR"
    sizes = dict(zip([path.stem for path in list_images(folder)], image_sizes(list_images(folder)), strict=True))
    assert {name: tuple(size) for name, size in sizes.items()} == {
        name: part[2:] for name, (_, part) in sample.TEST.items()
    }


def test_a_second_run_writes_nothing_and_repairs_what_is_damaged(data_path):
    assert sample.make_sample(data_path) == 0
    path = TRAINING_DATASETS["sample"].hr_folder(data_path) / "astronaut.png"
    image = read_rgb(path)
    write_png(path, image[::-1])
    assert sample.make_sample(data_path) == 1 + 3
    assert (read_rgb(path) == image).all()

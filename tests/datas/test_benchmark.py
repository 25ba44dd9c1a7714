"""Evaluation sets: what they yield and how a wrong set is reported."""

import shutil

import imageio.v3 as iio
import numpy as np
import pytest

from datas.benchmark import BenchmarkSet, open_benchmark_sets
from datas.degradation import downscale
from datas.images import read_rgb, write_png
from utils import InputError


@pytest.fixture
def folder(tmp_path):
    """benchmark/Set5 with two images whose sides are no multiples of 2, one of them grey."""
    random = np.random.default_rng(0)
    folder = tmp_path / "benchmark" / "Set5"
    for name, size in (("bird", (21, 33)), ("aster", (18, 27))):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        write_png(folder / "HR" / f"{name}.png", image)
        write_png(folder / "LR_bicubic" / "X2" / f"{name}x2.png", downscale(image, 2))
    return folder


def refusal(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        BenchmarkSet(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pairs_come_by_name_with_hr_cropped_to_the_scale(tmp_path, folder):
    pairs = BenchmarkSet(tmp_path, "Set5", 2)
    assert len(pairs) == 2
    assert pairs.names == [pair.name for pair in pairs] == ["aster", "bird"]
    bird = pairs[1]
    assert (bird.lr.shape, bird.hr.shape) == ((10, 16, 3), (20, 32, 3))
    assert np.array_equal(bird.hr, read_rgb(folder / "HR" / "bird.png")[:20, :32])
    assert np.array_equal(bird.lr, read_rgb(folder / "LR_bicubic" / "X2" / "birdx2.png"))


def test_constructing_decodes_no_pixels(tmp_path, folder):
    path = folder / "HR" / "bird.png"
    path.write_bytes(path.read_bytes()[:40])
    pairs = BenchmarkSet(tmp_path, "Set5", 2)
    assert pairs[0].name == "aster"
    with pytest.raises(InputError, match=r"bird\.png: is damaged"):
        pairs[1]


def test_grey_images_are_read_as_rgb(tmp_path, folder):
    grey = read_rgb(folder / "HR" / "bird.png")[..., 0]
    iio.imwrite(folder / "HR" / "bird.png", grey)
    assert np.array_equal(BenchmarkSet(tmp_path, "Set5", 2)[1].hr[..., 2], grey[:20, :32])


def test_lr_only_needs_no_hr_images(tmp_path, folder):
    for path in (folder / "HR").iterdir():
        path.unlink()
    pairs = list(BenchmarkSet(tmp_path, "Set5", 2, lr_only=True))
    assert [(pair.name, pair.lr.shape, pair.hr) for pair in pairs] == [
        ("aster", (9, 13, 3), None),
        ("bird", (10, 16, 3), None),
    ]


def test_any_folder_under_benchmark_is_a_set(tmp_path, folder):
    folder.rename(folder.with_name("Mine"))
    assert len(BenchmarkSet(tmp_path, "Mine", 2)) == 2


@pytest.mark.parametrize(("name", "hint"), [("set5", "Set5"), ("Urban10", "Urban100"), ("Minne", "Mine")])
def test_a_misspelt_set_gets_a_hint(tmp_path, folder, name, hint):
    (tmp_path / "benchmark" / "Mine").mkdir()
    text = refusal(tmp_path, name, 2)
    assert f"there is no evaluation set '{name}'" in text
    assert f"did you mean '{hint}'?" in text


def test_a_known_set_that_is_missing_is_named_with_its_folder(tmp_path, folder):
    text = refusal(tmp_path, "Manga109", 2)
    assert str(tmp_path / "benchmark" / "Manga109") in text
    assert "did you mean" not in text


def test_an_empty_data_path_is_refused():
    assert "data_path: is empty" in refusal("", "Set5", 2)


def test_missing_lr_images_come_with_the_command_that_makes_them(tmp_path, folder):
    assert f"python -m datas.prepare --hr {folder / 'HR'} --scales 3" in refusal(tmp_path, "Set5", 3)


def test_missing_hr_images_are_named(tmp_path, folder):
    (folder / "HR" / "bird.png").unlink()
    assert "birdx2.png: has no HR image" in refusal(tmp_path, "Set5", 2)
    (folder / "HR" / "aster.png").unlink()
    assert "HR: no image in this folder" in refusal(tmp_path, "Set5", 2)


def test_an_lr_image_of_the_wrong_size_is_named(tmp_path, folder):
    write_png(folder / "LR_bicubic" / "X2" / "birdx2.png", np.zeros((11, 17, 3), np.uint8))
    assert "birdx2.png: is 17x11 pixels, but bird.png (33x21) at x2 gives 16x10" in refusal(tmp_path, "Set5", 2)


# Opening several


def test_an_absent_set_that_was_not_named_is_skipped_with_one_line(tmp_path, folder):
    lines = []
    names = ["Manga109", "Set5", "Urban100"]
    sets = open_benchmark_sets(tmp_path, names, 2, named=False, say=lines.append)
    assert [images.name for images in sets] == ["Set5"]
    assert len(lines) == 2
    assert lines[0] == f"{tmp_path / 'benchmark' / 'Manga109'}: no such folder; evaluation set 'Manga109' is skipped"


def test_sets_that_are_all_there_come_in_their_order_without_a_word(tmp_path, folder):
    shutil.copytree(folder, folder.with_name("Mine"))
    for named in (False, True):
        sets = open_benchmark_sets(tmp_path, ["Set5", "Mine"], 2, named=named, say=pytest.fail)
        assert [images.name for images in sets] == ["Set5", "Mine"]


def test_a_skipped_set_that_is_misspelt_gets_a_hint(tmp_path, folder):
    lines = []
    open_benchmark_sets(tmp_path, ["Set5", "Manga19"], 2, named=False, say=lines.append)
    assert lines[0].endswith("evaluation set 'Manga19' is skipped; did you mean 'Manga109'?")


def test_an_absent_set_that_was_named_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match="Manga109: no such folder, so there is no evaluation set"):
        open_benchmark_sets(tmp_path, ["Set5", "Manga109"], 2, named=True, say=pytest.fail)


def test_sets_of_which_none_is_there_are_refused_by_the_first(tmp_path, folder):
    with pytest.raises(InputError, match="there is no evaluation set 'Manga109'"):
        open_benchmark_sets(tmp_path, ["Manga109", "Urban100"], 2, named=False, say=pytest.fail)


def test_a_set_whose_folder_is_there_is_never_skipped(tmp_path, folder):
    (tmp_path / "benchmark" / "Urban100").mkdir()
    with pytest.raises(InputError, match="HR: no such folder"):
        open_benchmark_sets(tmp_path, ["Set5", "Urban100"], 2, named=False)
    with pytest.raises(InputError, match="X3: no such folder; make the LR images with"):
        open_benchmark_sets(tmp_path, ["Set5", "Manga109"], 3, named=False)


def test_sets_are_opened_without_hr_images_where_only_lr_ones_are_asked_for(tmp_path, folder):
    shutil.rmtree(folder / "HR")
    (images,) = open_benchmark_sets(tmp_path, ["Set5", "Manga109"], 2, lr_only=True, named=False)
    assert [pair.hr for pair in images] == [None, None]
    assert images.hr_files == []

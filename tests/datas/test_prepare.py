"""Making LR images and checking a data folder, through the command line's main()."""

import shutil

import imageio.v3 as iio
import numpy as np
import pytest

from datas import layout
from datas.degradation import downscale
from datas.images import read_rgb, write_png
from datas.prepare import main
from utils import InputError


def random_image(seed, height=24, width=33):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def hr_dir(tmp_path):
    folder = tmp_path / "data" / "Sample" / "Sample_train_HR"
    for number in range(4):
        write_png(folder / f"{number}.png", random_image(number))
    return folder


def make(hr_dir, *options) -> int:
    return main(["--hr", str(hr_dir), "--scales", "2", "3", "--jobs", "2", *options])


def lr_files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*LR_bicubic/*/*"))


# Making


def test_lr_images_are_made_beside_the_hr_folder(hr_dir, capsys):
    assert make(hr_dir) == 0
    assert "8 LR images written" in capsys.readouterr().out
    for scale in (2, 3):
        for path in hr_dir.iterdir():
            made = layout.lr_folder(hr_dir, scale) / f"{path.stem}x{scale}.png"
            assert np.array_equal(read_rgb(made), downscale(read_rgb(path), scale))


def test_out_moves_the_lr_folders(hr_dir, tmp_path):
    make(hr_dir, "--out", str(tmp_path / "out"))
    assert len(lr_files(tmp_path / "out")) == 8
    assert lr_files(tmp_path / "out")[0] == "Sample_train_LR_bicubic/X2/0x2.png"
    assert lr_files(hr_dir.parent) == []


def test_two_hr_folders_that_would_share_an_out_folder_are_refused(tmp_path):
    folders = [str(tmp_path / name / "HR") for name in ("Set5", "Set14")]
    with pytest.raises(InputError, match="would share an LR folder"):
        main(["--hr", folders[0], "--hr", folders[1], "--scales", "2", "--out", str(tmp_path / "out")])


def test_a_second_run_makes_only_what_is_not_in_order(hr_dir, capsys):
    make(hr_dir)
    x2, x3 = layout.lr_folder(hr_dir, 2), layout.lr_folder(hr_dir, 3)
    (x2 / "0x2.png").unlink()
    (x2 / "1x2.png").write_bytes((x2 / "1x2.png").read_bytes()[:50])
    write_png(x3 / "2x3.png", np.zeros((5, 5, 3), np.uint8))
    write_png(hr_dir / "3.png", random_image(99))  # newer than both of its LR images
    untouched = (x3 / "0x3.png").stat().st_mtime_ns
    capsys.readouterr()
    make(hr_dir)
    assert "5 LR images written" in capsys.readouterr().out
    assert (x3 / "0x3.png").stat().st_mtime_ns == untouched
    for path in hr_dir.iterdir():
        assert np.array_equal(read_rgb(x2 / f"{path.stem}x2.png"), downscale(read_rgb(path), 2))
        assert np.array_equal(read_rgb(x3 / f"{path.stem}x3.png"), downscale(read_rgb(path), 3))
    make(hr_dir)
    assert " 0 LR images written" in capsys.readouterr().out


def test_lr_images_of_another_format_are_kept_or_named(hr_dir, capsys):
    make(hr_dir)
    path = layout.lr_folder(hr_dir, 2) / "1x2.png"
    iio.imwrite(path.with_suffix(".webp"), read_rgb(path), lossless=True)
    path.unlink()
    capsys.readouterr()
    make(hr_dir)
    assert " 0 LR images written" in capsys.readouterr().out
    write_png(hr_dir / "1.png", random_image(99))
    with pytest.raises(InputError, match=r"1x2\.webp: does not fit .*1\.png, or is older; remove it"):
        make(hr_dir)


def test_an_hr_image_that_cannot_be_used_is_named_before_anything_is_made(hr_dir):
    write_png(hr_dir / "tiny.png", random_image(0, 2, 50))
    with pytest.raises(InputError, match=r"tiny\.png: is 50x2 pixels, too small for x3"):
        make(hr_dir)
    (hr_dir / "tiny.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"tiny\.png: is damaged"):
        make(hr_dir)
    assert lr_files(hr_dir.parent) == []


def test_a_damaged_hr_image_is_named_from_another_process(hr_dir):
    path = hr_dir / "2.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"2\.png: is damaged"):
        make(hr_dir)


@pytest.mark.parametrize("arguments", ["", "--hr a", "--hr a --scales 5", "--check a --hr b", "--check a --out b"])
def test_wrong_arguments_end_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments.split())
    assert "usage: python -m datas.prepare" in capsys.readouterr().err


# Checking


@pytest.fixture
def data_path(hr_dir, tmp_path):
    """A clean data folder: Sample, and a benchmark set of one image."""
    make(hr_dir)
    write_png(tmp_path / "data" / "benchmark" / "Mine" / "HR" / "a.png", random_image(50))
    make(tmp_path / "data" / "benchmark" / "Mine" / "HR")
    return tmp_path / "data"


def problems(data_path, capsys, *options) -> list[str]:
    capsys.readouterr()
    code = main(["--check", str(data_path), "--jobs", "2", *options])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert code == (1 if lines else 0)
    return lines


def test_a_clean_folder_has_no_problem(data_path, capsys):
    assert problems(data_path, capsys) == []


def test_all_problems_are_listed_at_once(data_path, hr_dir, capsys):
    x2 = layout.lr_folder(hr_dir, 2)
    (x2 / "0x2.png").unlink()
    write_png(x2 / "1x2.png", random_image(1, 5, 5))
    write_png(x2 / "ghostx2.png", random_image(1, 5, 5))
    (x2 / "2x2.png").write_bytes((x2 / "2x2.png").read_bytes()[:-40])
    write_png(hr_dir / "3.png", read_rgb(data_path / "benchmark" / "Mine" / "HR" / "a.png"))
    found = problems(data_path, capsys)
    expected = [
        "0.png: has no LR image",
        "1x2.png: is 5x5 pixels",
        "ghostx2.png: has no HR image",
        "2x2.png: is damaged",
        "3.png: has the pixels of",
    ]
    assert len(found) == len(expected)
    assert all(any(text in line for line in found) for text in expected)


def test_scales_asked_for_must_be_there(data_path, capsys):
    found = problems(data_path, capsys, "--scales", "4")
    assert len(found) == 2
    assert all("X4: no such folder; make the LR images with" in line for line in found)


def test_known_sets_must_have_their_number_of_images(data_path, capsys):
    shutil.move(data_path / "benchmark" / "Mine", data_path / "benchmark" / "Set5")
    (line,) = problems(data_path, capsys)
    assert "has 1 readable images, expected 5" in line


def test_training_images_are_compared_with_the_published_list(tmp_path, capsys, monkeypatch):
    dataset = layout.TrainingDataset("DF2K", (range(1, 4), range(901, 903)))
    monkeypatch.setitem(layout.TRAINING_DATASETS, "df2k", dataset)
    for number in (1, 3, 801, 900, 901, 7000):
        write_png(tmp_path / "DF2K" / "DF2K_train_HR" / f"{number:04d}.png", random_image(number))
    found = problems(tmp_path, capsys)
    assert len(found) == 4
    assert [line.split("/")[-1].split(":")[0] for line in found[:2]] == ["0801.png", "0900.png"]
    assert "2 of 5 images are missing or damaged: 0002, 0902" in found[2]
    assert "1 images do not belong to DF2K: 7000" in found[3]


def test_a_div2k_validation_image_in_training_is_found_by_its_pixels(data_path, hr_dir, capsys):
    write_png(data_path / "DIV2K" / "DIV2K_valid_HR" / "0850.png", read_rgb(hr_dir / "2.png"))
    (line,) = problems(data_path, capsys)
    assert "2.png: has the pixels of" in line
    assert "0850.png" in line


def test_other_training_folders_are_looked_at_when_named_and_said_to_be_left_out_when_not(data_path, tmp_path, capsys):
    folder = data_path / "record" / "photographs_HR"
    write_png(folder / "mine.png", read_rgb(data_path / "benchmark" / "Mine" / "HR" / "a.png"))
    assert main(["--check", str(data_path), "--jobs", "2"]) == 0
    assert f"{folder}: not looked at; name it with --also" in capsys.readouterr().out
    (line,) = problems(data_path, capsys, "--also", str(folder))
    assert "mine.png: has the pixels of" in line
    (line,) = problems(data_path, capsys, "--also", str(tmp_path / "absent"))
    assert "absent: no such folder" in line


def test_a_folder_without_datasets_is_a_problem(tmp_path, capsys):
    assert "holds no dataset" in problems(tmp_path, capsys)[0]
    with pytest.raises(InputError, match="no such folder"):
        main(["--check", str(tmp_path / "none")])

"""The folder and file names of the published layout."""

from pathlib import Path

import pytest

from datas import layout
from utils import InputError


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("data/DF2K/DF2K_train_HR", "data/DF2K/DF2K_train_LR_bicubic/X2"),
        ("data/benchmark/Set5/HR", "data/benchmark/Set5/LR_bicubic/X2"),
        ("photos/mine", "photos/mine_LR_bicubic/X2"),
        ("photos/mine/", "photos/mine_LR_bicubic/X2"),
        ("photos/CHR", "photos/CHR_LR_bicubic/X2"),
    ],
)
def test_lr_folder_follows_from_the_hr_folder(hr, lr):
    assert layout.lr_folder(hr, 2) == Path(lr)


def test_lr_files_carry_the_scale_in_their_name():
    assert layout.lr_name("0001", 4) == "0001x4"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("df2k", "DF2K/DF2K_train_HR"), ("div2k", "DIV2K/DIV2K_train_HR"), ("sample", "Sample/Sample_train_HR")],
)
def test_training_datasets_lie_in_their_published_folders(name, folder):
    assert layout.training_dataset(name).hr_folder("data") == Path("data") / folder


def test_df2k_is_div2k_train_and_flickr2k_without_the_validation_images():
    stems = layout.training_dataset("df2k").stems()
    assert len(stems) == len(set(stems)) == 3450
    assert (stems[0], stems[799], stems[800], stems[-1]) == ("0001", "0800", "0901", "3550")


def test_div2k_is_its_first_800_images():
    stems = layout.training_dataset("div2k").stems()
    assert (len(stems), stems[0], stems[-1]) == (800, "0001", "0800")


def test_a_misspelt_training_dataset_gets_a_hint():
    with pytest.raises(InputError, match=r"training_dataset: 'DF2KK' .*did you mean 'df2k'"):
        layout.training_dataset("DF2KK")


@pytest.mark.parametrize("inside", [".", "..", "HR/.."])
def test_the_lr_folder_of_a_folder_named_by_dots_lies_beside_it(inside, tmp_path, monkeypatch):
    (tmp_path / "photos" / "HR").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos" / ("HR" if inside == ".." else "."))
    assert layout.lr_folder(inside, 2).resolve() == tmp_path / "photos_LR_bicubic" / "X2"

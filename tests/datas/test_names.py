"""Names of files and folders that cannot be used: each is refused at once, in one line that can be printed."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from datas.benchmark import BenchmarkSet, open_benchmark_sets
from datas.check import check_data
from datas.images import image_size, list_images, read_rgb, write_png
from datas.layout import lr_folder
from datas.prepare import main, make_lr
from datas.store import pack
from utils import InputError, printable

# Bytes that are not UTF-8, as Python stands for them, and characters that end or spoil a line.
UNFIT = ["a\udcff", "a\nb", "a\x1b[31m", "a\x7f", "a\x85", "a\u2028b", "a\0b"]
FOLDERS = [*UNFIT[:3], UNFIT[-1], "n" * 300, "/".join(40 * ["n" * 200])]
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def image_in(folder: Path, name: str) -> Path:
    """An image of that name, or the test is skipped where the system has no such names."""
    write_png(folder / "good.png", np.zeros((8, 8, 3), np.uint8))
    try:
        (folder / "good.png").rename(folder / name)
    except (OSError, ValueError) as error:
        pytest.skip(f"no such name here: {error}")
    return folder / name


@pytest.mark.parametrize("name", UNFIT[:-1])
def test_an_image_whose_name_cannot_be_printed_is_refused_where_images_are_listed(name, tmp_path):
    image_in(tmp_path, f"{name}.png")
    text = refusal(list_images, tmp_path)
    assert "its name holds control characters or bytes that are not UTF-8; rename it" in text


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_a_byte_that_is_not_utf_8_is_shown_as_it_is_typed(tmp_path):
    image_in(tmp_path, os.fsdecode(b"a\xff.png"))
    assert refusal(list_images, tmp_path).startswith(f"{tmp_path}/a\\xff.png: its name holds")


@pytest.mark.parametrize("name", ["Ä ö 漢字 é", 'quote\'d "x"', "-rf *?"])
def test_other_names_are_taken(name, tmp_path):
    image_in(tmp_path / "Mine", f"{name}.png")
    assert [path.stem for path in list_images(tmp_path / "Mine")] == [name]
    assert printable(name) == name


@pytest.mark.parametrize("name", UNFIT[:-1])
def test_files_that_are_no_images_may_have_any_name(name, tmp_path):
    image_in(tmp_path, f"{name}.txt")
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]


@pytest.mark.parametrize("name", FOLDERS, ids=range(len(FOLDERS)))
def test_a_folder_that_cannot_be_is_refused_in_one_line_wherever_it_is_named(name, tmp_path):
    folder = tmp_path / name
    write_png(tmp_path / "HR" / "a.png", np.zeros((8, 8, 3), np.uint8))
    for call, *arguments in [
        (list_images, folder),
        (image_size, folder / "a.png"),
        (read_rgb, folder / "a.png"),
        (lr_folder, folder, 2),
        (BenchmarkSet, tmp_path, name, 2),
        (BenchmarkSet, folder, "Set5", 2),
        (open_benchmark_sets, folder, ["Set5"], 2),
        (open_benchmark_sets, tmp_path, [name], 2),
        (make_lr, folder, [2]),
        (make_lr, tmp_path / "HR", [2], folder),
        (check_data, folder, None, 1),
        (check_data, tmp_path, None, 1, [folder]),
        (pack, [tmp_path / "HR" / "a.png"], folder),
        (main, ["--check", str(folder)]),
        (main, ["--hr", str(folder), "--scales", "2"]),
        (main, ["--hr", str(tmp_path / "HR"), "--scales", "2", "--out", str(folder)]),
    ]:
        refusal(call, *arguments)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    assert f"{tmp_path}: could not be read (Permission denied); check data_path" in refusal(
        list_images, tmp_path, "check data_path"
    )


@posix
def test_the_lr_folder_of_a_circle_of_links_is_found(tmp_path):
    (tmp_path / "HR").symlink_to(tmp_path / "HR")
    assert lr_folder(tmp_path / "HR", 2) == tmp_path / "LR_bicubic" / "X2"
    assert "no such folder" in refusal(list_images, tmp_path / "HR")


@posix
def test_a_check_goes_on_after_a_folder_that_cannot_be_printed(tmp_path, capsys):
    set_folder = tmp_path / "benchmark" / os.fsdecode(b"s\xffet") / "HR"
    image_in(set_folder, "a.png")
    write_png(tmp_path / "benchmark" / "Other" / "HR" / "b.png", np.zeros((8, 8, 3), np.uint8))
    image_in(tmp_path / "more" / os.fsdecode(b"x\xff_HR"), "a.png")
    assert main(["--check", str(tmp_path), "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert "problem: " in printed
    assert "s\\xffet/HR: its name holds" in printed
    assert "x\\xff_HR: not looked at" in printed
    assert "Other/HR: 1 images" in printed
    printed.encode()

"""tools.compare: its scores and windows against literal ones, its pixels and fonts in the files, docs/figures.md."""

import itertools
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from helpers import ROOT, run_script

from datas import downscale, lr_folder, read_rgb, upscale, write_png
from datas.sample import TEST
from evaluation.metrics import standard_scores
from tools.compare import __main__ as compare
from tools.compare.figure import marks
from tools.compare.sheet import Sheet
from tools.compare.windows import Window, most_different
from utils import InputError

PAGE = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
SIZES = {"aster": (60, 84), "aster2": (60, 52), "bird": (52, 60)}
matplotlib_needed = pytest.mark.skipif(find_spec("matplotlib") is None, reason="the figure needs matplotlib")


def write_set(data, name, sizes, scale, rng):
    hr_folder = data / "benchmark" / name / "HR"
    for stem, (height, width) in sizes.items():
        coarse = upscale(rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8), 4)
        hr = np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)
        write_png(hr_folder / f"{stem}.png", hr)
        write_png(lr_folder(hr_folder, scale) / f"{stem}x{scale}.png", downscale(hr, scale))


@pytest.fixture
def folders(tmp_path):
    """data/, and SR images at x2: of A as test.py writes them, of B as other programs do."""
    rng = np.random.default_rng(0)
    write_set(tmp_path / "data", "Mine", SIZES, 2, rng)
    for stem in SIZES:
        hr = read_rgb(tmp_path / "data" / "benchmark" / "Mine" / "HR" / f"{stem}.png")
        for file, noise in ((f"a/Mine/{stem}_x2.png", 9), (f"b/{stem}-SR.png", 4)):
            write_png(tmp_path / file, np.clip(hr + rng.normal(0, noise, hr.shape), 0, 255).astype(np.uint8))
    return tmp_path


@pytest.fixture
def run(folders, monkeypatch, capsys):
    """Function of options: what the command printed, with both methods unless there is --sr."""

    def call(*options, methods=("A=a", "B=b"), sets="[Mine]"):
        monkeypatch.chdir(folders)
        words = ["--config", ROOT / "configs" / "SSUFSR_light_x2.yml", "--set", "data_path=data"]
        words += ["--set", f"eval_sets={sets}"]
        words += [] if "--sr" in options else [word for method in methods for word in ("--method", method)]
        words += [] if "--out" in options else ["--out", "out.png"]
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, [*words, *options])])
        compare.main()
        return capsys.readouterr().out

    return call


def images(folders, stem):
    """What the figure is made of, by name."""
    hr = read_rgb(folders / "data" / "benchmark" / "Mine" / "HR" / f"{stem}.png")
    lr = read_rgb(folders / "data" / "benchmark" / "Mine" / "LR_bicubic" / "X2" / f"{stem}x2.png")
    files = {"A": folders / "a" / "Mine" / f"{stem}_x2.png", "B": folders / "b" / f"{stem}-SR.png"}
    return {
        "LR": np.kron(lr, np.ones((2, 2, 1), np.uint8)),
        "bicubic": upscale(lr, 2),
        **{name: read_rgb(file) for name, file in files.items()},
        "HR": hr,
    }


def score(image, hr):
    first, second = (torch.from_numpy(np.ascontiguousarray(one)).permute(2, 0, 1) for one in (image, hr))
    found = standard_scores(first, second, 2)
    return f"{found.psnr:.2f}", f"{found.ssim:.4f}"


def places(part, whole):
    """Where an image lies in a larger one, every pixel equal."""
    height, width = part.shape[:2]
    corners = np.argwhere((whole[: -height + 1 or None, : -width + 1 or None] == part[0, 0]).all(axis=2))
    return [(x, y) for y, x in corners if np.array_equal(whole[y : y + height, x : x + width], part)]


# Scores


@matplotlib_needed
@pytest.mark.parametrize("of_crop", [False, True])
def test_the_scores_are_those_of_the_files(folders, run, monkeypatch, of_crop):
    drawn = []
    monkeypatch.setattr(Sheet, "pieces", lambda sheet, pieces, *place: drawn.append(pieces))
    printed = run("--crop", "bird:7,5,40,30", *["--score-crop"] * of_crop)
    found = images(folders, "bird")
    if of_crop:
        found = {name: image[5:35, 7:47] for name, image in found.items()}
    expected = {name: score(found[name], found["HR"]) for name in ("bicubic", "A", "B")}
    assert [tuple(words for words, *_ in pieces if words != "/") for pieces in drawn] == list(expected.values())
    told = ", ".join(f"{name} {'/'.join(values)}" for name, values in expected.items())
    assert printed.splitlines()[0] == f"--crop Mine/bird:7,5,40,30   {told}"
    for place in (0, 1):  # PSNR, then SSIM
        best, second, third = sorted(expected, key=lambda name: -float(expected[name][place]))
        styles = {name: pieces[2 * place][1:] for name, pieces in zip(expected, drawn, strict=True)}
        assert styles == {best: (True, False), second: (False, True), third: (False, False)}


def test_the_best_is_bold_the_second_underlined_and_what_prints_alike_is_marked_alike():
    assert marks(["30.10", "9.99", "31.00"]) == {"31.00": (True, False), "30.10": (False, True)}
    assert marks(["inf", "31.00", "inf"]) == {"inf": (True, False), "31.00": (False, True)}
    assert marks(["30.10", "31.00"]) == {"31.00": (True, False)}
    assert marks(["30.10"]) == {}
    assert marks(["30.10"] * 3) == {"30.10": (True, False)}


# Windows


def brute_force(images, side, step):
    """Every window, and every two images, one by one."""
    height, width = images[0].shape[:2]
    best, found = -1, None
    for top in range(0, height - side + 1, step):
        for left in range(0, width - side + 1, step):
            parts = [image[top : top + side, left : left + side].astype(float) for image in images]
            amount = sum(((a - b) ** 2).sum() for a, b in itertools.combinations(parts, 2))
            if amount > best:
                best, found = amount, (left, top, side, side)
    return best, found


@pytest.mark.parametrize("count, side, step", [(2, 5, 1), (3, 6, 2), (4, 4, 3), (2, 17, 4)])
def test_the_window_is_that_of_a_search_one_by_one(count, side, step):
    rng = np.random.default_rng(count)
    images = [rng.integers(0, 256, (17, 21, 3), dtype=np.uint8) for _ in range(count)]
    assert most_different(images, side, step) == brute_force(images, side, step)


def test_a_window_is_no_larger_than_its_image():
    images = [np.full((8, 9, 3), value, np.uint8) for value in (0, 255)]
    assert most_different(images, 64, 4) == (72 * 3 * 255**2, Window(0, 0, 9, 8))


@matplotlib_needed
def test_auto_takes_image_after_image_by_how_much_the_methods_differ(folders, run):
    printed = run("--crop", "auto", "--crop", "auto", "--crop", "aster:auto", "--side", "12")
    windows = re.findall(r"--crop Mine/(\w+):([\d,]+)", printed)
    found = {stem: brute_force([images(folders, stem)[name] for name in "AB"], 12, 2) for stem in SIZES}
    first, second, _ = sorted(found, key=lambda stem: -found[stem][0])
    expected = [(stem, ",".join(map(str, found[stem][1]))) for stem in (first, second, "aster")]
    assert windows == expected
    alone = run("--crop", "bird:auto", "--side", "12", methods=["A=a"])
    _, window = brute_force([images(folders, "bird")[name] for name in ("A", "bicubic")], 12, 2)
    assert f"Mine/bird:{','.join(map(str, window))} " in alone


# Files


@matplotlib_needed
@pytest.mark.parametrize(
    "crop, times, options",
    [
        ((7, 5, 40, 30), 5, ()),
        ((0, 0, 13, 29), 7, ()),
        ((1, 2, 59, 50), 1, ("--magnify", 1)),
        ((31, 9, 21, 21), 10, ("--without", "image", "--without", "LR")),
    ],
)
def test_a_png_has_the_very_pixels_of_every_crop_in_the_order_of_the_options(folders, run, crop, times, options):
    run("--crop", f"bird:{','.join(map(str, crop))}", *options)
    drawn = read_rgb(folders / "out.png")
    left, top, width, height = crop
    found = []
    for name, image in images(folders, "bird").items():
        part = image[top : top + height, left : left + width]
        at = places(np.kron(part, np.ones((times, times, 1), np.uint8)), drawn)
        assert len(at) == (name not in options), name
        found += [(y, x) for x, y in at]
    assert found == sorted(found)


@matplotlib_needed
def test_blocks_stand_under_one_another_and_parts_can_be_left_out(folders, run):
    run("--crop", "bird:0,0,20,20", "--crop", "aster:4,4,20,20", "--magnify", 2)
    drawn = read_rgb(folders / "out.png")
    both = [images(folders, "bird")["HR"][:20, :20], images(folders, "aster")["HR"][4:24, 4:24]]
    (first,), (second,) = (places(part.repeat(2, 0).repeat(2, 1), drawn) for part in both)
    assert first[0] == second[0]
    assert first[1] < second[1]
    run("--crop", "bird:0,0,20,20", *[w for name in ("image", "LR", "bicubic", "HR") for w in ("--without", name)])
    assert read_rgb(folders / "out.png").shape[1] < 450  # two crops of 200 pixels


@matplotlib_needed
def test_the_box_is_drawn_around_the_window(folders, run):
    hr = folders / "data" / "benchmark" / "Mine" / "HR" / "bird.png"
    write_png(hr, np.full((52, 60, 3), 128, np.uint8))
    run("--crop", "bird:30,8,20,10", "--magnify", 10)
    drawn = read_rgb(folders / "out.png").astype(int)
    scale = (2 * (10 * 10 + 74) - 74) / 52  # the image is as high as two crops, with the text of one between them
    drawn = drawn[:, : 12 + round(60 * scale)]
    red = np.argwhere((drawn[..., 0] > 200) & (drawn[..., 1] < 60))
    (top, left), (bottom, right) = red.min(axis=0), red.max(axis=0)
    assert (left - 12, top - 12, right - left, bottom - top) == pytest.approx(
        [scale * value for value in (30, 8, 20, 10)], abs=5
    )


@matplotlib_needed
def test_a_pdf_has_truetype_fonts_pixels_that_were_not_resampled_and_the_same_bytes_each_time(folders, run):
    run("--crop", "bird:7,5,41,31", "--magnify", 3, "--out", "x.pdf", "--out", "x.png")
    content = (folders / "x.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    objects = re.findall(rb"<<[^>]*/Subtype /Image[^>]*>>", content)
    sizes = [tuple(int(re.search(rb"/%s (\d+)" % side, one)[1]) for side in (b"Width", b"Height")) for one in objects]
    assert sizes.count((123, 93)) == 5
    assert read_rgb(folders / "x.png").shape[2] == 3
    run("--crop", "bird:7,5,41,31", "--magnify", 3, "--out", "x.pdf")
    assert (folders / "x.pdf").read_bytes() == content


# Rows


def test_rows_are_the_middle_of_every_image_and_need_no_matplotlib(folders, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    assert run("--sr", "a", "--side", 40) == "wrote out.png\n"
    drawn = read_rgb(folders / "out.png")
    assert drawn.shape == (28 + 3 * 40, 4 * 40, 3)
    for number, (stem, (height, width)) in enumerate(SIZES.items()):
        top, left = (2 * ((length // 2 - 20) // 2) for length in (height, width))
        found = images(folders, stem)
        columns = [found[name][top : top + 40, left : left + 40] for name in ("LR", "bicubic", "A", "HR")]
        for place, column in enumerate(columns):
            assert np.array_equal(drawn[28 + 40 * number :, 40 * place :][:40, :40], column), (stem, place)


# What is refused


@matplotlib_needed
@pytest.mark.parametrize(
    "options, message",
    [
        (["--crop", "brid:0,0,9,9"], r"--crop brid:0,0,9,9: there is no image 'brid' in Mine; did you mean 'bird'\?"),
        (["--crop", "bird:50,0,11,9"], r"--crop bird:50,0,11,9: reaches beyond the image, 60x52 pixels"),
        (["--crop", "bird:0,0,0,9"], r"--crop bird:0,0,0,9: is empty"),
        (["--crop", "bird:0,0,9"], r"--crop bird:0,0,9: must be IMAGE:x,y,w,h in pixels of HR, IMAGE:auto or auto"),
        (["--crop", "bird"], r"--crop bird: must be IMAGE:x,y,w,h"),
        (["--crop", "bird:0,0,12,12", "--score-crop"], r"Mine/bird:0,0,12,12: cannot be scored: .*"),
        (["--crop", "auto"] * 4, r"--crop auto: there is no further image in which the methods differ; name one"),
        (["--method", "A=b"], r"--method A=\.\.\.: two methods have this name"),
        (["--method", "A"], r"--method A: must be NAME=DIR"),
        (["--method", "C=c"], r"--method C=c: there is no folder c"),
        (["--method", "HR=b"], r"--method HR=b: 'HR' stands in the figure already"),
        (["--out", "out.jpg"], r"--out out\.jpg: must end in \.png or \.pdf"),
        (["--side", 1], r"--side 1: must be 2 at least"),
        (["--magnify", 0], r"--magnify 0: must be from 1 to 200"),
        (["--sr", "a", "--crop", "auto"], r"--crop: is for --method, not for --sr"),
        (["--sr", "a", "--score-crop"], r"--score-crop: is for --method"),
        (["--sr", "a", "--out", "out.pdf"], r"--out out\.pdf: must end in \.png"),
        (["--sr", "a", "--out", "a.png", "--out", "b.png"], r"--out: rows are written to one file"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, options, message):
    with pytest.raises(InputError, match=rf"^{message}"):
        run(*options)


@matplotlib_needed
def test_sr_images_that_do_not_fit_are_refused(folders, run):
    write_png(folders / "b" / "bird-SR.png", np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(
        InputError, match=r"b[/\\]bird-SR\.png: is 60x50 pixels, not 60x52 as HR at x2; check --method B"
    ):
        run("--crop", "bird:auto")
    (folders / "b" / "bird-SR.png").rename(folders / "b" / "Bird.png")
    with pytest.raises(
        InputError, match=r"^b: there is no SR image of Mine/bird; its name must begin with 'bird'; .* B"
    ):
        run("--crop", "bird:auto")
    write_png(folders / "b" / "aster_other.png", np.zeros((60, 84, 3), np.uint8))
    with pytest.raises(InputError, match=r"^b: aster-SR\.png and aster_other\.png are both of Mine/aster; leave one"):
        run("--crop", "aster:auto")
    run("--crop", "aster2:0,0,20,20")  # aster2-SR.png is not one of aster


@matplotlib_needed
def test_equal_methods_have_no_window_where_they_differ(run):
    with pytest.raises(InputError, match=r"--crop bird:auto: the methods' images are equal; write the window as x,y"):
        run("--crop", "bird:auto", methods=["A=a", "C=a"])


@matplotlib_needed
def test_an_image_of_two_sets_must_be_named_with_its_set(folders, run):
    write_set(folders / "data", "Other", {"bird": (52, 60)}, 2, np.random.default_rng(1))
    with pytest.raises(InputError, match=r"several sets have this image; write Mine/bird or Other/bird"):
        run("--crop", "bird:auto", sets="[Mine, Other]")
    assert "--crop Other/bird:0,0,20,20 " in run(
        "--crop", "Other/bird:0,0,20,20", sets="[Mine, Other]", methods=["B=b"]
    )
    with pytest.raises(InputError, match=r"no such folder, so there is no evaluation set 'Set9'"):
        run(sets="[Set9]")


def test_without_matplotlib_one_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"^--method needs matplotlib: pip install matplotlib$"):
        run("--crop", "auto")


# docs/figures.md


@matplotlib_needed
def test_the_commands_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SSIU_BACKEND", "plain")
    shutil.copytree(ROOT / "configs", "configs")
    write_set(tmp_path / "data" / "sample", "Sample", {"rocket": (168, 112)}, 4, np.random.default_rng(0))
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert lines[0] == "python -m datas.sample --out data/sample"  # whose photographs take longer than a test may
    for _python, *words in map(shlex.split, lines[1:]):
        script = {"-m": "tools/compare/__main__.py"}.get(words[0], words[0])
        words = [*words[1 + (words[0] == "-m") :], "--set", "gpu_ids=[]"]
        done = run_script(script, *words)
        assert done.returncode == 0, f"{script} {words}: {done.stderr}"
    assert read_rgb("results/rows.png").shape == (28 + 168, 4 * 112, 3)
    assert {path.name for path in map(Path, ("docs/figures.png", "results/figures.pdf")) if path.is_file()} == {
        "figures.png", "figures.pdf"
    }  # fmt: skip


def test_the_picture_of_the_page_has_the_pixels_of_the_photograph_and_is_small():
    path = ROOT / "docs" / "figures.png"
    assert path.stat().st_size < 150_000
    assert "](figures.png)" in PAGE
    found = re.search(r"--crop (\w+):(\d+),(\d+),(\d+),(\d+)", PAGE)
    left, top, width, height = map(int, found.groups()[1:])
    file, (y, x, rows, columns) = TEST[found[1]]  # none with conditions, as the motorcycle has
    hr = read_rgb(Path(skimage.data.__file__).parent / file)[y : y + rows, x : x + columns]
    drawn = read_rgb(path)
    for image in (hr, upscale(downscale(hr, 4), 4)):
        part = image[top : top + height, left : left + width]
        assert len(places(part.repeat(4, 0).repeat(4, 1), drawn)) == 1


@matplotlib_needed
def test_a_file_of_another_number_does_not_stand_in_the_way(folders, run):
    write_set(folders / "data", "Moths", {"moth1": (60, 52)}, 2, np.random.default_rng(1))
    hr = read_rgb(folders / "data" / "benchmark" / "Moths" / "HR" / "moth1.png")
    for name in ("moth1-SR.png", "moth10-SR.png"):  # the second is of no image of the set
        write_png(folders / "c" / name, hr)
    printed = run("--crop", "moth1:0,0,16,16", methods=("C=c",), sets="[Moths]")
    assert "--crop Moths/moth1:0,0,16,16" in printed

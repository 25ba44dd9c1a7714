"""tools.score: SR files of any program, against scikit-image, published scores, and stand-ins for torchmetrics."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from datas import downscale, list_images, read_rgb, upscale, write_png
from datas.fingerprints import image_digest, set_fingerprint
from tools import score
from tools.leaderboard.read import read_result
from tools.score import find_hr
from utils import InputError


def back_projected(lr, s):
    """An SR image that shrinks to `lr`, as those of a network do."""
    sr = upscale(lr, s).astype(float)
    for _ in range(6):
        shrunk = downscale(np.clip(np.round(sr), 0, 255).astype(np.uint8), s)
        sr += cv2.resize(lr.astype(float) - shrunk, sr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(np.round(sr), 0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """HR, LR at x4 and SR images of it: two images of 45x49 pixels."""
    rng = np.random.default_rng(0)
    for name in ("aster", "bird"):
        hr = upscale(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8), 6)[:49, :45]
        hr = np.clip(hr + rng.normal(0, 6, hr.shape), 0, 255).astype(np.uint8)
        write_png(tmp_path / "Mine" / "HR" / f"{name}.png", hr)
        lr = downscale(hr, 4)
        write_png(tmp_path / "Mine" / "LR_bicubic" / "X4" / f"{name}x4.png", lr)
        write_png(tmp_path / "sr" / f"{name}_SR.png", back_projected(lr, 4))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Function of a folder and options: what the command printed."""

    def call(folders, *options, scale=4):
        sr, hr = folders / "sr", folders / "Mine" / "HR"
        arguments = ["--sr", sr, "--hr", hr, "--scale", scale, *options]
        monkeypatch.setattr("sys.argv", ["score", *map(str, arguments)])
        score.main()
        return capsys.readouterr().out

    return call


def images(folders):
    """(SR, HR of its size) by name."""
    pairs = {}
    for path in list_images(folders / "sr"):
        name, sr = path.stem.removesuffix("_SR"), read_rgb(path)
        pairs[name] = sr, read_rgb(folders / "Mine" / "HR" / f"{name}.png")[: sr.shape[0], : sr.shape[1]]
    return pairs


# Scores


def test_rgb_scores_are_those_of_scikit_image_over_three_channels(folders, run):
    run(folders, "--json", folders / "r.json")
    found = json.loads((folders / "r.json").read_text())["sets"]["Mine"]
    psnrs, ssims = [], []
    for name, (sr, hr) in images(folders).items():
        sr, hr = (image[4:-4, 4:-4].astype(float) for image in (sr, hr))
        psnrs.append(peak_signal_noise_ratio(hr, sr, data_range=255))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        _, full = structural_similarity(hr, sr, channel_axis=2, full=True, **options)
        ssims.append(full[5:-5, 5:-5].mean())
        expected = {"psnr": pytest.approx(psnrs[-1], abs=1e-9), "ssim": pytest.approx(ssims[-1], abs=1e-9)}
        assert found["images"][name]["rgb"] == expected
    assert found["rgb"] == pytest.approx({"psnr": np.mean(psnrs), "ssim": np.mean(ssims)}, abs=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_published_images_get_their_published_means(shared, tmp_path, run, scale):
    (tmp_path / "sr").mkdir()
    (tmp_path / "Mine").symlink_to(shared / "benchmark" / "Set5")
    for file in (shared / "metric_cases" / f"x{scale}").glob("*_SR.png"):
        (tmp_path / "sr" / file.name).symlink_to(file)
    printed = run(tmp_path, scale=scale)
    known = json.loads((shared / "metric_cases" / "cases.json").read_text())["computed_mean"][str(scale)]["standard"]
    assert printed.splitlines()[-1].startswith(f"| mean of 5 | {known['psnr']:.4f} / {known['ssim']:.6f} | ")
    assert f"scale: the SR images look like those of x{scale}: " in printed
    assert f"Set5 x{scale}: 5 images, HR fingerprint " in printed
    if scale == 4:
        assert "warning: the SR images look like those of x4, not x2: " in run(tmp_path, scale=2)


def test_official_is_labelled_as_of_rounded_images_everywhere(folders, run):
    printed = run(folders, "--json", folders / "r.json", "--csv", folders / "r.csv")
    assert "| image | standard | official, of rounded images | RGB |" in printed
    assert json.loads((folders / "r.json").read_text())["sets"]["Mine"]["official_input"] == "uint8"
    assert {row["official_input"] for row in csv.DictReader((folders / "r.csv").open())} == {"uint8"}


# Files


def test_the_json_file_is_one_that_the_leaderboard_reads(folders, run):
    lr = folders / "Mine" / "LR_bicubic" / "X4"
    run(folders, "--json", folders / "r.json", "--lr", lr, "--name", "Mine0", "--parameters", 1200, "--set-name", "A")
    result = read_result(folders / "r.json", "standard")
    assert (result.name, result.scale, result.parameters, result.multiply_adds) == ("Mine0", 4, 1200, None)
    found = result.sets["A"]
    assert found.images == {"aster", "bird"}
    assert found.hr == set_fingerprint({name: image_digest(hr) for name, (_, hr) in images(folders).items()})
    digests = {path.stem.removesuffix("x4"): image_digest(read_rgb(path)) for path in list_images(lr)}
    assert found.lr == set_fingerprint(digests)
    assert found.bicubic is not None
    assert found.bicubic.psnr < found.scores.psnr


def test_the_csv_file_has_a_line_per_image_with_the_columns_of_test_py(folders, run):
    run(folders, "--json", folders / "r.json", "--csv", folders / "r.csv")
    rows = list(csv.DictReader((folders / "r.csv").open()))
    found = json.loads((folders / "r.json").read_text())["sets"]["Mine"]["images"]
    assert [(row["set"], row["image"], row["network"]) for row in rows] == [("Mine", n, "sr") for n in found]
    assert list(rows[0])[:6] == ["set", "image", "standard_psnr", "standard_ssim", "official_psnr", "official_ssim"]
    for row in rows:
        one = found[row["image"]]
        assert float(row["rgb_psnr"]) == one["rgb"]["psnr"]
        assert float(row["bicubic_official_ssim"]) == one["bicubic"]["official"]["ssim"]
        assert (row["lpips"], row["seconds"]) == ("", "")


# Which scale, which files


def test_lr_images_settle_the_scale(folders, run):
    lr = folders / "Mine" / "LR_bicubic" / "X4"
    assert "scale: every SR image is 4 times as large as its LR image" in run(folders, "--lr", lr)
    with pytest.raises(InputError, match=r"aster_SR\.png: .* are not 2 times the 11x12 of .*; score with --scale 4"):
        run(folders, "--lr", lr, scale=2)
    (lr / "birdx4.png").rename(lr / "bird_x4.png")
    with pytest.raises(InputError, match=r"X4: no LR image of bird\.png"):
        run(folders, "--lr", lr)


def test_results_of_x4_that_are_scored_as_x2_are_noticed_without_lr_images(folders, run):
    assert "warning: the SR images look like those of x4, not x2" in run(folders, scale=2)
    assert "scale: the SR images look like those of x4: shrunk by 4 they have the pixels of HR" in run(folders)


def test_where_the_scale_cannot_be_told_it_is_said_to_be_unchecked(folders, run):
    for path in list_images(folders / "sr"):
        lr = read_rgb(folders / "Mine" / "LR_bicubic" / "X4" / f"{path.stem.removesuffix('_SR')}x4.png")
        write_png(path, upscale(lr, 4))
    assert "warning: that the SR images are of x4 was not checked; give their LR images with --lr" in run(folders)


def test_lr_images_of_another_making_are_named(folders, run):
    lr = folders / "Mine" / "LR_bicubic" / "X4"
    for path in list_images(lr):
        hr = read_rgb(folders / "Mine" / "HR" / f"{path.stem.removesuffix('x4')}.png")[:48, :44]
        write_png(path, cv2.resize(hr, (11, 12), interpolation=cv2.INTER_AREA))
    printed = run(folders, "--lr", lr)
    assert "warning: 2 of 2 LR images differ from MATLAB's bicubic of HR: 2 are OpenCV's INTER_AREA" in printed


def test_sizes_that_are_of_no_such_scale_are_refused(folders, run):
    with pytest.raises(InputError, match=r"aster_SR\.png: 44x48 pixels are no multiple of 3"):
        run(folders, scale=3)
    write_png(folders / "sr" / "aster_SR.png", np.zeros((40, 44, 3), np.uint8))
    with pytest.raises(InputError, match=r"aster_SR\.png: 44x40 pixels do not fit .*aster\.png of 45x49 at x4"):
        run(folders)


def test_two_sr_images_of_one_hr_image_are_refused(folders, run):
    write_png(folders / "sr" / "bird_x4.png", np.zeros((48, 44, 3), np.uint8))
    with pytest.raises(InputError, match=r"bird_x4\.png: is of .*bird\.png, as bird_SR\.png is"):
        run(folders)


def test_a_number_at_the_end_of_a_name_is_whole():
    names = [Path(f"img_{number}.png") for number in (1, 2)]
    assert find_hr(Path("img_1_x4.png"), names) == names[0]
    with pytest.raises(InputError, match="no HR image has a name that it starts with"):
        find_hr(Path("img_10_x4.png"), names)


def test_hr_images_without_an_sr_image_are_counted(folders, run):
    (folders / "sr" / "bird_SR.png").unlink()
    printed = run(folders)
    assert printed.startswith("1 of 2 HR images have no SR image")
    assert "| mean of 1 | " in printed


# LPIPS and DISTS


class Recorder:
    """In the place of a metric of torchmetrics: keeps what it is made with and given."""

    made: list = []  # noqa: RUF012

    def __init__(self, **options):
        self.options, self.given = options, []
        Recorder.made.append(self)

    def __call__(self, sr, hr):
        self.given.append((sr, hr))
        return (sr - hr).abs().mean()


@pytest.fixture
def torchmetrics(monkeypatch):
    """Stand-ins for torchvision and torchmetrics: the metrics that were made."""
    monkeypatch.setattr(Recorder, "made", [])
    for name in (
        "torchvision",
        "torchmetrics",
        "torchmetrics.image",
        "torchmetrics.image.lpip",
        "torchmetrics.image.dists",
    ):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torchmetrics.image.lpip"].LearnedPerceptualImagePatchSimilarity = Recorder
    sys.modules["torchmetrics.image.dists"].DeepImageStructureAndTextureSimilarity = Recorder
    return Recorder.made


def test_lpips_and_dists_are_given_whole_rgb_images_in_0_1(folders, run, torchmetrics):
    printed = run(folders, "--lpips", "--dists", "--json", folders / "r.json", "--csv", folders / "r.csv")
    lpips, dists = torchmetrics
    assert (lpips.options, dists.options) == ({"net_type": "alex", "normalize": True}, {})
    expected = []
    for place, (sr, hr) in enumerate(images(folders).values()):
        for metric in (lpips, dists):
            for given, image in zip(metric.given[place], (sr, hr), strict=True):
                assert torch.equal(given, torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        expected.append(float(np.abs(sr / 255 - hr / 255).mean()))
    found = json.loads((folders / "r.json").read_text())["sets"]["Mine"]
    assert found["lpips"] == found["dists"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found["images"]["bird"]["lpips"] == pytest.approx(expected[1], abs=1e-6)
    first = next(csv.DictReader((folders / "r.csv").open()))
    assert float(first["dists"]) == pytest.approx(expected[0], abs=1e-6)
    assert "| RGB | LPIPS | DISTS |" in printed
    assert printed.splitlines()[-3].endswith(f" | {np.mean(expected):.4f} | {np.mean(expected):.4f} |")


@pytest.mark.parametrize("absent", ["torchvision", "torchmetrics.image.lpip"])
def test_without_the_packages_lpips_is_refused_with_the_command_that_installs_them(
    folders, run, torchmetrics, monkeypatch, absent
):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError) as caught:
        run(folders, "--lpips")
    package = absent.partition(".")[0]
    assert str(caught.value).startswith(f"--lpips: needs {package}, which cannot be imported")
    assert "`pip install torchmetrics torchvision`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("size mismatch\nof tensors")])
def test_what_the_metric_refuses_is_one_line(folders, run, torchmetrics, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Recorder, "__call__", fail)
    with pytest.raises(
        InputError, match=r"aster_SR\.png: has no DISTS \((no network|size mismatch)\); leave --dists out"
    ):
        run(folders, "--dists")
    monkeypatch.setattr(Recorder, "__init__", fail)
    with pytest.raises(InputError, match=r"--lpips: torchmetrics cannot make it \((no network|size mismatch)\)"):
        run(folders, "--lpips")

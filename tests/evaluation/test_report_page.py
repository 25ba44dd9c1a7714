"""The page of an evaluation: its figures are those of the JSON, and no name becomes markup."""

import base64
import hashlib
import json
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, run_script, write_tiny
from markup import Page, images, summary

from config import load_config
from datas import Pair
from evaluation import gallery
from evaluation.charts import LineChart, Scale, crossing, histogram, nice_step, thinned
from evaluation.gallery import KEPT, SIDE, THUMBNAIL, Gallery, merged, starts, window_gains
from evaluation.page import LOSSLESS, document, escaped, joined, tag, webp
from evaluation.report_page import report_page
from models import create_model

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x1b\udcff<b>"


@pytest.fixture(scope="module")
def evaluated(tiny_data, tmp_path_factory):
    """What `test.py --report --json` wrote of the tiny set, and without --report."""
    folder = tmp_path_factory.mktemp("report")
    config = write_tiny(folder, tiny_data)
    torch.manual_seed(3)
    torch.save(create_model(load_config(config)).state_dict(), folder / "weights.pt")
    common = ("--config", config, "--set", f"pretrain={folder / 'weights.pt'}", "--out", folder / "out")
    for options in (("--report", folder / "r.html", "--json", folder / "r.json"), ("--json", folder / "without.json")):
        done = run_script("test.py", *common, *options)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_report_shows_the_figures_of_the_json(evaluated):
    page, found = Page((evaluated / "r.html").read_bytes()), json.loads((evaluated / "r.json").read_text())
    header, *rows = page.tables["Scores of every image"]
    of_set = found["sets"]["Sample"]
    assert [row[1:3] for row in rows] == [["Sample", name] for name in of_set["images"]]
    for row, image in zip(rows, of_set["images"].values(), strict=True):
        cells = dict(zip(header, map(str, row), strict=True))
        assert cells["PSNR"] == f"{image['standard']['psnr']:.3f}"
        assert cells["official SSIM"] == f"{image['official']['ssim']:.4f}"
        gain = image["standard"]["psnr"] - image["bicubic"]["standard"]["psnr"]
        assert cells["gain, dB"] == f"{gain:+.3f}"
    sets = dict(zip(*page.tables["Scores of every set"], strict=True))
    assert sets["standard"] == f"{of_set['standard']['psnr']:.3f} / {of_set['standard']['ssim']:.4f}"
    for shown in (found["weights"]["sha256"], of_set["hr"], of_set["lr"], found["device"], found["versions"]["torch"]):
        assert shown in page.text
    assert "LR images are MATLAB's bicubic, bit for bit" in page.text
    assert "eval_precision: float32" in page.text  # of the config


def test_a_report_changes_no_figure(evaluated):
    def untimed(file):
        images = json.loads((evaluated / file).read_text())["sets"]["Sample"]["images"]
        return [{key: value for key, value in image.items() if key != "seconds"} for image in images.values()]

    assert untimed("r.json") == untimed("without.json")


def test_a_report_holds_everything_itself_and_may_run_no_script_but_its_own(evaluated):
    page = Page((evaluated / "r.html").read_bytes())
    assert {address.partition(":")[0] for address in page.addresses} == {"data"}
    (policy,) = (a["content"] for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    assert not any(key.startswith("on") or key == "style" for _, attributes in page.elements for key in attributes)


def test_a_folder_in_place_of_the_report_is_found_before_the_evaluation(tiny_config, tmp_path):
    done = run_script("test.py", "--config", tiny_config(), "--report", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == f"error: --report {tmp_path}: is a folder; name a file, such as {tmp_path / 'x4.html'}\n"


def test_sets_without_hr_have_thumbnails_and_no_scores(evaluated, tiny_data):
    common = ("--config", evaluated / "tiny.yml", "--set", f"pretrain={evaluated / 'weights.pt'}")
    done = run_script("test.py", *common, "--out", evaluated / "out", "--lr-only", "--report", evaluated / "lr.html")
    assert done.returncode == 0, done.stderr
    page = Page((evaluated / "lr.html").read_bytes())
    _, *rows = page.tables["Scores of every image"]
    assert [row[3:9] for row in rows] == [["–"] * 6] * 2
    assert sum(name == "img" for name, _ in page.elements) == 2
    assert "svg" not in page.names()


def page_of(set_name, name):
    """The page of a set of two images with such names."""
    pictures = Gallery()
    pair, sr, bicubic = next(images(1))
    pictures.of(set_name)(Pair(name, pair.lr, pair.hr), sr, bicubic)
    cells = [["set"], [set_name]]
    return Page(report_page(summary({set_name: [name, "b"]}), cells, {set_name: [name]}, pictures, {"evaluating": 1.0}))


def test_names_become_text_and_no_markup():
    page = page_of(HOSTILE, HOSTILE)
    assert [name for name, _ in page.elements] == [name for name, _ in page_of("set", "a").elements]
    shown = "<script>alert(1)</script>\"'&\\u202e\\x1b\\udcff<b>"
    assert [row[1:3] for row in page.tables["Scores of every image"][1:]] == [[shown, shown], [shown, "b"]]


def test_text_is_escaped_where_it_becomes_part_of_a_page():
    assert tag("p", "<&>", title='"') == '<p title="&quot;">&lt;&amp;&gt;</p>'
    assert joined(escaped("<"), tag("br")) == "&lt;<br>"
    assert Page(document("<title>", tag("p", "ß"))).text.count("<title>") == 2  # of the window and of the page


def test_pictures_are_kept_small_and_few_whatever_the_number_of_images():
    kept = Gallery()
    for pair, sr, bicubic in images(KEPT + 3):
        kept.of("Set")(pair, sr, bicubic)
    assert (len(kept.thumbnails), len(kept.best), len(kept.worst)) == (KEPT + 3, KEPT, KEPT)
    for thumbnail in kept.thumbnails:
        picture = cv2.imdecode(np.frombuffer(thumbnail.data, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[0] <= THUMBNAIL[1] and picture.shape[1] <= THUMBNAIL[0]
    assert [crop.name for crop in kept.best] == [f"image {number}" for number in range(KEPT)]  # least noise first
    assert [crop.name for crop in kept.worst] == [f"image {number}" for number in range(KEPT + 2, 2, -1)]


def test_processes_keep_together_what_one_would():
    alone, shares = Gallery(), [Gallery(), Gallery()]
    for number, (pair, sr, bicubic) in enumerate(images(7)):
        alone.of("Set")(pair, sr, bicubic)
        shares[number % 2].of("Set")(pair, sr, bicubic)
    together = merged(shares)
    for which in ("best", "worst"):
        assert [(c.name, c.gain) for c in getattr(together, which)] == [(c.name, c.gain) for c in getattr(alone, which)]
    assert {one.name for one in together.thumbnails} == {one.name for one in alone.thumbnails}


def test_the_gain_of_a_window_is_that_of_its_pixels():
    pair, sr, bicubic = next(images(1, side=320))
    found = window_gains(sr, bicubic, pair.hr)
    assert len(found) >= 3
    for gain, left, top in found:
        window = np.s_[top : top + SIDE, left : left + SIDE]
        errors = [np.mean((image[window].astype(float) - pair.hr[window]) ** 2) for image in (sr, bicubic)]
        assert gain == pytest.approx(10 * np.log10(errors[1] / errors[0]), abs=1e-4)


@pytest.mark.parametrize("length", [1, 127, 128, 129, 200, 1000])
def test_windows_reach_from_end_to_end(length):
    side = min(SIDE, length)
    found = starts(length, side)
    assert (found[0], found[-1] + side) == (0, length)
    assert all(0 < b - a <= max(1, side // 2) for a, b in pairwise(found))


def test_crops_lose_nothing():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    read = cv2.imdecode(np.frombuffer(webp(image, LOSSLESS), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read[..., ::-1], image)


def test_crops_leave_out_the_border_that_scores_leave_out():
    pair, sr, bicubic = next(images(1, side=64))
    kept = Gallery()
    sr[:2] = 255 - sr[:2]
    kept.of("Set")(pair, sr, bicubic)
    assert kept.worst[0].gain == kept.best[0].gain > 0
    assert (kept.worst[0].left, kept.worst[0].top) == (2, 2)
    np.testing.assert_array_equal(kept.worst[0].hr, pair.hr[2:-2, 2:-2])


def test_an_image_of_one_pixel_within_its_border_has_a_thumbnail_and_a_crop():
    kept, image = Gallery(), np.zeros((3, 3, 3), np.uint8)
    kept.of("Set")(Pair("a", image, image), image, image)
    assert (len(kept.thumbnails), kept.best[0].gain) == (1, 0.0)
    assert gallery.reduced(np.zeros((3, 5000, 3), np.uint8)).shape == (1, THUMBNAIL[0], 3)


def test_ticks_are_round_and_within_the_scale():
    assert Scale(0, 6477, 0, 100).ticks(6) == [0, 2000, 4000, 6000]
    assert Scale(0.002, 0.5, 0, 100, True).ticks() == pytest.approx([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    assert [nice_step(value) for value in (0.013, 2, 2.1, 900)] == pytest.approx([0.02, 2, 5, 1000])


def test_hours_stand_where_the_run_reached_them():
    reached = [(100, 1.0), (200, 3.0)]
    assert [crossing(reached, hours) for hours in (0.5, 1, 2, 3)] == [50, 100, 150, 200]


def test_a_long_curve_is_drawn_by_the_means_of_neighbours():
    points = [(float(n), float(n % 2)) for n in range(4000)]
    drawn = thinned(points)
    assert len(drawn) == 400
    assert {value for _, value in drawn} == {0.5}


def test_charts_pass_over_what_is_not_finite():
    nan, inf = float("nan"), float("inf")
    assert LineChart("", {"a": [(1, nan)], "b": []}).svg() == ""
    assert "nan" not in LineChart("", {"a": [(1, 2.0), (2, nan), (3, 2.0)]}, top=[(1, nan), (3, 0.0)]).svg()
    assert histogram("", {"a": [inf, nan]}, "dB") == ""
    bars = Page(document("", histogram("", {"a": [1.0, 1.0, 2.0, inf]}, "dB")))
    assert "a: 2 from 1 to 1.05" in bars.text


def test_the_style_and_the_script_are_those_that_the_policy_names():
    data = document("page").decode()
    script = data.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in data
    assert (ROOT / "evaluation" / "page.js").read_text().strip() == script

"""The pages of evaluations and runs in a real browser, which one start serves: sorting, the slider, small and dark
windows, no request, no error."""

import json

import cv2
import numpy as np
import pytest
from browser import headless, opened, overflow
from markup import images, summary

from evaluation.gallery import Gallery
from evaluation.report_page import report_page
from training.run_page import keep_panel, write_page

SETS = {"Set5": ["b", "a", "image 10", "image 9"], "A set with a long name": ["x" * 200]}
HEADER = ["set", "images", "standard", "official", "paper x2", "official - paper", "bicubic", "ms / image"]


@pytest.fixture(scope="module")
def browser():
    with headless() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The file of a report of made-up figures, one of them infinite, and one image without scores."""
    figures, pictures = summary(SETS), Gallery()
    figures["sets"]["Set5"]["images"]["a"]["standard"]["psnr"] = float("inf")
    figures["sets"]["Set5"]["images"]["image 9"] = {"seconds": 0.25}
    for pair, sr, bicubic in images(3):
        pictures.of("Set5")(pair, sr, bicubic)
    rows = [[name, "4", *["38.123 / 0.9612"] * 5, "120"] for name in SETS]
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_bytes(report_page(figures, [HEADER, *rows], {"Set5": ["a line"]}, pictures, {"evaluating": 1.0}))
    return file


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    """run.html of a made-up run."""
    folder = tmp_path_factory.mktemp("run")
    lines = [{"kind": "start", "iteration": 0, "device": "a device " * 9}]
    for n in range(1, 40):
        figures = {"loss": 1 / n, "l1": 0.9 / n, "lr": 1e-3 / n, "minutes": 3.0 * n}
        lines.append({"kind": "train", "iteration": 50 * n, **figures})
        lines.append({"kind": "validation/Set5", "iteration": 50 * n, "psnr": 30 + n / 40, "ssim": 0.9})
    lines.append({"kind": "start", "iteration": 1000, "device": "another"})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "config.yml").write_text("scale: 2\n")
    keep_panel(folder, 1950, np.full((200, 800, 3), 90, np.uint8), print)
    write_page(folder, print)
    return folder / "run.html"


def column(page, place):
    """The texts of a column of the table of images, downwards."""
    return page.locator(f"table.sortable tbody td:nth-child({place})").all_text_contents()


def test_rows_are_sorted_by_a_click_and_by_the_keyboard(browser, report):
    with opened(browser, report) as page:
        heads = page.locator("table.sortable th")
        buttons = page.locator("table.sortable th button")
        assert (heads.count(), buttons.count()) == (10, 9)  # the pictures' column has none
        buttons.nth(2).click()  # PSNR
        shown = column(page, 4)
        assert shown[-2:] == ["inf", "–"]  # what is missing comes last
        assert [float(text) for text in shown[:-1]] == sorted(float(text) for text in shown[:-1])
        assert heads.nth(3).get_attribute("aria-sort") == "ascending"
        buttons.nth(1).focus()
        page.keyboard.press("Enter")
        assert column(page, 3) == ["a", "b", "image 9", "image 10", "x" * 200]
        page.keyboard.press("Space")
        assert column(page, 3) == ["x" * 200, "image 10", "image 9", "b", "a"]
        assert [head.get_attribute("aria-sort") for head in heads.all()].count(None) == 9
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "SSIM"


def test_the_slider_uncovers_the_picture_below(browser, report, tmp_path):
    """Left of the line stand bicubic's pixels, right of it those of the network."""
    with opened(browser, report) as page:
        figure = page.locator(".compare").first
        slider = figure.get_by_role("slider")
        assert slider.get_attribute("type") == "range"
        assert page.get_by_label("Share of bicubic, Set5/image 0").count() >= 1
        pictures = {}
        for value in (0, 100):
            slider.fill(str(value))
            pictures[value] = screenshot(figure.locator(".shot img").nth(1))
        slider.fill("50")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert slider.input_value() == "51"
        half, width = screenshot(figure.locator(".shot img").nth(1)), pictures[0].shape[1]
        left, right = np.s_[5:-5, 5 : width * 2 // 5], np.s_[5:-5, width * 3 // 5 : -5]
        assert np.abs(pictures[0] - pictures[100])[right].mean() > 3
        np.testing.assert_array_equal(half[left], pictures[100][left])
        np.testing.assert_array_equal(half[right], pictures[0][right])


def screenshot(element):
    return cv2.imdecode(np.frombuffer(element.screenshot(), np.uint8), cv2.IMREAD_COLOR).astype(float)


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_their_window_and_tables_scroll_in_their_box(browser, report, run_file, width):
    for file in (report, run_file):
        with opened(browser, file, width=width) as page:
            assert overflow(page) <= 0
            inside = "[...document.querySelectorAll('.scroll')].map((box) => box.scrollWidth - box.clientWidth)"
            assert (max(page.evaluate(inside)) > 100) or width > 390
            assert page.locator(".scroll").first.get_attribute("tabindex") == "0"


def test_pages_are_dark_where_the_reader_wants_it_and_letters_stand_out(browser, report, run_file):
    colours = "(name) => getComputedStyle(document.querySelector(name))"
    for file in (report, run_file):
        for dark in (False, True):
            with opened(browser, file, dark=dark) as page:
                paper = brightness(page.evaluate(f"({colours})('body').backgroundColor"))
                assert (paper < 0.1) == dark
                for text in ("h1", "td", ".note", "summary", "figcaption b"):
                    letters = brightness(page.evaluate(f"({colours})('{text}').color"))
                    light, shade = max(paper, letters), min(paper, letters)
                    assert (light + 0.05) / (shade + 0.05) >= 4.5, text  # as WCAG asks


def brightness(colour):
    """The relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_without_javascript_everything_is_there(browser, report):
    with opened(browser, report, java_script_enabled=False) as page:
        assert page.locator("table.sortable tbody tr").count() == 5
        assert page.locator(".compare").first.locator("img:visible").count() == 3
        assert page.locator("input:visible, button").count() == 0  # nothing that would do nothing
        boxes = [image.bounding_box() for image in page.locator(".compare").first.locator("img").all()]
        assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]

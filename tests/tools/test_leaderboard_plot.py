"""The picture of a leaderboard."""

import itertools
import sys
from functools import partial

import pytest
from leaderboards import a_set, made, save_result

from tools.leaderboard.plot import draw, plot
from utils import InputError


@pytest.fixture
def saved(tmp_path):
    """Function of a network's name, its sets and other keys: the file of its results."""
    return partial(save_result, tmp_path)


def cluster(saved):
    """Networks that lie close together, as published ones do, and one far off."""
    found = [(31.9, 794), (31.88, 780), (31.91, 620), (31.7, 410), (31.72, 400), (30.4, 89)]
    files = []
    for psnr, thousands in found:
        sets = {"Set5": a_set(psnr, 0.9, seconds=thousands / 1e4)}
        files.append(saved(f"Network-{thousands}", sets, parameters=1000 * thousands, multiply_adds=5e7 * thousands))
    return made(*files)[0]


def test_the_picture_has_a_panel_for_each_cost_and_names_that_can_be_read(saved):
    Text = pytest.importorskip("matplotlib.text", reason="the picture needs matplotlib").Text
    figure = draw(cluster(saved))
    figure.draw_without_rendering()  # names get their places when they are drawn
    first, second, third = figure.axes
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 3
    for axes, unit in ((first, 1.0), (second, 5e-2), (third, 0.1)):
        points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"}
        assert {round(x / unit) for x, _ in points} == {794, 780, 620, 410, 400, 89}
        assert {y for _, y in points} == {31.9, 31.88, 31.91, 31.7, 31.72, 30.4}
        texts = [text for text in axes.texts if text.get_text()]
        assert len(texts) == 6
        boxes = [Text.get_window_extent(text, figure.canvas.get_renderer()) for text in texts]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        frame = axes.get_window_extent()
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_bicubic_is_a_line_or_where_it_would_press_the_points_together_a_word(saved):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    for psnr, lines, word in ((30.0, [29.0], "bicubic: 29.00 dB"), (31.9, [], "bicubic: 29.00 dB, below")):
        files = [saved(name, {"Set5": a_set(value, 0.9, bicubic=29.0)}) for name, value in (("A", 32), ("B", psnr))]
        axes = draw(made(*files)[0]).axes[0]
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == lines
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [word]


def test_a_row_of_other_images_is_not_drawn_and_one_that_is_not_ranked_is_hollow(saved):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    files = [
        saved("A", {"Set5": a_set(31.0, 0.88)}),
        saved("B", {"Set5": a_set(30.0, 0.88)}, conditions="bf16"),
        saved("C", {"Set5": a_set(35.0, 0.9, images=("one",))}),
        saved("D", {"Set5": a_set(29.0, 0.88)}, parameters=None, multiply_adds=None),
    ]
    figure = draw(made(*files)[0])
    fills = {line.get_ydata()[0]: line.get_fillstyle() for line in figure.axes[0].lines if line.get_marker() == "o"}
    assert fills == {31.0: "full", 30.0: "none"}


def test_a_pdf_has_fonts_that_journals_take(saved, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    plot(cluster(saved), tmp_path / "x.pdf")
    content = (tmp_path / "x.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    with pytest.raises(InputError, match=r"x\.bmp: must end in \.png or \.pdf"):
        plot(cluster(saved), tmp_path / "x.bmp")


def test_without_matplotlib_one_line_says_what_to_install(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="--plot needs matplotlib: pip install matplotlib"):
        plot(cluster(saved), tmp_path / "x.png")

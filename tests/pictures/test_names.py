"""Which files are meant, what results are called, what a plan holds."""

from pathlib import Path

import pytest
from PIL import Image

from pictures.fit import result_size
from pictures.names import Source, find_sources, remove_leftovers_of, result_path, without_results
from pictures.plan import make_plan
from utils import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.png",
        "a.JPG",
        "notes.txt",
        ".hidden.png",
        "in/c.webp",
        "in/deep/d.tif",
        "out/e_x4.png",
        "odd[1].png",
    ):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(path, "PNG")
    return Path("photos")


def names(sources):
    return [source.path.relative_to("photos").as_posix() for source in sources]


def test_folders_give_their_visible_pictures_and_on_request_those_of_folders_inside(folder):
    assert names(find_sources(["photos"], False, None)) == ["a.JPG", "b.png", "odd[1].png"]
    deep = find_sources(["photos"], True, folder / "out")
    assert names(deep) == ["a.JPG", "b.png", "in/c.webp", "in/deep/d.tif", "odd[1].png"]
    assert result_path(deep[3], Path("x"), 4, "png") == Path("x/in/deep/d_x4.png")
    assert result_path(deep[3], None, 2, "jpg") == folder / "in/deep/d_x2.jpg"


def test_patterns_and_names_that_look_like_patterns(folder):
    assert names(find_sources(["photos/*.png"], False, None)) == ["b.png", "odd[1].png"]
    assert names(find_sources(["photos/**/*.tif"], False, None)) == ["in/deep/d.tif"]
    assert names(find_sources(["photos/odd[1].png"], False, None)) == ["odd[1].png"]
    assert names(find_sources(["photos/notes.txt", "photos/b.png", "photos"], False, None))[:2] == [
        "notes.txt",
        "b.png",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photos/no.png", "no such file or folder"),
        ("photos/*.bmp", "no file fits this pattern"),
        ("photos/empty", "no picture in this folder .*--recursive"),
    ],
)
def test_names_of_nothing_are_refused(folder, name, said):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=f"{said}"):
        find_sources([name], False, None)


def test_results_of_earlier_runs_are_no_pictures_to_do(folder):
    for name in ("b_x4.png", "a_x2.webp", "lone_x4.png"):
        Image.new("RGB", (5, 4)).save(folder / name)
    kept, left_out = without_results(find_sources(["photos"], False, None))
    assert names(kept) == ["a.JPG", "b.png", "lone_x4.png", "odd[1].png"]
    assert left_out == 2
    assert names(without_results([Source(folder / "b_x4.png")])[0]) == ["b_x4.png"]


def test_a_plan_knows_sizes_what_is_there_and_what_cannot_be_done(folder):
    Image.new("RGB", (5, 4)).save(folder / "a.webp")
    (folder / "a_x4.png").touch()
    (folder / "folder.png").mkdir()
    sources, _ = without_results(find_sources(["photos", "photos/notes.txt"], False, None))
    plan = make_plan(sources, None, 4, "png", (15, 1000), False)
    assert [str(job) for job in plan.jobs] == [
        f"{folder / 'b.png'} 5x4 PNG -> {folder / 'b_x4.png'} 15x12",
        f"{folder / 'odd[1].png'} 5x4 PNG -> {folder / 'odd[1]_x4.png'} 15x12",
        f"{folder / 'notes.txt'} 5x4 PNG -> {folder / 'notes_x4.png'} 15x12",
    ]
    assert plan.finished == [folder / "a_x4.png"]
    assert [line.split(": ")[0] for line in plan.failures] == [str(folder / "a.webp"), str(folder / "folder.png")]
    assert "is the result of" in plan.failures[0]


def test_the_format_of_the_input_is_that_of_its_content(folder):
    plan = make_plan([Source(folder / "in/c.webp")], None, 4, "same", None, False)
    assert plan.jobs[0].out.name == "c_x4.png"


@pytest.mark.parametrize(
    ("fit", "size"), [(None, (400, 300)), ((500, 500), (400, 300)), ((200, 1000), (200, 150)), ((1000, 1), (1, 1))]
)
def test_sizes_of_results(fit, size):
    assert result_size(100, 75, 4, fit) == size


def test_leftovers_of_these_results_go_and_nothing_else(folder):
    ours, other = folder / f".b_x4.png.{'0a' * 8}.tmp", folder / f".c_x4.png.{'0a' * 8}.tmp"
    for path in (ours, other, folder / ".b_x4.png.tmp"):
        path.touch()
    remove_leftovers_of([folder / "b_x4.png", Path("nowhere/b_x4.png")])
    assert not ours.exists()
    assert other.exists()
    assert (folder / ".b_x4.png.tmp").exists()

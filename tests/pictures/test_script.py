"""`python upscale.py`: what is written, said, skipped, and left when something goes wrong."""

import io
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, run_script
from PIL import Image

from models import load


@pytest.fixture
def here(here, photo):
    """A folder with photo.png and photos/ of three pictures, one of which is damaged."""
    Image.fromarray(photo).save("photo.png")
    Path("photos").mkdir()
    Image.fromarray(photo).save("photos/a.jpg", quality=40)
    Image.fromarray(photo).save("photos/c.webp")
    Path("photos/b.png").write_bytes(Path("photo.png").read_bytes()[:2000])
    return here


def listing(folder="."):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_one_picture_with_the_shipped_weights(here, photo):
    done = run_script("upscale.py", "photo.png", "--scale", "2")
    assert done.returncode == 0, done.stderr
    assert "1/1 photo.png 56x40 PNG -> photo_x2.png 112x80" in done.stdout
    assert "SSIU_x2.pt; float32 on " in done.stdout
    assert np.array_equal(np.asarray(Image.open("photo_x2.png")), load("x2", "cpu")(photo))


def test_one_bad_picture_is_reported_at_the_end_and_the_rest_is_done(here, upscale):
    done = upscale("photos", "photo.png", "-o", "out", "--format", "jpg", "--quality", "80")
    assert done.returncode == 1
    assert listing("out") == ["a_x2.jpg", "c_x2.jpg", "photo_x2.jpg"]
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {Path('photos/b.png')}: is damaged")
    assert "2/4" in done.stdout
    assert done.stdout.endswith("3 written, 0 skipped, 1 failed\n")
    assert done.stdout.count("a strongly compressed JPEG (quality about 40)") == 1


def test_what_is_finished_is_skipped_unless_it_is_to_be_overwritten(here, upscale):
    assert upscale("photo.png").returncode == 0
    first = Path("photo_x2.png").stat()
    done = upscale("photo.png", "photo_x2.png")
    assert done.returncode == 0
    assert "skipped: photo_x2.png is there already" in done.stdout
    assert "1 left out" in done.stdout
    assert Path("photo_x2.png").stat() == first
    Path("photo_x2.png").write_bytes(b"something else")
    assert upscale("photo.png").returncode == 0
    assert Path("photo_x2.png").read_bytes() == b"something else"
    done = upscale("photo.png", "--overwrite")
    assert "1 written" in done.stdout
    assert Image.open("photo_x2.png").size == (112, 80)


def test_a_killed_run_leaves_nothing_that_a_repeat_trips_over(here, upscale):
    leftover = Path(f".photo_x2.png.{'1f' * 8}.tmp")
    leftover.write_bytes(b"half a picture")
    done = upscale(".")
    assert "1 written, 0 skipped, 0 failed" in done.stdout
    assert not leftover.exists()


def test_a_dry_run_writes_nothing(here, upscale):
    before = listing()
    done = upscale("photos", "-o", "out", "--dry-run", "--fit", "60x60")
    assert done.returncode == 0
    assert f"{Path('photos/a.jpg')} 56x40 JPEG -> {Path('out/a_x2.png')} 60x43" in done.stdout
    assert "3 to do, 0 skipped, 0 failed" in done.stdout
    assert listing() == before


def test_folders_inside_keep_their_places(here, upscale, photo):
    Path("photos/b.png").unlink()
    Path("photos/trip/day").mkdir(parents=True)
    Image.fromarray(photo).save("photos/trip/day/d.bmp")
    for _ in range(2):  # the second finds its results in a folder inside
        done = upscale("photos", "-o", "photos/large", "--recursive", "--format", "same")
        assert done.returncode == 0, done.stderr
        assert listing("photos/large") == ["a_x2.jpg", "c_x2.webp", "trip/day/d_x2.png"]
    assert "0 written, 3 skipped, 0 failed" in done.stdout


def test_self_ensemble_is_the_mean_over_eight_views(here, upscale, photo, tiny_weights):
    assert upscale("photo.png", "--self-ensemble").returncode == 0
    upscaler, views = load(tiny_weights, "cpu"), []
    for turns in range(4):
        for flip in (False, True):
            view = np.rot90(photo[:, ::-1] if flip else photo, turns)
            large = np.rot90(upscaler(np.ascontiguousarray(view)), -turns)
            views.append(large[:, ::-1] if flip else large)
    inner = (np.min(views, axis=0) > 0) & (np.max(views, axis=0) < 255)  # where no view was clipped
    difference = np.asarray(Image.open("photo_x2.png")) - np.mean(views, axis=0)
    assert np.abs(difference[inner]).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "name", "code", "begin", "last"),
    [
        (["-", "--format", "tif"], "photos/a.jpg", 0, b"II*\0", "note: standard input: a strongly compressed JPEG"),
        (["photo.png", "-o", "-"], os.devnull, 0, b"\x89PNG", "weights: "),
        (["-"], os.devnull, 2, b"", "error: standard input: is empty"),
    ],
)
def test_standard_input_and_output(here, tiny_weights, monkeypatch, capsys, arguments, name, code, begin, last):
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "argv", ["upscale.py", *arguments, "--weights", str(tiny_weights), "--device", "cpu"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(name).read_bytes())))
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "upscale.py"), run_name="__main__")
    assert caught.value.code == code
    assert out.buffer.getvalue()[:4] == begin
    assert code or Image.open(out.buffer).size == (112, 80)
    assert capsys.readouterr().err.splitlines()[-1].startswith(last)


def test_what_a_large_picture_takes_is_said_before_it_is_done(here, upscale, photo):
    Image.fromarray(np.tile(photo, (1, 12, 1))).save("wide.png")
    whole, tight = upscale("wide.png", "-o", "whole"), upscale("wide.png", "-o", "tight", "--memory", "8")
    assert " rows in flight" not in whole.stdout
    plan = r"wide.png: 672x40 -> 1344x80: \d+ rows in flight, \d MiB, 1 thread, \d strips; about [\d ]+s expected\n1/1"
    assert re.search(plan, tight.stdout), tight.stdout + tight.stderr
    first, second = (np.asarray(Image.open(f"{folder}/wide_x2.png")).astype(int) for folder in ("whole", "tight"))
    assert np.abs(first - second).max() <= 1  # 1e-5 may round to the other side


def test_a_picture_that_the_memory_cannot_hold_does_not_stop_the_others(here, upscale, photo):
    Image.fromarray(np.tile(photo, (8, 6, 1))).save("photos/b.png")
    done = upscale("photos", "-o", "out", "--memory", "2")
    assert done.returncode == 1
    line = r"error: photos/b.png: an image 336 pixels wide takes, .* at least \d MiB, more than the 2 that are .*\n"
    assert re.fullmatch(line, done.stderr), done.stderr
    assert listing("out") == ["a_x2.png", "c_x2.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no.png"], "no.png: no such file"),
        (["photo.png", "--scale", "3"], "--scale 3: .*tiny.pt is for x2"),
        (["photo.png", "--quality", "80"], "--quality goes with --format jpg"),
        (["photo.png", "--quality", "0", "--format", "jpg"], "from 1 to 100"),
        (["photo.png", "--fit", "4k"], "'4k' is not WIDTHxHEIGHT"),
        (["photo.png", "-o", "large.png"], "looks like a picture's name; name a folder"),
        (["photo.png", "-o", "photo.png"], "is a file; name a folder"),
        (["-", "photo.png"], "one picture goes in"),
        (["-", "-o", "out"], "one picture goes in"),
        (["-", "--dry-run"], "does not go with --dry-run"),
        (["-", "--format", "same"], "does not go with --format same"),
        (["photo.png", "--backend", "fast"], "invalid choice"),
        (["photo.png", "--memory", "0"], "'0' is not a number of MiB above 0"),
        (["photo.png", "--memory", "2GB"], "'2GB' is not a number of MiB above 0"),
    ],
)
def test_a_wrong_command_line_ends_at_once(here, upscale, arguments, said):
    before = listing()
    done = upscale(*arguments)
    assert done.returncode == 2
    assert re.search(said, done.stderr.splitlines()[-1])
    assert listing() == before


def test_weights_of_nothing_end_at_once(here):
    done = run_script("upscale.py", "photo.png", "--weights", "no.pt")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no.pt" in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_and_a_folder_among_pictures_are_one_line_each(here, upscale):
    os.mkfifo("photos/pipe.png")
    Path("photos/x.png").mkdir()
    done = upscale("photos", "-o", "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 3
    assert done.stderr.count("is a folder, a pipe or a device") == 2
    assert listing("out") == ["a_x2.png", "c_x2.png"]

"""Videos: frames, times, sound and colours of results, and runs that go on."""

import itertools
import os
import re
import shlex
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from helpers import ROOT, run_script
from video_files import Repeater, content_of, flat, make_clip, pattern, planes_of

from models import load
from pictures import Wanted, video
from pictures.video import read_clip, upscale_video, video_size
from pictures.video_file import INSTALL
from utils import InputError

SHARES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue, by ITU-T H.273


def rgb_by_the_standard(yuv, matrix, full, bits):
    """Numbers as stored -> RGB in [0, 255], by ITU-T H.273."""
    step, largest = 2 ** (bits - 8), 2**bits - 1
    y, cb, cr = yuv
    if full:
        y, cb, cr = y / largest, (cb - 128 * step) / largest, (cr - 128 * step) / largest
    else:
        y, cb, cr = (y / step - 16) / 219, (cb / step - 128) / 224, (cr / step - 128) / 224
    kr, kb = SHARES[matrix]
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    return 255 * np.array([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue])


@pytest.mark.parametrize(
    ("name", "codec", "audio", "result"),
    [
        ("a.mp4", "libx264", "aac", "mp4"),
        ("a.MOV", "libx264", "pcm_s16le", "mov"),
        ("a.mkv", "libx264", "flac", "mkv"),
        ("a.webm", "libvpx-vp9", "libopus", "mkv"),
        ("a.avi", "mpeg4", "libmp3lame", "mkv"),
        ("a.m4v", "mpeg4", "aac", "mp4"),
    ],
)
def test_frames_times_and_sound_stay(here, name, codec, audio, result):
    options = {"mpeg4": {}, "libx264": {"qp": "0"}, "libvpx-vp9": {"lossless": "1", "cpu-used": "8"}}[codec]
    tick = Fraction(1, 25 if name == "a.avi" else 12800)
    source = make_clip(name, codec=codec, options=options, audio=audio, tick=tick)
    clip = read_clip(source)
    assert (clip.kind, clip.frames) == (result, 12)
    done = upscale_video(Repeater(), source, f"out.{result}")
    assert (done.before, done.after, done.notes) == ((32, 24), (64, 48), ())
    before, after = content_of(source), content_of(f"out.{result}")
    assert len(after.frames) == 12
    assert after.times == before.times
    assert after.last == before.last
    assert after.sound == before.sound
    assert len(after.sound) >= 10
    assert after.stream["average_rate"] == 25
    for low, high in zip(before.frames, after.frames, strict=True):
        wanted = planes_of(low)[0].repeat(2, 0).repeat(2, 1)
        assert np.abs(planes_of(high)[0] - wanted.astype(float)).mean() < 2
    assert sorted(os.listdir()) == sorted([name, f"out.{result}"])


@pytest.mark.parametrize("times", [(300, 700, 1900, 1901, 5000, 12345), (0, 1, 3, 500, 20000, 20512)])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_every_frame_keeps_its_time_where_the_rate_varies(here, times, kind, monkeypatch):
    monkeypatch.setattr(video, "PIECE", 2)
    tick = Fraction(1, 1000 if kind == "mkv" else 12800)
    source = make_clip(f"a.{kind}", [pattern(number) for number in range(6)], times, tick=tick)
    upscale_video(Repeater(), source, f"b.{kind}")
    before, after = content_of(source), content_of(f"b.{kind}")
    assert after.times == before.times
    assert after.stream["time_base"] == before.stream["time_base"] == tick
    assert after.last == before.last


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize(("kind", "bits"), [("yuv420p", 8), ("yuv420p10le", 10), ("yuv444p", 8)])
def test_colours_come_back_in_the_same_matrix_and_range(here, matrix, reach, kind, bits):
    step = 2 ** (bits - 8)
    colours = [tuple(step * number for number in yuv) for yuv in ((100, 110, 150), (150, 140, 120), (60, 128, 128))]
    tags = (reach, matrix, 9 if matrix == 9 else matrix, 16 if matrix == 9 else matrix)
    source = make_clip("a.mp4", [flat(yuv, kind) for yuv in colours], tags=tags)
    upscale_video(Repeater(), source, "b.mp4")
    with av.open("b.mp4") as file:
        context = file.streams.video[0].codec_context
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == tags
        assert context.pix_fmt.replace("yuvj", "yuv") == ("yuv420p10le" if bits == 10 else "yuv420p")
    for yuv, frame in zip(colours, content_of("b.mp4").frames, strict=True):
        wanted = rgb_by_the_standard(yuv, matrix, reach == 2, bits)
        assert np.array_equal(wanted, wanted.clip(0, 255))
        brightness, *differences = (plane.astype(float) for plane in planes_of(frame))
        stored = [brightness, *(plane.repeat(2, 0).repeat(2, 1) for plane in differences)]
        difference = rgb_by_the_standard(stored, matrix, reach == 2, bits) - wanted[:, None, None]
        assert np.abs(difference).max() <= 2


def test_a_video_without_colour_tags_is_told_apart_by_its_size_and_says_so_afterwards(here):
    source = make_clip("a.mp4", tags=(0, 2, 2, 2))
    upscale_video(Repeater(), source, "b.mp4")
    with av.open("b.mp4") as file:
        context = file.streams.video[0].codec_context
        assert (context.color_range, context.colorspace) == (1, 6)


@pytest.mark.parametrize(("turn", "corner"), [(0, 0), (90, 1), (180, 3), (270, 2)])
def test_a_turned_video_is_made_upright_and_its_pixels_keep_their_shape(here, turn, corner):
    """Corners 0 and 1 are the upper ones, 2 and 3 the lower ones; `corner` comes to the upper left."""
    frame = flat((60, 128, 128))
    lines = planes_of(frame)[0]
    lines[:12, :16], lines[:12, 16:], lines[12:, :16], lines[12:, 16:] = 40, 90, 140, 190
    frame.planes[0].update(lines.tobytes())
    source = make_clip("a.mp4", [frame] * 3, turn=turn, shape=Fraction(4, 3))
    upscale_video(Repeater(), source, "b.mp4")
    after = content_of("b.mp4")
    upright = turn % 180 == 0
    first = after.frames[0]
    assert (first.width, first.height) == ((64, 48) if upright else (48, 64))
    assert after.stream["sample_aspect_ratio"] == (Fraction(4, 3) if upright else Fraction(3, 4))
    assert first.rotation == 0
    assert abs(int(planes_of(first)[0][4, 4]) - (40, 90, 140, 190)[corner]) <= 1


def test_a_run_that_was_stopped_goes_on_and_the_result_is_the_same(here, monkeypatch):
    monkeypatch.setattr(video, "PIECE", 4)
    source = make_clip("a.mp4", [pattern(number) for number in range(18)], audio="aac")
    upscale_video(Repeater(), source, "whole.mp4")
    with pytest.raises(KeyboardInterrupt):
        upscale_video(Repeater(fails_at=11), source, "b.mp4")
    assert sorted(os.listdir()) == [".b.mp4.parts", "a.mp4", "whole.mp4"]
    network = Repeater()
    done = upscale_video(network, source, "b.mp4")
    assert network.count == 18 - 8
    assert done.notes == ("8 frames were there already, from a run that was stopped",)
    assert Path("b.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert sorted(os.listdir()) == ["a.mp4", "b.mp4", "whole.mp4"]


@pytest.mark.parametrize("changed", ["weights", "size", "video", "record"])
def test_what_was_made_of_something_else_is_not_used(here, monkeypatch, changed):
    monkeypatch.setattr(video, "PIECE", 4)
    source = make_clip("a.mp4")
    with pytest.raises(KeyboardInterrupt):
        upscale_video(Repeater(fails_at=10), source, "b.mp4", made_with="one")
    assert len(list(Path(".b.mp4.parts").glob("*.nut"))) == 2
    if changed == "video":
        os.utime(source, (1, 1))
    elif changed == "record":
        Path(".b.mp4.parts/made-of.json").write_text("[")
    network, wanted = Repeater(), Wanted(fit=(40, 40) if changed == "size" else None)
    upscale_video(network, source, "b.mp4", wanted, made_with="two" if changed == "weights" else "one")
    assert network.count == 12
    assert not Path(".b.mp4.parts").exists()


def test_a_damaged_piece_is_no_shorter_video(here, monkeypatch):
    monkeypatch.setattr(video, "PIECE", 4)
    source = make_clip("a.mp4")
    with pytest.raises(KeyboardInterrupt):
        upscale_video(Repeater(fails_at=10), source, "b.mp4")
    piece = Path(".b.mp4.parts/000001.nut")
    piece.write_bytes(piece.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"\.b\.mp4\.parts: holds \d+ of 12 frames; remove this folder"):
        upscale_video(Repeater(), source, "b.mp4")
    assert not Path("b.mp4").exists()


@pytest.mark.parametrize(
    ("scale", "fit", "size", "kind"),
    [(3, None, (99, 75), "yuv444p"), (2, None, (66, 50), "yuv420p"), (3, (51, 90), (50, 38), "yuv420p")],
)
def test_odd_sides(here, scale, fit, size, kind):
    source = make_clip("a.mkv", [flat((90, 100, 150), "yuv444p", (33, 25))] * 2)
    assert video_size(read_clip(source), scale, fit) == size
    done = upscale_video(Repeater(scale), source, "b.mkv", Wanted(fit=fit))
    first = content_of("b.mkv").frames[0]
    assert (first.width, first.height, first.format.name) == (*size, kind)
    assert [("odd sides" in note) for note in done.notes] == ([True] if kind == "yuv444p" else [])
    assert [int(np.median(plane)) for plane in planes_of(first)] == pytest.approx([90, 100, 150], abs=1)


@pytest.mark.parametrize(
    ("kind", "numbers", "notes"),
    [
        ("gray", (100,), ()),
        ("yuv422p", (100, 110, 150), ()),
        ("yuv411p", (100, 110, 150), ()),
        ("yuva420p", (100, 110, 150, 40), ("its transparency is left out",)),
        ("yuv444p16le", (100 * 256, 110 * 256, 150 * 256), ()),
        ("gbrp10le", (241, 361, 802), ()),
        ("bgr0", None, ()),
    ],
)
def test_other_kinds_of_pixels(here, kind, numbers, notes):
    rgb = np.full((24, 32, 3), (200, 60, 90), np.uint8)
    frame = flat(numbers, kind) if numbers else av.VideoFrame.from_ndarray(rgb).reformat(format=kind)
    matrix = 0 if frame.format.is_rgb else 1
    source = make_clip("a.mkv", [frame], codec="ffv1", options={}, tags=(1, matrix, 1, 1))
    done = upscale_video(Repeater(), source, "b.mkv")
    assert done.notes == notes
    after = content_of("b.mkv").frames[0]
    deep = kind.endswith("le")
    assert after.format.name == ("yuv420p10le" if deep else "yuv420p")
    stored = [np.median(plane) / (4 if deep else 1) for plane in planes_of(after)]
    if frame.format.is_rgb:
        wanted = rgb[0, 0]
    else:
        wanted = rgb_by_the_standard((100, 128, 128) if kind == "gray" else (100, 110, 150), 1, False, 8)
    assert rgb_by_the_standard(stored, 1, False, 8) == pytest.approx(wanted, abs=2)


def test_rows_of_large_turned_frames_flow_through_the_network(here, tiny_weights, monkeypatch):
    source = make_clip("a.mp4", [pattern(0)], turn=90)
    upscaler = load(tiny_weights, "cpu", "plain")
    upscale_video(upscaler, source, "whole.mp4")
    monkeypatch.setattr("models.upscaler.LARGE", 100)
    upscale_video(upscaler, source, "b.mp4")
    whole, flowing = (planes_of(content_of(name).frames[0]) for name in ("whole.mp4", "b.mp4"))
    assert all(np.abs(first.astype(int) - second).max() <= 1 for first, second in zip(whole, flowing, strict=True))


def test_a_single_pixel(here):
    source = make_clip("a.mkv", [flat((90, 100, 150), "yuv444p", (1, 1))] * 2)
    upscale_video(Repeater(), source, "b.mkv")
    assert content_of("b.mkv").frames[0].width == 2


def test_the_script(here, upscale):
    Path("clips").mkdir()
    make_clip("clips/a.mp4", [pattern(number) for number in range(3)], audio="aac")
    done = upscale("clips", "-o", "out", "--dry-run", "--format", "same")
    assert "clips/a.mp4 32x24 video of 3 frames -> out/a_x2.mp4 64x48" in done.stdout.replace("\\", "/")
    assert not Path("out").exists()
    for more, said in (((), "1 written"), ((), "1 skipped"), (("--overwrite", "--self-ensemble"), "1 written")):
        done = upscale("clips", "-o", "out", *more)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout
    after = content_of("out/a_x2.mp4")
    assert len(after.frames) == 3
    assert after.sound == content_of("clips/a.mp4").sound
    done = upscale("clips/a.mp4", "-o", "clips/b.mp4")
    assert done.returncode == 2
    assert "looks like" in done.stderr


def test_progress_says_frames_and_their_rate(here, monkeypatch):
    clock, told = itertools.count(step=11), []
    monkeypatch.setattr(video, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    upscale_video(Repeater(), make_clip("a.mkv"), "b.mkv", tell=lambda *numbers: told.append(numbers))
    assert [numbers[:2] for numbers in told] == [(number, 12) for number in range(1, 13)]
    assert told[-1][2] == pytest.approx(12 / (12 * 11))


def test_the_commands_of_the_documentation(here):
    text = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    commands = re.search(r"## Videos.*?```sh\n(.*?)```", text, re.DOTALL)[1].splitlines()
    Path("clips/in").mkdir(parents=True)
    for name in ("clip.mp4", "clips/in/a.mkv", "clips/b.avi"):
        tick = Fraction(1, 25 if name.endswith("avi") else 12800)
        make_clip(name, [pattern(0, (16, 16))], codec="mpeg4", options={}, tick=tick)
    assert commands[0] == INSTALL
    for command in commands[1:]:
        _python, script, *words = shlex.split(command)
        done = run_script(script, *words)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    results = sorted(path.as_posix() for path in Path(".").rglob("*_x*.*"))
    assert results == ["out/clip_x2.mp4", "screen/b_x4.mkv", "screen/in/a_x4.mkv"]

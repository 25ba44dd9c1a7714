"""Videos that are refused, and what is left then."""

import importlib.util
import os
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from video_files import Repeater, flat, make_clip, pattern

from pictures.video import read_clip, upscale_video, video_size
from pictures.video_in import opened
from pictures.video_out import need_sound
from utils import InputError


def cut(data):
    return data[: len(data) * 2 // 3]


def huge(data):
    place = data.index(b"strf") + 12
    return data[:place] + struct.pack("<ii", 20_000, 10_000) + data[place + 8 :]


HOSTILE = {
    "empty.mp4": (lambda: b"", "is empty"),
    "garbage.mkv": (lambda: bytes(range(256)) * 9, "is no video of a known kind"),
    "concat.mp4": (lambda: b"ffconcat version 1.0\nfile secret.mkv\n", "is no video of a known kind"),
    "list.mp4": (lambda: b"#EXTM3U\n#EXTINF:1,\nsecret.mkv\n#EXT-X-ENDLIST\n", "is no video of a known kind"),
    "talk.mov": (lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "is no video of a known kind"),
    "begin.mp4": (lambda: b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "is damaged|holds no moving"),
    "noise.mp4": (lambda: b"\0\0\0\x08free" + bytes(range(256)) * 40, "is damaged|holds no moving"),
    "noise.mkv": (lambda: b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 40, "is damaged|holds no moving"),
    "cut.mp4": (lambda: cut(make_clip("whole.mp4").read_bytes()), "is cut off"),
    "cut.mkv": (lambda: cut(make_clip("whole.mkv").read_bytes()), "is cut off"),
    "cut.avi": (lambda: cut(make_clip("whole.avi", codec="mpeg4").read_bytes()), "is cut off"),
    "sound.mp4": (lambda: make_clip("whole.mp4", [], audio="aac").read_bytes(), "holds no moving pictures"),
    "huge.avi": (
        lambda: huge(make_clip("w.avi", codec="rawvideo", options={}, tick=Fraction(1, 25)).read_bytes()),
        "have more than 178,956,970 pixels",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_whole_video_is_one_line(here, name):
    make_clip("secret.mkv")
    make, said = HOSTILE[name]
    Path(name).write_bytes(make())
    with pytest.raises(InputError, match=f"^{name}: .*({said})") as caught:
        read_clip(Path(name))
    assert "\n" not in str(caught.value)


def test_a_demuxer_cannot_be_made_to_open_another_file(here):
    make_clip("secret.mkv")
    Path("concat.mp4").write_text("ffconcat version 1.0\nfile secret.mkv\n")
    with pytest.raises(InputError, match="is damaged"), opened(Path("concat.mp4"), "concat"):
        pass


def test_a_video_without_frames_is_one_line(here):
    data = make_clip("a.mkv", [pattern(0)]).read_bytes()
    with av.open("a.mkv") as file:
        packet = next(packet for packet in file.demux() if packet.size)
        size = packet.size
    Path("b.mkv").write_bytes(data.replace(bytes(packet), bytes(size)))
    with pytest.raises(InputError, match=r"b\.mkv: (is damaged|has no frame)"):
        read_clip(Path("b.mkv"))


def test_a_damaged_frame_fails_its_video_alone_and_is_named(here, upscale):
    source = make_clip("a.mp4", options={"bf": "0"})
    with av.open(str(source)) as file:
        packets = [packet for packet in file.demux() if packet.size]
        place, size = packets[7].pos, packets[7].size
    data = bytearray(source.read_bytes())
    data[place : place + size] = b"\xff" * size
    source.write_bytes(data)
    make_clip("b.mp4", [pattern(0)])
    done = upscale("a.mp4", "b.mp4", "-o", "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: a.mp4: frame 8, behind 0.24 s, cannot be decoded")
    assert done.stderr.count("\n") == 1
    assert os.listdir("out") == ["b_x2.mp4"]


def test_without_pyav_a_video_is_one_line_that_says_what_to_install(here, upscale, monkeypatch):
    make_clip("a.mp4")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "av" else find(name, *more))
    done = upscale("a.mp4")
    assert done.returncode == 1
    needed = "a.mp4: is a video, which needs PyAV; install it: pip install -r requirements-video.txt"
    assert done.stderr == f"error: {needed}\n"


def test_a_result_that_is_there_and_the_video_itself_are_left(here):
    source = make_clip("a.mp4")
    for out, overwrite in (("b.mp4", False), ("a.mp4", True)):
        Path("b.mp4").touch()
        with pytest.raises(InputError, match="is there already"):
            upscale_video(Repeater(), source, out, overwrite=overwrite)


def test_too_many_pixels_for_the_encoder(here):
    clip = read_clip(make_clip("a.mkv", [flat((90, 100, 150), size=(6000, 2))]))
    with pytest.raises(InputError, match=r"18000x6 are too many pixels \(16,384 a side\)"):
        video_size(clip, 3, None)
    assert video_size(clip, 3, (9000, 9000)) == (9000, 2)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_standard_output_takes_no_video(here, upscale, name, monkeypatch):
    make_clip(name)
    done = upscale(name, "-o", "-")
    assert done.returncode == 2
    assert "is a video, which - does not take" in done.stderr


def test_sound_that_the_result_cannot_hold_is_refused(here):
    make_clip("a.mkv", audio="wavpack")
    need_sound(read_clip(Path("a.mkv")))
    with pytest.raises(InputError, match=r"a\.mkv: its sound does not go into mp4"):
        need_sound(replace(read_clip(Path("a.mkv")), kind="mp4"))

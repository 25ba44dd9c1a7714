"""Results are written as their rows are made, and are there as a whole or not at all."""

import io
import tracemalloc

import numpy as np
import pytest
import torch
from file_limits import no_file_beyond
from PIL import Image, ImageFile

from pictures import Wanted, upscale_bytes, upscale_file, write
from pictures.fit import fitted
from utils import InputError

KINDS = ("png", "tif", "jpg", "webp")


class Flowing:
    """Every pixel repeated, x2, five rows at a time; `meanwhile` is called before each lot."""

    scale = 2

    def __init__(self, meanwhile):
        self.meanwhile = meanwhile

    def stream(self, image):
        for top in range(0, len(image), 5):
            self.meanwhile(top)
            rows = torch.from_numpy(image[top : top + 5].astype(np.float32) / 255).permute(2, 0, 1)
            yield rows.repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.fixture
def noise(tmp_path):
    """The path of a picture of 300x200 pixels whose rows flow, and which no format makes much smaller."""
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def others(noise):
    return [path for path in noise.parent.rglob("*") if path != noise]


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_the_file_grows_with_the_rows(noise, kind):
    sizes = []
    upscaler = Flowing(lambda _: sizes.extend(path.stat().st_size for path in others(noise)))
    upscale_file(upscaler, noise, noise.with_suffix(f".2.{kind}"))
    assert len(sizes) == 40
    assert sizes[20] > sizes[-1] / 3 > 0
    assert sizes[-1] > others(noise)[0].stat().st_size * 3 / 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_the_same_bytes_as_a_result_in_memory(noise, kind):
    upscaler, wanted = Flowing(lambda _: None), Wanted(fit=(500, 500))
    done = upscale_file(upscaler, noise, noise.with_suffix(f".2.{kind}"), wanted)
    assert upscale_bytes(upscaler, noise.read_bytes(), "noise", kind, wanted) == (others(noise)[0].read_bytes(), done)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError("a library is gone")])
def test_a_picture_that_fails_in_the_midst_leaves_the_old_result(noise, kind, error):
    def fail(top):
        if top == 150:
            raise error

    out = noise.with_suffix(f".2.{kind}")
    out.write_bytes(b"old")
    with pytest.raises(InputError if isinstance(error, MemoryError) else type(error)):
        upscale_file(Flowing(fail), noise, out, overwrite=True)
    assert [path.read_bytes() for path in others(noise)] == [b"old"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_full_in_the_midst_of_a_picture_is_one_line(noise, kind):
    with no_file_beyond(30_000), pytest.raises(InputError, match=rf"2.{kind}: could not be written \(no space left\)"):
        upscale_file(Flowing(lambda _: None), noise, noise.with_suffix(f".2.{kind}"))
    assert others(noise) == []


def test_what_cannot_be_done_is_known_before_anything_is_made(noise):
    clear = noise.with_name("clear.png")
    Image.new("RGBA", (8, 8)).save(clear)
    for path, ending in ((clear, "jpg"), (noise.with_name("no.png"), "png")):
        with pytest.raises(InputError):
            upscale_file(Flowing(pytest.fail), path, noise.with_name("folder") / f"out.{ending}")
    assert others(noise) == [clear]


@pytest.mark.parametrize("quality", [90, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_can_become_a_jpeg_of_any_quality(quality, channels):
    image, file = np.random.default_rng(0).integers(0, 2, (300, 400, channels), dtype=np.uint8) * 255, io.BytesIO()
    Image.fromarray(image[:, :, 0] if channels == 1 else image).save(file, "PNG")

    class Same(Flowing):
        scale = 1

        def stream(self, image):
            yield torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)

    data, _ = upscale_bytes(Same(None), file.getvalue(), "noise.png", "jpg", Wanted(quality=quality))
    with Image.open(io.BytesIO(data)) as found:
        pixels = np.asarray(found).reshape(image.shape).astype(int)
    assert np.abs(pixels - image).mean() < 16


@pytest.mark.parametrize(("height", "optimized"), [(100, True), (20_000, True), (60_000, False)])
def test_buffers_for_jpeg_are_none_that_pillow_could_not_have(height, optimized, monkeypatch):
    asked, before = [], ImageFile.MAXBLOCK
    monkeypatch.setattr(write, "_whole", lambda bands, shape: Image.new("RGB", (8, 8)))
    monkeypatch.setattr(
        Image.Image, "save", lambda *_args, **options: asked.append((options["optimize"], ImageFile.MAXBLOCK))
    )
    write.write_result(io.BytesIO(), "a.png", [], write.Form("jpg", (height, 20_000, 3), 8, None, b"", 95))
    assert asked[0][0] == optimized
    assert min(6 * height * 20_000, 2**30) <= asked[0][1] < 2**31
    assert before == ImageFile.MAXBLOCK


def test_what_is_made_smaller_is_held_once_and_a_channel_of_it_twice():
    tracemalloc.start()
    try:
        bands = (np.full((64, 2000, 3), number, np.float32) for number in range(32))
        assert next(fitted(bands, (2000, 2048), (100, 100))).shape == (100, 100, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * 64 * 2000 * 4 * 4.5


def test_making_smaller_by_bands_gives_the_bits_of_the_whole():
    image = np.random.default_rng(0).random((203, 157, 4), dtype=np.float32) * 2 - 0.5
    for size in ((100, 60), (157, 60), (100, 203), (1, 1)):
        found = next(fitted((image[top : top + 19] for top in range(0, 203, 19)), (157, 203), size))
        for channel in range(4):
            plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel]))
            assert np.array_equal(found[:, :, channel], np.asarray(plane.resize(size, Image.Resampling.LANCZOS)))

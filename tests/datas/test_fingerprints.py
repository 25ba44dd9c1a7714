"""Fingerprints of sets, and what an evaluation says of the images of a set."""

import hashlib

import cv2
import imageio.v3 as iio
import numpy as np
import pytest

from datas import BenchmarkSet, InspectedSet, downscale, inspect, read_rgb, write_png
from datas import fingerprints as prints
from datas.images import list_images
from datas.known_sets import table_rows


@pytest.fixture
def folder(tmp_path):
    """benchmark/Mine at x2: two images whose sides are odd."""
    random, folder = np.random.default_rng(0), tmp_path / "benchmark" / "Mine"
    for name, size in (("bird", (41, 33)), ("aster", (28, 37))):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        write_png(folder / "HR" / f"{name}.png", image)
        write_png(folder / "LR_bicubic" / "X2" / f"{name}x2.png", downscale(image, 2))
    return folder


def even(image):
    return image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]


def inspection(root, name="Mine", scale=2, lr_only=False, order=1):
    inspected = InspectedSet(BenchmarkSet(root, name, scale, lr_only))
    for index in range(len(inspected))[::order]:
        inspected[index]
    return inspect(inspected.images, inspected.seen)


def text(found):
    return "\n".join(found.lines)


# Digests


def test_a_digest_is_of_size_and_pixels_in_any_file_and_memory_layout(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    digest = hashlib.sha256(b"(8, 12, 3)" + image.tobytes()).hexdigest()[:12]
    iio.imwrite(tmp_path / "a.png", image, plugin="pillow", compress_level=0)
    iio.imwrite(tmp_path / "b.bmp", image)
    for path in list_images(tmp_path):
        assert prints.image_digest(read_rgb(path)) == digest
    assert prints.image_digest(np.pad(image, ((0, 2), (0, 3), (0, 0)))[:8, :12]) == digest
    assert prints.image_digest(image.reshape(12, 8, 3)) != digest


def test_a_set_s_fingerprint_is_of_names_and_digests_in_any_order():
    fingerprint = prints.set_fingerprint({"a": "1", "b": "2"})
    assert fingerprint == prints.set_fingerprint({"b": "2", "a": "1"})
    assert fingerprint == hashlib.sha256(b"a 1\nb 2\n").hexdigest()[:16]
    others = [{"a": "2", "b": "1"}, {"a": "1", "c": "2"}, {"a": "1"}, {"a 1": "", "b": "2"}]
    assert fingerprint not in [prints.set_fingerprint(other) for other in others]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": "1", "b": "2", "c": "3"}, []),
        ({"a": "1", "b": "9", "c": "3"}, ["b differs"]),
        ({"a": "8", "b": "9", "c": "3"}, ["a, b differ"]),
        ({"a": "1", "b": "2"}, ["c is missing"]),
        ({"a": "1", "b": "2", "c": "3", "d": "4"}, ["d is none of the set"]),
        ({"a": "1", "b": "2", "x": "3"}, ["c (here x) has another name"]),
    ],
)
def test_how_a_set_differs_from_the_known_one_is_said_by_image(found, said):
    assert prints.deviations(found, {"a": "1", "b": "2", "c": "3"}) == said


def test_many_deviations_are_counted_and_nothing_known_is_none():
    known = {f"{number:02d}": str(number) for number in range(9)}
    assert prints.deviations({}, known) == ["00, 01, 02, 03, 04 and 4 more are missing"]
    assert prints.deviations({"a": "1"}, {}) is None


# The known sets


@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14), ("B100", 100), ("Urban100", 0), ("Mine", 0)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_record_holds_every_image_of_the_sets_that_were_at_hand(name, count, scale):
    known = prints.known_digests(name, "HR", scale)
    assert len(known) == len(set(known.values())) == count
    assert all(len(digest) == prints.DIGITS for digest in known.values())
    assert len(prints.known_digests(name, "LR", scale)) == (5 if name == "Set5" else 0)


def test_the_record_is_that_of_the_real_set5_and_its_command_writes_it(shared):
    lines = prints.KNOWN_SETS.read_text().splitlines()
    rows = ["\t".join(row) for row in table_rows(shared / "benchmark" / "Set5")]
    assert rows == [line for line in lines if line.startswith("Set5\t")]


def test_the_real_set5_is_known_and_of_matlab_also_with_hr_cropped(shared, tmp_path):
    whole = inspection(shared, "Set5", 3)
    assert whole.lines == [
        f"Set5 x3: 5 HR images, fingerprint {whole.facts['hr']}, as commonly distributed; "
        "LR images are MATLAB's bicubic, bit for bit"
    ]
    source, copy = shared / "benchmark" / "Set5", tmp_path / "benchmark" / "Set5"
    for path in list_images(source / "HR"):
        image = read_rgb(path)
        height, width = (length // 3 * 3 for length in image.shape[:2])
        write_png(copy / "HR" / path.name, image[:height, :width])
    (copy / "LR_bicubic").symlink_to(source / "LR_bicubic")
    assert inspection(tmp_path, "Set5", 3) == whole


def test_the_real_lr_images_are_known_without_hr(shared):
    found = inspection(shared, "Set5", 4, lr_only=True)
    assert found.lines == [
        "Set5 x4: 5 LR images without HR: not checked whether they are MATLAB's; they are those commonly distributed"
    ]
    assert found.facts["lr"] == prints.set_fingerprint(prints.known_digests("Set5", "LR", 4))


# Inspection


def test_a_set_that_is_in_order_gets_one_line_in_any_order_of_reading(tmp_path, folder):
    found = inspection(tmp_path)
    digests = {path.stem: prints.image_digest(even(read_rgb(path))) for path in list_images(folder / "HR")}
    fingerprint = prints.set_fingerprint(digests)
    assert found.lines == [
        f"Mine x2: 2 HR images, fingerprint {fingerprint}; LR images are MATLAB's bicubic, bit for bit"
    ]
    assert found.facts["inspection"] == {"hr_deviations": None, "lr_of_matlab": 2, "lr_of_others": []}
    assert inspection(tmp_path, order=-1) == found


def test_pairs_pass_unchanged(tmp_path, folder):
    images = BenchmarkSet(tmp_path, "Mine", 2)
    inspected = InspectedSet(images)
    assert len(inspected) == 2
    assert np.array_equal(inspected[1].hr, images[1].hr)
    assert (inspected[0].name, [one.name for one in inspected.seen]) == ("aster", ["bird", "aster"])


def test_other_lr_images_are_counted_named_and_explained(tmp_path, folder):
    hr = read_rgb(folder / "HR" / "bird.png")
    lr = cv2.resize(even(hr), (16, 20), interpolation=cv2.INTER_CUBIC)
    write_png(folder / "LR_bicubic" / "X2" / "birdx2.png", lr)
    far = np.abs(downscale(hr, 2).astype(int) - lr)
    found = inspection(tmp_path)
    assert found.lines[1].startswith(
        f"Mine x2: 1 of 2 LR images differ from MATLAB's bicubic of HR (first bird; mean difference {far.mean():.2f} "
        f"of 255, at most {far.max()}): it is OpenCV's INTER_CUBIC"
    )
    assert f"remove {folder / 'LR_bicubic' / 'X2'} and make the LR images with `python -m datas.prepare" in text(found)
    assert found.facts["inspection"]["lr_of_matlab"] == 1
    (other,) = found.facts["inspection"]["lr_of_others"]
    assert (other["count"], other["grade"], other["ways"][0]) == (1, "exact", "OpenCV's INTER_CUBIC")


def test_lr_only_says_that_nothing_was_compared(tmp_path, folder):
    found = inspection(tmp_path, lr_only=True)
    assert found.lines == ["Mine x2: 2 LR images without HR: not checked whether they are MATLAB's"]
    assert found.facts.keys() == {"lr", "inspection"}


def test_an_image_that_is_not_the_known_one_is_named(tmp_path, folder):
    folder.rename(folder.with_name("Set5"))
    found = inspection(tmp_path, "Set5")
    assert "2 HR images, fingerprint" in found.lines[0]
    assert "not the images commonly distributed: bird differs; baby, butterfly, head, woman are missing; " in text(
        found
    )
    assert "aster is none of the set" in found.facts["inspection"]["hr_deviations"]


def test_a_published_set_that_is_not_on_record_is_said_to_be_that(tmp_path, folder):
    folder.rename(folder.with_name("Urban100"))
    line = inspection(tmp_path, "Urban100").lines[0]
    assert "(that of the published set is not on record here); the published set has 100 images; LR images are" in line

"""The plan of an epoch: exact counts, uniform crops, and the same samples whoever asks."""

import hashlib

import numpy as np
import pytest

from datas.sampling import Source, epoch_plan, orient, source_shares

FIELDS = ("image", "top", "left", "hflip", "vflip", "transpose")


def source(count, height=20, width=30, weight=1.0):
    return Source(np.full(count, height), np.full(count, width), weight)


def assert_equal(first, second):
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_every_image_of_a_single_source_comes_exactly_data_repeat_times():
    plan = epoch_plan(2024, 0, [source(37)], 5, 16, True)
    assert len(plan) == 185
    assert np.bincount(plan.image).tolist() == [5] * 37


def test_no_image_comes_twice_before_all_came_once():
    plan = epoch_plan(2024, 3, [source(37)], 5, 16, True)
    for start in range(0, 185, 37):
        assert sorted(plan.image[start : start + 37]) == list(range(37))


def test_the_plan_depends_on_seed_and_epoch_alone():
    assert_equal(epoch_plan(1, 2, [source(9)], 3, 8, True), epoch_plan(1, 2, [source(9)], 3, 8, True))
    reference = epoch_plan(1, 2, [source(9)], 3, 8, True)
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(epoch_plan(seed, epoch, [source(9)], 3, 8, True).image, reference.image)


def test_the_plan_stays_the_same_across_releases():
    plan = epoch_plan(2024, 7, [source(11, weight=1), source(5, 40, 24, weight=2)], 4, 12, True)
    content = b"".join(getattr(plan, name).astype("<i8").tobytes() for name in FIELDS)
    assert hashlib.sha256(content).hexdigest()[:16] == "bec9f45a3d4e590d"


def test_sources_share_the_epoch_by_their_weights():
    sources = [source(10, weight=3), source(50, weight=1), source(4, weight=0.5)]
    plan = epoch_plan(0, 0, sources, 10, 16, True)
    assert len(plan) == 640
    counts = np.bincount(plan.image, minlength=64)
    per_source = [counts[:10].sum(), counts[10:60].sum(), counts[60:].sum()]
    assert np.abs(np.array(per_source) - 640 * np.array([3, 1, 0.5]) / 4.5).max() < 1
    for images in (counts[:10], counts[10:60], counts[60:]):
        assert images.max() - images.min() <= 1


def test_sources_are_mixed_throughout_the_epoch():
    plan = epoch_plan(0, 0, [source(100), source(100)], 10, 16, True)
    halves = (plan.image < 100).reshape(2, 1000).mean(axis=1)
    assert np.abs(halves - 0.5).max() < 0.08


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [0.1, 0.7, 0.2], [1e-9, 1]])
@pytest.mark.parametrize("length", [0, 1, 10, 101])
def test_shares_add_up_and_are_exact_to_within_one(weights, length):
    shares = source_shares(weights, length)
    assert shares.sum() == length
    assert np.abs(shares - length * np.array(weights) / sum(weights)).max() < 1


def test_crops_are_uniform_over_all_positions_that_fit():
    plan = epoch_plan(5, 0, [source(10, height=20, width=23)], 2000, 16, True)
    for values, positions in ((plan.top, 5), (plan.left, 8)):
        counts = np.bincount(values, minlength=positions)
        assert len(counts) == positions
        expected = 20000 / positions
        assert ((counts - expected) ** 2 / expected).sum() < positions - 1 + 5 * np.sqrt(2 * positions)  # chi-square


def test_crops_fit_into_images_of_mixed_sizes():
    random = np.random.default_rng(0)
    heights, widths = random.integers(16, 60, 50), random.integers(16, 60, 50)
    plan = epoch_plan(5, 1, [Source(heights, widths)], 40, 16, True)
    assert (plan.top >= 0).all()
    assert (plan.left >= 0).all()
    assert (plan.top + 16 <= heights[plan.image]).all()
    assert (plan.left + 16 <= widths[plan.image]).all()


def test_an_image_of_the_patch_size_has_one_crop():
    plan = epoch_plan(5, 1, [source(3, 16, 16)], 40, 16, True)
    assert not plan.top.any()
    assert not plan.left.any()


def test_each_of_the_eight_orientations_is_equally_likely():
    plan = epoch_plan(1, 0, [source(100)], 80, 16, True)
    kinds = np.bincount(plan.hflip + 2 * plan.vflip + 4 * plan.transpose, minlength=8)
    assert np.abs(kinds - 1000).max() < 150


def test_without_augmentation_crops_are_the_same_and_upright():
    upright, augmented = (epoch_plan(1, 0, [source(10)], 8, 16, augment) for augment in (False, True))
    assert not (upright.hflip | upright.vflip | upright.transpose).any()
    assert np.array_equal(upright.top, augmented.top)
    assert np.array_equal(upright.image, augmented.image)


def test_rows_are_a_part_of_the_plan():
    plan = epoch_plan(1, 0, [source(10)], 8, 16, True)
    part = plan.rows(20, 30)
    assert len(part) == 10
    assert list(part) == list(plan)[20:30]


@pytest.mark.parametrize("size", [(5, 5), (4, 7), (1, 3)])
@pytest.mark.parametrize("kind", range(8))
def test_orienting_flips_vertically_then_horizontally_then_transposes(size, kind):
    hflip, vflip, transpose = bool(kind & 1), bool(kind & 2), bool(kind & 4)
    image = np.random.default_rng(kind).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image.setflags(write=False)
    crop = image[1 : 1 + size[0], 2 : 2 + size[1]]
    height, width = size[::-1] if transpose else size
    out = np.zeros((height, width, 3), np.uint8)
    orient(crop, hflip, vflip, transpose, out)
    for y in range(height):
        for x in range(width):
            row, column = (x, y) if transpose else (y, x)
            if hflip:
                column = size[1] - 1 - column
            if vflip:
                row = size[0] - 1 - row
            assert (out[y, x] == crop[row, column]).all()

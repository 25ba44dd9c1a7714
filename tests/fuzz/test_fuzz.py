"""A few hundred damaged files for every reader; `make fuzz` feeds them a hundred thousand."""

import os

import pytest

if not hasattr(os, "fork"):
    pytest.skip("inputs are read in a forked child", allow_module_level=True)

from fuzz.run import fuzz
from fuzz.targets import make_targets

READERS = ("config", "--set", "checkpoint", "image", "picture", "manifest", "records")


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return make_targets(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(reader, targets, tmp_path):
    counts, failures = fuzz(targets[reader], seed=0, numbers=range(150), work=tmp_path)
    assert failures == []
    assert counts["refused"] > 5 or reader == "manifest"  # a manifest that does not fit is made anew
    assert counts["read"] > 0

"""The lock holds everything that the readable ranges ask for, at versions that they allow."""

import re
from importlib.metadata import distribution

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.lock import licence

LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")


@pytest.fixture(scope="module")
def locked():
    """Name -> version."""
    lines = [line for line in (ROOT / "requirements-lock.txt").read_text().splitlines() if line[0] != "#"]
    return {match[1]: match[2] for match in (LINE.fullmatch(line) for line in lines)}


def asked_for():
    files = ("requirements.txt", "requirements-test.txt", "requirements-video.txt")
    lines = [line.strip() for file in files for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r "))]


def test_every_range_is_met_by_the_lock(locked):
    for wanted in asked_for():
        if wanted.name != "torch":  # its builds differ by device
            assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


def test_what_locked_packages_and_torch_need_is_locked_too(locked):
    for name in [*locked, "torch"]:
        try:
            needed = distribution(name).requires or []
        except ModuleNotFoundError:
            continue  # of another system
        for wanted in map(Requirement, needed):
            of_a_device = wanted.name.startswith(("nvidia", "cuda", "setuptools"))
            if (wanted.marker is None or wanted.marker.evaluate({"extra": ""})) and not of_a_device:
                assert canonicalize_name(wanted.name) in {*locked, "torch"}, f"{name} needs {wanted}"


def test_a_licence_is_read_off_the_metadata():
    assert licence(distribution("numpy")).startswith("BSD-3-Clause")
    assert licence(distribution("pytest")) == "MIT"

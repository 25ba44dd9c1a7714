"""What every test shares: where the project and the optional ../shared lie, and one way to skip without it."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "tests"))  # tests import their slow twins (literal.py) by name


@pytest.fixture
def shared() -> Path:
    """The folder of real benchmark images beside the checkout; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: real benchmark images are not part of the project")
    return SHARED

"""The watch over a long run sees what grows, in the process and in its children."""

import sys
from pathlib import Path

import pytest

from tools import soak
from utils import InputError

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's /proc")

GROWING = """
import subprocess, sys, time
child = "import time; held = [open('/dev/null') for _ in range(40)]; block = bytearray(60 << 20); time.sleep(0.8)"
time.sleep(0.4)
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_files_and_memory_of_a_child_are_seen_while_it_lives(monkeypatch):
    monkeypatch.setattr(soak, "EVERY", 0.1)
    seen = soak.watch([sys.executable, "-c", GROWING])
    assert max(seen.files) - seen.files[0] >= 40
    assert 60 < max(seen.mib) - seen.mib[0] < 120


def test_a_command_that_fails_is_named_with_what_it_printed(monkeypatch):
    monkeypatch.setattr(soak, "EVERY", 0.05)
    with pytest.raises(InputError, match="exit code 3: gone wrong"):
        soak.watch([sys.executable, "-c", "import sys; print('gone wrong'); sys.exit(3)"])


def test_the_change_is_from_the_second_tenth_to_the_last():
    assert soak.change([9.0] * 10 + [2.0] * 10 + [5.0] * 70 + [3.0] * 10) == "2 -> 3 (+50.0%)"

"""Losses and networks of a user's own, in the working directory."""

import sys
import textwrap

import pytest
import yaml
from helpers import TINY

from models.registry import SSUFSR_KEYS


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Function of a name and Python text: makes that module in the working directory, a folder of this test's own."""
    names = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        names.append(name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def other_config(tiny_data, tmp_path):
    """Function of a network and config keys: as `tiny_config`, for a network that is not SSUFSR."""

    def write(model, **changes):
        path = tmp_path / "other.yml"
        common = {key: value for key, value in TINY.items() if key not in SSUFSR_KEYS}
        values = {**common, "model": model, "data_path": str(tiny_data), "log_path": str(tmp_path / "runs"), **changes}
        path.write_text(yaml.safe_dump(values))
        return path

    return write

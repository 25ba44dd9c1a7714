"""Every tool starts by its module name in the project's folder, and by its file from any other folder."""

import subprocess
import sys

import pytest
from helpers import ROOT

PREAMBLE = "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))"
OURS = tuple(f"from {name}" for name in ("config", "datas", "evaluation", "models", "tools", "training", "utils"))
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("[!_]*.py") if "__main__" in path.read_text())


@pytest.fixture
def strangers(tmp_path):
    """A folder with files that are named as the project's modules are."""
    for name in ("utils", "config", "models", "datas", "evaluation", "tools"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a stranger was imported')")
    return tmp_path


def started(arguments, folder):
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_every_tool_puts_the_projects_folder_first_before_it_imports_from_there():
    for tool in TOOLS:
        lines = (ROOT / "tools" / f"{tool}.py").read_text().splitlines()
        places = [number for number, line in enumerate(lines) if line.startswith(PREAMBLE)]
        ours = [number for number, line in enumerate(lines) if line.startswith(OURS)]
        assert len(places) == 1, tool
        assert all(number > places[0] for number in ours), tool
    assert len(TOOLS) > 5


def test_a_tool_starts_by_its_module_in_the_projects_folder():
    process = started(["-m", "tools.record", "--help"], ROOT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    assert out.startswith(b"usage:")


def test_a_tool_run_by_its_file_finds_the_projects_own_files(strangers):
    process = started([ROOT / "tools" / "profile_model.py", "--output", "64x64"], strangers)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    assert b"| **all** | 794,467 |" in out

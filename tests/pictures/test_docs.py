"""docs/pictures.md: its commands are run as they stand there, on small pictures."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_script
from PIL import Image

TEXT = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"```sh\n(.*?)```", TEXT, re.DOTALL)[1].splitlines()


@pytest.fixture
def here(here, photo):
    Path("pretrain_model").symlink_to(ROOT / "pretrain_model")
    small = Image.fromarray(photo[:20, :24])
    for name in ("photo.jpg", "photos/a.png", "photos/in/b.jpg", "c.webp"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        small.save(name)
    return here


def test_every_command(here):
    sizes = {}
    for command in COMMANDS:
        _python, script, *words = shlex.split(command)
        if "<" in words:
            continue  # the next test
        done = run_script(script, *words)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    for path in Path(".").rglob("*_x*.*"):
        if "pretrain_model" not in path.parts:
            sizes[path.as_posix()] = Image.open(path).size
    assert sizes == {
        "photo_x4.png": (96, 80),
        "out/a_x2.jpg": (48, 40),
        "out/c_x2.jpg": (48, 40),
        "screen/a_x4.png": (96, 80),
        "screen/in/b_x4.png": (96, 80),
        "scans/photo_x2.tif": (48, 40),
    }


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell here")
def test_the_command_with_standard_input(here):
    command = next(line for line in COMMANDS if "<" in line)
    assert command.startswith("python upscale.py ")
    line = command.replace("python upscale.py", shlex.join([sys.executable, str(ROOT / "upscale.py")]))
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Image.open("large.webp").size == (96, 80)


def test_the_lines_of_python(here, capsys, photo):
    names = {"image": photo[:20, :24]}
    exec(re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1], names)
    assert Image.open("large.png").size == (96, 80)
    assert names["large"].shape == (80, 96, 3)
    assert capsys.readouterr().out.startswith("(24, 20) (96, 80) ()")

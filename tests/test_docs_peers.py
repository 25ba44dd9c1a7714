"""docs/peers.md: its commands are run, on images and for times that suit a test."""

import csv
import dataclasses
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, run_script

from datas import downscale, lr_folder, upscale, write_png
from evaluation import timing
from models.size_needs import SizeNeeds

TEXT = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
CHANNELS = "{channels: 4}"
SHORT = [
    "epochs=1",
    "patch_size=32",
    "batch_size=2",
    "data_repeat=2",
    "threads=0",
    "gpu_ids=[]",
    f"model_args={CHANNELS}",
]
PARAMETERS = sum(9 * a * b + b for a, b in [(3, 4), *[(4, 4)] * 8, (4, 48)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with configs, the peer's too, and a sample of tiny images at x4."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SSIU_BACKEND", "plain")
    monkeypatch.setattr(timing, "WARM_UP", 0)
    monkeypatch.setattr(timing, "ceilings", lambda device: {"copy": 1.0, "float32": 1.0})
    for name in ("configs", "peers"):
        shutil.copytree(ROOT / name, name)
    rng = np.random.default_rng(0)
    for place, count in (("Sample/Sample_train_HR", 3), ("benchmark/Sample/HR", 2)):
        hr_folder = tmp_path / "data" / "sample" / place
        for number in range(count):
            image = upscale(rng.integers(0, 256, (18, 16, 3), dtype=np.uint8), 4)
            write_png(hr_folder / f"{number:04d}.png", image)
            write_png(lr_folder(hr_folder, 4) / f"{number:04d}x4.png", downscale(image, 4))
    small = Path("configs/sample_x4.yml").read_text(encoding="utf-8").replace("n_feats: 32", "n_feats: 8")
    Path("small.yml").write_text(small, encoding="utf-8")


def commands():
    """Script and words of each command, {module: its file} for those of -m."""
    section = TEXT.split("\n## ")[1]
    for line in re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines():
        _python, *words = shlex.split(line)
        if words[0] == "-m":
            file = words[1].replace(".", "/")
            words[:2] = [f"{file}/__main__.py" if (ROOT / file).is_dir() else f"{file}.py"]
        yield words


def shortened(script, words):
    """What a command takes besides, so that it is done in a second."""
    peer = ["--model-args", CHANNELS] if "--weights" in words else []
    if script == "train.py":
        return [word for pair in SHORT for word in ("--set", pair)]
    if script == "test.py":
        return ["--set", "gpu_ids=[]", *peer]
    return ["--config", "small.yml", "--repeats", "1", "--device", "cpu", *peer] if script == "benchmark.py" else []


def test_the_commands_of_the_page(folder):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    (first, *_), *rest = commands()
    assert first == "datas/sample.py"  # whose photographs are larger than a test can use
    printed = {}
    for script, *words in rest:
        files = sorted(map(str, Path("results").glob("*.json")))
        words = [other for word in words for other in (files if "*" in word else [word])]
        done = run_script(script, *words, *shortened(script, words))
        assert done.returncode == 0, f"{script} {words}: {done.stderr}"
        printed[script] = done.stdout
    assert "| **all** | 88,752 | 5.09 |" in printed["tools/profile_model.py"]
    assert "| x4 720p | plain float32 of SmallCNN | " in printed["benchmark.py"]

    rows = {
        row["model"]: row for row in csv.DictReader(io.StringIO(Path("results/board.csv").read_text(encoding="utf-8")))
    }
    assert rows.keys() == {"SSIU", "SmallCNN", "bicubic"}
    for name in ("SSIU", "SmallCNN"):
        sets = json.loads(Path(f"results/{name}.json").read_text(encoding="utf-8"))["sets"]
        assert float(rows[name]["Sample PSNR"]) == sets["Sample"]["standard"]["psnr"]
        assert rows[name]["Sample difference"] == ""
    assert float(rows["bicubic"]["Sample SSIM"]) == sets["Sample"]["bicubic"]["standard"]["ssim"]
    assert int(rows["SmallCNN"]["parameters"]) == PARAMETERS
    times = json.loads(Path("results/times/x4.json").read_text(encoding="utf-8"))["rows"]
    median = next(row["median_ms"] for row in times if row["path"] == "plain float32 of SmallCNN")
    assert float(rows["SmallCNN"]["milliseconds"]) == median
    written = {name: Path(f"results/board.{name}").read_bytes() for name in ("md", "tex", "png", "pdf")}
    assert b"\\textbf{" in written["tex"]
    assert written["md"].decode().strip() in printed["tools/leaderboard/__main__.py"]


def test_the_attributes_of_the_page_are_those_that_networks_can_have():
    section = next(part for part in TEXT.split("\n## ") if part.startswith("What a network is asked for"))
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert named == [entry.name for entry in dataclasses.fields(SizeNeeds)]

"""docs/extending.md: its files are written out, its commands are run, on images and for times that suit a test."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import ROOT, run_script

from datas import read_rgb, write_png
from evaluation import timing
from models.weights import read_checkpoint

TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SIZES = ["epochs=1", "patch_size=24", "batch_size=4", "data_repeat=2", "threads=0", "gpu_ids=[]"]


def files_of(section):
    """{name: content} of the blocks that follow a file's name."""
    return dict(re.findall(r"`(\w+\.\w+)`:\n\n```\w+\n(.*?)```", section, re.DOTALL))


def commands_of(section):
    """The commands as lists of words: [script, argument, ...]."""
    lines = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    commands = []
    for line in lines:
        _python, *words = shlex.split(line)
        if words[0] == "-m":
            words[:2] = [f"{words[1].replace('.', '/')}.py"]
        commands.append(words)
    return commands


@pytest.fixture
def follow(tmp_path, tiny_data, monkeypatch):
    """Function of a section's title: writes its files, runs its commands; their outcomes, in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SSIU_BACKEND", "plain")  # the fast ones prove themselves in other tests
    shutil.copytree(ROOT / "configs", "configs")
    Path("data").mkdir()
    Path("data/sample").symlink_to(tiny_data)
    modules = set(sys.modules)

    def run(title):
        section = next(part for part in TEXT.split("\n## ") if part.startswith(title))
        for name, content in files_of(section).items():
            Path(name).write_text(content)
        outcomes = []
        for script, *words in commands_of(section):
            sizes = [word for size in SIZES for word in ("--set", size)] if script in ("train.py", "test.py") else []
            quick = ["--repeats", "1"] if script == "benchmark.py" else []
            done = run_script(script, *sizes, *words, *quick)
            assert done.returncode == 0, f"{script} {words}: {done.stderr}"
            outcomes.append(done)
        return outcomes

    yield run
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


def test_a_loss(follow):
    follow("A loss")
    lines = map(json.loads, Path("runs/edges/metrics.jsonl").read_text().splitlines())
    losses = [line["my_losses:edges"] for line in lines if line["kind"] == "train"]
    assert losses
    assert min(losses) > 0


def test_a_network(follow, monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 0)
    monkeypatch.setattr(timing, "ceilings", lambda device: {"copy": 1.0, "float32": 1.0})
    _, resumed, tested, _, counted, timed = follow("A network")
    assert "from iteration 3 to 24" in resumed.stdout
    content = read_checkpoint("runs/shallow/best.pt")
    assert content["model_state_dict"]["tail.0.weight"].shape == (12, 24, 3, 3)
    assert "| Sample | 2 " in " ".join(tested.stdout.split())
    exported = safetensors.torch.load_file("shallow.safetensors")
    assert all(torch.equal(exported[key], value) for key, value in content["model_state_dict"].items())
    convolutions = [(3, 24), (24, 24), (24, 24), (24, 24), (24, 12)]
    parameters = sum(9 * a * b + b for a, b in convolutions)
    multiply_adds = sum(9 * a * b for a, b in convolutions) * 640 * 360
    assert f"| **all** | {parameters:,} | {multiply_adds / 1e9:.2f} |" in counted.stdout
    assert "| x2 720p | plain float32 | " in timed.stdout
    assert "literal" not in timed.stdout


def test_a_dataset(follow, tiny_data):
    for source, target in (("Sample/Sample_train_HR", "train_HR"), ("benchmark/Sample/HR", "benchmark/Photos/HR")):
        for path in (tiny_data / source).iterdir():
            write_png(Path("photos") / target / path.name, read_rgb(path))
    _, checked, _, tested = follow("A dataset")
    assert "crops from photos/train_HR: 100.0% (6 images)" in checked.stdout
    assert "| Photos | 2 " in " ".join(tested.stdout.split())


def test_no_block_is_left_out():
    blocks = TEXT.count("```") // 2
    assert blocks == len(files_of(TEXT)) + len(re.findall(r"```sh\n", TEXT)) == 7

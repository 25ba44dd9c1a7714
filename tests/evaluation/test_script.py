"""test.py: what it says, what it writes, shared among processes, and sets that are absent."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import cv2
import pytest
import torch
from helpers import ROOT, run_script

from config import load_config
from datas import read_rgb, write_png
from evaluation import report
from models import create_model
from tools.profile_model import profile


@pytest.fixture
def weights(tiny_config, tmp_path):
    torch.manual_seed(3)
    torch.save(create_model(load_config(tiny_config())).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "weights.yml").write_text("data: six images\n")
    return tmp_path / "weights.pt"


@pytest.fixture
def evaluate(tiny_config, weights, tmp_path):
    """Function of options of test.py: what it printed."""

    def run(*options):
        out = [] if "--out" in options else ["--out", tmp_path / "out"]
        done = run_script("test.py", "--config", tiny_config(), "--set", f"pretrain={weights}", *out, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_everything_written_is_named_and_there(evaluate, weights, tmp_path):
    printed = evaluate("--json", tmp_path / "r.json", "--save-images", "--model-card")
    named = [line.removeprefix("wrote ") for line in printed.splitlines() if line.startswith("wrote ")]
    expected = ["out/per_image.csv", "out/Sample/*_x2.png", "r.json", "weights.md"]
    assert named == [str(tmp_path / file) for file in expected]
    assert [len(list(tmp_path.glob(file))) for file in expected] == [1, 2, 1, 1]


def test_a_plain_evaluation_names_no_file_that_it_did_not_write(evaluate, tmp_path):
    printed = evaluate()
    assert [line for line in printed.splitlines() if line.startswith("wrote ")] == [
        f"wrote {tmp_path}/out/per_image.csv"
    ]


def test_what_is_special_stands_in_the_table_and_on_the_card(evaluate, weights):
    printed = evaluate("--model-card", "--self-ensemble", "--set", "eval_precision=bf16")
    card = weights.with_suffix(".md").read_text()
    assert "| set (self-ensemble x8, bf16) | images " in printed
    assert "| set (self-ensemble x8, bf16) | images " in card
    assert ", with self-ensemble x8, bf16;" in card.splitlines()[-1]
    assert "self-ensemble x8" in next(line for line in printed.splitlines() if line.startswith("weights: "))
    evaluate("--model-card")
    assert "self-ensemble x8" not in weights.with_suffix(".md").read_text()


def test_the_json_says_which_network_it_was_and_what_it_costs(evaluate, tiny_config, tmp_path):
    printed = evaluate("--json", tmp_path / "r.json")
    summary = json.loads((tmp_path / "r.json").read_text())
    config = load_config(tiny_config())
    parameters, multiply_adds, _ = profile(config, 1280, 720)[1]
    assert summary["network"] == {"name": "SSIU", "parameters": parameters, "multiply_adds": multiply_adds}
    assert (summary["tiles"], summary["conditions"]) == (None, "")
    assert "| set    | images " in printed
    rows = csv.DictReader((tmp_path / "out" / "per_image.csv").read_text().splitlines())
    assert {(row["network"], row["conditions"]) for row in rows} == {("SSIU", "")}


def test_a_folder_in_place_of_the_json_file_is_found_before_the_evaluation(tiny_config, weights, tmp_path):
    done = run_script("test.py", "--config", tiny_config(), "--set", f"pretrain={weights}", "--json", tmp_path,
                      "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: --json {tmp_path}: is a folder; name a file, such as {tmp_path / 'x4.json'}\n"
    assert "weights:" not in done.stdout


def test_a_set_of_the_config_that_is_absent_is_passed_over_and_one_that_is_named_is_not(tiny_config, weights, tmp_path):
    config = tiny_config(eval_sets=["Set5", "Sample"], pretrain=str(weights))
    done = run_script("test.py", "--config", config, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Set5" in done.stdout.partition("weights:")[0]  # the line that says so
    assert "| Sample " in done.stdout
    assert "| Set5 " not in done.stdout
    named = run_script("test.py", "--config", config, "--set", "eval_sets=[Set5, Sample]", "--out", tmp_path / "out")
    assert named.returncode == 2
    assert "benchmark/Set5" in named.stderr


def test_two_processes_give_the_numbers_of_one_and_speak_once(evaluate, tiny_config, weights, tmp_path):
    alone = evaluate("--json", tmp_path / "one.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "test.py"]
    command += ["--config", tiny_config(), "--set", f"pretrain={weights}", "--out", tmp_path / "two"]
    command += ["--json", tmp_path / "two.json", "--save-images"]
    threads = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # the order of sums is that of one process
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=threads)
    assert done.returncode == 0, done.stderr

    def untimed(file):
        sample = json.loads((tmp_path / file).read_text())["sets"]["Sample"]
        images = {name: {k: v for k, v in image.items() if k != "seconds"} for name, image in sample["images"].items()}
        return list(images), images, sample["standard"], sample["official"], sample["bicubic"]

    names, images, *means = untimed("two.json")
    names_alone, images_alone, *means_alone = untimed("one.json")
    assert names == names_alone == ["0000", "0001"]
    assert images == images_alone
    assert means == means_alone
    assert [done.stdout.count(line) for line in ("weights: ", "| Sample ", "per_image.csv")] == [1, 1, 1]
    assert alone.count("weights: ") == 1
    assert len(list((tmp_path / "two" / "Sample").glob("*.png"))) == 2


@pytest.mark.parametrize("script", ["test.py", "train.py"])
@pytest.mark.parametrize(("options", "code"), [(["--help"], 0), (["--no-such-option"], 2)])
def test_the_command_line_is_answered_before_anything_heavy_is_imported(script, options, code):
    """What takes seconds to import, and numpy, would keep --help waiting."""
    program = f"""
import runpy, sys
sys.argv = {[script, *options]!r}
try:
    runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
except SystemExit as leaving:
    print(leaving.code or 0, sorted({{"torch", "cv2", "skimage", "numpy", "PIL"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == f"{code} []"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PackageNotFoundError("opencv-python-headless")])
def test_a_version_that_cannot_be_read_stops_nothing(error, monkeypatch):
    """opencv-python, for one, takes the place of opencv-python-headless on many machines."""

    def fails(package):
        if package == "opencv-python-headless":
            raise error
        return "1.0"

    monkeypatch.setattr(report, "version", fails)
    found = report.versions()
    assert (found["torch"], found["opencv-python-headless"]) == ("1.0", "unknown")


def test_the_table_of_times_adds_up(evaluate):
    printed = evaluate("--timings", "--save-images").partition("| step ")[2]
    cells = [line.strip("| ").split("|") for line in printed.splitlines()[2:] if line.startswith("|")]
    seconds = {name.strip(): float(value) for name, _, value, *_ in cells}
    main = [float(value) for _, thread, value, *_ in cells if thread.strip() == "main"]
    assert sum(main) == pytest.approx(seconds["all of the main thread"], abs=0.03)  # each is rounded
    assert {"network", "reading and checking images", "bicubic upscaling", "writing SR images"} <= seconds.keys()
    assert "| step " not in evaluate()


def test_a_tight_memory_changes_no_score(evaluate, tmp_path):
    scores = []
    for name, memory in (("free", 0), ("tight", 0.5)):
        evaluate("--out", tmp_path / name, "--set", f"memory={memory}", "--set", "backend=plain")
        rows = csv.DictReader((tmp_path / name / "per_image.csv").read_text().splitlines())
        scores.append([float(row["standard_psnr"]) for row in rows])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_memory_that_is_too_small_names_the_image_and_what_it_takes(tiny_config, weights, tmp_path):
    options = ("--set", f"pretrain={weights}", "--set", "memory=0.01", "--out", tmp_path / "out")
    done = run_script("test.py", "--config", tiny_config(), *options)
    assert done.returncode == 2
    line = r"error: Sample/\w+: an image \d+ pixels wide takes, .* at least \d+ MiB, more than the 0\.01 that are .*\n"
    assert re.fullmatch(line, done.stderr), done.stderr


def test_the_images_of_a_set_are_looked_at_and_what_was_seen_is_printed_and_written(evaluate, tiny_data, tmp_path):
    printed = evaluate("--json", tmp_path / "r.json")
    line = next(line for line in printed.splitlines() if line.startswith("Sample x2: 2 HR images, fingerprint "))
    assert line.endswith("; LR images are MATLAB's bicubic, bit for bit")
    of_set = json.loads((tmp_path / "r.json").read_text())["sets"]["Sample"]
    assert of_set["hr"] in line and of_set["inspection"]["lr_of_matlab"] == 2
    shutil.copytree(tiny_data / "benchmark", tmp_path / "benchmark")
    for file in (tmp_path / "benchmark" / "Sample" / "LR_bicubic" / "X2").iterdir():
        hr = read_rgb(tmp_path / "benchmark" / "Sample" / "HR" / f"{file.stem.removesuffix('x2')}.png")
        write_png(file, cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LANCZOS4))
    printed = evaluate("--set", f"data_path={tmp_path}")
    assert "Sample x2: 2 of 2 LR images differ from MATLAB's bicubic of HR (first 0000; " in printed
    assert "they are OpenCV's INTER_LANCZOS4, bit for bit. Published scores are of MATLAB's" in printed

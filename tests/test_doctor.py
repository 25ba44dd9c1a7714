"""doctor.py finds what is wrong, and says nothing is where nothing is."""

import json
import shutil

import pytest
from helpers import ROOT, run_script

from datas import lr_folder
from models import cpu, proof, weights

needs_compiler = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"models/cpu.cpp: {cpu.unavailable()}")


@pytest.fixture
def quick(tiny_config):
    """Arguments for a small network and its data."""
    return ("--config", tiny_config(n_feats=8))


@needs_compiler
def test_a_healthy_machine_has_no_failure(quick):
    done = run_script("doctor.py", *quick)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "nothing is wrong"
    assert "ok    cpu inference x2 float32: agrees to" in done.stdout
    assert len(done.stdout.splitlines()) < 40


def failures(*arguments):
    done = run_script("doctor.py", *arguments, "--json")
    found = json.loads(done.stdout)
    failed = [f"{line['what']}: {line['text']}" for line in found if line["status"] == "FAIL"]
    assert done.returncode == (1 if failed else 0)
    return failed


@needs_compiler
def test_a_wrong_path_is_a_failure(quick, monkeypatch):
    monkeypatch.setattr(proof, "golden_error", lambda *_: 0.5)
    (found,) = failures(*quick)
    assert found.startswith("cpu inference x2 float32: its output for the golden vectors is wrong by 5.0e-01; at most")


def test_shipped_weights_that_changed_or_are_gone_are_failures(quick, monkeypatch, tmp_path):
    folder = tmp_path / "shipped"
    shutil.copytree(ROOT / "pretrain_model", folder)
    flipped = bytearray((folder / "SSIU_x2.pt").read_bytes())
    flipped[1_000_000] ^= 1
    (folder / "SSIU_x2.pt").write_bytes(bytes(flipped))
    (folder / "SSIU_x3.pt").unlink()
    monkeypatch.setattr(weights, "SHIPPED", folder)
    found = failures(*quick)
    assert len(found) == 2
    assert "SSIU_x2.pt: is not what was shipped" in found[0]
    assert "SSIU_x3.pt: is not there" in found[1]


def test_problems_of_the_data_are_failures(tiny_config, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    training = tmp_path / "data" / "Sample" / "Sample_train_HR"
    shutil.copy(tmp_path / "data" / "benchmark" / "Sample" / "HR" / "0001.png", training / "0003.png")
    (lr_folder(training, 2) / "0005x2.png").unlink()
    found = failures("--config", tiny_config(data_path=str(tmp_path / "data")))
    assert len(found) == 2
    assert "0005.png: has no LR image 0005x2.png" in " ".join(found)
    assert "0003.png: has the pixels of" in " ".join(found)


def test_a_missing_package_is_a_failure(quick, monkeypatch):
    import importlib.metadata

    real = importlib.metadata.version

    def version(name):
        if name == "einops":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert failures(*quick) == ["packages: einops not installed: pip install -r requirements.txt"]

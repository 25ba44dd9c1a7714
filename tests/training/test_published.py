"""The published code both ways: its order of parameters, its files and run folders here, and ours there."""

import copy
import json
import math

import pytest
import torch
import yaml
from helpers import (
    GOLDEN,
    ROOT,
    TINY,
    assert_same_bits,
    build,
    final_state,
    load_golden,
    run_script,
    stop_at,
    train,
)
from published import Published, PublishedTraining, save_run

from config import build_config, load_config
from models import create_model
from models.weights import read_checkpoint
from tools import export
from training import setup
from training.checkpoints import run_checkpoints, save_checkpoint
from training.folder import find_saved
from training.published_file import published_form
from training.run_state import restore
from training.step import TrainStep, to_float
from utils import InputError


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_weights_are_registered_in_the_published_order(path):
    model, _, arrays = load_golden(path)
    assert list(model.state_dict()) == [key.removeprefix("sd/") for key in arrays.files if key.startswith("sd/")]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_seed_gives_the_published_initial_weights(scale):
    ours = build(scale)
    torch.manual_seed(0)
    theirs = Published(scale, stages=3)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert_same_bits(ours.state_dict(), theirs.state_dict())


def as_of_before(content):
    """The content of a checkpoint as this project wrote it while s3 was registered last of its stage."""
    names = list(content["model_state_dict"])
    stages = [name.split(".")[1] if name.startswith("body") else "" for name in names]
    before = sorted(range(len(names)), key=lambda n: (stages.index(stages[n]) if stages[n] else n, ".s3." in names[n]))
    moments = content["optimizer_state_dict"]["state"]
    return {
        **content,
        "model_state_dict": {names[n]: content["model_state_dict"][names[n]] for n in before},
        "optimizer_state_dict": {"state": {place: moments[n] for place, n in enumerate(before)}, "param_groups": []},
    }


def test_a_checkpoint_in_the_order_of_before_goes_on_to_the_same_bits(tiny_config, tmp_path):
    config = load_config(tiny_config())
    train(config, tmp_path / "run")
    before = final_state(tmp_path / "run")
    newest, middle = run_checkpoints(tmp_path / "run")
    newest.unlink()
    (tmp_path / "run" / "best.pt").unlink()
    content = as_of_before(read_checkpoint(middle))
    assert [name[7:9] for name in content["model_state_dict"] if name.startswith("body.0.")][-5:] == ["s3"] * 5
    save_checkpoint(middle, content)
    train(config, tmp_path / "run", resume=True)
    assert_same_bits(final_state(tmp_path / "run"), before)


SMALL = {key: value for key, value in TINY.items() if key != "seed"} | {"epochs": 4, "decays": [2], "gamma": 0.5}


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 12, 12, generator=generator), torch.rand(2, 3, 24, 24, generator=generator)


@pytest.fixture
def published(tiny_data, tmp_path):
    """A run of the published code after two epochs of one step: (its state, its values, its folder)."""
    values = {**SMALL, "data_path": str(tiny_data), "log_path": str(tmp_path / "runs")}
    torch.manual_seed(1)
    state = PublishedTraining(build_config(values, "values", []))
    for _ in range(2):
        state.step(*batch())
        state.epoch += 1
        save_run(tmp_path / "theirs", state, values)  # before the scheduler's step, as the published code does
        state.scheduler.step()
    return state, values, tmp_path / "theirs"


def named_moments(names, optimizer_state):
    moments = optimizer_state["state"]
    return {f"{names[number]} {key}": value for number, state in moments.items() for key, value in state.items()}


def test_a_published_run_folder_goes_on_with_its_weights_moments_and_learning_rate(published, monkeypatch):
    theirs, _, folder = published
    seen = []

    def look(step, saved, config, data):
        position = restore(step, saved, config, data)
        names = [name for name, _ in step.model.named_parameters()]
        seen.append((step.model.state_dict(), named_moments(names, step.optimizer.state_dict()), position))
        seen[0] = tuple(map(copy.deepcopy, seen[0]))
        return position

    monkeypatch.setattr(setup, "restore", look)
    done = run_script("train.py", "--resume", folder)
    assert done.returncode == 0, done.stderr
    weights, moments, position = seen[0]
    bare = {key.removeprefix("module."): value for key, value in theirs.model.state_dict().items()}
    assert_same_bits(weights, bare)
    assert_same_bits(moments, named_moments(list(bare), theirs.optimizer.state_dict()))
    assert position.iteration == 2 * 6
    rate = theirs.scheduler.get_last_lr()[0]  # of its third epoch
    assert f"after epoch 2, whose learning rate is {cosine(1)}; epoch 3 follows, with {rate:.6g}" in done.stdout
    assert "not known: which crops the epochs saw, the random states" in done.stdout
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if line["kind"] == "train"] == pytest.approx([rate] * 2 + [cosine(3)] * 2)
    assert [line["iteration"] for line in lines if line["kind"] == "validation/Sample"] == [12, 24]
    assert load_config(folder / "config.yml").warmup == "published"
    assert "resume" in (folder / "config.published.yml").read_text()


def cosine(epoch):
    return 1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * epoch / 4)) / 2


def test_a_damaged_published_checkpoint_is_named_and_the_one_before_is_used(published):
    _, _, folder = published
    (folder / "models" / "model_x2_2.pt").write_bytes(b"PK")
    done = run_script("train.py", "--resume", folder)
    assert done.returncode == 0
    assert "model_x2_2.pt: damaged" in done.stderr and "the checkpoint before it is tried" in done.stderr
    assert "model_x2_1.pt: of the published code, after epoch 1" in done.stdout


def test_a_published_run_whose_config_cannot_be_honoured_is_one_line(published):
    _, values, folder = published
    (folder / "config.yml").write_text(yaml.safe_dump({**values, "config": "x.yml", "resume": None, "colours": 3}))
    done = run_script("train.py", "--resume", folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"error: {folder / 'config.yml'}: unknown config key 'colours'; did you mean 'colors'" in done.stderr


def test_a_published_run_is_not_begun_over_and_a_mended_config_is_taken(published):
    _, values, folder = published
    done = run_script("train.py", "--config", folder / "config.yml", "--dry-run")
    (folder / "ours.yml").write_text(yaml.safe_dump({**values, "log_path": str(folder.parent), "log_name": "theirs"}))
    done = run_script("train.py", "--config", folder / "ours.yml")
    assert (done.returncode, "holds a run already; continue it with --resume" in done.stderr) == (2, True)
    original = {"config": "x.yml", "resume": None}
    (folder / "config.yml").write_text(yaml.safe_dump({**values, **original, "data_path": "nowhere"}))
    assert run_script("train.py", "--resume", folder).returncode == 2
    (folder / "config.yml").write_text(yaml.safe_dump({**values, **original, "log_every": 2}))
    assert run_script("train.py", "--resume", folder).returncode == 0
    assert load_config(folder / "config.yml").log_every == 2
    assert yaml.safe_load((folder / "config.published.yml").read_text())["log_every"] == 2


def test_checkpoints_of_another_scale_in_a_published_folder_are_passed_over(published):
    _, _, folder = published
    (folder / "models" / "model_x4_290.pt").write_bytes(b"of another run")
    found = find_saved(folder)
    assert found.path.name == "model_x2_2.pt"


def test_a_published_file_and_a_damaged_run_are_not_exported(published, tmp_path, tiny_config):
    _, _, folder = published
    with pytest.raises(InputError, match="is in the form of the published code already"):
        published_form(folder / "models" / "model_x2_2.pt")
    train(load_config(tiny_config(epochs=1, eval_sets=[])), tmp_path / "run")
    newest = run_checkpoints(tmp_path / "run")[0]
    save_checkpoint(newest, {**read_checkpoint(newest), "optimizer_state_dict": {"state": {0: 5}}})
    with pytest.raises(InputError, match="'optimizer_state_dict' is dict, or out of range"):
        published_form(newest)


def test_an_exported_run_goes_on_in_the_published_program_as_it_does_here(tiny_config, tmp_path):
    config = load_config(tiny_config(epochs=4, test_every=1, lambda_fft=0.01))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(12, patch)  # two of four epochs
        train(config, tmp_path / "run")
    source = run_checkpoints(tmp_path / "run")[0]
    save_checkpoint(tmp_path / "model_x2_2.pt", published_form(source))
    theirs = PublishedTraining(config)
    theirs.load(tmp_path / "model_x2_2.pt")
    assert theirs.epoch == 2
    best = read_checkpoint(source)["bests"]["Sample"]["official_psnr"]
    assert theirs.best["Sample"]["best_psnr"] == {"value": best["value"], "epoch": best["epoch"]}
    assert theirs.optimizer.param_groups[0]["lr"] == pytest.approx(cosine(2))
    step = TrainStep(config, create_model(config), None, torch.device("cpu"), lambda *pair: pair)
    step.network = step.model
    step.load_state_dict(read_checkpoint(source))
    low, high = (torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8) for side in (12, 24))
    step((low, high), cosine(2))
    theirs.step(to_float(low), to_float(high))
    ours = {f"module.{name}": value for name, value in step.model.state_dict().items()}
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(value, ours[name], rtol=0, atol=2e-6, msg=name)
    theirs.scheduler.step()
    assert theirs.scheduler.get_last_lr()[0] == pytest.approx(cosine(3))


def test_exported_bare_weights_start_in_the_published_program(tmp_path):
    model = build(3, n_feats=8)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    form = published_form(tmp_path / "bare.pt")
    torch.save(form, tmp_path / "model_x3_0.pt")
    config = load_config(ROOT / "configs" / "SSUFSR_light_x3.yml", ["n_feats=8", "n_blocks=3"])
    theirs = PublishedTraining(config)
    theirs.load(tmp_path / "model_x3_0.pt")
    x = torch.rand(1, 3, 17, 20)
    torch.testing.assert_close(theirs.model(x), model(x), rtol=0, atol=1e-5)
    assert (theirs.epoch, theirs.optimizer.param_groups[0]["lr"]) == (0, 1e-3)
    theirs.step(*[torch.rand(1, 3, side, side) for side in (16, 48)])


def test_of_a_run_with_averages_these_are_exported_unless_the_raw_weights_are_asked_for(tiny_config, tmp_path):
    train(load_config(tiny_config(epochs=1, ema_decay=0.5, eval_sets=[])), tmp_path / "run")
    source = run_checkpoints(tmp_path / "run")[0]
    content = read_checkpoint(source)
    for raw, key in ((False, "ema_state_dict"), (True, "model_state_dict")):
        weights = published_form(source, raw)["model_state_dict"]
        assert_same_bits(weights, {f"module.{name}": value for name, value in content[key].items()})


def test_without_a_config_the_published_default_is_taken_and_named(tmp_path):
    done = run_script("train.py", "--set", f"data_path={tmp_path}", "--dry-run")
    assert done.returncode == 2
    assert "no --config: " in done.stderr and "SSUFSR_light_x2.yml is taken, as by the published code" in done.stderr
    assert "Set5: no such folder" in done.stderr


def test_the_command_writes_a_file_that_the_published_program_loads(tmp_path, monkeypatch, capsys):
    file = tmp_path / "model_x4_0.pt"
    monkeypatch.setattr("sys.argv", ["export", "x4", str(file), "--to", "published"])
    export.main()
    assert capsys.readouterr().out == f"wrote {file}: 794,467 weights\n"
    theirs = PublishedTraining(load_config(ROOT / "configs" / "SSUFSR_light_x4.yml"))
    theirs.load(file)
    assert theirs.epoch == 0
    monkeypatch.setattr("sys.argv", ["export", "x4", "x4.onnx", "--to", "published"])
    with pytest.raises(InputError, match=r"x4.onnx: must end in \.pt, as the published files do"):
        export.main()

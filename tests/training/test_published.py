"""The published code both ways: its order of parameters, its files and run folders here, and ours there."""

import pytest
import torch
from helpers import GOLDEN, assert_same_bits, build, final_state, load_golden, train
from published import Published

from config import load_config
from models.weights import read_checkpoint
from training.checkpoints import run_checkpoints, save_checkpoint


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

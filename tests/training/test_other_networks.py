"""Networks that are not SSIU: named in the config, checked, trained, validated and resumed like any other."""

from pathlib import Path

import pytest
import torch
from helpers import assert_same_bits, final_state, run_script, stop_at, train
from torch import nn

from config import load_config
from models import ModelError, create_model
from models.weights import read_checkpoint
from training.checkpoints import run_checkpoints

NETWORKS = """
import torch
from torch import nn

class Small(nn.Module):
    '''Nothing of it is like SSIU, and everything that a step may disturb is there: running means and chance.'''

    def __init__(self, scale, width=8, activation="relu"):
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]()
        self.drop, self.leave = nn.Dropout2d(0.2), nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        return self.shuffle(self.leave(self.drop(self.act(self.norm(self.enter(x))))))

class Same(Small):
    def forward(self, x):
        return x

class Two(Small):
    def forward(self, x):
        y = super().forward(x)
        return y, y

class Picky(Small):
    def forward(self, x):
        return super().forward(x.view(1, 3, 48, 48))

def cubic(scale):
    return nn.Upsample(scale_factor=scale)

def number(scale):
    return 3

constant = 3
"""


@pytest.fixture
def networks(own_module):
    own_module("networks", NETWORKS)


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_another_network_resumes_to_the_same_bits(ema_decay, other_config, monkeypatch):
    args = {"width": 6, "activation": "gelu"}
    config = load_config(other_config("networks:Small", model_args=args, ema_decay=ema_decay, test_every=1))
    assert train(config, Path("whole"), resume=False) == 0
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        assert train(config, Path("cut"), resume=False) == 143
    assert train(load_config("cut/config.yml"), Path("cut"), resume=True) == 0
    assert_same_bits(final_state("whole"), final_state("cut"))
    assert read_checkpoint(run_checkpoints("cut")[0])["validated"] == 12


@pytest.mark.usefixtures("networks")
def test_the_average_of_a_network_takes_its_running_statistics(other_config):
    train(load_config(other_config("networks:Small", ema_decay=0.9, epochs=1)), Path("run"), resume=False)
    content = read_checkpoint("run/best.pt")
    weights, averages = content["model_state_dict"], content["ema_state_dict"]
    assert torch.equal(weights["norm.running_mean"], averages["norm.running_mean"])
    assert not torch.equal(weights["enter.weight"], averages["enter.weight"])


@pytest.mark.usefixtures("networks")
def test_a_run_of_another_network_is_named_after_it_and_says_what_would_be_trained(other_config):
    file = other_config("networks:Small", model_args={"width": 6}, max_minutes=0.5, losses={"charbonnier": 0.5})
    done = run_script("train.py", "--config", file, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "network: networks:Small x2, 840 parameters; loss: 1 l1 + 0.01 fft + 0.5 charbonnier\n" in done.stdout
    assert "training: 12 iterations, 6 an epoch, or 0.5 minutes; 4 patches of 24x24 HR pixels in each\n" in done.stdout
    assert "validation: Sample (2 images)\n" in done.stdout
    assert not Path("runs").exists()
    assert run_script("train.py", "--config", file, "--set", "epochs=1").returncode == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("Small_x2_")


@pytest.mark.usefixtures("networks")
def test_the_trial_leaves_the_network_as_it_was_built(other_config):
    config = load_config(other_config("networks:Small"))
    model = create_model(config)
    assert model.training
    assert model.norm.num_batches_tracked == 0
    with torch.device("meta"):
        assert create_model(config).enter.weight.is_meta
    assert isinstance(create_model(load_config(other_config("networks:cubic"))), nn.Upsample)  # a function will do


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize(
    ("model", "args", "complaint"),
    [
        ("absent:Small", {}, r"'model': 'absent:Small': absent cannot be imported \(ModuleNotFoundError: No module"),
        ("networks:Smal", {}, "'model': 'networks:Smal': there is no Smal in .*networks.py"),
        ("networks:constant", {}, "'model': networks:constant is of type int, not a class or a function"),
        ("networks:number", {}, "'model': networks:number gives a value of type int, not a torch.nn.Module"),
        ("networks:Small", {"depth": 3}, "'model_args': networks:Small does not take .*unexpected keyword.* 'depth'"),
        ("networks:Same", {}, r"must give shape \(1, 3, 74, 106\) for an input of shape \(1, 3, 37, 53\) at scale 2"),
        ("networks:Two", {}, "it gives a value of type tuple"),
        ("networks:Picky", {}, r"fails on an image of 37x53 pixels.*\(RuntimeError: .*, .*networks.py line 29\)"),
    ],
)
def test_a_network_that_cannot_be_used_is_named(model, args, complaint, other_config):
    config = load_config(other_config(model, model_args=args))
    with pytest.raises(ModelError, match=f"config key .*{complaint}") as caught:
        create_model(config)
    assert "\n" not in str(caught.value)

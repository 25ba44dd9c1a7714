"""Repositories of the Hugging Face Hub: made in a folder, loaded from it, uploaded by a stand-in of its package."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import safetensors
import torch
import yaml
from helpers import ROOT, run_script

from models import ModelError, load
from models.architecture import Architecture
from models.weights import file_hash
from tools import hub
from training.checkpoints import save_checkpoint
from utils import InputError

SMALL = Architecture(scale=2, n_feats=8, num_heads=2, n_blocks=3, use_moe=False, msgm_depthwise=(1, 3))
IMAGE = torch.rand(1, 3, 9, 14, generator=torch.Generator().manual_seed(0))
PLAIN = {"device": "cpu", "backend": "plain"}


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of a small network, with averaged weights."""
    torch.manual_seed(0)
    raw = SMALL.build().state_dict()
    averaged = {**raw, "head.bias": raw["head.bias"] + 1}
    save_checkpoint(tmp_path / "best.pt", {"model_state_dict": raw, "ema_state_dict": averaged})
    return tmp_path / "best.pt"


@pytest.fixture
def folder(weights, tmp_path):
    return hub.save(weights, tmp_path / "hub", licence="mit")


@pytest.fixture
def package(monkeypatch):
    """In place of huggingface_hub: what was asked of it, in order; `answers` are what it returns or raises."""
    asked, answers = [], {"upload_folder": SimpleNamespace(commit_url="https://hub/commit"), "create_repo": None}

    def function(name):
        def call(*arguments, **options):
            asked.append((name, arguments, options))
            if isinstance(answers[name], Exception):
                raise answers[name]
            return answers[name]

        return call

    api = SimpleNamespace(create_repo=function("create_repo"), upload_folder=function("upload_folder"))
    stand_in = SimpleNamespace(HfApi=lambda: api, snapshot_download=function("snapshot_download"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return SimpleNamespace(asked=asked, answers=answers)


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def same_output(first, second):
    return torch.equal(first(IMAGE), second(IMAGE))


def test_a_saved_folder_gives_the_same_bits_without_the_package(no_package, weights, folder):
    network = hub.from_pretrained(folder, **PLAIN)
    assert network.architecture == SMALL
    assert same_output(network, load(weights, **PLAIN))
    assert network.model.head.bias.equal(torch.load(weights)["ema_state_dict"]["head.bias"])


def test_shipped_weights_are_saved_with_their_model_card_under_the_hubs_header(no_package, tmp_path):
    file = ROOT / "pretrain_model" / "SSIU_x4.pt"
    done = run_script("tools/hub.py", "save", file, tmp_path / "hub")
    assert done.returncode == 0
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == sorted(hub.FILES)
    _, header, text = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(header)
    assert (said["license"], said["pipeline_tag"]) == ("other", "image-to-image")
    assert "super-resolution" in said["tags"]
    assert file.with_suffix(".md").read_text() in text
    assert "The weights carry the terms of their training images" in text
    assert same_output(hub.from_pretrained(tmp_path / "hub", **PLAIN), load("x4", **PLAIN))


def test_the_metadata_says_where_the_weights_are_from_and_what_they_are(weights, folder):
    with safetensors.safe_open(folder / "model.safetensors", "pt") as opened:
        metadata = opened.metadata()
    config = json.loads((folder / "config.json").read_text())
    assert json.loads(metadata.pop("config")) == config
    assert config == {
        "model_type": "ssiu", "scale": 2, "n_feats": 8, "num_heads": 2, "n_blocks": 3,
        "use_esam": True, "use_moe": False, "msgm_depthwise": [1, 3],
    }  # fmt: skip
    known = {
        "format": "pt", "source": "best.pt", "source_sha256": file_hash(weights), "scale": "2", "license": "mit",
        "model": "SSIU",
    }  # fmt: skip
    assert known.items() <= metadata.items()
    assert metadata.keys() - known.keys() == {"architecture", "precision", "project_commit"}


def test_weights_whose_terms_nobody_names_are_not_saved(weights, tmp_path):
    with pytest.raises(InputError, match=r"best\.md beside it names no licence, or is not there; give --licence ID"):
        hub.save(weights, tmp_path / "hub")
    weights.with_suffix(".md").write_text(f"# best.pt\n\n- **sha256**: `{file_hash(weights)}`\n")
    with pytest.raises(InputError, match="give --licence ID"):
        hub.save(weights, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_a_card_of_another_file_is_not_taken(weights, tmp_path):
    weights.with_suffix(".md").write_text("# best.pt\n\n- **licence**: CC0\n- **sha256**: `0123`\n")
    with pytest.raises(InputError, match=r"best\.md: is not of best\.pt as it is"):
        hub.save(weights, tmp_path / "hub")


def test_push_uploads_the_three_files_and_no_other(package, folder):
    (folder / "private.txt").write_text("a token")
    done = run_script("tools/hub.py", "push", folder, "me/SSIU_x2", "--private")
    assert (done.returncode, done.stdout) == (0, "uploaded: https://hub/commit\n")
    (made, name, options), (sent, _, upload) = package.asked
    assert (made, name, sent) == ("create_repo", ("me/SSIU_x2",), "upload_folder")
    assert options == {"repo_type": "model", "private": True, "exist_ok": True}
    assert sorted(upload.pop("allow_patterns")) == ["README.md", "config.json", "model.safetensors"]
    assert upload.pop("commit_message").startswith("SSIU x2, 8 channels, 3 stages, 2 heads")
    assert upload == {"repo_id": "me/SSIU_x2", "repo_type": "model", "folder_path": folder}


def test_push_to_hub_saves_and_uploads(package, weights):
    assert hub.push_to_hub(weights, "me/SSIU_x2", licence="cc0-1.0") == "https://hub/commit"
    assert [name for name, *_ in package.asked] == ["create_repo", "upload_folder"]
    assert package.asked[0][2]["private"] is False


def test_a_folder_that_does_not_load_is_not_uploaded(package, folder):
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        hub.push(folder, "me/SSIU_x2")
    (folder / "README.md").unlink()
    with pytest.raises(InputError, match=r"has no README\.md"):
        hub.push(folder, "me/SSIU_x2")
    assert package.asked == []


def test_a_repository_is_downloaded_without_what_else_is_in_it(package, weights, folder):
    package.answers["snapshot_download"] = str(folder)
    network = hub.from_pretrained("me/SSIU_x2", revision="v1", **PLAIN)
    assert same_output(network, load(weights, **PLAIN))
    files = ["config.json", "model.safetensors"]
    assert package.asked == [("snapshot_download", ("me/SSIU_x2",), {"revision": "v1", "allow_patterns": files})]


def test_what_the_hub_refuses_is_one_line(package, folder):
    package.answers["snapshot_download"] = package.answers["create_repo"] = OSError("404 Client Error.\n\nNot found.")
    with pytest.raises(InputError, match=r"^me/none: no such folder, and no such repository.*\(404 Client Error\.\)"):
        hub.from_pretrained("me/none")
    with pytest.raises(InputError, match=r"^me/none: could not be uploaded \(404 Client Error\.\).*hf auth login$"):
        hub.push(folder, "me/none")


def test_without_the_package_one_line_says_how_to_install_it(no_package, folder):
    for call in (lambda: hub.from_pretrained("me/SSIU_x2"), lambda: hub.push(folder, "me/SSIU_x2")):
        with pytest.raises(InputError, match="pip install 'huggingface_hub>=1,<3'") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_folder_has_no_revision(folder):
    with pytest.raises(InputError, match="which has no revision v1; leave it out"):
        hub.from_pretrained(folder, revision="v1")


def of_another_scale(folder):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "scale": 3, "n_feats": 16}))


def not_finite(folder):
    state = SMALL.build().state_dict()
    state["head.bias"][0] = torch.nan
    safetensors.torch.save_file(state, folder / "model.safetensors")


WRONG = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"has no config\.json; such a folder is made with"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{scale"), r"config\.json: cannot be read"),
    "no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "deep": (lambda folder: (folder / "config.json").write_text("[" * 200_000), "cannot be read"),
    "endless": (lambda folder: (folder / "config.json").write_text('{"a": "' + "a" * 2_000_000), "cannot be read"),
    "list": (lambda folder: (folder / "config.json").write_text("[1]"), "another network"),
    "another": (lambda folder: (folder / "config.json").write_text('{"model_type": "bert\\n"}'), r"bert\\n, not ssiu"),
    "another scale": (of_another_scale, r"scale, n_feats not as in the weights beside it \(x2, 8 channels"),
    "weights of nothing": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged"),
    "not finite": (not_finite, "not finite"),
}


@pytest.mark.parametrize("damage", WRONG)
def test_a_folder_that_is_not_right_is_refused_in_one_line(folder, damage):
    change, message = WRONG[damage]
    change(folder)
    with pytest.raises((InputError, ModelError), match=message) as caught:
        hub.from_pretrained(folder, **PLAIN)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_commands_of_the_document_run(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "loaders.md").read_text(encoding="utf-8").split("## Hugging Face Hub")[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSIU_BACKEND", "plain")  # the fast ones prove themselves in other tests
    shutil.copytree(ROOT / "pretrain_model", "pretrain_model")
    for command in re.findall(r"```sh\npython -m tools\.hub (.*?)\n```", text):
        assert run_script("tools/hub.py", *command.split()).returncode == 0
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert names["upscale"].scale == 4

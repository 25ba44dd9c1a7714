"""What `--resume` finds in a run's folder: damaged checkpoints, other configs, records that cannot be read."""

import json
import os
import shutil

import pytest
import torch
import yaml
from helpers import TINY, assert_same_bits, final_state, run_script, stop_at, train

from config import load_config
from models.weights import read_checkpoint
from training import folder as folders
from training.checkpoints import load_run, run_checkpoints, save_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_data):
    """The folder of an undisturbed run of two epochs, and the state that it ends in."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.yml").write_text(yaml.safe_dump({**TINY, "data_path": str(tiny_data), "test_every": 1}))
    train(load_config(folder / "tiny.yml"), folder / "run")
    return folder / "run"


@pytest.fixture
def run(whole, tmp_path):
    """A copy of that run as it was in the middle: two checkpoints, of iterations 6 and 12, and none beside them."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "best.pt").unlink()
    return tmp_path / "run"


def resume(run):
    done = run_script("train.py", "--resume", run)
    assert done.returncode == 0, done.stderr
    return done


def replaced(path, make):
    path.unlink()
    make(path)


KINDS = {
    "directory": lambda path: path.mkdir(),
    "dangling link": lambda path: path.symlink_to("absent.pt"),
    "looping link": lambda path: path.symlink_to(path.name),
    "fifo": lambda path: os.mkfifo(path),
    "empty": lambda path: path.touch(),
}


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("kind", KINDS)
def test_a_newest_checkpoint_that_is_no_file_is_named_and_the_one_before_is_used(kind, run, whole):
    newest, before = run_checkpoints(run)
    replaced(newest, KINDS[kind])
    done = resume(run)
    assert f"warning: {newest}: " in done.stderr
    assert "; the checkpoint before it is tried" in done.stderr
    assert before.name == "iteration_0000006.pt"
    assert_same_bits(final_state(run), final_state(whole))
    assert os.path.lexists(newest.with_name(f"{newest.name}.bad"))


RANDOM = {"torch": torch.Generator().manual_seed(0).get_state(), "cuda": []}
BEST = {"psnr": 30.0, "iteration": 6, "set": "Sample"}
WRONG = [
    ("config", None), ("config", 5),
    ("iteration", None), ("iteration", "x"), ("iteration", -5), ("iteration", 1e300), ("iteration", True),
    ("validated", -1), ("validated", "6"),
    ("best", {}), ("best", 5), ("best", {**BEST, "psnr": "x"}), ("best", {**BEST, "iteration": 1.5}),
    ("minutes", "x"), ("minutes", float("nan")), ("minutes", -1.0),
    ("unlogged", []), ("unlogged", {"sums": ["x"], "steps": 1, "seconds": 1.0}),
    ("random_states", None), ("random_states", {}), ("random_states", {**RANDOM, "torch": torch.zeros(7)}),
    ("random_states", {**RANDOM, "torch": [1, 2]}), ("random_states", {**RANDOM, "cuda": [5]}),
    ("model_state_dict", []), ("model_state_dict", {"head.weight": 5}), ("model_state_dict", {5: torch.zeros(1)}),
    ("optimizer_state_dict", {}), ("optimizer_state_dict", {"state": {0: 5}}),
    ("bests", 5), ("bests", {"Sample": 5}),
    ("bests", {"Sample": {"psnr": {"value": 30.0, "iteration": -1, "epoch": 1}}}),
    ("epoch", "x"), ("scaler_state_dict", "x"), ("data", 5), ("backend", 5),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda value: str(value)[:30])
def test_a_newest_checkpoint_of_another_form_is_named_with_its_key_and_passed_over(key, value, run):
    newest = run_checkpoints(run)[0]
    content = {**read_checkpoint(newest), key: value}
    if value is None:
        del content[key]
    save_checkpoint(newest, content)
    said = []
    saved, bad = load_run(run, say=said.append)
    assert (saved.path, bad) == (run / "iteration_0000006.pt", [newest])
    assert [line.partition("' ")[0] for line in said] == [f"warning: {newest}: not a checkpoint of a run ('{key}"]


def test_moments_of_other_shapes_are_not_taken_for_those_of_the_weights(run):
    newest = run_checkpoints(run)[0]
    content = read_checkpoint(newest)
    content["optimizer_state_dict"]["state"][0]["exp_avg"] = torch.zeros(3)
    save_checkpoint(newest, content)
    done = run_script("train.py", "--resume", run)
    assert done.returncode == 2
    assert f"error: {newest}: cannot be resumed with this config (the moments of parameter 0 " in done.stderr


def test_best_is_gone_on_from_where_no_other_checkpoint_is_good(run, whole):
    newest, before = run_checkpoints(run)
    before.rename(run / "best.pt")
    newest.write_bytes(b"")
    resume(run)
    assert_same_bits(final_state(run), final_state(whole))


def test_without_any_good_checkpoint_the_error_is_one_line_and_nothing_is_renamed(run):
    for path in run_checkpoints(run):
        path.write_bytes(b"")
    done = run_script("train.py", "--resume", run)
    assert done.returncode == 2
    assert f"error: {run}: no good checkpoint to go on from" in done.stderr.splitlines()[-1]
    assert len(run_checkpoints(run)) == 2


@pytest.mark.parametrize(
    "line", [b'{"kind": "train\xff", "iteration": 6}', b"5", b'{"kind": "train", "iteration": "x"}', b"[" * 5000],
    ids=["not UTF-8", "number", "text iteration", "brackets"],
)  # fmt: skip
def test_records_that_cannot_be_read_are_dropped_and_counted(line, run):
    run_checkpoints(run)[0].unlink()
    before = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(line + b"\n" + before)
    done = resume(run)
    assert f"warning: {run / 'metrics.jsonl'}: 1 line(s) could not be read and were dropped" in done.stdout
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("train") == before.decode().count('"kind": "train"')


def test_a_resume_that_fails_leaves_the_config_and_the_next_one_goes_on(run, whole):
    run_checkpoints(run)[0].unlink()
    before = (run / "config.yml").read_bytes()
    done = run_script("train.py", "--resume", run, "--set", "lr=1e30", "--set", "eta_min=1e30")
    assert (done.returncode, "is not finite" in done.stderr) == (2, True)
    assert (run / "config.yml").read_bytes() == before
    resume(run)
    assert_same_bits(final_state(run), final_state(whole))


def test_a_changed_key_is_kept_with_the_first_checkpoint_of_the_new_piece(tiny_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        train(load_config(tiny_config()), tmp_path / "run")
        stop_at(5, patch)
        assert run_script("train.py", "--resume", tmp_path / "run", "--set", "log_every=2").returncode == 143
    assert load_config(tmp_path / "run" / "config.yml").log_every == 2
    done = resume(tmp_path / "run")
    assert done.stderr.count("warning") == 0


def test_a_config_file_that_is_not_the_checkpoints_is_warned_of_and_not_taken(run, whole):
    run_checkpoints(run)[0].unlink()
    text = (run / "config.yml").read_text()
    (run / "config.yml").write_text(text.replace("lr: 0.001", "lr: 0.002"))
    done = resume(run)
    assert "config.yml: lr says 0.002, iteration_0000006.pt 0.001; the config of iteration_0000006.pt is" in done.stderr
    assert_same_bits(final_state(run), final_state(whole))
    assert "lr: 0.001" in (run / "config.yml").read_text()


@pytest.mark.parametrize("content", [b"[" * 2000, b"\xff", None], ids=["brackets", "bytes", "none"])
def test_a_config_file_that_cannot_be_read_is_written_anew_also_where_nothing_is_left_to_do(content, run, whole):
    path = run / "config.yml"
    path.unlink() if content is None else path.write_bytes(content)
    done = resume(run)
    assert "; the config of iteration_0000012.pt is taken" in done.stderr
    assert path.read_bytes() == (whole / "config.yml").read_bytes()


def test_what_killed_writes_left_in_the_folder_and_among_its_images_is_gone_afterwards(run):
    for place in (run, run / "images" / "Sample"):
        place.mkdir(parents=True, exist_ok=True)
        (place / ".x.png.0123456789abcdef.tmp").touch()
    resume(run)
    assert list(run.rglob("*.tmp")) == []


def test_a_second_start_in_the_folder_of_a_run_is_refused_also_while_it_ends(tiny_config, tmp_path, monkeypatch):
    """The other run ends between the choice of the folder and its lock."""
    file = tiny_config(epochs=1, eval_sets=[], log_name="one")
    real = folders.held_folder

    def late(folder):
        monkeypatch.setattr(folders, "held_folder", real)
        train(load_config(file), folder)
        return real(folder)

    monkeypatch.setattr(folders, "held_folder", late)
    done = run_script("train.py", "--config", file)
    assert (done.returncode, "holds a run already" in done.stderr) == (2, True)


def test_a_mean_that_is_cut_by_a_stop_covers_its_whole_interval_after_all(tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config(epochs=1, log_every=6, eval_sets=[]))
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        train(config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)

    def losses(run):
        lines = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        return [(line["iteration"], line["loss"]) for line in lines if line["kind"] == "train"]

    assert losses("cut") == losses("whole")


def test_a_changed_config_is_refused_unless_named(run, whole):
    values = yaml.safe_load((run / "config.yml").read_text())
    changed = run / "changed.yml"
    changed.write_text(yaml.safe_dump({**values, "lr": 5e-4, "epochs": 3}))
    done = run_script("train.py", "--config", changed, "--resume", run)
    assert done.returncode == 2
    assert "epochs was 2, is 3; lr was 0.001, is 0.0005; name what shall change with --set" in done.stderr
    named = ["--set", "lr=5e-4", "--set", "epochs=3"]
    assert run_script("train.py", "--config", changed, "--resume", run, *named, "--dry-run").returncode == 0


@pytest.mark.parametrize("key", ["pretrain=other.pt", "log_name=other"])
def test_what_only_a_start_reads_cannot_change(key, run):
    done = run_script("train.py", "--resume", run, "--set", key)
    assert done.returncode == 2
    assert f"--set {key.partition('=')[0]}: is of the start of a run" in done.stderr


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    done = run_script("train.py", "--resume", tmp_path / "absent")
    assert done.returncode == 2
    assert "absent: no run to go on with: it is not there" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_use_is_refused(tiny_config, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yml").write_text("")
    done = run_script("train.py", "--config", tiny_config(log_name="mine"))
    assert done.returncode == 2
    assert "a run ended there before its first checkpoint; remove it" in done.stderr
    (tmp_path / "runs" / "mine" / "iteration_0000001.pt").write_text("")
    done = run_script("train.py", "--config", tiny_config(log_name="mine"))
    assert done.returncode == 2
    assert "holds a run already; continue it with --resume" in done.stderr

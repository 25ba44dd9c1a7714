"""Training: exact resume, schedule, options, several processes, and what stops a run."""

import json
import random
import re
import signal
from datetime import datetime

import pytest
import torch
from forked import Script
from helpers import assert_same_bits, final_state, run_script, stop_at, train, write_tiny

from config import load_config
from datas import BenchmarkSet, TrainSet, open_train_set, upscale
from evaluation.metrics import standard_scores
from models import ModelError, create_model
from models.weights import load_weights, read_checkpoint, read_weights
from training import loop, setup, validation
from training.checkpoints import run_checkpoints, save_checkpoint
from training.run_state import Position, snapshot
from training.step import TrainStep
from utils import InputError, held_folder

AVERAGED = {"ema_decay": 0.9, "clip_grad": 0.5}


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    """A whole run of 12 iterations, by AVERAGED."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(load_config(write_tiny(folder, tiny_data, **AVERAGED)), folder / "whole", resume=False) == 0
    return folder / "whole"


@pytest.mark.parametrize("threads", range(3))
def test_resume_at_any_iteration_gives_the_same_bits(threads, whole, tiny_config, tmp_path, monkeypatch):
    iteration = random.SystemRandom().randrange(11)  # of 12; the seed is the clock's, the promise holds for all
    config = load_config(tiny_config(**AVERAGED, threads=threads))
    with monkeypatch.context() as patch:
        stop_at(iteration, patch)
        assert train(config, tmp_path / "cut", resume=False) == 128 + signal.SIGTERM
    assert run_checkpoints(tmp_path / "cut")[0].name == f"iteration_{iteration + 1:07d}.pt"
    assert train(config, tmp_path / "cut", resume=True) == 0
    assert_same_bits(final_state(whole), final_state(tmp_path / "cut"))


def test_a_killed_process_that_saved_on_sigterm_resumes_to_the_same_bits(tiny_config, tmp_path):
    file = tiny_config(epochs=6, log_name="cut", eval_sets=[])
    process = Script("train.py", "--config", file)
    for line in process.lines:
        if line.startswith("iteration 3:"):
            process.send(signal.SIGTERM)
    process.ended(128 + signal.SIGTERM)
    folder = tmp_path / "runs" / "cut"
    reached = read_checkpoint(run_checkpoints(folder)[0])["iteration"]
    assert 3 <= reached < 36
    Script("train.py", "--resume", folder).ended()
    train(load_config(file), tmp_path / "whole", resume=False)
    assert_same_bits(final_state(tmp_path / "whole"), final_state(folder))
    steps = [json.loads(line)["iteration"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_records_beyond_the_checkpoint_are_dropped_on_resume(tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config(log_every=1))
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        train(config, tmp_path / "run", resume=False)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"kind": "train", "iteration": 6, "loss": 1}\n{"kind": "tr')
    train(config, tmp_path / "run", resume=True)
    steps = [json.loads(line)["iteration"] for line in log.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 13))


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(tiny_config, tmp_path, capsys):
    config = load_config(tiny_config())
    train(config, tmp_path / "run", resume=False)
    whole = final_state(tmp_path / "run")
    newest, before = run_checkpoints(tmp_path / "run")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 255
    newest.write_bytes(bytes(data))
    train(config, tmp_path / "run", resume=True)
    assert f"{newest}: damaged" in capsys.readouterr().err
    assert before.name == "iteration_0000006.pt"
    assert_same_bits(whole, final_state(tmp_path / "run"))


def test_old_checkpoints_are_thinned_and_the_best_is_kept(tiny_config, tmp_path):
    train(load_config(tiny_config(epochs=4, test_every=1, keep_last=2)), tmp_path / "run", resume=False)
    assert [p.name for p in run_checkpoints(tmp_path / "run")] == ["iteration_0000024.pt", "iteration_0000018.pt"]
    scores = {}
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        if line["kind"] == "validation/Sample":
            scores[line["iteration"]] = line["psnr"]
    assert len(scores) == 4
    assert read_checkpoint(tmp_path / "run" / "best.pt")["iteration"] == max(scores, key=scores.get)


def test_a_deterministic_run_takes_its_steps_by_deterministic_algorithms(tiny_config, tmp_path, monkeypatch):
    original, seen = loop.learning_rate, []

    def looking(*arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return original(*arguments)

    monkeypatch.setattr(loop, "learning_rate", looking)
    train(load_config(tiny_config(epochs=1, deterministic=True)), tmp_path / "fixed")
    train(load_config(tiny_config(epochs=1)), tmp_path / "free")
    assert seen == 6 * [True] + 6 * [False]
    assert_same_bits(final_state(tmp_path / "fixed"), final_state(tmp_path / "free"))  # on a CPU


def one_step(config, seed=0):
    torch.manual_seed(seed)
    model = create_model(config)
    step = TrainStep(config, model, model, torch.device("cpu"), draw=lambda *crops: crops)
    generator = torch.Generator().manual_seed(1)
    lr = torch.randint(0, 256, (4, 12, 12, 3), dtype=torch.uint8, generator=generator)
    hr = torch.randint(0, 256, (4, 24, 24, 3), dtype=torch.uint8, generator=generator)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    return step, before, step((lr, hr), 1e-3)


def test_accumulated_pieces_give_the_loss_and_the_step_of_the_whole_batch(tiny_config):
    whole, _, terms = one_step(load_config(tiny_config()))
    cut, _, cut_terms = one_step(load_config(tiny_config(accumulate=4)))
    torch.testing.assert_close(terms, cut_terms, rtol=1e-5, atol=0)
    for index, state in whole.optimizer.state_dict()["state"].items():
        other = cut.optimizer.state_dict()["state"][index]
        torch.testing.assert_close(state["exp_avg"], other["exp_avg"], rtol=1e-3, atol=1e-7)


def test_the_average_moves_by_its_decay(tiny_config):
    step, before, _ = one_step(load_config(tiny_config(ema_decay=0.75)))
    for (name, average), now in zip(step.ema.named_parameters(), step.model.parameters(), strict=True):
        torch.testing.assert_close(average, 0.75 * before[name] + 0.25 * now.detach(), msg=name)


def test_clipping_bounds_the_gradient_that_adamw_sees(tiny_config):
    free, _, _ = one_step(load_config(tiny_config()))
    clipped, _, _ = one_step(load_config(tiny_config(clip_grad=1e-3)))

    def norm(step):  # after one step from zero, exp_avg is (1 - beta1) times the gradient
        moments = (state["exp_avg"] for state in step.optimizer.state_dict()["state"].values())
        return 10 * torch.stack([moment.norm() for moment in moments]).norm().item()

    assert norm(free) > 0.01
    assert norm(clipped) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_trains_close_to_float32(precision, tiny_config):
    _, _, full = one_step(load_config(tiny_config()))
    step, before, terms = one_step(load_config(tiny_config(precision=precision)))
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms, full, rtol=0.02, atol=0)
    assert any(not torch.equal(before[name], p) for name, p in step.model.named_parameters())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tiny_config, tmp_path):
    config = load_config(tiny_config(lr=1e30, eta_min=1e30))
    with pytest.raises(InputError, match=r"the loss of iteration \d+ is not finite \(l1 nan, fft nan\); images: 000"):
        train(config, tmp_path / "run", resume=False)
    assert run_checkpoints(tmp_path / "run") == []


def test_weights_that_are_not_finite_are_never_saved(tiny_config):
    step, _, _ = one_step(load_config(tiny_config()))
    next(step.model.parameters()).data[0] = torch.nan
    with pytest.raises(InputError, match=r"not finite after iteration 0 \(first: head.weight\)"):
        snapshot(step, Position(), step.config, open_train_set(step.config))


def test_max_minutes_ends_the_run_annealed_and_validated(tiny_config, tmp_path, steady_clock):
    config = load_config(tiny_config(epochs=10_000, max_minutes=0.2, test_every=0, schedule="progress", log_every=1))
    assert train(config, tmp_path / "run", resume=False) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["kind"] == "validation/Sample"
    assert [line["lr"] for line in lines if line["kind"] == "train"][-1] < 2e-5
    assert train(config, tmp_path / "run", resume=True) == 0  # nothing is left to do
    assert [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == lines


def test_two_processes_cannot_train_in_one_folder(tiny_config, tmp_path):
    with held_folder(tmp_path / "run"), pytest.raises(InputError, match="another process is at work in it"):
        train(load_config(tiny_config()), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
    assert train(load_config(tiny_config(epochs=1, eval_sets=[])), tmp_path / "run", resume=False) == 0


def test_a_folder_that_cannot_be_written_to_is_named_before_any_work(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(setup, "open_train_set", lambda config: pytest.fail("the data was packed first"))
    with pytest.raises(InputError, match="file/run: cannot be written to"):
        train(load_config(tiny_config()), tmp_path / "file" / "run", resume=False)


def test_a_validation_that_failed_is_made_up_for_on_resume(tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config(epochs=1))
    with monkeypatch.context() as patch:
        patch.setattr(validation, "evaluate_set", lambda *_, **__: exec("raise InputError('damaged')", globals()))
        with pytest.raises(InputError, match="damaged"):
            train(config, tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "best.pt").exists()
    assert train(config, tmp_path / "run", resume=True) == 0
    assert read_checkpoint(tmp_path / "run" / "best.pt")["validated"] == 6
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert train(config, tmp_path / "run", resume=True) == 0  # nothing is left to do
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == log


def test_a_validation_that_cannot_run_is_refused_before_the_first_step(tiny_config, tmp_path):
    with pytest.raises(ModelError, match="'tf32' is arithmetic of CUDA devices"):
        train(load_config(tiny_config(eval_precision="tf32", gpu_ids=[])), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_other_images_than_before_are_refused_on_resume(tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config())
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        train(config, tmp_path / "run", resume=False)
    monkeypatch.setattr(TrainSet, "fingerprint", lambda self: "5 images 0123456789abcdef")
    with pytest.raises(InputError, match=r"not those of the run \(5 images, it had 6; names or sizes differ\)"):
        train(config, tmp_path / "run", resume=True)


def test_images_are_written_once_and_only_when_asked(tiny_config, tmp_path):
    train(load_config(tiny_config(test_every=1, epochs=1)), tmp_path / "quiet", resume=False)
    assert list((tmp_path / "quiet").rglob("*.png")) == []
    train(load_config(tiny_config(test_every=1, save_image=True)), tmp_path / "asked", resume=False)
    assert len(list((tmp_path / "asked" / "images" / "Sample").glob("*.png"))) == 2


def test_fine_tuning_across_scales_keeps_all_but_the_tail(tiny_config, tmp_path):
    train(load_config(tiny_config(epochs=1)), tmp_path / "x2", resume=False)
    weights = read_weights(tmp_path / "x2" / "best.pt")
    torch.manual_seed(9)
    model = create_model(load_config(tiny_config(scale=4, patch_size=48)))
    with pytest.raises(ModelError, match=r"file: x2, .*; config: x4, .*pretrain_new_tail"):
        load_weights(model, tmp_path / "x2" / "best.pt")
    report = load_weights(model, tmp_path / "x2" / "best.pt", new_tail=True)
    for key, value in model.state_dict().items():
        if not key.startswith("tail."):
            assert torch.equal(value, weights[key]), key
    assert sorted(report.initialised) == ["tail.3.bias", "tail.3.weight", "tail.6.bias", "tail.6.weight"]
    assert sorted(report.skipped) == ["tail.3.bias", "tail.3.weight"]
    assert "4 keys initialised afresh: tail.6.weight" in str(report)


def lines_of(folder):
    """train.log without the times."""
    return [line.partition(" ")[2] for line in (folder / "train.log").read_text().splitlines()]


def test_every_line_of_the_log_carries_its_time(tiny_config, tmp_path):
    pretrain = tmp_path / "start.pt"
    torch.save(create_model(load_config(tiny_config())).state_dict(), pretrain)
    before = datetime.now().replace(microsecond=0)
    train(load_config(tiny_config(epochs=1, pretrain=str(pretrain))), tmp_path / "run", resume=False)
    times = [line.partition(" ")[0] for line in (tmp_path / "run" / "train.log").read_text().splitlines()]
    assert all(len(text) == len("2026-01-02T03:04:05") for text in times)
    assert before <= datetime.fromisoformat(times[0]) <= datetime.fromisoformat(times[-1]) <= datetime.now()


def test_the_loss_is_logged_at_least_once_an_epoch(tiny_config, tmp_path):
    train(load_config(tiny_config(epochs=3, log_every=1000, eval_sets=[])), tmp_path / "run", resume=False)
    logged = [line for line in lines_of(tmp_path / "run") if ": loss " in line]
    assert [line.partition(":")[0] for line in logged] == ["iteration 6", "iteration 12", "iteration 18"]


def test_the_first_validation_also_scores_bicubic_and_later_ones_say_the_best(tiny_config, tmp_path, monkeypatch):
    config, folder = load_config(tiny_config(epochs=3, test_every=1)), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(9, patch)
        train(config, folder, resume=False)
    train(config, folder, resume=True)
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (bicubic,) = (line for line in written if line["kind"] == "bicubic/Sample")
    pairs = [(pair.hr, upscale(pair.lr, 2)) for pair in BenchmarkSet(config.data_path, "Sample", 2)]
    scores = [standard_scores(*(torch.from_numpy(image).permute(2, 0, 1) for image in pair), 2) for pair in pairs]
    assert bicubic["iteration"] == 6
    assert bicubic["psnr"] == pytest.approx(sum(score.psnr for score in scores) / 2)
    assert bicubic["ssim"] == pytest.approx(sum(score.ssim for score in scores) / 2)
    assert f"bicubic Sample: {bicubic['psnr']:.3f} dB / {bicubic['ssim']:.4f}" in lines_of(folder)
    psnr = {line["iteration"]: line["psnr"] for line in written if line["kind"] == "validation/Sample"}
    said = [line for line in lines_of(folder) if line.startswith("best so far")]
    best = [max((psnr[n], n) for n in psnr if n <= reached) for reached in (12, 18)]
    assert said == [f"best so far on Sample: {value:.3f} dB at iteration {n}" for value, n in best]


def test_with_max_minutes_the_bar_ends_where_the_clock_does(tiny_config, steady_clock):
    wanted = ["--set", "epochs=10000", "--set", "max_minutes=0.2", "--set", "eval_sets=[]"]
    done = run_script("train.py", "--config", tiny_config(), *wanted)
    assert done.returncode == 0, done.stderr
    assert re.search(r"100%.* (2[45])/\1 ", done.stderr.split("\r")[-1])  # 24 halves of a second, with rounding
    assert "60000" not in done.stderr


def test_an_error_stands_on_a_line_of_its_own(tiny_config):
    done = run_script("train.py", "--config", tiny_config(lr=1e30, eta_min=1e30))
    assert done.returncode == 2
    last = done.stderr.rstrip("\n").split("\n")[-1]
    assert last.startswith("error: the loss of iteration")


@pytest.mark.parametrize(
    "change", [{"data_path": "/absent"}, {"pretrain": "absent.pt"}, {"eval_sets": ["Set6"]}, {"losses": {"l3": 1.0}}]
)
def test_a_refused_run_leaves_nothing(change, tiny_config, tmp_path):
    (tmp_path / "runs").mkdir()
    done = run_script("train.py", "--config", tiny_config(**change))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(tiny_config, tiny_data, tmp_path):
    held_out = tiny_data / "benchmark" / "Sample" / "HR"
    entries = [{"path": str(tiny_data / "Sample" / "Sample_train_HR"), "weight": 3.0}, {"path": str(held_out)}]
    done = run_script("train.py", "--config", tiny_config(data=entries), "--dry-run")
    assert done.returncode == 0, done.stderr
    parameters = sum(p.numel() for p in create_model(load_config(tiny_config())).parameters())
    assert f"network: SSUFSR x2, {parameters:,} parameters; loss: 1 l1 + 0.01 fft\n" in done.stdout
    assert f"crops from {entries[0]['path']}: 75.0% (6 images)\n" in done.stdout
    assert f"{held_out / '0000.png'}: has the pixels of {held_out / '0000.png'}, an evaluation image" in done.stdout
    assert not (tmp_path / "runs").exists()
    wrong = run_script("train.py", "--config", tiny_config(pretrain="absent.pt"), "--dry-run")
    assert (wrong.returncode, wrong.stderr.partition(";")[0]) == (2, "error: absent.pt: no such checkpoint")


def scores_of(folder):
    """Validation lines of a run without the clock's, and the iteration of best.pt."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    scores = [{k: v for k, v in line.items() if k != "minutes"} for line in lines if "/" in line["kind"]]
    return scores, read_checkpoint(folder / "best.pt")["iteration"]


@pytest.fixture(scope="module")
def overshooting(tiny_data, tmp_path_factory):
    """(A config, the folder of a whole run): four epochs at a learning rate that makes an early validation the best, so
    that losing it would show."""
    folder = tmp_path_factory.mktemp("overshooting")
    config = load_config(write_tiny(folder, tiny_data, epochs=4, test_every=1, lr=0.05))
    train(config, folder / "whole", resume=False)
    return config, folder / "whole"


@pytest.mark.parametrize("iteration", [5, 11, 17, 23])
def test_a_stop_in_an_epochs_last_step_loses_no_validation(iteration, overshooting, tmp_path, monkeypatch):
    config, whole = overshooting
    with monkeypatch.context() as patch:
        stop_at(iteration, patch)
        train(config, tmp_path / "cut", resume=False)
    train(config, tmp_path / "cut", resume=True)
    assert scores_of(tmp_path / "cut") == scores_of(whole)
    assert_same_bits(final_state(tmp_path / "cut"), final_state(whole))


@pytest.mark.parametrize("validations", [0, 1, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_around_the_save_of_a_validation_loses_and_doubles_nothing(
    validations, when, overshooting, tmp_path, monkeypatch
):
    """The checkpoint of the epoch is there; that which knows the scores is not, or best.pt is and it is not."""
    config, whole = overshooting
    real, made = validation.Run.save, []

    def crashing(run, is_best=None):
        if is_best is None or len(made) < validations:
            made.extend([1] * (is_best is not None))
            return real(run, bool(is_best))
        if when == "after" and is_best:
            save_checkpoint(run.folder / "best.pt", {"iteration": "written, and then killed"})
        raise InputError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(validation.Run, "save", crashing)
        with pytest.raises(InputError, match="killed here"):
            train(config, tmp_path / "cut", resume=False)
    train(config, tmp_path / "cut", resume=True)
    assert scores_of(tmp_path / "cut") == scores_of(whole)

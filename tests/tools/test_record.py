"""Training by the clock in pieces, mixing of sources, and the record table."""

import json
import os
import signal

import imageio.v3 as imageio
import pytest
from helpers import run_script, train

from config import load_config
from evaluation.metrics import Scores
from tools.record import plot, read_bicubic, read_run, table
from training import loop
from utils import InputError


def logged(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


START = {
    "kind": "start",
    "iteration": 0,
    "date": "2026-01-02",
    "commit": "abc",
    "processes": 1,
    "device": "EPYC, 2 threads",
}


def validation(name, iteration, minutes, psnr):
    scores = {"psnr": psnr, "ssim": psnr / 40}
    return {"kind": f"validation/{name}", "iteration": iteration, "minutes": minutes, **scores}


@pytest.fixture
def written_run(tiny_config, tmp_path):
    """Function of a name, the lines of metrics.jsonl and config keys: a run of which these are the records."""

    def write(name, lines, **changes):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yml").write_text(load_config(tiny_config(**changes)).to_yaml())
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_run(folder)

    return write


def test_a_run_by_the_clock_cut_into_pieces_anneals_once_over_the_whole(
    tiny_config, tmp_path, monkeypatch, steady_clock
):
    """24 steps of half a second fill 0.2 minutes."""
    config = load_config(tiny_config(epochs=1000, schedule="progress", max_minutes=0.2, log_every=1, eval_sets=[]))
    original, steps = loop.learning_rate, []

    def interrupting(*position):
        steps.append(position)
        if len(steps) in (5, 11):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*position)

    monkeypatch.setattr(loop, "learning_rate", interrupting)
    folder = tmp_path / "run"
    assert [train(config, folder, resume) for resume in (False, True, True)] == [143, 143, 0]
    rates = [line["lr"] for line in logged(folder, "train")]
    minutes = [line["minutes"] for line in logged(folder, "train")]
    assert [line["iteration"] for line in logged(folder, "start")] == [0, 5, 11]
    assert rates == sorted(rates, reverse=True)
    assert minutes == sorted(minutes)
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < 0.02 * rates[0]
    assert minutes[-1] >= 0.2 > minutes[-2]
    halfway = next(rate for rate, before in zip(rates[1:], minutes, strict=False) if before >= 0.1)
    assert halfway == pytest.approx(0.5e-3, rel=0.15)


def test_a_record_cut_short_and_a_set_that_no_run_has_are_named(written_run, tmp_path):
    run = written_run("run", [START, validation("Sample", 6, 1.0, 30.0)])
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    with pytest.raises(InputError, match="--set Set5: no run has validations of it; they have Sample"):
        plot([run], "Set5", {}, tmp_path / "x.png")
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')
    with pytest.raises(InputError, match=r"metrics\.jsonl: a line is no record"):
        read_run(run.folder)


def test_crops_come_from_the_sources_by_their_weights_and_a_dry_run_says_so(tiny_config, tiny_data):
    entries = [
        {"path": str(tiny_data / "Sample" / "Sample_train_HR"), "weight": 3.0},
        {"path": str(tiny_data / "benchmark" / "Sample" / "HR"), "weight": 1.0},
    ]
    done = run_script("train.py", "--config", tiny_config(data=entries), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"crops from {entries[0]['path']}: 75.0% (6 images)" in done.stdout
    assert f"crops from {entries[1]['path']}: 25.0% (2 images)" in done.stdout


def cells(text):
    """The rows of a Markdown table, each by column."""
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_record_table_is_read_off_a_run(tiny_config, tmp_path):
    train(load_config(tiny_config(seed=1, test_every=1)), tmp_path / "run", resume=False)
    run = read_run(tmp_path / "run")
    rows = cells(table([run], read_bicubic([run], [])))
    final = logged(tmp_path / "run", "validation/Sample")[-1]
    assert rows[0]["Sample"] == f"{final['psnr']:.3f} / {final['ssim']:.4f}"
    found = [rows[0][column] for column in ("run", "seeds", "scale", "iterations", "images seen")]
    assert found == ["run", "1", "x2", "12", "48"]
    assert rows[0]["hours"].endswith("core-hours")
    bicubic = logged(tmp_path / "run", "bicubic/Sample")[-1]
    assert [row["run"] for row in rows] == ["run", "bicubic"]
    assert rows[1]["Sample"] == f"{bicubic['psnr']:.3f} / {bicubic['ssim']:.4f}"


def test_runs_that_differ_by_seed_share_a_row_of_means(written_run):
    names = {"one": (1, 30.0, 60.0), "two": (2, 32.0, 120.0)}
    runs = [
        written_run(name, [START, validation("Sample", 6, minutes, psnr)], seed=seed)
        for name, (seed, psnr, minutes) in names.items()
    ]
    (row,) = cells(table(runs, {}))
    assert (row["run"], row["seeds"], row["hours"]) == ("one, two", "1, 2", "3.00 core-hours")
    assert row["Sample"] == "31.000 (spread 2.000) / 0.7750"
    other = written_run("other", [START, validation("Sample", 6, 60.0, 33.0)], seed=3, lr=5e-4)
    assert [row["run"] for row in cells(table([*runs, other], {}))] == ["one, two", "other"]


def test_the_best_iteration_is_that_of_the_first_set_and_stands_beside_the_last(written_run):
    scores = {"HeldOut": {3: 30.0, 6: 32.0, 9: 31.0}, "Set5": {3: 40.0, 6: 37.0, 9: 38.0}}
    lines = [validation(name, n, n, psnr) for name, by_n in scores.items() for n, psnr in by_n.items()]
    run = written_run("mine", [START, *lines], eval_sets=["HeldOut", "Set5"])
    row = cells(table([run], {}))[0]
    assert (row["iterations"], row["HeldOut"], row["Set5"]) == ("9", "31.000 / 0.7750", "38.000 / 0.9500")
    assert row["best iteration"] == "6 (by HeldOut)"
    assert (row["HeldOut at the best"], row["Set5 at the best"]) == ("32.000 / 0.8000", "37.000 / 0.9250")


def test_hours_are_counted_with_the_hardware_of_each_piece(written_run):
    pieces = [
        {**START, "processes": 2},  # x 2 threads, for 30 minutes
        {"kind": "train", "iteration": 3, "minutes": 30.0},
        {**START, "iteration": 3, "device": "NVIDIA H100", "processes": 4},  # for 15 minutes
        validation("Sample", 6, 45.0, 30.0),
    ]
    row = cells(table([written_run("run", pieces)], {}))[0]
    assert row["hours"] == "2.00 core-hours + 1.00 GPU-hours"
    assert row["hardware"] == "2 x EPYC, 2 threads; 4 x NVIDIA H100"


def test_bicubic_and_the_paper_have_rows_of_their_own(written_run):
    bicubic = {"kind": "bicubic/Set5", "iteration": 6, "psnr": 33.6731, "ssim": 0.93031}
    run = written_run("run", [START, bicubic, validation("Set5", 6, 60.0, 37.0)], eval_sets=["Set5"])
    rows = {row["run"]: row for row in cells(table([run], read_bicubic([run], [])))}
    assert rows["bicubic"]["Set5"] == "33.673 / 0.9303"
    assert rows["paper, `official`"]["Set5"] == "38.31 / 0.9632"
    assert {row["scale"] for row in rows.values()} == {"x2"}


def test_bicubic_of_an_older_run_comes_from_a_file_of_test_py(written_run, tmp_path):
    run = written_run("run", [START, validation("Sample", 6, 60.0, 37.0)])
    file = tmp_path / "scores.json"
    scores = {"psnr": 33.0, "ssim": 0.9}
    file.write_text(json.dumps({"config": {"scale": 2}, "sets": {"Sample": {"bicubic": {"standard": scores}}}}))
    assert [row["run"] for row in cells(table([run], {}))] == ["run"]
    assert cells(table([run], read_bicubic([run], [file])))[1]["Sample"] == "33.000 / 0.9000"
    file.write_text("{}")
    with pytest.raises(InputError, match=r"scores\.json: holds no scores of bicubic"):
        read_bicubic([run], [file])


def test_sets_of_one_name_with_other_images_are_not_put_into_one_table(written_run):
    runs = [
        written_run(
            name,
            [START, {**validation("Sample", 6, 6, psnr), "kind": "bicubic/Sample"}, validation("Sample", 6, 6, 30.0)],
        )
        for name, psnr in (("one", 25.0), ("two", 25.1))
    ]
    with pytest.raises(InputError, match=r"bicubic x2 has 25\.000 dB on Sample in .*one, 25\.100 dB in .*two"):
        read_bicubic(runs, [])


def test_the_picture_has_hours_from_left_to_right_and_lines_for_bicubic_and_paper(written_run, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="the picture needs matplotlib")
    run = written_run("run", [START, *(validation("Set5", n, 30 * n, 30.0 + n) for n in (1, 2))], eval_sets=["Set5"])
    plot([run], "Set5", {2: {"Set5": Scores(33.0, 0.9)}}, tmp_path / "curve.png")
    curve, *levels = pyplot.gcf().axes[0].lines
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([0.5, 1.0], [31.0, 32.0])
    assert sorted(line.get_ydata()[0] for line in levels) == [33.0, 38.31]
    assert imageio.imread(tmp_path / "curve.png").std() > 5


def test_a_folder_that_is_no_finished_run_is_refused(written_run, tmp_path):
    with pytest.raises(InputError, match="holds no validation"):
        written_run("run", [START])
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"metrics\.jsonl: no such file"):
        read_run(tmp_path / "run")

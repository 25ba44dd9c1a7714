"""run.html: what a run's folder holds, as a page; all pieces of a run that was resumed, and no reason to stop."""

import json

import numpy as np
import pytest
from helpers import assert_same_bits, final_state, run_script, train, write_tiny
from markup import Page

from config import load_config
from training import run_page as module
from training.run_page import MOST_PANELS, SIDE, evenly, keep_panel, middle, panels, read_record, run_page, write_page

HOSTILE = "</pre><script>alert(1)</script>"


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_lines(folder, *entries):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


@pytest.fixture(scope="module")
def resumed(tiny_data, tmp_path_factory):
    """The folder of a run that ended after an epoch and went on for another."""
    folder = tmp_path_factory.mktemp("run") / "a run"
    for epochs in (1, 2):
        config = write_tiny(folder.parent, tiny_data, epochs=epochs, test_every=1)
        train(load_config(config), folder, resume=epochs == 2)
    return folder


def test_the_page_of_a_resumed_run_shows_all_its_pieces(resumed):
    page = Page((resumed / "run.html").read_bytes())
    header, *pieces = page.tables["Where each piece of the run began"]
    assert [row[:2] for row in pieces] == [["started", "0"], ["resumed", "6"]]
    started = [line for line in lines_of(resumed) if line["kind"] == "start"]
    for row, line in zip(pieces, started, strict=True):
        assert dict(zip(header[2:], row[2:], strict=True)) == {key: str(line[key]) for key in header[2:]}
    labels = [attributes.get("aria-label") for name, attributes in page.elements if name == "svg"]
    assert labels == ["Loss over iterations", "Learning rate over iterations", "PSNR of Sample over iterations"]
    marks = [attributes for name, attributes in page.elements if attributes.get("class") == "mark"]
    assert len(marks) == 3  # one in each chart, where the run was resumed
    assert "epochs: 2" in page.text


def test_the_scores_are_the_best_of_the_log(resumed):
    page = Page((resumed / "run.html").read_bytes())
    shown = dict(zip(*page.tables["Best scores of every set"], strict=True))
    scores = [line for line in lines_of(resumed) if line["kind"] == "validation/Sample"]
    assert len(scores) == 2
    assert shown["best PSNR"] == f"{max(line['psnr'] for line in scores):.3f}"
    assert shown["last PSNR"] == f"{scores[-1]['psnr']:.3f}"
    assert shown["best official SSIM"] == f"{max(line['official_ssim'] for line in scores):.4f}"


def test_a_picture_of_each_validation_is_on_the_page(resumed):
    page = Page((resumed / "run.html").read_bytes())
    assert list(panels(resumed)) == [6, 12]
    pictures = [attributes["alt"] for name, attributes in page.elements if name == "img"]
    assert pictures == [f"LR, bicubic, SR and HR at iteration {iteration}" for iteration in (6, 12)]
    assert all(address.startswith("data:") for address in page.addresses)


def test_a_page_that_cannot_be_written_is_warned_of_and_the_run_goes_on(tiny_config, tmp_path):
    run = tmp_path / "runs" / "run"
    (run / "run.html").mkdir(parents=True)
    (run / "panels").touch()
    done = run_script("train.py", "--config", tiny_config(epochs=1, test_every=1, log_name="run"))
    assert done.returncode == 0, done.stderr
    assert f"warning: {run}/run.html: cannot be written (Is a directory); the run goes on without" in done.stdout
    assert f"warning: {run}/panels/0000006.webp: cannot be written (" in done.stdout
    assert (run / "iteration_0000006.pt").is_file()


def test_pages_change_no_bit_of_a_run(tiny_config, tmp_path, monkeypatch, resumed):
    monkeypatch.setattr("training.validation.keep_panel", lambda *rest: None)
    monkeypatch.setattr("training.validation.write_page", lambda *rest: None)
    monkeypatch.setattr("training.loop.write_page", lambda *rest: None)
    for epochs in (1, 2):
        train(load_config(tiny_config(epochs=epochs, test_every=1)), tmp_path / "without", resume=epochs == 2)
    assert not (tmp_path / "without" / "run.html").exists()
    assert_same_bits(final_state(tmp_path / "without"), final_state(resumed))


def test_panels_stay_few_and_spread_over_the_run(tmp_path):
    panel = np.zeros((40, 160, 3), np.uint8)
    for iteration in range(10, 10 * (MOST_PANELS + 20), 10):
        keep_panel(tmp_path, iteration, panel, print)
    kept = list(panels(tmp_path))
    assert (len(kept), kept[0], kept[-1]) == (MOST_PANELS, 10, 10 * (MOST_PANELS + 19))
    assert max(np.diff(kept)) <= 4 * np.diff(kept).mean()


def test_panels_of_steps_that_are_taken_again_go(tmp_path):
    for iteration in (10, 20, 30, 15):
        keep_panel(tmp_path, iteration, np.zeros((40, 160, 3), np.uint8), print)
    assert list(panels(tmp_path)) == [10, 15]


def test_of_even_panels_those_go_that_are_closest():
    assert evenly(range(MOST_PANELS)) == set(range(MOST_PANELS))
    close = [0, 1, *range(100, 100 * MOST_PANELS, 100)]
    assert evenly(close) == {0, *range(100, 100 * MOST_PANELS, 100)}


def test_a_panel_is_the_middle_of_each_picture():
    parts = [np.full((300, 200, 3), number, np.uint8) for number in range(4)]
    cut = middle(np.concatenate(parts, axis=1))
    assert cut.shape == (SIDE, 4 * SIDE, 3)
    assert [np.unique(cut[:, n * SIDE : (n + 1) * SIDE]).tolist() for n in range(4)] == [[0], [1], [2], [3]]
    assert middle(np.zeros((9, 4 * 7, 3), np.uint8)).shape == (9, 28, 3)


def test_text_of_the_folder_becomes_no_markup(tmp_path):
    run = tmp_path / "a&b"
    values = {"iteration": 1, "minutes": 1.0, "psnr": 30.0, HOSTILE: 0.5}
    kinds = ("train", f"validation/{HOSTILE}", f"bicubic/{HOSTILE}")
    write_lines(run, {"kind": "start", "iteration": 0, HOSTILE: HOSTILE}, *({"kind": kind, **values} for kind in kinds))
    (run / "config.yml").write_text(HOSTILE)
    page = Page(run_page(run))
    assert sum(name == "script" for name, _ in page.elements) == 1
    assert page.text.count("a&b: training") == 2
    assert page.text.count(HOSTILE) >= 4


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"[]", b"7", b'{"kind": 3, "iteration": 1}', b'{"kind": "train"}', b"\xff\xfe", b"[" * 100000,
        b'{"kind": "train", "iteration": "x", "loss": 1}', b'{"kind": "start", "iteration": true}',
        b'{"kind": "train", "iteration": 9, "loss": "x", "lr": NaN, "minutes": -Infinity, "l1": [1], "psnr": null}',
        b'{"kind": "validation/A", "iteration": 9, "psnr": 1' + b"0" * 400 + b', "ssim": {}}',
        b'{"kind": "validation/A", "iteration": 1e400, "psnr": 1}',
        b'{"kind": "start", "iteration": 0.5, "a": {"b": []}}',
        b'{"kind": "train", "iteration": -5, "loss": -1, "minutes": -3}',
    ],
)  # fmt: skip
def test_a_damaged_log_gives_a_page_still(line, tmp_path):
    good = b'{"kind": "train", "iteration": 5, "loss": 0.5, "lr": 0.001, "minutes": 2}'
    (tmp_path / "metrics.jsonl").write_bytes(good + b"\n" + line + b"\n")
    Page(run_page(tmp_path))
    assert read_record(tmp_path / "metrics.jsonl").train[0]["loss"] == 0.5


def test_a_folder_with_nothing_gives_a_page(tmp_path):
    assert "iteration 0; written" in Page(run_page(tmp_path)).text


def test_a_page_that_fails_to_come_leaves_the_last_one(tmp_path, monkeypatch):
    said = []
    write_page(tmp_path, said.append)
    before = (tmp_path / "run.html").read_bytes()
    write_lines(tmp_path, {"kind": "train", "iteration": 7, "loss": 1.0})

    def full(*rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "atomic_write", full)
    write_page(tmp_path, said.append)
    assert said == [
        f"warning: {tmp_path}/run.html: cannot be written (No space left on device); the run goes on without"
    ]
    assert (tmp_path / "run.html").read_bytes() == before

"""test.py and what it leaves behind; every bad input to the two scripts ends in one line and a non-zero exit code."""

import csv
import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import imageio.v3 as imageio
import numpy as np
import pytest
import pytorch_msssim
import torch
import yaml
from forked import Script
from helpers import ROOT, TINY, run_script
from skimage.metrics import peak_signal_noise_ratio

from config import load_config
from datas import BenchmarkSet, Pair, upscale
from datas.prepare import main as prepare
from evaluation import report
from evaluation.evaluator import ImageResult, SetResult, evaluate_set, self_ensemble
from evaluation.metrics import Scores, standard_scores
from models import create_model
from models.pixels import from_network, to_network
from models.weights import file_hash
from utils import InputError

CPU = torch.device("cpu")
SIZES = [(20, 30), (120, 160), (161, 80)]


def bicubic_network(x):
    """A network of known output: MATLAB's bicubic upscaling."""
    image = upscale((x[0] * 255).round().byte().permute(1, 2, 0).numpy(), 2)
    return to_network(image, CPU)


def test_a_known_network_gets_the_scores_of_its_images(tiny_data):
    result = evaluate_set(bicubic_network, BenchmarkSet(tiny_data, "Sample", 2), "Sample", 2, CPU, with_bicubic=True)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    expected = []
    for pair in BenchmarkSet(tiny_data, "Sample", 2):
        sr, hr = (16 + image[2:-2, 2:-2] @ weights for image in (upscale(pair.lr, 2), pair.hr))
        expected.append(peak_signal_noise_ratio(hr, sr, data_range=255))
    assert [image.scores["standard"].psnr for image in result.images] == pytest.approx(expected)
    assert result.mean("standard").psnr == pytest.approx(np.mean(expected))
    assert result.mean("standard") == result.mean("standard", bicubic=True)


def papers_scores(sr, hr, scale):
    """`official`, written down as the published code does it: float32 (1, 3, H, W) in [0, 1] each."""

    def y(image):
        image = image / 255.0
        red, green, blue = image[:, 0:1], image[:, 1:2], image[:, 2:3]
        return (65.481 * red + 128.553 * green + 24.966 * blue + 16.0) * 255

    sr, hr = (y(image)[:, :, scale:-scale, scale:-scale] for image in (sr, hr))
    error = ((sr.double() - hr.double()) / 255).pow(2).mean().item()
    return -10 * math.log10(error), pytorch_msssim.ssim(sr, hr).item()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("threads_as_before")
def test_an_evaluation_gives_the_papers_scores_to_the_last_bit(threads):
    torch.set_num_threads(threads)  # float32 means are summed in as many parts
    noise = torch.Generator().manual_seed(4)
    images = [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=noise) for height, width in SIZES]
    pairs = [Pair(str(n), image.numpy(), upscale(image.numpy(), 2)) for n, image in enumerate(images)]
    outputs = [to_network(pair.hr, CPU) + 0.05 * torch.rand(1, generator=noise) for pair in pairs]
    found = evaluate_set(
        lambda x: outputs[[*map(torch.Tensor.numel, outputs)].index(4 * x.numel())], pairs, "Set", 2, CPU
    )
    expected = [papers_scores(sr, to_network(pair.hr, CPU), 2) for sr, pair in zip(outputs, pairs, strict=True)]
    for result, (psnr, ssim) in zip(found.images, expected, strict=True):
        assert result.scores["official"].ssim == ssim
        assert result.scores["official"].psnr == pytest.approx(psnr, abs=1e-12)


def test_an_image_that_the_memory_cannot_hold_is_named(tiny_data):
    def too_large(_x):
        return torch.empty(2**60)  # fails in PyTorch's own words

    images = BenchmarkSet(tiny_data, "Sample", 2)
    with pytest.raises(InputError, match=r"Sample/\w+: out of memory for its SR image, \d+x\d+; close other programs"):
        evaluate_set(too_large, images, "Sample", 2, CPU)


def test_self_ensemble_of_an_equivariant_network_changes_nothing_and_otherwise_averages_eight_views():
    x = torch.rand(1, 3, 5, 7)
    torch.testing.assert_close(self_ensemble(lambda view: 2 * view)(x), 2 * x)
    ramp = torch.arange(7.0).expand(1, 3, 5, 7)
    seen = []

    def adds_ramp(view):
        seen.append(view.shape)
        return view + torch.linspace(0, 1, view.shape[3])

    torch.testing.assert_close(self_ensemble(adds_ramp)(ramp), ramp + 0.5)  # a ramp and its mirror image average to 0.5
    assert sorted(seen) == sorted([(1, 3, 5, 7)] * 4 + [(1, 3, 7, 5)] * 4)


def test_conversion_to_and_from_the_network_is_lossless():
    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    assert np.array_equal(from_network(to_network(image, CPU)[0]), image)


def test_images_without_hr_are_super_resolved_and_not_scored(tiny_data, tmp_path):
    shutil.copytree(tiny_data / "benchmark" / "Sample" / "LR_bicubic", tmp_path / "benchmark" / "Mine" / "LR_bicubic")
    images = BenchmarkSet(tmp_path, "Mine", 2, lr_only=True)
    result = evaluate_set(bicubic_network, images, "Mine", 2, CPU, image_folder=tmp_path / "out")
    assert [image.scores for image in result.images] == [{}, {}]
    written = imageio.imread(tmp_path / "out" / "0000_x2.png")
    assert np.array_equal(written, upscale(images[0].lr, 2))
    assert "| Mine | 2 " in report.table([result], 2)


def test_every_step_of_an_image_is_timed(tiny_data, tmp_path):
    def slow(x):
        time.sleep(0.05)
        return bicubic_network(x)

    images = BenchmarkSet(tiny_data, "Sample", 2)
    plain = evaluate_set(slow, images, "Sample", 2, CPU)
    assert all(image.seconds >= 0.05 for image in plain.images)
    assert [set(image.beside) for image in plain.images] == [{"read", "score"}] * 2
    full = evaluate_set(slow, images, "Sample", 2, CPU, with_bicubic=True, image_folder=tmp_path)
    assert [set(image.beside) for image in full.images] == [{"read", "score", "bicubic", "write"}] * 2
    assert all(0 < seconds < 5 for image in full.images for seconds in image.beside.values())


def test_what_goes_wrong_first_in_the_order_of_the_images_is_raised():
    good, other = numbered_pairs(2)
    small = Pair("tiny", other.lr[:7, :7], other.hr[:14, :14])

    def fails_at_the_last(x):
        if torch.equal(x, to_network(other.lr, CPU)):
            raise InputError("the network of the last image")
        return bicubic_network(x)

    with pytest.raises(InputError, match="Set/tiny: cannot be scored"):
        evaluate_set(fails_at_the_last, [good, small, other], "Set", 2, CPU)


def test_an_image_too_small_to_be_scored_is_named(tiny_data):
    pair = BenchmarkSet(tiny_data, "Sample", 2)[0]
    small = type(pair)("tiny", pair.lr[:7, :7], pair.hr[:14, :14])
    with pytest.raises(InputError, match="Sample/tiny: cannot be scored: SSIM needs images of at least 11x11"):
        evaluate_set(bicubic_network, [small], "Sample", 2, CPU)


class ThreadShare:
    """`world` threads in place of processes."""

    def __init__(self, world):
        self.world, self.barrier, self.lists, self.local = world, Barrier(world), [None] * world, local()

    @property
    def rank(self):
        return self.local.rank

    def gather(self, own):
        self.lists[self.rank] = own
        self.barrier.wait(timeout=20)
        return [entry for piece in self.lists for entry in piece]

    def run(self, work):
        """What `work(self)` returns or raises in each of them."""

        def one(rank):
            self.local.rank = rank
            try:
                return work(self)
            except Exception as error:
                return error

        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(one, range(self.world)))


def numbered_pairs(count):
    rng = np.random.default_rng(1)
    pairs = [rng.integers(0, 256, (16, 17, 3), dtype=np.uint8) for _ in range(count)]
    return [Pair(f"{n}", lr, np.roll(upscale(lr, 2), n, axis=0)) for n, lr in enumerate(pairs)]


@pytest.mark.parametrize(("world", "count"), [(2, 5), (3, 6), (4, 3)])
def test_images_shared_among_processes_give_the_result_of_one_process(world, count, tmp_path):
    seen, pairs = [], numbered_pairs(count)

    def network(x):
        seen.append(x)
        return bicubic_network(x)

    def work(share):
        return evaluate_set(network, pairs, "Set", 2, CPU, with_bicubic=True, image_folder=tmp_path, share=share)

    def untimed(result):
        return [(image.name, image.scores, image.bicubic) for image in result.images]

    shared = ThreadShare(world).run(work)
    assert len(seen) == count
    alone = evaluate_set(bicubic_network, pairs, "Set", 2, CPU, with_bicubic=True)
    assert [untimed(result) for result in shared] == [untimed(alone)] * world
    assert len(list(tmp_path.glob("*_x2.png"))) == count


def test_what_one_process_meets_is_raised_in_all(tiny_data):
    good, other = numbered_pairs(2)
    small = Pair("tiny", other.lr[:7, :7], other.hr[:14, :14])
    results = ThreadShare(2).run(lambda share: evaluate_set(bicubic_network, [good, small], "Set", 2, CPU, share=share))
    assert [type(result) for result in results] == [InputError] * 2
    assert str(results[0]) == str(results[1])
    assert "Set/tiny: cannot be scored" in str(results[0])


def test_a_surprise_in_one_process_keeps_its_kind_there_and_is_told_to_the_others():
    pairs = numbered_pairs(2)

    def network(x):
        if torch.equal(x, to_network(pairs[1].lr, CPU)):
            raise ZeroDivisionError("a bug")
        return bicubic_network(x)

    first, second = ThreadShare(2).run(lambda share: evaluate_set(network, pairs, "Set", 2, CPU, share=share))
    assert isinstance(second, ZeroDivisionError)
    assert isinstance(first, InputError)
    assert str(first) == "Set: process 1 of 2 failed with ZeroDivisionError: a bug"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_not_finite_is_refused_not_scored(value, tiny_data):
    images = BenchmarkSet(tiny_data, "Sample", 2)
    with pytest.raises(InputError, match="Sample/0000: the network's output is not finite"):
        evaluate_set(lambda x: bicubic_network(x) + value, images, "Sample", 2, CPU)


def test_the_papers_difference_uses_the_papers_rounding():
    scores = {"standard": Scores(32.6, 0.9), "official": Scores(32.6350, 0.90316)}
    result = SetResult("Set5", [ImageResult("one", scores, {}, 0.1)])
    assert "| 32.64 / 0.9032 | 32.64 / 0.9032 | +0.00 / +0.0000" in report.table([result], 4)


@pytest.fixture
def weights(tiny_config, tmp_path):
    torch.manual_seed(3)
    model = create_model(load_config(tiny_config()))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_the_script_writes_json_csv_and_images_that_agree(tiny_data, tiny_config, weights, tmp_path):
    out = tmp_path / "out"
    done = run_script(
        "test.py", "--config", tiny_config(), "--set", f"pretrain={weights}", "--json", tmp_path / "r.json",
        "--save-images", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    sample = result["sets"]["Sample"]
    assert result["weights"]["sha256"] == file_hash(weights)
    assert result["config"]["scale"] == 2
    assert {"torch", "numpy", "python"} <= result["versions"].keys()
    rows = list(csv.DictReader((out / "per_image.csv").open()))
    for metric in ("psnr", "ssim"):
        for protocol in ("standard", "official"):
            mean = sample[protocol][metric]
            assert mean == pytest.approx(np.mean([float(row[f"{protocol}_{metric}"]) for row in rows]), abs=1e-12)
            assert mean == pytest.approx(np.mean([i[protocol][metric] for i in sample["images"].values()]), abs=1e-12)
    assert sample["bicubic"]["standard"]["psnr"] > 10
    saved = imageio.imread(out / "Sample" / "0001_x2.png")
    hr = BenchmarkSet(tiny_data, "Sample", 2)[1].hr
    scores = standard_scores(*(torch.from_numpy(image).permute(2, 0, 1) for image in (saved, hr)), 2)
    assert scores.psnr == pytest.approx(sample["images"]["0001"]["standard"]["psnr"], abs=1e-9)
    assert f"{sample['standard']['psnr']:.3f}" in done.stdout


def test_the_model_card_holds_the_facts_and_the_table(tiny_config, weights):
    weights.with_suffix(".yml").write_text("data: six images\nhardware: none\n")
    done = run_script("test.py", "--config", tiny_config(), "--set", f"pretrain={weights}", "--model-card",
                      "--out", weights.parent / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = weights.with_suffix(".md").read_text()
    assert "- **data**: six images" in card
    assert file_hash(weights) in card
    assert next(line for line in done.stdout.splitlines() if line.startswith("| Sample")) in card


def test_empty_pretrain_takes_the_shipped_weights_and_says_so(tiny_config, tmp_path):
    lr_image = tmp_path / "benchmark" / "Mine" / "LR_bicubic" / "X4" / "ax4.png"
    lr_image.parent.mkdir(parents=True)
    imageio.imwrite(lr_image, np.zeros((16, 16, 3), np.uint8))
    done = run_script("test.py", "--config", ROOT / "configs" / "SSUFSR_light_x4.yml", "--set", "eval_sets=[Mine]",
                      "--set", f"data_path={tmp_path}", "--lr-only", "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SSIU_x4.pt (shipped: pretrain is empty)" in done.stdout


BAD = {  # script, what is changed in the config, what the one line must say
    "misspelt set": ("test.py", {"eval_sets": ["Sampel"]}, "did you mean 'Sample'?"),
    "missing set": ("train.py", {"eval_sets": ["Urban100"]}, "benchmark/Urban100"),
    "missing data_path": ("train.py", {"data_path": "/nonexistent"}, "/nonexistent"),
    "unknown key": ("train.py", {"learning_rate": 1}, "unknown config key 'learning_rate'"),
    "wrong type": ("test.py", {"scale": "two"}, "'scale': expected a whole number"),
    "odd patch": ("train.py", {"patch_size": 31}, "config key 'patch_size'"),
    "patch too large": ("train.py", {"patch_size": 64}, "0000.png"),
    "no weights": ("test.py", {"pretrain": "absent.pt"}, "absent.pt: no such checkpoint"),
    "no shipped weights": ("test.py", {"scale": 3, "patch_size": 24}, "X3"),
    "another scale": (
        "test.py",
        {"pretrain": str(ROOT / "pretrain_model" / "SSIU_x4.pt")},
        "file: x4, 64 channels, 9 stages, 4 heads; config: x2, 8",
    ),
    "batch": ("train.py", {"batch_size": 1000}, "batch_size"),
}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--out", "/proc/none"], "/proc/none: cannot be written to"),
        (["--json", "/proc/none/x.json"], "/proc/none: cannot be written to"),
        (["--model-card"], "weights.yml: cannot be read"),
        (["--set", "eval_sets=[]"], "'eval_sets' is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_found_before_the_evaluation(options, complaint, tiny_config, weights, tmp_path):
    out = [] if "--out" in options else ["--out", tmp_path / "out"]
    done = run_script("test.py", "--config", tiny_config(), "--set", f"pretrain={weights}", *out, *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "image/s" not in done.stderr


@pytest.mark.parametrize("what", BAD)
def test_bad_input_ends_in_one_line_and_leaves_no_run_behind(what, tiny_config, tmp_path):
    script, changes, complaint = BAD[what]
    out = ["--out", tmp_path / "out"] if script == "test.py" else []
    done = run_script(script, "--config", tiny_config(**changes), *out)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "image/s" not in line and line.strip()]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert complaint in errors[0]
    assert not list((tmp_path / "runs").glob("*")) if (tmp_path / "runs").exists() else True


LIMITED = """
import resource, runpy, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
runpy.run_path({train!r}, run_name="__main__")
"""


def test_no_space_left_while_training_keeps_what_was_saved(tiny_config, tmp_path):
    """A limit on the size of files stands in for a full disk: the first checkpoint of a larger network does not fit."""
    file = tiny_config(log_name="full", eval_sets=[], epochs=1)
    program = tmp_path / "limited.py"
    program.write_text(LIMITED.format(train=str(ROOT / "train.py")))
    said = Script(program, "--config", file).ended(2)
    assert "iteration_0000006.pt: could not be written (no space left)" in said
    assert not list((tmp_path / "runs" / "full").glob("*.pt"))


@pytest.mark.parametrize(("name", "expected"), [("Set5", (31.855, 0.8909))])
def test_known_weights_reach_their_known_scores(name, expected, shared, tmp_path):
    """Against scores that were computed apart from this project, on LR images made by its own degradation."""
    folder = tmp_path / "benchmark" / name
    folder.mkdir(parents=True)
    (folder / "HR").symlink_to(shared / "benchmark" / name / "HR")
    prepare(["--hr", str(folder / "HR"), "--scales", "4"])
    weights = shared / "weights" / "ssiu_x4.pt"
    if not weights.is_file():
        pytest.skip(f"{weights} is absent")
    values = {
        **TINY,
        "pretrain": str(weights),
        "n_feats": 64,
        "n_blocks": 9,
        "scale": 4,
        "patch_size": 256,
        "data_path": str(tmp_path),
    }
    (tmp_path / "x4.yml").write_text(yaml.safe_dump({**values, "eval_sets": [name]}))
    done = run_script("test.py", "--config", tmp_path / "x4.yml", "--json", tmp_path / "r.json", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "r.json").read_text())["sets"][name]["standard"]
    assert (scores["psnr"], scores["ssim"]) == (
        pytest.approx(expected[0], abs=6e-4),
        pytest.approx(expected[1], abs=6e-5),
    )

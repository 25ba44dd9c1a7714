"""What a network looks at: attributions add up, fields end where the network ends, SSIU's parts are as they are."""

import json
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, build, run_script
from pages import blocks_of
from torch import nn

from datas import downscale, write_png
from evaluation.metrics import standard_scores
from models.literal import LiteralSSIU
from tools.insight import attention, erf, lam, unfolding
from tools.insight.drawing import need_drawing
from tools.insight.opened import Opened, open_network, open_picture
from utils import InputError

REACH = 3


class Local(nn.Module):
    """Three 3x3 convolutions: an output pixel depends on the 7x7 LR pixels around it, and on all of them."""

    def __init__(self, scale: int):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 3, padding=1), nn.GELU(),
            nn.Conv2d(4, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x)


@pytest.fixture(scope="module")
def small():
    """An SSIU of two heads, in float64, x4."""
    return build(4, 8, 2, 3).double().eval().requires_grad_(False)


@pytest.fixture
def stored(small, tmp_path):
    """The same as a file, as float32."""
    torch.save(small.float().state_dict(), tmp_path / "small.pt")
    small.double()
    return tmp_path / "small.pt"


def picture(height, width, seed=0):
    """Smooth random colours: float64 (1, 3, H, W) in [0, 1]."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


@pytest.fixture
def photo(tmp_path):
    """(LR file 40x32, HR file), HR of smooth random colours."""
    hr = (255 * picture(128, 160)[0].permute(1, 2, 0)).round().to(torch.uint8).numpy()
    write_png(tmp_path / "hr.png", hr)
    write_png(tmp_path / "lr.png", downscale(hr, 4))
    return tmp_path / "lr.png", tmp_path / "hr.png"


def insight(*arguments):
    done = run_script("tools/insight/__main__.py", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- LAM


@pytest.mark.parametrize("network", ["SSIU", "another"])
def test_attributions_sum_to_the_difference_of_the_detail_and_better_with_more_steps(network, small):
    model = small if network == "SSIU" else Local(4).double()
    x, window = picture(16, 16), (20, 24, 16)
    found = [lam.lam(model, x, window, steps=steps) for steps in (2, 6, 18)]
    with torch.no_grad():
        ends = [lam.detail(model(at), window).item() for at in (lam.blurred(x, lam.SIGMA), x)]
    assert [found[0].before, found[0].after] == pytest.approx(ends, rel=1e-12)
    assert abs(ends[1] - ends[0]) > 1e-3
    errors = [abs(one.pixels.sum() - (ends[1] - ends[0])) for one in found]
    assert errors[2] < errors[1] / 3 < errors[0] / 9
    assert found[2].missing == errors[2] / abs(ends[1] - ends[0]) < 1e-3


def test_attributions_of_a_linear_network_and_detail_are_exact_in_one_step(monkeypatch):
    monkeypatch.setattr(lam, "detail", lambda sr, window: sr[..., window[1], window[0]].sum())
    x = picture(12, 12)
    found = lam.lam(lambda image: F.interpolate(image, scale_factor=2), x, (8, 10, 2), steps=1)
    expected = np.zeros((3, 12, 12))
    expected[:, 5, 4] = (x - lam.blurred(x, lam.SIGMA))[0, :, 5, 4].numpy()
    np.testing.assert_allclose(found.pixels, expected, atol=1e-15)


def test_blurring_is_gaussian_with_the_edge_repeated_and_none_at_zero():
    ndimage = pytest.importorskip("scipy.ndimage")
    x = picture(9, 14)
    assert torch.equal(lam.blurred(x, 0.0), x)
    for sigma in (0.4, 1.2, 3.0):
        expected = ndimage.gaussian_filter(
            x[0].numpy(), (0, sigma, sigma), mode="nearest", radius=int(np.ceil(4 * sigma))
        )
        np.testing.assert_allclose(lam.blurred(x, sigma)[0].numpy(), expected, atol=1e-12)


def test_gini_is_the_mean_difference_of_all_pairs_over_twice_the_mean():
    values = np.random.default_rng(0).random((5, 7)) ** 3
    pairs = np.abs(values.ravel()[:, None] - values.ravel())
    assert lam.gini(values) == pytest.approx(pairs.mean() / (2 * values.mean()), rel=1e-12)
    assert lam.gini(np.ones(9)) == pytest.approx(0)
    assert lam.gini(np.eye(1, 100)) == pytest.approx(0.99)
    assert lam.gini(np.zeros(4)) == 0


def test_the_area_is_the_fewest_pixels_that_hold_the_share():
    strength = np.array([[5.0, 1.0], [3.0, 1.0]])
    assert lam.area(strength, 0.8).tolist() == [[True, False], [True, False]]
    assert lam.area(strength, 0.81).sum() == 3


# --- ERF


def test_the_field_of_a_local_network_ends_exactly_where_its_convolutions_end():
    field = erf.erf(Local(2), erf.noise(2, 21), 2)
    inside = np.zeros((21, 21), dtype=bool)
    inside[10 - REACH : 11 + REACH, 10 - REACH : 11 + REACH] = True
    assert (field[inside] > 0).all()
    assert (field[~inside] == 0).all()
    assert erf.radii(field, (1.0,))[0] == pytest.approx(REACH * 2**0.5)


def test_the_field_of_ssiu_is_what_single_pixels_change():
    """A strip of nine blocks, of which three stages reach some: gradients against changes of one pixel a column."""
    model = build(2, 8, 2, 3).double().eval().requires_grad_(False)
    height, width, row = 16, 144, 8
    x, columns = picture(height, width), torch.arange(0, width, 3)
    changed = x.repeat(len(columns), 1, 1, 1)
    changed[torch.arange(len(columns)), :, row, columns] += 1e-3
    middle = np.s_[..., 2 * row : 2 * row + 2, width : width + 2]
    with torch.no_grad():  # attention is then of float64 throughout
        before = model(x.expand(8, -1, -1, -1))[middle]
        after = torch.cat([model(part)[middle] - before for part in changed.split(8)])
    moved = after.flatten(1).any(dim=1)
    reached = erf.erf(model, [x], 2)[row, columns] > 0
    assert reached.tolist() == moved.tolist()
    assert 12 < reached.sum() < len(columns) - 12


def test_radii_are_of_the_discs_that_hold_the_shares():
    field = np.zeros((9, 9))
    field[4, 4], field[4, 7], field[0, 4] = 0.5, 0.4, 0.1
    assert erf.radii(field, (0.5, 0.9, 0.99)) == [0, 3, 4]


# --- SSIU's parts


def literal(model):
    return LiteralSSIU(model.state_dict(), model.scale, model.body[0].s3.heads)


def literal_stages(model, x):
    """(y, [a_1 .. a_N]) of a picture whose sides are multiples of 16, channels first."""
    twin = literal(model)
    y = twin.conv(x, "head", reflect=1)
    a, found = y, []
    for t in range(twin.stages):
        a = twin.stage(a, y, f"body.{t}")
        found.append(a)
    return y, found


def test_stages_are_those_of_the_literal_transcription_and_so_are_their_pictures(small):
    x = picture(32, 16)
    seen = unfolding.trace(small, x)
    y, stages = literal_stages(small, x)
    twin, large = literal(small), F.interpolate(x, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(seen.y.permute(0, 3, 1, 2), y)
    for ours, theirs in zip(seen.stages, stages, strict=True):
        torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs)
    for image, a in zip(unfolding.pictures_of_stages(small, x, seen), stages, strict=True):
        torch.testing.assert_close(image, twin.tail(a + y) + large)


@torch.no_grad()
def test_the_last_picture_is_the_networks_output(small):
    x = picture(19, 37)  # padded
    seen = unfolding.trace(small, x)
    assert torch.equal(seen.output, small(x))
    again = unfolding.picture_of(small, small.moe(seen.stages) + seen.y, x)
    torch.testing.assert_close(again, seen.output, rtol=0, atol=1e-12)
    without = build(4, 8, 2, 3, use_moe=False).eval()
    seen = unfolding.trace(without, x.float())
    last = unfolding.pictures_of_stages(without, x.float(), seen)[-1]
    torch.testing.assert_close(last, without(x.float()), rtol=0, atol=1e-6)
    assert not without.head._forward_hooks  # nothing goes on being watched


def test_weights_of_the_experts_sum_to_one_and_are_the_literal_ones(small):
    x = picture(32, 16)
    weights = unfolding.expert_weights(unfolding.trace(small, x), 32, 16)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones_like(weights[0]))
    scores = [literal(small).conv(a, f"moe.fc_{n}") for a, n in zip(literal_stages(small, x)[1], "abc", strict=True)]
    expected = torch.stack(scores).softmax(dim=0)[:, 0].permute(0, 2, 3, 1)
    torch.testing.assert_close(weights, expected)
    assert unfolding.expert_stages(SimpleNamespace(body=range(9))) == [3, 6, 9]


def literal_attention(twin, v, name):
    """softmax of every block, as the literal transcription's `esam` has it: (blocks, heads, 64, 100)."""
    u = F.max_pool2d(v, 2)
    q, k, _ = twin.conv(u, f"{name}.qkv_conv").chunk(3, dim=1)
    d = q.shape[1] // twin.heads
    k = F.pad(k, (1, 1, 1, 1))  # zero keys outside the map take part
    found = []
    for row in range(0, u.shape[2], 8):
        for column in range(0, u.shape[3], 8):
            queries = q[0, :, row : row + 8, column : column + 8].reshape(twin.heads, d, 64)
            keys = k[0, :, row : row + 10, column : column + 10].reshape(twin.heads, d, 10, 10).clone()
            keys[:, : d // 2] += twin.p[f"{name}.rel_h"].reshape(10, d // 2).T[None, :, :, None]
            keys[:, d // 2 :] += twin.p[f"{name}.rel_w"].reshape(10, d // 2).T[None, :, None, :]
            scores = torch.einsum("ndq,ndk->nqk", queries, keys.reshape(twin.heads, d, 100)) / d**0.5
            found.append(scores.softmax(dim=-1))
    return torch.stack(found)


def test_attention_is_the_literal_softmax_over_the_whole_window(small):
    x, name = picture(32, 32), "body.1.s3"
    twin, (y, stages) = literal(small), literal_stages(small, x)
    a = twin.layer_norm(stages[0], "body.1.norm.body")
    expected = literal_attention(twin, a + twin.msgm(a, "body.1.s1") + y, name).unflatten(0, (2, 2))
    for block in ((0, 0), (0, 1), (1, 0)):
        found = attention.attention_of(small, x, 2, block)
        torch.testing.assert_close(found.flatten(1, 2).flatten(2), expected[block])
        torch.testing.assert_close(found.sum(dim=(-1, -2)), torch.ones_like(found[..., 0, 0]))
        beyond = attention.outside(x, block)
        assert beyond.sum() == 19
        assert (found.numpy()[..., beyond] > 0).all()


@torch.no_grad()
def test_attention_times_the_values_is_what_esam_goes_on_with(small):
    v = torch.rand(1, 32, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    esam = small.body[0].s3
    u = F.max_pool2d(v.permute(0, 3, 1, 2), 2)
    values = F.pad(esam.qkv_conv(u)[0, 16:], (1, 1, 1, 1))[:, 8:18, :10].unflatten(0, (2, 4))
    out = torch.einsum("npqij,ndij->pqnd", attention.probabilities(esam, v, (1, 0)), values).flatten(2)
    torch.testing.assert_close(out, esam.attend(u.permute(0, 2, 3, 1))[0, 8:, :8])


def test_a_query_knows_its_block_and_its_window():
    query = attention.Query.at(45, 18)
    assert (query.block, query.inside) == ((1, 2), (1, 6))
    assert query.window == (29.5, 49.5, 33.5, 13.5)


# --- the command


def test_the_command_prints_what_it_writes(stored, photo, tmp_path):
    pytest.importorskip("matplotlib", reason="the figures need matplotlib")
    low, high = photo
    network, out = ("--weights", stored), ("--out", tmp_path / "a.png")
    said = insight("lam", low, *network, *out, "--steps", 2, "--window", "40,40,16", "--values", tmp_path / "a.json")
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert f"diffusion index {numbers['diffusion_index']:.2f}" in said
    said = insight("stages", low, *network, *out, "--hr", high, "--crop", "2,3,33,29", "--values", tmp_path / "b.npz")
    output = torch.from_numpy(np.load(tmp_path / "b.npz")["output"])
    cropped = (255 * picture(128, 160)[0]).round().to(torch.uint8)[:, 12:128, 8:140]
    assert f"output: {standard_scores(output, cropped, 4).psnr:.2f} dB" in said
    said = insight("attention", *network, "--out", tmp_path / "a.pdf", "--query", "0,0", "--stage", 1, "--mean", low)
    assert "head 2: " in said
    assert "outside the map" in said
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_the_commands_of_the_page_run(stored, tmp_path, monkeypatch):
    """Those of docs/insight.md, by a small network, on smooth colours as the sample, and LAM in one step."""
    pytest.importorskip("matplotlib", reason="the figures need matplotlib")
    for name, less in {"findings.STEPS": 1, "findings.NOISE": 1, "findings.SIDE": 48, "drawing.DPI": 40}.items():
        monkeypatch.setattr(f"tools.insight.{name}", less)
    sample = tmp_path / "data" / "sample" / "benchmark" / "Sample"
    for name, (height, width) in {"cat": (75, 90), "coffee": (80, 96), "rocket": (96, 72)}.items():
        for file, scale in ((f"HR/{name}.png", 4), (f"LR_bicubic/X4/{name}x4.png", 1)):
            smooth = picture(scale * height, scale * width)[0].permute(1, 2, 0)
            write_png(sample / file, (255 * smooth).round().to(torch.uint8).numpy())
    blocks = blocks_of(ROOT / "docs" / "insight.md")
    commands = [command for block in blocks for command in block.commands() if "tools.insight" in command]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        words = shlex.split(command)[3:]
        insight(*words, "--weights", stored)
        assert (tmp_path / words[words.index("--out") + 1]).stat().st_size > 1000
    assert len(commands) == 7


def options(**more):
    return SimpleNamespace(**{"model": None, "model_args": None, "weights": None, "scale": None, **more})


def test_any_registered_network_is_opened_with_its_weights(tmp_path, monkeypatch):
    (tmp_path / "my_local.py").write_text(
        "import torch\n\n\ndef Nearest(scale):\n    return torch.nn.Upsample(scale_factor=scale)\n"
    )
    monkeypatch.chdir(tmp_path)
    opened = open_network(options(model="my_local:Nearest", scale=3))
    assert (opened.scale, opened.name) == (3, "Nearest")
    field = erf.erf(opened.model, erf.noise(1, 9), 3)
    assert np.argwhere(field).tolist() == [[4, 4]]
    with pytest.raises(InputError, match="stages: shows parts of SSIU, and Nearest is another network"):
        opened.ssiu("stages")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lam", "{low}", "--window", "150,0,16"), "--window 150,0,16: reaches beyond the SR image"),
        (("lam", "{low}", "--window", "0,0,1"), "must be 2 SR pixels"),
        (("lam", "{low}", "--steps", "0"), "--steps 0: must be from 1"),
        (("lam", "{low}", "--hr", "x.png"), "--hr: goes with stages, not with lam"),
        (("lam", "{low}", "{low}"), "lam: takes one image, 2 are named"),
        (("lam", "{low}", "--crop", "30,0,16,16"), "--crop 30,0,16,16: is no part of"),
        (("erf", "{low}", "--crop", "3,4,0,5"), "--crop 3,4,0,5: is no part of"),
        (("erf", "none.png"), "none.png: could not be read"),
        (("lam", "{low}", "--scale", "2"), "--scale 2: "),
        (("moe", *["{low}"] * 9), "moe: takes 8 images at most, 9 are named"),
        (("stages", "{low}", "--hr", "{low}"), "does not fit an LR image at x4"),
        (("stages", "{low}", "--hr", "{high}", "--crop", "0,0,2,2"), "--crop: leaves too little to be scored"),
        (("attention", "{low}", "--stage", "4"), "--stage 4: the network has stages 1 to 3"),
        (("attention", "{low}", "--head", "3"), "--head 3: the network has heads 1 to 2"),
        (("attention", "{low}", "--query", "40,3"), "--query 40,3: lies outside"),
        (("erf", "noise", "--values", "a.txt"), "--values a.txt: must end in .json or .npz"),
        (("erf", "noise", "--out", "a.bmp"), "--out a.bmp: must end in .png or .pdf"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_in_one_line(words, message, stored, photo, tmp_path):
    pytest.importorskip("matplotlib", reason="the figures need matplotlib")
    words = [word.format(low=photo[0], high=photo[1]) for word in words]
    out = () if "--out" in words else ("--out", tmp_path / "a.png")
    done = run_script("tools/insight/__main__.py", *words, "--weights", stored, *out)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"tools\.insight draws with matplotlib: pip install matplotlib"):
        need_drawing(tmp_path / "a.png")


def test_a_picture_that_is_too_large_is_refused_with_the_crop_that_fits(tmp_path):
    write_png(tmp_path / "large.png", np.zeros((200, 300, 3), np.uint8))
    with pytest.raises(
        InputError, match=r"300x200 are more than 16,384 pixels; cut out a part, such as --crop 0,0,128,128"
    ):
        open_picture(tmp_path / "large.png", None, 128**2)
    assert open_picture(tmp_path / "large.png", (100, 50, 128, 128), 128**2).shape == (1, 3, 128, 128)


def test_parameters_of_an_opened_network_need_no_gradients(stored):
    opened = open_network(options(weights=stored))
    assert isinstance(opened, Opened)
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())

"""Checkpoints of every known form, and files that must be refused."""

import pickle
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import ROOT

from models import ModelError, create_model
from models.architecture import detect_scale
from models.weights import file_hash, load_weights, put_weights, read_checkpoint, read_weights, shipped_weights
from tools.export import export
from training.checkpoints import save_checkpoint
from utils import InputError


def small_model(scale=2, seed=0):
    torch.manual_seed(seed)
    return create_model(SimpleNamespace(scale=scale, n_feats=8, num_heads=4, n_blocks=3))


@pytest.fixture
def weights():
    return small_model().state_dict()


def with_prefix(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def published(state):
    scores = {"set5": {"psnrs": [np.float64(38.3)], "best": {"value": np.float32(38.3), "epoch": np.int64(290)}}}
    return {
        "epoch": 290,
        "model_state_dict": with_prefix("module.", state),
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "scheduler_state_dict": {"last_epoch": 290},
        "stat_dict": scores,
    }


FORMS = {
    "bare": lambda state: state,
    "published": published,
    "compiled": lambda state: with_prefix("_orig_mod.", state),
    "compiled in parallel": lambda state: {"state_dict": with_prefix("module._orig_mod.", state)},
    "our own": lambda state: {"iteration": 3, "model_state_dict": state, "config": "model: SSUFSR"},
    "params": lambda state: {"params": state},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_known_form_loads(form, weights, tmp_path):
    torch.save(FORMS[form](weights), tmp_path / "file.pt")
    model = small_model(seed=1)
    report = load_weights(model, tmp_path / "file.pt")
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert len(report.loaded) == len(weights)
    assert report.skipped == report.initialised == []


def test_safetensors_load(weights, tmp_path):
    safetensors.torch.save_file(weights, tmp_path / "file.safetensors")
    loaded = read_weights(tmp_path / "file.safetensors")
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_averaged_weights_are_preferred(weights, tmp_path):
    average = {key: value + 1 for key, value in weights.items()}
    torch.save({"model_state_dict": weights, "ema_state_dict": average}, tmp_path / "file.pt")
    assert torch.equal(read_weights(tmp_path / "file.pt")["head.bias"], average["head.bias"])


def test_a_mismatch_lists_every_key_and_loads_nothing(weights, tmp_path):
    del weights["head.bias"]
    weights["extra"] = torch.zeros(1)
    weights["moe.fuse.bias"] = torch.zeros(9)
    torch.save(weights, tmp_path / "file.pt")
    model = small_model(seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for new_tail in (False, True):  # the allowance is for the tail alone
        with pytest.raises(ModelError) as caught:
            load_weights(model, tmp_path / "file.pt", new_tail)
        message = str(caught.value)
        assert "1 missing: head.bias" in message
        assert "1 unexpected: extra" in message
        assert "1 misshapen: moe.fuse.bias (9,) for (8,)" in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_scale_is_read_off_the_tail(scale):
    assert detect_scale(small_model(scale).state_dict()) == scale


class Malicious:
    def __reduce__(self):
        return (open, ("/dev/null",))


def damaged(path):
    torch.save(small_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])


def cut_legacy_file(path):
    """Cut where the unpickler raises neither of its own errors."""
    torch.save(small_model().state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:200])


BAD_FILES = {
    "a pickle that carries code": (lambda path: path.write_bytes(pickle.dumps({"a": Malicious()})), "refused"),
    "a torch file that carries code": (lambda path: torch.save({"a": Malicious()}, path), "refused"),
    "not a checkpoint": (lambda path: path.write_bytes(b"hello"), "refused|damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "cut short": (damaged, "damaged"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "not a state dict"),
    "numbered": (lambda path: torch.save({1: torch.zeros(3)}, path), "no state dict found"),
    "cut short, of an old kind": (cut_legacy_file, "damaged|refused"),
    "no weights": (lambda path: torch.save({"epoch": 3}, path), "no state dict found"),
    "missing": (lambda path: None, "no such checkpoint.*pretrain_model"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_files_get_one_clear_line(what, tmp_path):
    write, complaint = BAD_FILES[what]
    write(tmp_path / "file.pt")
    with pytest.raises(ModelError, match=complaint) as caught:
        read_weights(tmp_path / "file.pt")
    assert str(tmp_path / "file.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_shipped_weights_for_a_scale_says_where_published_ones_are():
    with pytest.raises(ModelError, match=r"no x7 weights come with the project; weights published with the paper"):
        shipped_weights(ROOT / "pretrain_model", 7)


def test_the_checksum_notices_any_flipped_byte(weights, tmp_path):
    path = tmp_path / "file.pt"
    save_checkpoint(path, {"model_state_dict": weights})
    read_checkpoint(path)
    good = path.read_bytes()
    for place in np.linspace(0, len(good) - 72, 101).astype(int):  # of what comes before the checksum
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bytes(bad))
        with pytest.raises(ModelError, match=r"damaged|refused"):
            read_checkpoint(path)
    path.write_bytes(good[:-1])
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(path)
    path.write_bytes(good)
    assert torch.equal(read_checkpoint(path)["model_state_dict"]["head.bias"], weights["head.bias"])


def test_no_space_left_keeps_the_old_file(weights, tmp_path):
    resource = pytest.importorskip("resource", reason="limits of file sizes are of POSIX")
    path = tmp_path / "file.pt"
    save_checkpoint(path, {"epoch": 1})
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(InputError, match="no space left"):
            save_checkpoint(path, {"model_state_dict": weights})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_export_writes_the_averages_alone(ending, weights, tmp_path):
    average = {key: value + 1 for key, value in weights.items()}
    torch.save({"model_state_dict": weights, "ema_state_dict": average, "iteration": 3}, tmp_path / "run.pt")
    count = export(tmp_path / "run.pt", tmp_path / f"out{ending}")
    exported = read_checkpoint(tmp_path / f"out{ending}")
    assert count == sum(p.numel() for p in small_model().parameters())
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[key], average[key]) for key in weights)


def test_no_flipped_bit_of_a_checkpoint_loads_other_weights(weights, tmp_path):
    path, model = tmp_path / "best.pt", small_model()
    save_checkpoint(path, {"model_state_dict": weights, "iteration": 3})
    good, generator = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place, bit in zip(generator.integers(0, len(good), 300), generator.integers(0, 8, 300), strict=True):
        bad = bytearray(good)
        bad[place] ^= 1 << bit
        path.write_bytes(bytes(bad))
        try:
            load_weights(model, path)
        except ModelError as error:
            assert "damaged" in str(error) or "refused" in str(error)
            refused += 1
        else:
            assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items()), place
    assert refused > 290


def test_weights_that_a_hash_list_knows_otherwise_are_refused(weights, tmp_path):
    path = tmp_path / "SSIU_x2.pt"
    torch.save(weights, path)
    (tmp_path / "SHA256SUMS").write_text(f"{file_hash(path)}  SSIU_x2.pt\n{'0' * 64}  other.pt\n")
    load_weights(small_model(), path)
    torch.save({key: value + 1 for key, value in weights.items()}, path)
    with pytest.raises(ModelError, match=r"SSIU_x2\.pt: is not the file that SHA256SUMS beside it lists"):
        load_weights(small_model(), path)
    shutil.copy(path, tmp_path / "new.pt")
    export(tmp_path / "new.pt", path)  # which notes the hash of what it puts there
    load_weights(small_model(), path)
    assert (tmp_path / "SHA256SUMS").read_text().splitlines()[1] == f"{'0' * 64}  other.pt"


NO_WEIGHTS = {
    "is not finite": lambda value: value / 0,
    "is not finite .*": lambda value: torch.where(value == value.max(), torch.nan, value).half(),
    "is complex64; weights are": lambda value: value.to(torch.complex64),
    "is float8_e4m3fn; weights are": lambda value: value.to(torch.float8_e4m3fn),
    "repeats 4 stored bytes over its shape": lambda value: torch.zeros(1).expand(value.shape),
    "it is int32, the network's is float32": lambda value: value.int(),
    "it is bool, the network's is float32": lambda value: value > 0,
    "it is float64, the network's is float32": lambda value: value.double() * 1e300,
}


@pytest.mark.parametrize("complaint", NO_WEIGHTS)
def test_what_is_no_weight_is_named_and_nothing_is_loaded(complaint, weights, tmp_path):
    changed = {**weights, "moe.fuse.weight": NO_WEIGHTS[complaint](weights["moe.fuse.weight"])}
    torch.save({"model_state_dict": changed}, tmp_path / "file.pt")
    model = small_model(seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=f"file.pt: 'moe.fuse.weight' .*{complaint}") as caught:
        load_weights(model, tmp_path / "file.pt")
    assert str(caught.value).isprintable()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")  # PyTorch's, that some of these are to change
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.to_sparse(),
        lambda value: value.to("meta"),
        lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        lambda value: torch.nested.nested_tensor(list(value)),
    ],
    ids=["sparse", "meta", "quantised", "nested"],
)
def test_weights_at_hand_that_are_not_dense_are_refused(change, weights):
    weights["moe.fuse.weight"] = change(weights["moe.fuse.weight"])
    with pytest.raises(ModelError, match=r"^memory: 'moe\.fuse\.weight' is no dense tensor"):
        put_weights(small_model(), weights, "memory")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_converted(dtype, weights, tmp_path):
    torch.save({key: value.to(dtype) for key, value in weights.items()}, tmp_path / "file.pt")
    model = small_model(seed=1)
    load_weights(model, tmp_path / "file.pt")
    assert all(torch.equal(value, weights[key].to(dtype).float()) for key, value in model.state_dict().items())


def test_counters_of_a_network_take_whole_numbers_that_they_can_hold(tmp_path):
    network, path = torch.nn.BatchNorm1d(3), tmp_path / "file.pt"
    state = {**network.state_dict(), "num_batches_tracked": torch.tensor(70_000, dtype=torch.int32)}
    torch.save(state, path)
    load_weights(network, path)
    assert network.num_batches_tracked.item() == 70_000
    for wrong in (torch.tensor(3.0), torch.tensor(True)):
        torch.save({**state, "num_batches_tracked": wrong}, path)
        with pytest.raises(ModelError, match="'num_batches_tracked' cannot be held by the network"):
            load_weights(network, path)
    network.num_batches_tracked = network.num_batches_tracked.to(torch.int16)
    torch.save(state, path)
    with pytest.raises(ModelError, match="it is int32, the network's is int16"):
        load_weights(network, path)


def test_a_key_with_and_without_a_prefix_is_ambiguous(weights, tmp_path):
    torch.save({**weights, "module.head.bias": weights["head.bias"] + 1}, tmp_path / "file.pt")
    with pytest.raises(ModelError, match=r"'head\.bias' is in it twice"):
        read_weights(tmp_path / "file.pt")

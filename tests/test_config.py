"""The configuration: published files load, and every wrong key or value is named."""

import pytest
import yaml
from helpers import ROOT, TINY

from config import FIELDS, differences, load_config
from models.registry import SSUFSR_KEYS
from utils import InputError

CONFIGS = sorted((ROOT / "configs").rglob("*.yml"))
PUBLISHED = """
model: 'SSUFSR'
scale: 4
rgb_range: 1.0
colors: 3
n_feats: 64
num_heads: 4
n_blocks: 9
pretrain:
patch_size: 256
batch_size: 40
data_repeat: 40
data_augment: 1
epochs: 290
lr: 0.001
warmup_epochs: 0
eta_min: 1e-6
decays: [250, 400, 425, 450, 475]
gamma: 0.5
log_every: 1000
test_every: 1
log_path: ./experiments
log_name:
lambda_l1: 1.0
lambda_fft: 0.01
gpu_ids: [1]
threads: 8
save_image: True
data_path: /data/SR
training_dataset: 'df2k'
eval_sets: ['Set5', 'Set14', 'B100', 'Urban100', 'Manga109']
"""


def is_one_line(caught) -> bool:
    return str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_round_trips(path, tmp_path):
    config = load_config(path)
    (tmp_path / "resolved.yml").write_text(config.to_yaml())
    assert differences(config, load_config(tmp_path / "resolved.yml")) == {}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_default_configs_are_the_papers_recipe(scale):
    config = load_config(ROOT / "configs" / f"SSUFSR_light_x{scale}.yml")
    assert (config.scale, config.patch_size) == (scale, 64 * scale)
    assert (config.n_feats, config.num_heads, config.n_blocks) == (64, 4, 9)
    assert (config.epochs, config.lr, config.eta_min, config.warmup_epochs) == (290, 1e-3, 1e-6, 0)
    assert (config.batch_size, config.data_repeat, config.data_augment) == (40, 40, True)
    assert (config.lambda_l1, config.lambda_fft, config.seed) == (1.0, 0.01, 2024)
    assert (config.ema_decay, config.compile, config.clip_grad, config.max_minutes) == (0, False, 0, 0)
    assert config.precision == config.eval_precision == "float32"


def test_a_published_file_loads_with_a_note_about_the_step_schedule(tmp_path):
    path = tmp_path / "published.yml"
    path.write_text(PUBLISHED)
    config = load_config(path)
    assert config.eta_min == 1e-6  # YAML 1.1 reads 1e-6 as text
    assert (config.pretrain, config.data_augment, config.save_image, config.gpu_ids) == ("", True, True, (1,))
    assert "decays" in config.notes()[0]


def test_the_command_line_wins_over_the_file(tiny_config):
    config = load_config(tiny_config(), ["lr=5e-4", "eval_sets=[Set5, B100]", "pretrain=", "precision=bf16"])
    assert (config.lr, config.eval_sets, config.pretrain, config.precision) == (5e-4, ("Set5", "B100"), "", "bf16")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batchsize": 4}, "unknown config key 'batchsize'; did you mean 'batch_size'"),
        ({"lr": "fast"}, "config key 'lr': expected a number, got 'fast'"),
        ({"epochs": 2.5}, "config key 'epochs': expected a whole number, got 2.5"),
        ({"epochs": True}, "config key 'epochs': expected a whole number"),
        ({"data_augment": "maybe"}, "config key 'data_augment': expected True or False"),
        ({"eval_sets": "Set5"}, "config key 'eval_sets': expected a list"),
        ({"patch_size": 25}, "config key 'patch_size': 25 is not a positive multiple of scale 2"),
        ({"n_blocks": 4}, "config key n_blocks: 4 is not a positive multiple of 3"),
        ({"scale": 5, "patch_size": 25}, "config key scale: 5 is not one of"),
        (
            {"model": "EDSR"},
            "config key 'model': 'EDSR' is unknown; SSIU is 'SSUFSR', any other",
        ),
        ({"colors": 1}, "config key 'colors': 1 is not supported"),
        ({"rgb_range": 255}, "config key 'rgb_range': 255.0 is not supported"),
        ({"data_path": ""}, "config key 'data_path': '' is empty"),
        ({"training_dataset": "df2kk"}, "is not one of div2k, df2k, sample; did you mean 'df2k'"),
        ({"precision": "int8"}, "config key 'precision': 'int8' is not one of float32"),
        ({"cuda_graph": True, "precision": "fp16"}, "config key 'cuda_graph'"),
        ({"accumulate": 3}, "config key 'batch_size': 4 is not a multiple of accumulate 3"),
        ({"lambda_l1": 0, "lambda_fft": 0}, "there is no loss"),
        ({"gpu_ids": [0, 0]}, "config key 'gpu_ids'"),
        ({"lambda_l1": float("nan")}, "config key 'lambda_l1': nan is not a finite number"),
        ({"lr": float("inf")}, "config key 'lr': inf is not a finite number"),
        ({"seed": 2**80}, "does not fit in 63 bits"),
        (
            {"losses": {"charbonnier": 0}},
            "config key 'losses': {'charbonnier': 0.0} gives 'charbonnier' a weight that is",
        ),
        ({"losses": {"charbonnier": -1}}, "a weight that is not a finite number above 0"),
        ({"losses": {"charbonnier": float("inf")}}, "a weight that is not a finite number above 0"),
        ({"losses": {"charbonnier": float("nan")}}, "a weight that is not a finite number above 0"),
        ({"losses": {"charbonnier": "much"}}, "config key 'losses'[charbonnier]: expected a number, got 'much'"),
        ({"losses": ["charbonnier"]}, "config key 'losses': expected a mapping, got ['charbonnier']"),
        ({"losses": {"fft": 0.1}}, "names l1 or fft; their weights are the config keys lambda_l1 and lambda_fft"),
        ({"model_args": {"width": 8}}, "config key 'model_args': {'width': 8} is for other networks; SSUFSR has"),
        ({"model": "nets:Net"}, "config key 'n_feats': belongs to SSUFSR; put arguments of nets:Net under model_args"),
    ],
)
def test_wrong_values_are_named(changes, complaint, tiny_config):
    with pytest.raises(InputError) as caught:
        load_config(tiny_config(**changes))
    assert complaint in str(caught.value)
    assert "tiny.yml" in str(caught.value)


@pytest.mark.parametrize(
    "key", [name for name in TINY if name in FIELDS and name not in ("threads", "log_every", "gpu_ids")]
)
def test_a_missing_key_is_named(key, tmp_path):
    values = {name: value for name, value in TINY.items() if name != key} | {"data_path": "."}
    if key in ("data_path", "seed", "test_every"):
        values.pop(key, None)
    path = tmp_path / "short.yml"
    path.write_text(yaml.safe_dump(values))
    if key in ("seed", "test_every"):  # these have defaults
        load_config(path)
    else:
        with pytest.raises(InputError, match=f"config key '{key}' is missing"):
            load_config(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("scale: [2", "not valid YAML"),
        ("just words", "not a config"),
        ("", "not a config"),
        ("scale: 2\nseed: 1\nscale: 4\n", "line 3: key 'scale' stands there twice"),
        ("losses: {a: 1, a: 2}", "line 1: key 'a' stands there twice"),
        (b"\xff\xfe\x00", "line 1: not UTF-8 text"),
        (f"{'k' * 900}: 1", "unknown config key 'kkkk"),
        ("7: 1", "line 1: key 7 is not text"),
        ("model: " + "[" * 900, "line 1: nested deeper"),
    ],
)
def test_a_file_that_is_no_config_is_refused(text, complaint, tmp_path):
    path = tmp_path / "bad.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=complaint) as caught:
        load_config(path)
    assert is_one_line(caught)
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "absent.yml")


@pytest.mark.parametrize(
    "override",
    [
        "lr", "=3", "learning_rate=3", "lr=[1", "lr=!!bool 7", 'lr=!!int ""', "lr=!!timestamp x", "lr=2026-01-02",
        f"lr={'9' * 401}", f"lr={'9' * 4301}", f"seed={'9' * 101}", "lr=1e999", "lr='1e-3'", "lr=1_0", "lr=1:30",
        f"model_args={'[' * 900}", f"eval_sets={'[' * 900}{']' * 900}", "model_args={a: 1, a: 2}", "model_args={1: 2}",
        "eval_sets=[&a x, *a]", "model_args={<<: {a: 1}}", "save_image=yes", "log_name=\udcff", "log_name=a\0b",
        "l\nr=1", f"{'k' * 5000}=1", f"lr={'k' * 5000}", f"lr=[{'k, ' * 5000}]", f"cuda_graph=[{'k, ' * 5000}]",
        f"losses={{{'k' * 500}: x}}", f"model_args={'x' * 70_000}", "\udcff=1", "\x1b[31m",
    ],
    ids=lambda text: ascii(text)[:20],
)  # fmt: skip
def test_bad_overrides_are_one_line_that_begins_with_the_option(override, tiny_config):
    with pytest.raises(InputError, match=r"^--set") as caught:
        load_config(tiny_config(), [override])
    assert is_one_line(caught)


@pytest.mark.parametrize("override", ["lr=1e-4", "lr=1.0e-4", "lr=.0001", "lr=!!float 1e-4"])
def test_a_number_needs_no_point(override, tiny_config):
    assert load_config(tiny_config(), [override]).lr == 1e-4


@pytest.mark.parametrize("key", ["batch_size", "gpu_ids"])
def test_whole_numbers_have_63_bits(key, tiny_config):
    value = 2**63
    with pytest.raises(InputError, match=f"config key '{key}': .* does not fit in 63 bits"):
        load_config(tiny_config(**{key: [value] if key == "gpu_ids" else value}))


NO_NAMES = [
    "../benchmark/Sample", "/tmp", "a/b", "a\\b", ".", "..", " a", "a ", "a\n", "a\tb", "a:b", "C:", "é" * 101,
    "a\x7fb", "a\u2028b", "\u00a0a",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_names_of_sets_and_of_runs_are_names_of_a_folder(name, tiny_config):
    for key, value in (("eval_sets", ["Set5", name]), ("log_name", name)):
        with pytest.raises(InputError, match=f"config key '{key}': ") as caught:
            load_config(tiny_config(**{key: value}))
        assert is_one_line(caught)


@pytest.mark.parametrize("name", ["Set5", "my photos", "x4.2026-01-02_b", ".hidden", "é" * 100, "..."])
def test_other_names_are_taken(name, tiny_config):
    config = load_config(tiny_config(eval_sets=[name], log_name=name))
    assert (config.eval_sets, config.log_name) == ((name,), name)


def test_a_run_may_be_without_a_name_but_no_set(tiny_config):
    assert load_config(tiny_config(log_name="")).log_name == ""
    with pytest.raises(InputError, match="config key 'eval_sets': "):
        load_config(tiny_config(eval_sets=[""]))


PATHS = ("pretrain", "data_path", "cache_path", "log_path", "data")


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        (r"a\0b", "control character"),
        (r"a\nb", "control character"),
        (r"a\ud800", "control character"),
        (f"./{'x' * 256}/y", "255 bytes"),
        (f"./{'é' * 128}", "255 bytes"),
        ("/".join(["x" * 100] * 31), "3,000 bytes"),
    ],
    ids=["nul", "line break", "surrogate", "long", "long in bytes", "long in all"],
)
def test_paths_that_no_file_can_have_are_refused(key, path, complaint, tiny_config):
    value = f'[{{path: "{path}"}}]' if key == "data" else f'"{path}"'
    with pytest.raises(InputError, match=f"config key '{key}': .*{complaint}") as caught:
        load_config(tiny_config(), [f"{key}={value}"])
    assert is_one_line(caught)


@pytest.mark.parametrize("key", PATHS)
def test_other_paths_are_taken(key, tiny_config):
    path = f"../é x/{'x' * 255}/C:\\b"
    value = [{"path": path}] if key == "data" else path
    config = load_config(tiny_config(**{key: value}))
    assert getattr(config, key) == (({"path": path},) if key == "data" else path)


@pytest.mark.parametrize("text", [r"a\0b", r"a\ud800b", r"a\udcffb"])
@pytest.mark.parametrize("place", ['{{x: ["{}"]}}', '{{"{}": 1}}', '{{x: {{y: "{}"}}}}'])
def test_text_that_cannot_be_written_is_refused_wherever_it_stands(text, place, other):
    with pytest.raises(InputError, match=r"config key 'model_args': .*control character") as caught:
        load_config(other, [f"model_args={place.format(text)}"])
    assert is_one_line(caught)


def test_values_are_shortened_in_messages(tiny_config):
    for changes in ({"msgm_depthwise": [5] * 9000}, {"training_dataset": "x" * 9000}, {"losses": {"x" * 9000: 0}}):
        with pytest.raises(InputError) as caught:
            load_config(tiny_config(**changes))
        assert is_one_line(caught)


@pytest.fixture
def other(tmp_path):
    """A config file of a network that is not SSUFSR."""
    values = {key: value for key, value in TINY.items() if key not in SSUFSR_KEYS}
    args = {"width": 8, "blocks": [1, 2]}
    path = tmp_path / "other.yml"
    path.write_text(yaml.safe_dump({**values, "data_path": ".", "model": "nets.small:Net", "model_args": args}))
    return path


def test_a_file_of_another_network_needs_no_key_of_ssufsr_and_round_trips(other, tmp_path):
    config = load_config(other, ["losses={mine:edge: 0.5, charbonnier: 1}"])
    assert (config.model, config.model_args) == ("nets.small:Net", {"width": 8, "blocks": [1, 2]})
    assert list(config.losses.items()) == [("mine:edge", 0.5), ("charbonnier", 1.0)]
    (tmp_path / "resolved.yml").write_text(config.to_yaml())
    again = load_config(tmp_path / "resolved.yml")
    assert differences(config, again) == {}
    assert list(again.losses) == list(config.losses)


TEXTS = ["1e-6", "true", "null", "0o7", "2026-01-02", "~", "", "1_000", "12:30", "yes", "<<", "- a", "a: b", " a", "#"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_looks_like_something_else_round_trips(text, other, tmp_path):
    quoted = f"'{text}'"
    texts = [f"{key}={quoted}" for key in ("pretrain", "cache_path", "log_path")]
    nested = [f"model_args={{{quoted}: [{quoted}, {{a: {quoted}}}]}}", f"data=[{{path: {quoted}, weight: 1e-6}}]"]
    config = load_config(other, [*texts, *nested])
    assert config.pretrain == config.cache_path == config.log_path == text
    assert config.model_args == {text: [text, {"a": text}]}
    (tmp_path / "resolved.yml").write_text(config.to_yaml())
    assert load_config(tmp_path / "resolved.yml") == config


@pytest.mark.parametrize("text", ["two\nlines\n", "\t", "\x1b[0m", "\x85\u2028", "é\U0001f600", " x " * 99, "'\"\\"])
def test_any_text_of_another_network_round_trips(text, other, tmp_path):
    escaped = text.encode("unicode_escape").decode().replace('"', '\\"')
    config = load_config(other, [f'model_args={{"{escaped}": ["{escaped}"], n: [-1, 1e-9, .inf, True, null]}}'])
    assert config.model_args == {text: [text], "n": [-1, 1e-9, float("inf"), True, None]}
    (tmp_path / "resolved.yml").write_text(config.to_yaml())
    assert load_config(tmp_path / "resolved.yml") == config


def test_a_config_that_could_not_be_read_again_is_refused(other):
    long = "\U0001f600" * 8000
    with pytest.raises(InputError, match=r"other\.yml: the config, written out: over 32 KiB"):
        load_config(other, [f"model_args={{a: {long}}}"])


@pytest.mark.parametrize("key", SSUFSR_KEYS)
def test_a_key_of_ssufsr_is_refused_for_another_network(key, other):
    complaint = f"config key '{key}': belongs to SSUFSR; put arguments of nets.small:Net under model_args"
    with pytest.raises(InputError, match=f"--set: {complaint}"):
        load_config(other, [f"{key}=1"])
    other.write_text(f"{other.read_text()}\n{key}: 1\n")
    with pytest.raises(InputError, match=f"other.yml: {complaint}"):
        load_config(other)


def test_another_network_has_the_scales_of_the_data(other):
    with pytest.raises(InputError, match="config key 'scale': 8 is not one of 2, 3, 4"):
        load_config(other, ["scale=8", "patch_size=64"])


@pytest.mark.parametrize(("written", "value"), [("auto", "auto"), ("True", True), ("1", True), ("False", False)])
def test_a_switch_takes_auto_or_a_truth_value(written, value, tiny_config):
    assert load_config(tiny_config(), [f"cuda_graph={written}"]).cuda_graph is value


def test_a_switch_takes_nothing_else(tiny_config):
    with pytest.raises(
        InputError, match=r"--set: config key 'cuda_graph': expected auto, True, False, got 'sometimes'"
    ):
        load_config(tiny_config(), ["cuda_graph=sometimes"])

"""The configuration: one frozen dataclass, read from a flat YAML file and `--set key=value` overrides.

The keys of published SSIU files keep their names and meaning. Keys without a default must stand in the file; those of
SSUFSR stand there for this network only. Anything unknown, of the wrong type or out of range is refused before any work
starts, with the file and the key named.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datas import SCALES, TRAINING_DATASETS
from models import BACKENDS, PRECISIONS, check_architecture
from models.registry import SSUFSR, SSUFSR_KEYS, SSUFSR_REQUIRED
from utils import UNFIT, InputError, did_you_mean, shown
from yaml_file import dump_yaml, parse_yaml, read_yaml

SCHEDULES = ("epoch", "progress")
WARMUPS = ("linear", "published")
PATHS = ("pretrain", "data_path", "cache_path", "log_path", "data")
NAME = "a name has 1 to 200 bytes, none of / \\ :, no blank at its ends, and is not '.' or '..'"
UNFIT_IN_ARGUMENTS = re.compile("[\0\ud800-\udfff]")
Switch = typing.Literal["auto", True, False]


@dataclass(frozen=True, kw_only=True)
class Config:
    # --- network (paper, section III) ---
    model: str  # 'SSUFSR', the name in published files; another is package.module:Name or spandrel:FILE (docs/peers.md)
    model_args: dict = field(default_factory=dict)  # keyword arguments of another network
    scale: int  # s: 2, 3 or 4
    n_feats: int = 0  # C, channels; 64 in the paper. SSUFSR must have this and the next two, another network none
    num_heads: int = 0  # heads of ESAM; 4
    n_blocks: int = 0  # N, unfolding stages, a multiple of 3; 9
    rgb_range: float = 1.0  # images are RGB in [0, 1]; nothing else is supported
    colors: int = 3  # RGB; nothing else is supported
    use_esam: bool = True  # ablation: False leaves S3.a out
    use_moe: bool = True  # ablation: False takes the last stage alone in place of MoE-FS
    msgm_depthwise: tuple[int, ...] = (1, 2, 3, 4)  # ablation: which of MSGM_1 .. MSGM_4 keep their DW3x3

    # --- weights to start from ---
    pretrain: str = ""  # checkpoint file; empty: train.py starts from scratch, test.py takes the shipped weights
    pretrain_new_tail: bool = False  # fine-tune across scales: a tail that does not fit is initialised afresh

    # --- data ---
    data_path: str  # root of DF2K/, DIV2K/, benchmark/, ... (README, "Weights and data")
    training_dataset: str  # 'df2k' (3,450 images), 'div2k' (800) or 'sample'; not used where `data` is given
    data: tuple[dict, ...] = ()  # other training images: [{path: HR folder, lr: LR folder, weight: 1.0}, ...]
    cache_path: str = ""  # folder of the packed training images; empty: data_path/cache
    patch_size: int  # side of an HR patch in pixels, 64 s in the paper
    batch_size: int  # patches per optimiser step, over all processes; 40
    data_repeat: int  # times each image is seen in an epoch; 40
    data_augment: bool  # horizontal flip, vertical flip, transpose, each with probability 1/2
    drop_last: bool = True  # False: what is left of an epoch after its last full batch is a smaller batch
    threads: int = 4  # loader processes; 0 loads in the training process

    # --- recipe ---
    epochs: int  # 290
    lr: float  # AdamW's initial learning rate; 1e-3
    warmup_epochs: int = 0  # epochs of linear warm-up before the cosine; 0 in the paper
    warmup: str = "linear"  # 'linear', or 'published' (docs/differences.md), see training/schedule.py
    eta_min: float  # learning rate at the end of the cosine; 1e-6
    schedule: str = "epoch"  # 'epoch': stepped once an epoch (paper); 'progress': every iteration, see loop.py
    decays: tuple[int, ...] = ()  # of an older step schedule in published files; the cosine does not use it
    gamma: float = 0.5  # likewise
    lambda_l1: float  # weight of L1; 1.0
    lambda_fft: float  # weight of the FFT loss; 0.01
    losses: dict[str, float] = field(default_factory=dict)  # weights of further losses by name, see training/losses.py
    seed: int = 2024  # initial weights and sampling

    # --- options that change the recipe, all off ---
    ema_decay: float = 0.0  # decay of the exponential moving average of the weights, e.g. 0.999; 0: none
    precision: str = "float32"  # of training: 'tf32', 'tf32x3', 'bf16', 'fp16', see models/precision.py
    compile: bool = False  # torch.compile the plain network
    clip_grad: float = 0.0  # largest gradient norm; 0: no clipping
    accumulate: int = 1  # pieces a batch is cut into, for less memory; the step is the same
    max_minutes: float = 0.0  # stop (and save) after this many minutes of training; 0: no limit
    deterministic: bool = False  # the same bits every time on one kind of device; on a CPU they are so anyway

    # --- the same numbers, faster ---
    backend: str = "auto"  # 'plain', 'cpu' or 'triton'; 'auto' takes the fastest that fits, see models/backends.py
    cuda_graph: Switch = "auto"  # capture the training step and replay it (one GPU); 'auto': if it proves right
    data_on_gpu: Switch = "auto"  # hold the training images on the device and crop there; 'auto': on a GPU they fit on

    # --- evaluation ---
    eval_precision: str = "float32"  # of validation and test.py; anything else is not for reported numbers
    memory: float = 0.0  # MiB for the network's maps; an image that takes more goes through row by row; 0: what is free
    eval_sets: tuple[str, ...]  # folders of data_path/benchmark
    drop_alpha: bool = False  # evaluation images with alpha, else refused: take their colours, leave alpha out
    test_every: int = 1  # epochs between validations; 0: only after the last
    save_image: bool = False  # test.py: write SR images; train.py: after the last validation

    # --- the run ---
    log_path: str = "./runs"  # folder of all runs
    log_name: str = ""  # folder of this run; empty: model, scale and time
    log_every: int = 1000  # iterations between log lines
    keep_last: int = 2  # checkpoints kept besides best.pt
    hang_minutes: float = 30.0  # a run ends when one of its processes has kept the others waiting for so long
    gpu_ids: tuple[int, ...] = (0,)  # CUDA devices, one per process; ignored, with a note, where there is no CUDA

    def __post_init__(self):
        """Raises InputError naming the first key whose value cannot be honoured."""
        for key, wrong, remedy in self._problems():
            if wrong:
                raise InputError(f"config key '{key}': {shown(repr(getattr(self, key)))} {remedy}")
        if self.model != SSUFSR:
            return
        try:
            check_architecture(self.scale, self.n_feats, self.num_heads, self.n_blocks, self.msgm_depthwise)
        except ValueError as error:
            raise InputError(f"config key {shown(error)}") from error

    def _problems(self):
        """(key, is it wrong, why and what to do), in the order of the fields."""
        yield from self._text_problems()
        for key, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            yield key, any(isinstance(n, float) and not math.isfinite(n) for n in numbers), "is not a finite number"
            yield key, any(isinstance(n, int) and not -(2**63) <= n < 2**63 for n in numbers), "does not fit in 63 bits"
        other = self.model != SSUFSR
        unnamed = other and ":" not in self.model
        yield "model", unnamed, "is unknown; SSIU is 'SSUFSR', any other is package.module:Name or spandrel:FILE"
        yield "model_args", not other and self.model_args, "is for other networks; SSUFSR has config keys of its own"
        yield "scale", other and self.scale not in SCALES, f"is not one of {', '.join(map(str, SCALES))}"
        yield "rgb_range", self.rgb_range != 1.0, "is not supported; images are RGB in [0, 1]: use 1.0"
        yield "colors", self.colors != 3, "is not supported; the network works on RGB: use 3"
        yield "data_path", not self.data_path, "is empty; name the folder that holds DF2K/ and benchmark/"
        unknown = self.training_dataset not in TRAINING_DATASETS
        hint = did_you_mean(self.training_dataset, TRAINING_DATASETS)
        yield "training_dataset", unknown, f"is not one of {', '.join(TRAINING_DATASETS)}{hint}"
        uneven = self.scale in (2, 3, 4) and self.patch_size % self.scale
        yield "patch_size", self.patch_size < 1 or uneven, f"is not a positive multiple of scale {self.scale}"
        for key in ("batch_size", "data_repeat", "epochs", "accumulate", "keep_last", "log_every"):
            yield key, getattr(self, key) < 1, "is not a whole number from 1 up"
        for key in ("threads", "test_every", "warmup_epochs", "clip_grad", "max_minutes", "memory", "seed"):
            yield key, getattr(self, key) < 0, "is negative"
        yield "batch_size", self.batch_size % self.accumulate, f"is not a multiple of accumulate {self.accumulate}"
        for key in ("lr", "hang_minutes"):
            yield key, getattr(self, key) <= 0, "is not positive"
        yield "eta_min", not 0 <= self.eta_min <= self.lr, f"is not between 0 and lr {self.lr}"
        yield "warmup_epochs", self.warmup_epochs >= self.epochs, f"leaves nothing of {self.epochs} epochs"
        yield "schedule", self.schedule not in SCHEDULES, f"is not one of {', '.join(SCHEDULES)}"
        yield "warmup", self.warmup not in WARMUPS, f"is not one of {', '.join(WARMUPS)}"
        by_epoch = self.warmup == "linear" or self.schedule == "epoch"
        yield "warmup", not by_epoch, "goes by whole epochs; it does not go with schedule 'progress'"
        yield "lambda_l1", self.lambda_l1 < 0, "is negative"
        yield "lambda_fft", self.lambda_fft < 0, "is negative"
        no_loss = self.lambda_l1 == self.lambda_fft == 0 and not self.losses
        yield "lambda_l1", no_loss, "and lambda_fft are both 0: there is no loss"
        taken = {"l1", "fft"} & self.losses.keys()
        yield "losses", taken, "names l1 or fft; their weights are the config keys lambda_l1 and lambda_fft"
        for name, weight in self.losses.items():
            bad = not 0 < weight < math.inf
            yield "losses", bad, f"gives '{shown(name)}' a weight that is not a finite number above 0"
        yield "ema_decay", not 0 <= self.ema_decay < 1, "is not in [0, 1)"
        for key, known in (("precision", PRECISIONS), ("eval_precision", PRECISIONS), ("backend", BACKENDS)):
            yield key, getattr(self, key) not in known, f"is not one of {', '.join(known)}"
        untraceable = self.compile and self.backend not in ("auto", "plain")
        yield "compile", untraceable, f"compiles the plain network; it does not go with backend {self.backend!r}"
        scaled = self.cuda_graph is True and self.precision == "fp16"
        yield "cuda_graph", scaled, "does not go with precision 'fp16', whose loss scaling waits for the device"
        uneven = self.cuda_graph is True and not self.drop_last
        yield "cuda_graph", uneven, "replays batches of one size; it does not go with drop_last False"
        yield "eval_sets", len(set(self.eval_sets)) < len(self.eval_sets), "names a set twice"
        bad_ids = min(self.gpu_ids, default=0) < 0 or len(set(self.gpu_ids)) < len(self.gpu_ids)
        yield "gpu_ids", bad_ids, "must be different numbers from 0 up"

    def _text_problems(self):
        """The like of `_problems` about text, names and paths; what follows may put them into messages."""
        for key, value in vars(self).items():
            unfit = UNFIT_IN_ARGUMENTS if key == "model_args" else UNFIT
            found = any(map(unfit.search, texts(value)))
            yield key, found, "holds a control character or a byte that is not UTF-8 text; remove it"
        for key in PATHS:
            paths = list(texts(getattr(self, key)))
            long = any(len(part.encode()) > 255 for path in paths for part in Path(path).parts)
            yield key, long, "has a part of over 255 bytes, which no file system takes; use shorter names"
            yield key, any(len(path.encode()) > 3000 for path in paths), "is over 3,000 bytes; use a shorter path"
        bad = next((name for name in self.eval_sets if not is_name(name)), None)
        yield "eval_sets", bad is not None, f"holds {shown(repr(bad))}, which is no name of a folder; {NAME}"
        yield "log_name", self.log_name and not is_name(self.log_name), f"is no name of a folder; {NAME}"

    def notes(self) -> list[str]:
        """Lines to print about keys that are accepted but have no effect."""
        if self.decays:
            return ["config keys 'decays' and 'gamma' belong to an older step schedule; the cosine does not use them"]
        return []

    def to_yaml(self) -> str:
        """The resolved configuration as YAML that `load_config` reads back to an equal Config."""
        left_out = () if self.model == SSUFSR else SSUFSR_KEYS
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in left_out}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return dump_yaml(plain)


FIELDS = {entry.name: entry for entry in dataclasses.fields(Config)}
TYPES = typing.get_type_hints(Config)
EXPECTED = {int: "a whole number", float: "a number", bool: "True or False", str: "text (in quotes)", dict: "a mapping"}


def load_config(path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, then apply `key=value` overrides (values are YAML too).

    Raises:
        InputError: no such file, not YAML, an unknown, missing or repeated key, a wrong type or value, too large.
    """
    return build_config(read_yaml(path), path, overrides)


def config_from_text(text: str, source, overrides: Sequence[str] = ()) -> Config:
    """`load_config` of a text that `to_yaml` wrote, found in the file `source`."""
    return build_config(parse_yaml(text, f"{source}: its config"), source, overrides)


def build_config(values: dict, source, overrides: Sequence[str]) -> Config:
    """The Config of these values, and of `key=value` overrides. Raises InputError as `load_config` does."""
    name = shown(source)
    named = parse_overrides(overrides)
    values = {**values, **named}
    unknown = [key for key in values if key not in FIELDS]
    if unknown:
        raise InputError(f"{name}: unknown config key '{shown(unknown[0])}'{did_you_mean(unknown[0], FIELDS)}")
    sources = {key: "--set" if key in named else name for key in values}
    model = str(values.get("model", SSUFSR))
    missing = [key for key in FIELDS if key not in values and is_required(key, model)]
    if missing:
        raise InputError(f"{name}: config key '{missing[0]}' is missing; add it (configs/ has complete examples)")
    misplaced = [key for key in SSUFSR_KEYS if key in values and ":" in model]
    if misplaced:
        advice = f"belongs to SSUFSR; put arguments of {shown(model)} under model_args"
        raise InputError(f"{sources[misplaced[0]]}: config key '{misplaced[0]}': {advice}")
    converted = {key: convert(f"{sources[key]}: config key '{key}'", values[key], TYPES[key]) for key in values}
    try:
        config = Config(**converted)
        config.to_yaml()  # a run writes it down, to be read when the run goes on
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return config


def is_required(key: str, model: str) -> bool:
    """Whether a config key has no default, for this network."""
    entry = FIELDS[key]
    bare = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    return bare or (model == SSUFSR and key in SSUFSR_REQUIRED)


def parse_overrides(overrides: Sequence[str]) -> dict:
    """['lr=1e-4', 'eval_sets=[Set5]'] -> {'lr': ..., 'eval_sets': [...]}; InputError for anything else."""
    values = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        key, option = key.strip(), f"--set {shown(item)}"
        if not equals or not key:
            raise InputError(f"{option}: expected key=value")
        if key not in FIELDS:
            raise InputError(f"{option}: unknown config key '{shown(key)}'{did_you_mean(key, FIELDS)}")
        values[key] = parse_yaml(text, option, value_only=True)
    return values


def convert(where: str, value, wanted):
    """`value` as the annotated type `wanted`; an empty value stands for empty text, an empty list or mapping.

    Published files write 1 for True, which is understood.
    """
    if typing.get_origin(wanted) is tuple:
        item_type = typing.get_args(wanted)[0]
        if value is None:
            return ()
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, got {shown(repr(value))}")
        return tuple(convert(f"{where}[{place}]", item, item_type) for place, item in enumerate(value))
    if typing.get_origin(wanted) is dict:
        item_type = typing.get_args(wanted)[1]
        items = convert(where, value, dict).items()
        return {key: convert(f"{where}[{shown(key)}]", item, item_type) for key, item in items}
    if typing.get_origin(wanted) is typing.Literal:
        choices = typing.get_args(wanted)
        if value not in choices:
            raise InputError(f"{where}: expected {', '.join(map(str, choices))}, got {shown(repr(value))}")
        return choices[choices.index(value)]  # True for 1
    if wanted in (str, dict) and value is None:
        return wanted()
    if wanted is bool and value in (0, 1):
        return bool(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{where}: expected {EXPECTED[wanted]}, got {shown(repr(value))}")
    return value


def texts(value) -> Iterator[str]:
    """Every text in a value, in lists and mappings too, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from texts(item)


def is_name(text: str) -> bool:
    """Whether a folder can be called so, see NAME; `text` holds no control characters."""
    elsewhere = text in (".", "..") or any(letter in text for letter in "/\\:")
    return 1 <= len(text.encode()) <= 200 and text == text.strip() and not elsewhere


def differences(old: Config, new: Config) -> dict[str, tuple]:
    """Keys whose values differ: {key: (old, new)}."""
    pairs = ((key, getattr(old, key), getattr(new, key)) for key in FIELDS)
    return {key: (before, after) for key, before, after in pairs if before != after}

"""Reading weights: files opened safely, recognised, cleaned, compared with the network.

Files of any of these forms are read: published ones (a dict around a state dict whose keys carry `module.`), bare state
dicts, those of a compiled network (`_orig_mod.`), this project's own, and safetensors. Pickles are opened with
`weights_only=True` and nothing else, after a look at what they would build: a file that carries code is refused.
What goes into a network is dense, real, finite and wholly stored in the file.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .architecture import detect_architecture
from .weight_file import (
    HASH_LIST,
    MAX_BYTES,
    WHERE_PUBLISHED,
    checksum_of,
    file_hash,
    listed_hash,
    printable,
    read_checkpoint,
    refusal,
)

__all__ = [
    "HASH_LIST",
    "SHIPPED",
    "LoadOutcome",
    "checksum_of",
    "extract_weights",
    "file_hash",
    "listed_hash",
    "load_weights",
    "put_weights",
    "read_checkpoint",
    "read_weights",
    "shipped_weights",
]
NESTING = ("ema_state_dict", "model_state_dict", "state_dict", "params_ema", "params", "model")  # first match is taken
SHIPPED = Path(__file__).parents[1] / "pretrain_model"  # the weights that come with the project
MAX_KEYS, MAX_KEY = 50_000, 500  # of a network, and the characters of one; the paper's network has 437 of up to 30
PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
WHOLE = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}  # of counters and masks


class LoadOutcome(NamedTuple):
    """What became of each key: taken from the file, left in the file, initialised afresh."""

    loaded: list[str]
    skipped: list[str]
    initialised: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} keys loaded: {_shorten(self.loaded)}"]
        lines += [
            f"{len(keys)} keys {what}: {', '.join(map(printable, keys))}" for what, keys in self._others() if keys
        ]
        return "\n".join(lines)

    def _others(self):
        return ("skipped (in the file, do not fit)", self.skipped), ("initialised afresh", self.initialised)


def extract_weights(content: dict, path="checkpoint") -> dict[str, Tensor]:
    """The state dict inside `content` with published key names: nesting unwrapped, prefixes removed.

    A file of this project that holds averaged (EMA) weights yields those.

    Raises:
        ModelError: there is none, two of its keys have the same name without their prefixes, or a value is no weight.
    """
    nested = next((content[name] for name in NESTING if isinstance(content.get(name), dict)), None)
    found = content if nested is None else nested
    if not found or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise refusal(path, f"no state dict found in it (its keys: {_shorten([str(key) for key in content])})")
    if len(found) > MAX_KEYS:
        raise refusal(path, f"holds {len(found):,} weights, more than the {MAX_KEYS:,} of any network; save fewer")
    weights: dict[str, Tensor] = {}
    for key, value in found.items():
        name = PREFIXES.sub("", key)
        if name in weights:
            raise refusal(path, f"'{printable(name)}' is in it twice, with and without a prefix; remove one of them")
        if len(name) > MAX_KEY:
            raise refusal(path, f"'{printable(name)}' is no name of a weight ({len(name):,} characters); rename it")
        weights[name] = value
    _check_values(path, weights)
    return weights


def read_weights(path) -> dict[str, Tensor]:
    """`extract_weights` of `read_checkpoint`."""
    return extract_weights(read_checkpoint(path), path)


def load_weights(model: nn.Module, path, new_tail: bool = False) -> LoadOutcome:
    """`put_weights` of `read_weights`."""
    return put_weights(model, read_weights(path), path, new_tail)


def put_weights(model: nn.Module, weights: dict[str, Tensor], path, new_tail: bool = False) -> LoadOutcome:
    """Put the weights that were read from the file `path` into `model`.

    Strict: every key must be there, fit, and be known. With `new_tail`, keys of the tail may be missing, unknown or
    misshapen; those of the network then keep their initial values (fine-tuning across scales).

    Raises:
        ModelError: the file is of another architecture (both are named), keys do not fit, or a value is no weight of
            the network's kind of number; nothing is loaded then.
    """
    _check_values(path, weights)
    own = model.state_dict()
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    misshapen = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    wrong = [key for key in missing + unexpected + misshapen if not (new_tail and key.startswith("tail."))]
    if wrong:
        raise refusal(path, _mismatch(path, weights, own, missing, unexpected, misshapen))
    fitting = {key: weights[key] for key in own if key in weights and key not in misshapen}
    for key, value in fitting.items():
        if not _fits_type(value, own[key].dtype):
            wanted = f"it is {_type(value.dtype)}, the network's is {_type(own[key].dtype)}"
            raise refusal(
                path, f"'{printable(key)}' cannot be held by the network: {wanted}; convert it and save again"
            )
    model.load_state_dict({**own, **fitting})
    return LoadOutcome(list(fitting), unexpected + misshapen, missing + misshapen)


def shipped_weights(folder, scale: int) -> Path:
    """The weights that come with the project for this scale.

    Raises:
        ModelError: there are none; says where published ones are to be had.
    """
    path = Path(folder) / f"SSIU_x{scale}.pt"
    if not path.is_file():
        raise refusal(path, f"no x{scale} weights come with the project; {WHERE_PUBLISHED}")
    return path


def _check_values(path, weights: dict[str, Tensor]) -> None:
    """Raise ModelError, naming the first key, unless all are dense, of a known type, wholly stored and finite."""
    left = MAX_BYTES  # tensors may share what is stored of them, but not so that a small file becomes a large network
    for key, value in weights.items():
        problem = _problem(value)
        left -= 0 if problem else value.numel() * value.itemsize
        if problem or left < 0:
            problem = problem or f"exceeds the {MAX_BYTES >> 30} GiB that weights may take; save fewer"
            raise refusal(path, f"'{printable(key)}' {problem}")


def _problem(value: Tensor) -> str:
    """What keeps a tensor from being a weight, and what to do; an empty string if nothing does."""
    if value.is_nested or value.is_quantized or value.layout != torch.strided or value.device.type != "cpu":
        return "is no dense tensor with values in memory (but sparse, quantised, nested or meta); save a plain one"
    if value.dtype not in FLOATS | WHOLE:
        return f"is {_type(value.dtype)}; weights are float16, bfloat16, float32 or float64: convert it and save again"
    stored = value.untyped_storage().nbytes() - value.storage_offset() * value.itemsize
    if value.numel() * value.itemsize > stored:
        return f"repeats {stored} stored bytes over its shape {tuple(value.shape)}; save it with .contiguous()"
    if value.dtype in FLOATS and not _fits_type(value, value.dtype):
        return "is not finite (it holds NaN or infinity): the training diverged; take an earlier checkpoint"
    return ""


def _fits_type(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether all elements can be held as `dtype`: floats stay finite, whole numbers what they are."""
    if _kind(value.dtype) != _kind(dtype):
        return False
    if not value.numel() or (dtype == value.dtype and dtype in WHOLE):
        return True
    ends = torch.stack(torch.aminmax(value.detach()))  # NaN spreads to both
    held = ends.to(dtype)
    return bool(held.isfinite().all()) if dtype in FLOATS else torch.equal(held.to(ends.dtype), ends)


def _kind(dtype: torch.dtype) -> str:
    if dtype in FLOATS:
        return "float"
    return "whole number" if dtype in WHOLE - {torch.bool} else _type(dtype)


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _mismatch(path, weights, own, missing, unexpected, misshapen) -> str:
    """One line: both architectures where they differ, else the keys."""
    theirs, ours = detect_architecture(weights), detect_architecture(own)
    if theirs and ours and theirs != ours:
        beside = Path(path).parent / "config.yml"
        fits = f" ({beside} fits)" if beside.is_file() else ""
        tuned = replace(theirs, scale=ours.scale) == ours
        advice = "; name other weights with pretrain, or a config of this network"
        if tuned:
            advice = "; use a config of the file's scale; train.py fine-tunes across scales with pretrain_new_tail=True"
        return f"the weights do not fit the network: file: {theirs}; config: {ours}{fits}{advice}"
    parts = [
        f"{len(keys)} {what}: {_shorten(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if misshapen:
        shapes = [f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}" for key in misshapen]
        parts.append(f"{len(misshapen)} misshapen: {_shorten(shapes)}")
    return f"the weights do not fit the network: {'; '.join(parts)}"


def _shorten(keys: list[str], most: int = 6) -> str:
    shown = [printable(key) for key in keys[:most] + keys[most:][-1:]]
    return ", ".join(shown[:most]) + (f" ... {shown[-1]}" if len(keys) > most else "")

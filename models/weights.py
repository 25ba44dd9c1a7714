"""Reading weights: files opened safely, recognised, cleaned, compared with the network.

Files of any of these forms are read: published ones (a dict around a state dict whose keys carry `module.`), bare state
dicts, those of a compiled network (`_orig_mod.`), this project's own, and safetensors. Pickles are opened with
`weights_only=True` and nothing else: a file that carries code is refused.
"""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .architecture import detect_architecture
from .errors import ModelError

NESTING = ("ema_state_dict", "model_state_dict", "state_dict", "params_ema", "params", "model")  # first match is taken
SHIPPED = Path(__file__).parents[1] / "pretrain_model"  # the weights that come with the project
HASH_LIST = "SHA256SUMS"  # beside the shipped weights, as sha256sum writes it
CHECKSUM_MARK = b"sha256 "
PREFIXES = ("module.", "_orig_mod.")
# Published files log scores as numpy scalars; rebuilding those runs no code of the file's.
_scalar = np.float64(0).__reduce__()[0]
NUMPY_SCALARS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
    *((_scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),  # numpy 1 and 2
]
WHERE_PUBLISHED = (
    "weights published with the paper (arXiv 2506.11823 links to its authors' repository) belong in pretrain_model/, "
    "e.g. pretrain_model/model_x2_290.pt; name the file with --set pretrain=FILE"
)


class LoadOutcome(NamedTuple):
    """What became of each key: taken from the file, left in the file, initialised afresh."""

    loaded: list[str]
    skipped: list[str]
    initialised: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} keys loaded: {_shorten(self.loaded)}"]
        lines += [f"{len(keys)} keys {what}: {', '.join(keys)}" for what, keys in self._others() if keys]
        return "\n".join(lines)

    def _others(self):
        return ("skipped (in the file, do not fit)", self.skipped), ("initialised afresh", self.initialised)


def checksum_of(body: bytes) -> bytes:
    """What a checkpoint of this project carries as its zip archive's comment: the SHA-256 of all before its length."""
    return CHECKSUM_MARK + hashlib.sha256(body).hexdigest().encode()


def is_intact(path) -> bool | None:
    """Whether a file matches the checksum that it carries; None if it carries none."""
    data, length = Path(path).read_bytes(), len(checksum_of(b""))
    if not data[-length:].startswith(CHECKSUM_MARK):
        return None
    return data[-length:] == checksum_of(data[: -length - 2])


def listed_hash(path) -> str | None:
    """The SHA-256 that the file SHA256SUMS beside `path` gives for it, if there is one."""
    sums = Path(path).with_name(HASH_LIST)
    if not sums.is_file():
        return None
    pairs = (line.split() for line in sums.read_text(encoding="utf-8").splitlines())
    return next((pair[0] for pair in pairs if pair[1:] == [Path(path).name]), None)


def read_checkpoint(path) -> dict:
    """Whatever dict the file holds, on the CPU, once its checksum, if it has one, was found right.

    Raises:
        ModelError: no such file, damaged, carries code, or is no dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint; {WHERE_PUBLISHED}")
    if is_intact(path) is False:
        raise ModelError(f"{path}: damaged: it does not match the checksum that it carries; fetch or make it again")
    listed = listed_hash(path)
    if listed is not None and listed != file_hash(path):
        raise ModelError(f"{path}: is not the file that {HASH_LIST} beside it lists (SHA-256 differs); fetch it again")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: refused: not a checkpoint, or it carries code or objects other than tensors and numbers; "
            "ask its author for a plain state dict"
        ) from error
    except Exception as error:  # bytes at random make the unpickler raise anything: IndexError, struct.error, ...
        raise ModelError(f"{path}: damaged or not a checkpoint ({_first_line(error)}); fetch it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return content


def extract_weights(content: dict, path="checkpoint") -> dict[str, Tensor]:
    """The state dict inside `content` with published key names: nesting unwrapped, prefixes removed.

    A file of this project that holds averaged (EMA) weights yields those.
    """
    nested = next((content[name] for name in NESTING if isinstance(content.get(name), dict)), None)
    weights = content if nested is None else nested
    if not weights or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise ModelError(f"{path}: no state dict found in it (its keys: {_shorten([str(key) for key in content])})")
    return {_strip(key): value for key, value in weights.items()}


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
        ModelError: the file is of another architecture (both are named), or keys do not fit; nothing is loaded then.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    misshapen = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    wrong = [key for key in missing + unexpected + misshapen if not (new_tail and key.startswith("tail."))]
    if wrong:
        raise ModelError(_mismatch(path, weights, own, missing, unexpected, misshapen))
    fitting = {key: weights[key] for key in own if key in weights and key not in misshapen}
    model.load_state_dict({**own, **fitting})
    return LoadOutcome(list(fitting), unexpected + misshapen, missing + misshapen)


def shipped_weights(folder, scale: int) -> Path:
    """The weights that come with the project for this scale.

    Raises:
        ModelError: there are none; says where published ones are to be had.
    """
    path = Path(folder) / f"SSIU_x{scale}.pt"
    if not path.is_file():
        raise ModelError(f"{path}: no x{scale} weights come with the project; {WHERE_PUBLISHED}")
    return path


def file_hash(path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _strip(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.removeprefix(next(prefix for prefix in PREFIXES if key.startswith(prefix)))
    return key


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
        return f"{path}: the weights do not fit the network: file: {theirs}; config: {ours}{fits}{advice}"
    parts = [
        f"{len(keys)} {what}: {_shorten(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if misshapen:
        shapes = [f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}" for key in misshapen]
        parts.append(f"{len(misshapen)} misshapen: {_shorten(shapes)}")
    return f"{path}: the weights do not fit the network: {'; '.join(parts)}"


def _shorten(keys: list[str], most: int = 6) -> str:
    return ", ".join(keys[:most]) + (f" ... {keys[-1]}" if len(keys) > most else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

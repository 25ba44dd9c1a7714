"""What a checkpoint of a run must hold, each entry of its kind: looked at before anything of it is used."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from utils import InputError


def checked_form(content: dict, path, later: Collection[str] = ()) -> dict:
    """`content`, if it has what every checkpoint of a run has, each of its kind.

    What is named in `later` need not be there yet.

    Raises:
        InputError: it has not.
    """
    for key, (is_right, form) in FORM.items():
        if key not in content and (key in OPTIONAL or key in later):
            continue
        if key not in content or not is_right(content[key]):
            was = f"is {type(content[key]).__name__}, or out of range" if key in content else "is missing"
            raise InputError(f"{path}: not a checkpoint of a run ('{key}' {was}; expected {form})")
    return content


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_minutes(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_state(value) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _are_moments(value) -> bool:
    """{"state": {number of the parameter: {name: tensor or number}}}, as optimisers of PyTorch have it."""
    states = value.get("state") if isinstance(value, dict) else None
    return isinstance(states, dict) and all(
        _is_count(number)
        and isinstance(state, dict)
        and all(isinstance(key, str) and isinstance(entry, (Tensor, int, float)) for key, entry in state.items())
        for number, state in states.items()
    )


def _is_best(value) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("psnr"), float)
        and not math.isnan(value["psnr"])
        and _is_count(value.get("iteration"))
        and _is_text(value.get("set", ""))
    )


def _are_bests(value) -> bool:
    """{set: {score: {"value", "iteration", "epoch"}}}."""
    scores = value.values() if isinstance(value, dict) else [None]
    entries = [entry for score in scores for entry in (score.values() if isinstance(score, dict) else [None])]
    return all(
        isinstance(entry, dict)
        and isinstance(entry.get("value"), float)
        and _is_count(entry.get("iteration"))
        and _is_count(entry.get("epoch"))
        for entry in entries
    )


def _is_sum(value) -> bool:
    """What the meter has gathered since the last line of the log."""
    if not isinstance(value, dict) or not value:
        return value == {}
    sums = value.get("sums")
    return (
        isinstance(sums, list)
        and all(type(term) is float and math.isfinite(term) for term in sums)
        and _is_count(value.get("steps"))
        and _is_minutes(value.get("seconds"))
    )


def _are_random_states(value) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("cuda"), list):
        return False
    try:
        torch.Generator().set_state(value.get("torch"))
    except (TypeError, RuntimeError):
        return False
    return all(isinstance(state, Tensor) and state.dtype == torch.uint8 for state in value["cuda"])


FORM = {
    "epoch": (_is_count, "a whole number from 0 up"),
    "iteration": (_is_count, "a whole number from 0 up"),
    "validated": (_is_count, "a whole number from 0 up"),
    "minutes": (_is_minutes, "a number from 0 up"),
    "best": (_is_best, "psnr, iteration and set"),
    "bests": (_are_bests, "value, iteration and epoch by set and score"),
    "unlogged": (_is_sum, "sums, steps and seconds"),
    "model_state_dict": (_is_state, "tensors by name"),
    "ema_state_dict": (_is_state, "tensors by name"),
    "optimizer_state_dict": (_are_moments, "the moments of every parameter"),
    "scaler_state_dict": (lambda value: isinstance(value, dict), "a dict"),
    "config": (_is_text, "text"),
    "data": (lambda value: _is_text(value) and bool(value.split()), "text"),
    "backend": (_is_text, "text"),
    "eval_backend": (_is_text, "text"),
    "random_states": (_are_random_states, "those of PyTorch"),
}
OPTIONAL = (
    "validated",
    "bests",
    "unlogged",
    "ema_state_dict",
    "data",
    "backend",
    "eval_backend",
)  # some of them came after the first files

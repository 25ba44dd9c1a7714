"""What a run leaves, without its clock: two runs are the same if these are equal."""

import hashlib
import json
from pathlib import Path

import torch
import yaml

CLOCK = ("minutes", "seconds", "images_per_second")
PLACES = ("data_path", "log_path", "cache_path")
State = dict[str, str]


def run_state(folder: Path) -> State:
    """Digests of the newest checkpoint, of best.pt, of the figures in metrics.jsonl, of config.yml and the images."""
    newest = newest_checkpoint(folder)
    state = {"newest": newest.name if newest else "none"}
    for path in filter(None, (newest, folder / "best.pt")):
        if path.is_file():
            state |= {f"{path.name} {key}": value for key, value in _checkpoint_state(path).items()}
    state |= {f"metrics {number}": line for number, line in enumerate(figures(folder / "metrics.jsonl"))}
    if (folder / "config.yml").is_file():
        state |= _config_state((folder / "config.yml").read_text(encoding="utf-8"))
    return state | file_state(folder / "images")


def newest_checkpoint(folder: Path) -> Path | None:
    """The `iteration_*.pt` with the largest number, whatever it is."""
    found = sorted(path for path in folder.glob("iteration_*.pt"))
    return found[-1] if found else None


def _checkpoint_state(path: Path) -> State:
    """A digest of every entry of a checkpoint, nested ones too."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it was damaged on purpose: bytes at random make the reader raise anything
        return {"": f"cannot be read ({type(error).__name__})"}
    state: State = {}
    for key, value in content.items():
        if key == "config":
            state |= _config_state(value)
        elif key not in CLOCK:
            _flatten(key, value, state)
    return state


def _flatten(name: str, value, state: State) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key not in CLOCK:
                _flatten(f"{name}.{key}", entry, state)
    elif isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            _flatten(f"{name}[{place}]", entry, state)
    elif isinstance(value, torch.Tensor):
        kind = f"{value.dtype} {tuple(value.shape)}"
        state[name] = f"{kind} {hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()}"
    else:
        state[name] = repr(value)


def _config_state(text: str) -> State:
    values = yaml.safe_load(text)
    return {f"config {key}": repr(value) for key, value in values.items() if key not in PLACES}


def figures(path: Path) -> list[str]:
    """The lines of metrics.jsonl but those of starts, without what a clock gave; a damaged line as it is."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            if entry["kind"] != "start":
                lines.append(json.dumps({key: value for key, value in entry.items() if key not in CLOCK}))
        except (ValueError, KeyError, TypeError):
            lines.append(f"damaged: {line[:80]!r}")
    return lines


def file_state(folder: Path) -> State:
    """A digest of every file under a folder but temporary and lock files, by its path."""
    passing = (".lock", ".tmp")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(passing))
    return {
        f"{folder.name}/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def differing(state: State, reference: State) -> list[str]:
    """The names that differ or that only one of them has."""
    return sorted(key for key in state.keys() | reference.keys() if state.get(key) != reference.get(key))


def is_part(lines: list[str], whole: list[str]) -> bool:
    """Whether `lines` are some of `whole`, in their order."""
    rest = iter(whole)
    return all(line in rest for line in lines)


def leftovers(folder: Path) -> list[str]:
    """Temporary files under a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(".tmp"))

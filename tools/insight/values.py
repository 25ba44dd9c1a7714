"""The numbers behind a figure as files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from utils import InputError, atomic_write

KINDS = (".json", ".npz")


def need_values(files: list[Path]) -> None:
    """Raises InputError for the first file that has another ending."""
    for file in files:
        if file.suffix.lower() not in KINDS:
            raise InputError(f"--values {file}: must end in {' or '.join(KINDS)}")


def save_values(file: Path, numbers: dict[str, Any], maps: dict[str, np.ndarray]) -> None:
    """Write the numbers as JSON, or the numbers and the maps as arrays of an .npz by their names."""
    if file.suffix.lower() == ".json":
        atomic_write(file, (json.dumps(numbers, indent=2) + "\n").encode())
        return
    content = io.BytesIO()
    arrays: dict[str, Any] = {**{name: np.asarray(value) for name, value in numbers.items()}, **maps}
    np.savez_compressed(content, **arrays)
    atomic_write(file, content.getvalue())

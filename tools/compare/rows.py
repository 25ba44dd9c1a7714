"""Rows of images, LR | bicubic | SR | HR, each the middle of an image of the sets. It needs no matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datas import BenchmarkSet, write_png
from evaluation.pictures import side_by_side, titled
from tools.compare.images import Compared, Method, all_sources, read_source


def row(compared: Compared, side: int) -> np.ndarray:
    """LR | bicubic | SR | HR of an image with one method: the middle `side` pixels of LR (less where it is smaller)."""
    scale = compared.source.images.scale
    (sr,) = compared.methods.values()
    height, width = compared.lr.shape[:2]
    top, left = (scale * max(0, (length - side) // 2) for length in (height, width))
    parts = np.split(side_by_side(compared.lr, sr, compared.hr, scale), 4, axis=1)
    return np.concatenate([part[top:, left:][: scale * side, : scale * side] for part in parts], axis=1)


def write_rows(sets: Sequence[BenchmarkSet], folder: Path, side: int, out: Path) -> None:
    """Write a PNG with a row for every image; `folder` holds the SR images, `side` is in pixels of HR."""
    method = Method("SSIU", folder, "--sr")
    rows = [row(read_source(source, [method]), side // source.images.scale) for source in all_sources(sets)]
    width = max(panel.shape[1] for panel in rows)
    rows = [np.pad(panel, ((0, 0), (0, width - panel.shape[1]), (0, 0)), constant_values=255) for panel in rows]
    write_png(out, titled(np.concatenate(rows)))

"""Pictures for people who compare: images side by side."""

import cv2
import numpy as np

from datas import upscale

TITLE_BAR = 28  # rows


def side_by_side(lr_image: np.ndarray, sr_image: np.ndarray, hr_image: np.ndarray, scale: int) -> np.ndarray:
    """LR (pixels enlarged) | bicubic | SR | HR side by side: uint8 (H, W, 3) each -> (H, 4 W, 3)."""
    return np.concatenate([repeated(lr_image, scale), upscale(lr_image, scale), sr_image, hr_image], axis=1)


def repeated(image: np.ndarray, times: int) -> np.ndarray:
    """Each pixel as a square of `times` x `times`: (H, W, 3) -> (times H, times W, 3)."""
    return image.repeat(times, axis=0).repeat(times, axis=1)


def titled(panel: np.ndarray, network: str = "SR") -> np.ndarray:
    """A panel of `side_by_side` (H, 4 W, 3), or several under one another, below a bar with the four titles."""
    titles = ("LR", "bicubic", network, "HR")
    bar = np.full((TITLE_BAR, panel.shape[1], 3), 255, np.uint8)
    for place, title in enumerate(titles):
        origin = (place * panel.shape[1] // len(titles) + 8, 20)
        cv2.putText(bar, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, panel])

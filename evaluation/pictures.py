"""Pictures for people who compare: images side by side."""

import cv2
import numpy as np

from datas import upscale


def side_by_side(lr_image: np.ndarray, sr_image: np.ndarray, hr_image: np.ndarray, scale: int) -> np.ndarray:
    """LR (pixels enlarged) | bicubic | SR | HR side by side: uint8 (H, W, 3) each -> (H, 4 W, 3)."""
    height, width = hr_image.shape[:2]
    enlarged = cv2.resize(lr_image, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.concatenate([enlarged, upscale(lr_image, scale), sr_image, hr_image], axis=1)

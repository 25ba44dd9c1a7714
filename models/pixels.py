"""Between images as people keep them, uint8 arrays, and as the network takes them, float tensors in [0, 1]."""

import numpy as np
import torch
from torch import Tensor


def to_uint8(image: Tensor) -> Tensor:
    """Image in [0, 1], any shape -> uint8: clipped, times 255, rounded."""
    return (image.clamp(0, 1) * 255.0).round().to(torch.uint8)


def to_network(image: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1] on `device`."""
    image = image if image.flags.writeable else image.copy()  # PyTorch warns of others, such as Pillow's
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255


def from_network(image: Tensor) -> np.ndarray:
    """Float (3, H, W), nominally in [0, 1] -> uint8 (H, W, 3), clipped and rounded."""
    return to_uint8(image).permute(1, 2, 0).contiguous().cpu().numpy()

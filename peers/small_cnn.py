"""A small network beside SSIU: a plain residual CNN, as an example of a peer (docs/peers.md).

python train.py --config peers/small_cnn_x4.yml
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Detail for the bicubic image, from residual blocks of two 3x3 convolutions each.

    float32 (B, 3, h, w) in [0, 1] -> (B, 3, s h, s w), of any h and w.
    """

    def __init__(self, scale: int, channels: int = 32, blocks: int = 4):
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(self._block(channels) for _ in range(blocks))
        self.tail = nn.Sequential(nn.Conv2d(channels, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    @staticmethod
    def _block(channels: int) -> nn.Sequential:
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        return nn.Sequential(first, nn.ReLU(inplace=True), second)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        for block in self.body:
            features = features + block(features)
        return self.tail(features) + F.interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False)

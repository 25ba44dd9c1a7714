"""LPIPS and DISTS of SR images, by torchmetrics, which is needed for them alone."""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from utils import InputError, first_line

PERCEPTUAL = ("lpips", "dists")
INSTALL = "pip install torchmetrics torchvision"
Metric = Callable[[Tensor, Tensor], Tensor]


class Perceptual:
    """Some of LPIPS and DISTS, lower is better: torchmetrics' own, with AlexNet for LPIPS, over whole RGB images.

    Raises:
        InputError: torchmetrics or torchvision is absent or cannot be imported, or the weights of their networks cannot
            be loaded (constructor and `scores`); an image is too small (`scores`).
    """

    def __init__(self, names: Sequence[str]):
        self._metrics = {name: _open(name) for name in names}

    def scores(self, sr: Tensor, hr: Tensor, where: str) -> dict[str, float]:
        """Of two uint8 (3, H, W) images, by name; `where` is for errors."""
        found = {}
        first, second = (image[None].float() / 255 for image in (sr, hr))  # both take [0, 1]
        for name, metric in self._metrics.items():
            try:
                with torch.no_grad():
                    found[name] = float(metric(first, second))
            except (RuntimeError, ValueError, OSError) as error:
                raise InputError(f"{where}: has no {name.upper()} ({first_line(error)}); leave --{name} out") from error
        return found


def _open(name: str) -> Metric:
    _imported("torchvision", name)  # torchmetrics looks for it later, and says less
    try:
        if name == "lpips":
            # Without `normalize` it takes [-1, 1].
            lpips = _imported("torchmetrics.image.lpip", name)
            return lpips.LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        return _imported("torchmetrics.image.dists", name).DeepImageStructureAndTextureSimilarity()
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(f"--{name}: torchmetrics cannot make it ({first_line(error)}); leave it out") from error


def _imported(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision of another PyTorch raises RuntimeError
        package = module.partition(".")[0]
        problem = f"needs {package}, which cannot be imported ({first_line(error)})"
        raise InputError(f"--{name}: {problem}; `{INSTALL}`, in versions that fit your PyTorch") from error

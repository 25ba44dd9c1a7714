"""Networks of other papers from their weights alone, as the library spandrel reads them; it is optional."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .errors import ModelError
from .weight_file import MAX_MESSAGE, printable, refusal

SPANDREL = "spandrel:"  # what a config's `model` starts with
INSTALL = "pip install --no-deps spandrel==0.4.2"
TORCHVISION = "it needs torchvision, in the release that belongs to this PyTorch"


class SpandrelNetwork(nn.Module):
    """A network that spandrel built: float32 (B, 3, h, w) in [0, 1] -> (B, 3, s h, s w), not clipped.

    spandrel's own call would clip, which the `official` protocol does not. `multiple_of`, `minimum` and `square` are
    what spandrel knows of the sizes that the network takes (models/size_needs.py).
    """

    def __init__(self, descriptor: Any):
        super().__init__()
        self.network = descriptor.model
        self.architecture: str = descriptor.architecture.name
        self.takes_tiles: bool = descriptor.tiling.name == "SUPPORTED"
        self._call = descriptor._call_fn  # (network, x) -> image: some networks return more than that
        needs = descriptor.size_requirements
        self.multiple_of, self.minimum, self.square = needs.multiple_of, needs.minimum, needs.square

    def forward(self, x: Tensor) -> Tensor:
        return self._call(self.network, x)


def open_spandrel(file: Path, scale: int) -> SpandrelNetwork:
    """The network with its weights.

    Raises:
        ModelError: spandrel cannot be imported, does not know or read the file, or it is no super-resolution of RGB
            images by this scale.
    """
    spandrel = _library()
    if not file.is_file():
        raise refusal(file, "no such file; name the weights as spandrel:FILE")
    try:
        descriptor = spandrel.ModelLoader("cpu").load_from_file(file)
        network = SpandrelNetwork(descriptor).float()
    except spandrel.UnsupportedModelError as error:
        raise refusal(file, "holds the weights of no network that spandrel knows") from error
    except Exception as error:  # of any kind: of what unpickles, and of every architecture
        raise refusal(file, f"spandrel cannot read it ({type(error).__name__}: {error})") from error
    _check(descriptor, file, scale)
    return network


def _library() -> Any:
    try:
        import spandrel
    except Exception as error:  # a torchvision of another PyTorch raises a RuntimeError
        why = printable(f"{type(error).__name__}: {error}", MAX_MESSAGE)
        advice = TORCHVISION if "torchvision" in why else f"install it with: {INSTALL}"
        raise ModelError(f"spandrel cannot be imported ({why}); {advice}") from error
    return spandrel


def _check(descriptor: Any, file: Path, scale: int) -> None:
    name, channels = descriptor.architecture.name, (descriptor.input_channels, descriptor.output_channels)
    if descriptor.purpose != "SR":
        raise refusal(file, f"is {name} for {descriptor.purpose}, not for super-resolution of images")
    if channels != (3, 3):
        text = f"takes {channels[0]} channels and gives {channels[1]}; the images are RGB: 3 and 3"
        raise refusal(file, f"is {name} that {text}")
    if descriptor.scale != scale:
        wanted = f"the scale asked for is {scale}: take a config of x{descriptor.scale}"
        raise refusal(file, f"is {name} x{descriptor.scale}; {wanted} (benchmark.py: --scales {descriptor.scale})")

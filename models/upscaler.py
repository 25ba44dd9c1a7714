"""A trained network in one call: `load("x4")` or `load(FILE)`.

from models import load
upscale = load("x4")
large = upscale(image)  # uint8 (H, W, 3) RGB array -> uint8 (4 H, 4 W, 3)
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .architecture import Architecture, detect_architecture
from .backends import inference
from .errors import ModelError
from .memory import LARGE, rows_of_whole
from .pixels import from_network, to_network
from .ssiu import SCALES, SSIU
from .streaming import check_image
from .strips import Layout
from .weight_file import refusal
from .weights import SHIPPED, put_weights, read_weights, shipped_weights

Kind = TypeVar("Kind", bound="Upscaler")


class Upscaler:
    """A network with its weights, ready to be called with images.

    Attributes:
        model: the SSIU module, in evaluation mode.
        architecture: what it is made of.
        device, backend: where it runs, and through which implementation.
        weights: the file they came from.
    """

    def __init__(
        self,
        weights: Path,
        device: torch.device,
        backend: str = "auto",
        precision: str = "float32",
        say: Callable[[str], None] | None = None,
        memory_mib: float | None = None,
    ):
        self.weights, self.device, self.precision = weights, device, precision
        content = read_weights(weights)
        self.architecture = _architecture(content, weights)
        self.model = _built(self.architecture, content, weights)
        put_weights(self.model, content, weights)
        self.model.to(device).eval()
        self.network, self.backend = inference(self.model, device, backend, precision, say=say, memory_mib=memory_mib)

    @classmethod
    def load(
        cls: type[Kind],
        weights: str | Path = "x4",
        device: str | torch.device | None = None,
        backend: str = "auto",
        precision: str = "float32",
        say: Callable[[str], None] | None = None,
        memory_mib: float | None = None,
    ) -> Kind:
        """A network from its weights alone: its architecture is read off the file.

        Args:
            weights: 'x2', 'x3' or 'x4' for those that come with the project, or a checkpoint of any known form.
            device: where it runs; None for the first CUDA device, or the CPU where there is none.
            backend, precision: see `models.backends` and `models.precision`.
            say: takes one line on what a fast backend has proven on this machine.
            memory_mib: what the network's maps may take, see `models.backends.inference`.

        Raises:
            ModelError: no such file, not an SSIU's weights, or a backend that cannot run.
        """
        return cls(_weights_file(weights), _device(device), backend, precision, say, memory_mib)

    @property
    def scale(self) -> int:
        return self.architecture.scale

    def flows(self, height: int, width: int) -> bool:
        """Whether an image of this size had better go through `stream`: a large one on a CPU, or one that does not fit
        into the memory."""
        large = self.device.type == "cpu" and height * width > LARGE
        return large or not self.network.fits(1, height, width, self.device)

    def plan(self, height: int, width: int) -> Layout:
        """What `stream` will take of memory, for an image of this size. Raises ModelError where there is not enough."""
        return self.network.plan(height, width, self.device)

    def stream(self, image) -> Iterator[Tensor]:
        """The image, `scale` times as large, row by row; where it `flows`, in memory that its height does not change.

        Args:
            image: an array (H, W, 3) of uint8, uint16 or float, which may be memory-mapped.

        Yields: float32 (3, n, sW) on the CPU, rows after the last ones, neither clipped nor rounded.

        Raises:
            ModelError: see `models.strips.stream`.
        """
        check_image(image)
        if self.flows(image.shape[0], image.shape[1]):
            return self.network.rows(image, self.device)
        return rows_of_whole(self.network, image, self.device)

    def __repr__(self) -> str:
        return f"Upscaler({self.architecture}; {self.backend} on {self.device}; {self.weights})"

    @torch.no_grad()
    def __call__(self, image):
        """The image, `scale` times as large; what comes back is of the kind that went in.

        Args:
            image: a uint8 RGB array (H, W, 3), whose result is clipped and rounded; or a float tensor (3, H, W) or
                (B, 3, H, W) of RGB in [0, 1] on any device, whose result is float32, neither clipped nor rounded.

        Raises:
            ModelError: anything else.
        """
        if isinstance(image, np.ndarray):
            _check(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0, image)
            return from_network(self.network(to_network(np.ascontiguousarray(image), self.device))[0])
        _check(isinstance(image, Tensor) and image.is_floating_point() and image.dim() in (3, 4), image)
        _check(image.shape[-3] == 3 and image.numel() > 0, image)
        x = image.to(self.device, torch.float32)
        out = self.network(x if x.dim() == 4 else x[None])
        return (out if x.dim() == 4 else out[0]).to(image.device)


load = Upscaler.load


def named_weights(source: str | Path) -> Path:
    """The file that is meant by 'x2', 'x3' or 'x4', those that come with the project, or by its path.

    Raises:
        ModelError: none of this scale come with the project.
    """
    shipped = {f"x{scale}": scale for scale in SCALES}
    return shipped_weights(SHIPPED, shipped[str(source)]) if str(source) in shipped else Path(str(source))


def _weights_file(weights: str | Path) -> Path:
    file = named_weights(weights)
    if not file.is_file():
        shipped = ", ".join(f"'x{scale}'" for scale in SCALES)
        raise ModelError(f"{weights}: no such file; give {shipped} or the path of a checkpoint")
    return file


def _device(wanted: str | torch.device | None) -> torch.device:
    """The device that is asked for, with its number; a CUDA device becomes the current one: Triton launches there."""
    try:
        place = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ModelError(f"device: {wanted!r} is not a device; use 'cpu', 'cuda' or 'cuda:1'") from error
    if place.type != "cuda":
        return place
    if not torch.cuda.is_available():
        raise ModelError(f"device: {wanted!r}: there is no CUDA device here; use 'cpu'")
    index, count = torch.cuda.current_device() if place.index is None else place.index, torch.cuda.device_count()
    if index >= count:
        raise ModelError(f"device: {wanted!r} does not exist; this machine has {count} CUDA device(s)")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _built(architecture: Architecture, content: dict[str, Tensor], file: Path) -> SSIU:
    """The network, once the weights are known to have its shapes: a file can name sizes of any number."""
    try:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in architecture.build().state_dict().items()}
    except (ValueError, RuntimeError) as error:
        raise refusal(file, f"holds a network that cannot be built ({error}); name other weights") from error
    wrong = next((key for key in shapes if key not in content or content[key].shape != shapes[key]), None)
    if wrong is not None:
        raise refusal(file, f"is not one network: '{wrong}' is missing or of another shape; name other weights")
    return architecture.build()


def _architecture(weights: dict[str, Tensor], file: Path) -> Architecture:
    found = detect_architecture(weights)
    if found is None:
        raise ModelError(f"{file}: holds the weights of another network than SSIU (expected head, body.0 and tail)")
    return found


def _check(fits: bool, image) -> None:
    if not fits:
        kind = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(getattr(image, 'shape', ()))}"
        wanted = "give a uint8 (H, W, 3) array or a float (B, 3, H, W) tensor"
        raise ModelError(f"image: {kind} cannot be super-resolved; {wanted}")

"""Networks that take images of some sizes only: the image is padded, and what comes of the padding is cut off."""

from dataclasses import dataclass, fields
from functools import partial

from torch import Tensor, nn

from .errors import ModelError
from .ssiu import padded_side, reflect_pad


@dataclass(frozen=True)
class SizeNeeds:
    """What a network asks of its input's sides, in pixels; each is an attribute of the network, where it has it.

    Attributes:
        multiple_of: height and width are multiples of it.
        minimum: height and width are at least this.
        square: height and width are equal.
    """

    multiple_of: int = 1
    minimum: int = 0
    square: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> "SizeNeeds":
        """Raises ModelError, naming the attribute, for one that is no such number."""
        found = {name: getattr(model, name) for name in (entry.name for entry in fields(cls)) if hasattr(model, name)}
        for name, value in found.items():
            least, kind = getattr(cls, name), type(getattr(cls, name))
            if type(value) is not kind or value < least:
                wanted = "True or False" if kind is bool else f"a whole number from {least} up"
                kind_found = type(value).__name__
                raise ModelError(f"its attribute {name} is of type {kind_found} ({value!s:.40}), not {wanted}")
        return cls(**found)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Those of the smallest input that holds an image of this size."""
        height, width = (padded_side(max(side, self.minimum), self.multiple_of) for side in (height, width))
        return (max(height, width),) * 2 if self.square else (height, width)

    def pad(self, x: Tensor) -> Tensor:
        """(B, C, H, W) padded at the right and the bottom by reflection, as SSIU pads."""
        height, width = self.sides(*x.shape[2:])
        if (height, width) == x.shape[2:]:
            return x
        return reflect_pad(x, max(height, width))[..., :height, :width].contiguous()


def fit(model: nn.Module, scale: int) -> None:
    """Have `model` take images of any size, if it has SizeNeeds. Its weights and their names stay as they are.

    Raises:
        ModelError: see `SizeNeeds.of`.
    """
    needs = SizeNeeds.of(model)
    if needs != SizeNeeds():
        model.forward = partial(_forward, model.forward, needs, scale)


def _forward(of_fitting, needs: SizeNeeds, scale: int, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return of_fitting(needs.pad(x))[..., : scale * height, : scale * width]

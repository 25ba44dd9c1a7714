"""What the kernel files share: reflected indices, GELU and its derivative, the number of persistent programs."""

import triton
import triton.language as tl
from torch import Tensor

from ..errors import ModelError
from ..ssiu import MULTIPLE

# Kernels that reduce weight gradients run this many programs at most, each over many tiles: two for every
# multiprocessor of an H100. A constant, not asked of the device, so that sums are split the same way everywhere.
PROGRAMS = 264


@triton.jit
def reflect(i, n):
    """Index i of a reflect-padded axis of length n: -1 -> 1, n -> n - 2."""
    i = tl.abs(i)
    return tl.where(i >= n, 2 * n - 2 - i, i)


@triton.jit
def gelu(x):
    """GELU, erf form, of a float32 tile."""
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def gelu_with_grad(x):
    """GELU (erf form) of a float32 tile and its derivative, which share the erf."""
    cdf = 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476))
    return x * cdf, cdf + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


# Bytes of a number -> pixels of a program that multiplies tiles of them. A float32 product without TF32 holds whole
# rows and columns of its operands in registers: with 32 pixels most kernels would spill.
TILE_PIXELS = {2: 64, 4: 16}

# What is compiled offline: type of the maps, how products are computed, bytes of a number.
OFFLINE_KINDS = (("bf16", "ieee", 2), ("fp32", "tf32", 4), ("fp32", "tf32x3", 4), ("fp32", "ieee", 4))


def program_pixels(x: Tensor) -> int:
    """Pixels of a program that multiplies tiles of x; the interpreter has no registers and likes few programs."""
    return TILE_PIXELS[x.element_size()] if x.is_cuda else 64


def check_size(batch: int, height: int, width: int, channels: int) -> None:
    """Refuse maps (B, H, W, C) in which the kernels' 32-bit offsets do not reach everything.

    What is larger than a map, in the tail, has 64-bit ones.

    Raises:
        ModelError: 2^31 values or more.
    """
    if batch * height * width * channels >= 2**31:
        size = f"{batch} x {height} x {width} pixels of {channels} channels"
        raise ModelError(
            f"a map of {size} has 2^31 values or more, too many for the Triton kernels: give smaller batches or tiles"
        )


def check_map(x: Tensor) -> None:
    """Refuse a map whose sides or memory the kernels are not written for: they have no masks for incomplete tiles.

    Raises:
        ValueError: x is not contiguous, or a side of (B, H, W, C) is no multiple of 16; see also `check_size`.
    """
    check_size(*x.shape)
    if x.shape[1] % MULTIPLE or x.shape[2] % MULTIPLE or not x.is_contiguous():
        raise ValueError(f"map of shape {tuple(x.shape)}: must be contiguous with H and W multiples of {MULTIPLE}")

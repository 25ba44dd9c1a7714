"""The arithmetic of a forward pass: float32 unless something else is asked for.

'float32' is faithful: products in full float32, on GPUs too. 'tf32' gives the factors of products 10 bits, on GPUs that
have it; the Triton kernels cut the rest off, which makes every product a little small. 'tf32x3', which only they have,
makes a product of three of those, with the factors' next 11 bits: near to float32, but on the matrix units. 'bf16' and
'fp16' are autocast: products in 16 bits, sums in float32.
"""

from contextlib import contextmanager

import torch

PRECISIONS = ("float32", "tf32", "tf32x3", "bf16", "fp16")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def matmul_precision(precision: str):
    """Within it, float32 products on CUDA are exact, or TF32 if that is asked for (PyTorch allows TF32 unasked)."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to the 16-bit type of `precision`; does nothing for the others."""
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)

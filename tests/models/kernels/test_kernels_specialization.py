"""One compiled kernel for all sizes of images: Triton compiles anew for every other key of a launch's arguments.

What it keys by here: whether an integer is 1 or a multiple of 16, unless the kernel forbids that; types; alignments.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from models import create_model

pytest.importorskip("triton", reason="Triton is not installed")
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from models.kernels import network

BACKEND = make_backend(GPUTarget("cuda", 90, 32))
GENERATOR = torch.Generator().manual_seed(0)
SIZES = [(1, 1, 1), (3, 16, 16)]  # (B, H, W)
SIZES += [tuple(torch.randint(1, most, (1,), generator=GENERATOR).item() for most in (4, 130, 130)) for _ in range(48)]


def compiled(kernel) -> JITFunction:
    """As it is on a GPU, where the interpreter's stand-in is not in its place."""
    return kernel if isinstance(kernel, JITFunction) else JITFunction(kernel.fn, **kernel.kwargs)


@pytest.fixture
def binders(kernels) -> dict:
    """By kernel, what tells the key of a launch."""
    functions = {kernel: compiled(kernel) for kernel in kernels}
    return {k: create_function_from_signature(f.signature, f.params, BACKEND) for k, f in functions.items()}


@pytest.mark.parametrize(("scale", "precision"), [(2, "float32"), (4, "fp16")])
def test_fifty_sizes_take_the_kernels_that_one_size_takes(scale, precision, launches, binders):
    model = create_model(SimpleNamespace(scale=scale, n_feats=16, num_heads=1, n_blocks=3))
    keys = []  # by size: kernel's name -> its keys
    for batch, height, width in SIZES:
        launches.clear()
        x = torch.zeros(batch, 3, height, width)
        with torch.no_grad():
            network.forward(model, x, precision)
        network.forward(model, x, precision).sum().backward()
        found = defaultdict(set)
        for launch in launches:
            _, key, options = binders[launch.kernel](*launch.arguments, **launch.options)
            found[launch.kernel.__name__].add((str(key), str(options)))
        keys.append(found)
    assert len(keys[0]) >= 17
    assert {name for found in keys for name in found if found[name] != keys[0][name]} == set()


def test_a_key_tells_multiples_of_16_from_other_numbers_unless_the_kernel_forbids_it():
    def kernel(free, forbidden):
        pass

    function = JITFunction(kernel, do_not_specialize=["forbidden"])
    binder = create_function_from_signature(function.signature, function.params, BACKEND)
    free, forbidden = zip(*(binder(n, n, num_warps=4)[1] for n in (1, 15, 16)), strict=True)
    assert len(set(free)) == 3
    assert len(set(forbidden)) == 1

"""Offsets in the largest maps that the kernels take: those of 32-bit indices are those of 64-bit ones.

No such map exists here. The network runs on tensors without memory, which tells what it would launch; the last tile of
each launch runs in Triton's interpreter, with loads and stores that only note where they go.
"""

import inspect
import math
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models import create_model
from models.errors import ModelError

pytest.importorskip("triton", reason="Triton is not installed")
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.jit import mangle_type

from models.kernels import common, network

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs Triton's interpreter")
LIMIT = 2**31  # values of a map
APART = 2**48  # bytes between the fake places of two tensors
# axis of the grid over which persistent programs are spread
TILES_AXIS = {"_linear_gradients": 1}


def largest(channels: int) -> tuple[int, int]:
    """Sides of the largest square image, in multiples of 16, whose maps have fewer than LIMIT values."""
    side = math.isqrt((LIMIT - 1) // channels) // 16 * 16
    return side, side


class Memory:
    """Runs programs of a kernel on tensors that have no memory, and notes which bytes they ask for.

    Args:
        bits: width of every index that the kernel starts from.
    """

    def __init__(self, monkeypatch, bits: int):
        self.patch, self.dtype, self.type = monkeypatch, getattr(np, f"int{bits}"), getattr(tl, f"int{bits}")
        self.asked: list[np.ndarray] = []

    def integer(self, value: int) -> tl.tensor:
        assert -(2**31) <= value < 2**31, "Triton would take this argument in 64 bits"
        return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=self.dtype), self.type), self.type)

    def argument(self, index: int, value):
        if isinstance(value, torch.Tensor):
            kind = tl.str_to_ty(mangle_type(value), None)
            place = np.array([(index + 1) * APART], dtype=np.uint64)
            return tl.tensor(interpreter.TensorHandle(place, kind), kind)
        if isinstance(value, int):
            return self.integer(value)
        return interpreter._implicit_cvt(value)

    def note(self, addresses: np.ndarray, mask: np.ndarray) -> None:
        addresses, mask = np.broadcast_arrays(addresses, mask)
        self.asked.append(addresses[mask.astype(bool)].ravel())

    def load(self, pointers, mask, _other, *_):
        self.note(pointers.data, mask.data)
        kind = pointers.get_element_ty()
        return interpreter.TensorHandle(np.zeros(pointers.data.shape, interpreter._get_np_dtype(kind)), kind)

    def store(self, pointers, _value, mask, *_) -> None:
        self.note(pointers.data, mask.data)

    def range(self, *limits) -> Iterator[tl.tensor]:
        return (self.integer(i) for i in range(*map(int, limits)))

    def run(self, launch, modules) -> list[np.ndarray]:
        """Addresses of every load and store, in their order."""
        builder, kernel = interpreter.interpreter_builder, launch.kernel
        position, size = [side - 1 for side in launch.grid], list(launch.grid)
        runtime = kernel.arg_names[: len(launch.arguments)]
        values = dict(zip(runtime, launch.arguments, strict=True))
        values |= {name: launch.options[name] for name in kernel.arg_names[len(runtime) :]}
        if "tiles" in values:  # a program over the first and the last tile
            axis = TILES_AXIS.get(kernel.__name__, 0)
            position[axis], size[axis] = 0, max(values["tiles"] - 1, 1)
        constants = {name for name, kind in inspect.get_annotations(kernel.fn).items() if "constexpr" in str(kind)}
        arguments = {
            name: value if name in constants else self.argument(index, value)
            for index, (name, value) in enumerate(values.items())
        }
        with self.patch.context() as patch:
            for module in modules:
                patch.setattr(module, "range", self.range, raising=False)
            for name, replacement in (
                ("create_masked_load", self.load),
                ("create_masked_store", self.store),
                ("create_get_program_id", lambda axis: self.integer(position[axis]).handle),
                ("create_get_num_programs", lambda axis: self.integer(size[axis]).handle),
            ):
                patch.setattr(builder, name, replacement)
            scope = interpreter._patch_lang(kernel.fn)
            try:
                kernel.rewrite()(**arguments)
            finally:
                scope.restore()
        return self.asked


def launched(launches, model, x, precision: str) -> list:
    """The launches of inference and of a training step, each once."""
    with torch.no_grad():
        network.forward(model, x, precision)
    network.forward(model, x, precision).sum().backward()
    found = {}
    for launch in launches:
        shapes = [tuple(a.shape) if isinstance(a, torch.Tensor) else a for a in launch.arguments]
        found.setdefault((launch.kernel.__name__, str(shapes), str(launch.options)), launch)
    return list(found.values())


@pytest.mark.parametrize(
    ("channels", "scale", "precision"), [(16, 3, "float32"), (16, 4, "fp16"), (32, 4, "float32"), (64, 4, "float32")]
)
def test_the_last_tile_of_the_largest_map_reads_and_writes_where_it_should(
    channels, scale, precision, launches, kernel_modules, monkeypatch
):
    monkeypatch.setattr(common, "PROGRAMS", 64)
    sizes = {"scale": scale, "n_feats": channels, "num_heads": 1, "n_blocks": 3}
    model = create_model(SimpleNamespace(**sizes)).to("meta")
    x = torch.empty(1, 3, *largest(channels), device="meta")
    wrong, names = set(), set()
    for launch in launched(launches, model, x, precision):
        asked = Memory(monkeypatch, 32).run(launch, kernel_modules)
        truth = Memory(monkeypatch, 64).run(launch, kernel_modules)
        names.add(launch.kernel.__name__)
        if any(not np.array_equal(a, b) for a, b in zip(asked, truth, strict=True)):
            wrong.add(launch.kernel.__name__)
        assert_inside(launch, np.concatenate(truth))
    assert wrong == set()
    assert len(names) >= 17


def assert_inside(launch, addresses: np.ndarray) -> None:
    tensors, offsets = addresses // APART - 1, addresses % APART
    for index in np.unique(tensors):
        tensor = launch.arguments[int(index)]
        assert offsets[tensors == index].max() < tensor.numel() * tensor.element_size(), launch.kernel.__name__


def test_maps_that_are_too_large_are_refused_before_anything_is_launched(launches):
    model = create_model(SimpleNamespace(scale=2, n_feats=16, num_heads=1, n_blocks=3)).to("meta")
    height, width = largest(16)
    with torch.no_grad(), pytest.raises(ModelError, match=r"2\^31"):
        network.forward(model, torch.empty(1, 3, height + 1, width, device="meta"))
    assert launches == []

"""SSIU on a CPU: inference in float32 through compiled code (models/cpu.cpp), the plain path's numbers within 1e-5.

    fast = CpuInference(model)  # an SSIU
    sr = fast(x)  # (B, 3, H, W) -> (B, 3, sH, sW), no gradients

The code is compiled once, for the processor at hand, by the C++17 compiler that is there: CXX, else c++, g++ or
clang++. That takes seconds; the result is kept in the user's cache folder (models/cache.py).
How it differs from the plain path, and why it is faster, stands at the head of models/cpu.cpp.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import cache_folder, digest, write_whole
from .ssiu import BLOCK, ESAM, HALO, MSGM, SSIU, SSReM, reflect_pad

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
NATIVE = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
WINDOW = BLOCK + 2 * HALO
LANES = 16  # channels are padded to a multiple of it: the floats of the widest vector
TAPS = 32  # likewise the 27 taps of the last convolution
MIN_BAND = 8  # rows per thread; up to six more are computed anew at its edges


# ---------------------------------------------------------------------------------------------------------------------
# Compilation


@cache
def unavailable() -> str | None:
    """Why the compiled code is not to be had on this machine, with the compiler's words; None where it is."""
    try:
        compiled()
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


@cache
def compiled() -> ctypes.CDLL:
    """models/cpu.cpp for the processor at hand; raises what `load` raises."""
    return load(NATIVE)


def load(architecture: str) -> ctypes.CDLL:
    """models/cpu.cpp, compiled with a flag that names the processor, or the file that an earlier call left.

    The file lies in the cache folder beside its SHA-256. One that does not match is compiled anew: loading a file that
    was cut short would kill the process.

    Raises:
        RuntimeError: no compiler, or it refuses the file; quotes it.
        OSError: the cache folder cannot be written, or what the compiler made cannot be loaded.
    """
    compiler, folder = find_compiler(), cache_folder()
    key = digest(SOURCE.read_bytes(), " ".join([*compiler, *FLAGS]).encode(), compiler_macros(architecture))
    built = folder / f"cpu-{key[:16]}.so"
    if not _is_whole(built):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            out = Path(place, built.name)  # moved into its place whole: several processes may be at it
            _run([*compiler, *FLAGS, architecture, str(SOURCE), "-o", str(out)])
            content = digest(out.read_bytes())
            out.replace(built)
        write_whole(_checksum_file(built), content.encode())
    code = ctypes.CDLL(str(built))
    code.ssiu_weights.restype = code.ssiu_memory.restype = ctypes.c_size_t
    return code


def compiler_macros(architecture: str) -> bytes:
    """What the compiler defines for a processor: it tells compilers and processors apart, and home folders are shared
    between machines."""
    return _run([*find_compiler(), architecture, "-dM", "-E", "-x", "c++", os.devnull])


def _checksum_file(built: Path) -> Path:
    return built.with_suffix(".sha256")


def _is_whole(built: Path) -> bool:
    try:
        return digest(built.read_bytes()) == _checksum_file(built).read_text()
    except (OSError, UnicodeDecodeError):
        return False


def find_compiler() -> list[str]:
    """The start of its command line, of which CXX may hold more than one word."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise RuntimeError(f"CXX: {os.environ['CXX']!r} is no command ({error})") from error
    candidates = [named] if named else [["c++"], ["g++"], ["clang++"]]
    compiler = next((words for words in candidates if shutil.which(words[0])), None)
    if compiler is None:
        missing = ", ".join(words[0] for words in candidates)
        raise RuntimeError(f"no C++ compiler: {missing} not found; install one or name it in CXX")
    return compiler


def _run(command: list[str]) -> bytes:
    run = subprocess.run(command, capture_output=True, check=False)
    if run.returncode:
        how = f"was killed by signal {-run.returncode}" if run.returncode < 0 else "failed"
        words = run.stderr.decode(errors="replace").strip()[:2000]
        raise RuntimeError(f"{' '.join(command)} {how}:\n{words}")
    return run.stdout


class Sizes(ctypes.Structure):
    """`Sizes` of cpu.cpp."""

    _names = "channels true_channels stages heads has_esam has_moe scale height width out_height out_width threads"
    _fields_ = [(name, ctypes.c_int32) for name in _names.split()]


# ---------------------------------------------------------------------------------------------------------------------
# Weights, in the order in which cpu.cpp takes them


class Packing:
    """Flat tensors, each of a multiple of 16 floats, of weights whose channels are padded with zeros."""

    def __init__(self, channels: int):
        self.width = -(-channels // LANES) * LANES
        self.pieces: list[Tensor] = []

    def add(self, piece: Tensor) -> None:
        piece = piece.detach().flatten()
        self.pieces.append(F.pad(piece, (0, -len(piece) % 16)))

    def per_channel(self, piece: Tensor) -> None:
        """(..., C)."""
        self.add(F.pad(piece, (0, self.width - piece.shape[-1])))

    def matrix(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """A product, `weight` (C_out, C_in) or several of them side by side, (n, C_out, C_in); with its bias."""
        weight = weight if weight.dim() == 3 else weight[None]
        n, c_out, c_in = weight.shape
        padded = F.pad(weight, (0, self.width - c_in, 0, self.width - c_out))
        self.add(padded.permute(2, 0, 1))
        self.per_channel(bias if bias is not None else weight.new_zeros(n, c_out))

    def conv(self, conv: nn.Conv2d) -> None:
        """A 1x1 convolution."""
        self.matrix(conv.weight.flatten(1), conv.bias)

    def depthwise(self, conv: nn.Module, channels: int) -> None:
        """A depthwise 3x3 convolution; for nn.Identity (an ablation), one that changes nothing."""
        if isinstance(conv, nn.Identity):
            taps, bias = F.pad(torch.ones(channels, 1, 1, 1), (1, 1, 1, 1)), torch.zeros(channels)
        else:
            taps, bias = conv.weight, conv.bias
        self.per_channel(taps.flatten(1).t())
        self.per_channel(bias)

    def gate(self, msgm: MSGM) -> None:
        conv_a, depthwise, conv_c = msgm.project_in2
        for conv in (msgm.project_in1, conv_a, conv_c, msgm.project_out):
            self.conv(conv)
        self.depthwise(depthwise, conv_a.out_channels)

    def attention(self, esam: ESAM) -> None:
        channels = esam.qkv_conv.in_channels
        queries, *keys_values = esam.qkv_conv.weight.flatten(1).split(channels)
        self.matrix(queries)
        self.matrix(torch.stack(keys_values))
        rel_h, rel_w = esam.rel_h.expand(-1, -1, WINDOW, -1), esam.rel_w.expand(-1, WINDOW, -1, -1)
        self.per_channel(torch.cat([rel_h, rel_w], dim=-1)[0].repeat(1, 1, esam.heads))
        self.depthwise(esam.LocalProp[0], channels)

    def stage(self, stage: SSReM) -> None:
        self.per_channel(stage.norm.body.weight)
        self.per_channel(stage.norm.body.bias)
        for msgm in (stage.s1, stage.s2, stage.s4, stage.ffn):
            self.gate(msgm)
        if stage.s3 is not None:
            self.attention(stage.s3)

    def tail(self, tail: nn.Sequential) -> None:
        for conv, shuffle in zip(tail[:-1:3], tail[1:-1:3], strict=True):
            sides = range(shuffle.upscale_factor)
            weight = conv.weight.flatten(1).unflatten(0, (-1, len(sides), len(sides)))  # (C_out, r, r, C_in)
            bias = conv.bias.unflatten(0, (-1, len(sides), len(sides)))
            for i in sides:
                for j in sides:
                    self.matrix(weight[:, i, j], bias[:, i, j])
        taps = tail[-1].weight.permute(1, 2, 3, 0).flatten(1)  # (C, 27), ordered (row, column, RGB)
        self.add(F.pad(taps, (0, TAPS - taps.shape[1], 0, self.width - len(taps))))
        self.add(torch.zeros(TAPS))
        self.add(tail[-1].bias)


def pack(model: SSIU) -> Tensor:
    packing = Packing(model.head.out_channels)
    packing.per_channel(model.head.weight.flatten(1).t())
    packing.per_channel(model.head.bias)
    for stage in model.body:
        packing.stage(stage)
    if model.moe is not None:
        for conv in (model.moe.fc_a, model.moe.fc_b, model.moe.fc_c, model.moe.fuse):
            packing.conv(conv)
    packing.tail(model.tail)
    return torch.cat(packing.pieces)


# ---------------------------------------------------------------------------------------------------------------------
# The path


def unsupported(model: nn.Module) -> str | None:
    """Why this path cannot run `model`, in a line; None where it can."""
    if not isinstance(model, SSIU):
        return f"the model is a {type(model).__name__}, not an SSIU"
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            return f"{name} is {parameter.dtype} on {parameter.device}; the CPU path takes float32 on the CPU"
    return None


class CpuInference:
    """SSIU's forward pass without gradients, on the CPU in float32: (B, 3, H, W) -> (B, 3, sH, sW).

    The weights are packed at the first call, and anew when a parameter has changed since (an optimiser step,
    load_state_dict: whatever moves a tensor or its version). The memory that the largest input so far took is kept, as
    fresh memory is slow: the system hands it out page by page, zeroed. It runs in as many threads as PyTorch does
    (torch.set_num_threads), and their number does not change a bit of the result. Calls from several threads wait for
    one another.

    Raises:
        ValueError: a model or an input that this path cannot run (see `unsupported`).
        RuntimeError, OSError: no compiled code (see `compiled`), no memory or no threads.
    """

    def __init__(self, model: SSIU):
        self.model, self.code = model, compiled()
        self.lock = threading.Lock()
        self.version: list[tuple[int, int]] | None = None
        self.weights = self.memory = torch.empty(0)
        self.check()

    def check(self) -> None:
        if reason := unsupported(self.model):
            raise ValueError(reason)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise ValueError(f"the input is {x.dtype} on {x.device}; the CPU path takes float32 on the CPU")
        if x.dim() != 4 or x.shape[1] != 3 or 0 in x.shape:
            raise ValueError(f"the input has the shape {tuple(x.shape)}; (B, 3, H, W) is taken")
        model, esam, (height, width) = self.model, self.model.body[0].s3, x.shape[-2:]
        x = reflect_pad(x).contiguous()
        out = x.new_empty(len(x), 3, model.scale * height, model.scale * width)
        channels = model.head.out_channels
        sizes = Sizes(
            channels=-(-channels // LANES) * LANES,
            true_channels=channels,
            stages=len(model.body),
            heads=esam.heads if esam is not None else 0,
            has_esam=esam is not None,
            has_moe=model.moe is not None,
            scale=model.scale,
            height=x.shape[2],
            width=x.shape[3],
            out_height=out.shape[2],
            out_width=out.shape[3],
            threads=max(min(torch.get_num_threads(), x.shape[2] // MIN_BAND), 1),
        )
        with self.lock:
            self.update(sizes)
            pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (self.weights, self.memory, x, out))
            weights, memory, images, sr = pointers
            if self.code.ssiu_run(ctypes.byref(sizes), weights, memory, len(x), images, sr):
                what = f"the system does not give {sizes.threads} threads"
                raise RuntimeError(f"{what}; ask for fewer with torch.set_num_threads")
        return out

    def update(self, sizes: Sizes) -> None:
        """Pack the weights, if they have changed, and take memory, if the size has."""
        version = [(parameter.data_ptr(), parameter._version) for parameter in self.model.parameters()]
        if version != self.version:
            self.check()
            self.version, self.weights = version, pack(self.model)
            expected = self.code.ssiu_weights(ctypes.byref(sizes))
            if len(self.weights) != expected:
                raise RuntimeError(f"{len(self.weights)} packed weights where models/cpu.cpp takes {expected}")
        needed = self.code.ssiu_memory(ctypes.byref(sizes))
        if len(self.memory) < needed:
            self.memory = torch.empty(0)  # what was taken is given back before more is
            self.memory = torch.empty(needed)

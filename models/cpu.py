"""SSIU on a CPU: inference through compiled code (models/cpu.cpp), in float32 the plain path's numbers within 1e-5.

    fast = CpuInference(model)  # an SSIU
    sr = fast(x)  # (B, 3, H, W) -> (B, 3, sH, sW), no gradients
    fast.stream(height, width, read, write)  # the same for one image whose rows are read and written in order

In 'bf16' the factors of 1x1 convolutions, and of the last convolution, are rounded to bf16, on processors that multiply
it (AVX512-BF16). The first convolution, depthwise ones, attention, LayerNorm, GELU and all sums stay float32.

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .cache import cache_folder, digest, write_whole
from .cpu_weights import LANES, pack
from .ssiu import SSIU, padded_side, reflect_pad
from .streaming import ReadRows, StreamPlan, Strip, WriteRows, check_rows, check_size

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
NATIVE = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
MIN_BAND = 8  # rows per thread; up to six more are computed anew at its edges
NO_THREADS = 1  # what ssiu_run and ssiu_stream return if the system does not give them
RowsCallback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p)


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
    for function in (code.ssiu_weights, code.ssiu_memory, code.ssiu_stream_memory):
        function.restype = ctypes.c_size_t
    code.ssiu_multiply_adds.restype = ctypes.c_int64
    return code


def multiply_adds(rounds: int, precision: str) -> int:
    """Do as many multiply-adds as the cores can, in as many threads as PyTorch uses; returns their number.

    Raises: what `compiled` raises; ValueError: a precision that the CPU path does not compute in.
    """
    _check_precision(precision)
    code = compiled()

    def work(_thread: int) -> int:
        numbers = (ctypes.c_float * 2)(0.5, 1.0)
        return code.ssiu_multiply_adds(ctypes.c_int64(rounds), numbers, precision == "bf16")

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


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

    _names = (
        "channels true_channels stages heads has_esam has_moe scale height width out_height out_width threads "
        "left whole_width bf16"
    )
    _fields_ = [(name, ctypes.c_int32) for name in _names.split()]


# ---------------------------------------------------------------------------------------------------------------------
# The path


def computes(precision: str) -> bool:
    """Whether this path is one for this precision: for float32 it is, for bf16 on processors that multiply it."""
    if precision == "bf16":
        return unavailable() is None and bool(compiled().ssiu_has_bf16())
    return precision == "float32"


def _check_precision(precision: str) -> None:
    if not computes(precision):
        raise ValueError(f"the CPU path does not compute in {precision} on this processor")


def unsupported(model: nn.Module) -> str | None:
    """Why this path cannot run `model`, in a line; None where it can."""
    if not isinstance(model, SSIU):
        return f"the model is a {type(model).__name__}, not an SSIU"
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            return f"{name} is {parameter.dtype} on {parameter.device}; the CPU path takes float32 on the CPU"
    return None


class CpuInference:
    """SSIU's forward pass without gradients, on the CPU: float32 (B, 3, H, W) -> (B, 3, sH, sW).

    `precision` is that of products, 'float32' or 'bf16'.

    The weights are packed at the first call, and anew when a parameter has changed since (an optimiser step,
    load_state_dict: whatever moves a tensor or its version). The memory that the largest input so far took is kept, as
    fresh memory is slow: the system hands it out page by page, zeroed. It runs in as many threads as PyTorch does
    (torch.set_num_threads), and their number does not change a bit of the result, nor does streaming. Calls from
    several threads wait for one another; streams run beside them, each in memory of its own.

    Raises:
        ValueError: a model, a precision or an input that this path cannot run (see `unsupported`, `computes`).
        RuntimeError, OSError: no compiled code (see `compiled`), no memory or no threads.
    """

    def __init__(self, model: SSIU, precision: str = "float32"):
        _check_precision(precision)
        self.model, self.bf16, self.code = model, precision == "bf16", compiled()
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
        height, width = x.shape[-2:]
        x = reflect_pad(x).contiguous()
        out = x.new_empty(len(x), 3, self.model.scale * height, self.model.scale * width)
        sizes = self.sizes(height, width, self.threads(height))
        with self.lock:
            self.update(sizes)
            self.take_memory(self.code.ssiu_memory(ctypes.byref(sizes)))
            pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (self.weights, self.memory, x, out))
            weights, memory, images, sr = pointers
            if self.code.ssiu_run(ctypes.byref(sizes), weights, memory, len(x), images, sr):
                raise no_threads(sizes)
        return out

    def whole_mib(self, height: int, width: int) -> float:
        """What a call with whole images of this size works in, whatever their number."""
        sizes = self.sizes(height, width, self.threads(height))
        return self.code.ssiu_memory(ctypes.byref(sizes)) * 4 / 2**20

    @property
    def kept_mib(self) -> float:
        """What is kept from call to call."""
        return len(self.memory) * 4 / 2**20

    def plan(self, height: int, width: int, limit_mib: float | None = None) -> StreamPlan:
        """What `stream` will take, with as many threads as `limit_mib` has room for.

        Raises:
            ModelError: not even one has; or a size that cannot be streamed.
        """
        check_size(height, width)
        threads = min(torch.get_num_threads(), len(self.model.body) + 1)  # a thread per stage is busy, no more
        while True:
            sizes = self.sizes(height, width, threads)
            mib = self.code.ssiu_stream_memory(ctypes.byref(sizes)) * 4 / 2**20
            plan = StreamPlan(
                height, width, self.model.scale, self.code.ssiu_stream_rows(ctypes.byref(sizes)), mib, threads
            )
            if limit_mib is None or mib <= limit_mib or threads == 1:
                return plan.within(limit_mib)
            threads -= 1

    @torch.no_grad()
    def stream(
        self,
        height: int,
        width: int,
        read: ReadRows,
        write: WriteRows,
        limit_mib: float | None = None,
        strip: Strip | None = None,
    ) -> StreamPlan:
        """The forward pass of one image that is never whole; the bits are those of a call with the whole image.

        Args:
            strip: where these columns lie, if they are not the whole image; see models/strips.py.
            read, write: see models/streaming.py; both are called from the calling thread. What `write` is given is
                valid until it returns. An exception in one of them ends the stream and is raised here.

        Raises:
            ModelError: see `plan`; or rows of the wrong shape or kind.
        """
        plan = self.plan(height, width, limit_mib)
        sizes = self.sizes(height, width, plan.threads, strip)
        with self.lock:
            self.update(sizes)
            self.take_memory(self.code.ssiu_stream_memory(ctypes.byref(sizes)))
            weights, memory, self.memory = self.weights, self.memory, torch.empty(0)
        errors: list[BaseException] = []

        def bring(first: int, count: int, to: int) -> None:
            rows = read(first, count)
            check_rows(rows, count, width)
            floats(to, count, width).copy_(rows)

        def hand_out(first: int, count: int, at: int) -> None:
            write(first, floats(at, count, width * plan.scale))

        status = self.code.ssiu_stream(
            ctypes.byref(sizes),
            ctypes.c_void_p(weights.data_ptr()),
            ctypes.c_void_p(memory.data_ptr()),
            RowsCallback(keeping(errors, bring)),
            RowsCallback(keeping(errors, hand_out)),
        )
        with self.lock:
            if len(memory) > len(self.memory):
                self.memory = memory
        if errors:
            raise errors.pop()
        if status == NO_THREADS:
            raise no_threads(sizes)
        return plan

    def threads(self, height: int) -> int:
        """That take bands of whole images."""
        return max(min(torch.get_num_threads(), padded_side(height) // MIN_BAND), 1)

    def sizes(self, height: int, width: int, threads: int, strip: Strip | None = None) -> Sizes:
        """Of an input before padding, or a strip of one."""
        model, esam = self.model, self.model.body[0].s3
        channels = model.head.out_channels
        return Sizes(
            channels=-(-channels // LANES) * LANES,
            true_channels=channels,
            stages=len(model.body),
            heads=esam.heads if esam is not None else 0,
            has_esam=esam is not None,
            has_moe=model.moe is not None,
            scale=model.scale,
            height=padded_side(height),
            width=padded_side(width),
            out_height=model.scale * height,
            out_width=model.scale * width,
            threads=threads,
            left=strip.left if strip else 0,
            whole_width=padded_side(strip.whole if strip else width),
            bf16=self.bf16,
        )

    def update(self, sizes: Sizes) -> None:
        """Pack the weights, if they have changed."""
        version = [(parameter.data_ptr(), parameter._version) for parameter in self.model.parameters()]
        if version != self.version:
            self.check()
            self.version, self.weights = version, pack(self.model, self.bf16)
            expected = self.code.ssiu_weights(ctypes.byref(sizes))
            if len(self.weights) != expected:
                raise RuntimeError(f"{len(self.weights)} packed weights where models/cpu.cpp takes {expected}")

    def take_memory(self, floats: int) -> None:
        """At least `floats` of it."""
        if len(self.memory) < floats:
            self.memory = torch.empty(0)  # what was taken is given back before more is
            self.memory = torch.empty(floats)


def floats(address: int, count: int, width: int) -> Tensor:
    """`count` rows of three colours, (3, count, width), that lie there."""
    memory = (ctypes.c_float * (3 * count * width)).from_address(address)
    return torch.frombuffer(memory, dtype=torch.float32).view(3, count, width)


def keeping(errors: list[BaseException], action: Callable[[int, int, int], None]) -> Callable[[int, int, int], int]:
    """`action` for compiled code, through which no exception passes: kept in `errors`, and 1 in place of 0."""

    def call(first: int, count: int, address: int) -> int:
        try:
            action(first, count, address)
        except BaseException as error:
            errors.append(error)
            return 1
        return 0

    return call


def no_threads(sizes: Sizes) -> RuntimeError:
    what = f"the system does not give {sizes.threads} threads"
    return RuntimeError(f"{what}; ask for fewer with torch.set_num_threads")

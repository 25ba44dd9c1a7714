"""Compile every Triton kernel for a GPU that need not be there, and print what it takes of the chip.

    python -m tools.compile_offline [--only NAME] [--architecture 90]

Each module of models/kernels lists what to compile in OFFLINE_CASES: tuples of

    kernel     the function under @triton.jit
    types      argument name -> type as Triton writes it: "*bf16", "*fp32", "i32", "fp32"; "i32:16" for an integer that
               is a multiple of 16 in practice (Triton specialises on that); names that the kernel lacks are ignored
    constants  argument name -> value of the tl.constexpr arguments, or None for a pointer that is not given
    warps, stages

Columns: registers a thread; bytes of stack a thread (above zero: registers were spilled to memory); bytes of shared
memory a program; programs that fit one multiprocessor of compute capability 9.0 at a time.
"""

import argparse
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from utils import InputError, run_command

os.environ["TRITON_INTERPRET"] = "0"  # interpreted functions cannot be compiled
REGISTERS, SHARED, WARPS, PROGRAMS = 65536, 227 * 1024, 64, 32  # of a multiprocessor, compute capability 9.0
RESERVED_SHARED = 1024  # which the system takes of each program's


def cases(only: str) -> list[tuple[str, tuple]]:
    """(module, case) for every entry of every OFFLINE_CASES whose kernel's name contains `only`.

    Raises:
        InputError: Triton is absent, or no kernel has such a name.
    """
    package = importlib.import_module("models.kernels")
    try:
        names = [info.name for info in pkgutil.iter_modules(package.__path__)]
        modules = {name: importlib.import_module(f"models.kernels.{name}") for name in names}
    except ImportError as error:
        raise InputError(f"Triton cannot be imported ({error}): pip install triton") from error
    every = [(name, case) for name, module in modules.items() for case in getattr(module, "OFFLINE_CASES", ())]
    chosen = [(name, case) for name, case in every if only in case[0].__name__]
    if not chosen:
        known = ", ".join(sorted({case[0].__name__.lstrip("_") for _, case in every}))
        raise InputError(f"--only {only}: no kernel has a name with this in it; there are {known}")
    return chosen


def compile_case(case, architecture: int):
    """Triton's compiled kernel of one case."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, types, constants, warps, stages = case
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        kind, _, multiple = ("constexpr" if name in constants else types[name]).partition(":")
        signature[name] = kind
        if kind.startswith("*") or multiple:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def resources(compiled) -> tuple[int, int, int]:
    """(registers a thread, stack bytes a thread, shared bytes a program), by the cuobjdump that comes with Triton."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise InputError(f"{tool}: its answer says nothing of registers; is this another version of Triton?")
    return int(found[1]), int(found[2]), compiled.metadata.shared


def programs_per_multiprocessor(registers: int, shared: int, warps: int) -> int:
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    return min(by_registers, SHARED // (shared + RESERVED_SHARED), WARPS // warps, PROGRAMS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME", help="kernels whose name contains NAME")
    parser.add_argument("--architecture", type=int, default=90, help="compute capability, 90 for Hopper (default)")
    arguments = parser.parse_args()
    chosen = cases(arguments.only)
    print("| module | kernel | maps | constants | warps | stages | registers | stack | shared | programs/SM |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for module, case in chosen:
        kernel, types, constants, warps, stages = case
        registers, stack, shared = resources(compile_case(case, arguments.architecture))
        pointers = {types[name][1:] for name in kernel.arg_names if types.get(name, "").startswith("*")}
        maps = ", ".join(sorted(pointers - {"fp32"})) or "fp32"
        shown = " ".join(f"{name}={value}" for name, value in constants.items() if value is not None)
        fit = programs_per_multiprocessor(registers, shared, warps)
        row = (module, kernel.__name__.lstrip("_"), maps, shown, warps, stages, registers, stack, shared, fit)
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    run_command(main)

"""What is wrong on this machine? Versions, devices, memory, the self-test of every fast path, weights, and data.

    python doctor.py                                                    the machine, the paths, the shipped weights
    python doctor.py --config configs/SSUFSR_light_x4.yml --set data_path=./data        and that config's data
    python doctor.py --json                                             for a bug report

Every line is `ok`, `note` (worth knowing) or `FAIL`. The exit code is 1 if there is a FAIL. The self-tests run anew,
whatever was kept from earlier ones; with --config they are those of its network, else of the full x2, x3 and x4.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is in order, and what was found."""

    status: str  # 'ok', 'note' or 'FAIL'
    what: str
    text: str


def packages() -> list[Finding]:
    """Python, and every package of requirements.txt; the standard library alone must do for this."""
    found = [Finding("ok", "Python", f"{platform.python_version()} on {platform.platform()}")]
    missing, present = [], []
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if name := re.match(r"[\w.-]+", line):
            try:
                present.append(f"{name[0]} {version(name[0])}")
            except PackageNotFoundError:
                missing.append(name[0])
    if missing:
        advice = f"{', '.join(missing)} not installed: pip install -r requirements.txt"
        found.append(Finding("FAIL", "packages", advice))
    return [*found, Finding("ok", "packages", ", ".join(present))]


def show(found: list[Finding], as_json: bool) -> int:
    """Print the findings; returns the exit code."""
    failures = sum(finding.status == "FAIL" for finding in found)
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        for finding in found:
            print(f"{finding.status:4}  {finding.what}: {finding.text}")
        print(f"{failures} failure{'s' if failures != 1 else ''}" if failures else "nothing is wrong")
    return 1 if failures else 0


if any(finding.status == "FAIL" for finding in packages()):  # the rest cannot be imported
    sys.exit(show(packages(), "--json" in sys.argv))

import torch  # noqa: E402

from config import Config, load_config  # noqa: E402
from datas.check import check_data  # noqa: E402
from datas.prepare import JOBS  # noqa: E402
from models import ModelError, cpu, create_model, kernels  # noqa: E402
from models.architecture import Architecture, architecture_of  # noqa: E402
from models.backends import TYPICAL, fast_path, obstacle  # noqa: E402
from models.cache import cache_folder  # noqa: E402
from models.devices import device_name, pick_device  # noqa: E402
from models.proof import Work, prove  # noqa: E402
from models.weights import HASH_LIST, SHIPPED, file_hash  # noqa: E402
from utils import InputError, run_command  # noqa: E402

GIB = 2**30
LITTLE_MEMORY, LITTLE_DISK = 4 * GIB, 2 * GIB  # below these a note is made


def machine(device: torch.device) -> list[Finding]:
    """Device, driver, Triton, compiler, memory, cores and threads."""
    found = [Finding("ok", "device", device_name(device))]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            text = f"{properties.name}, capability {properties.major}.{properties.minor}, CUDA {torch.version.cuda}"
            found.append(Finding("ok", f"cuda:{index}", f"{text}; {free / GIB:.1f} of {total / GIB:.1f} GiB free"))
    else:
        found.append(Finding("note", "CUDA", f"none that torch {torch.__version__} can use"))
    reason = kernels.unavailable()
    found.append(Finding("note" if reason else "ok", "Triton kernels", reason or "can run here"))
    reason = cpu.unavailable()
    compiler = "" if reason else " ".join(cpu.find_compiler())
    found.append(Finding("note" if reason else "ok", "C++ compiler", _one_line(reason) if reason else compiler))
    memory = _memory()
    if memory:
        status = "note" if memory < LITTLE_MEMORY else "ok"
        found.append(Finding(status, "memory", f"{memory / GIB:.1f} GiB"))
    return [*found, Finding("ok", "processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")]


def disk(folders: list[Path]) -> list[Finding]:
    """Free space where things are written."""
    found = []
    for folder in folders:
        existing = next((parent for parent in [folder, *folder.parents] if parent.exists()), Path("."))
        free = shutil.disk_usage(existing).free
        writable = os.access(existing, os.W_OK)
        status = "FAIL" if not writable else "note" if free < LITTLE_DISK else "ok"
        text = f"{folder}: {free / GIB:.1f} GiB free" + ("" if writable else ", cannot be written to")
        found.append(Finding(status, "disk", text))
    return found


def paths(architectures: list[Architecture], device: torch.device, precisions: tuple[str, ...]) -> list[Finding]:
    """The self-test of every fast path that is meant for the device."""
    found = []
    backend = "triton" if device.type == "cuda" else "cpu"
    for architecture in architectures:
        reason = obstacle(backend, architecture.build().to(device))
        for training in (False, True) if backend == "triton" else (False,):
            for precision in precisions if backend == "triton" else filter(cpu.computes, precisions):
                what = f"{backend} {'training' if training else 'inference'} x{architecture.scale} {precision}"
                if reason:
                    found.append(Finding("note", what, f"the plain path runs: {_one_line(reason)}"))
                    continue
                work = Work(architecture, device, precision, training, TYPICAL[device.type])
                found.append(_proven(what, backend, work))
    return found


def _proven(what: str, backend: str, work: Work) -> Finding:
    try:
        verdict = prove(fast_path(backend), work)
    except Exception as error:  # a path may do anything on a machine nobody has seen; that is what is looked for
        return Finding("FAIL", what, _one_line(f"{type(error).__name__}: {error}"))
    if verdict.problem:
        return Finding("FAIL", what, verdict.problem)
    return Finding("ok" if verdict.speedup >= 1 else "note", what, str(verdict))


def weights() -> list[Finding]:
    """The shipped weights against their list of hashes."""
    found = []
    for line in (SHIPPED / HASH_LIST).read_text(encoding="utf-8").splitlines():
        expected, name = line.split()
        file = SHIPPED / name
        if not file.is_file():
            problem = "is not there; check out the project again"
        elif file_hash(file) != expected:
            problem = "is not what was shipped (its SHA-256 differs); fetch it again"
        else:
            problem = ""
        text = f"{file}: {problem}" if problem else f"{name} is what was shipped"
        found.append(Finding("FAIL" if problem else "ok", "weights", text))
    return found


def data(config: Config) -> list[Finding]:
    """Pairs, sizes, damage and leakage of everything in data_path; every image is decoded."""
    folders = [str(entry["path"]) for entry in config.data]
    try:
        looked = check_data(config.data_path, [config.scale], JOBS, folders)
    except InputError as error:
        return [Finding("FAIL", "data", str(error))]
    found = [Finding("ok", "data", line) for line in looked.looked_at]
    return found + [Finding("FAIL", "data", line) for line in looked.problems]


def _memory() -> int | None:
    """Bytes of the machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="also check this config: its network's paths, and its data")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    arguments = parser.parse_args()
    if arguments.set and not arguments.config:
        parser.error("--set goes with --config")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.set) if arguments.config else None
    device = pick_device(config.gpu_ids if config else (0,), say=lambda line: None)
    found = packages() + machine(device)
    try:
        found += disk([cache_folder(), *([Path(config.data_path), Path(config.log_path)] if config else [])])
    except OSError as error:
        found.append(Finding("FAIL", "disk", f"the cache folder cannot be made ({error.strerror}); set XDG_CACHE_HOME"))
    chosen = architecture_of(create_model(config)) if config else None
    architectures = [chosen] if chosen else [] if config else [Architecture(scale) for scale in (2, 3, 4)]
    precisions = (
        tuple(dict.fromkeys(("float32", config.precision, config.eval_precision)))
        if config
        else ("float32", "bf16", "fp16")
    )
    if config and not architectures:
        text = f"{config.model} runs by PyTorch's own operations; there is no fast path for it"
        found.append(Finding("note", "paths", text))
    found += paths(architectures, device, precisions) + weights()
    if config:
        found += data(config)
    return show(found, arguments.json)


if __name__ == "__main__":
    run_command(main, ModelError)

"""Undisturbed runs: what the disturbed ones are compared with, and how many moments there are for a fault."""

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import children, compare
from tests.faults.children import Ended, Shared
from tests.faults.inject import count_all
from tests.faults.workload import CONFIGS, make_data, write_config

PACKING, PREPARE = "packing", "prepare"  # a run of "small" that packs its images first; datas.prepare
NAMES = (PACKING, *CONFIGS, PREPARE)  # in the order in which they are made: the first packs for all
PREPARE_COMMAND = ("-m", "datas.prepare", "--scales", "2", "3", "--jobs", "2", "--hr")


@dataclass
class Reference:
    """What an undisturbed run is like."""

    data: Path
    state: compare.State
    counts: Shared
    seconds: float
    sizes: list[int]  # bytes of the files that it leaves
    checkpoint: int  # bytes of a checkpoint
    problem: str = ""  # what is wrong with it; no case of this config can be judged then


def make_references(base: Path, configs: set[str]) -> dict[str, Reference]:
    """Those of `configs`, and that of packing, under `base`."""
    data = base / "data"
    children.call(lambda: make_data(data))
    names = [name for name in NAMES if name in configs or name == PACKING]
    return {name: _prepared(base, data) if name == PREPARE else _trained(base, data, name) for name in names}


def _prepared(base: Path, data: Path) -> Reference:
    folder = base / PREPARE
    copy_hr(data, folder)
    child = children.start([*PREPARE_COMMAND, folder / "data" / "HR"], folder, "piece", count_all)
    return _reference(child.wait(), data, compare.file_state(folder / "data"), folder / "data")


def copy_hr(data: Path, folder: Path) -> None:
    """The training images alone, as FOLDER/data/HR."""
    (folder / "data").mkdir(parents=True)
    shutil.copytree(data / "Sample" / "Sample_train_HR", folder / "data" / "HR")


def _trained(base: Path, data: Path, name: str) -> Reference:
    folder = base / name
    folder.mkdir()
    write_config(folder / "config.yml", "small" if name == PACKING else name, data, folder / "runs")
    script = ["train.py", "--config", folder / "config.yml"]
    started = [
        children.start(script, folder, f"piece{rank}", None if rank else count_all, environment)
        for rank, environment in enumerate(environments(name))
    ]
    ended = [child.wait() for child in started]
    run = folder / "runs" / "run"
    return _reference(ended[0], data, compare.run_state(run), run)


def environments(config: str) -> list[dict]:
    """The variables that torchrun sets for each process of a config, an empty dict for one on its own."""
    if config != "two":
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def _reference(ended: Ended, data: Path, state: compare.State, folder: Path) -> Reference:
    problem = f"an undisturbed run ended with code {ended.code}: {ended.err.strip()[-300:]}" if ended.code else ""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    checkpoint = max((path.stat().st_size for path in folder.glob("*.pt")), default=0)
    return Reference(data, state, ended.counts, ended.seconds, sizes, checkpoint, problem)


def describe(references: dict[str, Reference]) -> str:
    """One line: how long the undisturbed runs took."""
    return ", ".join(f"{name} {reference.seconds:.1f} s" for name, reference in references.items())


def operations(reference: Reference, names: Sequence[str]) -> int:
    """How many operations of these names there are."""
    return sum(reference.counts[name] for name in names)

"""What is trained on changes: images, packs, a loss that is no number; packing and preparing are cut off."""

import os
import shutil
import signal
import time
from pathlib import Path

from tests.faults import workload
from tests.faults.case import BITS, WRONG, Case
from tests.faults.children import CHANGING, READING
from tests.faults.files import flip, replace_by_something
from tests.faults.inject import DISK_ERRORS, at_call, at_operation, fail, flip_bit, kill, kill_leader
from tests.faults.references import PACKING, PREPARE, operations
from tests.faults.registry import fault

ITERATIONS = 15  # of a whole run


@fault("NaN in the loss")
def nan(case: Case) -> None:
    number = case.rng.randint(1, ITERATIONS)

    def install(shared) -> None:
        shared.add("fault")
        workload.nan_at = number

    if case.piece(install).code == 0:
        case.findings.append((WRONG, "a loss that is no number went unnoticed"))


@fault("training image replaced by another of equal size")
def image_replaced(case: Case) -> None:
    """Between two pieces; seldom with its time kept. The run must not go on with it."""
    hr_folder = case.copy_data() / "Sample" / "Sample_train_HR"
    if not case.interrupt(0.5):
        return
    first, other = case.rng.sample(sorted(hr_folder.iterdir()), 2)
    kept = first.with_suffix(".kept")
    shutil.copy2(first, kept)
    shutil.copyfile(other, first)
    if case.rng.random() < 0.2:
        shutil.copystat(kept, first)
    case.undo = lambda: shutil.move(kept, first)
    case.cleanup.append(lambda: kept.unlink(missing_ok=True))
    case.happened = True


def _pack(case: Case) -> Path:
    return case.rng.choice(sorted(case.cache.glob("*.bin")))


def _empty_cache(case: Case) -> None:
    shutil.rmtree(case.cache, ignore_errors=True)


@fault("bit of a pack flipped between two pieces")
def pack_flipped(case: Case) -> None:
    case.copy_data()
    if case.interrupt(0.5):
        flip(_pack(case), case)
        case.undo = lambda: _empty_cache(case)
        case.happened = True


@fault("bit of a pack flipped during a run", "small", "loaders")
def pack_flipped_under_way(case: Case) -> None:
    case.copy_data()
    case.undo = lambda: _empty_cache(case)
    which, where, bit = case.rng.random(), case.rng.random(), case.rng.randrange(8)

    def pack() -> Path:
        packs = sorted(case.cache.glob("*.bin"))
        return packs[int(which * len(packs))]

    ended = case.piece(at_call(case.call(0.1, 0.9), flip_bit(pack, where, bit)))
    if "start the run again from its beginning" in ended.err:  # what was saved may have learnt from it
        case.undo()
        shutil.rmtree(case.run)
        case.reached = 0


@fault("pack cut short, replaced or deleted between two pieces")
def pack_damaged(case: Case) -> None:
    case.copy_data()
    if not case.interrupt():
        return
    path = case.rng.choice(sorted(path for path in case.cache.iterdir() if path.suffix in (".bin", ".json")))
    size = path.stat().st_size
    damages = (
        lambda: os.truncate(path, case.rng.randrange(size)),
        path.unlink,
        lambda: replace_by_something(path, case),
    )
    case.rng.choice(damages)()
    case.undo = lambda: _empty_cache(case)
    case.happened = True


@fault("packs deleted during a run", "small", "loaders")
def packs_deleted(case: Case) -> None:
    case.copy_data()
    case.piece(at_call(case.call(0.1, 0.9), lambda: _empty_cache(case)))


def _operation_of_packing(case: Case) -> int:
    packing, others = case.references[PACKING], case.references["small"]
    return case.rng.randint(1, max(1, operations(packing, CHANGING) - operations(others, CHANGING)) + 5)


def _check_packs(case: Case) -> None:
    """What is in the cache in the end are the packs of an undisturbed run."""
    packs, wanted = (
        sorted(path.read_bytes() for path in folder.glob("*.bin"))
        for folder in (case.cache, case.reference.data / "cache")
    )
    if packs != wanted:
        case.findings.append((BITS, f"{len(packs)} packs, not the {len(wanted)} of an undisturbed run"))


@fault("SIGKILL while packing")
def packing_killed(case: Case) -> None:
    case.copy_data()
    case.finish_checks.append(_check_packs)
    for _ in range(case.rng.randint(1, 2)):
        action, after = kill(signal.SIGKILL), case.rng.random() < 0.5
        case.piece(at_operation(_operation_of_packing(case), action, after=after), (-signal.SIGKILL,))


# datas.prepare


@fault("datas.prepare: SIGKILL at a file operation", PREPARE)
def prepare_killed(case: Case) -> None:
    case.copy_hr()
    for _ in range(case.rng.randint(1, 2)):
        number, after = case.operation(CHANGING), case.rng.random() < 0.5
        case.end(case.prepare(at_operation(number, kill_leader(signal.SIGKILL), after=after)), (-signal.SIGKILL,))


@fault("datas.prepare: one of its processes killed", PREPARE)
def prepare_worker_killed(case: Case) -> None:
    case.copy_hr()
    action = kill(case.rng.choice((signal.SIGKILL, signal.SIGTERM)))
    case.end(case.prepare(at_operation(case.operation(CHANGING), action)), (-signal.SIGKILL, -signal.SIGTERM))


@fault("datas.prepare: SIGINT or SIGTERM", PREPARE)
def prepare_interrupted(case: Case) -> None:
    case.copy_hr()
    number = case.rng.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    to_group, delay = case.rng.random() < 0.7, case.rng.uniform(0, case.reference.seconds)
    child = case.prepare()
    time.sleep(delay)
    case.happened |= child.poll() is None
    child.send(number, to_group)
    case.end(child, (-number, 128 + number))


@fault("datas.prepare: a file operation fails", PREPARE)
def prepare_operation_fails(case: Case) -> None:
    case.copy_hr()
    names = case.rng.choice((CHANGING, (READING,)))
    case.end(case.prepare(at_operation(case.operation(names), fail(case.rng.choice(DISK_ERRORS)), names)))

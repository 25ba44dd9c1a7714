"""Operations on files: the trainer is killed at one, or one fails; what a run left is damaged before it goes on."""

import os
import shutil
import signal
from pathlib import Path

from tests.faults.case import Case
from tests.faults.children import CHANGING, READING
from tests.faults.inject import DISK_ERRORS, at_operation, fail, kill, limit_files
from tests.faults.registry import fault

ANY_FILE, SAVED = ("",), (".pt", ".tmp")
SAVES = 9  # files that a run writes so, at least
RUNS = ("small", "small", "small", "ssiu")


@fault("SIGKILL at a file operation", *RUNS)
def killed_at_operation(case: Case) -> None:
    names, after = case.kind_of_operation(), case.rng.random() < 0.5
    suffixes, number = SAVED, case.rng.randint(1, SAVES)
    if case.rng.random() < 0.5:
        suffixes, number = ANY_FILE, case.operation(names)
    case.piece(at_operation(number, kill(signal.SIGKILL), names, after, suffixes), (-signal.SIGKILL,))


@fault("killed in the midst of a write", *RUNS)
def killed_in_write(case: Case) -> None:
    """The system kills it at a byte of a checkpoint."""
    limit = limit_files(case.rng.randrange(1, case.reference.checkpoint), deadly=True)
    number = case.rng.randint(1, SAVES)
    case.piece(at_operation(number, limit, ("open",), after=True, suffixes=SAVED), (-signal.SIGXFSZ,))


@fault("a file operation fails", *RUNS)
def operation_fails(case: Case) -> None:
    names = case.rng.choice((case.kind_of_operation(), (READING,), (*CHANGING, READING)))
    case.piece(at_operation(case.operation(names), fail(case.rng.choice(DISK_ERRORS)), names))


# Checkpoints


def _damaged(case: Case, damage) -> None:
    """Interrupt a run, damage one of its checkpoints, seldom all; what stood there is put back when it is asked for."""
    if not case.interrupt():
        return
    files = sorted(case.run.glob("iteration_*.pt"), reverse=True)
    best = case.run / "best.pt"
    chosen = case.rng.choices((files[:1], files[-1:], [best], [*files, best]), (6, 2, 2, 2))[0]
    chosen = [path for path in chosen if path.exists()]
    kept = {path: path.read_bytes() for path in chosen}
    for path in chosen:
        damage(path, case)
        case.happened = True
        case.story.append(f"damaged: {path.name}")
    case.may_pass_over = True

    def put_back() -> None:
        for path, content in kept.items():
            remove(path)
            path.write_bytes(content)

    case.undo = put_back
    if best in chosen:
        case.finish_checks.append(_check_best)


def _check_best(case: Case) -> None:
    """A best.pt that was damaged, and that the rest of the run did not replace, must have been named."""
    lines = [line for line in case.said.splitlines() if "best.pt" in line and line.startswith(("warning", "error"))]
    if lines:
        case.may_lack.add("best.pt")


def remove(path: Path) -> None:
    """Whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


@fault("checkpoint cut short", *RUNS)
def cut(case: Case) -> None:
    _damaged(case, lambda path, case: os.truncate(path, int(case.rng.random() ** 2 * path.stat().st_size)))


@fault("bit of a checkpoint flipped", *RUNS)
def flipped(case: Case) -> None:
    _damaged(case, lambda path, case: flip(path, case))


def flip(path: Path, case: Case) -> None:
    """Flip a bit of a file."""
    content = bytearray(path.read_bytes())
    content[case.rng.randrange(len(content))] ^= 1 << case.rng.randrange(8)
    path.write_bytes(content)


@fault("part of a checkpoint zeroed", *RUNS)
def zeroed(case: Case) -> None:
    """What a power cut may leave of a file whose blocks never came to the disk."""

    def damage(path: Path, case: Case) -> None:
        content = bytearray(path.read_bytes())
        start = case.rng.randrange(len(content))
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
        path.write_bytes(content)

    _damaged(case, damage)


@fault("checkpoint replaced by something else", *RUNS)
def replaced(case: Case) -> None:
    _damaged(case, replace_by_something)


def replace_by_something(path: Path, case: Case) -> None:
    """A folder, a pipe, a link to nothing or to itself, or a file of another kind."""
    remove(path)
    makers = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("absent"),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to(os.devnull),
        lambda: path.write_bytes(case.rng.randbytes(case.rng.randrange(1000))),
    )
    case.rng.choice(makers)()


@fault("checkpoint deleted", *RUNS)
def deleted(case: Case) -> None:
    _damaged(case, lambda path, _case: path.unlink())


# Other files of a run


@fault("metrics.jsonl torn or with garbage", "small", "loaders")
def metrics(case: Case) -> None:
    if not case.interrupt():
        return
    path, rng = case.run / "metrics.jsonl", case.rng
    lines = path.read_bytes().splitlines(keepends=True)
    garbage = rng.choice((b"\0" * 700, rng.randbytes(50), b"[" * 3000, b'{"kind": "train"}\n', b"\xff\n", b"5\n"))
    place = rng.randint(0, len(lines))
    before, after = lines[:place], lines[place:]
    damaged = {
        "torn": [b"".join(lines)[: -rng.randint(1, 60)]],
        "garbage": [*before, garbage, *after],
        "line cut": [*before, *(line[:20] + b"\n" for line in after[:1]), *after[1:]],
        "deleted": [],
    }
    how = rng.choice(list(damaged))
    path.write_bytes(b"".join(damaged[how]))
    if how == "deleted":
        path.unlink()
    case.story.append(f"metrics.jsonl: {how}")
    case.happened = True
    lost = set(lines) - set(b"".join(damaged[how]).splitlines(keepends=True))
    if lost:  # what is before the checkpoint cannot come again
        case.may_lack.add("metrics")


@fault("config.yml edited, deleted or replaced", *RUNS)
def config(case: Case) -> None:
    if not case.interrupt():
        return
    path = case.run / "config.yml"
    text = path.read_text(errors="replace")
    edits = (
        lambda: path.write_text(text.replace("lr: 0.001", "lr: 0.002")),
        lambda: path.write_text(text[: case.rng.randrange(len(text))]),
        lambda: path.write_bytes(case.rng.randbytes(300)),
        lambda: path.write_text(text + "epochs: 7\n"),
        lambda: path.write_text("[" * 2000),
        lambda: path.unlink(),
        lambda: replace_by_something(path, case),
    )
    case.rng.choice(edits)()
    case.happened = True

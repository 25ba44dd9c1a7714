"""One case: a fault at a moment drawn from a seed, what becomes of the run, and whether it ends as the undisturbed one.

A fault is a function of a `Case`. It starts pieces of the run with something injected, or damages what lies there
between two pieces. The case then goes on as a user would, until the run is finished, and compares.
"""

import contextlib
import random
import re
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import children, compare
from tests.faults.children import CHANGING, Child, Ended, Injection
from tests.faults.inject import at_call, kill
from tests.faults.references import PREPARE, PREPARE_COMMAND, Reference, environments, operations
from tests.faults.workload import write_config

IDENTICAL, STOPPED, LATE, SKIPPED = "went on", "stopped", "too late", "skipped"
HANG, TRACEBACK, BITS, WRONG = "hang", "traceback", "different bits", "otherwise wrong"
BAD = (HANG, TRACEBACK, BITS, WRONG)
TRACES = ("Traceback (most recent call last)", "Exception ignored", "Fatal Python error", "terminate called")
PASSED_OVER = "the checkpoint before it is tried"
UNLOGGED = "metrics.jsonl: cannot be written"
STOPPED_AFTER = r"stopped after iteration ([\d,]+)"
TRIES = 6  # pieces without a fault in which a run must come to its end
TERM_AFTER = 0.1  # seconds; torchrun looks that often at its processes, and ends the others when one has failed


class Skip(Exception):
    """This system lacks what the fault needs; the message says what."""


class Stop(Exception):
    """The case is decided: nothing that follows would mean anything."""


@dataclass
class Result:
    """What became of a case."""

    fault: str
    number: int
    verdict: str
    notes: list[str]
    seconds: float
    folder: str


@dataclass
class Case:
    """A run in a folder of its own, that a fault disturbs.

    Attributes:
        undo: removes the fault; called once the run has stopped with an error that names it.
        cleanup: called in the end, whatever happens, the last first.
        happened: whether the fault came at all, or the run was over before.
        may_pass_over: whether a checkpoint was damaged on purpose.
        finish_checks: called once the run is finished, before what is there is compared.
        may_lack: beginnings of names in the final state that may be other than those of the undisturbed run.
    """

    fault: str
    seed: int
    number: int
    folder: Path
    references: dict[str, Reference]
    config: str
    undo: Callable[[], object] | None = None
    cleanup: list[Callable[[], object]] = field(default_factory=list)
    finish_checks: list[Callable[["Case"], object]] = field(default_factory=list)
    happened: bool = False
    may_pass_over: bool = False
    may_lack: set[str] = field(default_factory=set)
    own_data: Path | None = None
    runs: Path | None = None
    findings: list[tuple[str, str]] = field(default_factory=list)  # (verdict, what)
    story: list[str] = field(default_factory=list)
    said: str = ""  # all that the pieces printed
    stopped: bool = False
    reached: int = 0  # iteration of the newest checkpoint that was seen
    pieces: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}/{self.fault}/{self.number}")
        self.folder.mkdir(parents=True)

    # Where things are, and moments

    @property
    def reference(self) -> Reference:
        """The undisturbed run of the config."""
        reference = self.references[self.config]
        if reference.problem:
            self.findings.append((WRONG, f"{self.config}: {reference.problem}"))
            raise Stop
        return reference

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return (self.runs or self.folder / "runs") / "run"

    @property
    def cache(self) -> Path:
        """The folder of the packs, with data of its own."""
        return self.folder / "cache"

    def copy_data(self) -> Path:
        """Data of this case's own, with no pack yet."""
        self.own_data = self.folder / "data"
        shutil.copytree(self.reference.data, self.own_data, ignore=shutil.ignore_patterns("cache"))
        return self.own_data

    def call(self, first: float = 0.0, last: float = 1.0) -> int:
        """The number of a Python call in that part of an undisturbed run."""
        return max(1, round(self.rng.uniform(first, last) * self.reference.counts["calls"]))

    def operation(self, names: Sequence[str]) -> int:
        """The number of an operation on files among those of an undisturbed run."""
        return self.rng.randint(1, max(1, operations(self.reference, names)))

    def kind_of_operation(self) -> tuple[str, ...]:
        """Any change, or those of one name, so that rare ones come as often as frequent ones."""
        names = [name for name in CHANGING if self.reference.counts[name]]
        return self.rng.choice([CHANGING, *((name,) for name in names)])

    # Pieces

    def arguments(self) -> list:
        """Those of train.py: a run goes on where there is a checkpoint, and begins where there is none."""
        if any(self.run.glob("*.pt")):
            return ["--resume", self.run]
        if (self.run / "config.yml").exists():  # it ended before its first checkpoint: to be removed, as it says
            if self.undo:  # a folder may be read-only till then
                self.undo()
                self.undo = None
            shutil.rmtree(self.run)
        file, data = self.folder / "config.yml", self.own_data or self.reference.data
        cache = {"cache_path": str(self.cache)} if self.own_data else {}
        write_config(file, self.config, data, self.run.parent, **cache)
        return ["--config", file]

    def start(self, script: Sequence, inject: Injection | None = None, **options) -> Child:
        """Start a script."""
        self.pieces += 1
        self.story.append(" ".join(map(str, script)))
        return children.start(script, self.folder, f"piece{self.pieces}", inject, **options)

    def start_run(self, inject: Injection | None = None, **options) -> Child:
        """Start the next piece of the run."""
        return self.start(["train.py", *self.arguments()], inject, **options)

    def end(self, child: Child, ends: Sequence[int] = (), is_fault: bool = True) -> Ended:
        """Wait for a piece and judge how it ended: with 0, with one line of error and 2, or with one of `ends`."""
        ended, name = child.wait(), child.files[0].stem
        fired = ended.counts["fault"] > 0
        self.happened |= fired and is_fault
        self.story.append(f"  {name}: code {ended.code} after {ended.seconds:.2f} s{', disturbed' * fired}")
        self.said += ended.out + ended.err
        if ended.hung:
            self._note(HANG, name, f"still there after {children.DEADLINE:.0f} s")
            raise Stop
        self._judge(ended, name, ends)
        if (newest := compare.newest_checkpoint(self.run)) is not None:
            self.reached = max(self.reached, _number(newest))
        return ended

    def _judge(self, ended: Ended, name: str, ends: Sequence[int]) -> None:
        text = ended.out + ended.err
        errors = [line for line in ended.err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
        self.story.extend(f"  {line}" for line in errors)
        self.stopped |= ended.code == 2
        self._note(TRACEBACK, name, _trace(text))
        self._note(WRONG, name, "" if ended.code in (0, 2, *ends) else f"ended with code {ended.code}")
        wanted = int(ended.code == 2)
        self._note(WRONG, name, "" if len(errors) == wanted else f"{len(errors)} lines of error, code {ended.code}")
        self._note(WRONG, name, f"{ended.orphans} processes outlive it" if ended.orphans else "")
        stopped = re.search(STOPPED_AFTER, ended.out)
        newest = compare.newest_checkpoint(self.run)
        lost = stopped and (newest is None or _number(newest) != int(stopped[1].replace(",", "")))
        self._note(WRONG, name, "it stopped without a save" if lost else "")
        passed_over = PASSED_OVER in text and not self.may_pass_over
        self._note(WRONG, name, "a checkpoint was no good" if passed_over else "")
        if UNLOGGED in text:
            self.may_lack.add("metrics")

    def _note(self, verdict: str, name: str, what: str) -> None:
        if what:
            self.findings.append((verdict, f"{name}: {what}"))

    def piece(self, inject: Injection | None = None, ends: Sequence[int] = (), is_fault: bool = True) -> Ended:
        """A piece of the run from its start to its end; of two processes, which torchrun would watch, the drawn one."""
        places = environments(self.config)
        chosen, script = self.rng.randrange(len(places)), ["train.py", *self.arguments()]
        started = [
            self.start(script, inject if number == chosen else None, environment=place)
            for number, place in enumerate(places)
        ]
        if len(started) == 1:
            return self.end(started[0], ends, is_fault)
        until = time.monotonic() + children.DEADLINE
        while all(child.poll() is None for child in started) and time.monotonic() < until:
            time.sleep(0.01)
        if any(child.poll() for child in started):
            time.sleep(TERM_AFTER)
            for child in started:
                child.send(signal.SIGTERM)
        ended = [self.end(child, (*ends, -signal.SIGTERM, 128 + signal.SIGTERM), is_fault) for child in started]
        return next((one for one in ended if one.code), ended[0])

    def interrupt(self, first: float = 0.35, last: float = 0.95) -> bool:
        """A piece that is killed or stopped in that part of a run; whether it left a checkpoint and more to be done."""
        number = self.rng.choice((signal.SIGKILL, signal.SIGTERM))
        ended = self.piece(at_call(self.call(first, last), kill(number)), (-number, 128 + number), is_fault=False)
        return ended.code != 0 and compare.newest_checkpoint(self.run) is not None

    def copy_hr(self) -> None:
        """HR images of this case, for `datas.prepare`."""
        (self.folder / "data").mkdir()
        shutil.copytree(self.reference.data / "Sample" / "Sample_train_HR", self.folder / "data" / "HR")

    def prepare(self, inject: Injection | None = None) -> Child:
        """Start `datas.prepare` on them."""
        return self.start([*PREPARE_COMMAND, self.folder / "data" / "HR"], inject)

    # The end

    def finish(self) -> None:
        """Go on without faults until the run is finished; then compare."""
        for _ in range(TRIES):
            before, text = self.reached, len(self.said)
            ended = self.prepare_again() if self.config == PREPARE else self.piece()
            if ended.code == 0:
                break
            if ended.code == 2 and self.undo is None:
                self.findings.append((WRONG, "it cannot go on, though the fault is removed"))
                raise Stop
            if ended.code == 2 and self.undo:
                self.undo()
                self.undo = None
        if before and not self.may_pass_over and f"from iteration {before:,} " not in self.said[text:]:
            self.findings.append((WRONG, f"it did not go on from iteration {before}, which was saved"))
        for check in self.finish_checks:
            check(self)
        self._compare()

    def prepare_again(self) -> Ended:
        return self.end(self.prepare())

    def _compare(self) -> None:
        """Compare what is there with what an undisturbed run leaves."""
        is_run = self.config != PREPARE
        state = compare.run_state(self.run) if is_run else compare.file_state(self.folder / "data")
        wanted = self.reference.state
        if "metrics" in self.may_lack and not compare.is_part(_figures(state), _figures(wanted)):
            self.findings.append((BITS, "metrics.jsonl holds lines that are not those of the undisturbed run"))
        names = [name for name in compare.differing(state, wanted) if not name.startswith(tuple(self.may_lack))]
        if names:
            self.findings.append((BITS, f"{len(names)} differ: {', '.join(names[:6])}"))
        for folder in (self.run, self.cache, self.folder / "data"):
            if left := compare.leftovers(folder):
                self.findings.append((WRONG, f"left in {folder.name}: {', '.join(left)}"))


def _trace(text: str) -> str:
    """The mark of a stack trace, and the line that ends it; empty if there is none."""
    lines = text.splitlines()
    start = next((place for place, line in enumerate(lines) if any(mark in line for mark in TRACES)), None)
    if start is None:
        return ""
    last = next((line for line in lines[start + 1 :] if line and not line.startswith(" ")), "")
    return f"{lines[start].strip()} {last}"


def _figures(state: compare.State) -> list[str]:
    return [value for name, value in state.items() if name.startswith("metrics ")]


def _number(checkpoint: Path) -> int:
    return int(checkpoint.stem.partition("_")[2])


def run_case(fault, seed: int, number: int, folder: Path, references: dict[str, Reference]) -> Result:
    """Do one case of a fault (`registry.Fault`). Its folder stays if something is wrong."""
    started = time.monotonic()
    case = Case(fault.name, seed, number, folder, references, fault.config(seed, number))
    skipped = False
    try:
        fault.act(case)
        case.finish()
    except Skip as reason:
        skipped = True
        case.findings.append((SKIPPED, str(reason)))
    except Stop:
        pass
    except Exception:
        case.findings.append((WRONG, f"the harness failed: {traceback.format_exc()[-250:]}"))
    finally:
        for remove in reversed(case.cleanup):
            with contextlib.suppress(OSError):
                remove()
    found = [kind for kind, _ in case.findings]
    verdict = next((kind for kind in BAD if kind in found), STOPPED if case.stopped else IDENTICAL)
    if verdict not in BAD and not case.happened:
        verdict = SKIPPED if skipped else LATE
    notes = [what for _, what in case.findings]
    if verdict in BAD:
        (folder / "story.txt").write_text("\n".join([*case.story, *notes, ""]))
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(fault.name, number, verdict, notes, time.monotonic() - started, str(folder))

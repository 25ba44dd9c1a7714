"""Signals to the trainer, to its loader processes, and to those who train beside it."""

import os
import signal
import time

from tests.faults.case import WRONG, Case
from tests.faults.inject import at_call, at_calls, kill, kill_own_children
from tests.faults.registry import fault

ANY = ("small", "small", "small", "loaders", "loaders", "ssiu")
LOADER_ERRORS = (
    MemoryError(), OSError(5, "Input/output error"), RuntimeError("two\nlines"), KeyError("name"), AssertionError(),
)  # fmt: skip


def _ends(number: int) -> tuple[int, ...]:
    """How a process may end by a signal: at once, or after a save; by Ctrl-C with 130 in any case."""
    return -number, 128 + number


@fault("no fault (control)", *ANY, every=4)
def nothing(case: Case) -> None:
    case.happened = True


@fault("SIGKILL", *ANY)
def killed(case: Case) -> None:
    case.piece(at_call(case.call(), kill(signal.SIGKILL)), _ends(signal.SIGKILL))


def _signalled(case: Case, number: int) -> None:
    case.piece(at_call(case.call(), kill(number, to_group=case.rng.random() < 0.5)), _ends(number))


@fault("SIGTERM", *ANY)
def terminated(case: Case) -> None:
    _signalled(case, signal.SIGTERM)


@fault("SIGINT (Ctrl-C)", *ANY)
def interrupted(case: Case) -> None:
    _signalled(case, signal.SIGINT)


@fault("SIGHUP (closed terminal)", *ANY)
def hung_up(case: Case) -> None:
    _signalled(case, signal.SIGHUP)


@fault("SIGINT twice", *ANY)
def interrupted_twice(case: Case) -> None:
    both = kill(signal.SIGINT, to_group=case.rng.random() < 0.5)
    case.piece(at_calls([(case.call(), both), (case.call(0, 0.2), both)]), _ends(signal.SIGINT))


@fault("SIGTERM, then SIGKILL in the save", *ANY)
def terminated_and_killed(case: Case) -> None:
    """What a scheduler does whose patience is short."""
    moments = [(case.call(), kill(signal.SIGTERM)), (case.call(0, 0.15), kill(signal.SIGKILL))]
    case.piece(at_calls(moments), (*_ends(signal.SIGTERM), -signal.SIGKILL))


@fault("several signals, one after the other", *ANY)
def several(case: Case) -> None:
    """At moments of the clock, from outside: in system calls too, and in the midst of C code."""
    for _ in range(case.rng.randint(2, 4)):
        number = case.rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        to_group, delay = case.rng.random() < 0.3, case.rng.uniform(0.05, case.reference.seconds)
        child = case.start_run()
        time.sleep(delay)
        case.happened |= child.poll() is None
        child.send(number, to_group)
        case.end(child, _ends(number))


@fault("SIGINT or SIGTERM while Python imports", every=4)
def interrupted_early(case: Case) -> None:
    """The one fault whose child is not forked but an interpreter of its own."""
    number, delay = case.rng.choice((signal.SIGINT, signal.SIGTERM)), case.rng.uniform(0.1, 2.0)
    child = case.start_run(is_new_interpreter=True)
    time.sleep(delay)
    case.happened |= child.poll() is None
    child.send(number, to_group=True)
    case.end(child, _ends(number))


@fault("loader process killed", "loaders")
def loader_killed(case: Case) -> None:
    moments = [
        (case.call(0.1, 0.8), kill_own_children(case.rng.choice((9, 15, 11, 7)), case.rng.randint(1, 2)))
        for _ in range(case.rng.randint(1, 2))
    ]
    case.piece(at_calls(moments))


@fault("loader process raises", "loaders")
def loader_raises(case: Case) -> None:
    iteration, error = case.rng.randrange(15), case.rng.choice(LOADER_ERRORS)

    def install(shared) -> None:
        from datas import TrainSet

        real = TrainSet.__getitem__

        def failing(self, number):
            if number == iteration:
                shared.add("fault")
                raise error
            return real(self, number)

        TrainSet.__getitem__ = failing

    if case.piece(install).code == 0 and case.happened:
        case.findings.append((WRONG, "what a loader process raised went unnoticed"))


@fault("two runs started in one folder", "small", "small", "loaders")
def two_starts(case: Case) -> None:
    resumed = case.rng.random() < 0.5 and case.interrupt(0.2, 0.6)
    script = ["train.py", *case.arguments()]
    first = case.start(script)
    time.sleep(case.rng.choice((0.0, case.rng.uniform(0, 0.1), case.rng.uniform(0, 0.4))))
    case.happened |= first.poll() is None
    codes = [case.end(child).code for child in (first, case.start(script))]
    if codes == [0, 0] and resumed:  # the first ended while the second started: nothing was left for that to do
        case.happened = False
    elif sorted(codes) != [0, 2]:
        case.findings.append((WRONG, f"of two runs one should be refused and one go on; codes {codes}"))
    case.stopped = False  # the one that counts went on


@fault("one process of two killed", "two", every=3)
def rank_killed(case: Case) -> None:
    """Of two that train together by gloo; the other gets SIGTERM soon after, as from torchrun."""
    number = case.rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
    case.piece(at_call(case.call(0, 0.7), kill(number)), _ends(number))


@fault("paused and let go on", "small", "loaders", every=4)
def paused(case: Case) -> None:
    """SIGSTOP and SIGCONT, as when a machine sleeps."""

    def pause() -> None:
        if os.fork() == 0:
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(0.7)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)

    case.piece(at_call(case.call(0.1, 0.9), pause))

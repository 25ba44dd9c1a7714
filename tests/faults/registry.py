"""The list of faults. A module of faults adds its own when it is imported."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.case import Case

Act = Callable[[Case], None]
Job = tuple[str, int]  # a fault by its name, and the number of the case


class Fault(NamedTuple):
    """A fault by its name, with the configs to draw from; as some take long, only every `every`-th round holds one."""

    name: str
    act: Act
    configs: tuple[str, ...]
    every: int

    def config(self, seed: int, number: int) -> str:
        """The config of a case."""
        return random.Random(f"{seed}/{self.name}/{number}/config").choice(self.configs)


FAULTS: dict[str, Fault] = {}


def fault(name: str, *configs: str, every: int = 1) -> Callable[[Act], Act]:
    """Decorator of a function of a `Case`."""

    def register(act: Act) -> Act:
        FAULTS[name] = Fault(name, act, configs or ("small",), every)
        return act

    return register


def rounds(names: list[str], count: int) -> list[Job]:
    """`count` cases, in rounds over these faults."""
    cases: list[Job] = []
    turn = 0
    while len(cases) < count:
        cases += [(name, turn // FAULTS[name].every) for name in names if turn % FAULTS[name].every == 0]
        turn += 1
    return cases[:count]

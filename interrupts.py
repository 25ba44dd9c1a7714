"""Imported first by every script: Ctrl-C while the other imports run ends in one line, as it does later."""

import sys
from types import TracebackType

_others = sys.excepthook


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        _others(kind, error, trace)


sys.excepthook = _one_line

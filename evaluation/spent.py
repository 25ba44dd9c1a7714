"""Seconds by the clock. This module imports nothing that takes time, so that imports can be counted too."""

import time


class Laps:
    """What one thread does, one thing after the other.

    Attributes:
        seconds: by name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, name: str) -> None:
        """What has been done since the last call, or since this was made, is called so."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now

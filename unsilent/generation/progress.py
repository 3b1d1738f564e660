"""Progress and timings of a generation's stages."""

import time
from collections.abc import Callable

Progress = Callable[[float], None]  # gets the finished share of a stage, 0 to 1
Report = Callable[[str, float], None]  # gets the name of the stage, and the finished share of all work, 0 to 1


def quiet(*_: object) -> None:
    """A callback that does nothing."""


STAGES = {"reading": 0.4, "sampling": 0.5, "decoding": 0.1}  # approximate share of all work


def stage(report: Report, name: str) -> Progress:
    """Callback for one stage, which maps the stage's progress to the progress of all work.

    Args:
        report: called with the name and the finished share of all work.
        name: one of `STAGES`.
    """
    names = list(STAGES)
    before = sum(STAGES[other] for other in names[: names.index(name)])
    return lambda share: report(name, before + STAGES[name] * share)


class Clock:
    """Splits the time of a run into named laps.

    Attributes:
        laps: seconds by name.
    """

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to `name`."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    def per_take(self, n_takes: int) -> dict[str, float]:
        """Seconds by name divided by the number of takes, which were computed together."""
        return {name: seconds / n_takes for name, seconds in self.laps.items()}

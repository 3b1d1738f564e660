"""Windows: a sound of any length is sampled in overlapping stretches of one clip each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, takewhile

from unsilent.errors import ParameterError


@dataclass(frozen=True)
class Window:
    """Code columns `[start, stop)` that a sampler processes at once; the first `primed` are known.

    The first `led` of these have the codes of a lead, a reference or an exemplar. The others have the codes of the window before.
    """

    start: int
    primed: int
    columns: int
    led: int = 0

    @property
    def own(self) -> int:
        """First column with codes of the sound itself."""
        return self.start + self.led

    @property
    def new(self) -> int:
        """First column that is sampled in this window."""
        return self.start + self.primed

    @property
    def is_fresh(self) -> bool:
        """Whether it continues no codes of the sound itself, at the beginning of the sound or of a shot."""
        return self.own == self.new

    @property
    def stop(self) -> int:
        """First column after the window."""
        return self.start + self.columns

    def moved(self, columns: int) -> "Window":
        """The same window, `columns` later."""
        return replace(self, start=self.start + columns)


def successive_windows(first: Window, hop_columns: int, lead: int) -> Iterator[Window]:
    """A window and endlessly many later ones, each one hop after the one before.

    Leads take the place of the earliest known columns, at most two thirds of them, so that each window continues the one before.
    """
    yield first
    primed = first.columns - hop_columns
    for start in count(first.start + hop_columns, hop_columns):
        yield Window(start, primed, first.columns, min(lead, primed * 2 // 3))


def plan_range(start: int, stop: int, window_columns: int, hop_columns: int, lead: int = 0) -> list[Window]:
    """Cover columns `[start, stop)` of a longer sound whose earlier columns are known, with as many known columns as the windows hold.

    Like `plan_windows`, but the first window begins half a window before `start`, or even earlier if it still reaches `stop`.
    Windows that contain columns before `start` are not led, because they continue that sound.
    """
    first = max(0, min(start - (window_columns - hop_columns), stop - window_columns)) if stop > window_columns else 0
    first = max(first, start - window_columns + 1)  # at least one new column
    windows = successive_windows(Window(first, start - first, window_columns), hop_columns, lead)
    return [one if one.start >= start else replace(one, led=0) for one in _until(stop, windows)]


def plan_windows(n_columns: int, window_columns: int, hop_columns: int, lead: int = 0) -> list[Window]:
    """Cover `n_columns` with windows such that every column is new in exactly one window.

    Windows start at multiples of the hop. Each after the first has at most `hop_columns` new columns; its other columns are known. So a
    window does not depend on later ones, and a longer video begins with the windows of a shorter one. The last window may be shorter.
    The first window begins `lead` columns before the sound, at most one hop; the others are led inside the sound.

    Raises:
        ParameterError: if there are no columns, or the hop is not from 1 to the window.
    """
    if n_columns < 1:
        raise ParameterError(f"n_columns is {n_columns}, but must be 1 or more.")
    if not 1 <= hop_columns <= window_columns:
        raise ParameterError(f"a hop of {hop_columns} columns does not fit windows of {window_columns}.")
    return _until(n_columns, successive_windows(Window(-lead, lead, window_columns, lead), hop_columns, lead))


def _until(stop: int, windows: Iterable[Window]) -> list[Window]:
    """The windows that have new columns before `stop`, cut off there."""
    return [replace(one, columns=min(one.columns, stop - one.start)) for one in takewhile(lambda one: one.new < stop, windows)]

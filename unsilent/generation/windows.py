"""Windows: a sound of any length is sampled in overlapping stretches of one clip each."""

from dataclasses import dataclass, replace

from unsilent.errors import ParameterError


@dataclass(frozen=True)
class Window:
    """Code columns `[start, stop)` that a sampler processes at once; the first `primed` have the codes of the window before.

    If the window is led, these columns lie before the sound, and have the codes of a reference or an exemplar.
    """

    start: int
    primed: int
    columns: int
    is_led: bool = False

    @property
    def stop(self) -> int:
        """First column after the window."""
        return self.start + self.columns

    def moved(self, columns: int) -> "Window":
        """The same window, `columns` later."""
        return replace(self, start=self.start + columns)


def plan_range(start: int, stop: int, window_columns: int, hop_columns: int) -> list[Window]:
    """Cover columns `[start, stop)` of a longer sound whose earlier columns are known, with as many known columns as the windows hold.

    Like `plan_windows`, but the first window begins half a window before `start`, or even earlier if it still reaches `stop`.
    """
    first = max(0, min(start - (window_columns - hop_columns), stop - window_columns)) if stop > window_columns else 0
    first = max(first, start - window_columns + 1)  # at least one new column
    windows = [Window(first, start - first, min(stop - first, window_columns))]
    while (done := windows[-1].stop) < stop:
        begin = windows[-1].start + hop_columns
        windows.append(Window(begin, done - begin, min(stop - begin, window_columns)))
    return windows


def plan_windows(n_columns: int, window_columns: int, hop_columns: int, lead: int = 0) -> list[Window]:
    """Cover `n_columns` with windows such that every column is new in exactly one window.

    Windows start at multiples of the hop. Each after the first has at most `hop_columns` new columns; its other columns are known. So a
    window does not depend on later ones, and a longer video begins with the windows of a shorter one. The last window may be shorter.
    The first window begins `lead` columns before the sound, at most one hop.

    Raises:
        ParameterError: if there are no columns, or the hop is not from 1 to the window.
    """
    if n_columns < 1:
        raise ParameterError(f"n_columns is {n_columns}, but must be 1 or more.")
    if not 1 <= hop_columns <= window_columns:
        raise ParameterError(f"a hop of {hop_columns} columns does not fit windows of {window_columns}.")
    windows = [Window(-lead, lead, min(lead + n_columns, window_columns), lead > 0)]
    while (done := windows[-1].stop) < n_columns:
        start = windows[-1].start + hop_columns
        windows.append(Window(start, done - start, min(n_columns - start, window_columns)))
    return windows

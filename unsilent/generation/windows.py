"""Windows: stretches of a sound of any length, each of which a sampler processes at once."""

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
        """The same window so many columns later."""
        return replace(self, start=self.start + columns)


def plan_range(start: int, stop: int, window_columns: int, hop_columns: int) -> list[Window]:
    """Cover columns `[start, stop)` of a longer sound, given those before; with as much of them as the windows hold.

    As `plan_windows`, but the first window begins half a window before `start`, or earlier where it still reaches `stop`.
    """
    first = max(0, min(start - (window_columns - hop_columns), stop - window_columns)) if stop > window_columns else 0
    first = max(first, start - window_columns + 1)  # at least one new column
    windows = [Window(first, start - first, min(stop - first, window_columns))]
    while (done := windows[-1].stop) < stop:
        begin = windows[-1].start + hop_columns
        windows.append(Window(begin, done - begin, min(stop - begin, window_columns)))
    return windows


def plan_windows(n_columns: int, window_columns: int, hop_columns: int, lead: int = 0) -> list[Window]:
    """Cover `n_columns` so that every column is new in exactly one window.

    Windows start at multiples of the hop; each after the first has at most `hop_columns` new columns, and the others are known. So a window
    does not depend on later ones, and a longer video begins with the windows of a shorter one. The last window may end early.
    The first begins `lead` columns before the sound, at most a hop.

    Raises:
        ParameterError: if there are no columns, or the hop is not from 1 to the window.
    """
    if n_columns < 1:
        raise ParameterError(f"{n_columns} columns asked for; at least 1 can be sampled.")
    if not 1 <= hop_columns <= window_columns:
        raise ParameterError(f"a hop of {hop_columns} columns does not fit windows of {window_columns}.")
    windows = [Window(-lead, lead, min(lead + n_columns, window_columns), lead > 0)]
    while (done := windows[-1].stop) < n_columns:
        start = windows[-1].start + hop_columns
        windows.append(Window(start, done - start, min(n_columns - start, window_columns)))
    return windows

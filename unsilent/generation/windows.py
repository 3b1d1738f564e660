"""Windows: a sound of any length, cut into stretches that a sampler sees at once."""

from dataclasses import dataclass

from unsilent.errors import ParameterError


@dataclass(frozen=True)
class Window:
    """Code columns `[start, stop)` that a sampler sees at once; the first `primed` of them are known from the window before."""

    start: int
    primed: int
    columns: int

    @property
    def stop(self) -> int:
        """First column after the window."""
        return self.start + self.columns


def plan_windows(n_columns: int, window_columns: int, hop_columns: int) -> list[Window]:
    """Cover `n_columns` so that every column is new in exactly one window.

    Windows start at multiples of the hop, and all their columns but the last `hop_columns` are known. So a window depends on nothing
    after it, and a longer video begins with the windows of a shorter one. The last window may end early.

    Raises:
        ParameterError: if there are no columns, or the hop is not from 1 to the window.
    """
    if n_columns < 1:
        raise ParameterError(f"{n_columns} columns asked for; at least 1 can be sampled.")
    if not 1 <= hop_columns <= window_columns:
        raise ParameterError(f"a hop of {hop_columns} columns does not fit windows of {window_columns}.")
    windows = [Window(0, 0, min(n_columns, window_columns))]
    while (done := windows[-1].stop) < n_columns:
        start = windows[-1].start + hop_columns
        windows.append(Window(start, done - start, min(n_columns - start, window_columns)))
    return windows

"""Terminal output: progress bar with remaining time, tables, and one line per error."""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

QUIET_SECONDS = 10.0  # between two lines of progress where stderr is not a terminal
_WIDE = 1000  # characters in a line of a file or pipe, where paths must not be broken


def printable(text: str) -> str:
    """Text with escapes in place of characters that control a terminal, which file names and answers of servers may contain."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape", "backslashreplace").decode() for one in text)


def say(sentence: str) -> None:
    """Print one line on stderr; line breaks in file names become spaces."""
    typer.echo(f"unsilent: {printable(' '.join(sentence.split()))}", err=True)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings: folded to the width of a terminal, one line each in a file or pipe. Markup is not interpreted."""
    console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


class Interrupts:
    """Records Ctrl-C, because compiled code that calls back into Python may swallow the exception."""

    wanted = False

    @classmethod
    def heed(cls) -> None:
        """Install the signal handler. Where SIGINT is ignored, as in background jobs of a shell, it stays ignored."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, cls._note)

    @classmethod
    def _note(cls, number: int, frame: FrameType | None) -> None:
        cls.wanted = True
        raise KeyboardInterrupt

    @classmethod
    def check(cls) -> None:
        """Raise a `KeyboardInterrupt` that was swallowed before."""
        if cls.wanted:
            raise KeyboardInterrupt


class Bar:
    """Progress and remaining time of a batch: a bar in a terminal, else a line every ten seconds.

    Args:
        n_jobs: in the batch, assumed to be equally long.
    """

    def __init__(self, n_jobs: int) -> None:
        console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        columns = (name, BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("loading the model", total=n_jobs)
        self._n_jobs, self._done = n_jobs, 0
        self._started = self._spoken = time.monotonic()

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def finish(self, n_done: int) -> None:
        """Set the number of finished jobs."""
        self._done = n_done
        self._bar.update(self._task, completed=n_done)

    def watch(self, name: str) -> Callable[[str, float], None]:
        """Callback for the next job, called with the name of its step and the share of the job that is done."""
        if not self._done:
            self._started = time.monotonic()  # the estimate leaves out loading the model
        place = f"{self._done + 1}/{self._n_jobs} " if self._n_jobs > 1 else ""
        return lambda step, share: self._show(f"{place}{name}: {step}", self._done + share)

    def _show(self, what: str, done: float) -> None:
        Interrupts.check()
        self._bar.update(self._task, description=what, completed=done)
        now = time.monotonic()
        if self._bar.disable and done and now - self._spoken > QUIET_SECONDS:
            self._spoken = now
            left = (now - self._started) * (self._n_jobs / done - 1)
            say(f"{what}, {done / self._n_jobs:.0%}, about {left // 60:.0f}:{left % 60:02.0f} left")

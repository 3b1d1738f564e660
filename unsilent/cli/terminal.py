"""Terminal output: a progress bar with the remaining time, tables, and messages of one line."""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Literal, NamedTuple

import typer

QUIET_SECONDS = 10.0  # between two progress lines if stderr is not a terminal
_MOST = 2000  # characters of a message; names from damaged files may have millions
_WIDE = 1000  # width of tables in a file or pipe, so that paths are not wrapped


def printable(text: str) -> str:
    """Escape control characters, which file names and responses of servers may contain. Line breaks stay."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape", "backslashreplace").decode() for one in text)


def say(sentence: str) -> None:
    """Print one line on stderr; line breaks in file names become spaces, and the middle of a very long message is left out."""
    text = " ".join(sentence.split())
    text = text if len(text) <= _MOST else f"{text[: _MOST // 2]} … {text[-_MOST // 2 :]}"
    typer.echo(f"unsilent: {printable(text)}", err=True)


class Column(NamedTuple):
    """A column of a table. Cells that are too wide are wrapped between words, or folded between characters if `overflow` says so."""

    header: str
    justify: Literal["left", "right"] = "left"
    no_wrap: bool = False
    overflow: Literal["ellipsis", "fold"] = "ellipsis"


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings: wrapped to the terminal's width, or one line each in a file or pipe. Markup is not interpreted."""
    from rich.console import Console  # here, because `--help` needs no table
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(**column._asdict())
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


class Interrupts:
    """Records Ctrl-C, because compiled code with Python callbacks may swallow the exception."""

    wanted = False

    @classmethod
    def heed(cls) -> None:
        """Install the signal handler. If SIGINT is ignored, as in background jobs of a shell, it stays ignored."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, cls._note)

    @classmethod
    def _note(cls, number: int, frame: FrameType | None) -> None:
        cls.wanted = True
        raise KeyboardInterrupt

    @classmethod
    def check(cls) -> None:
        """Raise `KeyboardInterrupt` if an earlier one was swallowed."""
        if cls.wanted:
            raise KeyboardInterrupt


class Bar:
    """Shows progress and remaining time of a batch: a bar in a terminal, otherwise a line every ten seconds.

    Args:
        n_jobs: number of jobs in the batch; they are assumed to take equally long.
    """

    def __init__(self, n_jobs: int) -> None:
        from rich import table
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        name = TextColumn("{task.description}", markup=False, table_column=table.Column(no_wrap=True, overflow="ellipsis", ratio=1))
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
        """Return a callback for the next job. It takes the name of the current step and the finished fraction of the job in 0..1."""
        if not self._done:
            self._started = time.monotonic()  # do not count the time to load the model
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

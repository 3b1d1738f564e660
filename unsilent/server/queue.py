"""A bounded queue that is fair: clients take turns, however many jobs each has waiting."""

import threading
from collections import deque
from dataclasses import dataclass

from unsilent.errors import ResourceError


class BusyError(ResourceError):
    """The server cannot accept more work now.

    Attributes:
        wait_seconds: seconds after which to try again.
    """

    def __init__(self, sentence: str, wait_seconds: float) -> None:
        super().__init__(sentence)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Waiting:
    """A waiting job; `seconds` is its expected processing time, see `asked.expected_seconds`."""

    job: str
    client: str
    model: str
    seconds: float


class FairQueue:
    """Waiting jobs, taken from the clients in turn (round robin).

    Args:
        most: maximum number of waiting jobs of all clients.
        most_each: maximum number of waiting jobs of one client.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self._most, self._most_each = most, most_each
        self._lines: dict[str, deque[Waiting]] = {}  # the first client has the next turn
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lines.values()))

    def put(self, one: Waiting, wait_seconds: float = 0.0, *, again: bool = False) -> None:
        """Add a job.

        Args:
            one: the job.
            wait_seconds: expected time until the queue has room, for the error.
            again: whether the job was accepted before a restart, so that no limit applies.

        Raises:
            BusyError: if the client has too many jobs, or the queue is full.
        """
        with self._changed:
            waiting, own = sum(map(len, self._lines.values())), len(self._lines.get(one.client, ()))
            if own >= self._most_each and not again:
                raise BusyError(f"{own} of your jobs are already waiting, which is the limit; wait until one is done.", wait_seconds)
            if waiting >= self._most and not again:
                raise BusyError(f"{waiting} jobs are already waiting, which is the limit; try again in {wait_seconds:.0f} s.", wait_seconds)
            self._lines.setdefault(one.client, deque()).append(one)
            self._changed.notify()

    def take(self) -> Waiting | None:
        """Remove and return the next job, and wait for one if the queue is empty. None if the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            if self._closed:
                return None
            client = next(iter(self._lines))
            line = self._lines.pop(client)
            one = line.popleft()
            if line:
                self._lines[client] = line  # the client's next turn comes after all others
            return one

    def remove(self, job: str) -> bool:
        """Remove a waiting job. Returns False if it is not in the queue."""
        with self._changed:
            for client, line in self._lines.items():
                for one in line:
                    if one.job == job:
                        line.remove(one)
                        if not line:
                            del self._lines[client]
                        return True
        return False

    def order(self) -> list[Waiting]:
        """Return all waiting jobs in the order in which they will be taken."""
        with self._changed:
            lines = [list(line) for line in self._lines.values()]
        longest = max(map(len, lines), default=0)
        return [line[turn] for turn in range(longest) for line in lines if turn < len(line)]

    def close(self) -> None:
        """Close the queue, so that every call of `take` returns None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

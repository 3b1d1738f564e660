"""A bounded queue that is fair between clients: they take turns, whatever number of jobs each has waiting."""

import threading
from collections import deque
from dataclasses import dataclass

from unsilent.errors import ResourceError


class BusyError(ResourceError):
    """The server has no room for more work now.

    Attributes:
        wait_seconds: after which to try again.
    """

    def __init__(self, sentence: str, wait_seconds: float) -> None:
        super().__init__(sentence)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Waiting:
    """A job that waits; `seconds` of work are expected, see `asked.expected_seconds`."""

    job: str
    client: str
    model: str
    seconds: float


class FairQueue:
    """Jobs in the order in which clients take turns.

    Args:
        most: jobs that wait, of all clients.
        most_each: jobs that wait, of one client.
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
            one: job.
            wait_seconds: expected time until there is room, for the error.
            again: whether it had been accepted before a restart, so that no limit applies.

        Raises:
            BusyError: if the client has too many jobs, or the queue is full.
        """
        with self._changed:
            waiting, own = sum(map(len, self._lines.values())), len(self._lines.get(one.client, ()))
            if own >= self._most_each and not again:
                raise BusyError(f"{own} of your jobs wait already, which is the limit; wait for one of them.", wait_seconds)
            if waiting >= self._most and not again:
                raise BusyError(f"{waiting} jobs wait already, which is the limit; try again in {wait_seconds:.0f} s.", wait_seconds)
            self._lines.setdefault(one.client, deque()).append(one)
            self._changed.notify()

    def take(self) -> Waiting | None:
        """The next job; waits for one. None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            if self._closed:
                return None
            client = next(iter(self._lines))
            line = self._lines.pop(client)
            one = line.popleft()
            if line:
                self._lines[client] = line  # behind all others
            return one

    def remove(self, job: str) -> bool:
        """Take a job out; false if it does not wait."""
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
        """All jobs that wait, in the order of their turns."""
        with self._changed:
            lines = [list(line) for line in self._lines.values()]
        longest = max(map(len, lines), default=0)
        return [line[turn] for turn in range(longest) for line in lines if turn < len(line)]

    def close(self) -> None:
        """End all waiting `take`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

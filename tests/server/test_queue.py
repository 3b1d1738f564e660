"""The queue: clients take turns, and limits hold."""

import pytest

from unsilent.server.queue import BusyError, FairQueue, Waiting


def filled(*jobs: str) -> FairQueue:
    """Jobs such as `a1`, whose first letter is the client."""
    queue = FairQueue(most=10, most_each=5)
    for job in jobs:
        queue.put(Waiting(job, job[0], "tiny", 1.0))
    return queue


def test_clients_take_turns():
    queue = filled("a1", "a2", "a3", "b1", "c1", "b2")
    planned = [one.job for one in queue.order()]
    assert planned == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert [queue.take().job for _ in planned] == planned


def test_a_client_that_was_served_waits_behind_the_others():
    queue = filled("a1", "b1")
    assert queue.take().job == "a1"
    queue.put(Waiting("a2", "a", "tiny", 1.0))
    assert [one.job for one in queue.order()] == ["b1", "a2"]


def test_a_client_may_not_fill_the_queue():
    queue = filled(*(f"a{number}" for number in range(5)))
    with pytest.raises(BusyError, match="5 of your jobs are already waiting"):
        queue.put(Waiting("a9", "a", "tiny", 1.0))
    queue.put(Waiting("b1", "b", "tiny", 1.0))


def test_a_full_queue_says_when_to_come_again():
    queue = filled(*(f"{client}{number}" for client in "ab" for number in range(5)))
    with pytest.raises(BusyError, match="10 jobs are already waiting, which is the limit; try again in 42 s") as refused:
        queue.put(Waiting("c1", "c", "tiny", 1.0), 42.0)
    assert refused.value.wait_seconds == 42
    queue.put(Waiting("c1", "c", "tiny", 1.0), again=True)
    assert len(queue) == 11


def test_a_removed_job_has_no_turn():
    queue = filled("a1", "b1")
    assert queue.remove("a1")
    assert not queue.remove("a1")
    assert [one.job for one in queue.order()] == ["b1"]


def test_closing_ends_the_wait():
    queue = filled()
    queue.close()
    assert queue.take() is None

"""Spreading changes nothing: results, their order, and what is said of items that fail are those of the plain loop."""

import os
import signal
import subprocess
import sys
import time
from itertools import count, islice
from pathlib import Path

import pytest
import torch

from unsilent.errors import MediaError, ParameterError, UnsilentError
from unsilent.jobs.run import AHEAD, Failure, Spread, run

TROUBLE = [3, "refused", 5, "defect", "missing", 7]
SPREADS = [
    pytest.param(Spread(), id="loop"),
    pytest.param(Spread(workers=2), id="processes"),
    pytest.param(Spread(workers=2, ray="local"), id="ray", marks=pytest.mark.cluster),
]


@pytest.mark.parametrize("spread", SPREADS)
def test_results_come_in_order_and_what_fails_is_named(errands, spread):
    found = list(run(errands.Errands(), TROUBLE * 5, spread))
    assert [item for item, _ in found] == TROUBLE * 5
    for item, result in found:
        match item:
            case int():
                assert result == item**2
            case "refused":
                assert result == Failure("refused is no media file.")
            case "defect":
                assert result == Failure("defect: ZeroDivisionError: division by zero")
            case "missing":
                assert result == Failure("/nowhere/to/be/found: No such file or directory.")


@pytest.mark.parametrize("spread", SPREADS)
def test_what_cannot_be_built_ends_the_job(errands, spread):
    with pytest.raises(MediaError, match="nothing to build with"):
        list(run(errands.unbuildable, [1, 2], spread))


@pytest.mark.parametrize("spread", SPREADS[1:])
def test_a_worker_that_dies_takes_nothing_with_it(errands, spread, tmp_path):
    """An item that two workers died of is given up; one that met the end of its worker by chance is done by another."""
    items = [1, "deadly", 2, "unlucky", *range(3, 9)]
    found = dict(run(errands.Errands(tmp_path), items, spread))
    assert list(found) == items
    assert "deadly: 2 workers died of it, the last " in found["deadly"].why
    assert found["unlucky"] == "lucky"
    assert [found[i] for i in range(3, 9)] == [9, 16, 25, 36, 49, 64]


@pytest.mark.parametrize("spread", SPREADS[1:])
def test_workers_that_never_begin_are_an_error(errands, spread):
    with pytest.raises(UnsilentError, match="before it had begun; try the job without workers"):
        list(run(errands.stillborn, [1], spread))


@pytest.mark.parametrize("spread", SPREADS)
def test_endless_items_are_read_only_a_little_ahead(errands, spread):
    numbers = count()
    assert [result for _, result in islice(run(errands.Errands(), numbers, spread), 20)] == [i**2 for i in range(20)]
    assert next(numbers) <= 20 + AHEAD * 2


def test_a_worker_builds_once_and_shares_the_threads(errands, tmp_path):
    found = list(run(errands.Errands(tmp_path), ["threads"] * 9, Spread(workers=1)))
    assert found == [("threads", str(torch.get_num_threads()))] * 9
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("spread", SPREADS)
def test_no_items_no_results(errands, spread):
    assert list(run(errands.Errands(), [], spread)) == []


def test_no_workers_are_refused():
    with pytest.raises(ParameterError, match="0 workers were asked for"):
        Spread(workers=0)


@pytest.mark.cluster
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_named(errands, address):
    with pytest.raises(ParameterError, match=f"no Ray cluster answers at {address}: "):
        list(run(errands.Errands(), [1], Spread(ray=address)))


def test_without_ray_the_command_that_installs_it_is_said(errands, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParameterError, match=r"pip install '\.\[cluster\]'"):
        list(run(errands.Errands(), [1], Spread(ray="local")))


ENDLESS = """
import itertools, pathlib, sys
import errands
from unsilent.jobs.run import Spread, run
if __name__ == "__main__":
    folder, told = pathlib.Path(sys.argv[1]), False
    try:
        for item, _ in run(errands.Errands(folder), itertools.count(), Spread(workers=2)):
            if not told and len(list(folder.iterdir())) == 2:
                told = True
                print("under way", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_however_a_job_ends_no_worker_is_left_behind(tmp_path, end):
    """Ctrl-C goes to all processes of a terminal at once."""
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    (tmp_path / "pids").mkdir()
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    job = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "pids")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert job.stdout.readline() == "under way\n"
    (os.killpg if end == signal.SIGINT else os.kill)(job.pid, end)
    out, err = job.communicate(timeout=30)
    if end == signal.SIGINT:
        assert (out, err) == ("interrupted\n", "")
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(_lives(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_lives(pid) for pid in workers)


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

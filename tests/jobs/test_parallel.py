"""`map_ordered`: workers give the results, order and failure messages of the plain loop."""

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
from unsilent.jobs.parallel import AHEAD, Failed, Parallel, map_ordered

MIXED = [3, "refused", 5, "defect", "missing", 7]
BACKENDS = [
    pytest.param(Parallel(), id="loop"),
    pytest.param(Parallel(workers=2), id="processes"),
    pytest.param(Parallel(workers=2, ray="local"), id="ray", marks=pytest.mark.cluster),
]


@pytest.mark.parametrize("parallel", BACKENDS)
def test_map_ordered_keeps_the_order_and_names_failed_items(tasks, parallel):
    found = list(map_ordered(tasks.Square(), MIXED * 5, parallel))
    assert [item for item, _ in found] == MIXED * 5
    for item, result in found:
        match item:
            case int():
                assert result == item**2
            case "refused":
                assert result == Failed("refused is not a media file.")
            case "defect":
                assert result == Failed("defect: ZeroDivisionError: division by zero")
            case "missing":
                assert result == Failed("/nowhere/to/be/found: No such file or directory.")


@pytest.mark.parametrize("parallel", BACKENDS)
def test_an_error_while_building_ends_the_job(tasks, parallel):
    with pytest.raises(MediaError, match="nothing to build with"):
        list(map_ordered(tasks.build_fails, [1, 2], parallel))


@pytest.mark.parametrize("parallel", BACKENDS[1:])
def test_an_item_is_retried_once_when_its_worker_dies(tasks, parallel, tmp_path):
    items = [1, "deadly", 2, "deadly once", *range(3, 9)]
    found = dict(map_ordered(tasks.Square(tmp_path), items, parallel))
    assert list(found) == items
    assert "deadly: 2 workers died on it, the last " in found["deadly"].reason
    assert found["deadly once"] == "second attempt"
    assert [found[i] for i in range(3, 9)] == [9, 16, 25, 36, 49, 64]


@pytest.mark.parametrize("parallel", BACKENDS[1:])
def test_a_worker_that_dies_while_building_is_an_error(tasks, parallel):
    with pytest.raises(UnsilentError, match="before it was ready; try the job without workers"):
        list(map_ordered(tasks.build_exits, [1], parallel))


@pytest.mark.parametrize("parallel", BACKENDS)
def test_items_are_consumed_lazily(tasks, parallel):
    numbers = count()
    assert [result for _, result in islice(map_ordered(tasks.Square(), numbers, parallel), 20)] == [i**2 for i in range(20)]
    assert next(numbers) <= 20 + AHEAD * 2


def test_a_worker_builds_once_and_gets_its_share_of_threads(tasks, tmp_path):
    found = list(map_ordered(tasks.Square(tmp_path), ["threads"] * 9, Parallel(workers=1)))
    assert found == [("threads", str(torch.get_num_threads()))] * 9
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("parallel", BACKENDS)
def test_no_items_give_no_results(tasks, parallel):
    assert list(map_ordered(tasks.Square(), [], parallel)) == []


def test_zero_workers_are_refused():
    with pytest.raises(ParameterError, match="workers is 0, but must be 1 or more"):
        Parallel(workers=0)


@pytest.mark.cluster
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto"])
def test_an_unreachable_cluster_is_named(tasks, address):
    with pytest.raises(ParameterError, match=f"no Ray cluster answers at {address}: "):
        list(map_ordered(tasks.Square(), [1], Parallel(ray=address)))


def test_missing_ray_is_reported_with_the_install_command(tasks, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParameterError, match=r"pip install '\.\[cluster\]'"):
        list(map_ordered(tasks.Square(), [1], Parallel(ray="local")))


ENDLESS = """
import itertools, pathlib, sys
import worker_tasks
from unsilent.jobs.parallel import Parallel, map_ordered
if __name__ == "__main__":
    folder, printed = pathlib.Path(sys.argv[1]), False
    try:
        for item, _ in map_ordered(worker_tasks.Square(folder), itertools.count(), Parallel(workers=2)):
            if not printed and len(list(folder.iterdir())) == 2:
                printed = True
                print("running", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_an_interrupted_or_killed_job(tmp_path, end):
    """SIGINT goes to the whole process group, as Ctrl-C in a terminal does."""
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
    assert job.stdout.readline() == "running\n"
    (os.killpg if end == signal.SIGINT else os.kill)(job.pid, end)
    out, err = job.communicate(timeout=30)
    if end == signal.SIGINT:
        assert (out, err) == ("interrupted\n", "")
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(_is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_is_alive(pid) for pid in workers)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

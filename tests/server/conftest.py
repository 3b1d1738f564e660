"""A server with the tiny model, asked through FastAPI's test client."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import uvicorn
from fastapi.testclient import TestClient

from unsilent.server.app import guarded, make_app
from unsilent.server.engines import Here
from unsilent.server.service import Service
from unsilent.server.settings import Settings
from unsilent.server.store import Store

ME = {"Unsilent-Client": "the first client of the tests"}
OTHER = {"Unsilent-Client": "another client of the tests"}


class Idle:
    """An engine that waits until it is released, so that tests see a queue that stands still."""

    lanes = 1

    def __init__(self) -> None:
        self.released = threading.Event()
        self.done: list[str] = []

    def warm(self) -> None: ...

    def run(self, folder: Path, source: Path, made: Path | None, ask: Any, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        emit({"stage": "sampling", "share": 0.5})
        self.released.wait()
        self.done.append(folder.name)
        return {"state": "done", "sounds": []}

    def close(self) -> None:
        self.released.set()


@pytest.fixture(scope="session")
def tiny(own_cache, tiny_bundle) -> str:
    """Name of the tiny model, installed."""
    place = own_cache / "models" / "tiny"
    if not place.exists():
        shutil.copytree(tiny_bundle, place)
    return "tiny"


@contextmanager
def clients(folder: Path) -> Iterator[Callable[..., TestClient]]:
    """Gives a function that starts a server in a folder; all servers are closed at the end."""
    opened = []

    def begin(engine=None, **fields: Any) -> TestClient:
        settings = Settings(**{"folder": folder, "model": "tiny", "device": "cpu", **fields})
        service = Service(settings, Store(settings.folder), engine or Here(settings))
        client = TestClient(guarded(make_app(service), service), raise_server_exceptions=False, headers=ME)
        client.service = service
        opened.append(client.__enter__())
        return client

    yield begin
    for client in opened:
        client.__exit__(None, None, None)
        client.service.store.close()


@pytest.fixture
def start(tmp_path, tiny) -> Iterator[Callable[..., TestClient]]:
    """`start(engine=None, **settings)`: a client of a new server in the test's folder; a second call is a restart."""
    with clients(tmp_path / "served") as begin:
        yield begin


@pytest.fixture(scope="module")
def client(tmp_path_factory, tiny) -> Iterator[TestClient]:
    """A client of one server for all tests of a file that leave it as it is."""
    with clients(tmp_path_factory.mktemp("served")) as begin:
        yield begin()


@pytest.fixture
def listen(start) -> Iterator[Callable[..., str]]:
    """`listen(**settings)`: address of a server that listens in a thread of this process."""
    running = []

    def begin(**fields: Any) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(start(**fields).app, lifespan="off", log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        running.append((server, thread))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield begin
    for server, thread in running:
        server.should_exit = True
        thread.join()


def upload(client: TestClient, path: Path, **options: Any) -> dict[str, Any]:
    answer = client.put("/api/inputs", params={"name": path.name}, content=path.read_bytes(), **options)
    assert answer.status_code == 201, answer.text
    return answer.json()


def ask(client: TestClient, input: str, model: str = "tiny", **fields: Any) -> dict[str, Any]:
    """Ask for a job; fields of the request, or of the job where they are its own."""
    own = {name: fields.pop(name) for name in ("kind", "vocoder", "attention", "compare") if name in fields}
    answer = client.post("/api/jobs", json={"input": input, "model": model, **own, "request": fields})
    assert answer.status_code == 202, answer.text
    return answer.json()


def follow(client: TestClient, job: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All events of a job until it ends."""
    found = []
    with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def finish(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it has ended."""
    return follow(client, job)[-1][1]


@pytest.fixture(scope="session")
def helpers():
    import types

    return types.SimpleNamespace(upload=upload, ask=ask, follow=follow, finish=finish, Idle=Idle, ME=ME, OTHER=OTHER)

"""Access to `worker_tasks` from this and other processes."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def tasks(monkeypatch):
    """The module `worker_tasks`, importable here and in worker processes."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    return importlib.import_module("worker_tasks")

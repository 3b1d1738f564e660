"""Errands that other processes can import, and every way of spreading them."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def errands(monkeypatch):
    """The module `errands`, found here and in other processes."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    return importlib.import_module("errands")

"""Synthetic sounds that a test may change."""

import shutil

import pytest


@pytest.fixture
def sounds(tiny_sounds, tmp_path):
    """A copy of the real and generated sounds."""
    return shutil.copytree(tiny_sounds, tmp_path / "sounds")

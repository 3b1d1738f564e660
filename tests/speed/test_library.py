"""Loading of C extensions: versions must match the sources."""

import ctypes

import pytest

from unsilent.errors import UnsilentError
from unsilent.speed import cpu_transformer, library

NAMES = ["_transformer", "_groupnorm"]


@pytest.mark.skipif(not cpu_transformer.is_built(), reason="installed without a C compiler")
@pytest.mark.parametrize("name", NAMES)
def test_load_library_refuses_another_version(name):
    with pytest.raises(UnsilentError, match=rf"built from another version of {name}\.c; rebuild it with: pip install -e \."):
        library.load_library(name, [1, 2, 3])


@pytest.mark.skipif(not cpu_transformer.is_built(), reason="installed without a C compiler")
def test_load_library_refuses_one_without_a_version(monkeypatch):
    process = ctypes.CDLL(None)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: process)
    with pytest.raises(UnsilentError, match="another version"):
        library.load_library("_transformer", [1])


def test_load_library_is_none_without_a_compiler():
    assert library.load_library("_not_built", [1]) is None

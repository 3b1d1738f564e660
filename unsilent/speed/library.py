"""Opens a C extension of this folder, and checks that it was built from the current source."""

import ctypes
from collections.abc import Sequence
from importlib.util import find_spec

from unsilent.errors import UnsilentError


def load_library(name: str, abi: Sequence[int]) -> ctypes.CDLL | None:
    """The shared library of `NAME.c`, without signatures; None if the package was installed without a C compiler.

    setuptools builds it as an extension module, but it does not use Python's API and is opened with ctypes.

    Args:
        name: name of the C file without its suffix.
        abi: expected values of its `unsilent_abi` for 0, 1, ...: its version, then sizes and offsets of structs.

    Raises:
        UnsilentError: if it was built from another version of the C file.
    """
    found = find_spec(f"{__package__}.{name}")
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    if _abi(library, len(abi) + 1) != [*abi, 0]:
        raise UnsilentError(
            f"{found.origin} was built from another version of {name}.c; rebuild it with: pip install -e . (in the checkout)."
        )
    return library


def _abi(library: ctypes.CDLL, entries: int) -> list[int]:
    if not hasattr(library, "unsilent_abi"):
        return []
    library.unsilent_abi.restype = ctypes.c_uint64
    return [library.unsilent_abi(which) for which in range(entries)]

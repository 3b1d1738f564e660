"""Settings of glibc's malloc, which are process-wide: when freed memory is returned to the system, and when it is kept for reuse."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
# of torch, CUDA, the C++ library, oneDNN and the loader of libraries
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "could not create a primitive", "failed to map segment")
_LARGEST_RETAINED = 2**26  # bytes; larger blocks are returned to the system, because mmap is fast relative to their use


def trim_memory() -> None:
    """Return freed memory to the system. After packing weights, this is 0.5 GB of float32 matrices."""
    if (glibc := _glibc()) is not None:
        glibc.malloc_trim(0)


def limit_memory(n_bytes: int) -> None:
    """Limit the private memory of this process; larger allocations fail. Only Linux has this limit."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard), hard))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, NumPy or torch is a failed allocation."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def retain_memory() -> Iterator[None]:
    """Keep freed memory for reuse, and return it at the end. Page faults of new memory would take a tenth of a decoder's time."""
    glibc = _glibc()
    if glibc is not None:
        glibc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_RETAINED) or glibc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the limit of glibc < 2.35
        glibc.mallopt(_M_TRIM_THRESHOLD, 2**30)
    try:
        yield
    finally:
        if glibc is not None:  # the maxima of glibc's dynamic thresholds, which setting a threshold disables
            glibc.mallopt(_M_MMAP_THRESHOLD, 2**25)
            glibc.mallopt(_M_TRIM_THRESHOLD, 2**26)
            trim_memory()


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None

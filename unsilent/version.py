"""The version, in a file of its own, so that the build reads it without importing torch."""

from functools import cache
from pathlib import Path

__version__ = "0.1.0"


@cache
def source_digest() -> str:
    """SHA-256 of all Python files of the package: identifies the source code also between versions."""
    import hashlib  # here, because `--help` needs none

    digest, folder = hashlib.sha256(), Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

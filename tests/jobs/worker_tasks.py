"""Work for the tests of `jobs.parallel`, in a module of its own, which worker processes can import."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from unsilent.errors import MediaError


@dataclass(frozen=True)
class Square:
    """Squares numbers; some strings fail in different ways. Every build leaves a file named by its process in `folder`, if given."""

    folder: Path | None = None

    def __call__(self):
        if self.folder is not None:
            (self.folder / f"{os.getpid()}").touch()
        return self.square

    def square(self, item):
        match item:
            case "refused":
                raise MediaError("refused is not a media file.")
            case "defect":
                return 1 / 0
            case "missing":
                return Path("/nowhere/to/be/found").read_text()
            case "threads":
                return os.environ["OMP_NUM_THREADS"]
            case "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            case "deadly once":
                first = self.folder / "first"
                if not first.exists():
                    first.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return "second attempt"
        return item**2


def build_fails():
    """Raises an error of the package."""
    raise MediaError("there is nothing to build with.")


def build_exits():
    """Ends the worker."""
    os._exit(7)

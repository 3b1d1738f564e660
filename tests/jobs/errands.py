"""What workers are sent to do by the tests of spreading; in a module of its own, which other processes can import."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from unsilent.errors import MediaError


@dataclass(frozen=True)
class Errands:
    """Squares numbers; some words are trouble. Every building leaves a file in `folder` if there is one."""

    folder: Path | None = None

    def __call__(self):
        if self.folder is not None:
            (self.folder / f"{os.getpid()}").touch()
        return self.do

    def do(self, item):
        match item:
            case "refused":
                raise MediaError("refused is no media file.")
            case "defect":
                return 1 / 0
            case "missing":
                return Path("/nowhere/to/be/found").read_text()
            case "threads":
                return os.environ["OMP_NUM_THREADS"]
            case "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            case "unlucky":  # ends the first worker that has it
                first = self.folder / "unlucky"
                if not first.exists():
                    first.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return "lucky"
        return item**2


def unbuildable():
    """Of the request's fault."""
    raise MediaError("there is nothing to build with.")


def stillborn():
    """Nobody is ever ready."""
    os._exit(7)

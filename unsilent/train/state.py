"""Initial weights, and `last.pt`, the state from which a training resumes with the same result."""

import logging
import math
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unsilent.checkpoints.store import load_checkpoint
from unsilent.errors import CheckpointError
from unsilent.files import atomic_write
from unsilent.published.containers import check_sums
from unsilent.train.config import Run
from unsilent.train.trainer import Trainer

log = logging.getLogger(__name__)

_PARTS = {
    "kind": str, "preset": str, "record": dict, "module": dict, "average": dict, "memory": dict, "others": dict, "optimizers": list,
    "validation": dict,
}  # fmt: skip


@dataclass
class Validation:
    """Lowest validation loss so far, and the number of validations since."""

    best: float = math.inf
    since_best: int = 0

    def is_over(self, run: Run) -> bool:
        """Whether `run.patience` is exhausted."""
        return 0 < run.patience <= self.since_best

    def note(self, loss: float) -> bool:
        """Record a validation; returns whether it is the best so far."""
        is_best = loss < self.best
        self.best, self.since_best = (loss, 0) if is_best else (self.best, self.since_best + 1)
        return is_best


def load_initial(run: Run, kind: str, module: nn.Module) -> nn.Module:
    """Load the weights of `run.initial`, if given, into a new network.

    Args:
        run: settings.
        kind: kind of the network, see `checkpoints.store`.
        module: new network; it has a `config`.

    Returns:
        The module.

    Raises:
        CheckpointError: if there is no such checkpoint, or its network has another kind or other sizes.
    """
    if run.initial is not None:
        found = load_checkpoint(run.initial, kind)
        if found.config != module.config:
            raise CheckpointError(
                f"{run.initial} has a {kind} of other sizes than this run; leave out initial, or use one of the same preset."
            )
        module.load_state_dict(found.state_dict())
    return module


def save_state(run: Run, trainer: Trainer, average: dict[str, Tensor], validation: Validation, record: dict[str, Any]) -> None:
    """Write `run.out/last.pt` atomically, so that a killed process leaves a complete file.

    Args:
        run: settings.
        trainer: networks, optimizers and tensors.
        average: moving average of the module's weights.
        validation: best validation so far.
        record: finished steps, settings, digests of data and code; the same record as in the checkpoint folder.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    state = {
        "kind": run.kind,
        "preset": run.preset,
        "record": record,
        "module": trainer.module.state_dict(),
        "average": average,
        "memory": trainer.tensors,
        "others": {name: other.state_dict() for name, other in trainer.others.items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "validation": asdict(validation),
    }
    run.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(run.out / "last.pt", CheckpointError, durable=True) as temporary:
        try:
            with temporary.open("wb") as file:  # given a path, torch would write its random name into the file
                torch.save(state, file)
        except RuntimeError as error:  # torch raises it for a full disk
            free = shutil.disk_usage(run.out).free
            raise OSError(None, f"{str(error).splitlines()[0]}, {free / 1e6:.0f} MB are free") from None


def load_state(run: Run, trainer: Trainer, average: dict[str, Tensor], validation: Validation) -> int:
    """Load `run.out/last.pt` into trainer, average and validation, if it exists.

    Returns:
        The number of finished steps; 0 without the file.

    Raises:
        CheckpointError: if the file is damaged, or has another kind, preset, networks or sizes.
    """
    path = run.out / "last.pt"
    if not path.exists():
        return 0
    check_sums(path)
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # damaged bytes raise errors of any class
        raise CheckpointError(f"{path} is damaged, or has objects other than weights and numbers; choose another folder.") from None
    if not isinstance(state, dict) or any(not isinstance(state.get(name), types) for name, types in _PARTS.items()):
        raise CheckpointError(f"{path} is not a training of this program; choose another folder.")
    if (state["kind"], state["preset"]) != (run.kind, run.preset):
        raise CheckpointError(f"{path} is a {state['kind']} of {state['preset']!r}, but the run is of a {run.kind} of {run.preset!r}.")
    others = state["others"]
    if others.keys() != trainer.others.keys():
        had, has = (", ".join(names) or "nothing" for names in (others, trainer.others))
        raise CheckpointError(f"{path} was trained with {had} besides its network, but the run has {has}; choose another folder.")
    if state["memory"].keys() != trainer.tensors.keys():
        had, has = (", ".join(names) or "nothing" for names in (state["memory"], trainer.tensors))
        raise CheckpointError(f"{path} has the tensors {had}, but the run needs {has}; choose another folder.")
    step, data = state["record"].get("steps"), state["record"].get("data")
    if not isinstance(step, int) or not isinstance(data, dict):
        raise CheckpointError(f"{path} has no record of its steps or data; choose another folder.")
    changed = [name for name, digest in data.items() if trainer.data.get(name) != digest]
    if changed:
        log.warning("the data %s differs from that of the training in %s so far", ", ".join(changed), path)
    try:
        trainer.module.load_state_dict(state["module"])
        for name, other in trainer.others.items():
            other.load_state_dict(others[name])
        for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
            _load_optimizer(optimizer, saved)
        average.update({name: state["average"][name].to(value) for name, value in average.items()})
        for name, value in state["memory"].items():
            trainer.tensors[name].copy_(value)
        best, since_best = (state["validation"][name] for name in ("best", "since_best"))
        validation.best, validation.since_best = float(best), int(since_best)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise CheckpointError(f"{path} has a network of other sizes than {run.preset!r} has now; choose another folder.") from None
    log.info("resuming from step %d of %s", step, path)
    return step


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, but keep the run's options, such as weight decay."""
    wanted = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, options in zip(optimizer.param_groups, wanted, strict=True):
        group.update(options)

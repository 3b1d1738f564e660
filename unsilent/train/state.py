"""What a training begins with, and `last.pt`: everything that it needs to go on as if it had never stopped."""

import logging
import math
import os
import pickle
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unsilent.checkpoints.store import load_checkpoint
from unsilent.errors import CheckpointError
from unsilent.train.config import Run
from unsilent.train.trainer import Trainer

log = logging.getLogger(__name__)

_PARTS = {"kind", "preset", "record", "module", "average", "memory", "others", "optimizers", "validation"}


@dataclass
class Validation:
    """How validation went so far: the lowest loss, and the number of validations since."""

    best: float = math.inf
    since_best: int = 0

    def is_over(self, run: Run) -> bool:
        """Whether patience has run out."""
        return 0 < run.patience <= self.since_best

    def note(self, loss: float) -> bool:
        """Count a validation; whether it is the best so far."""
        is_best = loss < self.best
        self.best, self.since_best = (loss, 0) if is_best else (self.best, self.since_best + 1)
        return is_best


def begin(run: Run, kind: str, module: nn.Module) -> nn.Module:
    """Fill a new network with the weights that the run begins from, if it names any.

    Args:
        run: may name a checkpoint folder as `initial`.
        kind: of the network, as of `checkpoints.store`.
        module: new, with its configuration as `config`.

    Returns:
        The module.

    Raises:
        CheckpointError: if there is no such checkpoint, or it holds a network of another kind or other sizes.
    """
    if run.initial is not None:
        found = load_checkpoint(run.initial, kind)
        if found.config != module.config:
            raise CheckpointError(
                f"{run.initial} holds a {kind} of other sizes than this run trains; leave out initial, or take one that fits."
            )
        module.load_state_dict(found.state_dict())
    return module


def save_state(run: Run, trainer: Trainer, average: dict[str, Tensor], validation: Validation, record: dict[str, Any]) -> None:
    """Write everything beside the old file, then rename: a kill at any moment leaves a whole one.

    Args:
        run: with the folder.
        trainer: with all that it has learnt.
        average: of its module's weights.
        validation: so far.
        record: steps done, settings, data and code; the same as in the checkpoint folder.
    """
    state = {
        "kind": run.kind,
        "preset": run.preset,
        "record": record,
        "module": trainer.module.state_dict(),
        "average": average,
        "memory": trainer.memory,
        "others": {name: other.state_dict() for name, other in trainer.others.items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "validation": asdict(validation),
    }
    temporary = run.out / "last.pt.part"
    try:
        run.out.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        os.replace(temporary, run.out / "last.pt")
    except (OSError, RuntimeError) as error:  # the latter is what a full disk becomes
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {run.out / 'last.pt'}: {str(error).splitlines()[0]}") from None


def load_state(run: Run, trainer: Trainer, average: dict[str, Tensor], validation: Validation) -> int:
    """Fill trainer, average and validation with what `save_state` wrote, if it did.

    Returns:
        The number of steps done; 0 where there is no file.

    Raises:
        CheckpointError: if the file is damaged, or of another kind, preset or size.
    """
    path = run.out / "last.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or not state.keys() >= _PARTS:
        raise CheckpointError(f"{path} is no training of this program; choose another folder.")
    if (state["kind"], state["preset"]) != (run.kind, run.preset):
        raise CheckpointError(f"{path} is a {state['kind']} of {state['preset']!r}, the run asks for a {run.kind} of {run.preset!r}.")
    others = state["others"]
    if others.keys() != trainer.others.keys():
        had, has = (", ".join(names) or "nothing" for names in (others, trainer.others))
        raise CheckpointError(f"{path} was trained with {had} beside its network, the run asks for {has}; choose another folder.")
    if state["memory"].keys() != trainer.memory.keys():
        had, has = (", ".join(names) or "nothing" for names in (state["memory"], trainer.memory))
        raise CheckpointError(f"{path} remembers {had}, the run asks for {has}; choose another folder.")
    changed = [name for name, digest in state["record"]["data"].items() if trainer.data.get(name) != digest]
    if changed:
        log.warning("the data %s is not that which %s was trained with so far", ", ".join(changed), path)
    try:
        trainer.module.load_state_dict(state["module"])
        for name, other in trainer.others.items():
            other.load_state_dict(others[name])
        for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
            _load_optimizer(optimizer, saved)
    except (RuntimeError, ValueError):
        raise CheckpointError(f"{path} holds a network of other sizes than {run.preset!r} has now; choose another folder.") from None
    average.update({name: value.to(average[name].device) for name, value in state["average"].items()})
    for name, value in state["validation"].items():
        setattr(validation, name, value)
    for name, value in state["memory"].items():
        trainer.memory[name].copy_(value)
    step = state["record"]["steps"]
    log.info("going on from step %d of %s", step, path)
    return step


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """What it has seen; how it is to go on, such as its decay, is the run's to say."""
    asked = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, options in zip(optimizer.param_groups, asked, strict=True):
        group.update(options)

"""The loop that every training shares: batches drawn ahead, learning rate, averaging, validation, checkpoints, resuming.

The trainer owns its step, so that an adversarial one may step two optimizers.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import lightning_fabric
import numpy as np
import torch
from torch import Tensor

from unsilent.checkpoints.store import weights_digest
from unsilent.data.datasets import generators
from unsilent.errors import CheckpointError
from unsilent.train.config import Run
from unsilent.train.report import Report
from unsilent.train.state import Validation, load_state, save_state
from unsilent.train.steps import Learning, TrainingDivergedError, to_device
from unsilent.train.trainer import Batch, Trainer
from unsilent.version import source_digest

log = logging.getLogger(__name__)

Drawn = TypeVar("Drawn")


def fit(run: Run, trainer: Trainer, fabric: lightning_fabric.Fabric, resume: bool) -> Path:
    """Train until `run.steps`, or until `run.patience` validations have brought no improvement.

    Args:
        run: all settings.
        trainer: what is trained; its module and optimizers are already set up with `fabric`.
        fabric: launched.
        resume: go on from `run.out` where a checkpoint is there; otherwise start anew.

    Returns:
        The checkpoint folder with the averaged weights: those of the best validation, or the last where nothing is validated.

    Raises:
        TrainingDivergedError: on a loss that is not finite.
        CheckpointError: if `resume` finds a checkpoint of another kind or preset, or a training would be overwritten.
    """
    if not resume and (run.out / "last.pt").exists():
        raise CheckpointError(f"{run.out} holds a training already; go on with --resume, or choose another folder with --set out=FOLDER.")
    average = {name: value.detach().clone().float() for name, value in trainer.module.state_dict().items()}
    validation = Validation()
    first = load_state(run, trainer, average, validation) if resume else 0
    if len(found := {int(step) for step in fabric.all_gather(torch.tensor(first)).flatten()}) > 1:
        raise CheckpointError(f"processes would go on from different steps, {sorted(found)}; {run.out} must be one folder for all.")
    source = {"source": source_digest(), **({"initial": weights_digest(run.initial)} if run.initial else {})}
    report = Report(run, first, fabric.world_size) if fabric.is_global_zero else None
    learning, folder = Learning(fabric, run), run.out / "checkpoint"
    drawn = _ahead(lambda step: _draw(run, trainer, fabric, step), range(first, run.steps), run.workers)
    with closing(drawn) as batches, closing(report) if report else nullcontext():
        for done, parts in enumerate(batches, start=first + 1):
            if validation.is_over(run):
                log.info("stopped before step %d: %d validations without improvement on %.4f", done, validation.since_best, validation.best)
                break
            losses = _step(run, trainer, learning, parts, done - 1)
            _update(average, trainer, run.average, done - 1)
            record = {"steps": done, "run": _settings(run), "data": trainer.data, **source}
            is_last = done == run.steps
            if any(_is_due(done, every, is_last) for every in (run.log_every, run.save_every, run.valid_every)):
                record["losses"] = {name: float(fabric.all_reduce(value, reduce_op="mean")) for name, value in losses.items()}
            if report and _is_due(done, run.log_every, is_last):
                report.losses(record["losses"], done)
            if _is_due(done, run.valid_every, is_last):
                figures = _validate(trainer, average, fabric, done)
                is_best = validation.note(figures["loss"])
                is_last = is_last or validation.is_over(run)
                if report:
                    report.validation(figures, done, is_best)
                    if is_best:
                        trainer.save(folder, average, record | {"valid": figures})
            if report and _is_due(done, run.show_every, is_last):
                with _averaged(trainer, average):
                    report.examples(trainer.examples(to_device(fabric, trainer.draw(generators(run.seed, 0, range(2))))), done)
            if report and _is_due(done, run.save_every, is_last):
                # The result first: a training that was killed between the two repeats the last steps and writes it again.
                if not run.valid_every:
                    trainer.save(folder, average, record)
                save_state(run, trainer, average, validation, record)
    return folder


def rate_factor(step: int, run: Run) -> float:
    """Learning rate at `step` (from 0) as a share of the full one: linear rise, plateau, linear fall to nearly zero."""
    rise = min(1.0, (step + 1) / (run.warmup_steps + 1))
    fall = min(1.0, (run.steps - step) / (run.decay_steps + 1))
    return rise * fall


def _is_due(done: int, every: int, is_last: bool) -> bool:
    return every > 0 and (done % every == 0 or is_last)


def _ahead(draw: Callable[[int], Drawn], steps: range, workers: int) -> Iterator[Drawn]:
    """What is drawn for each step, in order, each worker being one step ahead."""
    with ThreadPoolExecutor(workers, "draw") as pool:
        waiting: deque = deque()
        for step in steps:
            waiting.append(pool.submit(draw, step))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _draw(run: Run, trainer: Trainer, fabric: lightning_fabric.Fabric, step: int) -> list[Batch]:
    """The share of this process in each part of a step's batch."""
    whole = run.batch * fabric.world_size
    starts = [part * whole + fabric.global_rank * run.batch for part in range(run.accumulate)]
    return [trainer.draw(generators(run.seed, step, range(start, start + run.batch))) for start in starts]


def _step(run: Run, trainer: Trainer, learning: Learning, parts: list[Batch], step: int) -> dict[str, Tensor]:
    """One optimizer step; its losses, averaged over the parts of the batch."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = run.learning_rate * rate_factor(step, run)
    (seed,) = np.random.SeedSequence([run.seed, step, learning.fabric.global_rank]).generate_state(1)
    torch.manual_seed(int(seed))  # of dropout
    told = []
    for number, batch in enumerate(parts):
        with learning.part(step, number, batch.names, [trainer.module, *trainer.others.values()]):
            losses = trainer.step(learning, to_device(learning.fabric, batch))
            told.append({name: value.detach() for name, value in losses.items()})
    return {name: torch.stack([losses[name] for losses in told if name in losses]).mean() for name in told[-1]}


def _settings(run: Run) -> dict[str, Any]:
    paths = {name for name, value in run if isinstance(value, Path)}  # which mean nothing elsewhere
    return run.model_dump(mode="json", exclude=paths)


@torch.no_grad()
def _update(average: dict[str, Tensor], trainer: Trainer, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))  # early weights are forgotten quickly
    for name, value in trainer.module.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.float(), 1 - decay)
        else:
            average[name] = value.clone()
        for rows in trainer.replaced.pop(name, []):
            average[name][rows] = value[rows].to(average[name])


class _averaged:
    """Within it the module is in evaluation mode with averaged weights and asks for no gradients; after it as it was before."""

    def __init__(self, trainer: Trainer, average: dict[str, Tensor]) -> None:
        self.module, self.average, self.no_grad = trainer.module, average, torch.no_grad()

    def __enter__(self) -> None:
        self.no_grad.__enter__()
        self.own = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.average)
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        self.module.load_state_dict(self.own)
        self.module.train()
        self.no_grad.__exit__(*error)


def _validate(trainer: Trainer, average: dict[str, Tensor], fabric: lightning_fabric.Fabric, step: int) -> dict[str, float]:
    """Figures of the averaged weights, the same on every process; leaves the module as it was."""
    figures: dict[str, float] = {}
    if fabric.is_global_zero:
        with _averaged(trainer, average):
            figures = trainer.validate(fabric)
    figures = fabric.broadcast(figures)
    if not all(map(math.isfinite, figures.values())):
        raise TrainingDivergedError(f"validation after step {step} gave {figures}; the last good checkpoint is kept.")
    return figures

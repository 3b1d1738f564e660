"""The training loop: prefetched batches, learning rate, moving average, validation, checkpoints, resuming.

Trainers implement the step, because an adversarial one has two optimizers.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import lightning_fabric
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import weights_digest
from unsilent.data.datasets import generators
from unsilent.errors import CheckpointError
from unsilent.train.config import Run
from unsilent.train.report import Report
from unsilent.train.state import Validation, load_state, save_state
from unsilent.train.steps import Batch, StepContext, TrainingDivergedError, to_device
from unsilent.train.trainer import StepResult, Trainer
from unsilent.version import source_digest

log = logging.getLogger(__name__)

Drawn = TypeVar("Drawn")


def fit(run: Run, trainer: Trainer, fabric: lightning_fabric.Fabric, resume: bool) -> Path:
    """Train for `run.steps`, or until `run.patience` consecutive validations have not improved.

    Args:
        run: settings.
        trainer: its module and optimizers are set up with `fabric`.
        fabric: must be launched.
        resume: resume from `run.out/last.pt` if it exists.

    Returns:
        The checkpoint folder with the averaged weights of the best validation, or without validation, of the last step.
        A training that starts from `run.initial` is validated before its first step too.

    Raises:
        TrainingDivergedError: if a loss or gradient is not finite.
        CheckpointError: if the saved state does not fit the run, or a training would be overwritten without `resume`.
    """
    _refuse_finished(run, resume)
    average = {name: value.detach().clone().float() for name, value in trainer.module.state_dict().items()}
    validation = Validation()
    first = load_state(run, trainer, average, validation) if resume else 0
    if len(found := {int(step) for step in fabric.all_gather(torch.tensor(first)).flatten()}) > 1:
        raise CheckpointError(f"processes would resume from different steps, {sorted(found)}; {run.out} must be the same folder for all.")
    source = {"source": source_digest(), **({"initial": weights_digest(run.initial)} if run.initial else {})}
    report = Report(run, first, fabric.world_size) if fabric.is_global_zero else None
    context, folder = StepContext(fabric, run), run.out / "checkpoint"
    drawn = _in_advance(lambda step: _draw(run, trainer, fabric, step), range(first, run.steps), run.workers)

    def validate(done: int, record: dict[str, Any]) -> None:
        metrics = _validate(trainer, average, fabric, done)
        is_best = validation.note(metrics["loss"])
        if report:
            report.validation(metrics, done, is_best)
            if is_best:
                trainer.save(folder, average, record | {"valid": metrics})

    with closing(drawn) as batches, closing(report) if report else nullcontext():
        if run.initial and run.valid_every and not first:  # so that a training without improvement keeps its initial weights
            validate(0, _record(run, trainer, 0, source))
        for done, parts in enumerate(batches, start=first + 1):
            if validation.is_over(run):
                log.info("stopped before step %d: %d validations without improvement on %.4f", done, validation.since_best, validation.best)
                break
            losses, results = _step(run, trainer, context, parts, done - 1)
            update_average(average, trainer.module, run.average, done - 1, results)
            record = _record(run, trainer, done, source)
            is_last = done == run.steps
            if any(_is_due(done, every, is_last) for every in (run.log_every, run.save_every, run.valid_every)):
                record["losses"] = {name: float(fabric.all_reduce(value, reduce_op="mean")) for name, value in losses.items()}
            if report and _is_due(done, run.log_every, is_last):
                report.losses(record["losses"], done)
            if _is_due(done, run.valid_every, is_last):
                validate(done, record)
                is_last = is_last or validation.is_over(run)
            if report and _is_due(done, run.show_every, is_last):
                with _averaged_weights(trainer, average):
                    report.examples(trainer.examples(to_device(fabric, trainer.draw(generators(run.seed, 0, range(2))))), done)
            if report and _is_due(done, run.save_every, is_last):
                # the checkpoint first: a training killed between the two writes repeats the last steps and writes it again
                if not run.valid_every:
                    trainer.save(folder, average, record)
                save_state(run, trainer, average, validation, record)
    return folder


def _refuse_finished(run: Run, resume: bool) -> None:
    """Refuse to overwrite a training. A checkpoint without `last.pt` is of a killed run; the same run may start again with `resume`.

    Raises:
        CheckpointError: if a training would be overwritten.
    """
    folder, elsewhere = run.out / "checkpoint", "choose another folder with --set out=FOLDER"
    has_state = (run.out / "last.pt").exists()
    if has_state and not resume:
        raise CheckpointError(f"{run.out} already has a training; continue it with --resume, or {elsewhere}.")
    if has_state or not (folder / "config.json").exists():
        return
    if not resume or read_config(folder)["record"].get("run") != _settings(run):
        raise CheckpointError(f"{folder} would be overwritten, because there is no last.pt to continue from; {elsewhere}.")


def rate_factor(step: int, run: Run) -> float:
    """Learning rate at `step` (from 0), relative to the largest: linear warmup, constant, linear decay."""
    rise = min(1.0, (step + 1) / (run.warmup_steps + 1))
    fall = min(1.0, (run.steps - step) / (run.decay_steps + 1))
    return rise * fall


def _is_due(done: int, every: int, is_last: bool) -> bool:
    return every > 0 and (done % every == 0 or is_last)


def _in_advance(draw: Callable[[int], Drawn], steps: range, workers: int) -> Iterator[Drawn]:
    """Results of `draw` for each step in order, prefetched by threads up to `workers` steps ahead."""
    with ThreadPoolExecutor(workers, "draw") as pool:
        waiting: deque = deque()
        for step in steps:
            waiting.append(pool.submit(draw, step))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _draw(run: Run, trainer: Trainer, fabric: lightning_fabric.Fabric, step: int) -> list[Batch]:
    """The items of this process in each part of a step's batch."""
    part_size = run.batch * fabric.world_size
    starts = [part * part_size + fabric.global_rank * run.batch for part in range(run.accumulate)]
    return [trainer.draw(generators(run.seed, step, range(start, start + run.batch))) for start in starts]


def _step(
    run: Run, trainer: Trainer, context: StepContext, parts: list[Batch], step: int
) -> tuple[dict[str, Float[Tensor, ""]], list[StepResult]]:
    """One optimizer step; returns metrics averaged over the parts of the batch, and the results of the parts."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = run.learning_rate * rate_factor(step, run)
    (seed,) = np.random.SeedSequence([run.seed, step, context.fabric.global_rank]).generate_state(1)
    torch.manual_seed(int(seed))  # for dropout
    results = []
    for number, batch in enumerate(parts):
        with context.part(step, number, batch.names, [trainer.module, *trainer.others.values()]):
            results.append(trainer.step(context, to_device(context.fabric, batch)))
    metrics = [{name: value.detach() for name, value in result.metrics.items()} for result in results]
    return {name: torch.stack([one[name] for one in metrics if name in one]).mean() for name in metrics[-1]}, results


def _record(run: Run, trainer: Trainer, done: int, source: dict[str, str]) -> dict[str, Any]:
    return {"steps": done, "run": _settings(run), "data": trainer.data, **source}


def _settings(run: Run) -> dict[str, Any]:
    paths = {name for name, value in run if isinstance(value, Path)}  # paths are meaningless on other machines
    return run.model_dump(mode="json", exclude=paths)


@torch.no_grad()
def update_average(average: dict[str, Tensor], module: nn.Module, decay: float, step: int, results: Sequence[StepResult]) -> None:
    """Update the moving average of a module's weights in place.

    Args:
        average: averages by state-dict name; integers are copied.
        module: the module after the step.
        decay: decay per step; smaller in the first steps, so that initial weights are forgotten.
        step: number of the step, from 0.
        results: results of the step; replaced rows are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.float(), 1 - decay)
        else:
            average[name] = value.clone()
        for rows in (rows for result in results for rows in result.replaced.get(name, ())):
            average[name][rows] = value[rows].to(average[name])


@contextmanager
def _averaged_weights(trainer: Trainer, average: dict[str, Tensor]) -> Iterator[None]:
    """Context in which the module has averaged weights, is in evaluation mode and computes no gradients."""
    module = trainer.module
    with torch.no_grad():
        own = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(average)
        module.eval()
        try:
            yield
        finally:
            module.load_state_dict(own)
            module.train()


def _validate(trainer: Trainer, average: dict[str, Tensor], fabric: lightning_fabric.Fabric, step: int) -> dict[str, float]:
    """Validation metrics of the averaged weights, broadcast to every process."""
    metrics: dict[str, float] = {}
    if fabric.is_global_zero:
        with _averaged_weights(trainer, average):
            metrics = trainer.validate(fabric)
    metrics = fabric.broadcast(metrics)
    if not all(map(math.isfinite, metrics.values())):
        raise TrainingDivergedError(f"validation after step {step} gave {metrics}; the last good checkpoint is kept.")
    return metrics

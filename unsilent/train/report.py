"""Reports of a running training: progress lines in the log, and curves, images, sounds and histograms in TensorBoard."""

import logging
import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from unsilent.train.config import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Outputs of a network for one batch, by TensorBoard tag.

    Attributes:
        images: values in [0, 1], row 0 at the bottom: mels, grids of codes.
        sounds: values in [-1, 1].
        histograms: integers: codes, classes.
        sample_rate: sample rate of the sounds, in Hz.
    """

    images: dict[str, Float[Tensor, "height width"]] = field(default_factory=dict)
    sounds: dict[str, Float[Tensor, "samples"]] = field(default_factory=dict)
    histograms: dict[str, Integer[Tensor, "*shape"]] = field(default_factory=dict)
    sample_rate: int = 22050


class Report:
    """Writes the reports of one training.

    Args:
        run: settings.
        first: first step; entries of an interrupted training for later steps are removed.
        n_processes: number of processes of the training.
    """

    def __init__(self, run: Run, first: int, n_processes: int) -> None:
        self.run, self.first = run, first
        self.items_per_step = run.batch * run.accumulate * n_processes
        self.writer = SummaryWriter(str(run.out / "log"), purge_step=first)
        self.started = time.monotonic()

    def losses(self, losses: dict[str, float], step: int) -> None:
        """Report losses after `step` steps."""
        for name, value in losses.items():
            self.writer.add_scalar(name, value, step)
        seconds = (time.monotonic() - self.started) / (step - self.first)
        minutes_left = seconds * (self.run.steps - step) / 60
        values, rate = _format(losses), self.items_per_step / seconds
        log.info("step %d/%d  %s  %.1f items/s  %.0f min left", step, self.run.steps, values, rate, minutes_left)

    def validation(self, metrics: dict[str, float], step: int, is_best: bool) -> None:
        """Report a validation after `step` steps."""
        for name, value in metrics.items():
            self.writer.add_scalar(f"valid/{name}", value, step)
        log.info("step %d validation  %s%s", step, _format(metrics), "  (best, kept)" if is_best else "")

    def examples(self, examples: Examples, step: int) -> None:
        """Report examples after `step` steps."""
        for name, image in examples.images.items():
            grey = (image.float().clamp(0, 1) * 255).to(torch.uint8).flip(0)
            self.writer.add_image(name, grey.unsqueeze(0), step)
        for name, sound in examples.sounds.items():
            self.writer.add_audio(name, sound.float().clamp(-1, 1).unsqueeze(0), step, examples.sample_rate)
        for name, values in examples.histograms.items():
            self.writer.add_histogram(name, values.flatten(), step, bins=64)

    def close(self) -> None:
        """Flush buffered entries."""
        self.writer.close()


def _format(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())

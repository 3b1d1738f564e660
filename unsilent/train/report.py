"""What a training tells while it runs: one line of progress, and curves, pictures, sounds and histograms for TensorBoard."""

import logging
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from unsilent.train.config import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """What a network makes of one batch, by name.

    Attributes:
        pictures: `[height, width]` in [0, 1], row 0 is drawn at the bottom: mels, grids of codes.
        sounds: `[samples]` in [-1, 1].
        counts: whole numbers of any shape, drawn as a histogram: codes, classes.
        sample_rate: of the sounds, in Hz.
    """

    pictures: dict[str, Tensor] = field(default_factory=dict)
    sounds: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    sample_rate: int = 22050


class Report:
    """Writes for one training.

    Args:
        run: its settings.
        first: the step that it begins or goes on with; what an interrupted training wrote of later steps is dropped.
    """

    def __init__(self, run: Run, first: int, n_processes: int) -> None:
        self.run, self.first = run, first
        self.items = run.batch * run.accumulate * n_processes  # in a step
        self.writer = SummaryWriter(str(run.out / "log"), purge_step=first)
        self.started = time.monotonic()

    def losses(self, losses: dict[str, float], step: int) -> None:
        """The line of progress, after the `step`th step."""
        for name, value in losses.items():
            self.writer.add_scalar(name, value, step)
        seconds = (time.monotonic() - self.started) / (step - self.first)
        left = seconds * (self.run.steps - step) / 60
        said = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        log.info("step %d/%d  %s  %.1f items/s  %.0f min left", step, self.run.steps, said, self.items / seconds, left)

    def validation(self, figures: dict[str, float], step: int, is_best: bool) -> None:
        """A line about the validation after the `step`th step."""
        for name, value in figures.items():
            self.writer.add_scalar(f"valid/{name}", value, step)
        said = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
        log.info("step %d validation  %s%s", step, said, "  (best, kept)" if is_best else "")

    def examples(self, examples: Examples, step: int) -> None:
        """What the network makes of its example batch after the `step`th step."""
        for name, picture in examples.pictures.items():
            grey = (picture.float().clamp(0, 1) * 255).to(torch.uint8).flip(0)
            self.writer.add_image(name, grey.unsqueeze(0), step)
        for name, sound in examples.sounds.items():
            self.writer.add_audio(name, sound.float().clamp(-1, 1).unsqueeze(0), step, examples.sample_rate)
        for name, numbers in examples.counts.items():
            self.writer.add_histogram(name, numbers.flatten(), step, bins=64)

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()

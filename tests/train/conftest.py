"""Shards of tones, and codes and features of two labels."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from unsilent.checkpoints.store import save_checkpoint
from unsilent.data.rows import CodesRow, FeaturesRow, ItemRow
from unsilent.data.shards import write_shard
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.vggishish import VGGishish, VGGishishConfig
from unsilent.train.loop import fit


def write_shards(folder, splits=("train",)):
    """Four tones, two grids of codes and two images for each split, with the labels `a` and `b`; the same in all splits."""
    rng = np.random.default_rng(0)

    def columns(i, split, kind="sound"):
        label = "ab"[i % 2]
        return f"{label}{i}{kind}", kind, label, split, 22050

    tones = [(np.sin(2 * np.pi * hz / 22050 * np.arange(30000)) * 8000).astype(np.int16) for hz in (220, 440, 880, 3000)]
    write_shard(folder, "waveforms", [(tone, ItemRow(*columns(i, split))) for split in splits for i, tone in enumerate(tones)], {})
    place = {"item": 0, "variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": 0}
    grids = [(np.full((4, 5), n, np.int16), CodesRow(*columns(n, split), **place)) for split in splits for n in range(2)]
    write_shard(folder, "codes", grids, {})
    images = [rng.standard_normal((3, 6)).astype(np.float16) for _ in range(2)]
    features = [(images[n], FeaturesRow(*columns(n, split, "image"))) for split in splits for n in range(2)]
    write_shard(folder, "features", features, {"rows_per_column": 1})
    write_shard(folder, "motion", [], {})  # there are no videos
    return folder


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards")


@pytest.fixture(scope="session")
def make_shards():
    return write_shards


def write_classifier(folder, bands=BandStatistics()):
    """A VGGish-ish for the perceptual distance, with fixed random weights."""
    torch.manual_seed(5)
    classifier = VGGishish(VGGishishConfig(bands=bands, labels=2, width=4, hidden=8, grid=(1, 1)))
    save_checkpoint(folder, "vggishish", "", classifier.config, classifier.state_dict(), {"steps": 1})
    return classifier


@pytest.fixture(scope="session", name="write_classifier")
def write_classifier_fixture():
    return write_classifier


def fit_recorded(run, trainer, fabric, resume=False, stop_at=None, metrics=None):
    """`fit` that appends the metrics of each step to the list `metrics`, and is interrupted at step `stop_at`."""
    original = trainer.step

    def step(context, batch):
        if context.step == stop_at:
            raise KeyboardInterrupt
        result = original(context, batch)
        if metrics is not None:
            metrics.append({name: value.item() for name, value in result.metrics.items()})
        return result

    trainer.step = step
    return fit(run, trainer, fabric, resume)


@pytest.fixture(scope="session", name="fit_recorded")
def fit_recorded_fixture():
    return fit_recorded


@pytest.fixture(scope="session")
def every_trainer():
    """The module `every_trainer.py`, which is also a script."""
    spec = importlib.util.spec_from_file_location("every_trainer", Path(__file__).with_name("every_trainer.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Batches and trained weights do not depend on the number of processes or parts."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unsilent.checkpoints.store import weights_digest
from unsilent.data.shards import Shard
from unsilent.version import source_digest

SCRIPT = Path(__file__).with_name("every_trainer.py")
spec = importlib.util.spec_from_file_location("every_trainer", SCRIPT)
every_trainer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(every_trainer)
TOLERANCE = 5e-5  # relative to the largest weight of a tensor; several times what was measured


@pytest.fixture(scope="module")
def material(make_shards, write_classifier, tmp_path_factory):
    shards = make_shards(tmp_path_factory.mktemp("material"), splits=("train", "valid"))
    write_classifier(shards / "classifier")
    return shards


@pytest.fixture(scope="module")
def alone(material, tmp_path_factory):
    """Trained by one process with batches of four."""
    folder = tmp_path_factory.mktemp("alone")
    every_trainer.train_all(material, folder, batch=4)
    return folder


def run_two(material, out):
    """Train by two processes with batches of two each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(SCRIPT), str(material), str(out), "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def together(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    run_two(material, folder)
    return folder


def assert_close(one, other, tolerance):
    states = [torch.load(folder / "last.pt", weights_only=True) for folder in (one, other)]
    for part in ("module", "others"):
        pairs = list(zip(tensors(states[0][part]), tensors(states[1][part]), strict=True))
        assert pairs or part == "others"
        for expected, found in pairs:
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, expected.abs().max().item()))


def tensors(value):
    parts = value.values() if isinstance(value, dict) else []
    return [value.float()] if isinstance(value, torch.Tensor) else [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.skipif(os.name != "posix", reason="torchrun as on Unix")
@pytest.mark.parametrize("name", every_trainer.RUNS)
def test_two_processes_give_the_weights_of_one(name, alone, together):
    assert_close(alone / name, together / name, TOLERANCE)


IN_PARTS = ("sampler", "vggishish")


@pytest.fixture(scope="module")
def in_parts(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    every_trainer.train_all(material, folder, IN_PARTS, batch=2, accumulate=2)
    return folder


@pytest.mark.parametrize("name", IN_PARTS)
def test_two_parts_give_the_weights_of_one(name, alone, in_parts):
    """Not for the others, whose discriminators and batch norms see one part at a time."""
    assert_close(alone / name, in_parts / name, TOLERANCE)


SHOWN = {
    "codebook": {"images": {"mel/true", "mel/rebuilt"}, "audio": {"sound/true", "sound/rebuilt"}, "histograms": {"codes"}},
    "vocoder": {"images": {"mel/true", "mel/made"}, "audio": {"sound/true", "sound/made"}, "histograms": set()},
    "sampler": {"images": {"codes/true", "codes/likeliest"}, "audio": set(), "histograms": {"codes/true", "codes/likeliest"}},
    "vggishish": {"images": {"mel"}, "audio": {"sound"}, "histograms": {"classes/true", "classes/likeliest"}},
}


@pytest.mark.parametrize("name", SHOWN)
def test_tensorboard_has_images_sounds_and_histograms(name, alone):
    accumulator = EventAccumulator(str(alone / name / "log")).Reload()
    assert {kind: set(accumulator.Tags()[kind]) for kind in SHOWN[name]} == SHOWN[name]
    for tag in SHOWN[name]["images"]:
        png = accumulator.Images(tag)[-1]
        assert min(png.width, png.height) >= 4
    for tag in SHOWN[name]["audio"]:
        wav, sample_rate = soundfile.read(io.BytesIO(accumulator.Audio(tag)[-1].encoded_audio_string))
        assert sample_rate == 22050
        assert np.abs(wav).max() > 0


def test_checkpoint_records_data_and_source(material, alone):
    digests = {name: Shard(material, name).digest for name in ("waveforms", "codes", "features")}
    for name in every_trainer.RUNS:
        record = json.loads((alone / name / "checkpoint/config.json").read_text())["record"]
        assert record["source"] == source_digest()
        assert record["run"]["steps"] == record["steps"] == 4 or name in ("vggishish", "melception")
        wanted = {key: digests[key] for key in (("codes", "features") if name == "sampler" else ("waveforms",))}
        wanted |= {"perceptual": weights_digest(material / "classifier")} if name in ("codebook", "averaged") else {}
        assert record["data"] == wanted


def test_compared_weights_have_changed(alone):
    """Without training, two processes would agree too. The moving average lags behind changed weights."""
    for name in every_trainer.RUNS:
        state = torch.load(alone / name / "last.pt", weights_only=True)
        moved = [(value - state["average"][key]).abs().max() for key, value in state["module"].items() if value.is_floating_point()]
        assert max(moved) > 5 * TOLERANCE, name

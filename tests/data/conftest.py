"""Fixtures: a small folder of sounds and images with two labels, and small shards."""

import csv

import numpy as np
import pytest
import soundfile
from PIL import Image

from unsilent.data.rows import CodesRow, FeaturesRow, ItemRow
from unsilent.data.shards import write_shard


@pytest.fixture
def material(tmp_path):
    """Two labels: low and high tones, dark and bright images; one damaged sound and one silent sound."""
    root = tmp_path / "material"
    root.mkdir()
    rng = np.random.default_rng(0)
    sounds, images = [], []
    for label, hz, grey in (("low", 200, 40), ("high", 3000, 220)):
        for i in range(3):
            name = f"{label}{i}.wav"
            soundfile.write(root / name, 0.1 * np.sin(2 * np.pi * hz / 22050 * np.arange(22050)), 22050)
            sounds.append(
                {"path": name, "label": label, "split": "train" if i else "valid", "licence": "CC0", "seconds": 1.0, "sample_rate": 22050}
            )
            image = f"{label}{i}.png"
            Image.fromarray((grey + rng.integers(0, 20, (40, 50, 3))).astype(np.uint8)).save(root / image)
            images.append({"path": image, "label": label, "split": "train", "licence": "CC0"})
    (root / "damaged.wav").write_bytes(b"RIFF nothing here")
    soundfile.write(root / "silent.wav", np.zeros(22050), 22050)
    for name in ("damaged.wav", "silent.wav"):
        sounds.append({"path": name, "label": "low", "split": "train", "licence": "CC0", "seconds": 1.0, "sample_rate": 22050})
    for table, rows in (("sounds.csv", sounds), ("images.csv", images)):
        with (root / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return root


@pytest.fixture
def shards(tmp_path):
    """Waveforms, codes and features of two labels: codes and features of the label `a` are all 1, those of `b` all 2."""
    folder = tmp_path / "shards"
    rng = np.random.default_rng(0)

    def columns(i, label, kind="sound"):
        return f"{label}{i}", kind, label, "train", 22050 if label == "a" else 8000

    def codes_row(item, *clip):
        return CodesRow(*columns(*clip), item=item, variant=0, speed=1.0, shift_samples=0, start_column=0)

    labels = {"a": 1, "b": 2}
    sounds = [(i, label) for label in labels for i in range(2)]
    waves = [((rng.standard_normal(30000 + 9000 * i) * 3000).astype(np.int16), ItemRow(*columns(i, label))) for i, label in sounds]
    write_shard(folder, "waveforms", waves, {})
    codes = [(np.full((4 + i, 5), labels[label], np.int16), codes_row(n, i, label)) for n, (i, label) in enumerate(sounds)]
    codes.append((np.full((6, 5), 7, np.int16), codes_row(0, 0, "", "clip")))
    features = [(np.full((3, 6), labels[label], np.float16), FeaturesRow(*columns(i, label, "image"))) for i, label in sounds]
    features.append((np.arange(36, dtype=np.float16).reshape(6, 6), FeaturesRow(*columns(0, "", "clip"))))
    write_shard(folder, "codes", codes, {})
    write_shard(folder, "features", features, {"rows_per_column": 1})
    return folder

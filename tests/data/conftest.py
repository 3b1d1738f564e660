"""A small folder of sounds and pictures in two labels, and shards made by hand."""

import csv

import numpy as np
import pytest
import soundfile
from PIL import Image

from unsilent.data.shards import write_shard


@pytest.fixture
def material(tmp_path):
    """Two labels: low and high tones, dark and bright pictures; one damaged sound and one silent one."""
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
            picture = f"{label}{i}.png"
            Image.fromarray((grey + rng.integers(0, 20, (40, 50, 3))).astype(np.uint8)).save(root / picture)
            images.append({"path": picture, "label": label, "split": "train", "licence": "CC0"})
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
    """Waveforms, codes and features of two labels that a test can tell apart: label `a` has codes and features 1, `b` has 2."""
    folder = tmp_path / "shards"
    rng = np.random.default_rng(0)

    def about(i, label, kind="sound"):
        return {"clip_id": f"{label}{i}", "kind": kind, "label": label, "split": "train", "sample_rate": 22050 if label == "a" else 8000}

    labels = {"a": 1, "b": 2}
    waves = [((rng.standard_normal(30000 + 9000 * i) * 3000).astype(np.int16), about(i, label)) for label in labels for i in range(2)]
    write_shard(folder, "waveforms", waves, {})
    codes = [(np.full((4 + i, 5), n, np.int16), {**about(i, label), "start_column": 0}) for label, n in labels.items() for i in range(2)]
    codes.append((np.full((6, 5), 7, np.int16), {**about(0, "", "clip"), "start_column": 0}))
    features = [(np.full((3, 6), n, np.float16), about(i, label, "image")) for label, n in labels.items() for i in range(2)]
    features.append((np.arange(36, dtype=np.float16).reshape(6, 6), about(0, "", "clip")))
    write_shard(folder, "codes", codes, {})
    write_shard(folder, "features", features, {})
    return folder

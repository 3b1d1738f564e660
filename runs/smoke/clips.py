"""Synthetic clips with four labels: the shape and colour of the moving object determine the sound."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SECONDS, FPS, SIDE, RATE = 2.0, 10, 64, 22050  # SIDE in pixels, RATE in Hz
SPLITS = ("train", "train", "valid")  # splits of the clips of each label
KINDS = {"tone": (220, 40, 40), "noise": (60, 200, 60), "chirp": (60, 80, 240), "pulse": (230, 220, 60)}  # RGB


def write_clips(folder: Path) -> Path:
    """Write twelve clips and `clips.csv`. Returns the path of a clip of the split `valid`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,split,licence,seconds,sample_rate"]
    for kind in KINDS:
        for take, split in enumerate(SPLITS):
            path = folder / f"{kind}{take}.mp4"
            _write(path, kind, np.random.default_rng([take, *kind.encode()]))
            lines.append(f"{path.name},{kind},{split},made up,{SECONDS},{RATE}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return path


def _write(path: Path, kind: str, rng: np.random.Generator) -> None:
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=RATE)
        audio.layout = "mono"
        for image in _frames(kind, rng):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(_sound(kind, rng)[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def _frames(kind: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Render a disc, a square, stripes or a cross that moves over grey."""
    y, x = np.mgrid[:SIDE, :SIDE]
    start, speed = rng.uniform(22, 42, 2), rng.uniform(-6, 6, 2)
    frames = []
    for i in range(round(SECONDS * FPS)):
        dy, dx = y - start[0] - speed[0] * i / FPS, x - start[1] - speed[1] * i / FPS
        mask = {
            "tone": np.hypot(dx, dy) < 16,
            "noise": np.maximum(abs(dx), abs(dy)) < 14,
            "chirp": np.sin(dx / 3) > 0,
            "pulse": np.minimum(abs(dx), abs(dy)) < 5,
        }[kind]
        frame = np.full((SIDE, SIDE, 3), 110, np.uint8)
        frame[mask] = KINDS[kind]
        frames.append(frame)
    return frames


def _sound(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Synthesise a chord, noise bursts, rising chirps, or a train of decaying low tones, at a random pitch."""
    t = np.arange(round(SECONDS * RATE)) / RATE
    pitch = rng.uniform(0.9, 1.1)
    if kind == "tone":
        return 0.2 * sum(np.sin(2 * np.pi * 440 * pitch * n * t) / n for n in (1, 2, 3))
    if kind == "noise":
        return 0.3 * rng.standard_normal(len(t)) * ((4 * pitch * t) % 1 < 0.4)
    if kind == "chirp":
        phase = (2 * t) % 1
        return 0.3 * np.sin(2 * np.pi * pitch * (600 * phase + 1200 * phase**2))
    return 0.5 * np.sin(2 * np.pi * 150 * pitch * t) * np.exp(-20 * ((8 * pitch * t) % 1))

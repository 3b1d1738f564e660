"""Made-up clips of four kinds: the shape and colour that moves in the pictures decides what is heard."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SECONDS, FPS, SIDE, RATE = 2.0, 10, 64, 22050  # pictures are SIDE x SIDE pixels; RATE in Hz
TAKES = ("train", "train", "valid")  # the split of each clip of a kind
KINDS = {"tone": (220, 40, 40), "noise": (60, 200, 60), "chirp": (60, 80, 240), "pulse": (230, 220, 60)}  # RGB


def write_clips(folder: Path) -> Path:
    """Write a dozen clips and `clips.csv`, as `unsilent data manifest` wants them; returns one that no training sees."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,split,licence,seconds,sample_rate"]
    for kind in KINDS:
        for take, split in enumerate(TAKES):
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
        for picture in _pictures(kind, rng):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(_sound(kind, rng)[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def _pictures(kind: str, rng: np.random.Generator) -> list[np.ndarray]:
    """A disc, a square, stripes or a cross that wanders over grey."""
    y, x = np.mgrid[:SIDE, :SIDE]
    start, speed = rng.uniform(22, 42, 2), rng.uniform(-6, 6, 2)
    pictures = []
    for i in range(round(SECONDS * FPS)):
        dy, dx = y - start[0] - speed[0] * i / FPS, x - start[1] - speed[1] * i / FPS
        mask = {
            "tone": np.hypot(dx, dy) < 16,
            "noise": np.maximum(abs(dx), abs(dy)) < 14,
            "chirp": np.sin(dx / 3) > 0,
            "pulse": np.minimum(abs(dx), abs(dy)) < 5,
        }[kind]
        picture = np.full((SIDE, SIDE, 3), 110, np.uint8)
        picture[mask] = KINDS[kind]
        pictures.append(picture)
    return pictures


def _sound(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A steady chord, bursts of noise, rising chirps, or a low train of clicks; no two takes alike."""
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

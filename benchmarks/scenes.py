"""Scenes: whether the cuts of a video with many scenes are detected, and whether they are audible as seams.

    python benchmarks/scenes.py [--scenes 12] [--seconds 600] [--model everyday] [--seed 0]

Scenes of random length are rendered, each with its own wall and a moving ball. The script prints the detected cuts, the length of the sound
and the peak memory. It compares the joins at cuts with all other column borders by two statistics: the jump of the energy from 50 ms
before to 50 ms after, and the onset strength (`signal.onsets.onset_strength`).
"""

import argparse
import resource
import tempfile
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch

import unsilent
from unsilent.media.video import stream_lazy_frames
from unsilent.signal.mel import log_mel01
from unsilent.signal.onsets import onset_strength
from unsilent.vision.cuts import CutMeter

FPS, HEIGHT, WIDTH = 15, 120, 160
SIDE_SECONDS = 0.05
NEAR_SECONDS = 0.15  # maximum distance of a detected cut


def main() -> None:
    """Draw, generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline, rng = unsilent.load(options.model, device="cpu"), np.random.default_rng(options.seed)
    shares = rng.uniform(0.5, 1.5, options.scenes)
    edges = np.round(np.concatenate([[0], np.cumsum(shares / shares.sum())]) * options.seconds * FPS).astype(int)
    clip = pipeline.clip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scenes.mp4"
        draw(path, edges, rng)
        meter = CutMeter()
        for frame in stream_lazy_frames(path, clip.feature_fps):
            meter.add(frame.number, frame.grey())
        found, wanted = np.array(meter.cuts()) / clip.feature_fps, edges[1:-1] / FPS
        hits = sum(bool((np.abs(found - cut) <= NEAR_SECONDS).any()) for cut in wanted)
        print(
            f"{options.scenes} scenes in {options.seconds:g} s: {hits} of {len(wanted)} cuts detected, {len(found) - hits} false detections"
        )
        started = time.perf_counter()
        made = pipeline.generate(path, seed=options.seed)
        spent = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{spent:.1f} s, peak memory {peak:.0f} MB, {len(made.waveform)} samples of {round(edges[-1] / FPS * made.sample_rate)}")
    borders = np.arange(1, made.codes.shape[1] - 1) * clip.column_samples
    at_cuts = {round(cut / clip.column_seconds) * clip.column_samples for cut in found}
    is_seam = np.array([border in at_cuts for border in borders])
    for name, values in statistics(made.waveform, borders, clip).items():
        seams, inside = values[is_seam], values[~is_seam]
        share = (seams > np.percentile(inside, 95)).mean()
        print(
            f"{name}: at cuts median {np.median(seams):.1f}, largest {seams.max():.1f}; elsewhere median {np.median(inside):.1f}, ", end=""
        )
        print(f"95 % below {np.percentile(inside, 95):.1f}, largest {inside.max():.1f}; {share:.0%} of cuts above that")


def draw(path: Path, edges: np.ndarray, rng: np.random.Generator) -> None:
    """Render and write the video."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for first, last in pairwise(edges.tolist()):
            coarse = rng.uniform(0, 255, (HEIGHT // 12 + 1, WIDTH // 12 + 1, 3)).repeat(12, 0).repeat(12, 1)[:HEIGHT, :WIDTH]
            speed, phase = rng.uniform(0.3, 1.5, 2), rng.uniform(0, 6, 2)
            for number in range(first, last):
                y, x = np.array([HEIGHT, WIDTH]) * (0.5 + 0.35 * np.sin(speed * number / FPS * 2 * np.pi + phase))
                image = coarse + 3 * rng.standard_normal((HEIGHT, WIDTH, 1))
                image[np.hypot(rows - y, columns - x) < 12] = 240
                frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
                frame.pts, frame.time_base = int(number), Fraction(1, FPS)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def statistics(waveform: np.ndarray, borders: np.ndarray, clip: unsilent.Clip) -> dict[str, np.ndarray]:
    """Return the energy jump and the onset strength at each border (in samples), both in dB."""
    side = round(SIDE_SECONDS * clip.sample_rate)
    power = np.concatenate([[0.0], np.cumsum(waveform.astype(np.float64) ** 2)])
    stops = np.minimum(borders + side, len(waveform))
    before, after = ((power[stop] - power[start]) / side + 1e-10 for start, stop in ((borders - side, borders), (borders, stops)))
    strength = onset_strength(log_mel01(torch.from_numpy(waveform)[None], clip)[0], clip).numpy()
    frames = np.minimum(borders // clip.hop, len(strength) - 3)
    rise = np.max([strength[frames + offset] for offset in range(-2, 3)], axis=0)
    return {"energy jump, dB": np.abs(10 * np.log10(after / before)), "rise of the spectrum, dB": rise}


if __name__ == "__main__":
    main()

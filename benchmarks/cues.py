"""Cues: F1 of the onsets of generated sounds against known hits, with given cues, with cues detected in the video, and without cues.

    python benchmarks/cues.py [--videos 8] [--clips CLIPS.csv] [--most N] [--model everyday] [--seed 0] [--label NAME]

Videos of a bouncing ball and of a drumming stick are rendered with known hits. CLIPS.csv has the format of `benchmarks/impacts.py`. Its
clips of `valid` with visible impacts are used, and the hits are the onsets of their own sounds. The output is F1 within
50, 20 and 100 ms; in brackets its 95 % interval over videos, precision and recall. `shifted` is the chance level: the same onsets, shifted
circularly at random.
"""

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import reduce
from operator import add
from pathlib import Path

import av
import numpy as np
import timing

import unsilent
from unsilent.cues import Cue
from unsilent.media.audio import read_audio
from unsilent.media.probe import probe
from unsilent.metrics import OnsetScore, onset_f1
from unsilent.metrics.onsets import interval_rows
from unsilent.metrics.resampling import interval_of_mean

TOLERANCES = (0.05, 0.02, 0.1)  # seconds
SECONDS, FPS, HEIGHT, WIDTH = 10.0, 30, 240, 320
FLOOR, RADIUS = 200, 16  # pixels
Draw = Callable[[np.random.Generator], tuple[np.ndarray, Callable[[float], tuple[float, float]]]]


def main() -> None:
    """Draw, generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=8, help="rendered videos of each kind")
    parser.add_argument("--clips", type=Path, help="table of real clips")
    parser.add_argument("--most", type=int, help="maximum number of real clips [default: all]")
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", help="label instead of ball, drum and the labels of real clips")
    options = parser.parse_args()
    pipeline = unsilent.load(options.model, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        for label, draw in (("ball", bounces), ("drum", strokes)):
            videos = drawn(Path(folder), label, draw, options.videos, options.seed)
            print_table(f"{options.videos} videos, {label}", pipeline, videos, options)
    if options.clips:
        videos = list(real(options.clips, pipeline))[: options.most]
        print_table(f"{len(videos)} real clips", pipeline, videos, options)


def bounces(rng: np.random.Generator) -> tuple[np.ndarray, Callable[[float], tuple[float, float]]]:
    """Return the hits of a ball that is dropped again and again, and a function from time to its position in pixels."""
    hits, parts, start = [], [], 0.0
    while start < SECONDS:
        height, gravity, left = rng.uniform(100, 180), rng.uniform(600, 1200), rng.uniform(40, WIDTH - 40)
        fall = (2 * height / gravity) ** 0.5
        at, speed = start + fall, gravity * fall
        parts.append((start, at, height, 0.0, gravity, left))
        while speed > 0.3 * gravity * fall:
            hits.append(at)
            speed *= rng.uniform(0.7, 0.85)
            parts.append((at, at + 2 * speed / gravity, 0.0, speed, gravity, left))
            at += 2 * speed / gravity
        hits.append(at)
        rest = rng.uniform(0.2, 0.6)
        parts.append((at, at + rest, 0.0, 0.0, 0.0, left))
        start = at + rest

    def place(time: float) -> tuple[float, float]:
        begin, _, height, speed, gravity, x = next(part for part in reversed(parts) if part[0] <= time)
        passed = time - begin
        return x, FLOOR - RADIUS - max(0.0, height + speed * passed - 0.5 * gravity * passed**2)

    return np.array([hit for hit in hits if hit < SECONDS - 0.2]), place


def strokes(rng: np.random.Generator) -> tuple[np.ndarray, Callable[[float], tuple[float, float]]]:
    """Return the hits of a stick that rises slowly and strikes fast, and a function from time to the position of its tip."""
    hits = np.cumsum(rng.uniform(0.35, 1.1, 40))
    hits = hits[hits < SECONDS - 0.3]
    heights = rng.uniform(50, 120, len(hits))

    def place(time: float) -> tuple[float, float]:
        following = np.searchsorted(hits, time)
        if following == len(hits):
            return WIDTH / 2, FLOOR - 1.0
        down, before = 0.1, hits[following - 1] if following else -1.0
        top, until = heights[following], hits[following] - time
        if until < down:
            return WIDTH / 2, FLOOR - 1.0 - top * (1 - ((down - until) / down) ** 2)
        return WIDTH / 2, FLOOR - 1.0 - top * min(1.0, (time - before) / max(hits[following] - down - before, 1e-6))

    return hits, place


def drawn(folder: Path, label: str, draw: Draw, n: int, seed: int) -> Iterator[tuple[Path, np.ndarray, str | None]]:
    """Render videos, and yield path, hits and label of each."""
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        hits, place = draw(rng)
        path = folder / f"{label}{number}.mp4"
        write_video(path, place, label == "drum", rng)
        yield path, hits, label


def write_video(path: Path, place: Callable[[float], tuple[float, float]], is_stick: bool, rng: np.random.Generator) -> None:
    """Render a ball or a stick before a textured wall and a floor, with camera noise."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    wall = 110 + 20 * np.sin(rows / 9 + rng.uniform(0, 6)) * np.sin(columns / 13) + 10 * rng.standard_normal((HEIGHT, WIDTH))
    wall[FLOOR:] = 60 + 10 * rng.standard_normal((HEIGHT - FLOOR, WIDTH))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(round(SECONDS * FPS)):
            x, y = place(number / FPS)
            image = wall + 2 * rng.standard_normal((HEIGHT, WIDTH))
            if is_stick:  # from the tip to the upper right
                along = np.clip(((columns - x) * 0.8 - (rows - y) * 0.6) / 140, 0, 1)
                near = np.hypot(columns - x - along * 112, rows - y + along * 84) < 5
            else:
                near = np.hypot(columns - x, rows - y) < RADIUS
            image[near] = 220
            frame = av.VideoFrame.from_ndarray(np.repeat(image.clip(0, 255).astype(np.uint8)[:, :, None], 3, 2), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def real(table: Path, pipeline: unsilent.Pipeline) -> Iterator[tuple[Path, np.ndarray, str | None]]:
    """Yield held-out clips with visible impacts, the onsets of their own sounds, and their labels."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["visible_impacts"] == "1" and row["split"] == "valid"]
    for row in rows:
        path = table.parent / row["path"]
        onsets = timing.onsets_of(read_audio(path, pipeline.clip.sample_rate), pipeline.clip)
        yield path, onsets[onsets < probe(path).seconds], row["label"] if row["label"] in pipeline.parts.classes else None


def print_table(
    title: str, pipeline: unsilent.Pipeline, videos: Iterator[tuple[Path, np.ndarray, str | None]], options: argparse.Namespace
) -> None:
    """Generate sounds with each kind of cues, and print F1."""
    scores: dict[str, list[list[OnsetScore]]] = {}
    rng = np.random.default_rng(options.seed)
    for path, hits, label in videos:
        ways = {"given cues": tuple(Cue(seconds=hit) for hit in hits.tolist()), "cues seen": "auto", "neither": None}
        for way, cues in ways.items():
            made = pipeline.generate(path, seed=options.seed, cues=cues, label=options.label or label)
            found = timing.onsets_of(made.waveform, pipeline.clip)
            sounds = {way: found}
            if way == "cues seen":
                sounds["cues seen, themselves"] = np.array([cue.seconds for cue in made.request.cues])
            for name, onsets in sounds.items():
                add_scores(scores, name, [onsets], hits)
                add_scores(scores, f"{name}, shifted", timing.shifted([onsets], made.seconds, rng), hits)
    print(title)
    for way, rows in scores.items():
        figures = [
            f"{1000 * tolerance:.0f} ms {cell(column, options.seed)}"
            for tolerance, column in zip(TOLERANCES, zip(*rows, strict=True), strict=True)
        ]
        print(f"  {way:<31}", " | ".join(figures), flush=True)


def add_scores(scores: dict[str, list[list[OnsetScore]]], way: str, sounds: list[np.ndarray], hits: np.ndarray) -> None:
    """Append the scores of a video, one per tolerance."""
    none = OnsetScore(0, 0, 0)
    scores.setdefault(way, []).append([reduce(add, (onset_f1(one, hits, tolerance) for one in sounds), none) for tolerance in TOLERANCES])


def cell(scores: tuple[OnsetScore, ...], seed: int) -> str:
    """Format F1 over all videos, its interval, precision and recall."""
    whole, (low, high) = reduce(add, scores), interval_of_mean(*interval_rows(list(scores)), seed)
    return f"{whole.f1:.3f} ({low:.2f} to {high:.2f}; {whole.precision:.2f}, {whole.recall:.2f})"


if __name__ == "__main__":
    main()

"""Measure `avoid` and `like`: how often the avoided class is still recognised, and how similar sounds are to a reference.

    python benchmarks/wishes.py DATA [--labels 24] [--seed 0]

DATA has `sounds.csv` and `images.csv` with the columns path, label and split; only held-out files (split `valid`) are used. Sounds last
five seconds and have four candidates. They are classified by the model's listener, which also ranks; `one` is without ranking and unbiased.

named  With a label. The avoided class is the most frequent recognised class, other than the label, of four sounds of another seed.
       Results are the fractions of sounds that are recognised as the avoided class, and as the label.
seen   With an image. The avoided class is the likeliest class in the image.
like   With a held-out recording as reference, and its label. Results are cosine similarities with the recording. `distance` is the mean
       difference, in dB, of the mean and the standard deviation of each mel band; it is independent of the listener, and lower is better.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.generation.conditions import seen_classes
from unsilent.generation.leads import known_codes
from unsilent.generation.priming import load_given, load_reference, loudest
from unsilent.generation.ranking import agreement
from unsilent.loading import load
from unsilent.media.audio import read_audio
from unsilent.pipeline import Pipeline
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import RANGE_DB, log_mel01, to_mel01
from unsilent.vision.scene import Scene

COLUMNS, DRAWS = 27, 4


def main() -> None:
    """Print all results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=int, default=24)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline, rng = load(options.model), np.random.default_rng(options.seed)
    known = set(pipeline.parts.ranker.classes).intersection(pipeline.parts.classes)
    sounds, images = (held_out(options.data / name, known, rng) for name in ("sounds.csv", "images.csv"))
    show(
        "named", [avoid(pipeline, images[n % len(images)][0], label, options.seed) for n, (_, label) in enumerate(sounds[: options.labels])]
    )
    show("seen", [avoid(pipeline, path, None, options.seed) for path, _ in images[: options.labels]])
    show("like", [like(pipeline, images[0][0], *one, options.seed) for one in sounds[: options.labels]])


def held_out(table: Path, known: set[str], rng: np.random.Generator) -> list[tuple[Path, str]]:
    """Return one held-out file per label that the listener knows, shuffled."""
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "valid" and row["label"] in known]
    chosen = {row["label"]: table.parent / row["path"] for row in (rows[place] for place in rng.permutation(len(rows)))}
    return [(path, label) for label, path in chosen.items()]


def show(title: str, rows: list[dict[str, float]]) -> None:
    """Print the mean of each result."""
    print(f"{title}, {len(rows)} labels:", {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}, flush=True)


@torch.inference_mode()
def sample(pipeline: Pipeline, picture: Path, seed: int, **fields: object) -> tuple[Int[Tensor, "draws rows columns"], dict[str, float]]:
    """Sample candidates for an image. Returns their codes, and the classes that are recognised or given by the label."""
    request, parts = pipeline.resolve(seed=seed, candidates=DRAWS, **fields), pipeline.parts
    scene = Scene(picture, 0.0)
    given = load_given(scene, request, pipeline.codec, parts.ranker, parts.loudness_lufs)
    plan, observation, request = pipeline.plan_and_observe(scene, COLUMNS, request)
    known = known_codes(parts, plan, observation, request, given)
    grids = pipeline.sample(plan, pipeline.conditions(plan, observation, request), request, known)
    return grids, seen_classes(parts.sampler, plan, observation, request, parts.classes)


@torch.inference_mode()
def heard(pipeline: Pipeline, grids: Int[Tensor, "draws rows columns"]) -> Float[Tensor, "draws dim"]:
    """Return the listener's features of each sound."""
    return torch.cat([pipeline.parts.ranker.listener.features(to_mel01(pipeline.codec.decode(grid))[None]) for grid in grids])


def likeliest(pipeline: Pipeline, grids: Int[Tensor, "draws rows columns"]) -> list[str]:
    """Return the likeliest class of each sound."""
    ranker = pipeline.parts.ranker
    return [ranker.classes[number] for number in ranker.listener.fc(heard(pipeline, grids)).argmax(1).tolist()]


def avoid(pipeline: Pipeline, picture: Path, label: str | None, seed: int) -> dict[str, float]:
    """Return the fractions of sounds that are recognised as the avoided class, and as the label."""
    other, seen = sample(pipeline, picture, seed + 1, label=label)
    often = Counter(name for name in likeliest(pipeline, other) if name != label)
    avoided = next(iter(seen)) if label is None else often.most_common(1)[0][0] if often else "wind"
    rows = {}
    for way, fields in (("without", {}), ("with", {"avoid": (avoided,)})):
        grids, expected = sample(pipeline, picture, seed, label=label, **fields)
        names = likeliest(pipeline, grids)
        best = int(agreement(pipeline.codec, pipeline.parts.ranker, grids, expected, tuple(fields.get("avoid", ()))).argmax())
        rows |= {f"avoided {way}, one": np.mean([name == avoided for name in names]), f"avoided {way}, best": names[best] == avoided}
        if label is not None:
            rows |= {f"label {way}, one": np.mean([name == label for name in names]), f"label {way}, best": names[best] == label}
    return rows


def like(pipeline: Pipeline, picture: Path, recording: Path, label: str, seed: int) -> dict[str, float]:
    """Return cosine similarities with a recording, for sounds with and without it as reference: of all sounds, the best by label, and
    the nearest."""
    rows, request = {}, pipeline.resolve(like=str(recording))
    wanted = load_reference(request, pipeline.codec, pipeline.parts.ranker, pipeline.parts.loudness_lufs).features
    for way, fields in (("without", {}), ("with", {"like": str(recording)})):
        grids, expected = sample(pipeline, picture, seed, label=label, **fields)
        cosines, given = heard(pipeline, grids) @ wanted, load_loudest(pipeline, recording)
        apart = torch.stack([(bands(to_mel01(pipeline.codec.decode(grid))) - given).abs().mean() for grid in grids])
        by_label = int(agreement(pipeline.codec, pipeline.parts.ranker, grids, expected).argmax())
        rows |= {f"{way}, one": cosines.mean(), f"{way}, best by label": cosines[by_label], f"{way}, nearest": cosines.max()}
        rows |= {f"{way}, distance": apart.mean(), f"{way}, distance of the best by label": apart[by_label]}
        rows[f"{way}, distance of the nearest"] = apart[cosines.argmax()]
    return {name: float(value) for name, value in rows.items()}


@torch.inference_mode()
def load_loudest(pipeline: Pipeline, recording: Path) -> Float[Tensor, "statistics"]:
    """Return the statistics of the clip with most energy of a recording."""
    clip, loudness = pipeline.clip, pipeline.parts.loudness_lufs
    loud = loudest(read_audio(recording, clip.sample_rate), clip.columns * clip.column_samples)
    return bands(log_mel01(torch.from_numpy(normalise_loudness(loud, clip.sample_rate, loudness))[None], clip)[0])


def bands(mel01: Float[Tensor, "mels frames"]) -> Float[Tensor, "statistics"]:
    """Return the mean of each mel band relative to the mean level, and its standard deviation, in dB."""
    decibels = mel01 * RANGE_DB
    return torch.cat([(decibels - decibels.mean()).mean(1), decibels.std(1)])


if __name__ == "__main__":
    main()

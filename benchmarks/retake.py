"""Measure retakes: unchanged samples outside the range, joins, and whether the likelihood prefers the true continuation of real codes.

    python benchmarks/retake.py DATA --sounds 60 --clips 5 --ranges 200

DATA has `sounds.csv` and `clips.csv` with the columns path, label and split; only held-out files (split `valid`) are used.

likelihood  Each real sound gives columns P, eight following columns M and six columns F after them. The results are fractions of pairs in
            which the true columns are preferred to those of another sound: M by the likelihood of the true F after P and M, as in retakes
            (`middle`); F by its likelihood after P and M (`after`), and by how much P and M increase its likelihood (`after_gain`).
joins       Random ranges of 0.2 to 5 s of recordings and of results for clips. `join_above_p95`: fraction of ranges whose largest jump of
            energy or spectrum at a cross-fade is above the 95th percentile of jumps inside the sound. The other
            rows: the largest jump in the 0.25 s (at most a third of the range) inside each edge, including events of the new sound.
            They give the fraction of edges whose jump is above the 95th percentile of this maximum at random positions in the result,
            for the retake, the original, and hard cuts.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from unsilent import batch, outputs
from unsilent.editing.opening import Opened, open_result
from unsilent.editing.retake import AFTER_COLUMNS, Retake, retake
from unsilent.errors import UnsilentError
from unsilent.generation.ranking import likelihood_after
from unsilent.generation.sidecar import find_sidecar
from unsilent.loading import load
from unsilent.models.code_order import to_sequence
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.signal.joins import REACH_SECONDS, jumps, loudest_power
from unsilent.speed.prepare import sampling_mode

MIDDLE = 8  # columns of M
OTHERS = 12  # other sounds that each true sound is compared with


def main() -> None:
    """Print all results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--sounds", type=int, default=60)
    parser.add_argument("--clips", type=int, default=5)
    parser.add_argument("--ranges", type=int, default=200)
    options = parser.parse_args()
    pipeline, rng = load(options.model), np.random.default_rng(0)
    recordings = list(opened_sounds(pipeline, options.data, options.sounds, rng))
    print(f"{len(recordings)} recordings", flush=True)
    print(json.dumps(preferences(pipeline, recordings, rng)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results = list(generated(pipeline, options.data, options.clips, Path(folder), rng))
        print(f"{len(results)} results", flush=True)
        print(json.dumps(joins(pipeline, recordings[:20] + results * 4, options.ranges, rng)), flush=True)


def held_out(table: Path, rng: np.random.Generator) -> list[dict[str, str]]:
    """Return the held-out rows of a table, shuffled."""
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "valid"]
    return [rows[place] for place in rng.permutation(len(rows))]


def opened_sounds(pipeline: Pipeline, data: Path, n: int, rng: np.random.Generator):
    """Yield `n` held-out recordings of different labels that are not silent and have enough columns."""
    needed, found, seen = 2 * MIDDLE + AFTER_COLUMNS, 0, set[str]()
    for row in held_out(data / "sounds.csv", rng):
        if found == n:
            return
        if row["label"] in seen:
            continue
        try:
            opened = open_result(pipeline, data / row["path"], None)
        except UnsilentError as error:
            print(error)
            continue
        if opened.codes.shape[1] >= needed and np.abs(opened.waveform[: 4 * 22050]).max() > 1e-3:
            found, seen = found + 1, seen | {row["label"]}
            yield opened


def generated(pipeline: Pipeline, data: Path, n: int, folder: Path, rng: np.random.Generator):
    """Generate results for held-out clips, and reopen them."""
    videos = [data / row["path"] for row in held_out(data / "clips.csv", rng)[:n]]
    for result in batch.run(pipeline, outputs.plan(videos, folder), Request(), sidecar=True):
        if result.status == "made":
            yield open_result(pipeline, result.out, find_sidecar(result.out))


@torch.inference_mode()
def preferences(pipeline: Pipeline, recordings: list[Opened], rng: np.random.Generator) -> dict[str, float]:
    """Return the fractions of pairs in which the true columns have the higher likelihood."""
    sampler = pipeline.parts.sampler
    config = sampler.config.condition
    condition = torch.zeros_like(sampler.condition(torch.zeros(1, config.n_features, config.feature_dim)))
    grids = [torch.from_numpy(one.codes) for one in recordings]
    wins = {"after": [], "after_gain": [], "middle": []}
    with sampling_mode(sampler, pipeline.precision):
        for number in range(len(grids)):
            others = rng.permutation([other for other in range(len(grids)) if other != number])[:OTHERS]
            known, middle, after = (
                [to_sequence(grids[one][None, :, start:stop])[0] for one in (number, *others)]
                for start, stop in ((0, MIDDLE), (MIDDLE, 2 * MIDDLE), (2 * MIDDLE, 2 * MIDDLE + AFTER_COLUMNS))
            )
            before = torch.cat([known[0], middle[0]])[None]
            each = [float(likelihood_after(sampler, before, one, condition)) for one in after]
            wins["after"] += [each[0] > other for other in each[1:]]
            gains = [
                one - float(likelihood_after(sampler, before[:, :0], after, condition)) for one, after in zip(each, after, strict=True)
            ]
            wins["after_gain"] += [gains[0] > other for other in gains[1:]]
            inside = torch.stack([torch.cat([known[0], one]) for one in middle])
            each = likelihood_after(sampler, inside, after[0], condition).tolist()
            wins["middle"] += [each[0] > other for other in each[1:]]
    return {f"true_{name}_preferred": round(float(np.mean(one)), 3) for name, one in wins.items()} | {"pairs": len(wins["after"])}


def joins(pipeline: Pipeline, sounds: list[Opened], n: int, rng: np.random.Generator) -> dict[str, float]:
    """Retake random ranges, and count changed samples outside them and jumps at joins."""
    rate, changed, shares, cuts, untouched, excesses = pipeline.clip.sample_rate, 0, [], [], [], []
    for number in range(n):
        opened = sounds[number % len(sounds)]
        length = len(opened.waveform)
        stretch = round(rng.uniform(0.2, min(5.0, 0.8 * length / rate)) * rate)
        start = int(rng.integers(0, length - stretch))
        asked = Retake(start / rate, (start + stretch) / rate, seed=number)
        retaken = retake(pipeline, opened, asked)[0]
        made = retaken.made.waveform
        excesses.append(retaken.edit.join)
        outside = np.ones(length, bool)
        outside[start : start + stretch] = False
        changed += int((made[outside].tobytes() != opened.waveform[outside].tobytes()) or len(made) != length)
        usual = inside_maxima(made, rate, min(round(REACH_SECONDS * rate), stretch // 3), rng)
        cut = opened.waveform.copy()
        cut[start : start + stretch] = np.roll(made, stretch // 2)[start : start + stretch]
        for edge in (start, start + stretch):
            at_edge = 0 < edge < length
            if at_edge:
                reach = min(round(REACH_SECONDS * rate), stretch // 3)
                span = (edge, edge + reach) if edge == start else (edge - reach, edge)
                shares.append(share(made, rate, span, opened.waveform, usual))
                untouched.append(share(opened.waveform, rate, span, opened.waveform, usual))
                cuts.append(share(cut, rate, (edge - 1, edge + 1), opened.waveform, usual))
        if (number + 1) % 20 == 0:
            print(number + 1, changed, np.percentile(excesses, [50, 90, 95, 100]).round(2).tolist(), flush=True)
    excesses, shares, cuts, untouched = map(np.array, (excesses, shares, cuts, untouched))
    return {
        "ranges": n,
        "changed_outside": changed,
        "joins": len(shares),
        "join_above_p95": round(float((excesses > 1).mean()), 3),
        "largest_join": round(float(excesses.max()), 2),
        "energy_above_p95_untouched": round(float((untouched[:, 0] > 1).mean()), 3),
        "flux_above_p95_untouched": round(float((untouched[:, 1] > 1).mean()), 3),
        "energy_above_p95": round(float((shares[:, 0] > 1).mean()), 3),
        "flux_above_p95": round(float((shares[:, 1] > 1).mean()), 3),
        "cut_energy_above_p95": round(float((cuts[:, 0] > 1).mean()), 3),
        "cut_flux_above_p95": round(float((cuts[:, 1] > 1).mean()), 3),
        "largest_share": [round(float(one), 2) for one in shares.max(0)],
    }


def maxima(sound: np.ndarray, rate: int, span: tuple[int, int], loudest: float) -> list[float]:
    """Return the largest jumps of energy and spectrum between frames that overlap a span."""
    frame = round(0.02 * rate)
    near = sound[max(0, span[0] - 2 * frame) : span[1] + 2 * frame]
    return [float(one.max(initial=0)) for one in jumps(near, rate, loudest)]


def inside_maxima(sound: np.ndarray, rate: int, width: int, rng: np.random.Generator, n: int = 300) -> np.ndarray:
    """Return the 95th percentiles of `maxima` over random spans of a sound."""
    loudest = loudest_power(sound, rate)
    places = rng.integers(0, max(1, len(sound) - width), n)
    return np.percentile([maxima(sound, rate, (place, place + width), loudest) for place in places], 95, axis=0)


def share(sound: np.ndarray, rate: int, span: tuple[int, int], original: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return the maxima at a span divided by the 95th percentiles."""
    return np.array(maxima(sound, rate, span, loudest_power(original, rate))) / np.maximum(usual, 1e-3)


if __name__ == "__main__":
    main()

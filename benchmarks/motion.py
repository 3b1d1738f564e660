"""Response to motion: onsets of sounds that are generated from synthetic motion.

    python benchmarks/motion.py SHARDS [--model everyday] [--clips 60] [--seed 0]

SHARDS is a folder from `unsilent data extract` with codes, features and motion; features are taken from its held-out images. The motion of
a clip has up to six peaks at least half a second apart, and slight noise. The script prints F1 (95 % intervals over clips in brackets),
precision and recall of the onsets of generated sounds within 0.1 s of the peaks: conditioned on the motion, without motion, and for both
at chance level, with onsets circularly shifted at random.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import unsilent
from unsilent.clip import Clip
from unsilent.data.pairs import PairedCodes
from unsilent.generation.conditions import Plan
from unsilent.generation.windows import plan_windows
from unsilent.metrics import OnsetScore, onset_f1
from unsilent.metrics.resampling import interval_of_mean
from unsilent.models.condition import condition_rows
from unsilent.signal.mel import to_mel01
from unsilent.signal.onsets import find_onsets
from unsilent.vision.motion import normalise

MOMENTS, MIN_SECONDS_APART, EDGE_SECONDS = 6, 0.5, 0.5
WIDTH_SECONDS = 0.04  # standard deviation of a motion peak
PEAK, NOISE = 2.0, 0.05  # levels, in units of `impact.ImpactMeter`
SHIFTS = 20  # random shifts per sound for the chance level


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline = unsilent.load(options.model, device="cpu")
    clip, condition = pipeline.clip, pipeline.parts.sampler.config.condition
    pairs = PairedCodes(options.shards, "valid", clip, real_share=0.0, cut_share=0.0, motion=True)
    rows = condition_rows(condition, clip.columns * pairs.rows_per_column, clip.columns)
    scores: dict[str, list[OnsetScore]] = {}
    for number in range(options.clips):
        rng = np.random.default_rng([options.seed, number])
        features = pairs.batch([rng]).features[:, rows]
        moments = draw_moments(clip, rng)
        for way, motion in (("with motion", motion_at(moments, clip, rng)), ("without motion", None)):
            found = made_onsets(pipeline, features, motion, number)
            shifted = [(found + rng.uniform(0, clip.seconds)) % clip.seconds for _ in range(SHIFTS)]
            scores.setdefault(way, []).append(onset_f1(found, moments))
            scores.setdefault(f"{way}, shifted", []).append(sum((onset_f1(one, moments) for one in shifted), OnsetScore(0, 0, 0)))
    print(f"{options.model}, {options.clips} clips")
    for way, ones in scores.items():
        whole = sum(ones, OnsetScore(0, 0, 0))
        doubled_hits, all_onsets = np.array([(2 * one.hits, one.found + one.true) for one in ones]).T
        low, high = interval_of_mean(doubled_hits, all_onsets, options.seed)
        print(f"  {way:<26} F1 {whole.f1:6.1%} ({low:.1%} to {high:.1%}), precision {whole.precision:.1%}, recall {whole.recall:.1%}")


def draw_moments(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """Draw `MOMENTS` random times in seconds, and drop those that are too close to the time before."""
    seconds = np.sort(rng.uniform(EDGE_SECONDS, clip.seconds - EDGE_SECONDS, MOMENTS))
    return seconds[np.diff(seconds, prepend=-np.inf) >= MIN_SECONDS_APART]


def motion_at(moments: np.ndarray, clip: Clip, rng: np.random.Generator) -> torch.Tensor:
    """Return a motion condition with peaks at given times in seconds, `[1, columns, values]`."""
    seconds = np.arange(clip.n_features) / clip.feature_fps
    bumps = np.exp(-0.5 * ((seconds[:, None] - moments) / WIDTH_SECONDS) ** 2).max(1)
    levels = np.stack([0.7 * PEAK * bumps, PEAK * bumps], axis=1) + np.abs(rng.normal(0, NOISE, (len(seconds), 2)))
    return torch.from_numpy(normalise(levels).astype(np.float32)).reshape(1, clip.columns, -1)


@torch.inference_mode()
def made_onsets(pipeline: unsilent.Pipeline, features: torch.Tensor, motion: torch.Tensor | None, seed: int) -> np.ndarray:
    """Generate a sound, and return its onsets in seconds."""
    clip, request = pipeline.clip, pipeline.resolve(seed=seed)
    plan = Plan(plan_windows(clip.columns, clip.columns, clip.hop_columns), [])
    condition = pipeline.parts.sampler.condition(features=features, motion=motion)
    mel = pipeline.codec.decode(pipeline.sample(plan, [condition], request)[0])
    return np.asarray(find_onsets(to_mel01(mel), clip))


if __name__ == "__main__":
    main()

"""Effect of lower precision on the probabilities of codes and on decoded mels, with real conditions.

    python benchmarks/precision.py demo/cat.mp4 [--sounds FOLDER] [--model everyday] [--takes 4] [--json]

Each precision is compared with float32 over the first clip of a video, for which `--takes` sequences are sampled in float32:

- `divergence`: mean Kullback-Leibler divergence of the next code in nats, after the same codes, with the key-value cache
- `likeliest_equal`: fraction of positions with the same likeliest code
- `mel_difference`: mean absolute difference of the mels decoded from these codes, in [-1, 1]

With a folder of sounds, 24 of them (always the same) give:

- `mel_error`: mean absolute difference of their mels and the mels decoded from their codes
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import unsilent
from unsilent.media.audio import read_audio
from unsilent.models.code_order import to_grid, to_sequence
from unsilent.models.sampler import Sampler
from unsilent.pipeline import Pipeline
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.speed.prepare import sampling_mode
from unsilent.vision.scene import Scene

PRECISIONS = ("float32", "bfloat16", "int8")
SOUNDS, SUFFIXES = 24, (".wav", ".flac", ".ogg", ".mp3")


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--sounds", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    pipelines = {name: unsilent.load(options.model, device="cpu", precision=name) for name in PRECISIONS}
    exact = pipelines["float32"]
    told, codes = _condition_and_codes(exact, options.video, options.takes)
    heard = _drawn(options.sounds, exact) if options.sounds else []
    grids = to_grid(codes, exact.clip.rows)
    expected = _scores(exact, told, codes)
    mels = [exact.codec.decode(grid) for grid in grids]
    table = {}
    for name, pipeline in pipelines.items():
        found = _scores(pipeline, told, codes)
        decoded = (pipeline.codec.decode(grid).float() - mel for grid, mel in zip(grids, mels, strict=True))
        table[name] = {
            "divergence": float((expected.exp() * (expected - found)).sum(-1).mean()),
            "likeliest_equal": float((expected.argmax(-1) == found.argmax(-1)).double().mean()),
            "mel_difference": float(np.mean([float(apart.abs().mean()) for apart in decoded])),
        }
        if heard:
            table[name]["mel_error"] = float(np.mean([float((pipeline.codec.decode(g).float() - mel).abs().mean()) for g, mel in heard]))
    if options.json:
        print(json.dumps(table))
        return
    for name, row in table.items():
        print(f"{name:10}", "  ".join(f"{key} {value:.3g}" if value < 1e-3 else f"{key} {value:.5f}" for key, value in row.items()))


def _condition_and_codes(pipeline: Pipeline, video: Path, takes: int) -> tuple[Tensor, Tensor]:
    """Return the condition of the first window of a video, and codes sampled with the model's defaults."""
    scene, request = Scene(video, pipeline.clip.seconds), pipeline.resolve(takes=takes)
    plan = pipeline.plan(scene, pipeline.clip.columns)
    (condition,) = conditions = pipeline.conditions(plan, pipeline.observe(scene, plan, request), request)
    return condition, to_sequence(pipeline.sample(plan, conditions, request))


def _scores(pipeline: Pipeline, told: Tensor, codes: Tensor) -> Tensor:
    """Return the log-probabilities of all codes, `[takes, sequence, codes]`."""
    sampler: Sampler = pipeline.parts.sampler
    with sampling_mode(sampler, pipeline.precision):
        logits, reading = sampler.start(codes[:, :0], told)
        found = [logits] + [sampler.step(codes[:, position], reading) for position in range(codes.shape[1] - 1)]
    return torch.stack(found, dim=1).double().log_softmax(-1)


def _drawn(folder: Path, pipeline: Pipeline) -> list[tuple[Tensor, Tensor]]:
    """Return codes (computed in float32) and mels of `SOUNDS` random sounds, cut or zero-padded to one clip."""
    clip, files = pipeline.clip, sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    made = []
    for number in np.random.default_rng(0).permutation(len(files))[:SOUNDS]:
        waveform = read_audio(files[number], clip.sample_rate)[: clip.n_samples]
        padded = torch.from_numpy(np.pad(waveform, (0, clip.n_samples - len(waveform))))
        mel = from_mel01(log_mel01(padded[None], clip))
        made.append((pipeline.parts.codebook.encode(mel)[0], mel[0]))
    return made


if __name__ == "__main__":
    main()

"""Measure streams: time to the first sound, real-time factor, and difference from decoding with full context.

    python benchmarks/streaming.py demo/cat.mp4 --runs 5

first     seconds from the request to the first stretch with a loaded model; median and maximum over the runs
factor    real-time factor of the rest
waits     longest underrun of playback in seconds; 0 if playback never stops
lufs      loudness in LUFS, which a stream does not normalise
context   signal-to-noise ratio in dB of the stream, compared with the same codes decoded with full context
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from unsilent.generation.streaming import join, render_codes
from unsilent.loading import load
from unsilent.signal.loudness import loudness_lufs


def main() -> None:
    """Print one line of JSON per video."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    pipeline = load(options.model)
    pipeline.generate(options.videos[0], stream=True, seconds=1.0)  # the first call of each network is slower
    for video in options.videos:
        runs = [timed(pipeline, video) for _ in range(options.runs)]
        whole = runs[0].pop("whole")
        equal = all(run.pop("whole").waveform.tobytes() == whole.waveform.tobytes() for run in runs[1:])
        again = render_codes(pipeline.codec, whole.codes, len(whole.waveform)).tobytes() == whole.waveform.tobytes()
        with torch.inference_mode():
            full = pipeline.codec.vocode(pipeline.codec.decode(torch.from_numpy(whole.codes)))[: len(whole.waveform)].numpy()
        medians = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
        noise = np.square(full - whole.waveform, dtype=np.float64).sum()
        print(
            json.dumps(
                {
                    "video": video.name,
                    "seconds": round(len(whole.waveform) / pipeline.clip.sample_rate, 2),
                    **medians,
                    "largest_first": round(max(run["first"] for run in runs), 3),
                    "equal_bytes": equal and again,
                    "lufs": round(loudness_lufs(whole.waveform, pipeline.clip.sample_rate), 1),
                    "context_db": round(float(10 * np.log10(np.square(full, dtype=np.float64).sum() / max(noise, 1e-12))), 1),
                }
            ),
            flush=True,
        )


def timed(pipeline, video: Path) -> dict:
    """Run one stream and measure its times."""
    started, stretches, times = time.perf_counter(), [], []
    for stretch in pipeline.stream(video):
        stretches.append(stretch)
        times.append(time.perf_counter() - started)
    lengths = np.cumsum([len(one.waveform) for one in stretches]) / pipeline.clip.sample_rate
    late = [came - (times[0] + before) for came, before in zip(times[1:], lengths, strict=False)]
    factor = (times[-1] - times[0]) / max(lengths[-1] - lengths[0], 1e-9)
    return {"first": times[0], "factor": factor, "waits": max([0.0, *late]), "whole": join(stretches)}


if __name__ == "__main__":
    main()

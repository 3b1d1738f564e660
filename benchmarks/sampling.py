"""Cost of sampling a data set on this machine: seconds per clip and step, and bytes per sample. Full size, float32, random weights.

    python benchmarks/sampling.py [--preset vggsound-5-resnet50] [--takes 10]

Codes are sampled in equal steps, so a few steps are timed and extrapolated to a clip. On a CPU, times are CPU seconds of one core, which do
not depend on other load.
"""

import argparse
import time
from collections.abc import Callable

import torch

from unsilent import presets
from unsilent.models.codebook import Codebook
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.models.sampler import Sampler

N_STEPS = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="vggsound-5-resnet50", choices=presets.names())
    parser.add_argument("--takes", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    preset = presets.get(options.preset)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU core"
    print(f"{options.preset}, {options.takes} samples a clip, {where}")
    seconds = {"codes": _codes(preset, options.takes, device), "decode": options.takes * _decode(preset, device)}
    seconds["judge"] = options.takes * _judge(preset, device)
    seconds["encode"] = options.takes * _encode(preset, device)
    for step, spent in seconds.items():
        print(f"{step:8} {spent:8.2f} s a clip {spent / options.takes:8.2f} s a sample")
    print(f"bytes    {preset.clip.mels * preset.clip.frames * 2 + 128} a sample, as float16 with its header")


@torch.inference_mode()
def _codes(preset: presets.Preset, takes: int, device: torch.device) -> float:
    """Return the seconds to read the condition, and to sample a clip, timed with half a clip in the cache."""
    sampler = Sampler(preset.sampler).eval().to(device)
    clip, width = preset.clip, preset.sampler.transformer.width
    length = clip.columns if preset.sampler.condition.kind == "columns" else sampler.n_condition
    condition = torch.zeros(takes, length, width, device=device)
    known = torch.zeros(takes, clip.n_codes // 2, dtype=torch.long, device=device)
    start = _timed(lambda: sampler.start(known[:, :0], condition), device)
    _, reading = sampler.start(known, condition)
    steps = _timed(lambda: [sampler.step(known[:, 0], reading) for _ in range(N_STEPS)], device)
    return start + steps / N_STEPS * (clip.n_codes - 1)


@torch.inference_mode()
def _decode(preset: presets.Preset, device: torch.device) -> float:
    codebook = Codebook(preset.codebook).eval().to(device)
    grid = torch.zeros(1, preset.clip.rows, preset.clip.columns, dtype=torch.long, device=device)
    return _timed(lambda: codebook.decode_codes(grid), device)


@torch.inference_mode()
def _encode(preset: presets.Preset, device: torch.device) -> float:
    codebook = Codebook(preset.codebook).eval().to(device)
    mel = torch.zeros(1, preset.clip.mels, preset.clip.frames, device=device)
    return _timed(lambda: codebook.encode(mel), device)


@torch.inference_mode()
def _judge(preset: presets.Preset, device: torch.device) -> float:
    module = Melception(MelceptionConfig()).eval().to(device)
    mel01 = torch.zeros(1, preset.clip.mels, preset.clip.frames, device=device)
    return _timed(lambda: module(mel01), device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Run a function twice, and return the seconds of the second run."""
    work()
    began = _now(device)
    work()
    return _now(device) - began


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()

"""The paper's model on this CPU: ours against the released algorithm and against what memory and arithmetic allow, step by step.

    python benchmarks/speed.py [--folder FOLDER] [--features 5] [--takes 1] [--runs 5] [--threads 2] [--released STRIDE] [--json]

FOLDER (a temporary one by default) takes 1.6 GB of made-up weights, and 1.2 GB for each further number of features. Each precision
runs in a process of its own: five generations of one clip's sound from given features, after one to warm up, whose time is printed too.

The released algorithm, re-expressed here, runs the whole sequence through the transformer for every code, in float32; `--released 8` times
every eighth code and takes it for its neighbours, `--released 1` times all, 0 none. Floors: bytes of the weights and the cache by the
measured rate of reading, operations of the convolutions by the measured rate of products.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from parity import filled, published_shapes, sampler_shapes
from torch.utils.flop_counter import FlopCounterMode

from unsilent import presets
from unsilent.checkpoints.published import convert
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.fused import halve
from unsilent.models.code_order import to_grid
from unsilent.pipeline import Clock
from unsilent.runtime import RecordedStep, convolutions, lighten
from unsilent.sampling import sample_codes
from unsilent.signal.mel import to_mel01
from unsilent.stitching import decode_grid, vocode

PRECISIONS = ("float32", "bfloat16", "int8")


def make(folder: Path, n_features: int) -> Path:
    """Write the parts of a model that sees so many features, filled by rule, unless they are there; gives the sampler's folder."""
    row = presets.get(f"vggsound-{n_features}-resnet50")
    out = folder / f"sampler-{n_features}"
    kinds = {"codebook": (folder / "codebook", row.codebook), "melgan": (folder / "vocoder", row.vocoder), "sampler": (out, row.sampler)}
    for kind, (place, config) in kinds.items():
        if not (place / "config.json").exists():
            shapes = sampler_shapes(n_features, 0) if kind == "sampler" else published_shapes(kind)
            weights = {name: value for name, value in filled(shapes).items() if not name.endswith("mask")}
            save_checkpoint(place, kind, row.name, config, convert(kind, weights, config).state_dict(), {})
    return out


@torch.inference_mode()
def measure(folder: Path, sampler_folder: Path, precision: str, takes: int, runs: int, threads: int) -> dict:
    """Seconds of each step in this process, medians; the first generation's, and the peak memory."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    codebook, vocoder = load_checkpoint(folder / "codebook", "codebook"), load_checkpoint(folder / "vocoder", "melgan")
    vocoder.remove_weight_norm()
    halves = convolutions(precision) is torch.bfloat16
    if halves:
        halve(codebook, torch.device("cpu"))
        halve(vocoder, torch.device("cpu"))
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    sampler = load_checkpoint(sampler_folder, "sampler", dtype, lambda part: lighten(part, precision))
    loaded = time.perf_counter() - started
    config, step = sampler.config, RecordedStep(sampler)
    features = torch.rand(1, config.condition.n_features, config.condition.feature_dim, generator=torch.Generator().manual_seed(0))
    laps = []
    for _ in range(runs + 1):
        clock = Clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            condition = sampler.condition(features)
            clock.lap("condition")
            codes = sample_codes(sampler, lambda _, told=condition: told, config.clip.columns, seed=0, takes=takes, step=step)
            clock.lap("codes")
        with torch.autocast("cpu", torch.bfloat16, enabled=halves):
            for grid in to_grid(codes, config.clip.rows):
                mel = decode_grid(codebook, grid).float()
                clock.lap("decode")
                vocode(vocoder, to_mel01(mel), vocoder.context_frames, config.clip.hop).float()
                clock.lap("vocode")
        laps.append(clock.laps)
    steps = {name: median(lap[name] for lap in laps[1:]) for name in laps[0]}
    return {
        "load": loaded,
        "first": sum(laps[0].values()),
        **steps,
        "whole": median(sum(lap.values()) for lap in laps[1:]),
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@torch.inference_mode()
def released(folder: Path, sampler_folder: Path, stride: int, threads: int) -> dict:
    """Seconds of the released algorithm: no cache, float32, the whole sequence for every code."""
    torch.set_num_threads(threads)
    sampler, codebook = load_checkpoint(sampler_folder, "sampler"), load_checkpoint(folder / "codebook", "codebook")
    vocoder = load_checkpoint(folder / "vocoder", "melgan")
    config = sampler.config
    features = torch.rand(1, config.condition.n_features, config.condition.feature_dim)
    codes = torch.zeros(1, config.clip.n_codes, dtype=torch.long)
    sampler.logits(codes[:, :2], sampler.condition(features))
    started, timed = time.perf_counter(), 0
    for position in range(stride // 2, config.clip.n_codes, stride):
        sampler.logits(codes[:, : position + 1], sampler.condition(features))
        timed += 1
    seconds = {"codes": (time.perf_counter() - started) * config.clip.n_codes / timed}
    clock = Clock()
    mel = codebook.decode_codes(to_grid(codes, config.clip.rows))
    clock.lap("decode")
    vocoder(to_mel01(mel))
    clock.lap("vocode")
    seconds |= clock.laps
    return {**seconds, "whole": sum(seconds.values())}


@torch.inference_mode()
def floors(folder: Path, sampler_folder: Path, takes: int, threads: int) -> dict:
    """Rates of this machine, and from them the least seconds of each step with int8 matrices, a float32 cache and bfloat16 convolutions."""
    torch.set_num_threads(threads)
    large = torch.ones(1 << 28)
    bytes_a_second = 4 * len(large) / min(_seconds(large.sum) for _ in range(5))
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.ones(2048, 2048, dtype=dtype)
        rates[dtype] = 2 * 2048**3 / min(_seconds(lambda one=one: one @ one) for _ in range(5))
    sampler = load_checkpoint(sampler_folder, "sampler")
    codebook, vocoder = load_checkpoint(folder / "codebook", "codebook"), load_checkpoint(folder / "vocoder", "melgan")
    shape, clip = sampler.config.transformer, sampler.config.clip
    positions = sum(range(sampler.n_condition, sampler.n_condition + clip.n_codes))
    cache = 2 * shape.layers * shape.width * 4 * positions * takes
    head = sampler.head.weight.numel() * 4
    mel = torch.zeros(1, clip.mels, clip.frames)
    work = {}
    grid = torch.zeros(1, clip.rows, clip.columns, dtype=torch.long)
    for name, run in {"decode": lambda: codebook.decode_codes(grid), "vocode": lambda: vocoder(mel)}.items():
        with FlopCounterMode(display=False) as counter:
            run()
        work[name] = takes * counter.get_total_flops() / max(rates.values())
    steps = {"codes": (clip.n_codes * (shape.n_weights + head) + cache) / bytes_a_second, **work}
    return {
        "read_gb_a_second": bytes_a_second / 1e9,
        "float32_gflops": rates[torch.float32] / 1e9,
        "bfloat16_gflops": rates[torch.bfloat16] / 1e9,
        **steps,
        "whole": sum(steps.values()),
    }


def _seconds(run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--features", type=int, default=5, choices=(1, 5, 212))
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--released", type=int, default=8)
    parser.add_argument("--precision", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # how a process of its own is told what to measure
    options = parser.parse_args()
    if options.one:
        sampler_folder = make(options.folder, options.features)
        if options.one == "floor":
            found = floors(options.folder, sampler_folder, options.takes, options.threads)
        elif options.one == "released":
            found = released(options.folder, sampler_folder, options.released, options.threads)
        else:
            found = measure(options.folder, sampler_folder, options.one, options.takes, options.runs, options.threads)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        make(folder, options.features)
        table = {}
        for name in ("floor", *(("released",) if options.released else ()), *options.precision):
            told = {"--folder": folder, "--one": name, "--features": options.features, "--takes": options.takes, "--runs": options.runs}
            told |= {"--threads": options.threads, "--released": options.released}
            command = [sys.executable, __file__, *(str(word) for pair in told.items() for word in pair)]
            table[name] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    if options.json:
        print(json.dumps(table))
        return
    for name, row in table.items():
        print(f"{name:9}", "  ".join(f"{key} {value:.2f}" if value < 100 else f"{key} {value:.0f}" for key, value in row.items()))


if __name__ == "__main__":
    main()

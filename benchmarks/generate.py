"""Speed of generating the sound of a video, step by step, and peak memory.

    python benchmarks/generate.py demo/cat.mp4 [--model everyday] [--runs 5] [--threads 2]

Prints the median time of each step and of all steps, each also as a ratio to playback time. Then it runs the command, and prints its time
from start to finished file, and its peak memory.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    steps, seconds, load_seconds = measure_steps(options)
    command_seconds, peak_mb = measure_command(options)
    whole = sum(steps.values())
    figures = {
        "model": options.model,
        "threads": options.threads,
        "runs": options.runs,
        "video_seconds": round(seconds, 3),
        "load_seconds": round(load_seconds, 3),
        "steps_seconds": {name: round(value, 3) for name, value in steps.items()},
        "whole_seconds": round(whole, 3),
        "times_faster_than_playback": round(seconds / whole, 2),
        "command_seconds": round(command_seconds, 3),
        "command_peak_mb": round(peak_mb),
    }
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{options.model}, {options.threads} threads, {seconds:.2f} s of video, median of {options.runs} runs")
    print(f"  {'load':<10} {load_seconds:7.3f} s   once, not counted below")
    for name, value in steps.items():
        print(f"  {name:<10} {value:7.3f} s   {value / whole:5.1%} of the time   {value / seconds:6.3f} of playback")
    print(f"  {'whole':<10} {whole:7.3f} s   {seconds / whole:.1f} times faster than playback")
    print(f"command start to finished file: {command_seconds:.2f} s, peak memory {peak_mb:.0f} MB")


def measure_steps(options: argparse.Namespace) -> tuple[dict[str, float], float, float]:
    """Return the median seconds of each step, the length of the video, and the seconds of loading. A warm-up run is not counted."""
    import torch

    import unsilent

    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    pipeline = unsilent.load(options.model, device="cpu")
    load_seconds = time.perf_counter() - started
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs + 1):
            out = Path(folder) / f"out{run}{options.video.suffix}"  # a new file each time, because replacing a file may wait for the disk
            generation = pipeline.generate(options.video, seed=0)
            started = time.perf_counter()
            generation.save_video(out)
            runs.append({**generation.timings, "mux": time.perf_counter() - started})
    steps = {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}
    return steps, generation.seconds, load_seconds


def measure_command(options: argparse.Namespace) -> tuple[float, float]:
    """Return the median seconds of the whole command over three runs, and the highest peak memory of a run in MB."""
    times = []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("unsilent"), "generate", options.video, "-o", Path(folder) / f"out{options.video.suffix}"]
        for _ in range(3):
            started = time.perf_counter()
            more = ["--model", options.model, "--device", "cpu"]
            subprocess.run([*map(str, command), *more], check=True, capture_output=True, env=environment)
            times.append(time.perf_counter() - started)
    return statistics.median(times), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()

"""Speed and memory of each trainer at the paper's size, and speed-up by a second process.

    python benchmarks/training.py [--only NAME...] [--batch N] [--steps N] [--threads N] [--set KEY=VALUE]
    python benchmarks/training.py --processes [--only NAME...]

The first command runs each training of runs/paper on random data in its own process: the codebook with perceptual distance (with random
weights) and discriminator from the first step, the sampler with 212 features, MelGAN with its discriminator, and both classifiers with 309
labels. Time is the median between progress lines after the first step. Memory is the peak of the process with imports, and torch's peak on
the GPU. Nothing is saved or validated. The batch size is 1 on the CPU and that of the run file on a GPU.

The second command runs two small trainings of runs/everyday in one process and in two, with the same number of items per step and one
thread each.
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from unsilent.checkpoints.store import save_checkpoint
from unsilent.cli.main import run as run_command
from unsilent.clip import Clip
from unsilent.data.rows import CodesRow, FeaturesRow, ItemRow
from unsilent.data.shards import write_shard
from unsilent.models.vggishish import VGGishish, VGGishishConfig

RUNS = Path(__file__).parents[1] / "runs"
UNVALIDATED = {"valid_every": 0, "patience": 0}
PAPER = {  # run file and changed settings
    "codebook": ("vggsound-codebook", {"adversarial_start": 0}),
    "sampler": ("vggsound-sampler", UNVALIDATED),
    "melgan": ("melgan", {"valid_every": 0}),
    "vggishish": ("vggishish", UNVALIDATED),
    "melception": ("melception", UNVALIDATED),
}
EVERYDAY = {  # run file, items per step and changed settings
    "vggishish": ("vggishish", 16, UNVALIDATED),
    "codebook": ("codebook", 8, {}),
}
N_LABELS = 309  # number of classes of VGGSound
FEATURE_DIM = 2048


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--one"]:  # in a child process
        measured(int(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", action="store_true", help="compare one process with two instead")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="trainings to measure")
    parser.add_argument("--batch", type=int, help="items per step [default: 1 on the CPU, that of the run file on a GPU]")
    parser.add_argument("--steps", type=int, help="steps to measure after the first; 2 on the CPU, 20 on a GPU, 12 with --processes")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is torch's default, or 1 with --processes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of all trainings; may be repeated"
    )
    options = parser.parse_args()
    known = EVERYDAY if options.processes else PAPER
    if unknown := set(options.only or []) - known.keys():
        parser.error(f"no training {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder)
        (compare_processes if options.processes else measure_trainers)(options, folder, options.only or list(known))


def make(folder: Path) -> None:
    """Write random data of the right sizes, and a random checkpoint for the perceptual distance, which only uses the convolutions."""
    clip, rng = Clip(), np.random.default_rng(0)
    clips = [(f"{i:04d}", "clip", f"label {i:03d}", "train", 44100) for i in range(N_LABELS)]
    noise = (rng.standard_normal(clip.n_samples + 4096) * 3000).astype(np.int16)
    write_shard(folder / "shards", "waveforms", [(noise, ItemRow(*columns)) for columns in clips], {})
    grids = [rng.integers(128, size=(clip.columns, clip.rows), dtype=np.int16) for _ in range(4)]
    place = {"variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": 0}
    codes = [(grid, CodesRow(*clips[i], item=i, **place)) for i, grid in enumerate(grids)]
    write_shard(folder / "shards", "codes", codes, {})
    features = [rng.standard_normal((clip.n_features, FEATURE_DIM)).astype(np.float16) for _ in range(4)]
    extractor = {"rows_per_column": clip.column_features}
    write_shard(folder / "shards", "features", [(array, FeaturesRow(*clips[i])) for i, array in enumerate(features)], extractor)
    torch.manual_seed(0)
    classifier = VGGishish(VGGishishConfig(labels=2, grid=(1, 1), hidden=2))
    record = {"untrained": "random weights, for measuring time and memory only"}
    save_checkpoint(folder / "vggishish", "vggishish", "", classifier.config, classifier.state_dict(), record)


def measure_trainers(options: argparse.Namespace, folder: Path, names: list[str]) -> None:
    """Print a table of speed and memory."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, threads: {options.threads or torch.get_num_threads()}"
    print("| trainer | device | batch | s a step | items/s | peak memory (GB) | peak on the GPU (GB) |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in names:
        file, more = PAPER[name]
        settings = {"devices": 1, "threads": options.threads, **more}
        if name == "codebook":
            settings |= {"perceptual": str(folder / "vggishish"), "perceptual_untrained": True}
        if options.batch or not on_gpu:
            settings["batch"] = options.batch or 1
        path = RUNS / "paper" / f"{file}.toml"
        found = measure(path, folder, name, settings, options.set, options.steps or (20 if on_gpu else 2), ends_early=True)
        on_device = f"{found['gpu_bytes'] / 1e9:.1f}" if on_gpu else "–"
        print(
            f"| {name} | {device} | {found['batch']} | {found['seconds']:.3f} | {found['batch'] / found['seconds']:.2f} "
            f"| {found['bytes'] / 1e9:.1f} | {on_device} |",
            flush=True,
        )


def compare_processes(options: argparse.Namespace, folder: Path, names: list[str]) -> None:
    """Print a table of speed with one process and with two."""
    threads = options.threads or 1
    print(f"threads a process: {threads}, cores: {os.cpu_count()}, load before: {os.getloadavg()[0]:.1f}\n")
    print("| trainer | items a step | items/s, one process | items/s, two | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names:
        file, total, more = EVERYDAY[name]
        total, speeds = options.batch or total, []
        for n_processes in (1, 2):
            settings = {"devices": n_processes, "batch": total // n_processes, "threads": threads, **more}
            settings |= {"steps": 1 + (options.steps or 12), "decay_steps": 0}
            path = RUNS / "everyday" / f"{file}.toml"
            found = measure(path, folder, f"{name}-{n_processes}", settings, options.set, settings["steps"] - 1, ends_early=False)
            speeds.append(total / found["seconds"])
        print(f"| {name} | {total} | {speeds[0]:.2f} | {speeds[1]:.2f} | {speeds[1] / speeds[0]:.2f} |", flush=True)


def measure(
    path: Path, folder: Path, name: str, settings: dict[str, object], more: list[str], steps: int, ends_early: bool
) -> dict[str, float]:
    """Train in a new process for a first step and `steps` more.

    Args:
        path: run file.
        folder: folder of the random data.
        name: name of the training's folder.
        settings: changes to the run file.
        more: changes from the command line.
        steps: number of steps to measure.
        ends_early: whether to end the process after these steps, so that no checkpoint is written. Not for several processes.
    """
    settings = {**settings, "shards": str(folder / "shards"), "out": str(folder / name), "log_every": 1, "save_every": 10**9}
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()] + more
    arguments = ["train", str(path), *(part for override in overrides for part in ("--set", override))]
    command = [sys.executable, str(Path(__file__).resolve()), "--one", str(1 + steps if ends_early else 0), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])} if settings["threads"] else None
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    results = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not results:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(results[0])


class LastStepDone(BaseException):
    """Raised after the last measured step."""


class Stopwatch(logging.Handler):
    """Records the time of each progress line.

    Args:
        last: step after which training ends; 0 lets it finish.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last
        self.moments: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Record the time of a progress line."""
        progress = re.match(r"step (\d+)/\d+ ", record.getMessage())
        if progress:
            self.moments.append(time.perf_counter())
            if int(progress[1]) == self.last:
                raise LastStepDone


def measured(last: int, arguments: list[str]) -> None:
    """Run one command in this process and print the measurements as JSON. Further processes of the training print nothing."""
    stopwatch = Stopwatch(last)
    logging.getLogger("unsilent").addHandler(stopwatch)
    try:
        code = run_command(arguments)
    except LastStepDone:
        code = 0
    if code:
        raise SystemExit(code)
    if stopwatch.moments:
        seconds = median(np.diff(stopwatch.moments))
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        print(json.dumps({"seconds": seconds, "bytes": peak, "gpu_bytes": gpu, "batch": _batch(arguments)}), flush=True)


def _batch(arguments: list[str]) -> int:
    """Return the batch size that the training used."""
    from unsilent.train.config import read_run

    return read_run(
        Path(arguments[1]), [value for flag, value in zip(arguments[2::2], arguments[3::2], strict=True) if flag == "--set"]
    ).batch


if __name__ == "__main__":
    main()

"""Cost of extraction per clip and step, in time and bytes, compared with a simple baseline, and extrapolated to large data sets.

    python benchmarks/extraction.py FOLDER [--clips 12] [--codebook CHECKPOINT] [--preset everyday] [--scale N ...]

The first clip of each video in FOLDER is used. The baseline writes all frames of 10 s at 21.5 frames per second to disk as JPEG, reads
them back and passes all of them to the same network in batches. It stores what the authors of the paper store: float32 mels of 860 frames
(`.npy`) and pickled float32 features of 215 frames. Times are CPU seconds of one thread, which hardly depend on other load. The networks
use a GPU if there is one, and are then measured in wall-clock time.
"""

import argparse
import pickle
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unsilent import presets
from unsilent.checkpoints.bundle import load_backbone
from unsilent.checkpoints.store import load_checkpoint
from unsilent.data.rows import FeaturesRow
from unsilent.data.shards import ShardWriter, dequantise, mel01_from_stored, quantise
from unsilent.jobs.parallel import Parallel, map_ordered
from unsilent.media.audio import read_audio
from unsilent.media.suffixes import VIDEO_SUFFIXES
from unsilent.media.video import stream_frames
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import RANGE_DB, from_mel01, log_mel01
from unsilent.vision.features import extract

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RELEASED_SECONDS, RELEASED_FRAMES = 10, 860  # length and mel frames of the authors' files


class Costs:
    """Seconds and bytes, summed over clips, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, int] = defaultdict(int)
        self.errors: dict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextmanager
    def timed(self, step: str, clock=time.process_time) -> Iterator[None]:
        """Add the time of the block to a step."""
        began = clock()
        yield
        self.seconds[step] += clock() - began

    def differ(self, what: str, true: np.ndarray, kept: np.ndarray) -> None:
        """Record the mean and the largest absolute difference."""
        found = np.abs(true.astype(np.float64) - kept)
        self.errors[what].append((found.mean(), found.max()))


def ours(path: Path, preset: presets.Preset, network, codebook, costs: Costs) -> None:
    """Process one clip with the steps of `unsilent data extract`."""
    clip, (module, expects) = preset.clip, network
    with costs.timed("read the sound"):
        waveform = read_audio(path, clip.sample_rate)[: clip.n_samples]
        waveform = np.pad(waveform, (0, clip.n_samples - len(waveform)))
    with costs.timed("loudness"):
        waveform = normalise_loudness(waveform, clip.sample_rate)
        stored = np.round(waveform * 32767).astype(np.int16)
    with costs.timed("mel"):
        mel01 = log_mel01(torch.from_numpy(waveform)[None], clip)[0].T.numpy()
        whole = np.round(mel01 * 255).astype(np.uint8)
    every = clip.column_features
    with costs.timed("read the pictures"):
        wanted = range(every - 1, clip.n_features, every)
        stream = stream_frames(path, clip.feature_fps, wanted=wanted, short_side=expects.short_side)
        frames = [frame.copy() for _, frame in stream]
    with costs.timed("features", time.perf_counter if DEVICE == "cuda" else time.process_time):
        features = extract(frames, module, expects).numpy()
    kept = features.astype(np.float16)
    if codebook is not None:
        with costs.timed("codes (one encoding)", time.perf_counter if DEVICE == "cuda" else time.process_time), torch.inference_mode():
            codes = codebook.encode(from_mel01(torch.from_numpy(mel01.T.copy())[None].to(DEVICE))).cpu().numpy().astype(np.int16)
        costs.bytes["codes int16"] += codes.nbytes
    costs.bytes["waveforms int16"] += stored.nbytes
    costs.bytes["mels uint8"] += whole.nbytes
    costs.bytes["mels float16"] += 2 * whole.nbytes
    costs.bytes[f"features float16, {clip.columns} a clip"] += 2 * clip.columns * expects.dim
    costs.bytes[f"features float16, {clip.n_features} a clip"] += 2 * clip.n_features * expects.dim
    costs.differ("mels uint8", mel01, mel01_from_stored(whole))
    costs.differ("mels float16", mel01, mel01_from_stored(mel01.astype(np.float16)))
    costs.bytes[f"features uint8, {clip.n_features} a clip"] += clip.n_features * expects.dim
    quantised, lowest, step = quantise(features)
    coarse = dequantise(quantised, FeaturesRow("", "clip", "", "", 0, lowest, step))
    for what, values in (("features float16", kept), ("features uint8", coarse)):
        costs.differ(what, features / np.abs(features).mean(), values / np.abs(features).mean())


def baseline(path: Path, preset: presets.Preset, network, costs: Costs, folder: Path) -> None:
    """Process one clip with the baseline."""
    clip, (module, expects) = preset.clip, network
    with costs.timed("baseline: frames to disk"):
        names = []
        for number, (_, frame) in enumerate(stream_frames(path, clip.feature_fps, wanted=range(int(RELEASED_SECONDS * clip.feature_fps)))):
            names.append(folder / f"{number:06d}.jpg")
            Image.fromarray(frame).save(names[-1], quality=95)
    with costs.timed("baseline: frames from disk"):
        frames = [np.asarray(Image.open(name)) for name in names]
    with costs.timed("baseline: features", time.perf_counter if DEVICE == "cuda" else time.process_time):
        features = extract(frames, module, expects).numpy()
    with costs.timed("baseline: sound and mel"):
        samples = RELEASED_SECONDS * clip.sample_rate
        waveform = read_audio(path, clip.sample_rate)[:samples]
        mel01 = log_mel01(torch.from_numpy(np.pad(waveform, (0, samples - len(waveform))))[None], clip)[0].numpy()[:, :RELEASED_FRAMES]
    np.save(folder / "mel.npy", mel01)
    (folder / "features.pkl").write_bytes(pickle.dumps(np.resize(features, (int(RELEASED_SECONDS * clip.feature_fps), expects.dim))))
    costs.bytes["baseline: temporary frames on disk"] += sum(name.stat().st_size for name in names)
    costs.bytes["baseline: mels float32"] += (folder / "mel.npy").stat().st_size
    costs.bytes["baseline: features float32"] += (folder / "features.pkl").stat().st_size


def report(costs: Costs, n: int, clip, scales: list[int]) -> None:
    """Print all costs per clip, then the totals at scale."""
    print(f"{n} clips of {clip.seconds:.2f} s, network on {DEVICE}\n\n| step | seconds a clip | clips a second |\n| --- | ---: | ---: |")
    for step, seconds in costs.seconds.items():
        print(f"| {step} | {seconds / n:.3f} | {n / max(seconds, 1e-9):.1f} |")
    print("\n| kept | bytes a clip | mean difference | largest |\n| --- | ---: | ---: | ---: |")
    for what, size in costs.bytes.items():
        found = costs.errors.get(what.partition(",")[0])
        differing = " | "
        if found:
            scale, unit = (RANGE_DB, " dB") if what.startswith("mels") else (1, " of the mean")
            differing = f"{np.mean([mean for mean, _ in found]) * scale:.5f}{unit} | {max(most for _, most in found) * scale:.4f}{unit}"
        print(f"| {what} | {size / n:.0f} | {differing} |")
    mine = {name: seconds for name, seconds in costs.seconds.items() if not name.startswith("baseline")}
    theirs = sum(costs.seconds.values()) - sum(mine.values())
    authors = costs.bytes["baseline: mels float32"] + costs.bytes["baseline: features float32"]
    few = costs.bytes["mels uint8"] + costs.bytes[f"features float16, {clip.columns} a clip"]
    many = costs.bytes["mels uint8"] + costs.bytes[f"features uint8, {clip.n_features} a clip"]
    total = sum(mine.values())
    print(f"\nall steps: {total / n:.2f} s a clip; the baseline without codes: {theirs / n:.2f} s, {theirs / total:.1f} times as long.")
    print(f"the authors' layout takes {authors / few:.1f} times the bytes for a model of {clip.columns} features ({few / n:.0f} a clip),")
    print(f"{authors / many:.1f} times for one of {clip.n_features} with features as uint8 ({many / n:.0f} a clip).")
    network = sum(mine.get(name, 0.0) for name in ("features", "codes (one encoding)"))
    print("\n| clips | other steps, CPU hours | network, hours | mels + features | + waveforms |\n| ---: | ---: | ---: | ---: | ---: |")
    for scale in scales:
        hours = [(seconds * scale / n / 3600) for seconds in (total - network, network)]
        sizes = [size * scale / n / 1e9 for size in (few, few + costs.bytes["waveforms int16"])]
        print(f"| {scale:,} | {hours[0]:,.0f} | {hours[1]:,.0f} | {sizes[0]:,.0f} GB | {sizes[1]:,.0f} GB |")


def bottleneck(preset: presets.Preset, dim: int, folder: Path) -> None:
    """Print how many clips per second one process can distribute and write, independent of the number of workers."""
    numbers, began = range(5000), time.perf_counter()
    for _ in map_ordered(partial(partial, abs), numbers, Parallel(workers=2)):
        pass
    handed = len(numbers) / (time.perf_counter() - began)
    clip, began = preset.clip, time.perf_counter()
    item = np.zeros((clip.columns, dim), np.float16), FeaturesRow("x" * 30, "clip", "", "train", clip.sample_rate)
    with ShardWriter(folder, "features", {}) as writer:
        for _ in numbers:
            writer.add([item])
    written = len(numbers) / (time.perf_counter() - began)
    per_clip = (folder / "features.json").stat().st_size / len(numbers)
    print(f"\none process hands out {handed:,.0f} items a second to two workers that do nothing, and writes the features")
    print(
        f"{written:,.0f} clips a second (both with the start of the processes and the end of the file), {per_clip:.0f} bytes of index each."
    )


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--codebook", type=Path, help="checkpoint folder [default: no codes]")
    parser.add_argument("--preset", default="everyday")
    parser.add_argument("--scale", type=int, nargs="+", default=[200_000, 100_000_000])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    preset = presets.get(asked.preset)
    module, expects = load_backbone(preset.backbone)
    network = module.to(DEVICE), expects
    codebook = None if asked.codebook is None else load_checkpoint(asked.codebook, "codebook").to(DEVICE)
    paths = sorted(path for path in asked.folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)[: asked.clips + 1]
    with tempfile.TemporaryDirectory() as temporary:
        for number, path in enumerate(paths):
            costs = Costs() if number < 2 else costs  # the first video is a warm-up
            ours(path, preset, network, codebook, costs)
            baseline(path, preset, network, costs, Path(temporary))
        report(costs, len(paths) - 1, preset.clip, asked.scale)
        bottleneck(preset, expects.dim, Path(temporary))


if __name__ == "__main__":
    main()

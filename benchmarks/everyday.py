"""Quality of a model on images, videos and sounds that were not used in training.

    python benchmarks/everyday.py M.parquet --classifier CHECKPOINT -o DIR [--model everyday] [--samples 10] [--most N] [--videos N]
        [--seed 0] [--top-k K] [--temperature T] [--guidance G] [--workers N] [--parts labels signal timing sheet]

M.parquet is from `unsilent data manifest`, CHECKPOINT is a classifier for `unsilent evaluate`. Labels are used if they have training
sounds, held-out sounds, and held-out images or videos. `--most` limits the number of each per label, `--videos` the number for timing.
Generated sounds stay in DIR, where a second call resumes and can add parts. DIR/everyday.json has all results. DIR/everyday.md, which is
also printed, has the tables:

- `labels`: FID, MKL, top-1 and top-5 from `unsilent evaluate`. Samples are paired with held-out sounds of their label.
    - `generated`: sounds for images and videos; `one each` has as many sounds as `real`, so that its FID is comparable
    - `codebook`: the real sounds reconstructed by codebook and vocoder, the upper bound for any sampler
    - `real`: held-out sounds; for FID and MKL, each is paired with a random training sound of the same label
    - `floor`: random training sounds of any label
- `signal`: see `benchmarks/signals.py`. Silent ends of real sounds are cut, and their loudness is normalised.
- `timing`: see `benchmarks/timing.py`
- `sheet`: DIR/everyday.png with generated and real sounds
"""

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import signals
import timing
from sheet import draw_sheet

import unsilent
from unsilent.clip import Clip
from unsilent.data.manifest import Row, read_manifest, write_manifest
from unsilent.evaluation import evaluate
from unsilent.evaluation.tables import as_json
from unsilent.jobs.parallel import Parallel
from unsilent.jobs.sample import ABOUT, KINDS, Recipe, Sampling
from unsilent.media.audio import read_audio
from unsilent.media.sounds import write_sound
from unsilent.request import Request
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.silence import trim_silent_ends

PARTS = ("labels", "signal", "timing", "sheet")
SHEET = 3  # pairs of sounds on the sheet


@dataclass(frozen=True)
class Material:
    """Data by label.

    Attributes:
        root: folder that the paths are relative to.
        seen: held-out images and videos.
        real: held-out sounds.
        train: training sounds of all labels.
    """

    root: Path
    seen: dict[str, list[Row]]
    real: dict[str, list[Row]]
    train: list[Row]


def main() -> None:
    """Generate, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--classifier", required=True, help="checkpoint folder")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--samples", type=int, default=10, help="sounds per image or video")
    parser.add_argument("--most", type=int, help="maximum images, and sounds, per label [default: all]")
    parser.add_argument("--videos", type=int, help="maximum videos with clear impacts, held-out ones first [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--workers", type=int, help="number of processes; results do not depend on it")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    root, rows = read_manifest(options.manifest)
    pipeline = unsilent.load(options.model, device="cpu", precision="float32")
    material = choose(root, rows, options.most, options.seed)
    videos = timing.find_impacts(rows, root, pipeline.clip)[: options.videos] if "timing" in options.parts else []
    visible = [video.row for video in videos] + (flat(material.seen) if set(options.parts) - {"timing"} else [])
    made = make({row.clip_id: row for row in visible}.values(), root, options)
    path = options.out / "everyday.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = json.loads((made / ABOUT).read_text(encoding="utf-8"))
    results["made"] = {key: about[key] for key in about if key not in ("clips", "failed")}
    for part in options.parts:
        if part == "labels":
            results[part] = by_label(material, made, pipeline, options)
        elif part == "signal":
            results[part] = as_signals(material, made, pipeline.clip)
        elif part == "timing":
            ways = {"generated": made, "without motion": make([one.row for one in videos], root, options, "still", motion=False)}
            results[part] = timing.score_all(videos, ways, pipeline.reconstruct, pipeline.clip, options.seed)
        else:
            draw_sheet(list(pairs_of(material, made, pipeline.clip)), pipeline.clip, options.out / "everyday.png")
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = "\n".join(as_markdown(results))
    (options.out / "everyday.md").write_text(page, encoding="utf-8")
    print(page)


def choose(root: Path, rows: list[Row], most: int | None, seed: int) -> Material:
    """Choose the data of all labels that have training sounds, held-out sounds and held-out images or videos. It is shuffled, so that
    a limit takes from all sources."""
    seen, real, train = (defaultdict[str, list[Row]](list) for _ in range(3))
    for number in np.random.default_rng(seed).permutation(len(rows)):
        row = rows[number]
        if row.kind in KINDS and row.split != "train":
            seen[row.label].append(row)
        elif row.kind == "sound":
            (train if row.split == "train" else real)[row.label].append(row)
    labels = sorted(label for label in seen if label and real[label] and train[label])
    return Material(
        root,
        {label: seen[label][:most] for label in labels},
        {label: real[label][:most] for label in labels},
        [row for label in labels for row in train[label]],
    )


def flat(rows: dict[str, list[Row]]) -> list[Row]:
    """Concatenate the rows of all labels."""
    return [row for label in rows for row in rows[label]]


def make(rows: Iterable[Row], root: Path, options: argparse.Namespace, name: str = "samples", **differing: Any) -> Path:
    """Generate samples for all rows, and return their folder; existing samples are kept. `differing` are further fields of the request."""
    table, folder = options.out / f"{name}.parquet", options.out / name
    write_manifest(root, list(rows), table)
    chosen = {"top_k": options.top_k, "temperature": options.temperature, "guidance": options.guidance}
    recipe = Recipe(options.model, Request(takes=options.samples, seed=options.seed, **chosen, **differing), keep="wav")
    with Sampling(table, folder, recipe, split=None) as job:
        for row, why in job.run(Parallel(options.workers)):
            if why:
                raise SystemExit(f"{row.clip_id}: {why}")
    return folder


def by_label(material: Material, made: Path, pipeline: "unsilent.Pipeline", options: argparse.Namespace) -> dict[str, Any]:
    """Compute the metrics of `unsilent evaluate`."""
    folder = options.out / "judged"
    shutil.rmtree(folder, ignore_errors=True)  # links of an earlier call with other limits
    systems = {}
    for system, name, path in evaluated(material, made, reconstruct(material, pipeline, options.out), options.samples, options.seed):
        link = folder / system / (name + path.suffix)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
        systems[system] = folder / system
    reference, parallel = systems.pop("real"), Parallel(options.workers)
    return as_json(
        evaluate(
            reference,
            list(systems.values()),
            options.out,
            options.classifier,
            "folders",
            seed=options.seed,
            device="cpu",
            parallel=parallel,
        )
    )


def reconstruct(material: Material, pipeline: "unsilent.Pipeline", out: Path) -> Path:
    """Reconstruct the held-out sounds by codebook and vocoder, and return their folder."""
    folder, rate = out / "codebook", pipeline.clip.sample_rate
    for row in flat(material.real):
        path = folder / f"{row.clip_id}.wav"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sound(path, pipeline.reconstruct(normalise_loudness(read_audio(material.root / row.path, rate), rate)), rate)
    return folder


def evaluated(material: Material, made: Path, codebook: Path, samples: int, seed: int) -> Iterator[tuple[str, str, Path]]:
    """Yield the system, name and path of each sound to evaluate. Its name is that of its real sound, with a number.

    All samples of an image pair with one real sound of its label, so that intervals resample them together.
    """
    rng = np.random.default_rng(seed)
    for label, real in material.real.items():
        seen, names = material.seen[label], [f"{label}/{Path(row.path).stem}" for row in real]
        alike = [row for row in material.train if row.label == label]
        for number, (name, row) in enumerate(zip(names, real, strict=True)):
            yield "real", name, material.root / row.path
            yield "codebook", name, codebook / f"{row.clip_id}.wav"
            yield "floor", name, material.root / material.train[rng.integers(len(material.train))].path
            yield "another", name, material.root / alike[rng.integers(len(alike))].path
            yield "one each", name, _sample(made, seen[number % len(seen)], number // len(seen) % samples)
        for number, row in enumerate(seen):
            for take in range(samples):
                name = f"{names[number % len(real)]}/{number // len(real) * samples + take}"
                yield "generated", name, _sample(made, row, take)


def _sample(made: Path, row: Row, take: int) -> Path:
    return made / row.clip_id / f"{take}.wav"


def as_signals(material: Material, made: Path, clip: Clip) -> dict[str, Any]:
    """Measure the signals of generated and real sounds by label, and the faults of the generated ones."""
    ours = {label: [measured(path, clip) for row in rows for path in _samples(made, row)] for label, rows in material.seen.items()}
    theirs = {label: [signals.measure(real_sound(material, row, clip), clip) for row in rows] for label, rows in material.real.items()}
    everything = [one for sounds in ours.values() for one in sounds]
    return {"labels": {label: signals.compare(ours[label], theirs[label]) for label in ours}, "faults": signals.faults(everything)}


def _samples(made: Path, row: Row) -> list[Path]:
    return sorted((made / row.clip_id).glob("*.wav"))


def measured(path: Path, clip: Clip) -> signals.Signal:
    """Measure the signal of a generated sound."""
    return signals.measure(read_audio(path, clip.sample_rate), clip)


def real_sound(material: Material, row: Row, clip: Clip) -> np.ndarray:
    """Read a real sound, and preprocess it as for training."""
    waveform = read_audio(material.root / row.path, clip.sample_rate)
    trimmed = trim_silent_ends(waveform)
    return normalise_loudness(trimmed if len(trimmed) >= clip.column_samples else waveform, clip.sample_rate)


def pairs_of(material: Material, made: Path, clip: Clip) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield a label with a generated and a real sound for each pair on the sheet, with the labels in turn."""
    labels = list(material.seen)
    for number in range(SHEET):
        label, turn = labels[number % len(labels)], number // len(labels)
        seen, real = material.seen[label], material.real[label]
        waveform = read_audio(_sample(made, seen[turn % len(seen)], 0), clip.sample_rate)
        yield label, {"made": waveform, "real": real_sound(material, real[turn % len(real)], clip)}


def as_markdown(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables."""
    made = results["made"]
    settings = f"top-k {made['top_k']}, temperature {made['temperature']}, seed {made['seed']}"
    yield f"{made['model']}, weights {made['weights'][:12]}, {settings}; {made['samples']} sounds per image or video."
    yield ""
    if "labels" in results:
        yield from _labels_table(results["labels"])
    if "signal" in results:
        yield from _signal_tables(results["signal"])
    if "timing" in results:
        yield from _timing_table(results["timing"])


def _labels_table(report: dict[str, Any]) -> Iterator[str]:
    systems = {system["name"]: system for system in (report["reference"], *report["systems"])}
    real = systems["another"]["figures"] | systems["reference"]["figures"]  # the reference has no distance to itself
    rows = {"generated": systems["generated"]["figures"], "one each": systems["one each"]["figures"]}
    rows |= {"codebook": systems["codebook"]["figures"], "real": real, "floor": systems["floor"]["figures"]}
    about = report["classifier"]
    yield f"Classifier: a {about['kind']} of {about['classes']} classes, digest {about['digest']}. 95 % intervals in brackets."
    yield ""
    yield from ("| | sounds | FID | MKL | top-1 % | top-5 % |", "| --- | --- | --- | --- | --- | --- |")
    for name, figures in rows.items():
        shown = (_figure(figures.get(key), factor) for key, factor in (("fid", 1), ("mkl", 1), ("top1", 100), ("top5", 100)))
        yield f"| {name} | {figures['top1']['samples']} | {' | '.join(shown)} |"
    yield ""


def _figure(figure: dict[str, Any] | None, factor: float) -> str:
    if not figure:
        return ""
    value = f"{figure['value'] * factor:.2f}"
    return value if figure["interval"] is None else f"{value} ({_interval(figure['interval'], factor)})"


def _interval(interval: tuple[float, float], factor: float) -> str:
    return " to ".join(f"{end * factor:.2f}" for end in interval)


def _signal_tables(found: dict[str, Any]) -> Iterator[str]:
    yield "| generated / real | spectral distance, dB | LUFS | RMS, dB | peak, dB | onsets per second |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for label, row in found["labels"].items():
        sides = (f"{row[f'{name}_made']:.1f} / {row[f'{name}_real']:.1f}" for name in ("lufs", "rms_db", "peak_db", "onsets"))
        yield f"| {label} | {row['spectrum_db']:.1f} | {' | '.join(sides)} |"
    faults = found["faults"]
    yield ""
    yield (
        f"Of {faults['sounds']} generated sounds, {faults['clipped_sounds']:.1%} are clipped ({faults['clipped_samples']:.2%} of samples) "
        f"and {faults['silent_sounds']:.1%} are silent. The largest DC offset is {faults['largest_offset']:.5f}. The loudness differs from "
        f"the target by {faults['lufs_away']:.2f} LU in the mean and {faults['lufs_furthest']:.2f} LU at most."
    )
    yield ""


def _timing_table(found: dict[str, Any]) -> Iterator[str]:
    yield from ("| timing | F1 % | precision % | recall % |", "| --- | --- | --- | --- |")
    for which in ("held out", "all"):
        table = found[which]
        for way, row in table.get("rows", {}).items():
            interval = _interval(row["interval"], 100)
            shares = f"{100 * row['precision']:.1f} | {100 * row['recall']:.1f}"
            yield f"| {which} ({table['videos']}): {way} | {100 * row['f1']:.1f} ({interval}) | {shares} |"
    yield ""
    for which in ("held out", "all"):
        if above := found[which].get("above_chance"):
            yield f"Above chance, mean of {which} videos: {100 * above['f1']:.1f} % ({_interval(above['interval'], 100)})."
    yield ""


if __name__ == "__main__":
    main()

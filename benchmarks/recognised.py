"""Recognisability of generated sounds by YAMNet, an independent classifier that was not used in training.

    pip install ai-edge-litert
    python benchmarks/recognised.py work/manifest.parquet OUT --yamnet yamnet.tflite [--model everyday] [--sounds 2] [--every 1]

The manifest is from `unsilent data manifest`; yamnet.tflite is the AudioSet classifier on TensorFlow Hub. A sound is recognised if
the class mean nearest to its embedding is that of its own class. A class mean is the mean embedding of at most ten training recordings;
classes with fewer than five are left out.
The sounds are written to OUT, and a second call reuses them:

- `real`: one held-out recording of each class, its first six seconds
- `codes`: the same recordings, reconstructed from the code levels that the sampler predicts
- `label`: `--sounds` sounds of five seconds for each class, with its name as label; each is
  the best of its candidates, as in `unsilent generate`
- `picture`: as many for each held-out picture, at most two pictures per class
- `long`: like `label`, but sounds of 30 s, cut into the stretches 0 to 5, 5 to 10, 10 to 20 and 20 to 30 s
- `label-one`, `picture-one` and `long-one`: the same with a single candidate, so without ranking

OUT/recognised.json has all numbers. The table gives top-1 and top-3 accuracy. `--every 3` uses only every third
class. A run takes 20 minutes on two cores.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

import unsilent
from unsilent.data.manifest import Row, read_manifest
from unsilent.generation.leads import known_codes
from unsilent.media.audio import read_audio
from unsilent.media.sounds import write_sound
from unsilent.signal.loudness import normalise_loudness
from unsilent.vision.scene import Scene

FEWEST, MOST = 5, 10  # training recordings of a class
PICTURES = 2  # images per class
REAL_SECONDS, MADE_SECONDS, LONG_SECONDS = 6.0, 5.0, 30.0
STRETCHES = (0, 5), (5, 10), (10, 20), (20, 30)  # seconds of a long sound
RATE, WINDOW = 16000, 15600  # sample rate in Hz and frame length in samples of YAMNet
BETWEEN = 0.5  # hop, as a fraction of a frame


class YAMNet:
    """Embeddings of YAMNet, averaged over frames of 0.98 s."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.network = Interpreter(str(path), experimental_preserve_all_tensors=True, num_threads=1)
        self.network.allocate_tensors()
        (self.embedding,) = [one["index"] for one in self.network.get_tensor_details() if one["shape"].tolist() == [1, 1024]]

    def __call__(self, path: Path) -> Float[np.ndarray, "1024"]:
        """Return the embedding of a file; sounds shorter than a frame are repeated."""
        waveform = read_audio(path, RATE)
        waveform = np.resize(waveform, max(WINDOW, len(waveform))) if len(waveform) < WINDOW else waveform
        found = []
        for start in range(0, len(waveform) - WINDOW + 1, int(WINDOW * BETWEEN)):
            self.network.set_tensor(0, waveform[start : start + WINDOW])
            self.network.invoke()
            found.append(self.network.get_tensor(self.embedding)[0].copy())
        return np.mean(found, 0)


def main() -> None:
    """Generate, classify, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--yamnet", type=Path, required=True, help="yamnet.tflite")
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--sounds", type=int, default=2, help="for each label or picture")
    parser.add_argument("--every", type=int, default=1, help="use only every N-th class")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    root, rows = read_manifest(options.manifest)
    sounds, held_out, pictures = (defaultdict[str, list[Row]](list) for _ in range(3))
    for row in rows:
        if row.kind == "sound" and row.label:
            (sounds if row.split == "train" else held_out)[row.label].append(row)
        elif row.kind == "image" and row.split != "train":
            pictures[row.label].append(row)
    classes = sorted(name for name, found in sounds.items() if len(found) >= FEWEST)
    listener, pipeline = YAMNet(options.yamnet), unsilent.load(options.model, device="cpu", precision="float32")
    means = _means(listener, root, {name: sounds[name] for name in classes}, options.out / "means.npz")
    asked = [name for name in classes if held_out[name]][:: options.every]
    results: dict[str, Any] = {"classes": len(classes), "model": options.model, "weights": pipeline.parts.fingerprint, "parts": {}}
    for part in options.parts:
        table = options.out / f"{part}.json"
        if not table.exists():
            made = [str(path.relative_to(options.out)) for path in PARTS[part](pipeline, root, asked, held_out, pictures, options)]
            table.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        by_folder = defaultdict[str, list[str]](list)
        for name in json.loads(table.read_text(encoding="utf-8")):
            by_folder[Path(name).parts[0]].append(name)
        for folder, names in by_folder.items():
            ranks = np.array([rank_of(listener(options.out / name), Path(name).parts[1], classes, means) for name in names])
            n_classes = len({Path(name).parts[1] for name in names})
            right = {"first": float((ranks < 1).mean()), "three": float((ranks < 3).mean())}
            results["parts"][folder] = {"sounds": len(names), "classes": n_classes, **right}
    (options.out / "recognised.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{options.model}, weights {pipeline.parts.fingerprint}, {len(classes)} classes\n")
    print("| | sounds | classes | nearest | among three |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for part, one in results["parts"].items():
        print(f"| {part} | {one['sounds']} | {one['classes']} | {one['first']:.3f} | {one['three']:.3f} |")


def _means(listener: YAMNet, root: Path, sounds: dict[str, list[Row]], path: Path) -> Float[np.ndarray, "classes 1024"]:
    """Compute the mean embedding of each class, or read it from a file of an earlier call."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = {name: found[:: max(1, len(found) // MOST)][:MOST] for name, found in sounds.items()}
        np.savez(path, means=np.stack([np.mean([listener(root / row.path) for row in found], 0) for found in chosen.values()]))
    return np.load(path)["means"]


def rank_of(embedding: Float[np.ndarray, "1024"], name: str, classes: list[str], means: Float[np.ndarray, "classes 1024"]) -> int:
    """Count the classes that are nearer than the true one, by cosine similarity of centred embeddings."""
    centre = means.mean(0)
    cosines = _unit(means - centre) @ _unit(embedding - centre)
    return int((cosines > cosines[classes.index(name)]).sum())


def _unit(x: Float[np.ndarray, "*n 1024"]) -> Float[np.ndarray, "*n 1024"]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def real(pipeline: unsilent.Pipeline, root: Path, names: list[str], held_out: dict, _: dict, options: argparse.Namespace) -> Iterator:
    """Write held-out recordings."""
    for name in names:
        yield from _written(options.out / "real" / name, [_held_out(pipeline, root, held_out[name])], pipeline)


def codes(pipeline: unsilent.Pipeline, root: Path, names: list[str], held_out: dict, _: dict, options: argparse.Namespace) -> Iterator:
    """Write the held-out recordings, reconstructed from the code levels that are sampled."""
    codec = pipeline.codec
    for name in names:
        waveform = _held_out(pipeline, root, held_out[name])
        grid = codec.encode(waveform)[: pipeline.parts.sampler.config.clip.rows]
        yield from _written(options.out / "codes" / name, [codec.vocode(codec.decode(grid)).numpy()[: len(waveform)]], pipeline)


def _held_out(pipeline: unsilent.Pipeline, root: Path, rows: list[Row]) -> Float[np.ndarray, "samples"]:
    row, rate = rows[np.random.default_rng(0).permutation(len(rows))[0]], pipeline.clip.sample_rate
    return normalise_loudness(read_audio(root / row.path, rate)[: round(REAL_SECONDS * rate)], rate)


def label(
    pipeline: unsilent.Pipeline, root: Path, names: list[str], _: dict, pictures: dict, options: argparse.Namespace, **fields: Any
) -> Iterator:
    """Write sounds that are generated from a label and a grey image."""
    for name in names:
        made = _made(pipeline, _grey(options), options, label=name, **fields)
        yield from _written(options.out / folder_of("label", fields) / name, made, pipeline)


def long(
    pipeline: unsilent.Pipeline, root: Path, names: list[str], _: dict, pictures: dict, options: argparse.Namespace, **fields: Any
) -> Iterator:
    """Write the stretches of long sounds that are generated from a label and a grey image."""
    rate = pipeline.clip.sample_rate
    for name in names:
        for number, waveform in enumerate(_made(pipeline, _grey(options), options, LONG_SECONDS, label=name, **fields)):
            for start, stop in STRETCHES:
                folder = options.out / f"{folder_of('long', fields)} {start} to {stop} s" / name
                yield from _written(folder, [waveform[start * rate : stop * rate]], pipeline, f"{number}-")


def _grey(options: argparse.Namespace) -> Path:
    path = options.out / "grey.png"
    Image.new("RGB", (64, 64), (128, 128, 128)).save(path)
    return path


def picture(
    pipeline: unsilent.Pipeline, root: Path, names: list[str], _: dict, pictures: dict, options: argparse.Namespace, **fields: Any
) -> Iterator:
    """Write sounds that are generated for held-out images."""
    for name in names:
        for number in np.random.default_rng(1).permutation(len(pictures[name]))[:PICTURES]:
            made = _made(pipeline, root / pictures[name][number].path, options, **fields)
            yield from _written(options.out / folder_of("picture", fields) / name, made, pipeline, f"{number}-")


def folder_of(part: str, fields: dict[str, Any]) -> str:
    """Folder of a part, by whether candidates are ranked."""
    return f"{part}-one" if fields else part


@torch.inference_mode()
def _made(
    pipeline: unsilent.Pipeline, image: Path, options: argparse.Namespace, seconds: float = MADE_SECONDS, **fields: Any
) -> Iterator[np.ndarray]:
    n_samples = round(seconds * pipeline.clip.sample_rate)
    for seed in range(options.sounds):
        request = pipeline.resolve(seed=seed, **fields)
        plan, observation, request = pipeline.plan_and_observe(Scene(image, 0.0), pipeline.clip.columns_for(n_samples), request)
        conditions, known = pipeline.conditions(plan, observation, request), known_codes(pipeline.parts, plan, observation, request)
        judge = pipeline.judge(plan, observation, request)
        grids = pipeline.sample(plan, conditions, request, known, audition=judge.audition)
        yield pipeline.codec.vocode(pipeline.codec.decode(grids[judge.rank(grids)[0].take])).numpy()[:n_samples]


def _written(folder: Path, waveforms: Iterable[np.ndarray], pipeline: unsilent.Pipeline, prefix: str = "") -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, waveform in enumerate(waveforms):
        path = folder / f"{prefix}{number}.wav"
        write_sound(path, np.clip(waveform, -1, 1), pipeline.clip.sample_rate)
        yield path


PARTS = {
    "real": real,
    "codes": codes,
    "label": label,
    "picture": picture,
    "label-one": partial(label, candidates=1),
    "picture-one": partial(picture, candidates=1),
    "long": long,
    "long-one": partial(long, candidates=1),
}

if __name__ == "__main__":
    main()

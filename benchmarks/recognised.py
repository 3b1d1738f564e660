"""Whether a listener from outside recognises made sounds: YAMNet, with which nothing here was trained.

    pip install ai-edge-litert
    python benchmarks/recognised.py work/manifest.parquet OUT --yamnet yamnet.tflite [--model everyday] [--takes 4] [--every 1]

The manifest is from `unsilent data manifest`; yamnet.tflite is the classifier of AudioSet that TensorFlow Hub publishes. A sound is right
where the nearest mean embedding of a class's recordings is its own: at most ten training recordings of each class that has five. Written
to OUT, and kept by a second call, are:

- `real`: one held-out recording of each class, its first six seconds, and `codes`: the same through the sampler's levels of codes
- `label`: `--takes` sounds of five seconds for each class by its name
- `picture`: as many for each of two held-out pictures of each class that has some

OUT/recognised.json has all numbers. The table gives the share of sounds that are right first and among three: of all that were sampled, and
of the best of `--takes`, as `unsilent generate` ranks them. `--every 3` takes each third class only. Takes 25 minutes on two cores.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

import unsilent
from unsilent.data.manifest import Row, read_manifest
from unsilent.generation.conditions import seen_classes
from unsilent.generation.leads import known_codes
from unsilent.generation.ranking import agreement
from unsilent.media.audio import read_audio
from unsilent.media.sounds import write_sound
from unsilent.signal.loudness import normalise_loudness
from unsilent.vision.scene import Scene

FEWEST, MOST = 5, 10  # training recordings of a class
PICTURES = 2  # of each class
REAL_SECONDS, MADE_SECONDS = 6.0, 5.0
RATE, WINDOW = 16000, 15600  # samples a second, and of one frame of YAMNet
BETWEEN = 0.5  # of a frame, to the next


class YAMNet:
    """Embeddings of YAMNet, means over frames of 0.98 s."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.network = Interpreter(str(path), experimental_preserve_all_tensors=True, num_threads=1)
        self.network.allocate_tensors()
        (self.embedding,) = [one["index"] for one in self.network.get_tensor_details() if one["shape"].tolist() == [1, 1024]]

    def __call__(self, path: Path) -> Float[np.ndarray, "1024"]:
        """Embedding of a file; sounds shorter than a frame are repeated."""
        waveform = read_audio(path, RATE)
        waveform = np.resize(waveform, max(WINDOW, len(waveform))) if len(waveform) < WINDOW else waveform
        found = []
        for start in range(0, len(waveform) - WINDOW + 1, int(WINDOW * BETWEEN)):
            self.network.set_tensor(0, waveform[start : start + WINDOW])
            self.network.invoke()
            found.append(self.network.get_tensor(self.embedding)[0].copy())
        return np.mean(found, 0)


def main() -> None:
    """Make, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--yamnet", type=Path, required=True, help="yamnet.tflite")
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--takes", type=int, default=4, help="sounds for each label or picture")
    parser.add_argument("--every", type=int, default=1, help="each N-th class only")
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
            made = {
                str(path.relative_to(options.out)): score for path, score in PARTS[part](pipeline, root, asked, held_out, pictures, options)
            }
            table.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        scores = json.loads(table.read_text(encoding="utf-8"))
        ranks = {name: rank_of(listener(options.out / name), Path(name).parts[1], classes, means) for name in scores}
        results["parts"][part] = judged(ranks, scores, options.takes)
    (options.out / "recognised.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{options.model}, weights {pipeline.parts.fingerprint}, {len(classes)} classes\n")
    print("| | sounds | classes | right first | among three |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for part, ways in results["parts"].items():
        for way, one in ways.items():
            print(f"| {part}, {way} | {one['sounds']} | {one['classes']} | {one['first']:.3f} | {one['three']:.3f} |")


def _means(listener: YAMNet, root: Path, sounds: dict[str, list[Row]], path: Path) -> Float[np.ndarray, "classes 1024"]:
    """Mean embedding of each class."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = {name: found[:: max(1, len(found) // MOST)][:MOST] for name, found in sounds.items()}
        np.savez(path, means=np.stack([np.mean([listener(root / row.path) for row in found], 0) for found in chosen.values()]))
    return np.load(path)["means"]


def rank_of(embedding: Float[np.ndarray, "1024"], name: str, classes: list[str], means: Float[np.ndarray, "classes 1024"]) -> int:
    """How many classes are nearer than the right one, by cosine without the mean of all."""
    centre = means.mean(0)
    cosines = _unit(means - centre) @ _unit(embedding - centre)
    return int((cosines > cosines[classes.index(name)]).sum())


def _unit(x: Float[np.ndarray, "*n 1024"]) -> Float[np.ndarray, "*n 1024"]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def judged(ranks: dict[str, int], scores: dict[str, float | None], takes: int) -> dict[str, dict[str, float]]:
    """Shares of all sounds, and of the best of each label or picture."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in ranks:
        groups[name.rsplit("-", 1)[0]].append(name)
    ways = {"all": list(ranks)}
    if all(score is not None for score in scores.values()):
        ways[f"best of {takes}"] = [max(names, key=lambda name: scores[name]) for names in groups.values()]
    found = {}
    for way, names in ways.items():
        right = np.array([ranks[name] for name in names])
        n_classes = len({Path(name).parts[1] for name in names})
        found[way] = {"sounds": len(names), "classes": n_classes, "first": float((right < 1).mean()), "three": float((right < 3).mean())}
    return found


def real(pipeline: unsilent.Pipeline, root: Path, names: list[str], held_out: dict, _: dict, options: argparse.Namespace) -> Iterator:
    """Held-out recordings."""
    for name in names:
        yield from _written(options.out / "real" / name, [_held_out(pipeline, root, held_out[name])], [None], pipeline)


def codes(pipeline: unsilent.Pipeline, root: Path, names: list[str], held_out: dict, _: dict, options: argparse.Namespace) -> Iterator:
    """The same through as many levels of codes as are sampled."""
    codec = pipeline.codec
    for name in names:
        waveform = _held_out(pipeline, root, held_out[name])
        grid = codec.encode(waveform)[: pipeline.parts.sampler.config.clip.rows]
        yield from _written(options.out / "codes" / name, [codec.vocode(codec.decode(grid)).numpy()[: len(waveform)]], [None], pipeline)


def _held_out(pipeline: unsilent.Pipeline, root: Path, rows: list[Row]) -> Float[np.ndarray, "samples"]:
    row, rate = rows[np.random.default_rng(0).permutation(len(rows))[0]], pipeline.clip.sample_rate
    return normalise_loudness(read_audio(root / row.path, rate)[: round(REAL_SECONDS * rate)], rate)


def label(pipeline: unsilent.Pipeline, root: Path, names: list[str], _: dict, pictures: dict, options: argparse.Namespace) -> Iterator:
    """Sounds whose class is named; there is nothing to see."""
    grey = options.out / "grey.png"
    Image.new("RGB", (64, 64), (128, 128, 128)).save(grey)
    for name in names:
        yield from _written(options.out / "label" / name, *_made(pipeline, grey, takes=options.takes, label=name), pipeline)


def picture(pipeline: unsilent.Pipeline, root: Path, names: list[str], _: dict, pictures: dict, options: argparse.Namespace) -> Iterator:
    """Sounds for held-out pictures."""
    for name in names:
        for number in np.random.default_rng(1).permutation(len(pictures[name]))[:PICTURES]:
            path = root / pictures[name][number].path
            yield from _written(options.out / "picture" / name, *_made(pipeline, path, takes=options.takes), pipeline, f"{number}-")


def _made(pipeline: unsilent.Pipeline, image: Path, **fields: Any) -> tuple[list[np.ndarray], list[float]]:
    """All candidates as one take each, and their scores."""
    n_samples = round(MADE_SECONDS * pipeline.clip.sample_rate)
    request = pipeline.resolve(candidates=1, **fields)
    plan, observation, request = pipeline.plan_and_observe(Scene(image, 0.0), pipeline.clip.columns_for(n_samples), request)
    conditions, known = pipeline.conditions(plan, observation, request), known_codes(pipeline.parts, plan, observation, request)
    with torch.inference_mode():
        grids = pipeline.sample(plan, conditions, request, known)
        seen = seen_classes(pipeline.parts.sampler, plan, observation, request, pipeline.parts.classes)
        scores = agreement(pipeline.codec, pipeline.parts.ranker, grids, seen).tolist()
        return [pipeline.codec.vocode(pipeline.codec.decode(grid)).numpy()[:n_samples] for grid in grids], scores


def _written(folder: Path, waveforms: list[np.ndarray], scores: list, pipeline: unsilent.Pipeline, prefix: str = "") -> Iterator:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (waveform, score) in enumerate(zip(waveforms, scores, strict=True)):
        path = folder / f"{prefix}{number}.wav" if prefix else folder / f"0-{number}.wav"
        write_sound(path, np.clip(waveform, -1, 1), pipeline.clip.sample_rate)
        yield path, score


PARTS = {"real": real, "codes": codes, "label": label, "picture": picture}

if __name__ == "__main__":
    main()

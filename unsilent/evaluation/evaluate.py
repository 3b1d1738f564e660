"""Folders of generated sounds against a folder of real ones: what they are, what a classifier says of them, and all figures of that.

    study = find(reference, generated, labels="folders")
    hearing = ResultCache(out / "heard", judge)
    bad = evaluation.classify.classify_all(hearing, study.keys)
    evaluation = evaluate(study, hearing, bad)

Files are taken in the order of their names, each is judged alone, and every draw has a seed: a result depends on neither the order of files
nor the number of workers.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unsilent.errors import DataError, ParameterError
from unsilent.evaluation.cache import ResultCache, digest
from unsilent.evaluation.classifier import Classifier
from unsilent.evaluation.ground_truth import Truth, read_manifest_truth, read_truth
from unsilent.evaluation.scores import ClassFigures, Figure, Judged, accuracy, by_class, fidelity, relevance, variety
from unsilent.evaluation.sounds import Names, Sound, find_sounds, take_number
from unsilent.metrics.statistics import log_softmax

ABOUT = "samples.json"  # in a generated folder: what made it
_ABOUT_KEYS = ("model", "seed", "top_k", "temperature")
_SETTING = re.compile(r"[\W_]*(top[-_]k|[A-Za-z]+)=(\d+(?:\.\d+)?)")

Bad = dict[bytes, str]


@dataclass(frozen=True)
class Folder:
    """Sounds of one system, or the real ones.

    Attributes:
        name: what reports call it.
        path: where it is.
        sounds: sorted by clip and number of the sample.
        clips: of the reference that each is a sample of, None where there is none; of the reference, the sounds' own names.
        settings: that it says it was made with.
    """

    name: str
    path: Path
    sounds: list[Sound]
    clips: list[str | None]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """What is known of one file; `why` says why it could not be judged, and the rest is then empty."""

    system: str
    clip: str | None
    sound: Sound
    why: str = ""
    heard_as: str = ""
    probability: float | None = None
    mkl: float | None = None
    top1: bool | None = None
    top5: bool | None = None


@dataclass(frozen=True)
class System:
    """All that was found of one folder.

    Attributes:
        name, settings: as of `Folder`.
        figures: by name; one that cannot be counted is not there.
        classes: the same by label.
        samples: all its files.
        unpaired: names of sounds without a real one.
        missing: names of real sounds without any of this folder.
        warnings: what speaks against all of its figures.
    """

    name: str
    settings: dict[str, Any]
    figures: dict[str, Figure]
    classes: list[ClassFigures]
    samples: list[Sample]
    unpaired: list[str]
    missing: list[str]
    warnings: list[str]

    @property
    def bad(self) -> list[Sample]:
        """Files that could not be judged."""
        return [sample for sample in self.samples if sample.why]


@dataclass(frozen=True)
class Evaluation:
    """A whole report.

    Attributes:
        judge: the classifier.
        real: the reference; its figures say how well the classifier knows real sounds.
        halves: FID and KID of one half of the reference against the other: what a perfect system of half as many clips would get.
        systems: one for each generated folder, in the order given.
        truth: labels of the clips of the reference.
        seed: of all intervals and halves.
    """

    judge: Classifier
    real: System
    halves: dict[str, Figure]
    systems: list[System]
    truth: Truth
    seed: int


@dataclass(frozen=True)
class Study:
    """What is to be judged: the first folder is the reference."""

    folders: list[Folder]
    truth: Truth
    keys: dict[Sound, bytes]


def find(
    reference: Path, generated: Sequence[Path], labels: str | None = None, manifest: Path | None = None, split: str | None = None
) -> Study:
    """Look what there is to judge.

    Args:
        reference: folder of real sounds; the name of a clip is its path without suffix.
        generated: folders of any systems; see `Names.clip_of` for how their files pair with clips.
        labels: as of `read_truth`.
        manifest: as of `read_manifest_truth`, instead of `labels`.
        split: of the manifest; other real sounds are left out.

    Raises:
        ParameterError: if a folder holds no sounds, two are called the same, both `labels` and `manifest` are given, or a split without a
            manifest, or there is nothing to evaluate.
        DataError: if labels or `samples.json` cannot be read.
    """
    if labels and manifest:
        raise ParameterError(f"labels are given twice, by {labels} and by {manifest}; leave out one.")
    if split and not manifest:
        raise ParameterError(f"the split {split!r} was asked for, but no manifest tells splits; give one with --manifest.")
    if not generated and not labels and not manifest:
        raise ParameterError("there is nothing to evaluate: give folders with --generated, or labels to test the classifier against.")
    real = find_sounds(reference)
    names, truth = [sound.name for sound in real], {}
    if manifest:
        truth, names = read_manifest_truth(manifest, names, split)
    elif labels:
        truth = read_truth(labels, names)
    kept = set(names)
    folders = [Folder("reference", reference, [sound for sound in real if sound.name in kept], list(names), {})]
    known = Names(names)
    for path, name in zip(generated, _unlike(generated), strict=True):
        pairs = [(known.clip_of(sound.name), sound) for sound in find_sounds(path)]
        pairs.sort(key=lambda pair: (pair[0] or pair[1].name, take_number(pair[1].name), pair[1].name))
        folders.append(Folder(name, path, [sound for _, sound in pairs], [clip for clip, _ in pairs], _settings(path)))
    return Study(folders, truth, {sound: digest(sound) for folder in folders for sound in folder.sounds})


def _unlike(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many before it as it takes to tell all apart."""
    parts = [Path(os.path.abspath(path)).parts for path in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len({*names, "reference"}) == len(names) + 1:
            return names
    if folders:
        raise ParameterError(f"the folder {folders[0]} is given more than once; name each of the generated folders once.")
    return []


def _settings(folder: Path) -> dict[str, Any]:
    """What `samples.json` says, else what the folder's name has in it, such as `top-k=64`."""
    path = folder / ABOUT
    if not path.exists():
        return {name.replace("-", "_"): float(value) for name, value in _SETTING.findall(os.path.basename(os.path.abspath(folder)))}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(about, dict):
        raise DataError(f"{path} must hold an object with {', '.join(_ABOUT_KEYS)}.")
    return {key: about[key] for key in _ABOUT_KEYS if isinstance(about.get(key), str | int | float)}


def evaluate(
    study: Study, hearing: ResultCache, bad: Bad, seed: int = 0, progress: Callable[[int, str], None] = lambda done, name: None
) -> Evaluation:
    """Count all figures.

    Args:
        study: that was judged.
        hearing: what the classifier said.
        bad: why files could not be judged, as `evaluation.classify.classify_all` gives it.
        seed: of the resamples behind intervals, and of the halves of the reference.
        progress: told how many folders are done, and the name of the next. With 2048 numbers in a feature and as many sounds or more, one
            takes several minutes, nearly all for the interval of its FID.

    Raises:
        DataError: if no sound of a folder could be judged.
    """
    judged = [_judged(folder, study, hearing, bad) for folder in study.folders]
    real, systems = judged[0], []
    for done, (folder, made) in enumerate(zip(study.folders, judged, strict=True)):
        progress(done, folder.name)
        systems.append(_system(folder, made, real, study, bad, hearing.judge, seed))
    order = np.random.default_rng(seed).permutation(len(real.sounds))
    halves = [real.take(np.sort(half)) for half in np.array_split(order, 2)]
    return Evaluation(hearing.judge, systems[0], fidelity(*halves, seed), systems[1:], study.truth, seed)


def _judged(folder: Folder, study: Study, hearing: ResultCache, bad: Bad) -> Judged:
    good = [row for row, sound in enumerate(folder.sounds) if study.keys[sound] not in bad]
    if not good:
        why = bad[study.keys[folder.sounds[0]]]
        raise DataError(f"none of the {len(folder.sounds)} sounds in {folder.path} can be judged; of the first: {why}")
    sounds = [folder.sounds[row] for row in good]
    return Judged(sounds, [folder.clips[row] for row in good], *hearing.of([study.keys[sound] for sound in sounds]))


def _system(folder: Folder, made: Judged, real: Judged, study: Study, bad: Bad, judge: Classifier, seed: int) -> System:
    figures, per_sample = {}, {}
    if made is not real:
        mkl, per_sample["mkl"] = relevance(real, made, seed)
        figures = fidelity(real, made, seed) | mkl
    exact, found = accuracy(made, judge, study.truth, seed)
    figures |= variety(made, judge, seed) | exact
    per_sample |= found
    chances = np.exp(log_softmax(made.logits))
    samples = {
        sound: Sample(folder.name, clip, sound, bad.get(study.keys[sound], ""))
        for sound, clip in zip(folder.sounds, folder.clips, strict=True)
    }
    for row, sound in enumerate(made.sounds):
        best = int(chances[row].argmax())
        told = {name: _plain(values[row], name) for name, values in per_sample.items()}
        samples[sound] = Sample(folder.name, made.clips[row], sound, "", judge.classes[best], float(chances[row, best]), **told)
    heard = set(made.clips)
    return System(
        folder.name,
        folder.settings,
        figures,
        by_class(made, study.truth, per_sample, seed),
        list(samples.values()),
        [sound.name for sound, clip in zip(made.sounds, made.clips, strict=True) if clip is None],
        [clip for clip in real.clips if clip not in heard],
        _warnings(folder, made, real),
    )


def _warnings(folder: Folder, made: Judged, real: Judged) -> list[str]:
    left, mels = len(folder.sounds) - len(made.sounds), sum(sound.is_mel for sound in made.sounds)
    said = (
        [f"{left} of {len(folder.sounds)} files could not be judged and are left out, which flatters a system that fails"] if left else []
    )
    if 0 < mels < len(made.sounds):
        said.append(f"{mels} were judged by their mels, the others by their sounds")
    elif (mels > 0) != any(sound.is_mel for sound in real.sounds):
        said.append(f"judged by {'mels' if mels else 'sounds'}, the reference by {'sounds' if mels else 'mels'}")
    return said


def _plain(value: float, name: str) -> float | bool | None:
    """NaN means that there is nothing to tell."""
    if np.isnan(value):
        return None
    return float(value) if name == "mkl" else bool(value)


def sweeps(systems: Sequence[System]) -> dict[str, dict[str, list[tuple[float, System]]]]:
    """Settings that differ between systems of one model: setting → model → its systems by value."""
    found: dict[str, dict[str, list[tuple[float, System]]]] = {}
    for setting in ("top_k", "temperature", *sorted({name for system in systems for name in system.settings} - set(_ABOUT_KEYS))):
        lines: dict[str, list[tuple[float, System]]] = {}
        for system in systems:
            value = system.settings.get(setting)
            if isinstance(value, int | float):
                others = {name: other for name, other in system.settings.items() if name not in (setting, "model", "seed")}
                model = str(system.settings.get("model") or _SETTING.sub("", os.path.basename(system.name)) or "samples")
                line = ", ".join([model, *(f"{name} {other:g}" for name, other in sorted(others.items()))])
                lines.setdefault(line, []).append((float(value), system))
        lines = {line: sorted(points, key=lambda point: point[0]) for line, points in lines.items() if len({x for x, _ in points}) > 1}
        if lines:
            found[setting] = lines
    return found

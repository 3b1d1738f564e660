"""Samples several sounds for each clip of a manifest, over processes or machines. An interrupted job resumes.

`OUT/CLIP/NUMBER.mel.npy` (or `.wav`) is a sample; `OUT/samples.json` has the settings of all samples. The folder of a clip is renamed into
place when it is complete. Sample n of a clip is take n with the clip's own seed, so it does not depend on other clips or on workers.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from unsilent.checkpoints.bundle import fingerprint
from unsilent.checkpoints.folders import find_bundle, read_bundle, read_defaults, sampler_config
from unsilent.choices import AnyPrecision, Keep
from unsilent.data.manifest import Row, read_manifest
from unsilent.errors import DataError
from unsilent.files import atomic_write, try_lock
from unsilent.generation.leads import known_codes
from unsilent.generation.priming import load_given
from unsilent.jobs.parallel import Failed, Parallel, map_ordered
from unsilent.loading import load
from unsilent.media.sounds import write_sound
from unsilent.pipeline import Pipeline
from unsilent.presets import get
from unsilent.request import Request
from unsilent.speed.choice import choose_device, choose_precision
from unsilent.speed.threads import EXCLUSIVE, limit_threads, one_thread
from unsilent.vision.scene import Scene

KINDS = ("clip", "image")  # kinds of rows with frames
ABOUT, SUFFIXES = "samples.json", {"mel": ".mel.npy", "wav": ".wav"}
_PART, _LOCK = ".part", ".lock"


@dataclass(frozen=True)
class Recipe:
    """Settings of all samples of a folder.

    Attributes:
        model: name of an installed model, or path of a bundle folder.
        request: parameters for every clip; `seed_of` derives each clip's seed, and the manifest has the labels.
        precision: precision of the computation; `auto` is resolved once, before workers start.
        keep: `mel`, float16 `[mels, frames]` around [-1, 1] as decoded, or `wav`, 16 bits.
    """

    model: str = "everyday"
    request: Request = field(default_factory=lambda: Request(takes=10))
    precision: AnyPrecision = "auto"
    keep: Keep = "mel"

    def describe(self) -> dict[str, Any]:
        """JSON values for `samples.json`."""
        about = {"model": self.model, "samples": self.request.takes, **self.request.describe()}
        return {**about, "precision": self.precision, "keep": self.keep}


@dataclass(frozen=True)
class _Maker:
    """Loads the model once per worker, and makes all samples of a row."""

    root: Path
    recipe: Recipe

    def __call__(self) -> Callable[[Row], list[np.ndarray]]:
        recipe = self.recipe
        with one_thread():  # one thread, because bytes must not depend on the thread count
            pipeline = load(recipe.model, precision=recipe.precision)

        def make(row: Row) -> list[np.ndarray]:
            scene = Scene(self.root / row.path, row.duration_seconds, row.start_seconds)
            label = row.label or None if pipeline.parts.classes else None
            request = recipe.request.model_copy(update={"seed": seed_of(recipe.request.seed, row.clip_id), "label": label})
            with one_thread():
                mels = sample_mels(pipeline, scene, request)
                return [mel.astype(np.float16) for mel in mels] if recipe.keep == "mel" else [pipeline.codec.sound(mel) for mel in mels]

        return make


@torch.inference_mode()
def sample_mels(pipeline: Pipeline, scene: Scene, request: Request) -> list[Float[np.ndarray, "mels frames"]]:
    """Mels of exactly one clip for each take, around [-1, 1]. Their codes are the first codes of `Pipeline.takes` for this scene."""
    request = pipeline.resolve(request)
    with EXCLUSIVE, limit_threads(pipeline.threads):
        plan, observation, request = pipeline.plan_and_observe(scene, pipeline.clip.columns, request)
        conditions = pipeline.conditions(plan, observation, request)
        given = load_given(scene, request, pipeline.codec, pipeline.parts.ranker, pipeline.parts.loudness_lufs)
        known, judge = known_codes(pipeline.parts, plan, observation, request, given), pipeline.judge(plan, observation, request, given)
        grids = pipeline.sample(plan, conditions, request, known, audition=judge.audition)
        return [pipeline.codec.decode(grids[one.take]).cpu().numpy() for one in judge.rank(grids)]


def seed_of(seed: int, clip_id: str) -> int:
    """Seed of a clip, 48 bits. With it, `unsilent generate --seed` makes the same sounds for a video that has only this clip."""
    return int.from_bytes(hashlib.sha256(f"{seed} {clip_id}".encode()).digest()[:6])


class Sampling:
    """A job that writes samples into a folder, or resumes. Its `with` block locks the folder against other processes.

    Args:
        table: manifest; its clips and images are used, and its labels for models with classes.
        out: folder, created if missing.
        recipe: settings of the samples.
        split: split of the manifest; None takes all.
        most: largest number of rows, taken evenly spaced; None takes all.

    Attributes:
        rows: rows to sample.
        waiting: rows without samples; set at the start of the block.

    Raises:
        DataError: if the manifest cannot be read, has no clips or images in the split, or has a clip whose name cannot be a folder. At the
            start of the block: if the folder has samples of another recipe, or another process is writing it.
        CheckpointError: if the model is not installed.
        ParameterError: for a value out of range, or a precision that this machine does not support.
    """

    def __init__(self, table: Path, out: Path, recipe: Recipe, split: str | None = "valid", most: int | None = None) -> None:
        self.out, self.waiting = out, list[Row]()
        self._root, rows = read_manifest(table)
        self.rows = [row for row in rows if row.kind in KINDS and split in (None, row.split)]
        if not self.rows:
            raise DataError(f"{table} has no clips or images{f' of the split {split!r}' if split else ''} to make sounds for.")
        self.rows = self.rows[:: -(-len(self.rows) // most)] if most else self.rows
        for row in self.rows:
            parts = PurePosixPath(row.clip_id).parts
            if not parts or any(part.startswith((".", "/")) for part in parts):
                raise DataError(f"{table} names a clip {row.clip_id!r}, which cannot be a folder below {out}.")
        folder = find_bundle(recipe.model)
        defaults = read_defaults(folder)
        request = recipe.request.resolve(replace(defaults, classes=()))  # rows have the labels
        precision = choose_precision(recipe.precision, choose_device("auto"), sampler_config(folder))
        self._clip = get(read_bundle(folder)["preset"]).clip
        self.recipe = replace(recipe, request=request, precision=precision)
        weights = fingerprint(folder, read_bundle(folder))
        self._made_with = {**self.recipe.describe(), "model": defaults.model, "weights": weights}

    def __enter__(self) -> "Sampling":
        self.out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            if not try_lock(files.enter_context((self.out / _LOCK).open("ab")).fileno()):
                raise DataError(f"another process is writing {self.out}; wait for it, or choose another folder.")
            self._about = self._agree()
            shutil.rmtree(self.out / _PART, ignore_errors=True)  # left by a process that was killed
            self.waiting = [row for row in self.rows if not (self.out / row.clip_id).is_dir()]
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()

    def _agree(self) -> dict[str, Any]:
        """Read `samples.json` and compare it with the recipe, or write it to a new folder; returns its content."""
        path = self.out / ABOUT
        if not path.exists():
            about = {**self._made_with, "clips": {}, "failed": {}}
            self._write_about(about)
            return about
        try:
            about = json.loads(path.read_bytes())
            differing = {name: about[name] for name, value in sorted(self._made_with.items()) if about[name] != value}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{path} does not have the settings of the samples in its folder; choose another folder.") from None
        if differing:
            found = ", ".join(f"{name} {value}" for name, value in differing.items())
            asked = ", ".join(str(self._made_with[name]) for name in differing)
            raise DataError(f"the samples in {self.out} were made with {found} instead of {asked}; choose another folder.")
        return about

    def _write_about(self, about: dict[str, Any]) -> None:
        with atomic_write(self.out / ABOUT) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def run(self, spread: Parallel = Parallel()) -> Iterator[tuple[Row, str]]:
        """Make the missing samples.

        Args:
            spread: where the job runs; on machines of the same kind, the bytes do not depend on it.

        Yields:
            Each waiting row when its samples are written, with an empty string, or with the reason why it has none.

        Raises:
            UnsilentError: if no row can be sampled; see `jobs.parallel.map_ordered`.
            OSError: if the folder cannot be written.
        """
        failed, clips = self._about["failed"], self._about["clips"]
        maker = _Maker(self._root, self.recipe)
        for row, sounds in map_ordered(maker, self.waiting, spread, attrgetter("clip_id")) if self.waiting else ():
            failed.pop(row.clip_id, None)
            if isinstance(sounds, Failed):
                failed[row.clip_id] = sounds.reason
            else:
                self._write(row, sounds)
            yield row, failed.get(row.clip_id, "")
        clips |= {row.clip_id: seed_of(self.recipe.request.seed, row.clip_id) for row in self.rows if row.clip_id not in failed}
        self._write_about(self._about)

    def _write(self, row: Row, sounds: list[np.ndarray]) -> None:
        part, target = self.out / _PART, self.out / row.clip_id
        part.mkdir()
        for number, sound in enumerate(sounds):
            path = part / f"{number}{SUFFIXES[self.recipe.keep]}"
            if self.recipe.keep == "mel":
                np.save(path, sound)
            else:
                write_sound(path, sound, self._clip.sample_rate)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)

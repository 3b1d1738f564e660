"""Sounds for the clips of a manifest, several of each, spread over processes or machines: what is stopped goes on, what is bad is named.

`OUT/CLIP/NUMBER.mel.npy` (or `.wav`) is a sample, `OUT/samples.json` says what all were made with. The folder of a clip appears when it is
whole. Number n of a clip is take n of the clip's own seed, so it depends neither on other clips nor on how the work is spread.
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

from unsilent.checkpoints.bundle import fingerprint
from unsilent.checkpoints.folders import find_bundle, read_bundle, read_defaults, sampler_config
from unsilent.choices import AnyPrecision, Keep
from unsilent.data.manifest import Row, read_manifest
from unsilent.errors import DataError
from unsilent.files import atomic_write, try_lock
from unsilent.jobs.parallel import Failed, Parallel, map_ordered
from unsilent.media.audio import write_wav
from unsilent.pipeline import load
from unsilent.presets import get
from unsilent.request import Request
from unsilent.speed.choice import choose_device, choose_precision
from unsilent.speed.threads import one_thread
from unsilent.vision.scene import Scene

KINDS = ("clip", "image")  # of rows that can be looked at
ABOUT, SUFFIXES = "samples.json", {"mel": ".mel.npy", "wav": ".wav"}
_PART, _LOCK = ".part", ".lock"


@dataclass(frozen=True)
class Recipe:
    """How all samples of a folder are made.

    Attributes:
        model: name of a model whose weights are here, or path of a bundle folder.
        request: for every clip; its seed is the source of the clips' own, see `seed_of`, and its label is that of the clip.
        precision: to compute in; `auto` is settled where the job begins, for all its workers.
        keep: `mel`, float16 `[mels, frames]` around [-1, 1] as decoded; or `wav`, 16 bit.
    """

    model: str = "everyday"
    request: Request = field(default_factory=lambda: Request(takes=10))
    precision: AnyPrecision = "auto"
    keep: Keep = "mel"

    def describe(self) -> dict[str, Any]:
        """Plain values for `samples.json`."""
        about = {"model": self.model, "samples": self.request.takes, **self.request.describe()}
        return {**about, "precision": self.precision, "keep": self.keep}


@dataclass(frozen=True)
class _Maker:
    """Loads the model once per worker, and makes all samples of a row."""

    root: Path
    recipe: Recipe

    def __call__(self) -> Callable[[Row], list[np.ndarray]]:
        recipe = self.recipe
        with one_thread():  # for life, because bytes must not depend on the number of threads
            pipeline = load(recipe.model, precision=recipe.precision)

        def make(row: Row) -> list[np.ndarray]:
            scene = Scene(self.root / row.path, row.duration_seconds, row.start_seconds)
            label = row.label or None if pipeline.parts.classes else None
            request = recipe.request.model_copy(update={"seed": seed_of(recipe.request.seed, row.clip_id), "label": label})
            with one_thread():
                mels = pipeline.sample_mels(scene, request)
                return [mel.astype(np.float16) for mel in mels] if recipe.keep == "mel" else [pipeline.codec.sound(mel) for mel in mels]

        return make


def seed_of(seed: int, clip_id: str) -> int:
    """The seed of a clip, 48 bits: `unsilent generate --seed` with it makes the same sounds for a video of that clip alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {clip_id}".encode()).digest()[:6])


class Sampling:
    """A folder of samples to be made, or gone on with; used in a `with` block, which keeps other processes out of the folder.

    Args:
        table: manifest; its clips and pictures are looked at. For models with classes, their labels are said.
        out: folder, made if absent.
        recipe: what to do.
        split: of the manifest; None takes all.

    Attributes:
        rows: all that are to have samples.
        waiting: those that have none yet, once in the block.

    Raises:
        DataError: for a manifest that cannot be read or has nothing to look at in the split, or clips whose names cannot be folders;
            at the beginning of the block, for a folder that was made otherwise, or that another process is writing.
        CheckpointError: if the model is not here.
        ParameterError: for a value out of range, or a precision that this machine cannot compute.
    """

    def __init__(self, table: Path, out: Path, recipe: Recipe, split: str | None = "valid") -> None:
        self.out, self.waiting = out, list[Row]()
        self._root, rows = read_manifest(table)
        self.rows = [row for row in rows if row.kind in KINDS and split in (None, row.split)]
        if not self.rows:
            raise DataError(f"{table} has no clips or pictures{f' of the split {split!r}' if split else ''} to make sounds for.")
        for row in self.rows:
            parts = PurePosixPath(row.clip_id).parts
            if not parts or any(part.startswith((".", "/")) for part in parts):
                raise DataError(f"{table} names a clip {row.clip_id!r}, which cannot be a folder below {out}.")
        folder = find_bundle(recipe.model)
        defaults = read_defaults(folder)
        request = recipe.request.resolve(replace(defaults, classes=()))  # labels are those of the rows
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
            shutil.rmtree(self.out / _PART, ignore_errors=True)  # of one that was killed
            self.waiting = [row for row in self.rows if not (self.out / row.clip_id).is_dir()]
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()

    def _agree(self) -> dict[str, Any]:
        """What the folder says of itself, new or old."""
        path = self.out / ABOUT
        if not path.exists():
            about = {**self._made_with, "clips": {}, "failed": {}}
            self._write_about(about)
            return about
        try:
            about = json.loads(path.read_bytes())
            differing = {name: about[name] for name, value in sorted(self._made_with.items()) if about[name] != value}
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path} does not say what the samples beside it were made with; choose another folder.") from None
        if differing:
            found = ", ".join(f"{name} {value}" for name, value in differing.items())
            asked = ", ".join(str(self._made_with[name]) for name in differing)
            raise DataError(f"the samples in {self.out} were made with {found} instead of {asked}; choose another folder.")
        return about

    def _write_about(self, about: dict[str, Any]) -> None:
        with atomic_write(self.out / ABOUT) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def run(self, spread: Parallel = Parallel()) -> Iterator[tuple[Row, str]]:
        """Make what is missing.

        Args:
            spread: over what; the bytes do not depend on it, on machines of one kind.

        Yields:
            Every row when its samples lie in the folder, or, with the reason, when there will be none.

        Raises:
            UnsilentError: if the work cannot be done at all; see `jobs.parallel.map_ordered`.
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
                write_wav(path, sound, self._clip.sample_rate)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)

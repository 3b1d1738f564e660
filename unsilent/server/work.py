"""Workers, which run jobs: they load models, generate sounds, write files for the page and report progress."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.batch import recipe
from unsilent.choices import AnyPrecision, Device
from unsilent.codec.codec import Codec
from unsilent.codec.files import decode_file, encode_file
from unsilent.cues import AUTO
from unsilent.editing.opening import open_result
from unsilent.editing.retake import Retake, retake
from unsilent.editing.saving import save
from unsilent.errors import MediaError, ParameterError, ResourceError, UnsilentError
from unsilent.evaluation.classifier import Classifier, load_classifier
from unsilent.files import atomic_write
from unsilent.generation.attention import over_time
from unsilent.generation.result import Generation
from unsilent.generation.sampling import ENDED
from unsilent.generation.shaping import shaper
from unsilent.generation.sidecar import Made, find_sidecar, pointer_to, sidecar_for
from unsilent.loading import load
from unsilent.media.audio import read_audio
from unsilent.media.mux import plan_mux
from unsilent.media.probe import probe
from unsilent.media.sounds import write_sound
from unsilent.models.code_order import to_grid
from unsilent.models.transformer import Look
from unsilent.outputs import WRITABLE_SUFFIXES, samples_beside, sidecar_of
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.server import pictures
from unsilent.server.asked import Ask
from unsilent.server.downloads import write_all_projects, write_sounds
from unsilent.server.settings import EXAMPLE
from unsilent.server.store import safe_name
from unsilent.signal.mel import mel_of
from unsilent.speed.memory import is_out_of_memory

Emit = Callable[[dict[str, Any]], None]
STOP = "stop"  # file in a job's folder that requests a stop; a file also reaches workers on other machines
MODELS_KEPT = 2  # maximum number of loaded models
CLASSES = 10  # likeliest classes returned per sound
_PREVIEW_REST = 5  # minimum pause after a preview, in multiples of its computing time
_CONTEXT = 4  # code columns decoded before the new ones, so that these are decoded as in the whole sound


class _StoppedError(Exception):
    """The client has stopped the job."""


@dataclass(frozen=True)
class Task:
    """A job for a worker; picklable.

    Attributes:
        folder: folder for the results.
        source: the uploaded file.
        ask: the job's parameters, in which ids of uploads are replaced by paths.
        most_seconds: maximum length of a decoded sound.
        made: for a retake, the video with the sound to change.
        classifier: classifier of the generated sounds.
    """

    folder: Path
    source: Path
    ask: Ask
    most_seconds: float
    made: Path | None = None
    classifier: str = "everyday"

    @property
    def is_stopped(self) -> bool:
        """Whether the client has stopped the job."""
        return (self.folder / STOP).exists()


@dataclass
class Worker:
    """Owns loaded models and runs jobs; only one thread may use it.

    Attributes:
        device, precision: device and precision of all models.
        model: model that `warm` loads.
    """

    device: Device = "auto"
    precision: AnyPrecision = "auto"
    model: str = "everyday"
    _pipelines: dict[tuple[str, str], Pipeline] = field(default_factory=dict)
    _classifiers: dict[str, Classifier | None] = field(default_factory=dict)

    def warm(self) -> None:
        """Load the default model."""
        self.pipeline(self.model, "neural")

    def rehearse(self) -> None:
        """Generate one second of sound, so that the first job is as fast as later ones."""
        pipeline = self.pipeline(self.model, "neural")
        defaults = pipeline.parts.defaults
        needed = defaults.classes[0] if defaults.classes and not defaults.sees else None
        pipeline.takes(EXAMPLE, 1, seconds=1.0, label=needed)

    def pipeline(self, model: str, vocoder: str) -> Pipeline:
        """Return a model, and load it at its first use. The least recently used model is dropped."""
        key = model, vocoder
        kept = self._pipelines.pop(key, None)
        while kept is None and len(self._pipelines) >= MODELS_KEPT:
            self._pipelines.pop(next(iter(self._pipelines)))
        self._pipelines[key] = kept or load(model, self.device, self.precision, vocoder)
        return self._pipelines[key]

    def run(self, task: Task, emit: Emit) -> dict[str, Any]:
        """Run a job.

        Args:
            task: the job.
            emit: called with events: `{"stage", "share"}`, `{"mel", "start"}` for new columns of the draft, and `{"sound"}` for each
                finished sound.

        Returns:
            The result: `state`, `sounds` with the names of their files, `spent_seconds`, and further keys by kind of job.

        Raises:
            UnsilentError: if the job fails.
        """
        started = time.perf_counter()
        emit({"stage": "loading", "share": 0.0})
        does = {
            "generate": self._generate,
            "retake": self._retake,
            "reconstruct": self._reconstruct,
            "encode": self._encode,
            "decode": self._decode,
        }
        try:
            result = {"state": "done", **does[task.ask.kind](task, emit)}
        except _StoppedError:
            result = {"state": "stopped", "sounds": []}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                "the server has not enough memory for this job; choose a shorter sound, fewer takes or fewer candidates."
            ) from None
        return result | {"spent_seconds": round(time.perf_counter() - started, 3)}

    def _generate(self, task: Task, emit: Emit) -> dict[str, Any]:
        ask, pipeline = task.ask, self.pipeline(task.ask.model, task.ask.vocoder)
        request = pipeline.resolve(ask.request)
        suffix = task.source.suffix if task.source.suffix.lower() in WRITABLE_SUFFIXES else ".mkv"
        plan = plan_mux(task.source, task.folder / f"take1{suffix}", request.original)
        draft = _Draft(pipeline, emit)

        def progress(stage: str, share: float) -> None:
            if task.is_stopped and stage != "decoding":  # decoding is nearly the end of the job
                raise _StoppedError
            emit({"stage": stage, "share": round(share, 3)})

        state, notes, sampled = "done", list(plan.notes), {}
        try:
            look = Look() if ask.attention else None
            takes = pipeline.takes(task.source, request=request, progress=progress, watch=draft.watch, attention=look)
        except _StoppedError:
            takes, state = draft.keep(task.source, request), "stopped"
            sampled = {"sampled_seconds": round(draft.seconds, 3)}
            which = "each take" if (request.candidates or 1) == 1 else "one candidate of each take, not the best of all,"
            notes += [f"Stopped: {which} was sampled for {draft.seconds:.1f} s; the rest is silence."] if takes else []
        told = request.model_copy(update={name: Path(path).name for name, path in request.files().items()})  # without folders of the server
        comment = recipe(pipeline, task.source, told)
        comment += f" sampled={draft.seconds:.2f}" if sampled else ""
        sounds = []
        for number, take in enumerate(takes, start=1):
            out = task.folder / f"take{number}{suffix}"
            write_sound(samples_beside(out), take.waveform, take.sample_rate, "32f")  # unrounded samples for retakes
            model = Made.of(pipeline.parts, pipeline.precision, pipeline.vocoder)
            sidecar_for(take, out, model, samples=samples_beside(out)).write(out)
            take.save_video(out, comment=comment + pointer_to(out), plan=plan)
            take.save_wav(out.with_suffix(".wav"))
            sound = _shown(take, out, number, take.score) | sampled
            if take.attention:
                weights, places = over_time(take.attention)
                sound["attention"] = {**pictures.write_map(out.with_suffix(".attention"), weights), "of": places}
                if take.attention[0].condition.shape[1] > 1:  # otherwise the condition is added to the codes, and no weights on it exist
                    to_condition = float(np.mean([one.condition.sum(1).mean() for one in take.attention]))
                    sound["attention"]["to_condition"] = round(to_condition, 4)
            sounds.append(sound)
            emit({"sound": sound})
        if ask.compare and state == "done":
            sounds += self._own(task, pipeline.codec, emit)
        made = {"sounds": self._heard(task, sounds, emit), "seen": takes[0].seen if takes else {}, "notes": notes}
        made["projects"] = write_all_projects(task.folder, task.source, takes) if takes else []
        made["timings"] = {name: round(spent, 3) for name, spent in takes[0].timings.items()} if takes else {}
        if takes and takes[0].features is not None:
            made["features"] = pictures.write_map(task.folder / "features", takes[0].features.T)
        made["stills"] = pictures.write_stills(task.folder / "stills.webp", task.source, takes[0].seconds) if takes else None
        recipe_of = {"model": pipeline.name, "precision": pipeline.precision, "vocoder": pipeline.vocoder, "pictures": plan.pictures}
        recipe_of |= told.describe() | {"original": request.original}
        _write_json(task.folder / "recipe.json", recipe_of)
        return made | {"state": state, "recipe": recipe_of}

    def _retake(self, task: Task, emit: Emit) -> dict[str, Any]:
        ask, again = task.ask, task.ask.again
        pipeline = self.pipeline(ask.model, ask.vocoder)
        opened = open_result(pipeline, task.made, find_sidecar(task.made), task.source)
        asked = Retake(
            again.start, again.stop, again.seed, again.takes, max(again.candidates, again.takes), again.label, again.layer, again.keep
        )
        results = retake(pipeline, opened, asked, _progress(task, emit))
        sounds = []
        for number, one in enumerate(results, start=1):
            out = task.folder / f"take{number}{task.made.suffix}"
            save(pipeline, opened, one, out, wav=True)
            sounds.append(_shown(one.made, out, number, one.edit.score))
            emit({"sound": sounds[-1]})
        recipe_of = {"model": pipeline.name, "of": opened.path.name, **results[0].edit.model_dump()}
        _write_json(task.folder / "recipe.json", recipe_of)
        stills = pictures.write_stills(task.folder / "stills.webp", task.source, results[0].made.seconds)
        projects = write_all_projects(task.folder, task.source, [one.made for one in results])
        return {"sounds": self._heard(task, sounds, emit), "seen": opened.seen, "recipe": recipe_of, "stills": stills, "projects": projects}

    def _reconstruct(self, task: Task, emit: Emit) -> dict[str, Any]:
        codec = self.pipeline(task.ask.model, "neural").codec
        emit({"stage": "encoding", "share": 0.2})
        sounds = self._own(task, codec, emit, by_phase=True)
        return {"sounds": self._heard(task, sounds, emit), "bitrate_kbps": round(codec.bitrate_kbps, 3)}

    def _own(self, task: Task, codec: Codec, emit: Emit, *, by_phase: bool = False) -> list[dict[str, Any]]:
        """Write the own sound of an upload and its reconstruction; with `by_phase` also the reconstruction by Griffin-Lim."""
        own = read_audio(task.source, codec.clip.sample_rate)
        mel = codec.decode(codec.encode(own))
        made = {"own": own, "reconstruction": codec.vocode(mel)[: len(own)].cpu().numpy()}
        if by_phase:
            plain = Codec(codec.codebook, None, codec.device, codec.dtype, codec.threads)
            made["griffin-lim"] = plain.vocode(mel)[: len(own)].cpu().numpy()
        sounds = []
        for name, waveform in made.items():
            write_sound(task.folder / f"{name}.wav", waveform, codec.clip.sample_rate)
            shown = mel_of(own, codec.clip) if name == "own" else mel.cpu().numpy()
            drawn = pictures.write(task.folder / name, waveform, shown, codec.clip)
            sounds.append({"name": name, "wav": f"{name}.wav", "seconds": round(len(own) / codec.clip.sample_rate, 3), **drawn})
            emit({"sound": sounds[-1]})
        return sounds

    def _encode(self, task: Task, emit: Emit) -> dict[str, Any]:
        codec = self.pipeline(task.ask.model, task.ask.vocoder).codec
        codec = Codec.load(task.ask.model, self.device, self.precision, task.ask.vocoder) if not codec.digest else codec
        out = task.folder / safe_name(task.source.name, ".uns")
        n_bytes = encode_file(codec, read_audio(task.source, codec.clip.sample_rate), out).n_bytes
        return {"sounds": [], "codes": out.name, "bytes": n_bytes}

    def _decode(self, task: Task, emit: Emit) -> dict[str, Any]:
        codec = Codec.load(task.ask.model, self.device, self.precision, task.ask.vocoder)
        decoded = decode_file(codec, task.source)
        if decoded.n_samples > task.most_seconds * codec.clip.sample_rate:
            raise ParameterError(f"the decoded sound is longer than {task.most_seconds:g} seconds, which is the limit of this server.")
        write_sound(task.folder / "decoded.wav", decoded.waveform, codec.clip.sample_rate)
        sound = {"name": "decoded", "wav": "decoded.wav", "seconds": round(len(decoded.waveform) / codec.clip.sample_rate, 3)}
        sound |= pictures.write(task.folder / "decoded", decoded.waveform, mel_of(decoded.waveform, codec.clip), codec.clip)
        emit({"sound": sound})
        return {"sounds": [sound], "lost": [[round(one, 3) for one in span] for span in decoded.lost]}

    def _heard(self, task: Task, sounds: list[dict[str, Any]], emit: Emit) -> list[dict[str, Any]]:
        """Add the likeliest classes to each sound, if the classifier is installed. Silent sounds get none."""
        if task.classifier not in self._classifiers:
            try:
                self._classifiers[task.classifier] = load_classifier(task.classifier, self.device)
            except UnsilentError:
                self._classifiers[task.classifier] = None
        classifier, named = self._classifiers[task.classifier], []
        for sound in sounds:
            emit({"stage": "listening", "share": 1.0})
            try:
                heard = classifier.likeliest(task.folder / sound["wav"], CLASSES) if classifier else []
            except MediaError:
                heard = []
            named.append(sound | {"heard": [[name, round(value, 4)] for name, value in heard]})
        return named


class _Draft:
    """The unfinished sounds of a running job: previews one candidate's mel, and keeps all codes in case the job is stopped."""

    def __init__(self, pipeline: Pipeline, emit: Emit) -> None:
        self._pipeline, self._emit = pipeline, emit
        self._known: Int[Tensor, "draws known"] | None = None
        self._candidate, self._shown, self._next = 0, 0, 0.0

    def watch(self, known: Int[Tensor, "draws known"]) -> None:
        """Store the codes sampled so far. Also send the new columns of the mel, unless the last preview was too recent."""
        self._known = known
        if (candidate := int((known[:, -1] != ENDED).int().argmax())) != self._candidate:
            self._candidate, self._shown = candidate, 0  # show the first candidate that is still being sampled, from its start
        started = time.perf_counter()
        columns = known.shape[1] // self._pipeline.clip.rows
        if started < self._next or columns <= self._shown:
            return
        first = max(0, self._shown - _CONTEXT)
        mel = self._decoded(known[self._candidate][None], first)[0]
        clip = self._pipeline.clip
        self._emit(
            {
                "mel": pictures.to_bytes(mel, every=4),
                "start": first * clip.downsampling // 4,
                "bands": clip.mels,
                "rate": clip.sample_rate / clip.hop / 4,
            }
        )
        is_first, self._shown = self._shown == 0, columns
        spent = time.perf_counter() - started  # the first preview also includes the start-up of the decoder
        self._next = started + spent * (1 if is_first else 1 + _PREVIEW_REST)

    def _decoded(self, known: Int[Tensor, "draws known"], first: int = 0) -> list[Float[np.ndarray, "mels frames"]]:
        grids = to_grid(known, self._pipeline.clip.rows)[:, :, first:]
        return [self._pipeline.codec.decode(grid).cpu().numpy() for grid in grids]

    @property
    def seconds(self) -> float:
        """Length of the sampled part."""
        clip = self._pipeline.clip
        return 0.0 if self._known is None else self._known.shape[1] // clip.rows * clip.column_samples / clip.sample_rate

    def keep(self, source: Path, request: Request) -> list[Generation]:
        """Sounds of a stopped job: of each take, the first candidate that was still being sampled, followed by silence."""
        if not self.seconds:
            return []
        pipeline, clip, rate = self._pipeline, self._pipeline.clip, self._pipeline.clip.sample_rate
        by_take = self._known.unflatten(0, (-1, request.candidates or 1))
        chosen = by_take[torch.arange(len(by_take)), (by_take[:, :, -1] != ENDED).int().argmax(1)]
        n_samples, made = request.n_samples(probe(source).seconds, rate), []
        request = request.model_copy(update={"cues": None}) if request.cues == AUTO else request  # the cues have not been detected yet
        shape = shaper(request, clip, prime=None)
        for take, (grid, mel) in enumerate(zip(to_grid(chosen, clip.rows), self._decoded(chosen), strict=True)):
            waveform = shape(pipeline.codec.vocode(torch.from_numpy(mel).to(pipeline.device))[:n_samples].cpu().numpy())
            waveform = np.pad(waveform, (0, n_samples - len(waveform)))
            made.append(Generation(source, waveform, rate, mel, grid.cpu().numpy(), None, clip, request,
                                   take * (request.candidates or 1), pipeline.name, pipeline.precision, {}))  # fmt: skip
        return made


def _progress(task: Task, emit: Emit) -> Callable[[float], None]:
    """Return a callback that emits progress, and raises `_StoppedError` if the client has stopped the job."""

    def progress(share: float) -> None:
        if task.is_stopped:
            raise _StoppedError
        emit({"stage": "sampling", "share": round(share, 3)})

    return progress


def _shown(take: Generation, out: Path, number: int, score: float | None) -> dict[str, Any]:
    """Return the data of a saved take for the page."""
    files = {"video": out.name, "wav": out.with_suffix(".wav").name, "project": sidecar_of(out).name, **write_sounds(take, out)}
    drawn = pictures.write(out.with_suffix(""), take.waveform, take.heard_mel, take.clip)
    return {"name": f"take {number}", **files, "seconds": round(take.seconds, 3), "draw": take.take + 1, "score": score, **drawn}


def _write_json(out: Path, value: dict[str, Any]) -> None:
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

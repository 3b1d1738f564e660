"""Generates sounds for many videos. Finished outputs are kept, and a failed video does not stop the others."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unsilent.cues import Cue
from unsilent.errors import MediaError, UnsilentError, require_matplotlib
from unsilent.exchange.formats import write_export
from unsilent.exchange.timeline import Timeline
from unsilent.generation.progress import Report
from unsilent.generation.result import Generation, save_sheet
from unsilent.generation.sidecar import POINTER, Made, pointer_to, sidecar_for
from unsilent.generation.stems import stem_labels
from unsilent.media.mux import plan_mux
from unsilent.media.probe import read_comment
from unsilent.media.sounds import write_sound
from unsilent.media.suffixes import OWN_COMMENT, PROJECT_SUFFIXES
from unsilent.models.transformer import Look
from unsilent.outputs import Job, files_of, refuse_equal_stems, refuse_foreign, refuse_unwritable, samples_beside, sidecar_of
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.signal.landing import onsets_of
from unsilent.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Outcome of one take of one job: made, kept from an earlier run, or failed with a reason.

    The sound itself is not included, because a batch may have many videos.
    """

    video: Path
    out: Path
    status: Literal["made", "kept", "failed"]
    why: str = ""
    take: int | None = None
    seconds: float | None = None  # length of the sound
    spent_seconds: float | None = None  # computing time; see `Generation.spent_seconds`
    real_time_factor: float | None = None
    score: float | None = None  # agreement with the recognised or named class; see `Generation`
    seen: dict[str, float] = field(default_factory=dict)  # likeliest classes of the frames, with probabilities
    pictures: str | None = None  # how the video stream was written: "copied", or its encoder
    notes: tuple[str, ...] = ()  # streams and properties of the input that the output lacks
    sidecar: Path | None = None


def run(
    pipeline: Pipeline,
    jobs: list[Job],
    request: Request,
    progress: Callable[[Job], Report] = lambda job: lambda step, share: None,
    *,
    wav: bool = False,
    picture: bool = False,
    further: Sequence[str] = (),
    stems: bool = False,
    attention: bool = False,
    sidecar: bool = False,
    tracks: bool = False,
    sheet: bool = False,
    overwrite: bool = False,
) -> Iterator[Result]:
    """Run all jobs, and yield one result for each take. A failed job is reported and does not stop the others.

    A batch keeps outputs of an earlier run if video, model and request are unchanged, so an interrupted batch resumes. A single job always
    runs again.

    Args:
        pipeline: the loaded model.
        jobs: videos and their outputs, from `outputs.plan`.
        request: the same for all jobs.
        progress: called once for each job; returns the callback for the job's stages.
        wav: also write each sound alone, as WAV beside the video.
        picture: also draw each sound, as PNG beside the video.
        further: suffixes of additional files: sounds in other formats, and projects for other programs; see `outputs.files_of`.
        stems: also write one WAV file for each label of the request's `prompt_track` and cues.
        attention: record the sampler's attention weights, and draw them below the mel.
        sidecar: also write a description beside each output, from which it can be reopened; see `generation.sidecar`.
        tracks: write one video with a track for each take instead of a video for each.
        sheet: also draw all takes in one PNG, one below the other.
        overwrite: also replace files that this program did not make.

    Raises:
        ParameterError: before the first job, if the request does not fit the model, matplotlib is missing, or two sounds or figures would
            have the same path.
    """
    request = pipeline.resolve(request)
    if picture or sheet:
        require_matplotlib()
    if wav or picture or sheet or further or stems:
        refuse_equal_stems(jobs)
    beside = {"wav": wav, "picture": picture, "sidecar": sidecar, "samples": sidecar and request.prime_keep == "samples"}
    beside |= {"tracks": tracks, "sheet": sheet, "further": tuple(further), "stems": tuple(stem_labels(request)) if stems else ()}
    for job in jobs:
        comment = recipe(pipeline, job.video, request)
        if len(jobs) > 1 and _is_made(job, request.takes, comment, beside):
            yield from (Result(job.video, job.out if tracks else out, "kept") for out in job.outputs(request.takes))
            continue
        try:
            if not overwrite:
                refuse_foreign(files_of(job, request.takes, **beside))
            yield from _make(pipeline, job, request, comment, progress(job), attention, beside)
        except UnsilentError as error:
            yield Result(job.video, job.out, "failed", str(error))
        except OSError as error:
            yield Result(job.video, job.out, "failed", f"{error.filename or job.out}: {error.strerror or error}.")
        except Exception as error:
            if len(jobs) == 1:
                raise
            log.exception("a defect of unsilent, please report it:")  # the other videos still run
            yield Result(job.video, job.out, "failed", f"{job.video}: {type(error).__name__}: {error}")


def _make(
    pipeline: Pipeline, job: Job, request: Request, comment: str, progress: Report, attention: bool, beside: dict[str, Any]
) -> Iterator[Result]:
    for path in files_of(job, request.takes, **beside):
        refuse_unwritable(path)
    plan = plan_mux(job.video, job.out, request.original)
    for note in plan.notes:
        log.warning("%s", note)
    takes = pipeline.takes(job.video, request=request, progress=progress, attention=Look() if attention else None)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    if beside["sheet"]:
        save_sheet(takes, job.sheet)
    for generation, out in zip(takes, job.outputs(request.takes), strict=True):
        video = job.out if beside["tracks"] else out
        if video == out or generation is takes[0]:
            pointer, further = pointer_to(out) if beside["sidecar"] else "", takes[1:] if beside["tracks"] else []
            generation.save_video(video, comment=comment + pointer, plan=plan, further=further)
        if beside["sidecar"]:
            samples = samples_beside(out) if beside["samples"] else None
            if samples is not None:
                write_sound(samples, generation.waveform, generation.sample_rate, "32f")
            model = Made.of(pipeline.parts, pipeline.precision, pipeline.vocoder)
            sidecar_for(generation, video, model, samples=samples).write(out)
        for suffix in (*([".wav"] if beside["wav"] else []), *(one for one in beside["further"] if one not in PROJECT_SUFFIXES)):
            generation.save_sound(out.with_suffix(suffix))
        if beside["stems"]:
            generation.save_stems(out.with_suffix(".wav"))
        if beside["picture"]:
            generation.save_picture(out.with_suffix(".png"))
        made = generation.take, generation.seconds, generation.spent_seconds, generation.real_time_factor, generation.score, generation.seen
        yield Result(job.video, video, "made", "", *made, plan.pictures, plan.notes, sidecar_of(out) if beside["sidecar"] else None)
    _export(job, takes, beside)


def _export(job: Job, takes: list[Generation], beside: dict[str, Any]) -> None:
    videos = [job.out] if beside["tracks"] else job.outputs(len(takes))
    sounds = [out.with_suffix(".wav") for out in job.outputs(len(takes))] if beside["wav"] else videos
    if suffixes := [one for one in beside["further"] if one in PROJECT_SUFFIXES]:
        write_projects(job.out, suffixes, Timeline.of(job.video, sounds, takes[0].request.cues or ()), takes)


def write_projects(out: Path, suffixes: Sequence[str], timeline: Timeline, takes: Sequence[Generation]) -> list[Path]:
    """Write project files for a video and the sounds of its takes; returns their paths. A MIDI file has the onsets of each take.

    Args:
        out: path of the output video; each project replaces the suffix.
        suffixes: some of `PROJECT_SUFFIXES`.
        timeline: the video, its sounds and its cues.
        takes: results for the video.

    Raises:
        ParameterError, MediaError: those of `exchange.formats.write_export`.
    """
    for suffix in suffixes:
        hits = [[Cue(seconds=at) for at in onsets_of(take.waveform, take.clip).tolist()] for take in takes] if suffix == ".mid" else []
        write_export(out.with_suffix(suffix), timeline, [(f"take {number + 1}", cues) for number, cues in enumerate(hits)])
    return [out.with_suffix(suffix) for suffix in suffixes]


def recipe(pipeline: Pipeline, video: Path, request: Request) -> str:
    """The comment stored in an output: model, versions, source video and request.

    Args:
        pipeline: the model that makes the output.
        video: the input file.
        request: resolved against the model.
    """
    name = video.name.encode("utf-8", "backslashreplace").decode()  # a comment must be valid text, a file name need not be
    size = video.stat().st_size if video.exists() else 0  # a missing video is reported later
    about = f"model={pipeline.name} weights={pipeline.parts.fingerprint} vocoder={pipeline.vocoder} precision={pipeline.precision}"
    asked = " ".join(f"{field}={value}" for field, value in request.describe().items())
    return f"{OWN_COMMENT} {__version__}: {about} source={name} bytes={size} {asked} original={request.original}"


def _is_made(job: Job, takes: int, comment: str, beside: dict[str, Any]) -> bool:
    """Whether all files of a job exist, have this recipe, and are newer than the video."""
    try:
        changed = min(job.video.stat().st_mtime, time.time())  # a camera's clock may be ahead
        is_newer = all(path.stat().st_mtime >= changed for path in files_of(job, takes, **beside))
        videos = [job.out] if beside["tracks"] else job.outputs(takes)
        return is_newer and all(read_comment(out).partition(POINTER)[0] == comment for out in videos)
    except (OSError, MediaError):
        return False


def as_record(result: Result, request: Request, pipeline: Pipeline) -> dict[str, object]:
    """A result as JSON values."""
    return {
        "video": str(result.video),
        "status": result.status,
        "out": None if result.status == "failed" else str(result.out),
        "why": result.why or None,
        "model": pipeline.name,
        "precision": pipeline.precision,
        **pipeline.resolve(request).describe(),
        "original": request.original,
        "take": result.take,
        "seconds": result.seconds,
        "spent_seconds": result.spent_seconds,
        "real_time_factor": result.real_time_factor,
        "score": result.score,
        "seen": result.seen,
        "pictures": result.pictures,
        "notes": list(result.notes),
        "sidecar": None if result.sidecar is None else str(result.sidecar),
    }

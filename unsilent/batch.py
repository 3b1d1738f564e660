"""Generation for many videos: finished outputs are kept, and a failed video does not stop the others."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unsilent.errors import MediaError, UnsilentError, require_matplotlib
from unsilent.generation.progress import Report
from unsilent.media.mux import plan_mux
from unsilent.media.probe import read_comment
from unsilent.media.suffixes import OWN_COMMENT
from unsilent.outputs import Job, files_of, refuse_equal_stems, refuse_foreign, refuse_unwritable
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Result of one take of one job: made, kept from an earlier run, or failed with a reason.

    It does not have the sound itself, because a batch may be long.
    """

    video: Path
    out: Path
    status: Literal["made", "kept", "failed"]
    why: str = ""
    take: int | None = None
    seconds: float | None = None  # length of the sound
    spent_seconds: float | None = None  # time it took; see `Generation.spent_seconds`
    real_time_factor: float | None = None
    score: float | None = None  # agreement with what is seen or named; see `Generation`
    seen: dict[str, float] = field(default_factory=dict)  # likeliest classes
    pictures: str | None = None  # "copied", or how they were encoded
    notes: tuple[str, ...] = ()  # streams and properties of the video that the output lacks


def run(
    pipeline: Pipeline,
    jobs: list[Job],
    request: Request,
    progress: Callable[[Job], Report] = lambda job: lambda step, share: None,
    *,
    wav: bool = False,
    picture: bool = False,
    attention: bool = False,
    overwrite: bool = False,
) -> Iterator[Result]:
    """Run all jobs. A failed job is reported and does not stop the others.

    In a batch, outputs of an earlier run are kept if video, model and request are the same, so an interrupted batch resumes. A single job
    is always run again.

    Args:
        pipeline: the loaded model.
        jobs: as of `outputs.plan`.
        request: for all jobs.
        progress: called once for each job; returns the callback for the job's stages.
        wav: also write each sound alone, as WAV beside the video.
        picture: also draw each sound, as PNG beside the video.
        attention: draw what the sampler's attention looks at below it.
        overwrite: replace files that this program has not made, too.

    Raises:
        ParameterError: before the first job, for a request that does not fit the model, a missing matplotlib, or two sounds or figures with
            one path.
    """
    request = pipeline.resolve(request)
    if picture:
        require_matplotlib()
    if wav or picture:
        refuse_equal_stems(jobs)
    suffixes = [suffix for suffix, wanted in ((".wav", wav), (".png", picture)) if wanted]
    for job in jobs:
        comment = recipe(pipeline, job.video, request)
        if len(jobs) > 1 and all(_is_made(job.video, out, comment, suffixes) for out in job.outputs(request.takes)):
            yield from (Result(job.video, out, "kept") for out in job.outputs(request.takes))
            continue
        try:
            if not overwrite:
                refuse_foreign(files_of(job, request.takes, wav=wav, picture=picture))
            yield from _make(pipeline, job, request, comment, suffixes, progress(job), attention)
        except UnsilentError as error:
            yield Result(job.video, job.out, "failed", str(error))
        except OSError as error:
            yield Result(job.video, job.out, "failed", f"{error.filename or job.out}: {error.strerror or error}.")
        except Exception as error:
            if len(jobs) == 1:
                raise
            log.exception("a defect of unsilent, please report it:")  # and continue with the other videos
            yield Result(job.video, job.out, "failed", f"{job.video}: {type(error).__name__}: {error}")


def _make(
    pipeline: Pipeline, job: Job, request: Request, comment: str, suffixes: list[str], progress: Report, attention: bool
) -> Iterator[Result]:
    for out in job.outputs(request.takes):
        refuse_unwritable(out)
    plan = plan_mux(job.video, job.out, request.original)
    for note in plan.notes:
        log.warning("%s", note)
    takes = pipeline.takes(job.video, request=request, progress=progress)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    for generation, out in zip(takes, job.outputs(request.takes), strict=True):
        generation.save_video(out, comment=comment, plan=plan)
        if ".wav" in suffixes:
            generation.save_wav(out.with_suffix(".wav"))
        if ".png" in suffixes:
            weights = pipeline.attention(generation) if attention else None
            generation.save_picture(out.with_suffix(".png"), weights)
        made = generation.take, generation.seconds, generation.spent_seconds, generation.real_time_factor, generation.score, generation.seen
        yield Result(job.video, out, "made", "", *made, plan.pictures, plan.notes)


def recipe(pipeline: Pipeline, video: Path, request: Request) -> str:
    """The comment inside an output that says what made it.

    Args:
        pipeline: that makes it.
        video: input.
        request: resolved.
    """
    name = video.name.encode("utf-8", "backslashreplace").decode()  # a comment must be valid text, a file name need not be
    size = video.stat().st_size if video.exists() else 0  # a missing video is reported later
    about = f"model={pipeline.name} weights={pipeline.parts.fingerprint} vocoder={pipeline.vocoder} precision={pipeline.precision}"
    asked = " ".join(f"{field}={value}" for field, value in request.describe().items())
    return f"{OWN_COMMENT} {__version__}: {about} source={name} bytes={size} {asked} original={request.original}"


def _is_made(video: Path, out: Path, comment: str, suffixes: list[str]) -> bool:
    """Whether an earlier run has made `out`, and its files of other suffixes, from the video as it is now."""
    wanted = [out, *(out.with_suffix(suffix) for suffix in suffixes)]
    try:
        changed = min(video.stat().st_mtime, time.time())  # cameras' clocks may be in the future
        return all(path.stat().st_mtime >= changed for path in wanted) and read_comment(out) == comment
    except (OSError, MediaError):
        return False


def as_record(result: Result, request: Request, pipeline: Pipeline) -> dict[str, object]:
    """A result as plain values for JSON."""
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
    }

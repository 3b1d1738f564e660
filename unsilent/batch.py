"""Many videos in one call: which file becomes which, what is already done, and going on when one of them fails."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unsilent.errors import MediaError, ParameterError, UnsilentError
from unsilent.generation.figure import require_matplotlib
from unsilent.generation.progress import Report
from unsilent.media.files import VIDEO_SUFFIXES
from unsilent.media.probe import read_comment
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.version import __version__

log = logging.getLogger(__name__)

WRITABLE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")  # others are written as Matroska, which holds anything
OWN_STEM = re.compile(r"\.sound(\.take\d+)?$")  # of what a call without an output has left beside its videos


@dataclass(frozen=True)
class Job:
    """One video and the file that it becomes (with `.takeN` before the suffix where there are several takes)."""

    video: Path
    out: Path

    def outputs(self, takes: int) -> list[Path]:
        """The files that will be written, one for each take."""
        if takes == 1:
            return [self.out]
        return [self.out.with_name(f"{self.out.stem}.take{take + 1}{self.out.suffix}") for take in range(takes)]


@dataclass(frozen=True)
class Result:
    """What became of one take of one job: made, kept from an earlier run, or failed with a sentence that says why.

    Figures of what was made only, not the sound itself: a batch may be long.
    """

    video: Path
    out: Path
    status: Literal["made", "kept", "failed"]
    why: str = ""
    take: int | None = None
    seconds: float | None = None  # length of the sound
    spent_seconds: float | None = None  # time it took; see `Generation.spent_seconds`
    real_time_factor: float | None = None


def plan(inputs: list[Path], out: Path | None) -> list[Job]:
    """Decide the output of every input.

    Args:
        inputs: videos, or folders, which stand for all videos in and below them.
        out: a file when one video is asked for, else a folder that keeps the stems (and the sub-folders of a folder given);
            None writes `STEM.sound.SUFFIX` beside each video.

    Raises:
        ParameterError: if nothing is asked for, two inputs would become one file, an input would be overwritten, or `out` is a file
            where a folder is wanted or of a kind that cannot be written.
    """
    folders = {video: video.relative_to(given).parent for given in inputs if given.is_dir() for video in _videos(given, out)}
    found = folders | {given: Path() for given in inputs if not given.is_dir()}
    if not found:
        raise ParameterError(f"no videos in {', '.join(map(str, inputs)) or 'an empty request'}.")
    one_file = out is not None and len(inputs) == 1 and not inputs[0].is_dir() and not out.is_dir() and out.suffix != ""
    if out is not None:
        _refuse_output(out, one_file)
    originals = {video.resolve() for video in found}
    jobs: dict[Path, Job] = {}
    for video, below in found.items():
        suffix = video.suffix if video.suffix.lower() in WRITABLE_SUFFIXES else ".mkv"
        if one_file:
            target = out
        elif out is None:
            target = video.with_name(f"{video.stem}.sound{suffix}")
        else:
            target = out / below / f"{video.stem}{suffix}"
        if target in jobs:
            raise ParameterError(f"{jobs[target].video} and {video} would both become {target}; give them different folders.")
        if target.resolve() in originals:
            raise ParameterError(f"the output {target} would overwrite an input; choose another with -o.")
        jobs[target] = Job(video, target)
    return list(jobs.values())


def _refuse_output(out: Path, one_file: bool) -> None:
    if one_file and out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ParameterError(f"cannot write {out}: choose one of {', '.join(WRITABLE_SUFFIXES)}, or name a folder.")
    if not one_file and not out.is_dir() and (out.exists() or out.suffix.lower() in WRITABLE_SUFFIXES):
        raise ParameterError(f"the output {out} is a file; name a folder, which more than one video or a folder of them needs.")


def _videos(folder: Path, out: Path | None) -> list[Path]:
    """Videos in and below a folder, without what earlier calls have made: beside the videos, or in an output folder below."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    own = out.resolve() if out is not None and out.resolve() != folder.resolve() else None
    return [
        path
        for path in files
        if not path.name.startswith(".") and not OWN_STEM.search(path.stem) and (own is None or own not in path.resolve().parents)
    ]


def run(
    pipeline: Pipeline,
    jobs: list[Job],
    request: Request,
    progress: Callable[[Job], Report] = lambda job: lambda step, share: None,
    *,
    wav: bool = False,
    picture: bool = False,
) -> Iterator[Result]:
    """Do all jobs; one that fails is reported and the others are done.

    An output that an earlier run made from the same video with the same model and request is kept, so an interrupted batch continues. A
    single job is always made anew.

    Args:
        pipeline: the loaded model.
        jobs: as of `plan`.
        request: for all of them.
        progress: called once for each job; returns what that job reports its stages to.
        wav: also write each sound alone, as WAV beside the video.
        picture: also draw each sound, as PNG beside the video.

    Raises:
        ParameterError: before the first job, for a request that does not fit the model, figures that cannot be drawn here, or two sounds or
            figures that would become one file.
    """
    request = pipeline.resolve(request)
    if picture:
        require_matplotlib()
    if wav or picture:
        _refuse_equal_stems(jobs)
    suffixes = [suffix for suffix, wanted in ((".wav", wav), (".png", picture)) if wanted]
    for job in jobs:
        comment = recipe(pipeline, job.video, request)
        if len(jobs) > 1 and all(_is_made(job.video, out, comment, suffixes) for out in job.outputs(request.takes)):
            yield from (Result(job.video, out, "kept") for out in job.outputs(request.takes))
            continue
        try:
            yield from _make(pipeline, job, request, comment, suffixes, progress(job))
        except UnsilentError as error:
            yield Result(job.video, job.out, "failed", str(error))
        except OSError as error:
            yield Result(job.video, job.out, "failed", f"{error.filename or job.out}: {error.strerror or error}.")
        except Exception as error:
            if len(jobs) == 1:
                raise
            log.exception("a defect of unsilent, please report it:")  # and continue with the other videos
            yield Result(job.video, job.out, "failed", f"{job.video}: {type(error).__name__}: {error}")


def _make(pipeline: Pipeline, job: Job, request: Request, comment: str, suffixes: list[str], progress: Report) -> Iterator[Result]:
    _refuse_unwritable(job.out)
    takes = pipeline.takes(job.video, request=request, progress=progress)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    for generation, out in zip(takes, job.outputs(request.takes), strict=True):
        generation.save_video(out, comment=comment)
        if ".wav" in suffixes:
            generation.save_wav(out.with_suffix(".wav"))
        if ".png" in suffixes:
            generation.save_picture(out.with_suffix(".png"))
        made = (generation.take, generation.seconds, generation.spent_seconds, generation.real_time_factor)
        yield Result(job.video, out, "made", "", *made)


def _refuse_unwritable(out: Path) -> None:
    """Before any work is done for it."""
    folder = next(above for above in out.absolute().parents if above.exists())
    if not folder.is_dir():
        raise MediaError(f"{out} cannot be written: {folder} is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"{out} cannot be written: no permission to write into {folder}.")


def recipe(pipeline: Pipeline, video: Path, request: Request) -> str:
    """The comment inside an output that says what made it.

    Args:
        pipeline: that makes it.
        video: input.
        request: resolved.
    """
    name = video.name.encode("utf-8", "backslashreplace").decode()  # file names need not be valid text, comments must
    size = video.stat().st_size if video.exists() else 0  # a missing one fails later, with a sentence of its own
    about = f"model={pipeline.name} weights={pipeline.parts.fingerprint} vocoder={pipeline.vocoder} precision={pipeline.precision}"
    asked = " ".join(f"{field}={value}" for field, value in request.describe().items())
    return f"sound by unsilent {__version__}: {about} source={name} bytes={size} {asked} original={request.original}"


def _refuse_equal_stems(jobs: list[Job]) -> None:
    stems: dict[Path, Job] = {}
    for job in jobs:
        other = stems.setdefault(job.out.with_suffix(""), job)
        if other is not job:
            raise ParameterError(
                f"the sounds or pictures of {other.video} and {job.video} would become one file; ask for one after the other."
            )


def _is_made(video: Path, out: Path, comment: str, suffixes: list[str]) -> bool:
    """Whether an earlier run has made `out`, and its files of other suffixes, from the video as it is now."""
    wanted = [out, *(out.with_suffix(suffix) for suffix in suffixes)]
    try:
        return all(path.stat().st_mtime >= video.stat().st_mtime for path in wanted) and read_comment(out) == comment
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
    }

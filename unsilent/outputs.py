"""Output path of each video, and checks before a model is loaded. Does not import torch, so that errors appear at once."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from unsilent.errors import MediaError, ParameterError, require_matplotlib
from unsilent.files import require_path
from unsilent.media.suffixes import SOUND_SUFFIXES, VIDEO_SUFFIXES

WRITABLE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")  # others become Matroska, which supports all codecs
OWN_STEM = re.compile(r"\.sound(\.take\d+)?$")  # stem of outputs that were written beside their videos


@dataclass(frozen=True)
class Job:
    """One video and its output file. With several takes, `.takeN` is added before the suffix."""

    video: Path
    out: Path

    def outputs(self, takes: int) -> list[Path]:
        """The files that will be written, one for each take."""
        if takes == 1:
            return [self.out]
        return [self.out.with_name(f"{self.out.stem}.take{take + 1}{self.out.suffix}") for take in range(takes)]


def plan(inputs: list[Path], out: Path | None) -> list[Job]:
    """Choose the output path of every video.

    Args:
        inputs: videos, or folders, which stand for all videos in and below them.
        out: a file for one video, else a folder, which gets the stems of the videos and the sub-folders of input folders. None writes
            `STEM.sound.SUFFIX` beside each video.

    Raises:
        ParameterError: if there is no video, two videos have the same output, or an output would overwrite an input. If `out` is a file
            where a folder is needed, or has a suffix that cannot be written.
        MediaError: if none of the inputs exists.
    """
    if inputs and not any(given.exists() for given in inputs):
        require_path(inputs[0])
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
    if one_file and out.suffix.lower() in SOUND_SUFFIXES:
        raise ParameterError(f"{out} is a sound file, but -o names a video; add --wav, which writes the sound beside the video.")
    if one_file and out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ParameterError(f"cannot write {out}: choose one of {', '.join(WRITABLE_SUFFIXES)}, or name a folder.")
    if not one_file and not out.is_dir() and (out.exists() or out.suffix.lower() in WRITABLE_SUFFIXES):
        raise ParameterError(f"the output {out} is a file; name a folder, which more than one video or a folder of them needs.")


def _videos(folder: Path, out: Path | None) -> list[Path]:
    """Videos in and below a folder, without outputs of earlier calls beside them or in the output folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    own = out.resolve() if out is not None and out.resolve() != folder.resolve() else None
    return [
        path
        for path in files
        if not path.name.startswith(".") and not OWN_STEM.search(path.stem) and (own is None or own not in path.resolve().parents)
    ]


def check(jobs: list[Job], *, wav: bool = False, picture: bool = False) -> None:
    """Check jobs before a model is loaded. A single video is opened too; one of several may fail later without stopping the others.

    Args:
        jobs: as of `plan`.
        wav: whether sounds are written beside the videos.
        picture: whether figures are drawn beside the videos.

    Raises:
        ParameterError: if two sounds or figures would become one file, or matplotlib is missing.
        MediaError: if a single video cannot be opened, or its output cannot be written.
    """
    if picture:
        require_matplotlib()
    if wav or picture:
        refuse_equal_stems(jobs)
    if len(jobs) == 1:
        from unsilent.media.files import find_video, open_media  # PyAV

        refuse_unwritable(jobs[0].out)
        with open_media(jobs[0].video) as container:
            find_video(container, jobs[0].video)


def refuse_unwritable(out: Path) -> None:
    """Refuse an output in a folder that cannot be written to.

    Raises:
        MediaError: if the nearest folder that exists is a file, or read-only.
    """
    folder = next(above for above in out.absolute().parents if above.exists())
    if not folder.is_dir():
        raise MediaError(f"{out} cannot be written: {folder} is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"{out} cannot be written: no permission to write into {folder}.")


def refuse_equal_stems(jobs: list[Job]) -> None:
    """Refuse outputs that differ in their suffix only, because their sounds and figures would become one file.

    Raises:
        ParameterError: names the two videos.
    """
    stems: dict[Path, Job] = {}
    for job in jobs:
        other = stems.setdefault(job.out.with_suffix(""), job)
        if other is not job:
            raise ParameterError(
                f"the sounds or pictures of {other.video} and {job.video} would become one file; ask for one after the other."
            )

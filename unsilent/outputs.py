"""Chooses the output path of each video, and checks paths before a model is loaded. No torch import, so that errors appear at once."""

import os
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from unsilent.choices import Original
from unsilent.errors import MediaError, ParameterError, require_matplotlib
from unsilent.files import read_json, real, refuse_special, require_file, require_path, walk
from unsilent.media.suffixes import CODES_MAGIC, CODES_SUFFIX, OWN_COMMENT, OWN_FORMAT, PROJECT_SUFFIXES, SOUND_SUFFIXES, VIDEO_SUFFIXES
from unsilent.media.webp import is_animated_webp

WRITABLE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")  # other inputs become Matroska, which supports all codecs
LONGEST_NAME = 255  # bytes; limit of file systems
RETAKE_STEM = re.compile(r"\.retake\d+(\.take\d+)?$")  # end of a retake's stem
# end of the stem of outputs written beside their videos
OWN_STEM = re.compile(r"\.sound(\.seed\d+)?(\.take\d+|\.sheet)?(\.retake\d+(\.take\d+)?)?$")
SIDECAR_SUFFIX, SAMPLES_SUFFIX = ".unsilent.json", ".unsilent.wav"  # appended to the full name of a result; see `generation.sidecar`
_PROJECT_BYTES = 16 << 20  # beginning of a project file that is searched for the comment


@dataclass(frozen=True)
class Job:
    """One video and its output file.

    Attributes:
        video: input file.
        out: output of a single take. With several, `.takeN` is added before the suffix.
        tag: added before `.takeN`, for a seed that `out` does not name.
    """

    video: Path
    out: Path
    tag: str = ""

    @property
    def sheet(self) -> Path:
        """The contact sheet of all takes."""
        return self.out.with_name(f"{self.out.stem}{self.tag}.sheet.png")

    def outputs(self, takes: int) -> list[Path]:
        """The output videos, one for each take."""
        if takes == 1:
            return [self.out]
        return [self.out.with_name(f"{self.out.stem}{self.tag}.take{take + 1}{self.out.suffix}") for take in range(takes)]


def sidecar_of(result: Path) -> Path:
    """Path of the description beside a result, from which it can be reopened."""
    return result.with_name(result.name + SIDECAR_SUFFIX)


def samples_beside(result: Path) -> Path:
    """Path of the file with the exact samples beside a result."""
    return result.with_name(result.name + SAMPLES_SUFFIX)


def is_beside(path: Path) -> bool:
    """Whether a file is a sidecar or a samples file by its name."""
    return path.name.endswith((SIDECAR_SUFFIX, SAMPLES_SUFFIX))


def plan(inputs: list[Path], out: Path | None, seed: int = 0) -> list[Job]:
    """Choose the output path of every video.

    Args:
        inputs: videos and folders; a folder stands for all videos in and below it.
        out: a file for one video, else a folder; outputs have the stems of the videos, in the subfolders of input folders. None writes
            `STEM.sound.SUFFIX` beside each video.
        seed: the request's seed. Chosen names contain it unless it is 0, so that outputs of different seeds do not replace each other.

    Raises:
        ParameterError: if there is no video, two videos have the same output, an output would overwrite an input, `out` is a file where a
            folder is needed, or its suffix cannot be written.
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
    originals = {real(video) for video in found}
    jobs: dict[Path, Job] = {}
    tag = f".seed{seed}" if seed else ""
    targets = {video: _target(video, below, out, tag, video.stem) for video, below in found.items()}
    counts = Counter(targets.values())
    for video, below in found.items():
        target = out if one_file else targets[video]
        if not one_file and counts[target] > 1:  # videos with equal stems keep their suffix in the name
            target = _target(video, below, out, tag, video.name)
        if target in jobs:
            raise ParameterError(f"{jobs[target].video} and {video} would both become {target}; give them different folders.")
        if real(target) in originals:
            raise ParameterError(f"the output {target} would overwrite an input; choose another with -o.")
        jobs[target] = Job(video, target, tag if one_file else "")
    return list(jobs.values())


def retake_job(result: Path, out: Path | None, is_video: bool) -> Job:
    """Choose the output of a retake: beside the result, with the first unused number.

    Args:
        result: the video or sound that is retaken.
        out: file or folder; None writes beside the result.
        is_video: whether the result has a video stream.

    Raises:
        ParameterError: if `out` has a suffix that cannot be written, or is the result.
    """
    suffix = ".wav" if not is_video else result.suffix if result.suffix.lower() in WRITABLE_SUFFIXES else ".mkv"
    if out is None or out.is_dir():
        named = (result.with_name(f"{RETAKE_STEM.sub('', result.stem)}.retake{number}{suffix}") for number in count(1))
        named = named if out is None else (out / one.name for one in named)
        out = next(one for one in named if not one.exists() and not one.with_name(f"{one.stem}.take1{suffix}").exists())
    allowed = (".wav", *WRITABLE_SUFFIXES) if is_video else (".wav",)
    if out.suffix.lower() not in allowed:
        raise ParameterError(f"cannot write {out}: choose one of {', '.join(allowed)}, or name a folder.")
    if out.exists() and out.samefile(result):
        raise ParameterError(f"{out} is the result itself; choose another name.")
    return Job(result, out)


def check_retake(job: Job, takes: int, *, wav: bool = False, overwrite: bool = False) -> None:
    """Check the outputs of a retake before a model is loaded; errors as in `check`."""
    is_video = job.out.suffix.lower() != ".wav"
    for path in (paths := files_of(job, takes, wav=wav and is_video, sidecar=True, samples=is_video)):
        refuse_unwritable(path)
    if not overwrite:
        refuse_foreign(paths)


def _target(video: Path, below: Path, out: Path | None, tag: str, stem: str) -> Path:
    suffix = video.suffix if video.suffix.lower() in WRITABLE_SUFFIXES else ".mkv"
    return video.with_name(f"{stem}.sound{tag}{suffix}") if out is None else out / below / f"{stem}{tag}{suffix}"


def _refuse_output(out: Path, one_file: bool) -> None:
    if str(out) == "-":
        raise ParameterError("-o - is standard output, which holds a stream of sound only; add --stream, or name a file.")
    if one_file and out.suffix.lower() in SOUND_SUFFIXES:
        raise ParameterError(f"{out} is a sound file, but -o names a video; add --wav, which writes the sound beside the video.")
    if one_file and out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ParameterError(f"cannot write {out}: choose one of {', '.join(WRITABLE_SUFFIXES)}, or name a folder.")
    if not one_file and not out.is_dir() and (out.exists() or out.suffix.lower() in WRITABLE_SUFFIXES):
        raise ParameterError(f"the output {out} is a file; name a folder, because there may be several videos.")


def _videos(folder: Path, out: Path | None) -> list[Path]:
    """Videos in and below a folder, except outputs of earlier calls, beside them or in the output folder."""
    files = [path for path in walk(folder) if path.suffix.lower() in VIDEO_SUFFIXES or is_animated_webp(path)]
    own = real(out) if out is not None and real(out) != real(folder) else None
    return [
        path
        for path in files
        if not path.name.startswith(".") and not OWN_STEM.search(path.stem) and (own is None or own not in real(path).parents)
    ]


def passed_over(inputs: list[Path], jobs: list[Job], out: Path | None) -> list[Path]:
    """Files in folders that are neither videos nor outputs of this program."""
    taken, own = {job.video for job in jobs}, None if out is None else real(out)
    return [
        path
        for folder in inputs
        if folder.is_dir()
        for path in walk(folder)
        if path not in taken and not path.name.startswith(".") and not OWN_STEM.search(path.stem) and not is_beside(path)
        if own not in real(path).parents
    ]


def check(
    jobs: list[Job],
    *,
    takes: int = 1,
    original: Original = "drop",
    wav: bool = False,
    picture: bool = False,
    sidecar: bool = False,
    tracks: bool = False,
    sheet: bool = False,
    further: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Check jobs before a model is loaded. A single video is also opened; in a batch, each video fails on its own later.

    Args:
        jobs: result of `plan`.
        takes: takes of each video.
        original: what becomes of the video's own sound.
        wav: whether sounds are written beside the videos.
        picture: whether figures are drawn beside the videos.
        sidecar: whether sidecars are written beside the videos.
        tracks: whether all takes become tracks of one video.
        sheet: whether a contact sheet of all takes is drawn.
        further: suffixes of additional files, see `files_of`.
        overwrite: whether files that this program did not make may be replaced.

    Raises:
        ParameterError: if two sounds or figures would have the same path, a file that this program did not make would be replaced, or
            matplotlib is missing.
        MediaError: if a single video cannot be opened, or its output cannot be written.
    """
    if (tracks or sheet) and takes == 1:
        raise ParameterError("tracks and a contact sheet need two takes or more, but takes is 1; ask for more.")
    if picture or sheet:
        require_matplotlib()
    if wav or picture or sheet or further:
        refuse_equal_stems(jobs)
    if len(jobs) == 1:
        from unsilent.media.mux import plan_mux  # PyAV

        paths = files_of(jobs[0], takes, wav=wav, picture=picture, sidecar=sidecar, tracks=tracks, sheet=sheet, further=further)
        for path in paths:
            refuse_unwritable(path)
        if not overwrite:
            refuse_foreign(paths)
        plan_mux(jobs[0].video, jobs[0].out, original)


def files_of(
    job: Job,
    takes: int,
    *,
    wav: bool = False,
    picture: bool = False,
    sidecar: bool = False,
    samples: bool = False,
    tracks: bool = False,
    sheet: bool = False,
    further: Sequence[str] = (),
    stems: Sequence[str] = (),
) -> list[Path]:
    """All files that a job writes.

    Args:
        job: the video and its output.
        takes: number of takes.
        wav: whether each take has a WAV file.
        picture: whether each take has a figure.
        sidecar: whether each take has a sidecar.
        samples: whether each take has a file with its exact samples.
        tracks: whether all takes are in one video.
        sheet: whether a contact sheet is drawn.
        further: suffixes of additional files: sounds, one for each take, and projects, one for all takes.
        stems: labels over time; each take has one WAV file for each.
    """
    suffixes = [suffix for suffix, wanted in ((".wav", wav), (".png", picture)) if wanted]
    suffixes += [suffix for suffix in further if suffix not in PROJECT_SUFFIXES]
    named = [name for name, wanted in ((sidecar_of, sidecar), (samples_beside, samples)) if wanted]
    each = job.outputs(takes)
    beside = [path for out in each for path in (*map(out.with_suffix, suffixes), *(name(out) for name in named))]
    beside += [stem_path(out.with_suffix(".wav"), label) for out in each for label in stems]
    beside += [job.out.with_suffix(suffix) for suffix in further if suffix in PROJECT_SUFFIXES]
    return [*([job.out] if tracks else each), *beside, *([job.sheet] if sheet else [])]


def stem_path(out: Path, label: str) -> Path:
    """`clip.wav` → `clip.dog.wav`."""
    return out.with_name(f"{out.stem}.{re.sub(r'[^A-Za-z0-9_-]+', '_', label)}{out.suffix}")


def check_pair(source: Path, out: Path, suffix: str, what: str, overwrite: bool = False) -> None:
    """Check source and output of a conversion, before a model is loaded.

    Args:
        source: file to read.
        out: file to write.
        suffix: required suffix of `out`, such as `.wav`.
        what: noun for the output, for messages.
        overwrite: whether a file that this program did not make may be replaced.

    Raises:
        ParameterError: for another suffix, if both paths are the same file, or if a file that this program did not make would be replaced.
        MediaError: if `source` does not exist or is no file, or `out` cannot be written.
    """
    check_suffix(out, suffix, what)
    require_path(source)
    require_file(source, MediaError)
    refuse_unwritable(out)
    if out.exists() and out.samefile(source):
        raise ParameterError(f"{out} is the source itself; choose another name for the result.")
    if not overwrite:
        refuse_foreign([out])


def check_suffix(out: Path, suffix: str, what: str) -> None:
    """Refuse an output whose suffix is not that of its format.

    Raises:
        ParameterError: for another suffix; the message names the right one.
    """
    if out.suffix.lower() != suffix:
        raise ParameterError(f"{out} cannot be written: the {what} is written as {suffix[1:].upper()}, so name it with {suffix}.")


def refuse_foreign(paths: list[Path]) -> None:
    """Refuse to replace files that this program did not make.

    Raises:
        ParameterError: if one exists; the message names the first.
    """
    for path in paths:
        if path.exists() and path.stat().st_size and not is_own(path):
            raise ParameterError(f"{path} exists and was not made by unsilent; choose another output, or replace it with --overwrite.")


def is_own(path: Path) -> bool:
    """Whether this program made a file, by its comment or format: a video, sound, figure, sidecar, project or file of codes."""
    if path.suffix.lower() == CODES_SUFFIX:
        return is_codes(path)
    if path.name.endswith(SIDECAR_SUFFIX):
        with suppress(MediaError, TypeError, LookupError):
            return read_json(path, MediaError)["format"] == OWN_FORMAT
        return False
    if path.suffix.lower() == ".png":
        from PIL import Image

        with suppress(OSError, ValueError, SyntaxError), Image.open(path) as image:
            return str(image.info.get("Comment", "")).startswith(OWN_COMMENT)
        return False
    if path.suffix.lower() in PROJECT_SUFFIXES:
        return OWN_COMMENT.encode() in _project_content(path)
    from unsilent.media.probe import read_comment  # PyAV

    with suppress(MediaError):
        return read_comment(path).startswith(OWN_COMMENT)
    return False


def is_codes(path: Path) -> bool:
    """Whether a file begins with the magic bytes of files of codes."""
    with path.open("rb") as file:
        return file.read(len(CODES_MAGIC)) == CODES_MAGIC


def _project_content(path: Path) -> bytes:
    """The first bytes of a project; of an OTIO bundle, those of its timeline. Empty if unreadable."""
    with suppress(OSError, KeyError, zipfile.BadZipFile):
        if path.suffix.lower() != ".otioz":
            with path.open("rb") as file:
                return file.read(_PROJECT_BYTES)
        with zipfile.ZipFile(path) as bundle, bundle.open("content.otio") as file:
            return file.read(_PROJECT_BYTES)
    return b""


def refuse_unwritable(out: Path) -> None:
    """Refuse an output whose name is too long, whose folder is not writable, or that is a pipe or device. Links are followed.

    Raises:
        MediaError: if a name is too long, the nearest existing folder is a file or read-only, or the output is no regular file.
    """
    for name in (out.name, *(part.name for part in out.absolute().parents if not part.exists())):
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise MediaError(
                f"{name[:40]}… cannot be written: the name has {len(os.fsencode(name))} bytes, but at most {LONGEST_NAME} are possible."
            )
    refuse_special(out, MediaError)
    if out.is_symlink() and not out.exists() and (real(out).is_symlink() or not real(out).parent.is_dir()):
        raise MediaError(f"{out} is a link to {os.readlink(out)}, which cannot be written.")
    folder = next(above for above in real(out).parents if above.exists())
    if not folder.is_dir():
        raise MediaError(f"{out} cannot be written: {folder} is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"{out} cannot be written: no permission to write into {folder}.")


def refuse_equal_stems(jobs: list[Job]) -> None:
    """Refuse outputs that differ only in their suffix, because their sounds and figures would have the same path.

    Raises:
        ParameterError: if there are two; the message names both videos.
    """
    stems: dict[Path, Job] = {}
    for job in jobs:
        other = stems.setdefault(job.out.with_suffix(""), job)
        if other is not job:
            raise ParameterError(
                f"the sounds or pictures of {other.video} and {job.video} would have the same path; run them one after the other."
            )

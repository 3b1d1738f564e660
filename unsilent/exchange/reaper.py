"""Reaper projects, a text format: the video, a track for each take, cues as markers."""

import re
from collections.abc import Sequence
from pathlib import Path

from unsilent.cues import Cue
from unsilent.errors import DataError
from unsilent.exchange.edl import label_of
from unsilent.exchange.timeline import Timeline, name_of
from unsilent.files import read_text
from unsilent.media.suffixes import OWN_COMMENT

_WORD = re.compile(r'"([^"]*)"|\'([^\']*)\'|`([^`]*)`|(\S+)')
_SOURCES = {".wav": "WAVE", ".flac": "FLAC", ".opus": "VORBIS"}


def read_reaper(path: Path) -> list[Cue]:
    """Cues at the markers of a project, from its first video on; the two ends of a region are one cue with its length.

    Raises:
        DataError: if the file cannot be read, is not a project, or has no markers.
    """
    lines = read_text(path, DataError, errors="replace").splitlines()
    if not lines or not lines[0].lstrip().startswith("<REAPER_PROJECT"):
        raise DataError(f"{path} is not a Reaper project: it does not begin with <REAPER_PROJECT.")
    cues, regions, begin = list[Cue](), dict[str, tuple[float, str]](), _video_start(lines)
    for number, line in enumerate(lines, 1):
        if not line.strip().startswith("MARKER "):
            continue
        words = _words(line)
        try:
            index, seconds, name = words[1], float(words[2]), words[3] if len(words) > 3 else ""
            is_region, length = len(words) > 4 and int(float(words[4])) & 1, None
            if is_region and index not in regions:
                regions[index] = seconds, name
                continue
            if is_region:
                end, (seconds, name) = seconds, regions.pop(index)
                length = max(end - seconds, 1e-3)
            if (at := round(seconds - begin, 6)) >= 0:
                cues.append(Cue(seconds=at, label=label_of(name), length=length))
        except (ValueError, IndexError):
            raise DataError(f"line {number} of {path} is not a valid marker.") from None
    if not cues:
        raise DataError(f"{path} has no markers{f' after its video begins, at {begin:.2f} s' if begin > 0 else ''}, so it gives no cues.")
    return sorted(cues, key=lambda cue: cue.seconds)


def _video_start(lines: Sequence[str]) -> float:
    """Where the first frame of the first video is in a project, in seconds; 0 without a video."""
    position = offset = 0.0
    for line in map(str.strip, lines):
        try:
            if line == "<ITEM":
                position = offset = 0.0
            elif line.startswith("POSITION "):
                position = float(line.split()[1])
            elif line.startswith("SOFFS "):
                offset = float(line.split()[1])
            elif line.startswith("<SOURCE VIDEO"):
                return position - offset
        except ValueError:
            continue
    return 0.0


def _words(line: str) -> list[str]:
    """Words of a line, without the quotes around them."""
    return [match[match.lastindex] for match in _WORD.finditer(line)]


def reaper_text(timeline: Timeline, folder: Path) -> str:
    """A project with a track for the video and one for each take.

    Args:
        timeline: content of the project.
        folder: folder of the project; paths in and below it are relative.
    """
    lines = ['<REAPER_PROJECT 0.1 "7.0/linux-x86_64" 0', "  RIPPLE 0", f"  TIMEOFFS {float(timeline.start_frame / timeline.rate):.6f}"]
    lines += ["  <NOTES 0 2", f"    |{OWN_COMMENT}", "  >"]
    whole, drop = round(timeline.rate), 2 if timeline.is_drop else 1 if timeline.rate.denominator != 1 else 0
    lines += [f"  TIMEMODE 5 5 -1 {whole} {drop} 0 -1", "  SAMPLERATE 48000 0 0", "  TEMPO 120 4 4"]
    for number, cue in enumerate(timeline.cues):
        lines.append(f"  MARKER {number + 1} {cue.seconds:.6f} {_quoted(name_of(cue, number))} 0")
        if cue.length is not None:  # a region
            lines[-1] = f"  MARKER {number + 1} {cue.seconds:.6f} {_quoted(name_of(cue, number))} 1"
            lines.append(f'  MARKER {number + 1} {cue.seconds + cue.length:.6f} "" 1')
    lines += _track("video", "VIDEO", timeline.video, folder, timeline.seconds, muted=bool(timeline.sounds))
    for take, sound in enumerate(timeline.sounds):
        kind = _SOURCES.get(sound.suffix.lower(), "VIDEO")
        lines += _track(f"take {take + 1}", kind, sound, folder, timeline.seconds, muted=take > 0)
    return "\n".join([*lines, ">", ""])


def _track(name: str, kind: str, path: Path, folder: Path, seconds: float, muted: bool) -> list[str]:
    return [
        "  <TRACK",
        f"    NAME {_quoted(name)}",
        "    VOLPAN 1 0 -1 -1 1",
        f"    MUTESOLO {int(muted)} 0 0",
        "    <ITEM",
        "      POSITION 0",
        f"      LENGTH {seconds:.9f}",
        "      LOOP 0",
        f"      NAME {_quoted(path.name)}",
        f"      <SOURCE {kind}",
        f"        FILE {_quoted(relative(path, folder))}",
        "      >",
        "    >",
        "  >",
    ]


def relative(path: Path, folder: Path) -> str:
    """The path relative to `folder` if it is in or below it, else the absolute path."""
    path, folder = path.absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _quoted(text: str) -> str:
    """Quote a text as Reaper does, with the first of three quotation marks that it does not contain."""
    text = " ".join(text.split())
    mark = next((mark for mark in "\"'`" if mark not in text), None)
    return f"{mark}{text}{mark}" if mark else f"`{text.replace('`', chr(39))}`"

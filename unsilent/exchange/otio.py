"""OpenTimelineIO: timelines for Resolve, Premiere and other programs. Read and written with its library, an optional extra."""

import os
import re
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import numpy as np

from unsilent.cues import Cue
from unsilent.errors import DataError, MediaError, ParameterError, how_to_install
from unsilent.exchange.edl import label_of
from unsilent.exchange.reaper import relative
from unsilent.exchange.timeline import Timeline, name_of
from unsilent.media.suffixes import OWN_COMMENT

_MAX_BYTES = 256 << 20  # largest unpacked timeline, without its media
_MAX_DEPTH = 500  # of nested brackets; the library's parser overflows its stack at some thousands
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.S)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_otio(path: Path) -> list[Cue]:
    """Cues at the markers of a timeline, its tracks and its clips. The duration of a marker is the cue's length.

    Raises:
        DataError: if the file cannot be read, is not a timeline, or has no markers.
        ParameterError: if the library is not installed.
    """
    otio = _otio()
    try:
        if _depth(_content(path)) > _MAX_DEPTH:
            raise DataError(f"{path} is nested more than {_MAX_DEPTH} levels deep; it is no timeline, or a damaged one.")
        timeline = otio.adapters.read_from_file(str(path))
        if not isinstance(timeline, otio.schema.Timeline):
            raise DataError(f"{path} is not a timeline, but a {type(timeline).__name__}; export the timeline.")
        items = [timeline.tracks, *timeline.tracks, *timeline.find_clips()]
        places = [(item, marker) for item in items for marker in item.markers]
        cues = [_cue(timeline, item, marker) for item, marker in places]
    except (DataError, ParameterError):
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # the library raises many undocumented classes
        raise DataError(f"{path} is not an OpenTimelineIO file, or a damaged one: {' '.join(str(error).split())[:100]}.") from None
    if not cues:
        raise DataError(f"{path} has no markers, so it has no cues.")
    return sorted(cues, key=lambda cue: cue.seconds)


def _content(path: Path) -> bytes:
    if path.suffix.lower() != ".otioz":
        return path.read_bytes()
    with zipfile.ZipFile(path) as bundle:
        if bundle.getinfo("content.otio").file_size > _MAX_BYTES:
            raise DataError(f"{path} would unpack to more than {_MAX_BYTES >> 20} MB, which is too large for a timeline.")
        return bundle.read("content.otio")


def _depth(content: bytes) -> int:
    """Largest number of nested brackets in JSON."""
    brackets = np.frombuffer(_TEXT.sub(b"", content).translate(None, _NO_BRACKETS), np.uint8)
    opens = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.cumsum(np.where(opens, 1, -1)).max(initial=0))


def _cue(timeline: Any, item: Any, marker: Any) -> Cue:
    start, duration = marker.marked_range.start_time, marker.marked_range.duration
    if item is not timeline.tracks:
        start = item.transformed_time(start, timeline.tracks)
    elif timeline.global_start_time is not None and start >= timeline.global_start_time and start > timeline.duration():
        start -= timeline.global_start_time  # some programs write timecodes here
    length = round(duration.to_seconds(), 4) if duration.value > 1 else None  # one frame means no length
    return Cue(seconds=round(max(0.0, start.to_seconds()), 4), label=label_of(marker.name), length=length)


def write_otio(timeline: Timeline, out: Path, final: Path) -> None:
    """Write a timeline with the video, a track for each take, and cues as markers. All takes except the first are disabled.

    Args:
        timeline: content of the file.
        out: file to write; `.otioz` contains the media too.
        final: path that the file gets afterwards; media paths are relative to its folder.

    Raises:
        ParameterError: if the library is not installed.
        MediaError: if the library cannot put a file of such a name into a bundle.
    """
    otio = _otio()
    from opentimelineio.adapters import file_bundle_utils

    at = lambda frames: otio.opentime.RationalTime(frames, float(timeline.rate))  # noqa: E731
    shown = otio.schema.Timeline(_text(timeline.video.stem), global_start_time=at(timeline.start_frame))
    shown.metadata["unsilent"] = {"comment": OWN_COMMENT}
    bundles = out.suffix == ".otioz"
    for number, path in enumerate([timeline.video, *timeline.sounds]):
        kind = otio.schema.TrackKind.Audio if number else otio.schema.TrackKind.Video
        track = otio.schema.Track(f"take {number}" if number else "video", kind=kind)
        track.enabled = number < 2
        # sounds except BWF have no timecode, so programs count from their first sample
        first = at(timeline.start_frame if number == 0 else 0)
        url = quote(os.fsencode(path.absolute())) if bundles else relative(path, final.parent)
        if _text(url) != url:
            url = quote(os.fsencode(url))
        media = otio.schema.ExternalReference(url, otio.opentime.TimeRange(first, at(timeline.n_frames)))
        track.append(otio.schema.Clip(_text(path.name), media, otio.opentime.TimeRange(first, at(timeline.n_frames))))
        shown.tracks.append(track)
    for number, cue in enumerate(timeline.cues):
        length = max(1, round((cue.length or 0) * timeline.rate))
        place = otio.opentime.TimeRange(at(float(cue.seconds * timeline.rate)), at(length))
        about = {"unsilent": {"strength": cue.strength}}
        shown.tracks.markers.append(otio.schema.Marker(name_of(cue, number), place, otio.schema.MarkerColor.RED, about))
    try:
        otio.adapters.write_to_file(shown, str(out))
    except file_bundle_utils.NotAFileOnDisk:
        paths = ", ".join(map(_text, map(str, (timeline.video, *timeline.sounds))))
        raise MediaError(f"{final} cannot hold {paths}: their names must be UTF-8 without %; rename them, or export .otio.") from None


def _text(name: str) -> str:
    """A file name as valid text; names on Unix may be any bytes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _otio() -> ModuleType:
    try:
        import opentimelineio
    except ImportError:
        raise ParameterError(f"OpenTimelineIO files need their library; {how_to_install('projects')}.") from None
    return opentimelineio

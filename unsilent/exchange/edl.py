"""Cut lists (EDL, CMX 3600): the video as one event, cues as markers."""

import re
from fractions import Fraction
from pathlib import Path

from unsilent.cues import Cue
from unsilent.errors import DataError
from unsilent.exchange.timecode import parse, show
from unsilent.exchange.timeline import Timeline, name_of
from unsilent.files import read_text
from unsilent.media.suffixes import OWN_COMMENT

_EVENT = re.compile(r"\d+\s+\S+\s+\S+\s+\S+.*?((?:\s+\d\d:\d\d:\d\d[:;.,]\d\d){4})\s*")
_LOCATOR = re.compile(r"\*\s*LOC:\s*(\d\d:\d\d:\d\d[:;.,]\d\d)\s*(\S*)\s*(.*)")
_RESOLVE = re.compile(r"\|C:\S+\s*\|M:(.*?)\s*\|D:(\d+)")  # marker lists of Resolve


def read_edl(path: Path, rate: Fraction) -> list[Cue]:
    """Cues at the markers of a list, or, without any, at its cuts.

    The video begins at the first record time or, if all events are markers, at the whole hour before it.

    Args:
        path: file of the list.
        rate: frames per second, which the file does not contain.

    Raises:
        DataError: if the file cannot be read, or is not a cut list.
    """
    start, hour, cuts, markers = None, None, list[int](), list[tuple[int, str]]()
    for line in read_text(path, DataError, errors="replace").splitlines():
        try:
            if event := _EVENT.fullmatch(line.strip()):
                time = event[1].split()[2]
                record = parse(time, rate)
                if start is None or record < start:
                    start, hour = record, parse(f"{time[:3]}00:00{time[8]}00", rate)
                cuts.append(record)
            elif locator := _LOCATOR.match(line.strip()):
                markers.append((parse(locator[1], rate), locator[3].strip()))
            elif (marker := _RESOLVE.search(line)) and cuts:
                markers.append((cuts.pop(), marker[1].strip()))
        except ValueError as error:
            raise DataError(f"{path}: {error}; export the list at the video's frame rate.") from None
    if start is None:
        raise DataError(f"{path} is not a cut list: it has no line such as `001  AX  V  C` with four timecodes.")
    start = hour if markers and not cuts else start
    places = markers or [(cut, "") for cut in cuts if cut > start]
    if not places:
        raise DataError(f"{path} has neither markers nor cuts, so it gives no cues.")
    seconds = [(float((frame - start) / rate), text) for frame, text in sorted(places)]
    if seconds[0][0] < 0:
        raise DataError(f"{path} has a marker {-seconds[0][0]:.2f} s before its first event.")
    return [Cue(seconds=round(at, 4), label=label_of(text)) for at, text in seconds]


def label_of(text: str) -> str | None:
    """The label in the name of a marker; None for default names of programs, such as `Marker 3`."""
    text = text.strip()
    return None if re.fullmatch(r"((marker|cue|locator|untitled)?[\s#_]*\d*)", text, re.I) else text


def edl_text(timeline: Timeline) -> str:
    """A cut list with one event, and a marker for each cue at the nearest frame."""
    rate, drop = timeline.rate, timeline.is_drop
    edges = [show(timeline.start_frame + frame, rate, drop) for frame in (0, timeline.n_frames)]
    mode = "DROP FRAME" if drop else "NON-DROP FRAME"
    lines = [f"TITLE: {timeline.video.stem}", f"FCM: {mode}", "", f"001  AX       V     C        {' '.join(edges * 2)}"]
    lines += [f"* FROM CLIP NAME: {timeline.video.name}", f"* {OWN_COMMENT}"]
    for number, cue in enumerate(timeline.cues):
        at = show(timeline.start_frame + timeline.frame(cue.seconds), rate, drop)
        lines.append(f"* LOC: {at} RED     {name_of(cue, number)}")
    return "\n".join([*lines, ""])

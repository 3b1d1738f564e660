"""SMPTE timecode: hours, minutes, seconds and frames, with drop-frame timecode at 29.97 and 59.94 frames per second."""

import re
from fractions import Fraction
from pathlib import Path

from unsilent.media.files import find_video, open_media

_TIMECODE = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d)([:;.,])(\d{2,3})")
_COMMON = (Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 48, 50, Fraction(60000, 1001), 60)


def frame_rate(video: Path) -> Fraction:
    """Frames per second of a video: the nearest standard rate within 0.1 %, else its average rate.

    Raises:
        MediaError: if the video cannot be opened.
    """
    with open_media(video) as container:
        stream = find_video(container, video)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    near = min(_COMMON, key=lambda one: abs(one - rate))
    return Fraction(near) if abs(near - rate) < rate / 1000 else Fraction(rate).limit_denominator(1001)


def start_frame(video: Path, rate: Fraction) -> tuple[int, bool]:
    """Number of the first frame by the video's timecode, and whether it is drop-frame; 0 and False without a timecode.

    Raises:
        MediaError: if the video cannot be opened.
    """
    with open_media(video) as container:
        places = [container.metadata, *(stream.metadata for stream in container.streams)]
        found = next((place["timecode"] for place in places if _TIMECODE.fullmatch(place.get("timecode", ""))), None)
    return (0, False) if found is None else (parse(found, rate), ";" in found)


def parse(text: str, rate: Fraction) -> int:
    """Frame number of a timecode, counted from midnight.

    Args:
        text: `HH:MM:SS:FF`; `;` before the frames marks drop-frame timecode.
        rate: frames per second.

    Raises:
        ValueError: for other text, or a frame number that the rate does not have.
    """
    match = _TIMECODE.fullmatch(text.strip())
    whole = round(rate)
    if match is None or int(match[5]) >= whole:
        raise ValueError(f"{text!r} is not a timecode at {float(rate):g} frames per second")
    hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
    minutes += 60 * hours
    dropped = whole // 15 * (minutes - minutes // 10) if match[4] == ";" and rate.denominator != 1 else 0
    return (60 * minutes + seconds) * whole + frames - dropped


def show(frame: int, rate: Fraction, is_drop: bool = False) -> str:
    """The timecode of a frame number, the inverse of `parse`; it wraps after 24 hours."""
    whole = round(rate)
    is_drop = is_drop and rate.denominator != 1
    if is_drop:
        drop = whole // 15
        tens, rest = divmod(frame, 600 * whole - 9 * drop)
        frame += 9 * drop * tens + (drop * ((rest - drop) // (60 * whole - drop)) if rest >= drop else 0)
    seconds, frames = divmod(frame, whole)
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{';' if is_drop else ':'}{frames:02}"

"""Content of a project for another program: a video, its sounds as tracks, and cues as markers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from unsilent.cues import Cue
from unsilent.exchange.timecode import frame_rate, start_frame
from unsilent.media.probe import probe


@dataclass(frozen=True)
class Timeline:
    """A video with its sounds and cues.

    Attributes:
        video: video file.
        seconds: length of the video.
        rate: frames per second.
        start_frame: frame number of the video's timecode; 0 without one.
        is_drop: whether the timecode is drop-frame.
        sounds: file of each take, the best first; all except the first are muted.
        cues: in the order of time.
    """

    video: Path
    seconds: float
    rate: Fraction
    start_frame: int
    is_drop: bool
    sounds: Sequence[Path]
    cues: Sequence[Cue]

    @classmethod
    def of(cls, video: Path, sounds: Sequence[Path], cues: Sequence[Cue]) -> "Timeline":
        """Read length, frame rate and timecode of a video.

        Raises:
            MediaError: if the video cannot be read.
        """
        info, rate = probe(video), frame_rate(video)
        frame, is_drop = start_frame(video, rate)
        return cls(video, info.seconds, rate, frame, is_drop, sounds, sorted(cues, key=lambda cue: cue.seconds))

    @property
    def n_frames(self) -> int:
        """Frames of the video at a constant rate, at least one."""
        return max(1, round(self.seconds * self.rate))

    def frame(self, seconds: float) -> int:
        """Number of the frame nearest to a time, from 0, at most the last."""
        return min(round(seconds * self.rate), self.n_frames - 1)


def name_of(cue: Cue, number: int) -> str:
    """Text of a marker: the label, or the number of the cue."""
    return cue.label or f"cue {number + 1}"

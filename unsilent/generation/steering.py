"""Steering: cues and labels over time on the sampler's grid, as motion curves with impacts and a class for each column."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from unsilent.clip import Clip
from unsilent.cues import Cue
from unsilent.generation.windows import Window
from unsilent.request import Request
from unsilent.vision.motion import CHANNELS

_WIDTH_FRAMES = 0.8  # standard deviation of the Gaussian that stands for an impact
_HEIGHT = 1.5  # height of the motion curve at a cue of strength 1; curves are in [0, 2]
SEEN = -1  # class number of a column whose class is recognised from its features


@dataclass(frozen=True)
class Steering:
    """Conditions over time.

    Attributes:
        cues: in the order of time; None takes the video's motion.
        classes: class number of each column, or `SEEN`; None if the whole sound has one class.
    """

    cues: Sequence[Cue] | None = None
    classes: Int[np.ndarray, "columns"] | None = None

    @classmethod
    def of(cls, request: Request, n_columns: int, clip: Clip, classes: Sequence[str]) -> "Steering":
        """Steering of a resolved request.

        Args:
            request: without cues "auto".
            n_columns: code columns of the whole sound.
            clip: the grid.
            classes: names by class number.
        """
        cues = None if request.cues is None else sorted(request.cues, key=lambda cue: cue.seconds)
        stretches = request.prompt_track or ()
        if not stretches and not any(cue.label for cue in cues or ()):
            return cls(cues)
        index_of = {name: index for index, name in enumerate(classes)}
        numbers = np.full(n_columns, SEEN if request.label is None else index_of[request.label])
        for stretch in stretches:
            numbers[_columns(stretch.start, stretch.stop, clip)] = index_of[stretch.label]
        ordered = cues or []
        for place, cue in enumerate(ordered):
            if cue.label is not None:
                stop = ordered[place + 1].seconds if place + 1 < len(ordered) else n_columns * clip.column_seconds
                numbers[_columns(cue.seconds, min(stop, cue.seconds + (cue.length or np.inf)), clip)] = index_of[cue.label]
        return cls(cues, numbers)

    def motion(self, window: Window, clip: Clip) -> Float32[np.ndarray, "columns motion"]:
        """Motion curves of a window in the form of `Observation.motion_of`, with an impact at each cue and 0 elsewhere."""
        curve = np.zeros(clip.n_features)
        seconds = window.start * clip.column_seconds + np.arange(clip.n_features) / clip.feature_fps
        for cue in (cue for cue in self.cues if abs(cue.seconds - seconds.mean()) < clip.seconds):
            bump = np.exp(-0.5 * ((seconds - cue.seconds) * clip.feature_fps / _WIDTH_FRAMES) ** 2)
            curve = np.maximum(curve, _HEIGHT * (0.5 + 0.5 * cue.strength) * bump)
        return np.repeat(curve[:, None], CHANNELS, axis=1).astype(np.float32).reshape(clip.columns, -1)

    def labels(self, window: Window, n_features: int, clip: Clip) -> Int[np.ndarray, "features"]:
        """Class number of each feature of a window; feature `f` conditions the columns around `f / n_features` of the clip."""
        columns = window.start + (np.arange(n_features) * clip.columns + clip.columns // 2) // n_features
        return self.classes[columns.clip(0, len(self.classes) - 1)]


def _columns(start: float, stop: float, clip: Clip) -> slice:
    """Columns of which more than half lies between two times; at least one."""
    first = round(start / clip.column_seconds)
    return slice(first, max(first + 1, round(min(stop, 1e9) / clip.column_seconds)))

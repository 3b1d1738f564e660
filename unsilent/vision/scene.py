"""Scenes (a video, a part of one, or a still image), and the features and motion of their frames."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.errors import MediaError
from unsilent.media.image import read_image
from unsilent.media.probe import probe
from unsilent.media.video import stream_lazy_frames
from unsilent.vision.cuts import CutMeter
from unsilent.vision.features import Backbone, extract, needed_frames, network_inputs
from unsilent.vision.impact import ImpactMeter
from unsilent.vision.motion import CHANNELS, normalise


@dataclass(frozen=True)
class Scene:
    """A video, a part of one, or a still image.

    Attributes:
        path: file of the video or image.
        seconds: length; 0 for a still image, which then stands for every frame.
        start_seconds: start within the video.
    """

    path: Path
    seconds: float
    start_seconds: float = 0.0

    @classmethod
    def of_video(cls, path: Path) -> "Scene":
        """A whole video.

        Raises:
            MediaError: if the file cannot be read.
        """
        info = probe(path)
        return cls(info.path, info.seconds)

    def first_frame(self, clip: Clip) -> int:
        """Number of the scene's first frame in the video, at the clip's feature rate."""
        return round(self.start_seconds * clip.feature_fps)

    def frames(self, clip: Clip) -> range:
        """Numbers of the scene's frames in the video, at the clip's feature rate."""
        first = self.first_frame(clip)
        return range(first, first + max(1, int(self.seconds * clip.feature_fps)))

    def split(self, cuts: Sequence[int], clip: Clip) -> list["Scene"]:
        """The parts between cuts, given by frame numbers in the video."""
        fps, whole = clip.feature_fps, self.frames(clip)
        edges = [whole.start, *cuts, whole.stop]
        # a little longer than the frames, so that rounding loses none
        return [Scene(self.path, (stop - start + 0.01) / fps, start / fps) for start, stop in pairwise(edges)]

    def frame_numbers(self, start_column: int, clip: Clip, rows: Sequence[int], pairs: bool = False, repeat: bool = False) -> list[int]:
        """Numbers of frames in the video, at the clip's feature rate, for feature rows of a clip that starts at a code column.

        Args:
            start_column: code column of the scene at which the clip starts; below 0, the first frame is repeated.
            clip: the grid.
            rows: features of the clip, 0 to `clip.n_features - 1`.
            pairs: whether a feature is computed from a frame and the next.
            repeat: if the scene ends inside the clip, repeat its frames from `start_column` on, as in the training of the published models;
                otherwise the last frame is repeated.
        """
        total = max(1, int(self.seconds * clip.feature_fps) - pairs)
        # by time, because a column lasts 3.994 features: 4 per column would drift by a second in ten minutes
        first = min(round(start_column * clip.column_seconds * clip.feature_fps), total - 1)
        available = min(clip.n_features, total - first)
        return [self.first_frame(clip) + max(0, first + (row % available if repeat else min(row, available - 1))) for row in rows]


class Observation(NamedTuple):
    """Features and motion of a scene's frames.

    Attributes:
        features: one row for each embedded frame, in the order of time.
        rows: row in `features` of each frame, by frame number.
        levels: impact level of each measured frame, by frame number; see `impact.ImpactMeter`.
        cuts: numbers of the watched frames that begin a new shot; see `cuts.CutMeter`.
    """

    features: Float[Tensor, "features dim"]
    rows: dict[int, int]
    levels: dict[int, Float[np.ndarray, "channels"]]
    cuts: list[int]

    def features_of(self, numbers: Sequence[int]) -> Float[Tensor, "frames dim"]:
        """Features of the frames with these numbers."""
        return self.features[[self.rows[number] for number in numbers]]

    def motion_of(self, numbers: Sequence[int], clip: Clip) -> Float[np.ndarray, "columns motion"]:
        """Motion curves in [0, 2] for each code column of a window, given the numbers of all its frames; others have level 0."""
        levels = np.stack([self.levels.get(number, np.zeros(CHANNELS)) for number in numbers])
        return normalise(levels).astype(np.float32).reshape(clip.columns, -1)


def observe(
    scene: Scene,
    clip: Clip,
    module: nn.Module,
    expects: Backbone,
    embedded: Iterable[int],
    measured: Iterable[int] = (),
    progress: Callable[[float], None] = lambda share: None,
    watched: Iterable[int] = (),
) -> Observation:
    """Decode a scene once: embed some of its frames, measure motion, and detect cuts.

    Args:
        scene: the scene to read.
        clip: the grid.
        module: image network.
        expects: preprocessing of the network.
        embedded: numbers of the frames to embed, from `Scene.frame_numbers`.
        measured: numbers of the frames whose motion is measured; a still image has none.
        progress: called with the share of embedded frames, 0 to 1.
        watched: numbers of the frames in which cuts are detected.

    Raises:
        MediaError: if the frames cannot be read, or there are none.
    """
    # the first frame is always read, because it replaces the others if they are damaged
    wanted = sorted({scene.first_frame(clip), *embedded})
    to_embed, to_measure, to_watch = set(needed_frames(wanted, expects)), set(measured), set(watched)
    arrived, meter, cuts = list[int](), ImpactMeter(), CutMeter()

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        if not scene.seconds:
            yield 0, read_image(scene.path)
            return
        for frame in stream_lazy_frames(
            scene.path, clip.feature_fps, wanted=to_embed | to_measure | to_watch, short_side=expects.decoded_side
        ):
            grey = frame.grey() if frame.number in to_measure or frame.number in to_watch else None
            if frame.number in to_measure:
                meter.add(frame.number, grey)
            if frame.number in to_watch:
                cuts.add(frame.number, grey)
            if frame.number in to_embed:
                yield frame.number, frame.rgb()

    def inputs() -> Iterator[np.ndarray]:
        for number, view in network_inputs(frames(), wanted, expects):
            arrived.append(number)
            yield view
        if not arrived:
            raise MediaError(f"{scene.path} has no frame at or after {scene.start_seconds:.2f} s.")

    features = extract(inputs(), module, expects, on_batch=lambda done: progress(done / len(wanted)))
    # a damaged end may lack frames; the last decoded frame replaces them
    found = np.searchsorted(arrived, wanted, side="right") - 1
    return Observation(features, dict(zip(wanted, np.maximum(found, 0).tolist(), strict=True)), meter.levels, cuts.cuts())

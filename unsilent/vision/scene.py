"""What is looked at while a sound is made (a video, a stretch of one, a still picture), and which pictures a condition picks of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.errors import MediaError
from unsilent.generation.sampling import Window
from unsilent.media.still import read_still
from unsilent.media.video import stream_pictures
from unsilent.vision.features import Backbone, extract, needed, views
from unsilent.vision.motion import CHANNELS, Watch, normalise


@dataclass(frozen=True)
class Scene:
    """What is looked at.

    Attributes:
        path: of a video, or of a still picture.
        seconds: length; 0 for a still picture, which is then every picture of the scene.
        start_seconds: where it begins in the video.
    """

    path: Path
    seconds: float
    start_seconds: float = 0.0

    def first(self, clip: Clip) -> int:
        """Number of its first picture in the video, at the feature rate."""
        return round(self.start_seconds * clip.feature_fps)

    def picked(self, window: Window, clip: Clip, rows: Sequence[int], pairs: bool, repeat: bool = True) -> list[int]:
        """Numbers of the pictures in the video, at the feature rate, that the condition of a window consists of.

        Args:
            window: in the scene.
            clip: the grid.
            rows: of the features of a clip that the condition wants.
            pairs: whether a feature is of a picture and the next.
            repeat: let pictures repeat from the window's start where the scene ends inside it, as the published models were trained;
                otherwise the last one stays.
        """
        total = max(1, int(self.seconds * clip.feature_fps) - pairs)
        # by time, since a column lasts a hair less than its four features: counting features would run ahead a second in ten minutes
        first = min(round(window.start * clip.column_seconds * clip.feature_fps), total - 1)
        available = min(clip.n_features, total - first)
        return [self.first(clip) + first + (row % available if repeat else min(row, available - 1)) for row in rows]

    def watched(self, window: Window, clip: Clip) -> list[int]:
        """Numbers of all pictures of a window, as of `picked`."""
        return self.picked(window, clip, range(clip.n_features), pairs=False)


class Seen(NamedTuple):
    """What was seen of a scene.

    Attributes:
        features: of the pictures that were looked at.
        rows: where in `features` that of each picture lies, by its number.
        levels: how much each picture that was watched differs from the one before, by its number; see `motion.Watch`.
    """

    features: Float[Tensor, "features dim"]
    rows: dict[int, int]
    levels: dict[int, Float[np.ndarray, "channels"]]

    def picked(self, numbers: Sequence[int]) -> Float[Tensor, "picked dim"]:
        """Features of some pictures."""
        return self.features[[self.rows[number] for number in numbers]]

    def motion(self, numbers: Sequence[int], clip: Clip) -> Float[np.ndarray, "columns motion"]:
        """Motion of each code column of a window that consists of these pictures; none of those that were not there."""
        levels = np.stack([self.levels.get(number, np.zeros(CHANNELS)) for number in numbers])
        return normalise(levels).astype(np.float32).reshape(clip.columns, -1)


def look(
    scene: Scene,
    picked: Sequence[Sequence[int]],
    clip: Clip,
    module: nn.Module,
    expects: Backbone,
    progress: Callable[[float], None] = lambda share: None,
    watched: Sequence[Sequence[int]] = (),
) -> Seen:
    """Look at exactly the pictures that some window's condition picks, and watch how others follow on each other.

    Args:
        scene: to look at.
        picked: numbers of pictures for each window, as of `Scene.picked`.
        clip: the grid.
        module: picture network.
        expects: what it expects.
        progress: told which share of the pictures is seen.
        watched: numbers of pictures for each window whose motion is wanted, as of `Scene.watched`; a still picture has none.

    Raises:
        MediaError: if the pictures cannot be read, or there are none.
    """
    # the first picture is always asked for: it stands in where damage leaves none of the others
    wanted = sorted({scene.first(clip)}.union(*picked))
    asked, followed = set(needed(wanted, expects)), set[int]().union(*watched)
    arrived, watch = list[int](), Watch()

    def pictures() -> Iterator[tuple[int, np.ndarray]]:
        if not scene.seconds:
            yield 0, read_still(scene.path)
            return
        # smaller pictures are scaled once, inside the decoder's graph
        for picture in stream_pictures(scene.path, clip.feature_fps, wanted=asked | followed, short_side=expects.short_side):
            if picture.number in followed:
                watch.see(picture.number, picture.grey())
            if picture.number in asked:
                yield picture.number, picture.rgb()

    def seen() -> Iterator[np.ndarray]:
        for number, view in views(pictures(), wanted, expects):
            arrived.append(number)
            yield view
        if not arrived:
            raise MediaError(f"{scene.path} has no picture from {scene.start_seconds:.2f} s on.")

    features = extract(seen(), module, expects, on_batch=lambda done: progress(done / len(wanted)))
    # a damaged tail may hold fewer pictures than promised: the last one that arrived stands for the missing
    found = np.searchsorted(arrived, wanted, side="right") - 1
    return Seen(features, dict(zip(wanted, np.maximum(found, 0).tolist(), strict=True)), watch.levels)

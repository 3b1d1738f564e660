"""Causal observation for streams: the condition of a window is computed from the frames that have been read so far."""

from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.checkpoints.bundle import Parts
from unsilent.errors import ParameterError
from unsilent.generation.conditions import WindowFrames, make_condition, numbers_of, plan_frames
from unsilent.generation.leads import choose_exemplars, lead_columns
from unsilent.generation.windows import Window
from unsilent.media.video import LazyFrame, live_lazy_frames, stream_lazy_frames
from unsilent.models.residual_sampler import ResidualSampler
from unsilent.request import Request
from unsilent.vision.features import extract
from unsilent.vision.impact import ImpactMeter
from unsilent.vision.motion import CHANNELS, normalise
from unsilent.vision.scene import Scene

LONGEST_LIVE_SECONDS = 30 * 86400.0


class CausalObserver:
    """Reads frames in the order of time. Features and motion are dropped once no window needs them.

    Attributes:
        lead: columns of an exemplar that each window continues.
        last: number of the last frame that was read.
        ended: whether the video has no more frames.

    Args:
        frames: frames at the clip's feature rate, from number 0 on.
        scene: the scene of these frames.
        parts: the model, with an image network.
    """

    def __init__(self, frames: Iterable[LazyFrame], scene: Scene, parts: Parts) -> None:
        self._frames, self._scene, self._parts, self._clip = iter(frames), scene, parts, parts.codebook.config.clip
        self._meter, self._numbers, self._features = ImpactMeter(), list[int](), list[Tensor]()
        self._windows = dict[int, WindowFrames]()
        self.lead, self.last, self.ended = lead_columns(Request(), self._clip, parts.exemplars), -1, False

    @classmethod
    def of_video(cls, scene: Scene, parts: Parts) -> "CausalObserver":
        """Observer of a video."""
        clip, side = parts.codebook.config.clip, parts.backbone_row.decoded_side
        return cls(stream_lazy_frames(scene.path, clip.feature_fps, short_side=side), scene, parts)

    @classmethod
    def live(cls, source: str, parts: Parts, raw: tuple[int, int, float] | None = None) -> "CausalObserver":
        """Observer of frames that arrive while they are read; `source` and `raw` as of `media.video.live_lazy_frames`.

        Raises:
            MediaError: if the source cannot be opened.
            ParameterError: for a model whose condition needs a whole clip.
        """
        if not sees_in_time(parts):
            raise ParameterError(
                f"the model {parts.name!r} needs a whole clip before its first code; live video needs a model such as everyday."
            )
        clip, side = parts.codebook.config.clip, parts.backbone_row.decoded_side
        frames = live_lazy_frames(source, clip.feature_fps, raw=raw, short_side=side)
        return cls(frames, Scene(Path(source), LONGEST_LIVE_SECONDS), parts)

    def read(self, number: int) -> bool:
        """Read up to a frame; False if the video ends before it."""
        while self.last < number and not self.ended:
            frame = next(self._frames, None)
            if frame is None:
                self.ended = True
                break
            self.last = frame.number
            self._meter.add(frame.number, frame.grey())
            if not self._numbers or self._is_embedded(frame.number):
                self._numbers.append(frame.number)
                self._features.append(extract(iter([frame.rgb()]), self._parts.backbone, self._parts.backbone_row)[0])
        return not self.ended

    def condition(self, window: Window, request: Request) -> Float[Tensor, "sides condition width"]:
        """The condition of a window. Frames that have not been read get the last feature and no motion."""
        sampler, frames, features = self._parts.sampler, self._window(window.start), self._seen(window)
        labels, avoided = self._labels(features, request), numbers_of(request, self._parts.classes)
        if not request.motion:
            return make_condition(sampler, features, labels, None, avoided)
        numbers, curve = np.array(frames.measured), np.zeros((len(frames.measured), CHANNELS))
        seen = numbers <= self.last
        if seen.any():
            curve[seen] = normalise(np.stack([self._meter.level(number) for number in numbers[seen].tolist()]))
        motion = torch.from_numpy(curve.astype(np.float32).reshape(1, self._clip.columns, -1)).to(features.device)
        return make_condition(sampler, features, labels, motion, avoided)

    def exemplar(self, window: Window, request: Request) -> Int[Tensor, "2 rows lead"]:
        """Codes that a window continues: an exemplar of the requested class, or of the likeliest when the window begins; then silence."""
        exemplars, features = self._parts.exemplars, self._seen(window)
        labels = self._labels(features, request).expand(features.shape[:2])
        number, which = labels[0, window.primed * labels.shape[1] // window.columns], choose_exemplars(exemplars, request)[0]
        return torch.stack([exemplars.codes[number, which], exemplars.silence])[..., -window.led :].long()

    def _seen(self, window: Window) -> Float[Tensor, "1 features dim"]:
        """Features of a window; frames that have not been read get the last feature."""
        rows = [max(0, bisect_right(self._numbers, number) - 1) for number in self._window(window.start).embedded]
        return torch.stack([self._features[row] for row in rows])[None].to(self._parts.sampler.pos_emb.device)

    def _labels(self, features: Float[Tensor, "1 features dim"], request: Request) -> Int[Tensor, "1 *features"] | None:
        """The requested class, or else the likeliest class of each feature; None for a sampler without sight."""
        if request.label is not None:
            return torch.tensor([self._parts.classes.index(request.label)], device=features.device)
        sight = getattr(self._parts.sampler.embedder, "sight", None)
        return None if sight is None else sight.shares(features, numbers_of(request, self._parts.classes)).argmax(2)

    def _is_embedded(self, number: int) -> bool:
        """Whether a window needs the features of a frame; at most three windows contain it."""
        clip = self._clip
        column = int(number / (clip.column_seconds * clip.feature_fps)) + 1 + self.lead
        last = column // clip.hop_columns
        return any(number in self._window(one * clip.hop_columns - self.lead).embedded for one in range(max(0, last - 2), last + 1))

    def _forget(self, number: int) -> None:
        """Drop motion before a frame, and features except the one in effect at that frame."""
        first = max(0, bisect_right(self._numbers, number) - 1)
        self._numbers, self._features = self._numbers[first:], self._features[first:]
        self._meter.forget(number)

    def _window(self, start: int) -> WindowFrames:
        if start not in self._windows:
            if len(self._windows) > 4:  # windows of the past
                self._windows.pop(min(self._windows))
                self._forget(min(self._windows[min(self._windows)].measured, default=0))
            window, condition = Window(start, 0, self._clip.columns), self._parts.sampler.config.condition
            self._windows[start] = plan_frames(self._scene, [window], self._clip, condition, self._parts.backbone_row.pairs)[0]
        return self._windows[start]


def sees_in_time(parts: Parts) -> bool:
    """Whether the condition of a column can be given when the column comes."""
    return isinstance(parts.sampler, ResidualSampler) and parts.backbone is not None and parts.sampler.config.condition.by_column

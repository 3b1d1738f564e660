"""Conditions: the video frames that condition each window, and their embeddings for the sampler."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.clip import Clip
from unsilent.generation.steering import Steering
from unsilent.generation.windows import Window
from unsilent.models.condition import condition_rows
from unsilent.models.configs import ConditionConfig
from unsilent.models.sampler import AnySampler
from unsilent.request import Request
from unsilent.vision.scene import Observation, Scene

_N_LIKELIEST = 5  # classes that `likeliest` returns

# one for each window: the condition, and with avoided classes a negative condition for guidance
Conditions = Sequence[Float[Tensor, "sides condition width"]]


@dataclass(frozen=True)
class WindowFrames:
    """Numbers, at the clip's feature rate, of the video frames that condition one window.

    Attributes:
        embedded: one frame for each feature of the condition.
        measured: all frames of the window, for its motion; empty for a model without motion.
    """

    embedded: list[int]
    measured: list[int]


@dataclass(frozen=True)
class Plan:
    """Windows of a sound, and the frames that condition each; no frames for a model without features."""

    windows: list[Window]
    frames: list[WindowFrames]

    @property
    def n_columns(self) -> int:
        """Code columns of the whole sound."""
        return self.windows[-1].stop

    @property
    def breaks(self) -> tuple[int, ...]:
        """Columns, except the first, whose sound does not continue the column before: cuts between different sounds."""
        return tuple(window.new for window in self.windows if window.is_fresh and window.new)

    def embedded(self) -> set[int]:
        """Numbers of all frames to embed."""
        return {number for frames in self.frames for number in frames.embedded}

    def measured(self) -> set[int]:
        """Numbers of all frames whose motion is measured."""
        return {number for frames in self.frames for number in frames.measured}

    def watched(self, scene: Scene, clip: Clip) -> range:
        """Numbers of all frames of a scene up to the end of the sound, in which cuts are detected."""
        return scene.frames(clip)[: round(self.n_columns * clip.column_seconds * clip.feature_fps) + 1]


def plan_frames(scene: Scene, windows: Sequence[Window], clip: Clip, condition: ConditionConfig, pairs: bool) -> list[WindowFrames]:
    """Choose the frames that condition each window.

    Args:
        scene: source of the frames.
        windows: windows of the sound.
        clip: the grid.
        condition: the sampler's configuration; of a kind with features.
        pairs: whether a feature is computed from a frame and the next.
    """
    rows = condition_rows(condition, clip.n_features, clip.columns)
    repeat = not condition.by_column  # the published models were trained on repeated frames
    return [
        WindowFrames(
            scene.frame_numbers(window.start, clip, rows, pairs, repeat),
            scene.frame_numbers(window.start, clip, range(clip.n_features), repeat=True) if condition.motion else [],
        )
        for window in windows
    ]


def seen_classes(
    sampler: AnySampler, plan: Plan, observation: Observation | None, request: Request, classes: Sequence[str]
) -> dict[str, float]:
    """Likeliest classes of a whole scene. A requested class has its share of the time as probability; sight determines the rest.

    Empty for a sampler without sight.
    """
    if getattr(sampler.embedder, "sight", None) is None:
        return {}
    shares = class_shares(sampler, plan.frames, observation, request, classes)
    over_time = Steering.of(request, plan.n_columns, sampler.config.clip, classes).classes
    if over_time is not None:
        named = torch.from_numpy(np.bincount(over_time[over_time >= 0], minlength=len(classes)) / len(over_time)).to(shares)
        shares = named + (1 - named.sum()) * shares
    return likeliest(shares, classes)


def class_shares(
    sampler: AnySampler, frames: Sequence[WindowFrames], observation: Observation | None, request: Request, classes: Sequence[str]
) -> Float[Tensor, "classes"]:
    """Probability of each class in the frames of some windows: 1 for the request's label, or else the result of sight.

    Args:
        sampler: a sampler with sight.
        frames: frames of the windows.
        observation: features of the frames; may be None if the request has a label.
        request: resolved.
        classes: names by class number.
    """
    sight = sampler.embedder.sight
    if request.label is not None:
        return torch.nn.functional.one_hot(torch.tensor(classes.index(request.label)), len(classes)).float()
    avoided = numbers_of(request, classes)
    windows = [observation.features_of(window.embedded)[None].to(sight.weight) for window in frames]
    return torch.stack([sight.shares(features, avoided)[0].mean(0) for features in windows]).mean(0)


def numbers_of(request: Request, classes: Sequence[str]) -> list[int]:
    """Numbers of the classes that a resolved request avoids."""
    return [classes.index(name) for name in request.avoid or ()]


def make_condition(
    sampler: AnySampler,
    features: Float[Tensor, "1 features dim"],
    labels: Int[Tensor, "1 *features"] | None,
    motion: Float[Tensor, "1 columns motion"] | None,
    avoided: Sequence[int],
) -> Float[Tensor, "sides condition width"]:
    """Embed the condition of a window. With avoided classes, a second row is the mean of their conditions, with the same motion."""
    wanted = sampler.condition(features, labels, motion, avoided=avoided)
    if not avoided:
        return wanted
    n, numbers = len(avoided), torch.tensor(avoided, device=features.device)
    each = sampler.condition(features.expand(n, -1, -1), numbers, None if motion is None else motion.expand(n, -1, -1))
    return torch.cat([wanted, each.mean(0, keepdim=True)])


def likeliest(expected: Float[Tensor, "classes"], classes: Sequence[str]) -> dict[str, float]:
    """The likeliest classes with their probabilities, the likeliest first, without those below 1 %."""
    values, indices = expected.topk(min(_N_LIKELIEST, len(classes)))
    return {classes[index]: round(value, 3) for value, index in zip(values.tolist(), indices.tolist(), strict=True) if value >= 0.01}


def make_conditions(
    sampler: AnySampler, plan: Plan, observation: Observation | None, request: Request, classes: Sequence[str]
) -> Conditions:
    """Embed the condition of each window.

    Args:
        sampler: on any device.
        plan: windows, and their frames for a sampler with features.
        observation: features and motion of the plan's frames; None for a sampler without features. The published "no features" samplers
            then get one random vector, the same in every window. Its seed is the request's, reduced to the 63 bits of torch's generators.
        request: resolved. Its label is the class; without a label, a sampler with sight gets the likeliest class of the window. Cues
            replace the motion, a prompt track replaces the class, and avoided classes give a negative condition for guidance.
        classes: names by class number; empty for a sampler without classes.
    """
    device, clip = sampler.pos_emb.device, sampler.config.clip
    labels = None if request.label is None else torch.tensor([classes.index(request.label)], device=device)
    if observation is None:
        return [sampler.condition(labels=labels, generator=torch.Generator().manual_seed(request.seed % 2**63))] * len(plan.windows)
    steering, avoided = Steering.of(request, plan.n_columns, clip, classes), numbers_of(request, classes)
    sees, conditions = getattr(sampler.embedder, "sight", None) is not None, []
    for window, frames in zip(plan.windows, plan.frames, strict=True):
        features = observation.features_of(frames.embedded)[None].to(device)
        if steering.classes is not None:
            labels = torch.from_numpy(steering.labels(window, features.shape[1], clip))[None].to(device)
        elif sees and request.label is None:
            labels = torch.full((1,), -1, device=device)
        if sees:  # only the likeliest class, because a mean of embeddings stands for no class
            labels = torch.where(labels < 0, class_shares(sampler, [frames], observation, request, classes).argmax(), labels)
        motion = None
        if frames.measured:
            curves = observation.motion_of(frames.measured, clip) if steering.cues is None else steering.motion(window, clip)
            motion = torch.from_numpy(curves)[None].to(device)
        conditions.append(make_condition(sampler, features, labels, motion, avoided))
    return conditions

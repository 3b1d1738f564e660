"""Shots: windows begin at cuts and see their own frames only."""

from pathlib import Path

import numpy as np
import torch

from unsilent.clip import Clip
from unsilent.generation.conditions import plan_frames
from unsilent.generation.shots import plan_shots
from unsilent.generation.windows import plan_windows
from unsilent.models.configs import ConditionConfig
from unsilent.vision.features import find_backbone
from unsilent.vision.scene import Scene

CLIP = Clip()
CONDITION = ConditionConfig(kind="sight", n_features=27, feature_dim=8, n_classes=3, motion=8)


def test_windows_begin_at_cuts_and_cover_the_sound():
    scene = Scene(Path("a.mp4"), 40.0)
    cuts = [100, 430, 445, 700]
    plan = plan_shots(scene, cuts, CLIP.columns_for(40 * CLIP.sample_rate), CLIP, CONDITION, find_backbone("efficientnet-lite0"))
    done = 0
    for window in plan.windows:
        assert window.start + window.primed == done
        done = window.stop
    assert done == CLIP.columns_for(40 * CLIP.sample_rate)
    fresh = [window.start for window in plan.windows if not window.primed]
    assert fresh == [0, *(round(cut / CLIP.feature_fps / CLIP.column_seconds) for cut in cuts)]
    borders = [0, *cuts, 860]
    for window, frames in zip(plan.windows, plan.frames, strict=True):
        shot = max(number for number, start in enumerate(fresh) if start <= window.start)
        assert borders[shot] <= min(frames.embedded + frames.measured) <= max(frames.embedded + frames.measured) < borders[shot + 1]


def test_without_cuts_it_is_the_plan_of_one_scene(pipeline):
    scene = Scene(Path("a.mp4"), 23.0, 2.0)
    plan = pipeline.plan(scene, 130)
    condition, expects = pipeline.parts.sampler.config.condition, pipeline.parts.backbone_row
    assert plan_frames(scene, plan.windows, pipeline.clip, condition, expects.pairs) == plan.frames
    assert plan.windows == plan_windows(130, pipeline.clip.columns, pipeline.clip.hop_columns)


def test_a_video_of_two_scenes_sounds_like_each_by_itself(pipeline, make_clip):
    """The second scene does not depend on the first, and `off` sees no cut."""

    def images(first, second, at):
        textures = [np.random.default_rng(seed).integers(low, low + 60, (48, 64, 3)).astype(np.uint8)
                    for seed, low in ((first, 0), (second, 180))]  # fmt: skip
        return lambda number: textures[number >= at]

    def looked(name, first, **fields):
        video = make_clip(name, images=images(first, 2, 50), n_frames=100, options={"g": "1"})
        request = pipeline.resolve(**fields)
        plan, observation, _ = pipeline.plan_and_observe(Scene(video, 4.0), 22, request)
        return [window.start for window in plan.windows], pipeline.conditions(plan, observation, request)

    (starts, one), (_, other), (whole, _) = looked("a.mp4", 1), looked("b.mp4", 3), looked("a.mp4", 1, scenes="off")
    assert starts == [0, round(2.0 / pipeline.clip.column_seconds)]
    assert whole == [0]
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], other[0])

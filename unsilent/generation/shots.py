"""Shots: the parts of a video between cuts. Each is observed and sampled on its own.

The windows of a shot are conditioned on its frames only, and do not continue codes of the shot before. `leads.continue_shots` changes this
for shots of the same class, and `signal.blending` blends the others.
"""

from collections.abc import Sequence

from unsilent.clip import Clip
from unsilent.generation.conditions import Plan, plan_frames
from unsilent.generation.windows import plan_range, plan_windows
from unsilent.models.configs import ConditionConfig
from unsilent.vision.features import Backbone
from unsilent.vision.scene import Scene


def plan_shots(
    scene: Scene,
    cuts: Sequence[int],
    n_columns: int,
    clip: Clip,
    condition: ConditionConfig,
    backbone: Backbone | None,
    *,
    start: int = 0,
    lead: int = 0,
    alone: bool = False,
) -> Plan:
    """Windows and their frames for a scene of one or several shots.

    Args:
        scene: scene of the whole sound.
        cuts: numbers of the frames that begin a shot; a cut that would leave a shot without a column is ignored.
        n_columns: code columns of the sound, or of its beginning.
        clip: the grid.
        condition: the sampler's configuration of conditions.
        backbone: preprocessing of the image network; None for a model without features, whose plan has no frames.
        start: first column to sample; earlier ones are known.
        lead: columns of a reference or an exemplar that each window continues, the first of each shot before the shot.
        alone: do not continue the columns before `start`.
    """
    starts, kept = [0], list[int]()
    for cut in cuts:
        column = round((cut - scene.first_frame(clip)) / clip.feature_fps / clip.column_seconds)
        if starts[-1] < column < n_columns:
            starts.append(column)
            kept.append(cut)
    windows, frames = [], []
    for shot, begin, stop in zip(scene.split(kept, clip), starts, [*starts[1:], n_columns], strict=True):
        known = max(0, start - begin)  # known columns of this shot
        if begin + known >= stop:
            continue
        if known and not alone:
            own = plan_range(known, stop - begin, clip.columns, clip.hop_columns, lead)
        else:
            own = [window.moved(known) for window in plan_windows(stop - begin - known, clip.columns, clip.hop_columns, lead)]
        frames += [] if backbone is None else plan_frames(shot, own, clip, condition, backbone.pairs)
        windows += [window.moved(begin) for window in own]
    return Plan(windows, frames)

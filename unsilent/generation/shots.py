"""Shots: parts of a video between cuts, each of which is observed and sampled on its own.

Windows of a shot see its frames only, and know no codes of the shot before. The decoder fades from one to the other within a column or two.
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
    """Windows and their frames, where a scene consists of several shots.

    Args:
        scene: of the whole sound.
        cuts: numbers of the frames that begin another shot; a cut that would leave a shot without a column is left out.
        n_columns: of the sound, or of its beginning.
        clip: the grid.
        condition: of the sampler.
        backbone: preprocessing of its image network; None for a model without features, which gets no frames.
        start: first column to be sampled; those before are known.
        lead: columns of a reference or an exemplar before each shot.
        alone: know none of the columns before `start`.
    """
    starts, kept = [0], list[int]()
    for cut in cuts:
        column = round((cut - scene.first_frame(clip)) / clip.feature_fps / clip.column_seconds)
        if starts[-1] < column < n_columns:
            starts.append(column)
            kept.append(cut)
    windows, frames = [], []
    for shot, begin, stop in zip(scene.split(kept, clip), starts, [*starts[1:], n_columns], strict=True):
        known = max(0, start - begin)  # columns of the shot
        if begin + known >= stop:
            continue
        if known and not alone:
            own = plan_range(known, stop - begin, clip.columns, clip.hop_columns)
        else:
            own = [window.moved(known) for window in plan_windows(stop - begin - known, clip.columns, clip.hop_columns, lead)]
        frames += [] if backbone is None else plan_frames(shot, own, clip, condition, backbone.pairs)
        windows += [window.moved(begin) for window in own]
    return Plan(windows, frames)

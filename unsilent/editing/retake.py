"""Retakes: regenerate a stretch of a sound, and keep every sample outside it.

    before   known codes of the columns before the stretch
    stretch  columns that are sampled, for several candidates
    after    known columns after it; their likelihood given each candidate ranks the candidates
    joins    cross-fades inside the stretch, at its two edges

A stretch that begins before the sound or ends after it extends the sound. A stretch over silence bridges a gap. A stretch that keeps a
share of its codes is a variation. All are the same computation from known codes, a condition and a plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.choices import Layer, check_choice
from unsilent.config import MAX_HOURS, MAX_SECONDS
from unsilent.editing.opening import Opened, encode_sound
from unsilent.errors import ParameterError
from unsilent.generation.conditions import Conditions, Plan
from unsilent.generation.leads import continue_shots, known_codes, lead_columns
from unsilent.generation.progress import Clock, Progress
from unsilent.generation.ranking import agreement, likelihood_after
from unsilent.generation.result import Generation
from unsilent.generation.sampling import draw_uniforms, sample_codes
from unsilent.generation.shaping import faded, timed
from unsilent.generation.sidecar import Edit
from unsilent.generation.windows import Window, plan_range, plan_windows
from unsilent.models.code_order import to_grid, to_sequence
from unsilent.models.codebook import Codebook
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.signal.joins import REACH_SECONDS, splice
from unsilent.signal.loudness import limit_peaks
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.signal.room_tone import RoomTone
from unsilent.speed.prepare import sampling_mode

CANDIDATES = 8  # sampled for each retake; the best are returned
AFTER_COLUMNS = 6  # columns whose likelihood ranks candidates, about a second
MARGIN_COLUMNS = 8  # columns of context decoded on each side of the stretch
SHORTEST_SECONDS = 0.05
_CEILING = 10 ** (-1 / 20)  # peak of generated samples, -1 dB of full scale
_STREAM = 1 << 32  # number of the random stream that chooses the codes to keep; streams of takes have smaller numbers


@dataclass(frozen=True)
class Retake:
    """Parameters of a retake.

    Attributes:
        start, stop: seconds in the sound; None is its beginning or end. Below 0 or after the end, the sound becomes longer.
        seed: source of randomness; None takes the last seed plus 1.
        takes: number of candidates that are returned, the best first.
        candidates: number of candidates that are sampled.
        label: class of the stretch; None keeps the labels of the sound.
        layer: `replace` the existing sound, or `mix` with it.
        keep: share of the codes in the stretch that are kept, 0 or more and below 1; above 0, the result is a variation.
    """

    start: float | int | None = None
    stop: float | int | None = None
    seed: int | None = None
    takes: int = 1
    candidates: int = CANDIDATES
    label: str | None = None
    layer: Layer = "replace"
    keep: float | int = 0.0

    def __post_init__(self) -> None:
        check_choice("layer", self.layer, Layer)
        for name, at in (("start", self.start), ("stop", self.stop)):
            if at is not None and not abs(at) <= MAX_SECONDS:
                raise ParameterError(f"{name} is {at:g}, but must be at most {MAX_HOURS} hours from the beginning, in seconds.")
        if not 0 <= self.keep < 1:
            raise ParameterError(f"keep is {self.keep:g}, but must be 0 or more and below 1.")
        if not 1 <= self.takes <= self.candidates:
            raise ParameterError(
                f"takes is {self.takes} and candidates is {self.candidates}; takes must be 1 or more, and at most candidates."
            )
        if self.layer == "mix" and self.keep:
            raise ParameterError("a variation (keep above 0) replaces the sound, so it cannot be mixed with it; leave out keep, or mix.")


class Retaken(NamedTuple):
    """The result of a retake, and its entry in the history."""

    made: Generation
    edit: Edit


class _Stretch(NamedTuple):
    """A stretch of a sound, in samples and columns of the sound with its extensions.

    Attributes:
        old: existing samples; 0 in extensions.
        codes: existing codes; -1 in extensions.
        start, stop: samples of the stretch, `stop` excluded.
        first, last: columns that cover the stretch, `last` excluded.
        lead: columns added before the sound.
        cut: samples of the lead that are cut off afterwards, because a lead has whole columns.
    """

    old: Float[np.ndarray, "samples"]
    codes: Int[np.ndarray, "rows columns"]
    start: int
    stop: int
    first: int
    last: int
    lead: int
    cut: int

    @classmethod
    def of(cls, opened: Opened, asked: Retake, each: int, rate: int) -> "_Stretch":
        """Locate the stretch of a retake.

        Args:
            opened: the sound.
            asked: parameters of the retake.
            each: samples per column.
            rate: sample rate, in Hz.

        Raises:
            ParameterError: if the stretch is too short, lies outside the sound, or begins before the video.
        """
        length, reach = len(opened.waveform), round(REACH_SECONDS * rate)
        if asked.start is None:
            start = length if asked.stop is not None and asked.stop * rate > length else 0
        else:
            start = round(asked.start * rate)
        stop = (0 if start < 0 else length) if asked.stop is None else round(asked.stop * rate)
        seconds = length / rate
        if start > length or stop < 0:
            raise ParameterError(f"{start / rate:g} to {stop / rate:g} s is outside {opened.path}, which has 0 to {seconds:.2f} s.")
        start, stop = start - reach * (start == length), stop + reach * (stop == 0)  # a join cross-fades with the sound
        if stop - start < SHORTEST_SECONDS * rate:
            raise ParameterError(f"{start / rate:g} to {stop / rate:g} s is too short; a retake lasts {SHORTEST_SECONDS:g} s or more.")
        if start < 0 and opened.scene is not None:
            raise ParameterError(f"the sound of a video cannot begin before the video; start at 0 s or later, not at {start / rate:g}.")
        lead = -(-max(0, -start) // each)
        moved = start + lead * each, stop + lead * each
        n_samples = max(moved[1], length + lead * each)
        n_columns = -(-n_samples // each)
        old, codes = np.zeros(n_samples, np.float32), np.full((len(opened.codes), n_columns), -1, np.int64)
        old[lead * each : lead * each + length] = opened.waveform
        codes[:, lead : lead + opened.codes.shape[1]] = opened.codes[:, : n_columns - lead]
        return cls(old, codes, *moved, moved[0] // each, -(-moved[1] // each), lead, moved[0] if lead else 0)


@torch.inference_mode()
def retake(pipeline: Pipeline, opened: Opened, asked: Retake, progress: Progress = lambda share: None) -> list[Retaken]:
    """Regenerate a stretch of a sound.

    Args:
        pipeline: the model that made the sound.
        opened: the sound.
        asked: parameters of the retake.
        progress: called with the finished share of the work, 0 to 1.

    Returns:
        The best takes, the best first. Outside the stretch they have exactly the samples of `opened`.

    Raises:
        ParameterError: for a stretch outside the sound, or a value that the model does not support.
        MediaError: if the video cannot be read.
    """
    clip, clock = pipeline.clip, Clock()
    stretch = _Stretch.of(opened, asked, clip.column_samples, clip.sample_rate)
    seed = (opened.history[-1].seed if opened.history else opened.request.seed) + 1 if asked.seed is None else asked.seed
    fields = {"seed": seed, "takes": asked.candidates, "stream": False}
    fields |= {"like": None, "prime": None, "prime_seconds": None, "prime_keep": "codes"}
    if asked.label is not None:  # replaces all labels over time
        cues = opened.request.cues and tuple(cue.model_copy(update={"label": None}) for cue in opened.request.cues)
        fields |= {"label": asked.label, "prompt_track": None, "cues": cues}
    request = pipeline.resolve(opened.request, **fields)
    grids, scores, order, breaks = _candidates(pipeline, opened, stretch, asked, request, clock, progress)
    sounds, results = _Sounds(pipeline, stretch, request, breaks, keeps_background=asked.label is None), []
    for take, (waveform, codes, join) in _with_good_joins(sounds, grids, order, asked):
        clock.lap("decode")
        progress(0.6 + 0.4 * (len(results) + 1) / asked.takes)
        edit = Edit(
            start=(stretch.start - stretch.lead * clip.column_samples) / clip.sample_rate,
            stop=(stretch.stop - stretch.lead * clip.column_samples) / clip.sample_rate,
            seed=seed,
            take=take,
            label=request.label,
            layer=asked.layer,
            score=scores[take],
            keep=asked.keep,
            join=join,
        )
        made = _generation(
            pipeline, opened, waveform, codes, () if sounds.encodes(asked.layer) else sounds.breaks, edit, clock.per_take(asked.takes)
        )
        results.append(Retaken(made, edit))
    return results


def _candidates(
    pipeline: Pipeline, opened: Opened, stretch: _Stretch, asked: Retake, request: Request, clock: Clock, progress: Progress
) -> tuple[Int[Tensor, "draws rows columns"], list[float | None], list[int], tuple[int, ...]]:
    """Codes of the whole sound with each candidate, the candidates' scores, their order from the best, and the breaks of the sound."""
    clip, sampler, device = pipeline.clip, pipeline.parts.sampler, pipeline.device
    codes = torch.from_numpy(stretch.codes).to(device)
    alone = asked.layer == "mix"  # a mixed sound is independent of the codes around it
    n_after = 0 if alone else min(AFTER_COLUMNS, int((codes[0, stretch.last :] >= 0).sum()))
    wanted = range(stretch.first, stretch.last + n_after)
    drawn = request.model_copy(update={"candidates": None})
    windows, conditions, leads = _plan(pipeline, opened, wanted, alone, drawn, lambda share: progress(0.3 * share))
    clock.lap("features")
    next_shot = [number for number, one in enumerate(windows) if one.is_fresh and one.new >= stretch.last]
    windows, conditions = (one[: min(next_shot, default=len(one))] for one in (windows, conditions))
    leads = leads[: sum(one.led > 0 for one in windows)]
    n_after = min(n_after, windows[-1].stop - stretch.last)  # columns after a cut do not depend on the candidates
    sampled = [replace(one, columns=min(one.stop, stretch.last) - one.start) for one in windows]
    known, keep = codes[:, : stretch.first], None
    if asked.keep:
        keep = _kept(codes[:, : stretch.last], stretch.first, asked.keep, request.seed)
    with sampling_mode(sampler, pipeline.precision):
        sequences = sample_codes(sampler, sampled, conditions, drawn, prime=known if known.shape[1] else None, leads=leads, keep=keep)
        progress(0.5)
        made = to_grid(sequences, clip.rows)[:, :, stretch.first :]
        scores: Sequence[float | None] = [None] * len(made)
        if n_after:
            after = codes[:, stretch.last : stretch.last + n_after]
            inside = sequences[:, windows[-1].own * clip.rows :]
            if windows[-1].led:
                inside = torch.cat([to_sequence(leads[-1][0]).to(device), inside], 1)
            scores = likelihood_after(sampler, inside, to_sequence(after[None])[0], conditions[-1][:1]).tolist()
    if not n_after and pipeline.parts.ranker:
        expected = {request.label: 1.0} if request.label else opened.seen
        scores = agreement(pipeline.codec, pipeline.parts.ranker, made[:, :, : clip.columns], expected, request.avoid or ()).tolist()
    clock.lap("codes")
    progress(0.6)
    whole = codes.expand(len(made), -1, -1).clone()
    whole[:, :, stretch.first : stretch.last] = made
    order = sorted(range(len(made)), key=lambda take: -(scores[take] or 0.0))
    return whole, list(scores), order, _breaks(opened, stretch, windows, alone)


def _breaks(opened: Opened, stretch: _Stretch, windows: Sequence[Window], alone: bool) -> tuple[int, ...]:
    """Columns that do not continue the column before: those of the sound outside the stretch, and those of the new codes."""
    inside = range(stretch.first + alone, stretch.last)
    old = {column + stretch.lead for column in opened.breaks}
    return tuple(sorted(old - set(inside) | {one.new for one in windows if one.is_fresh and one.new} & set(inside)))


def _with_good_joins(
    sounds: "_Sounds", grids: Int[Tensor, "draws rows columns"], order: list[int], asked: Retake
) -> list[tuple[int, "_Sound"]]:
    """The best candidates whose joins jump no more than the sound around them; if there are too few, those with the smallest jumps."""
    tried = dict[int, _Sound]()
    for take in order:
        tried[take] = sounds.make(grids[take], asked.layer)
        if sum(one.join <= 1 for one in tried.values()) == asked.takes:
            break
    chosen = sorted(tried, key=lambda take: max(1.0, tried[take].join))[
        : asked.takes
    ]  # stable sort: among good joins, the best score first
    return [(take, tried[take]) for take in sorted(chosen, key=order.index)]


def _kept(codes: Int[Tensor, "rows columns"], n_known: int, share: float, seed: int) -> Int[Tensor, "rows columns"]:
    """Codes with -1 in columns to sample; the first `n_known` columns and a random share of the others are kept."""
    redone = torch.from_numpy(draw_uniforms(seed, _STREAM, codes.shape[1]) >= share).to(codes.device)
    redone[:n_known] = False
    return torch.where(redone[None], -1, codes)


def _plan(
    pipeline: Pipeline, opened: Opened, columns: range, alone: bool, request: Request, progress: Progress
) -> tuple[list[Window], Conditions, Sequence[Int[Tensor, "2 draws rows lead"]]]:
    """Windows, their conditions and their leads from the video, shot by shot; without a video, the condition is the label, or zeros.

    Exemplars lead windows of results. Sounds that the user has given are continued without exemplars, which have another character.
    """
    parts, clip, known = pipeline.parts, pipeline.clip, {"start": columns.start, "alone": alone}
    if opened.scene is not None:
        is_given = not opened.seen or opened.request.prime is not None or opened.request.like is not None  # recordings have no seen classes
        known["lead"] = 0 if is_given else lead_columns(request, clip, parts.exemplars)
        plan = pipeline.plan(opened.scene, columns.stop, **known)
        observation = pipeline.observe(opened.scene, plan, request, progress)
        if observation is not None and observation.cuts:
            plan = pipeline.plan(opened.scene, columns.stop, observation.cuts, **known)
            observation = pipeline.observe(opened.scene, plan, request, progress)
        if not alone:
            plan = continue_shots(parts, plan, observation, request)
        return plan.windows, pipeline.conditions(plan, observation, request), known_codes(parts, plan, observation, request).leads
    windows = plan_range(columns.start, columns.stop, clip.columns, clip.hop_columns)
    if alone:
        windows = [one.moved(columns.start) for one in plan_windows(len(columns), clip.columns, clip.hop_columns)]
    if parts.backbone is None:
        return windows, pipeline.conditions(Plan(windows, []), None, request), ()
    config, number = parts.sampler.config.condition, None if request.label is None else parts.classes.index(request.label)
    with sampling_mode(parts.sampler, pipeline.precision):
        features = torch.zeros(1, config.n_features, config.feature_dim, device=pipeline.device)
        named = parts.sampler.condition(features, None if number is None else torch.tensor([number], device=pipeline.device))
    return windows, [named if number is not None else torch.zeros_like(named)] * len(windows), ()


class _Sound(NamedTuple):
    """The whole sound with one candidate in it.

    Attributes:
        waveform: samples, in [-1, 1].
        codes: the grid of codes.
        join: largest jump at a join relative to the jumps around it, see `splice`; 0 without a join.
    """

    waveform: Float[np.ndarray, "samples"]
    codes: Int[np.ndarray, "rows columns"]
    join: float


class _Sounds:
    """Decodes candidates: only the stretch and its margins, scaled to the level of the sound around them."""

    def __init__(self, pipeline: Pipeline, stretch: _Stretch, request: Request, breaks: tuple[int, ...], *, keeps_background: bool) -> None:
        self._pipeline, self._codec, self._stretch, self._request, self.breaks = pipeline, pipeline.codec, stretch, request, breaks
        n_columns = stretch.codes.shape[1]
        first, last = max(0, stretch.first - MARGIN_COLUMNS), min(n_columns, stretch.last + MARGIN_COLUMNS)
        if isinstance(
            self._codec.codebook, Codebook
        ):  # its normalisation and attention depend on all columns, so decode as many as in training
            last = min(n_columns, max(last, first + self._codec.clip.columns))
            first = max(0, min(first, last - self._codec.clip.columns))
        self._columns = range(first, last)
        self._gain = self._measure_gain()
        is_silenced = request.mute or request.fade_in or request.fade_out
        rate = self._codec.clip.sample_rate
        self._tone = RoomTone.around(stretch.old, stretch.start, stretch.stop, rate) if keeps_background and not is_silenced else None

    def make(self, grid: Int[Tensor, "rows columns"], layer: Layer) -> _Sound:
        """The whole sound with one candidate in it."""
        old, start, stop = self._stretch.old, self._stretch.start, self._stretch.stop
        rate, each = self._codec.clip.sample_rate, self._codec.clip.column_samples
        begin = self._columns.start * each
        new = (self._decode(grid) * self._gain)[start - begin : stop - begin]
        ceiling = max(_CEILING, float(np.abs(old).max()))
        waveform, codes, join = old.copy(), grid.cpu().numpy(), 0.0
        if layer == "replace":
            made, join = splice(old, limit_peaks(new, rate, ceiling), start, stop, rate, self._tone)
            waveform[start:stop] = made.clip(-ceiling, ceiling)
        else:
            waveform[start:stop] = _mixed(old[start:stop], new, rate, ceiling)
        if self.encodes(layer):
            waveform = waveform[self._stretch.cut :]
            codes = encode_sound(self._codec, waveform, len(codes), self._pipeline.parts.loudness_lufs)
        return _Sound(waveform, codes, join)

    def encodes(self, layer: Layer) -> bool:
        """Whether codes are encoded again, because columns are shifted, or contain more than the sampled sound."""
        return self._stretch.lead > 0 or layer == "mix"

    def _decode(self, grid: Int[Tensor, "rows columns"]) -> Float[np.ndarray, "samples"]:
        """Decode the stretch and its margins, with events at cues and the fades of the whole sound."""
        columns, clip = grid[:, self._columns.start : self._columns.stop].clamp(min=0), self._codec.clip
        sound = self._codec.vocode(self._codec.decode(columns, self._columns.start)).cpu().numpy()
        begin, length = self._columns.start * clip.column_samples, len(self._stretch.old)
        sound = timed(sound, self._request, clip, self.breaks, self._columns.start)
        return sound * np.pad(faded(np.ones(length, np.float32), self._request, clip.sample_rate)[begin:], (0, len(sound)))[: len(sound)]

    def _measure_gain(self) -> np.float32:
        """Gain from the decoded codes to the level of the sound, measured outside the stretch; inside it if there is no outside.

        The gain is 1 for silence.
        """
        stretch, each = self._stretch, self._codec.clip.column_samples
        columns = np.arange(self._columns.start, self._columns.stop)
        is_known = (stretch.codes[0, columns] >= 0).repeat(each)[: len(stretch.old) - columns[0] * each]
        place = columns[0] * each + np.arange(len(is_known))
        beside = is_known & ((place < stretch.start) | (place >= stretch.stop))
        chosen = beside if beside.any() else is_known
        if not chosen.any() or not stretch.old[place[chosen]].any():
            return np.float32(1)
        again = self._decode(torch.from_numpy(stretch.codes).to(self._codec.device))[: len(place)]
        powers = [float(np.square(one, dtype=np.float64).sum()) for one in (stretch.old[place[chosen]], again[chosen])]
        return np.float32((powers[0] / powers[1]) ** 0.5 if powers[1] else 1.0)


def _mixed(old: np.ndarray, new: np.ndarray, rate: int, ceiling: float) -> np.ndarray:
    """Mix two sounds: the new one fades in and out over 10 ms, and is attenuated where the sum would exceed the ceiling."""
    fade = min(round(0.01 * rate), len(new) // 3)
    added = new.copy()
    added[:fade] *= np.linspace(0, 1, fade, dtype=new.dtype)
    added[len(new) - fade :] *= np.linspace(1, 0, fade, dtype=new.dtype)
    room = np.maximum(ceiling - np.abs(old), 1e-4).astype(new.dtype)
    return (old + limit_peaks(added, rate, room)).clip(-ceiling, ceiling)


def _generation(
    pipeline: Pipeline,
    opened: Opened,
    waveform: np.ndarray,
    codes: np.ndarray,
    breaks: tuple[int, ...],
    edit: Edit,
    timings: dict[str, float],
) -> Generation:
    clip = pipeline.clip
    longer = len(waveform) != len(opened.waveform)
    request = opened.request.model_copy(update={"seconds": len(waveform) / clip.sample_rate} if longer else {})
    padded = np.pad(waveform, (0, codes.shape[1] * clip.column_samples - len(waveform)))
    return Generation(
        video=opened.path if opened.scene is None else opened.scene.path,
        waveform=waveform,
        sample_rate=clip.sample_rate,
        mel=from_mel01(log_mel01(torch.from_numpy(padded)[None], clip))[0].numpy(),
        codes=codes,
        features=None,
        clip=clip,
        request=request,
        take=edit.take,
        model=pipeline.name,
        precision=pipeline.precision,
        timings=timings,
        score=edit.score,
        seen=opened.seen,
        breaks=breaks,
    )

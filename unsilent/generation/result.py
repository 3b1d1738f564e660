"""The result of a generation: a sound with its mel, codes and settings, and methods that write files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from unsilent.choices import Original, Precision, check_choice
from unsilent.clip import Clip
from unsilent.exchange.timecode import frame_rate, start_frame
from unsilent.generation.attention import WindowAttention, over_time
from unsilent.generation.figure import draw, draw_sheet
from unsilent.generation.stems import split_by_label
from unsilent.media.copying import Plan
from unsilent.media.mux import mux
from unsilent.media.sounds import check_sound, resample, write_sound
from unsilent.outputs import check_suffix, stem_path
from unsilent.request import Request
from unsilent.signal.mel import mel_of
from unsilent.signal.panning import pan
from unsilent.vision.place import PLACES_PER_SECOND, motion_places


@dataclass(frozen=True, eq=False)
class Generation:
    """One sound for a video, with its mel, codes, features and settings.

    Attributes:
        video: file that it was made for.
        waveform: mono in [-1, 1], as long as the video to the sample.
        sample_rate: Hz.
        mel: decoded, `[mels, frames]` around [-1, 1]; whole code columns, so it may be a little longer than the video.
        codes: sampled, `[rows, columns]`.
        features: of the frames, `[features, dim]` in the order of time; None for a model without features.
        clip: the grid of mel and codes.
        request: resolved against the model's defaults.
        take: number of this sound among all that were sampled, from 0; in the order of takes where nothing is ranked.
        score: agreement with what is seen or named, see `generation.ranking`; None where nothing was ranked.
        seen: likeliest classes and their probabilities; empty for a model that does not see.
        attention: how much each code looked at the condition and at earlier codes, window by window; None where it was not asked for.
        model: name of the model.
        precision: that it was computed in, see `speed.choice.choose_precision`.
        timings: seconds of each stage. Decoding and vocoding concurrent with sampling count as sampling (`codes`).
    """

    video: Path
    waveform: Float[np.ndarray, "samples"]
    sample_rate: int
    mel: Float[np.ndarray, "mels frames"]
    codes: Int[np.ndarray, "rows columns"]
    features: Float[np.ndarray, "features dim"] | None
    clip: Clip
    request: Request
    take: int
    model: str
    precision: Precision
    timings: dict[str, float]
    score: float | None = None
    seen: dict[str, float] = field(default_factory=dict)
    attention: tuple[WindowAttention, ...] | None = None

    def __eq__(self, other: object) -> bool:
        """True for equal sounds of the same model and request; timings are not compared."""
        if not isinstance(other, Generation):
            return NotImplemented
        return self._key() == other._key() and np.array_equal(self.waveform, other.waveform)

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.video, self.model, self.precision, self.request, self.take, self.codes.tobytes()

    @property
    def seed(self) -> int:
        """Seed of the request."""
        return self.request.seed

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return len(self.waveform) / self.sample_rate

    @property
    def spent_seconds(self) -> float:
        """Seconds of all stages, without loading the model and without writing files."""
        return sum(self.timings.values())

    @property
    def real_time_factor(self) -> float:
        """Time spent divided by time played; below 1 is faster than playback."""
        return self.spent_seconds / self.seconds

    def save_video(
        self,
        out: str | Path,
        original: Original | None = None,
        comment: str = "",
        plan: Plan | None = None,
        further: Sequence["Generation"] = (),
    ) -> Plan:
        """Write the video with this sound; its video packets are copied, or its pictures encoded where `out` cannot hold them.

        Args:
            out: file to write; its suffix chooses the container.
            original: the video's own sound: `drop`, `keep` (mixed in), or `duck` (mixed in, quieter); None is as requested.
            comment: metadata field of the file.
            plan: of `media.mux.plan_mux`; None makes one.
            further: takes that become tracks of their own behind this one.

        Returns:
            What was done with the streams of the video.

        Raises:
            MediaError: if the video cannot be read again, or `out` cannot be written or hold such video.
        """
        original = self.request.original if original is None else original
        check_choice("original", original, Original)
        named = {f"take {rank}, seed {one.seed}": one.channels[0] for rank, one in enumerate(further, 2)}
        return mux(self.video, *self.channels, Path(out), original, comment, plan, named)

    @cached_property
    def channels(self) -> tuple[Float[np.ndarray, "channels samples"], int]:
        """One channel, or two panned to the place of motion, at the sample rate that is asked for; and that rate.

        Raises:
            MediaError: if the video cannot be read again, for stereo.
        """
        rate = self.request.rate or self.sample_rate
        return resample(self._panned, self.sample_rate, rate), rate

    @cached_property
    def _panned(self) -> Float[np.ndarray, "channels samples"]:
        if not self.request.stereo:
            return self.waveform[None]
        return pan(self.waveform, motion_places(self.video), PLACES_PER_SECOND, self.sample_rate)

    def save_sound(self, out: str | Path) -> None:
        """Write the sound alone: `.wav`, `.flac` or `.opus`. WAV has the video's timecode as time reference.

        Raises:
            ParameterError: for another suffix, or bits that the format does not have.
            MediaError: if `out` cannot be written, or the video cannot be read again.
        """
        check_sound(Path(out), self.request.bits)
        write_sound(Path(out), *self.channels, self.request.bits, self._since_midnight())

    def save_stems(self, out: str | Path) -> dict[str, Path]:
        """Write the sound of each label over time, as long as the whole, which is their sum.

        Args:
            out: the label is added to its stem.

        Returns:
            Path of each label.

        Raises:
            ParameterError: as `save_sound`, or if no labels over time were asked for.
            MediaError: as `save_sound`.
        """
        check_sound(Path(out), self.request.bits)
        parts, rate = split_by_label(self._panned, self.request, self.clip), self.request.rate or self.sample_rate
        paths = {label: stem_path(Path(out), label) for label in parts}
        for label, path in paths.items():
            write_sound(path, resample(parts[label], self.sample_rate, rate), rate, self.request.bits, self._since_midnight())
        return paths

    def _since_midnight(self) -> Fraction | None:
        if not self.video.exists():
            return None
        rate = frame_rate(self.video)
        return Fraction(start_frame(self.video, rate)[0]) / rate or None

    def save_wav(self, out: str | Path) -> None:
        """As `save_sound`, for `.wav` only."""
        check_suffix(Path(out), ".wav", "sound")
        self.save_sound(out)

    @property
    def heard_mel(self) -> Float[np.ndarray, "mels frames"]:
        """Mel of what is heard, in [-1, 1]: `mel`, or that of the waveform where cues, silence or fades changed it after the decoder."""
        request = self.request
        if not (request.cues or request.mute or request.fade_in or request.fade_out):
            return self.mel
        return mel_of(self.waveform, self.clip)

    def save_picture(self, out: str | Path) -> None:
        """Draw the video's frames above the mel, on one time axis, as PNG; below them the attention, if the sound carries it.

        Raises:
            ParameterError: if matplotlib is not installed, or the suffix is not `.png`.
            MediaError: if the video cannot be read again or `out` cannot be written.
        """
        check_suffix(Path(out), ".png", "figure")
        number = f"{'candidate' if self.request.candidates else 'take'} {self.take + 1}"
        title = f"{self.video.name}: model {self.model}, seed {self.seed}, {number}"
        draw(
            self.video,
            self.heard_mel,
            self.seconds,
            self.clip,
            title,
            Path(out),
            self.attention and over_time(self.attention),
        )


def save_sheet(takes: Sequence[Generation], out: Path) -> None:
    """Draw all takes of a video below each other, as PNG; errors as of `Generation.save_picture`."""
    scores = ["" if one.score is None else f", score {one.score:.2f}" for one in takes]
    titles = [f"take {rank}, seed {one.seed}{score}" for rank, (one, score) in enumerate(zip(takes, scores, strict=True), 1)]
    mels = dict(zip(titles, (one.heard_mel for one in takes), strict=True))
    draw_sheet(takes[0].video, mels, takes[0].seconds, takes[0].clip, out)

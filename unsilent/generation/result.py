"""The result of a generation: a sound with its mel, codes and settings. Its methods write files."""

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
        video: video file that the sound was made for.
        waveform: mono in [-1, 1], exactly as long as the video.
        sample_rate: Hz.
        mel: decoded log mel, `[mels, frames]` around [-1, 1]; it has whole code columns, so it may be a little longer than the video.
        codes: sampled codes, `[rows, columns]`.
        features: features of the frames, `[features, dim]` in the order of time; None for a model without features.
        clip: the grid of mel and codes.
        request: resolved against the model's defaults.
        take: number of this sound among all sampled sounds, from 0.
        score: ranking score, see `generation.ranking`; None without ranking.
        seen: likeliest classes of the frames and their probabilities; empty for a model without sight.
        breaks: columns whose sound does not continue the column before, because a shot begins there.
        attention: attention weights of each code over the condition and earlier codes, window by window; None unless requested.
        model: name of the model.
        precision: precision of the computation, see `speed.choice.choose_precision`.
        timings: seconds of each stage. Decoding and vocoding that run concurrently with sampling count as sampling (`codes`).
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
    breaks: tuple[int, ...] = ()
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
        """Length of the sound in seconds."""
        return len(self.waveform) / self.sample_rate

    @property
    def spent_seconds(self) -> float:
        """Computing time of all stages in seconds, without loading the model and writing files."""
        return sum(self.timings.values())

    @property
    def real_time_factor(self) -> float:
        """Computing time divided by the sound's length; below 1 is faster than playback."""
        return self.spent_seconds / self.seconds

    def save_video(
        self,
        out: str | Path,
        original: Original | None = None,
        comment: str = "",
        plan: Plan | None = None,
        further: Sequence["Generation"] = (),
    ) -> Plan:
        """Write the video with this sound. Video packets are copied; if the container of `out` cannot hold them, frames are encoded.

        Args:
            out: file to write; its suffix chooses the container.
            original: the video's own sound: `drop`, `keep` (mixed in), or `duck` (mixed in, quieter); None takes the request's.
            comment: comment in the file's metadata.
            plan: result of `media.mux.plan_mux`; None makes one.
            further: takes that become additional audio tracks.

        Returns:
            The plan: how each stream of the video was written.

        Raises:
            MediaError: if the video cannot be read again, `out` cannot be written, or its container cannot hold the video.
        """
        original = self.request.original if original is None else original
        check_choice("original", original, Original)
        named = {f"take {rank}, seed {one.seed}": one.channels[0] for rank, one in enumerate(further, 2)}
        return mux(self.video, *self.channels, Path(out), original, comment, plan, named)

    @cached_property
    def channels(self) -> tuple[Float[np.ndarray, "channels samples"], int]:
        """The sound's channels at the requested sample rate, and that rate. Stereo is panned to the position of motion.

        Raises:
            MediaError: if the request is stereo and the video cannot be read again.
        """
        rate = self.request.rate or self.sample_rate
        return resample(self._panned, self.sample_rate, rate), rate

    @cached_property
    def _panned(self) -> Float[np.ndarray, "channels samples"]:
        if not self.request.stereo:
            return self.waveform[None]
        return pan(self.waveform, motion_places(self.video), PLACES_PER_SECOND, self.sample_rate)

    def save_sound(self, out: str | Path) -> None:
        """Write the sound without the video: `.wav`, `.flac` or `.opus`. WAV has the video's timecode as time reference.

        Raises:
            ParameterError: for another suffix, or bits that the format does not have.
            MediaError: if `out` cannot be written, or the video cannot be read again.
        """
        check_sound(Path(out), self.request.bits)
        write_sound(Path(out), *self.channels, self.request.bits, self._since_midnight())

    def save_stems(self, out: str | Path) -> dict[str, Path]:
        """Write one sound for each label over time. Each is as long as the whole sound, and they add up to it.

        Args:
            out: path whose stem gets the label appended.

        Returns:
            Path of each label.

        Raises:
            ParameterError: as in `save_sound`, or if the request has no labels over time.
            MediaError: as in `save_sound`.
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
        """Like `save_sound`, for `.wav` only."""
        check_suffix(Path(out), ".wav", "sound")
        self.save_sound(out)

    @property
    def heard_mel(self) -> Float[np.ndarray, "mels frames"]:
        """Mel of the final sound in [-1, 1]: `mel`, or, if cues, muting or fades changed the waveform, the mel of the waveform."""
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
    """Draw a contact sheet of all takes of a video as PNG; errors as in `Generation.save_picture`."""
    scores = ["" if one.score is None else f", score {one.score:.2f}" for one in takes]
    titles = [f"take {rank}, seed {one.seed}{score}" for rank, (one, score) in enumerate(zip(takes, scores, strict=True), 1)]
    mels = dict(zip(titles, (one.heard_mel for one in takes), strict=True))
    draw_sheet(takes[0].video, mels, takes[0].seconds, takes[0].clip, out)

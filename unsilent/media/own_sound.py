"""Mixes the video's own sound with a new one."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, Float32

from unsilent.media.audio import decode_blocks
from unsilent.media.files import audio_streams, find_audio, open_media

DUCK_DB = -12.0  # gain of the own sound where the new one is audible
BLOCK_SAMPLES = 4096
_STEP_SECONDS = 0.01  # resolution of the new sound's envelope
_AUDIBLE_DB = -20.0  # level relative to the loudest second; quieter stretches do not duck
_HOLD_SECONDS = 0.25  # ducking extends this long before and after audible stretches
_FADE_SECONDS = 0.2


class OwnSound:
    """The audio tracks of a video that players mix: those in the language of the main track.

    Args:
        video: video file.

    Attributes:
        tracks: indices of the streams; empty without decodable audio.
        sample_rate: sample rate of the main track, in Hz.
        layout: `mono` if all tracks are mono, else `stereo`.
        notes: sentences about tracks that are left out or mixed down.
    """

    def __init__(self, video: Path) -> None:
        self._video, self.notes = video, list[str]()
        with open_media(video) as container:
            known, every = audio_streams(container), container.streams.audio
            self.tracks, self.sample_rate, self.layout = list[int](), 0, "mono"
            if known:
                main = find_audio(container, video)
                chosen = [one for one in known if one is main or _is_heard_with(one, main)]
                self.tracks, self.sample_rate = [one.index for one in chosen], main.codec_context.sample_rate
                widest = max(one.codec_context.layout.nb_channels for one in chosen)
                self.layout = "stereo" if widest > 1 else "mono"
                if widest > 2:
                    self.notes.append(f"{video}: its sound of {widest} channels is mixed down to stereo.")
                if len(chosen) < len(known):
                    self.notes.append(
                        f"{video}: {len(known) - len(chosen)} of its {len(every)} audio tracks are in other languages and left out."
                    )
            if len(known) < len(every):
                self.notes.append(
                    f"{video}: {len(every) - len(known)} of its {len(every)} audio tracks have an unknown codec and are left out."
                )

    def mixed_with(
        self, new: Float[np.ndarray, "*channels samples"], sample_rate: int, duck: bool
    ) -> Iterator[Float32[np.ndarray, "channels block"]]:
        """The mix in blocks, scaled down as a whole if its peak exceeds full scale. Decodes twice, because the peak must be known first.

        Args:
            new: the new sound, one or two channels; the mix has its length.
            sample_rate: Hz of the new sound and the mix.
            duck: whether the own sound is 12 dB lower where the new one is audible.
        """
        new = np.atleast_2d(new)
        gain = _ducking(new.mean(0), sample_rate) if duck else None
        peak = max(float(np.abs(block).max()) for block in self._sum(new, sample_rate, gain))
        for block in self._sum(new, sample_rate, gain):
            yield block / np.float32(max(1.0, peak))

    def _sum(
        self, new: Float[np.ndarray, "channels samples"], sample_rate: int, gain: Float[np.ndarray, "steps"] | None
    ) -> Iterator[Float32[np.ndarray, "channels block"]]:
        readers = [_Reader(self._video, sample_rate, self.layout, track, new.shape[1]) for track in self.tracks]
        for start in range(0, new.shape[1], BLOCK_SAMPLES):
            block = new[:, start : start + BLOCK_SAMPLES].astype(np.float32)
            own = sum(reader.read(block.shape[1]) for reader in readers)
            if gain is not None:
                seconds = np.arange(start, start + block.shape[1]) / sample_rate
                own = own * np.interp(seconds, np.arange(len(gain)) * _STEP_SECONDS, gain).astype(np.float32)
            yield block + own


def _is_heard_with(one: av.AudioStream, main: av.AudioStream) -> bool:
    return one.language == main.language and not one.disposition & av.stream.Disposition.comment


class _Reader:
    """Reads a track in pieces of any length, and silence after its end."""

    def __init__(self, video: Path, sample_rate: int, layout: str, track: int, n_samples: int) -> None:
        with open_media(video) as container:
            is_mono = container.streams[track].codec_context.layout.nb_channels == 1
        self._n_channels = 2 if layout == "stereo" else 1
        self._repeats = self._n_channels if is_mono else 1  # FFmpeg would make mono 3 dB quieter
        self._blocks = decode_blocks(video, sample_rate, "mono" if is_mono else layout, track, n_samples)
        self._rest = np.zeros((self._n_channels, 0), np.float32)

    def read(self, n_samples: int) -> Float32[np.ndarray, "channels n"]:
        pieces, missing = [], n_samples
        while missing:
            if not self._rest.shape[1]:
                block = next(self._blocks, None)
                self._rest = np.zeros((self._n_channels, missing), np.float32) if block is None else block.repeat(self._repeats, axis=0)
            pieces.append(self._rest[:, :missing])
            self._rest = self._rest[:, missing:]
            missing -= pieces[-1].shape[1]
        return np.concatenate(pieces, axis=1)


def _ducking(new: Float[np.ndarray, "samples"], sample_rate: int) -> Float[np.ndarray, "steps"]:
    """Gain of the own sound for each step of 10 ms: -12 dB around audible stretches of the new sound, with fades."""
    edges = np.arange(0, len(new) / sample_rate + _STEP_SECONDS, _STEP_SECONDS) * sample_rate
    power = np.array([np.mean(np.square(new[int(a) : int(b)], dtype=np.float64)) if int(b) > int(a) else 0.0 for a, b in pairwise(edges)])
    power = np.nan_to_num(power)
    second = np.convolve(power, np.full(round(1 / _STEP_SECONDS), _STEP_SECONDS), mode="same") if len(power) > 1 / _STEP_SECONDS else power
    audible = power > second.max(initial=0) * 10 ** (_AUDIBLE_DB / 10)
    held = _widened(audible, round(_HOLD_SECONDS / _STEP_SECONDS))
    width = round(_FADE_SECONDS / _STEP_SECONDS) | 1
    share = np.convolve(np.pad(held.astype(float), width // 2, mode="edge"), np.full(width, 1 / width), mode="valid")
    return 10 ** (DUCK_DB * share / 20)


def _widened(flags: np.ndarray, reach: int) -> np.ndarray:
    return np.convolve(flags, np.ones(2 * reach + 1), mode="full")[reach : reach + len(flags)] > 0.5
